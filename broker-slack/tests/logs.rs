//! What the socket logs: warnings that an operator can act upon, and never a ticket. Everything that is traced by anybody
//! in the process is caught.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use broker_core::chat::{ChatTransport, LinkHealth};
use futures_util::StreamExt;
use serde_json::{Value, json};
use support::Reply;
use support::stage::{Setting, Stage};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// Every line of this thread's log, which is where a test and its tasks run.
#[derive(Clone, Default)]
struct Caught(Arc<Mutex<Vec<u8>>>);

impl Caught {
    fn start() -> (Self, DefaultGuard) {
        let caught = Self::default();
        let all = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(tracing::Level::TRACE);
        let guard = tracing::subscriber::set_default(all.with_writer(caught.clone()).finish());
        (caught, guard)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The warnings of the socket.
    fn warnings(&self) -> Vec<Value> {
        let lines = self.text();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["level"] == "WARN" && line["target"].as_str().unwrap().starts_with("broker_slack"))
            .collect()
    }
}

impl Write for Caught {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Caught {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn trouble(health: &LinkHealth, part: &str) -> bool {
    health.connections[0].trouble.as_ref().is_some_and(|it| it.contains(part))
}

#[tokio::test]
async fn no_ticket_is_ever_logged() {
    let (caught, _guard) = Caught::start();
    let ticket = |url: &str| Reply::Json(json!({"ok": true, "url": url}));
    // Tickets that go wrong in every way that an error could tell of.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let replies = vec![
        ticket("not an address, ticket=secret"),
        ticket("ftp://127.0.0.1/link/?ticket=secret"),
        ticket("ws:///link/?ticket=secret"),
        ticket("ws://name.invalid:99999/link/?ticket=secret"),
        ticket(&format!("ws://{nobody}/link/?ticket=secret")),
        Reply::Raw(200, vec![("content-type", "application/json")], r#"{"ok":true,"url":"wss://x/?ticket=secret""#),
        Reply::Raw(500, vec![("content-type", "application/json")], r#"{"ok":false,"error":"wss://x/?ticket=secret"}"#),
        Reply::Json(json!({"ok": false, "error": "wss://x/?ticket=secret", "url": "wss://x/?ticket=secret"})),
    ];
    let failures = replies.len();
    let stage = Stage::set(Setting { replies, ..Setting::default() }).await;
    // A handshake that is refused, one that is garbage, and a TLS port that is none.
    for answer in ["HTTP/1.1 403 no ticket=secret\r\nlocation: /?ticket=secret\r\n\r\n", "ticket=secret\r\n\r\n"] {
        stage.answer(answer).await;
    }
    let mut peer = stage.link().await;
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    peer.disconnect("warning").await;
    drop(stage.link().await);
    let _last = stage.link().await;
    let opened = stage.server.calls("apps.connections.open").len();
    assert_eq!(opened, failures + 5);
    let health = format!("{:?} {:?}", stage.slack.health().borrow(), stage.slack);
    stage.end().await;

    let text = caught.text();
    assert!(text.contains("no socket link") && text.contains("a socket link ended"), "nothing was caught");
    assert!(text.contains("slack_morphism") && text.contains("TRACE"), "libraries were not caught");
    for secret in ["secret", "xapp-1-test", "xoxb-test"] {
        assert_eq!(text.lines().find(|line| line.contains(secret)), None);
        assert!(!health.contains(secret), "{health}");
    }
}

#[tokio::test]
async fn refusals_are_logged_by_their_name_with_the_mend() {
    let (caught, _guard) = Caught::start();
    let codes = [("invalid_auth", "SLACK_APP_TOKEN"), ("too_many_websockets", "end other programs")];
    let replies = codes.map(|(code, _)| Reply::Json(json!({"ok": false, "error": code}))).to_vec();
    let stage = Stage::set(Setting { replies, ..Setting::default() }).await;
    let mut peer = stage.link().await;
    peer.disconnect("link_disabled").await;
    stage.health(|health| trouble(health, "link_disabled")).await;
    stage.end().await;
    let warnings = caught.warnings();
    for (code, mend) in codes.into_iter().chain([("link_disabled", "switch it on")]) {
        let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let of_code: Vec<_> = warnings.iter().filter(|line| text(line, "reason").contains(code)).collect();
        assert_eq!(of_code.len(), 1, "{code}: {warnings:?}");
        assert!(text(of_code[0], "mend").contains(mend), "{code}: {warnings:?}");
    }
}

#[tokio::test]
async fn strangers_on_the_app_token_are_warned_of_once_per_change() {
    let (caught, _guard) = Caught::start();
    let stage = Stage::start(true, vec![]).await;
    let warned = || caught.warnings().iter().filter_map(|line| line["strangers"].as_u64()).collect::<Vec<_>>();
    let mut old = stage.caller().await;
    old.hello(1).await;
    stage.health(|health| health.socket.detail["connects"] == 1).await;
    // The same number again is no news; none, and then one again, is. The old link is one of ours each time.
    for (connects, (strangers, expected)) in
        (2..).zip([(1, vec![1]), (1, vec![1]), (2, vec![1, 2]), (0, vec![1, 2]), (2, vec![1, 2, 2])])
    {
        old.disconnect("warning").await;
        let mut new = stage.caller().await;
        new.hello(2 + strangers).await;
        let health = stage.health(|health| health.socket.detail["connects"] == connects).await;
        assert_eq!(health.socket.detail["strangers"], strangers);
        assert_eq!(warned(), expected);
        // To the end of the socket: until then it is one that Slack may count.
        while let Some(Ok(_)) = old.0.next().await {}
        old = new;
    }
    stage.end().await;
}
