//! The socket loop against a websocket server that each test drives by hand.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail where it stands")]

mod support;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::chat::{ChatTransport, Intake, LinkError, LinkHealth, Parsed, RawEnvelope};
use broker_core::store::{Accepted, JournalId, StoreError};
use broker_slack::Slack;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{LIMIT, Reply, Server, auth_test, connect_quick};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{WebSocketStream, accept_async};
use tokio_util::sync::CancellationToken;

/// What the next accepts do, once the gate lets them through.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Refuse,
    Panic,
}

/// An intake behind a gate.
struct Gated {
    gate: Semaphore,
    faults: Mutex<VecDeque<Fault>>,
    accepted: watch::Sender<Vec<RawEnvelope>>,
}

#[async_trait]
impl Intake for Gated {
    async fn accept(&self, envelope: RawEnvelope) -> Result<Accepted, StoreError> {
        self.gate.acquire().await.unwrap().forget();
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Refuse) => return Err(StoreError::new("the disk is full")),
            Some(Fault::Panic) => panic!("the intake panics"),
            None => {}
        }
        self.accepted.send_modify(|accepted| accepted.push(envelope));
        Ok(Accepted { id: JournalId(1), fresh: true })
    }
}

/// A broker's socket and the server it talks to.
struct Stage {
    slack: Arc<Slack>,
    intake: Arc<Gated>,
    listener: TcpListener,
    stop: CancellationToken,
    running: JoinHandle<Result<(), LinkError>>,
    server: Server,
}

impl Stage {
    /// `replies` are the answers to the first calls of `apps.connections.open`; later ones get a ticket.
    async fn start(open: bool, replies: Vec<Reply>) -> Self {
        Self::with_silence(LIMIT, open, replies).await
    }

    async fn with_silence(silence: Duration, open: bool, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ticket = format!("ws://{}/link/?ticket=secret", listener.local_addr().unwrap());
        let replies = Mutex::new(VecDeque::from(replies));
        let server = Server::start(move |call| match call.method.as_str() {
            "auth.test" => auth_test(),
            "apps.connections.open" => {
                assert_eq!(call.authorization, "Bearer xapp-1-test");
                let scripted = replies.lock().unwrap().pop_front();
                scripted.unwrap_or_else(|| Reply::Json(json!({"ok": true, "url": ticket})))
            }
            other => panic!("{other} was called"),
        })
        .await;
        let slack = connect_quick(&server.base, silence).await;
        let gate = Semaphore::new(if open { 10_000 } else { 0 });
        let intake = Arc::new(Gated { gate, faults: Mutex::default(), accepted: watch::Sender::new(Vec::new()) });
        let stop = CancellationToken::new();
        let running = {
            let (slack, intake, stop) = (Arc::clone(&slack), Arc::clone(&intake), stop.clone());
            tokio::spawn(async move { slack.run(intake, stop).await })
        };
        Self { slack, intake, listener, stop, running, server }
    }

    async fn tcp(&self) -> TcpStream {
        timeout(LIMIT, self.listener.accept()).await.expect("no connection came").unwrap().0
    }

    /// The next link, greeted.
    async fn link(&self) -> Peer {
        let mut peer = Peer(accept_async(self.tcp().await).await.unwrap());
        peer.send(json!({"type": "hello", "num_connections": 1, "connection_info": {"app_id": "A1"},
                         "debug_info": {"host": "h", "started": "s", "build_number": 1, "approximate_connection_time": 3600}}))
            .await;
        self.health(|health| health.socket.ok).await;
        peer
    }

    async fn health(&self, wanted: impl FnMut(&LinkHealth) -> bool) -> LinkHealth {
        let mut health = self.slack.health();
        let found = timeout(LIMIT, health.wait_for(wanted)).await;
        found.unwrap_or_else(|_| panic!("health stays {:?}", self.slack.health().borrow().socket)).unwrap().clone()
    }

    async fn accepted(&self, count: usize) -> Vec<RawEnvelope> {
        let mut accepted = self.intake.accepted.subscribe();
        timeout(LIMIT, accepted.wait_for(|accepted| accepted.len() >= count)).await.unwrap().unwrap().clone()
    }

    async fn end(self) {
        self.stop.cancel();
        assert_eq!(timeout(LIMIT, self.running).await.expect("it does not end").unwrap(), Ok(()));
    }
}

struct Peer(WebSocketStream<TcpStream>);

impl Peer {
    async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    async fn event(&mut self, id: &str) {
        self.send(json!({"envelope_id": id, "type": "events_api", "payload": {"event_id": format!("Ev-{id}"),
            "event": {"type": "message", "channel": "C1", "user": "U1", "ts": "1700000000.000100", "text": id}}}))
            .await;
    }

    async fn disconnect(&mut self, reason: &str) {
        self.send(json!({"type": "disconnect", "reason": reason})).await;
    }

    /// The next message that is neither ping nor pong; nothing when the broker closes.
    async fn next(&mut self) -> Option<Message> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                    Some(Ok(message)) => return Some(message),
                }
            }
        };
        timeout(LIMIT, next).await.expect("nothing came")
    }

    async fn ack(&mut self) -> String {
        let message = self.next().await.expect("closed in the place of an acknowledgement");
        let ack: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(ack.as_object().unwrap().len(), 1, "an acknowledgement holds the id alone");
        ack["envelope_id"].as_str().unwrap().to_owned()
    }

    async fn acks(&mut self, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(self.ack().await);
        }
        ids.sort();
        ids
    }

    /// Sends a ping and waits for its pong; anything but pings before that is a failure.
    async fn answers_pings(&mut self) {
        let sent = Bytes::from_static(b"are you there");
        self.0.send(Message::Ping(sent.clone())).await.unwrap();
        let pong = async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Pong(came) if came == sent => return,
                    Message::Ping(_) | Message::Pong(_) => {}
                    other => panic!("{other:?} came before the pong"),
                }
            }
        };
        timeout(LIMIT, pong).await.expect("no pong");
    }
}

#[tokio::test]
async fn the_acknowledgement_follows_the_commit_and_pings_are_answered_meanwhile() {
    let stage = Stage::start(false, vec![]).await;
    let mut peer = stage.link().await;
    peer.event("e1").await;
    peer.event("e2").await;
    // The frames were read, and nothing is acknowledged.
    stage.health(|health| health.socket.detail["frames"] == 2).await;
    peer.answers_pings().await;
    stage.intake.gate.add_permits(2);
    assert_eq!(peer.acks(2).await, ["e1", "e2"]);
    let accepted = stage.accepted(2).await;
    assert_eq!(accepted[0].key, "event:Ev-e1");
    assert!(matches!(stage.slack.parse(&accepted[0]), Parsed::Message(message) if message.text == "e1"));
    stage.end().await;
}

#[tokio::test]
async fn what_is_not_committed_is_not_acknowledged() {
    let stage = Stage::start(true, vec![]).await;
    let mut peer = stage.link().await;
    stage.intake.faults.lock().unwrap().extend([Fault::Refuse, Fault::Panic]);
    peer.event("e1").await;
    stage.health(|health| health.socket.detail["not_accepted"] == 1).await;
    peer.event("e2").await;
    stage.health(|health| health.socket.detail["frames"] == 2).await;
    peer.answers_pings().await;
    // The link stands, and the redelivery is acknowledged on it.
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    assert_eq!(stage.slack.health().borrow().socket.detail["links"], 1);
    stage.end().await;
}

#[tokio::test]
async fn a_new_link_stands_before_the_old_one_ends() {
    let stage = Stage::start(false, vec![]).await;
    let mut old = stage.link().await;
    for id in 10..30 {
        old.event(&format!("e{id}")).await;
    }
    old.disconnect("warning").await;
    for id in 30..50 {
        old.event(&format!("e{id}")).await;
    }
    let mut new = stage.link().await;
    stage.health(|health| health.socket.detail["links"] == 2 && health.socket.detail["frames"] == 40).await;
    new.event("n1").await;
    stage.intake.gate.add_permits(41);
    // Each on the socket that brought it, also those that came behind the disconnect.
    assert_eq!(old.acks(40).await, (10..50).map(|id| format!("e{id}")).collect::<Vec<_>>());
    assert_eq!(new.ack().await, "n1");
    assert_eq!(old.next().await, None, "the old one is closed by the broker");
    let health = stage.health(|health| health.socket.detail["links"] == 1).await;
    assert!(health.socket.ok, "it was never without a link");
    stage.end().await;
}

#[tokio::test]
async fn nothing_hangs_for_ever() {
    let ticketless = Reply::Json(json!({"ok": true}));
    let stage = Stage::start(true, vec![Reply::Hang, Reply::Break, ticketless]).await;
    // A connection without a handshake, and a handshake without a hello.
    let silent = stage.tcp().await;
    let mute = accept_async(stage.tcp().await).await.unwrap();
    // A disconnect in the place of hello.
    let mut busy = Peer(accept_async(stage.tcp().await).await.unwrap());
    busy.disconnect("too_many_websockets").await;
    let mut peer = stage.link().await;
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    assert_eq!(stage.server.calls("apps.connections.open").len(), 7, "a ticket for each try");
    drop((silent, mute));
    stage.end().await;
}

#[tokio::test]
async fn a_silent_link_is_replaced() {
    let stage = Stage::with_silence(Duration::from_millis(700), true, vec![]).await;
    // Nobody reads on this one, so its pings get no pong.
    let _silent = stage.link().await;
    let mut peer = stage.link().await;
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    stage.end().await;
}

#[tokio::test]
async fn a_closed_link_is_replaced_and_health_says_so() {
    let stage = Stage::start(true, vec![]).await;
    drop(stage.link().await);
    stage.health(|health| !health.socket.ok && health.socket.reason.is_some()).await;
    let mut peer = stage.link().await;
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    stage.end().await;
}

#[tokio::test]
async fn refusals_show_in_health_and_heal() {
    let refused = |code: &str| Reply::Json(json!({"ok": false, "error": code}));
    let stage = Stage::start(true, vec![refused("invalid_auth"), refused("missing_scope")]).await;
    let health =
        stage.health(|health| health.socket.reason.as_ref().is_some_and(|it| it.contains("invalid_auth"))).await;
    assert!(!health.socket.ok && health.socket.reason.unwrap().contains("SLACK_APP_TOKEN"));
    let health =
        stage.health(|health| health.socket.reason.as_ref().is_some_and(|it| it.contains("missing_scope"))).await;
    assert!(health.socket.reason.unwrap().contains("connections:write"));
    let mut peer = stage.link().await;
    peer.disconnect("link_disabled").await;
    stage.health(|health| health.socket.reason.as_ref().is_some_and(|it| it.contains("switch it on"))).await;
    let _again = stage.link().await;
    stage.health(|health| health.socket.ok && health.socket.reason.is_none()).await;
    stage.end().await;
}

#[tokio::test]
async fn what_is_in_hand_is_acknowledged_before_the_end() {
    let stage = Stage::start(false, vec![]).await;
    let mut peer = stage.link().await;
    for id in ["e1", "e2", "e3"] {
        peer.event(id).await;
    }
    stage.health(|health| health.socket.detail["frames"] == 3).await;
    stage.stop.cancel();
    stage.intake.gate.add_permits(3);
    assert_eq!(peer.acks(3).await, ["e1", "e2", "e3"]);
    assert_eq!(peer.next().await, None);
    let slack = Arc::clone(&stage.slack);
    stage.end().await;
    assert!(!slack.health().borrow().socket.ok);
}

#[tokio::test]
async fn a_slow_store_bounds_what_is_in_hand() {
    let stage = Stage::start(false, vec![]).await;
    let mut peer = stage.link().await;
    for id in 100..200 {
        peer.event(&format!("e{id}")).await;
    }
    stage.health(|health| health.socket.detail["frames"] == 64).await;
    stage.intake.gate.add_permits(100);
    assert_eq!(peer.acks(100).await.len(), 100);
    assert_eq!(stage.slack.health().borrow().socket.detail["links"], 1);
    stage.end().await;
}

#[tokio::test]
async fn odd_frames_are_kept_and_the_next_message_arrives() {
    let stage = Stage::start(true, vec![]).await;
    let mut peer = stage.link().await;
    let odd: Vec<Message> = vec![
        Message::text("not json"),
        Message::text(""),
        Message::text("[1,2]"),
        Message::text(r#"{"type":"events_api","payload":{}}"#),
        Message::binary(vec![0xff, 0xfe, 0x00]),
        Message::text("x".repeat(5 << 20)),
    ];
    let count = odd.len();
    for frame in odd {
        peer.0.send(frame).await.unwrap();
    }
    // These have an id, so they are acknowledged although nobody can read them.
    peer.0.send(Message::text(r#"{"envelope_id":"cut","payload":{"event":{"#)).await.unwrap();
    peer.0.send(Message::binary(r#"{"envelope_id":"binary","type":"brand_new"}"#.as_bytes().to_vec())).await.unwrap();
    peer.event("e1").await;
    assert_eq!(peer.acks(3).await, ["binary", "cut", "e1"]);
    let accepted = stage.accepted(count + 3).await;
    assert!(accepted.iter().all(|envelope| envelope.raw.len() <= 4 << 20));
    let unreadable = accepted.iter().filter(|it| matches!(stage.slack.parse(it), Parsed::Unreadable { .. })).count();
    assert_eq!(unreadable, count + 1);
    let detail = stage.slack.health().borrow().socket.detail.clone();
    assert_eq!((&detail["unreadable"], &detail["cut"], &detail["links"]), (&json!(count), &json!(1), &json!(1)));
    stage.end().await;
}

#[tokio::test]
async fn strangers_on_the_app_token_are_remarked() {
    let stage = Stage::start(true, vec![]).await;
    let mut peer = Peer(accept_async(stage.tcp().await).await.unwrap());
    peer.send(json!({"type": "hello", "num_connections": 3})).await;
    let health = stage.health(|health| health.socket.ok).await;
    assert!(health.socket.reason.unwrap().contains("2 more connection"));
    stage.end().await;
}

#[tokio::test]
async fn a_server_that_disconnects_at_once_is_not_hammered() {
    let stage = Stage::start(true, vec![]).await;
    let started = tokio::time::Instant::now();
    let mut links = Vec::new();
    for _ in 0..8 {
        let mut peer = stage.link().await;
        peer.disconnect("refresh_requested").await;
        links.push(peer);
    }
    // Waits of at least 10 ms, doubling up to 50 ms, each at least half of that.
    assert!(started.elapsed() >= Duration::from_millis(120), "{:?}", started.elapsed());
    stage.end().await;
}
