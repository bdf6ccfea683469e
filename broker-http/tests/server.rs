//! The server over real sockets, spoken to in raw bytes.
#![expect(clippy::expect_used, reason = "a test stops where an expectation fails")]

use std::time::Duration;

use broker_core::health::PartHealth;
use broker_http::{Api, BindError, Limits, Part};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;

mod routes;
mod wire;

use wire::{PATIENCE, Server};

fn api() -> Api {
    Api::new("1.2.3", "127.0.0.1")
}

fn parse(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}

#[tokio::test]
async fn alive_whatever_the_parts_say() {
    let server = Server::start(api().part(Part::asked("store", || async { PartHealth::ill("full") }))).await;
    let (status, head, body) = server.get("/healthz").await;
    assert_eq!((status, body.as_str()), (200, "ok"));
    assert!(head.contains("cache-control: no-store"), "{head}");
}

#[tokio::test]
async fn ready_only_when_every_part_is_well() {
    let (tell, health) = watch::channel(PartHealth::ill("connecting"));
    let server = Server::start(
        api().part(Part::asked("store", || async { PartHealth::well().with("sessions", 3) })).part(Part::watched(
            "socket",
            health,
            PartHealth::clone,
        )),
    )
    .await;

    let (status, _, body) = server.get("/readyz").await;
    assert_eq!(status, 503);
    let body = parse(&body);
    assert_eq!(body["ok"], false);
    assert_eq!(body["version"], "1.2.3");
    assert!(body["uptime_s"].is_u64());
    assert_eq!(body["parts"]["store"], json!({ "ok": true, "sessions": 3 }));
    assert_eq!(body["parts"]["socket"], json!({ "ok": false, "reason": "connecting" }));

    tell.send_replace(PartHealth::well());
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!((status, &parse(&body)["ok"]), (200, &json!(true)));
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_json() {
    let server = Server::start(api()).await;
    for path in ["/", "/healthz/", "/readyz/store", "/../readyz", "/%2e%2e/x"] {
        let (status, _, body) = server.get(path).await;
        assert_eq!((status, &parse(&body)["error"]), (404, &json!("not_found")), "{path}");
        assert_eq!(parse(&body)["ok"], false);
    }
    for method in ["POST", "DELETE", "OPTIONS", "NONSENSE"] {
        let (status, head, body) = server.ask(method, "/readyz", "localhost", "content-length: 0\r\n").await;
        assert_eq!((status, &parse(&body)["error"]), (405, &json!("method_not_allowed")), "{method}");
        assert!(head.contains("allow: get"), "{head}");
    }
}

#[tokio::test]
async fn a_web_page_reaches_nothing() {
    let server = Server::start(api().host("broker.internal")).await;
    let port = server.address.port();
    for host in [format!("127.0.0.1:{port}"), "localhost".into(), "[::1]:1".into(), "broker.internal".into()] {
        assert_eq!(server.ask("GET", "/healthz", &host, "").await.0, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example:3000", "", "a\u{e9}"] {
        let (status, _, body) = server.ask("GET", "/healthz", host, "").await;
        assert_eq!((status, &parse(&body)["error"]), (403, &json!("host_not_allowed")), "{host}");
    }
    // A second host, a target that names another one, and no host at all.
    let (status, ..) = server.ask("GET", "/healthz", "localhost", "host: evil.example\r\n").await;
    assert_eq!(status, 403);
    let (status, ..) = server.ask("GET", "http://evil.example/healthz", "localhost", "").await;
    assert_eq!(status, 403);
    assert!(server.raw("GET /healthz HTTP/1.0\r\n\r\n").await.contains(" 403 "));

    for origin in ["http://evil.example", "null", "http://localhost:3000"] {
        let (status, _, body) = server.ask("GET", "/readyz", "localhost", &format!("origin: {origin}\r\n")).await;
        assert_eq!((status, &parse(&body)["error"]), (403, &json!("origin_not_allowed")), "{origin}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_request_end_their_connection_alone() {
    let server = Server::start(api()).await;
    for bytes in ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = server.raw(bytes).await;
        assert!(answer.is_empty() || answer.contains(" 400 "), "{answer}");
    }
    let long = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let mut stream = server.connect().await;
    // The server may hang up before everything is sent.
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    assert!(answer.is_empty() || String::from_utf8_lossy(&answer).contains(" 431 "));
    assert_eq!(server.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn slow_and_silent_clients_are_let_go() {
    let limits = Limits { head: Duration::from_millis(200), connections: 4, ..Limits::default() };
    let server = Server::start(api().limits(limits)).await;
    // They take every connection there is: one silent, one drips, one stops within its head, one idles after an answer.
    let mut slow = Vec::new();
    for start in
        ["", "GET /hea", "GET /healthz HTTP/1.1\r\nhost: local", "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"]
    {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    assert_eq!(timeout(PATIENCE, server.get("/healthz")).await.expect("the next one is served").0, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time").expect("read");
    }
}

#[tokio::test]
async fn a_client_that_goes_on_for_ever_is_let_go() {
    let limits = Limits { connection: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(api().limits(limits)).await;
    let mut stream = server.connect().await;
    let ended = timeout(PATIENCE, async {
        let mut answer = [0; 4096];
        loop {
            if stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.is_err() {
                return;
            }
            match stream.read(&mut answer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    });
    ended.await.expect("the connection was ended");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let part = Part::asked("hung", std::future::pending);
    let limits = Limits { request: Duration::from_millis(50), ..Limits::default() };
    let server = Server::start(api().part(part).limits(limits)).await;
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!((status, &parse(&body)["error"]), (503, &json!("timed_out")));
}

#[tokio::test]
async fn stopping_ends_idle_connections_and_frees_the_port() {
    let server = Server::start(api()).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut first = [0; 12];
    timeout(PATIENCE, idle.read_exact(&mut first)).await.expect("in time").expect("an answer");
    server.stop.cancel();
    timeout(PATIENCE, server.task).await.expect("it stops").expect("without a panic");
    broker_http::bind("127.0.0.1", server.address.port()).await.expect("the port is free");
}

#[tokio::test]
async fn a_port_in_use_says_what_to_do() {
    let taken = broker_http::bind("127.0.0.1", 0).await.expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let error = broker_http::bind("127.0.0.1", port).await.expect_err("it is taken");
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().contains("set PORT"), "{error}");
    let error = broker_http::bind("192.0.2.1", 0).await.expect_err("not an address of ours");
    assert!(error.to_string().contains("WORKER_BIND_HOST"), "{error}");
}
