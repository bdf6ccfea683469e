//! What the agent's tools can do, by HTTP: good, bad and hostile requests.

use std::collections::BTreeSet;
use std::time::Duration;

use broker_core::chat::{DeliverError, ThreadKey};
use broker_core::testing::memory_chat::Fault;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::house::{House, JSON, bearer, parse};
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
            assert!(path == "/metrics" || (status != 404 && status != 405), "{method} {path}: {body}");
        }
    }
    assert_eq!(described, documented, "routes that are served, and chapters of docs/http-api.md");
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
