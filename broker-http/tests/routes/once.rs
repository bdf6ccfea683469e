//! Requests that are sent twice, and clients that hang up.

use std::sync::Arc;
use std::time::Duration;

use broker_http::{Access, Limits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::house::{House, JSON, LONG, bearer, body, key, parse};
use crate::wire::PATIENCE;

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
async fn a_key_stands_for_one_request() {
    let house = House::closed().await;
    let headers = format!("{JSON}{}idempotency-key: build 7\r\n", bearer(&house.token(&house.ours).await));
    let post = async |path: &str, more: Value| house.post(path, &headers, &body(&house.ours, more)).await;
    let first = post("/slack/post-message", json!({"text": "built", "kind": "progress"})).await;
    assert_eq!(first.0, 200, "{}", first.1);
    let before = house.chat.posts(&house.ours).len();
    // The same in another order, with room between.
    let (channel, root) = (&house.ours.conversation, &house.ours.root);
    let same = format!(
        "{{ \"text\": \"built\",\n\"thread_ts\": \"{root}\", \"kind\": \"progress\", \"reason\": null, \"stop_reason\": \" \", \"channel_id\": \"{channel}\" }}"
    );
    assert_eq!(house.post("/slack/post-message", &headers, &same).await, first);
    for (path, more) in [
        ("/slack/post-message", json!({"text": "broken", "kind": "progress"})),
        ("/slack/post-message", json!({"text": "built", "kind": "final"})),
        ("/slack/post-file", json!({"filename": "built", "content_base64": "YnVpbHQ="})),
    ] {
        let (status, answer) = post(path, more.clone()).await;
        assert_eq!((status, &answer["error"]), (422, &json!("idempotency_key_reused")), "{path} {more}: {answer}");
    }
    assert_eq!(house.chat.posts(&house.ours).len(), before);
    assert_eq!(house.copies(), 0);
}

#[tokio::test]
async fn a_key_of_a_file_stands_for_what_it_holds() {
    let house = House::closed().await;
    let headers = format!("{JSON}{}idempotency-key: report\r\n", bearer(&house.token(&house.ours).await));
    let file = async |base64: &str| {
        let text = body(&house.ours, json!({"filename": "report.txt", "content_base64": base64}));
        house.post("/slack/post-file", &headers, &text).await
    };
    let first = file("YnVpbHQ=").await;
    assert_eq!((first.0, &file("YnVpbHQ").await), (200, &first), "the same bytes");
    assert_eq!(file("YnJva2Vu").await.0, 422, "others");
}

/// Asks for a post, and hangs up once it is planned.
async fn ask_and_hang_up(house: &House, head: &str, text: &str) {
    let before = house.open_parts().await;
    let text = body(&house.ours, json!({"text": text}));
    let more = format!("{head}content-length: {}\r\n\r\n{text}", text.len());
    let mut stream = house.server.connect().await;
    let request = format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\n{more}");
    stream.write_all(request.as_bytes()).await.expect("sent");
    house.planned_beyond(before).await;
}

#[tokio::test]
async fn whoever_hangs_up_keeps_its_places_until_its_work_is_done() {
    let limits = Limits { session_requests: 2, ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    house.hold_up(LONG);
    for n in 0..2 {
        ask_and_hang_up(&house, &head, &format!("abandoned {n}")).await;
    }
    // Once both are there nothing more of this session is begun, though nobody waits for them.
    let full = async { while house.mine("/slack/react", json!({"name": "eyes"})).await.0 != 429 {} };
    timeout(PATIENCE, full).await.expect("their places are taken");
    let free = async { while house.mine("/slack/react", json!({"name": "eyes"})).await.0 == 429 {} };
    assert!(timeout(Duration::from_secs(1), free).await.is_err(), "they are waited for, whoever went");
}

#[tokio::test]
async fn what_nobody_waited_for_was_done_once() {
    let house = House::closed().await;
    let head = format!("{JSON}{}idempotency-key: k\r\n", bearer(&house.token(&house.ours).await));
    house.hold_up(Duration::from_secs(1));
    ask_and_hang_up(&house, &head, "built").await;
    let again = house.post("/slack/post-message", &head, &body(&house.ours, json!({"text": "built"}))).await;
    assert_eq!((again.0, &again.1["state"]), (200, &json!("sent")), "{}", again.1);
    assert_eq!(house.chat.posts(&house.ours).iter().filter(|text| text.contains("built")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_when_the_broker_ends_hears_that_the_post_is_durable() {
    let mut house = House::closed().await;
    house.hold_up(LONG);
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let text = body(&house.ours, json!({"text": "for the next broker"}));
    let more = format!("{head}content-length: {}\r\n\r\n{text}", text.len());
    let request = format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
    let mut stream = house.server.connect().await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    house.planned_beyond(0).await;
    house.end_broker().await;
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    let (status, answer) = parse(&answer);
    assert_eq!((status, &answer["state"]), (202, &json!("queued")), "{answer}");
    assert!(answer["post_id"].is_string(), "{answer}");
}
