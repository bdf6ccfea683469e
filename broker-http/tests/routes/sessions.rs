//! Retry and revocation: who may, and what a request has to be.

use std::sync::Arc;
use std::time::Duration;

use broker_http::{Access, Api, Limits};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

use super::house::{House, JSON, LONG, bearer, body, key, parse};
use crate::wire::{PATIENCE, Server};

#[tokio::test]
async fn a_token_opens_its_own_session_alone() {
    let house = House::closed().await;
    let (ours, theirs) = (house.token(&house.ours).await, house.token(&house.theirs).await);
    let unknown = format!("/sessions/{}:1.000001/retry", house.ours.conversation);
    let other_installation = format!("/sessions/T-other%2F{}/retry", house.ours.short());
    let good = house.post(&House::retry(&house.ours), &format!("{JSON}{}", bearer(&ours)), "{}").await;
    assert_eq!(good, (200, json!({"ok": true})));
    let whole = format!("/sessions/{}/retry", house.ours.to_string().replace('/', "%2F"));
    let none = house.post(&whole, &format!("{JSON}{}", bearer(&ours)), "").await;
    assert_eq!(none.0, 200, "{}", none.1);

    let mine = House::retry(&house.ours);
    for (what, path, headers, status, code) in [
        ("no token", &mine, JSON.to_owned(), 401, "token_missing"),
        ("another scheme", &mine, format!("{JSON}authorization: Basic {ours}\r\n"), 401, "token_missing"),
        ("two tokens", &mine, format!("{JSON}{}{}", bearer(&ours), bearer(&theirs)), 401, "token_missing"),
        ("an empty token", &mine, format!("{JSON}authorization: Bearer \r\n"), 401, "token_missing"),
        ("another session's", &mine, format!("{JSON}{}", bearer(&theirs)), 403, "forbidden"),
        ("nonsense", &mine, format!("{JSON}{}", bearer("bst_zz")), 403, "forbidden"),
        ("no such session", &unknown, format!("{JSON}{}", bearer(&ours)), 403, "forbidden"),
        ("another installation", &other_installation, format!("{JSON}{}", bearer(&ours)), 403, "forbidden"),
        ("no key", &"/sessions/x/retry".to_owned(), format!("{JSON}{}", bearer(&ours)), 403, "forbidden"),
        ("no text", &"/sessions/%ff/retry".to_owned(), format!("{JSON}{}", bearer(&ours)), 404, "not_found"),
    ] {
        let (found, body) = house.post(path, &headers, "{}").await;
        assert_eq!((found, &body["error"], &body["ok"]), (status, &json!(code), &json!(false)), "{what}: {body}");
        assert!(!body.to_string().contains("bst_"), "{what}: {body}");
    }
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_and_the_next_one_does() {
    let house = House::closed().await;
    let old = house.token(&house.ours).await;
    let revoke = format!("/sessions/{}/revoke-token", house.ours.short());
    assert_eq!(house.post(&revoke, &format!("{JSON}{}", bearer(&old)), "{}").await.0, 200);
    for path in [&revoke, &House::retry(&house.ours)] {
        assert_eq!(house.post(path, &format!("{JSON}{}", bearer(&old)), "{}").await.0, 403, "{path}");
    }
    let new = house.token(&house.ours).await;
    assert_ne!(new, old);
    assert_eq!(house.post(&House::retry(&house.ours), &format!("{JSON}{}", bearer(&new)), "{}").await.0, 200);
    let theirs = house.token(&house.theirs).await;
    assert_eq!(house.post(&House::retry(&house.theirs), &format!("{JSON}{}", bearer(&theirs)), "{}").await.0, 200);
}

#[tokio::test]
async fn only_json_that_says_so_is_taken() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    let path = House::retry(&house.ours);
    for (kind, status) in [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json-patch+json", 415),
        ("text/plain; application/json", 415),
    ] {
        let (found, body) = house.post(&path, &format!("content-type: {kind}\r\n{token}"), "{}").await;
        assert_eq!(found, status, "{kind}: {body}");
    }
    assert_eq!(house.post(&path, &token, "{}").await.0, 415, "no type at all");
    assert_eq!(house.post(&path, &format!("{JSON}content-type: text/plain\r\n{token}"), "{}").await.0, 415, "two");
    for (body, code) in
        [("{", "invalid_json"), ("[]", "invalid_json"), ("null", "invalid_json"), ("\"x\"", "invalid_json")]
    {
        let (found, answer) = house.post(&path, &format!("{JSON}{token}"), body).await;
        assert_eq!((found, &answer["error"]), (400, &json!(code)), "{body}");
    }
    let deep = "[".repeat(200_000);
    assert_eq!(house.post(&path, &format!("{JSON}{token}"), &deep).await.0, 400);
    let (found, answer) = house.post(&path, &format!("{JSON}{token}"), "{\"channel_id\":\"C2\"}").await;
    assert_eq!((found, &answer["error"]), (400, &json!("unknown_argument")), "what has no effect is not taken");
}

#[tokio::test]
async fn nothing_changes_by_another_method_and_a_web_page_reaches_nothing() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    let path = House::retry(&house.ours);
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let (status, head, _) = house.server.ask(method, &path, "localhost", &token).await;
        assert_eq!(status, 405, "{method}: {head}");
        assert!(head.contains("allow: post"), "{method}: {head}");
    }
    for more in ["origin: http://localhost:3000\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
        assert_eq!(house.post(&path, &format!("{JSON}{token}{more}"), "{}").await.1["error"], "origin_not_allowed");
    }
    let (status, _, body) = house.server.ask("POST", &path, "rebound.example", &format!("{JSON}{token}")).await;
    assert!(status == 403 && body.contains("host_not_allowed"), "{body}");
    for path in ["/sessions", "/sessions/", "/sessions/x", "/sessions/a/b/retry", "/sessions/../../retry", "/slack/foo"]
    {
        let (status, body) = house.post(path, &format!("{JSON}{token}"), "{}").await;
        assert_eq!((status, &body["error"]), (404, &json!("not_found")), "{path}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_slow_is_refused() {
    let limits = Limits { body: Duration::from_millis(300), ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let token = bearer(&house.token(&house.ours).await);
    let path = House::retry(&house.ours);
    let (status, body) = house.post(&path, &format!("{JSON}{token}"), &" ".repeat(1024 * 1024 + 1)).await;
    assert_eq!((status, &body["error"]), (413, &json!("body_too_large")));
    // Without a length, in chunks.
    let mut stream = house.server.connect().await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{JSON}{token}transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..17 {
        stream.write_all(chunk.as_bytes()).await.expect("sent");
    }
    stream.write_all(b"0\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(parse(&answer).1["error"], "body_too_large");

    let mut stream = house.server.connect().await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{JSON}{token}content-length: 10\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(parse(&answer), (408, parse(&answer).1));
    assert_eq!(parse(&answer).1["error"], "body_too_slow");
}

#[tokio::test]
async fn slow_clients_take_all_the_room_and_whoever_watches_is_answered_all_the_same() {
    let limits = Limits { requests: 2, ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let token = bearer(&house.token(&house.ours).await);
    let path = House::retry(&house.ours);
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = house.server.connect().await;
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{JSON}{token}content-length: 10\r\n\r\n{{");
        stream.write_all(head.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    let busy = async {
        loop {
            let (status, body) = house.post(&path, &format!("{JSON}{token}"), "{}").await;
            if status == 503 {
                break body;
            }
        }
    };
    let body = timeout(PATIENCE, busy).await.expect("they are inside");
    assert_eq!(body["error"], "busy");
    for watched in ["/healthz", "/readyz"] {
        assert_eq!(house.server.get(watched).await.0, 200, "{watched}");
    }
}

#[tokio::test]
async fn without_tokens_every_session_is_open_and_the_other_fences_stand() {
    let house = House::new(Access::Open, Limits::default()).await;
    for thread in [&house.ours, &house.theirs] {
        assert_eq!(house.post(&House::retry(thread), JSON, "{}").await.0, 200);
    }
    let (status, body) = house.post("/sessions/C9:1.1/retry", JSON, "{}").await;
    assert_eq!((status, &body["error"]), (404, &json!("session_not_found")));
    assert_eq!(house.post(&House::retry(&house.ours), "", "{}").await.0, 415);
    assert_eq!(house.post(&House::retry(&house.ours), &format!("{JSON}origin: null\r\n"), "{}").await.0, 403);
}

#[tokio::test]
async fn before_the_broker_is_connected_there_is_nothing_to_open() {
    let (_door, opened) = watch::channel(None);
    let api = Api::new("1.2.3", "127.0.0.1").sessions(opened, Access::Tokens(Arc::new(key())));
    let server = Server::start(api).await;
    let more = format!("{JSON}{}content-length: 2\r\n\r\n{{}}", bearer("bst_x"));
    let request = format!("POST /sessions/C1:1.1/retry HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
    assert_eq!(parse(&server.raw(&request).await).1["error"], "starting");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_read_no_answer_keep_nobody_out_and_no_server_up() {
    let limits = Limits { connections: 4, connection: Duration::from_millis(100), ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = house.server.connect().await;
        let many = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(3_000);
        // Until nothing more is taken, since no answer is read.
        let _ = timeout(Duration::from_millis(300), stream.write_all(many.as_bytes())).await;
        held.push(stream);
    }
    let (status, ..) = house.server.get("/healthz").await;
    assert_eq!(status, 200);
    house.server.stop.cancel();
    let ended = timeout(Limits::default().stop * 5, house.server.task).await;
    assert!(ended.is_ok(), "it is still up");
}

#[tokio::test]
async fn a_token_that_is_revoked_while_the_body_comes_opens_nothing() {
    let house = House::closed().await;
    let token = house.token(&house.ours).await;
    let (conversation, root) = (&house.ours.conversation, &house.ours.root);
    let body = format!("{{\"channel_id\":\"{conversation}\",\"thread_ts\":\"{root}\",\"text\":\"too late\"}}");
    let head = format!(
        "POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\n{JSON}{}content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        bearer(&token),
        body.len()
    );
    let mut stream = house.server.connect().await;
    stream.write_all(head.as_bytes()).await.expect("it is taken");
    // The token has been looked at by then.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.expect("it is asked to go on");
    assert!(go_on.starts_with(b"HTTP/1.1 100"), "{go_on:?}");
    let revoke = format!("/sessions/{}/revoke-token", house.ours.short());
    let (status, ..) = house.post(&revoke, &format!("{JSON}{}", bearer(&token)), "{}").await;
    assert_eq!(status, 200);
    stream.write_all(body.as_bytes()).await.expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test]
async fn without_tokens_the_bound_of_one_session_holds_too() {
    let house = House::new(Access::Open, Limits { session_requests: 1, ..Limits::default() }).await;
    house.hold_up(LONG);
    let text = body(&house.ours, json!({"text": "it waits"}));
    let first = house.post("/slack/post-message", JSON, &text);
    let second = async {
        house.planned_beyond(0).await;
        let theirs = body(&house.theirs, json!({"text": "another's"}));
        loop {
            let (status, answer) = house.post(&House::retry(&house.ours), JSON, "{}").await;
            if status != 200 {
                assert_eq!((status, &answer["error"]), (429, &json!("too_many_requests")));
                break house.post("/slack/post-message", JSON, &theirs).await.0;
            }
        }
    };
    tokio::select! {
        (status, answer) = first => panic!("it did not wait: {status} {answer}"),
        theirs = timeout(PATIENCE, second) => assert_eq!(theirs.expect("in time"), 200),
    }
}

#[tokio::test]
async fn a_store_that_takes_nothing_keeps_nobody_waiting() {
    let limits = Limits { request: Duration::from_millis(300), ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    house.store.set_full(true);
    let (status, answer) = house.post(&format!("/sessions/{}/revoke-token", house.ours.short()), &head, "{}").await;
    assert_eq!((status, &answer["error"]), (500, &json!("outcome_unknown")), "{answer}");
    // The session is still about the other one.
    let (status, answer) = house.post(&House::retry(&house.ours), &head, "{}").await;
    assert_eq!((status, &answer["error"]), (500, &json!("outcome_unknown")), "{answer}");
}
