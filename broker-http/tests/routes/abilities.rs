//! What the agent's tools can do, by HTTP: good, bad and hostile requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::{DeliverError, ThreadKey};
use broker_core::testing::memory_chat::Fault;
use broker_http::{Access, Limits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::house::{House, JSON, bearer, key, parse};
use crate::wire::PATIENCE;

/// A body for a thread, with these fields beside the thread's.
fn body(thread: &ThreadKey, more: Value) -> String {
    let mut body = json!({"channel_id": thread.conversation, "thread_ts": thread.root});
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

impl House {
    /// A request of the session's own.
    async fn mine(&self, path: &str, more: Value) -> (u16, Value) {
        let headers = format!("{JSON}{}", bearer(&self.token(&self.ours).await));
        self.post(path, &headers, &body(&self.ours, more)).await
    }

    async fn read(&self, query: &str) -> (u16, String) {
        let token = bearer(&self.token(&self.ours).await);
        let (status, _, body) = self.server.ask("GET", &format!("/slack/{query}"), "localhost", &token).await;
        (status, body)
    }

    fn place(&self) -> String {
        format!("channel_id={}&thread_ts={}", self.ours.conversation, self.ours.root)
    }
}

#[tokio::test]
async fn a_message_is_posted_into_its_own_thread() {
    let house = House::closed().await;
    let (status, answer) = house.mine("/slack/post-message", json!({"text": "**done**"})).await;
    assert_eq!((status, &answer["ok"], &answer["state"]), (200, &json!(true), &json!("sent")), "{answer}");
    assert_eq!(answer["messages"].as_array().map(Vec::len), Some(1), "{answer}");
    let posts = house.chat.posts(&house.ours);
    assert!(posts.last().is_some_and(|text| text.contains("done")), "{posts:?}");
    let id = answer["post_id"].as_str().expect("an id").to_owned();
    let (status, told) = house.read(&format!("posts/{id}")).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((status, &told["state"], &told["arrived"]), (200, &json!("sent"), &json!(1)), "{told}");
    assert_eq!(told["parts"][0]["ts"], answer["messages"][0]);

    let theirs = bearer(&house.token(&house.theirs).await);
    for path in [format!("/slack/posts/{id}"), "/slack/posts/unknown".to_owned()] {
        let (status, _, body) = house.server.ask("GET", &path, "localhost", &theirs).await;
        assert!(status == 403 && body.contains("forbidden"), "{path}: {body}");
    }
}

#[tokio::test]
async fn another_thread_is_out_of_reach_of_every_ability() {
    let house = House::closed().await;
    let before = house.chat.posts(&house.theirs).len();
    let token = bearer(&house.token(&house.ours).await);
    for (path, more) in [
        ("/slack/post-message", json!({"text": "hello"})),
        ("/slack/post-file", json!({"file_path": "report.txt"})),
        ("/slack/post-state", json!({"kind": "final"})),
        ("/slack/react", json!({"name": "eyes"})),
    ] {
        let headers = format!("{JSON}{token}");
        for thread in [&house.theirs, &ThreadKey { root: house.theirs.root.clone(), ..house.ours.clone() }] {
            let (status, answer) = house.post(path, &headers, &body(thread, more.clone())).await;
            assert_eq!((status, &answer["error"]), (403, &json!("forbidden")), "{path}");
        }
        let (status, answer) = house.post(path, JSON, &body(&house.ours, more)).await;
        assert_eq!((status, &answer["error"]), (401, &json!("token_missing")), "{path}");
    }
    let theirs = format!("thread-history?channel_id={}&thread_ts={}", house.theirs.conversation, house.theirs.root);
    assert_eq!(house.read(&theirs).await.0, 403);
    assert_eq!(house.chat.posts(&house.theirs).len(), before);
    assert!(house.chat.reactions(&house.theirs).is_empty());
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named_by_the_codes_that_clients_know() {
    let house = House::closed().await;
    let token = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let needed = json!(["channel_id", "thread_ts", "text"]);
    let (status, answer) = house.post("/slack/post-message", &token, "{}").await;
    assert_eq!((status, &answer["error"], &answer["required"]), (400, &json!("missing_required_body"), &needed));
    for (path, more, code) in [
        ("/slack/post-message", json!({"text": "  "}), "missing_required_body"),
        ("/slack/post-message", json!({"text": 7}), "invalid_text"),
        ("/slack/post-message", json!({"text": "x", "kind": "shout"}), "invalid_kind"),
        ("/slack/post-message", json!({"text": "x", "kind": "block"}), "missing_reason"),
        ("/slack/post-message", json!({"text": "x", "channel": "C2"}), "unknown_argument"),
        ("/slack/post-message", json!({"text": "x".repeat(100_001)}), "too_long"),
        ("/slack/post-message", json!({"text": "<!-- nothing -->"}), "empty"),
        ("/slack/post-message", json!({"text": "x", "channel_id": "C1/../C2"}), "invalid_channel_id"),
        ("/slack/post-message", json!({"text": "x", "thread_ts": "1.1:2"}), "invalid_thread_ts"),
        ("/slack/post-file", json!({}), "missing_required_body"),
        ("/slack/post-file", json!({"file_path": "x", "kind": "wait"}), "invalid_kind"),
        ("/slack/post-file", json!({"file_path": "missing.txt"}), "not_found"),
        ("/slack/post-file", json!({"file_path": "/etc/passwd"}), "not_allowed"),
        ("/slack/post-state", json!({}), "missing_required_body"),
        ("/slack/post-state", json!({"kind": "progress"}), "invalid_kind"),
        ("/slack/post-state", json!({"kind": "wait"}), "missing_reason"),
        ("/slack/react", json!({"name": "a b"}), "invalid_name"),
        ("/slack/react", json!({"name": "eyes", "remove": "perhaps"}), "invalid_remove"),
    ] {
        let (status, answer) = house.mine(path, more.clone()).await;
        assert_eq!((status, &answer["error"]), (400, &json!(code)), "{path} {more}: {answer}");
    }
    let (_, answer) = house.mine("/slack/post-state", json!({"kind": "shout"})).await;
    assert_eq!(answer["allowed"], json!(["final", "block", "wait"]));
    for (path, more, code) in [
        ("/slack/post-message", json!({"text": "x", "kind": "wait", "stop_reason": "a job"}), "no_job"),
        ("/slack/post-state", json!({"kind": "final"}), "no_turn"),
    ] {
        let (status, answer) = house.mine(path, more).await;
        assert_eq!((status, &answer["error"]), (409, &json!(code)), "{path}: {answer}");
    }
    let place = house.place();
    for (query, code) in [
        ("thread-history".to_owned(), "missing_required_query"),
        (format!("thread-history?{place}&limit=many"), "invalid_limit"),
        (format!("thread-history?{place}&limit=0"), "invalid_limit"),
        (format!("thread-history?{place}&format=xml"), "invalid_format"),
        (format!("thread-history?{place}&before_ts=yesterday"), "invalid_before_ts"),
        (format!("thread-history?{place}&limit=1&limit=2"), "repeated_query"),
        (format!("thread-history?{place}&more=1"), "unknown_argument"),
    ] {
        let (status, answer) = house.read(&query).await;
        assert!(status == 400 && answer.contains(code), "{query}: {answer}");
    }
}

#[tokio::test]
async fn the_history_is_the_latest_before_the_bound_oldest_first() {
    let house = House::closed().await;
    for n in 1..=60 {
        house.chat.seed_reply(&house.ours, "U-ada", &format!("reply {n}"));
    }
    let place = house.place();
    let (status, answer) = house.read(&format!("thread-history?{place}&limit=3")).await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let texts = |answer: &Value| -> Vec<String> {
        let messages = answer["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["text"].as_str().expect("a text").to_owned()).collect()
    };
    assert_eq!((status, texts(&answer)), (200, ["reply 58", "reply 59", "reply 60"].map(str::to_owned).to_vec()));
    assert_eq!((&answer["hasMore"], &answer["returnedCount"]), (&json!(true), &json!(3)));
    assert_eq!(
        (&answer["messages"][0]["senderKind"], &answer["messages"][0]["userId"]),
        (&json!("user"), &json!("U-ada"))
    );
    let bound = answer["messages"][0]["messageTs"].as_str().expect("a ts");
    let (_, earlier) = house.read(&format!("thread-history?{place}&limit=2&before_ts={bound}")).await;
    let earlier: Value = serde_json::from_str(&earlier).expect("JSON");
    assert_eq!(texts(&earlier), ["reply 56", "reply 57"]);
    let (_, most) = house.read(&format!("thread-history?{place}&limit=999999999")).await;
    let most: Value = serde_json::from_str(&most).expect("JSON");
    assert_eq!((&most["returnedCount"], &most["maxLimit"]), (&json!(50), &json!(50)));
    let (status, text) = house.read(&format!("thread-history?{place}&limit=1&format=text&channel_type=channel")).await;
    assert!(status == 200 && text.starts_with("Messages of this thread") && text.contains("reply 60"), "{text}");
}

#[tokio::test]
async fn a_request_that_is_sent_twice_posts_once() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    let headers = format!("{JSON}{token}idempotency-key: build 7\r\n");
    let text = body(&house.ours, json!({"text": "built"}));
    let (first, again) = tokio::join!(
        house.post("/slack/post-message", &headers, &text),
        house.post("/slack/post-message", &headers, &text)
    );
    assert_eq!((first.0, &first.1), (200, &again.1));
    let posts = house.chat.posts(&house.ours);
    assert_eq!(posts.iter().filter(|text| text.contains("built")).count(), 1, "{posts:?}");
    // Under another name, or in another thread, it is another post.
    let other = format!("{JSON}{token}idempotency-key: build 8\r\n");
    let second = house.post("/slack/post-message", &other, &text).await;
    assert_ne!(second.1["post_id"], first.1["post_id"]);
    let theirs = format!("{JSON}{}idempotency-key: build 7\r\n", bearer(&house.token(&house.theirs).await));
    let third = house.post("/slack/post-message", &theirs, &body(&house.theirs, json!({"text": "built"}))).await;
    assert!(third.0 == 200 && third.1["post_id"] != first.1["post_id"], "{}", third.1);
    for wrong in ["idempotency-key: \r\n".to_owned(), format!("idempotency-key: {}\r\n", "k".repeat(256))] {
        let (status, answer) = house.post("/slack/post-message", &format!("{JSON}{token}{wrong}"), &text).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_idempotency_key")));
    }
}

#[tokio::test]
async fn a_file_of_the_session_is_posted_once_under_one_name() {
    let house = House::closed().await;
    let report = house.repos().join("report.txt");
    std::fs::create_dir_all(house.repos()).expect("a folder");
    std::fs::write(&report, "all is well").expect("a file");
    let headers = format!("{JSON}{}idempotency-key: report\r\n", bearer(&house.token(&house.ours).await));
    let text = body(&house.ours, json!({"file_path": report, "initial_comment": "the report"}));
    let (first, again) =
        tokio::join!(house.post("/slack/post-file", &headers, &text), house.post("/slack/post-file", &headers, &text));
    assert_eq!((first.0, &first.1["state"], &first.1), (200, &json!("sent"), &again.1), "{}", again.1);
    let posts = house.chat.posts(&house.ours);
    assert_eq!(posts.iter().filter(|text| text.contains("the report")).count(), 1, "{posts:?}");
    // It is not looked for again.
    std::fs::remove_file(&report).expect("it was there");
    assert_eq!(house.post("/slack/post-file", &headers, &text).await, first);
}

/// A request for a file with this content in base64.
fn inline(thread: &ThreadKey, name: &str, base64: &str) -> String {
    body(thread, json!({"filename": name, "content_base64": base64, "text": "made by a script"}))
}

#[tokio::test]
async fn a_file_that_comes_with_the_request_is_posted() {
    let house = House::closed().await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    // Plain, without padding, in lines as `base64` writes them, in the alphabet of URLs, escaped as PHP does.
    let forms = ["PDw/Pz8+Pgo=", "PDw/Pz8+Pgo", "PDw/Pz8+\\nPgo=\\n", "PDw_Pz8-Pgo=", "PDw\\/Pz8\\u002bPgo="];
    for (n, base64) in forms.into_iter().enumerate() {
        let more = body(&house.ours, json!({"filename": "notes.txt", "text": "made by a script"}));
        let whole = format!("{{\"content_base64\":\"{base64}\",{}", &more[1..]);
        let (status, answer) = house.post("/slack/post-file", &head, &whole).await;
        assert_eq!((status, &answer["state"]), (200, &json!("sent")), "{base64}: {answer}");
        let file = &answer["file"];
        assert_eq!((&file["name"], &file["size"]), (&json!("notes.txt"), &json!(8)), "{base64}: {answer}");
        assert!(file["fileId"].is_string(), "{answer}");
        let posts = house.chat.posts(&house.ours);
        assert_eq!(posts.iter().filter(|text| text.contains("made by a script")).count(), n + 1, "{posts:?}");
        let id = answer["post_id"].as_str().expect("an id");
        let (_, told) = house.read(&format!("posts/{id}")).await;
        assert!(told.contains("notes.txt"), "{told}");
    }
    assert_eq!(house.copies(), 0);
}

#[tokio::test]
async fn a_file_that_comes_with_the_request_is_not_posted_otherwise() {
    let house = House::closed().await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let before = house.chat.posts(&house.ours).len();
    let sources = json!(["channel_id", "thread_ts", "file_path|content_base64"]);
    for (more, status, code) in [
        (json!({"filename": "a"}), 400, "missing_required_body"),
        (json!({"content_base64": "YQ=="}), 400, "missing_required_body"),
        (json!({"content_base64": null, "filename": "a"}), 400, "missing_required_body"),
        (json!({"content_base64": "YQ==", "filename": "a", "file_path": "b"}), 400, "provide_exactly_one_file_source"),
        (json!({"content_base64": "", "filename": "a"}), 400, "empty"),
        (json!({"content_base64": "Y", "filename": "a"}), 400, "invalid_content_base64"),
        (json!({"content_base64": "YQ==YQ==", "filename": "a"}), 400, "invalid_content_base64"),
        (json!({"content_base64": "not at all!", "filename": "a"}), 400, "invalid_content_base64"),
        (json!({"content_base64": 7, "filename": "a"}), 400, "invalid_content_base64"),
        (json!({"content_base64": ["YQ=="], "filename": "a"}), 400, "invalid_content_base64"),
        (json!({"content_base64": "YQ==", "filename": "../a"}), 400, "invalid_filename"),
        (json!({"content_base64": "YQ==", "filename": "a\nb"}), 400, "invalid_filename"),
        (json!({"content_base64": "YQ==", "filename": ".env"}), 400, "secret"),
        (json!({"content_base64": "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t", "filename": "a"}), 400, "secret"),
        (json!({"content_base64": "YQ==", "filename": "a", "content_type": "text"}), 400, "invalid_content_type"),
        (json!({"content_base64": "YQ==", "filename": "a", "content_type": "text/x\ny"}), 400, "invalid_content_type"),
        (json!({"content_base64": "YQ==", "filename": "a", "channel_id": "C2"}), 403, "forbidden"),
        (json!({"content_base64": "YQ==", "filename": "a", "more": 1}), 400, "unknown_argument"),
    ] {
        let (found, answer) = house.mine("/slack/post-file", more.clone()).await;
        assert_eq!((found, &answer["error"]), (status, &json!(code)), "{more}: {answer}");
        if more == json!({"filename": "a"}) {
            assert_eq!(answer["required"], sources);
        }
    }
    for broken in [
        "{\"content_base64\":\"YQ==\",\"content_base64\":\"YQ==\"}",
        "{\"content_base64\":\"YQ==\"",
        "{\"content_base64\":\"YQ",
        "{\"content_base64\":\"YQ==\"}}",
        "[{\"content_base64\":\"YQ==\"}]",
        "\"content_base64\"",
        "nonsense",
    ] {
        let (found, answer) = house.post("/slack/post-file", &head, broken).await;
        assert_eq!(found, 400, "{broken}: {answer}");
    }
    assert_eq!(house.chat.posts(&house.ours).len(), before);
    assert_eq!(house.copies(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_large_file_within_the_request_is_bounded() {
    let limits = Limits { file_body_bytes: 4 * 1024 * 1024, body: Duration::from_secs(20), ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let three = "A".repeat(3 * 1024 * 1024);
    let (status, answer) = house.post("/slack/post-file", &head, &inline(&house.ours, "zeros.bin", &three)).await;
    assert_eq!((status, &answer["file"]["size"]), (200, &json!(3 * 1024 * 1024 / 4 * 3)), "{answer}");
    let five = inline(&house.ours, "zeros.bin", &"A".repeat(5 * 1024 * 1024));
    // What else stands in the request has the bound of any other.
    let noise = body(&house.ours, json!({"filename": "a", "content_base64": "YQ==", "title": "x".repeat(2 << 20)}));
    for large in [&five, &noise] {
        let (status, answer) = house.post("/slack/post-file", &head, large).await;
        assert_eq!((status, &answer["error"]), (413, &json!("body_too_large")));
        // The same in chunks, where nobody says beforehand how large it is.
        let mut stream = house.server.connect().await;
        let start = format!(
            "POST /slack/post-file HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}transfer-encoding: \
             chunked\r\n\r\n{:x}\r\n",
            large.len()
        );
        let (mut read, mut write) = stream.split();
        let send = async {
            // The server may hang up before everything is sent.
            let _ = write.write_all(start.as_bytes()).await;
            let _ = write.write_all(large.as_bytes()).await;
            let _ = write.write_all(b"\r\n0\r\n\r\n").await;
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(send, timeout(PATIENCE, read.read_to_end(&mut answer)));
        // A reset may overtake the answer; what counts is that nothing was posted.
        let _ = read.expect("in time");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains("body_too_large"), "{answer}");
    }
    assert_eq!(house.chat.posts(&house.ours).iter().filter(|text| text.contains("made by a script")).count(), 1);
    assert_eq!(house.copies(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_file_that_breaks_off_or_comes_too_slowly_is_not_posted() {
    let limits = Limits { file_body: Duration::from_millis(500), file_bodies: 1, ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let whole = inline(&house.ours, "zeros.bin", &"A".repeat(3 * 1024 * 1024));
    let start = format!(
        "POST /slack/post-file HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {}\r\n\r\n{}",
        whole.len(),
        &whole[..2 * 1024 * 1024]
    );
    let mut slow = house.server.connect().await;
    slow.write_all(start.as_bytes()).await.expect("sent");
    // The one place for large bodies is taken, and small ones need none.
    let small = house.mine("/slack/post-file", json!({"content_base64": "YQ==", "filename": "a"})).await;
    assert_eq!(small.0, 200, "{}", small.1);
    let mut answer = String::new();
    timeout(PATIENCE, slow.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!((parse(&answer).0, &parse(&answer).1["error"]), (408, &json!("body_too_slow")));
    let mut gone = house.server.connect().await;
    gone.write_all(start.as_bytes()).await.expect("sent");
    drop(gone);
    let cleaned = timeout(PATIENCE, async {
        while house.copies() > 0 {
            tokio::task::yield_now().await;
        }
    });
    cleaned.await.expect("nothing is left behind");
    assert_eq!(house.chat.posts(&house.ours).iter().filter(|text| text.contains("made by a script")).count(), 0);
}

#[tokio::test]
async fn one_session_keeps_no_other_out() {
    let limits = Limits { requests: 8, session_requests: 4, ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let theirs = format!("{JSON}{}", bearer(&house.token(&house.theirs).await));
    let mut slow = Vec::new();
    for n in 0..40 {
        let mut stream = house.server.connect().await;
        // Whoever has no token is turned away before a byte of the body is waited for.
        let token = if n < 20 { format!("{JSON}{}", bearer("x")) } else { head.clone() };
        let start =
            format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\n{token}content-length: 100\r\n\r\n{{");
        stream.write_all(start.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    let full = async {
        loop {
            let (status, answer) = house.mine("/slack/post-message", json!({"text": "one more"})).await;
            if status != 200 {
                break (status, answer);
            }
        }
    };
    let (status, answer) = timeout(PATIENCE, full).await.expect("in time");
    assert_eq!((status, &answer["error"]), (429, &json!("too_many_requests")));
    let text = body(&house.theirs, json!({"text": "ours"}));
    let (status, answer) = house.post("/slack/post-message", &theirs, &text).await;
    assert_eq!(status, 200, "{answer}");
    drop(slow);
    let free = async { while house.mine("/slack/post-message", json!({"text": "at last"})).await.0 != 200 {} };
    timeout(PATIENCE, free).await.expect("what was held is given back");
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_invitation_to_ask_again() {
    let limits = Limits { request: Duration::from_millis(200), ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    house.chat.fail_next(Fault::Fail(DeliverError::Temporary {
        reason: "ratelimited".to_owned(),
        retry_after: Some(Duration::from_secs(60)),
    }));
    let (status, answer) = house.mine("/slack/post-message", json!({"text": "perhaps"})).await;
    assert_eq!((status, &answer["error"]), (500, &json!("outcome_unknown")), "{answer}");
}

#[tokio::test]
async fn a_post_that_the_platform_refuses_is_told() {
    let house = House::closed().await;
    house.chat.fail_next(Fault::Fail(DeliverError::Refused { code: "is_archived".to_owned() }));
    let (status, answer) = house.mine("/slack/post-message", json!({"text": "hello"})).await;
    assert_eq!(
        (status, &answer["error"], &answer["code"]),
        (502, &json!("not_delivered"), &json!("is_archived")),
        "{answer}"
    );
    assert_eq!((&answer["arrived"], &answer["of"]), (&json!(0), &json!(1)));
    let (_, told) = house.read(&format!("posts/{}", answer["post_id"].as_str().expect("an id"))).await;
    assert!(told.contains("\"refused\""), "{told}");
}

#[tokio::test]
async fn a_reaction_is_put_and_taken_away() {
    let house = House::closed().await;
    assert_eq!(house.mine("/slack/react", json!({"name": ":tada:"})).await, (200, json!({"ok": true})));
    assert_eq!(house.chat.reactions(&house.ours), ["tada"]);
    assert_eq!(house.mine("/slack/react", json!({"name": "tada", "remove": true})).await.0, 200);
    assert!(house.chat.reactions(&house.ours).is_empty());
}

#[tokio::test]
async fn thirty_two_clients_post_at_once_and_none_is_lost() {
    let house = House::closed().await;
    let posts = (0..32).map(|n| {
        let house = &house;
        async move { house.mine("/slack/post-message", json!({"text": format!("client {n} says")})).await }
    });
    for (status, answer) in futures_util::future::join_all(posts).await {
        assert_eq!((status, &answer["state"]), (200, &json!("sent")), "{answer}");
    }
    let posts = house.chat.posts(&house.ours);
    for n in 0..32 {
        assert_eq!(posts.iter().filter(|text| text.contains(&format!("client {n} says"))).count(), 1, "{n}");
    }
}

#[tokio::test]
async fn a_thousand_half_open_connections_keep_nobody_out() {
    let house = House::closed().await;
    let mut half_open = Vec::new();
    for n in 0..1000 {
        let stream = timeout(PATIENCE, tokio::net::TcpStream::connect(house.server.address)).await.expect("in time");
        let mut stream = stream.expect("a connection");
        if n % 2 == 0 {
            // It may have been let go already.
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"POST /slack/post-message HTTP/1.1\r\nhost: ").await;
        }
        half_open.push(stream);
    }
    let posted =
        timeout(Duration::from_secs(5), house.mine("/slack/post-message", json!({"text": "still here"}))).await;
    assert_eq!(posted.expect("long before their limits").0, 200);
    drop(half_open);
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    let head = format!("{JSON}{token}");
    let large = " ".repeat(100 * 1024 * 1024);
    let answer = timeout(PATIENCE, house.post("/slack/post-message", &head, &large)).await.expect("in time");
    assert_eq!((answer.0, &answer.1["error"]), (413, &json!("body_too_large")));
    assert_eq!(house.mine("/slack/post-message", json!({"text": "still here"})).await.0, 200);
}

#[tokio::test]
async fn every_route_has_its_schema_and_its_documentation() {
    let house = House::closed().await;
    let (status, _, document) = house.server.ask("GET", "/openapi.json", "localhost", "").await;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let text = include_str!("../../../docs/http-api.md");
    let documented: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).map(str::to_owned).collect();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let method = method.to_uppercase();
            described.insert(format!("{method} {path}"));
            let chapter = text.split(&format!("### `{method} {path}`\n")).nth(1).unwrap_or_default();
            let chapter = chapter.split("\n### ").next().unwrap_or_default();
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
            let queries = operation["parameters"].as_array().into_iter().flatten();
            let queries =
                queries.filter(|query| query["in"] == "query").map(|query| query["name"].as_str().expect("a name"));
            for name in fields.chain(queries.map(str::to_owned)) {
                assert!(chapter.contains(&format!("`{name}`")), "{method} {path} lacks `{name}` in docs/http-api.md");
            }
            // It is served: whatever it answers, it is not that there is nothing.
            let path = path.replace("{key}", "C1:1.1").replace("{id}", "x");
            let headers = if method == "POST" { "content-length: 0\r\n" } else { "" };
            let (status, _, body) = house.server.ask(&method, &path, "localhost", headers).await;
            assert!(status != 404 && status != 405, "{method} {path}: {body}");
        }
    }
    assert_eq!(described, documented, "routes that are served, and chapters of docs/http-api.md");
}

/// Something of another type than a schema wants.
fn wrong(schema: &Value) -> Value {
    if schema["type"] == "string" { json!(7) } else { json!("neither number nor flag") }
}

#[tokio::test]
async fn the_schemas_say_what_is_taken() {
    let house = House::closed().await;
    let (_, _, document) = house.server.ask("GET", "/openapi.json", "localhost", "").await;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let mut fields = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let schema = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
        let Some(properties) = schema["properties"].as_object() else { continue };
        for (name, field) in properties {
            fields += 1;
            // A word that is not one of the few, a text that is too long, and what is no text at all.
            let mut bad = vec![wrong(field)];
            if field["enum"].is_array() {
                bad.push(json!("none of these"));
            }
            if let Some(most) = field["maxLength"].as_u64() {
                bad.push(json!("x".repeat(most as usize + 1)));
            }
            for value in bad {
                // An alias counts where the name itself is not given.
                let (status, answer) = house.mine(path, json!({name: value})).await;
                assert_eq!(status, 400, "{path} {name}: {answer}");
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.map(|name| name.as_str().expect("a name")) {
            let (channel, root) = (&house.ours.conversation, &house.ours.root);
            let mut without =
                json!({"channel_id": channel, "thread_ts": root, "text": "x", "kind": "final", "name": "x"});
            without
                .as_object_mut()
                .expect("an object")
                .retain(|given, _| properties.contains_key(given) && given != name);
            let (status, answer) = house.post(path, &head, &without.to_string()).await;
            assert_eq!((status, &answer["error"]), (400, &json!("missing_required_body")), "{path} without {name}");
            assert!(answer["required"].as_array().is_some_and(|all| all.contains(&json!(name))), "{answer}");
        }
        for condition in
            schema["allOf"].as_array().into_iter().flatten().filter(|condition| condition["if"].is_object())
        {
            for kind in condition["if"]["properties"]["kind"]["enum"].as_array().expect("kinds") {
                let (_, answer) = house.mine(path, json!({"text": "x", "file_path": "x", "kind": kind})).await;
                let possible = [json!("missing_reason"), json!("unknown_argument"), json!("invalid_kind")];
                assert!(possible.contains(&answer["error"]), "{path} {kind}: {answer}");
            }
        }
    }
    assert!(fields > 20, "{fields} fields were looked at");
    // Of another thread nobody is told what else is wrong.
    let nothing = json!({"channel_id": house.theirs.conversation, "thread_ts": house.theirs.root, "nobody": "knows"});
    for path in ["post-message", "post-file", "post-state", "react"] {
        let (status, answer) = house.post(&format!("/slack/{path}"), &head, &nothing.to_string()).await;
        assert_eq!((status, &answer["error"]), (403, &json!("forbidden")), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_waits_hears_that_its_post_is_queued() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    // Slack wants us to wait for longer than a client does.
    house.chat.fail_next(Fault::Fail(DeliverError::Temporary {
        reason: "ratelimited".to_owned(),
        retry_after: Some(Duration::from_secs(60)),
    }));
    let text = body(&house.ours, json!({"text": "later"}));
    let more = format!("{JSON}{token}content-length: {}\r\n\r\n{text}", text.len());
    let request = format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
    let mut stream = house.server.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE * 2, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    let (status, answer) = parse(&answer);
    assert_eq!((status, &answer["state"]), (202, &json!("queued")), "{answer}");
    let (_, told) = house.read(&format!("posts/{}", answer["post_id"].as_str().expect("an id"))).await;
    assert!(told.contains("\"queued\""), "{told}");
}
