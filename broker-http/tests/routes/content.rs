//! Files that come with a request.

use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::ThreadKey;
use broker_http::{Access, Limits};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::house::{House, JSON, bearer, body, key, parse};
use crate::wire::PATIENCE;

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
async fn a_large_request_has_the_time_of_a_large_one_from_its_first_byte_on() {
    // Whatever does not say that it is large would come too late.
    let limits = Limits { body: Duration::ZERO, ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let whole = inline(&house.ours, "zeros.bin", &"A".repeat(2 * 1024 * 1024));
    let (status, answer) = house.post("/slack/post-file", &head, &whole).await;
    assert_eq!((status, &answer["state"]), (200, &json!("sent")), "{answer}");
}

#[tokio::test]
async fn whoever_still_sends_hears_what_is_wrong() {
    let house = House::closed().await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let whole = inline(&house.ours, "zeros.bin", &format!("!{}", "A".repeat(8 * 1024 * 1024)));
    let (status, answer) = house.post("/slack/post-file", &head, &whole).await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_content_base64")), "{answer}");
}
