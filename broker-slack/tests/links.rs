//! The lives of links: how they are opened, found dead, replaced and refused. The server is driven by hand.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::time::Duration;

use broker_core::chat::{ChatTransport, ConnectionHealth, ConnectionState, LinkHealth};
use broker_slack::LinkLimits;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use support::stage::{Peer, Setting, Stage};
use support::{Reply, quick};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// The one connection of a stage with one.
fn only(health: &LinkHealth) -> &ConnectionHealth {
    let [connection] = health.connections.as_slice() else { panic!("{:?}", health.connections) };
    connection
}

/// How the last link of the only connection ended.
fn last_end(health: &LinkHealth) -> Option<&str> {
    only(health).last_end.as_ref().map(|end| end.reason.as_str())
}

fn refused(code: &str) -> Reply {
    Reply::Json(json!({"ok": false, "error": code}))
}

/// Keeps a link alive as Slack does: pings without end, and an answer to whatever the websocket protocol wants answered
/// if `reading`. Ends with the link.
async fn ping(peer: Peer, reading: bool) {
    let (mut out, mut incoming) = peer.0.split();
    let write = async {
        while out.send(Message::Ping(Bytes::from_static(b"Ping from applink"))).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let read = async {
        while reading && matches!(incoming.next().await, Some(Ok(_))) {}
        if !reading {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

#[tokio::test]
async fn at_a_disconnect_the_old_link_goes_on_until_the_new_one_was_greeted() {
    for reason in ["warning", "refresh_requested"] {
        let stage = Stage::start(true, vec![]).await;
        let mut old = stage.link().await;
        old.disconnect(reason).await;
        let mut new = stage.caller().await;
        // The new socket is open, but Slack has not said hello: the old one is what there is.
        let health = stage.health(|health| only(health).state == ConnectionState::Ending).await;
        assert!(health.socket.ok, "{reason}");
        old.event("e1").await;
        assert_eq!(old.ack().await, "e1", "{reason}");
        new.hello(2).await;
        let health = stage.health(|health| health.socket.detail["links"] == 2).await;
        assert_eq!(only(&health).state, ConnectionState::Open);
        old.event("e2").await;
        new.event("n1").await;
        assert_eq!((old.ack().await.as_str(), new.ack().await.as_str()), ("e2", "n1"), "{reason}");
        assert_eq!(old.next().await, None, "the old one is closed by the broker");
        let health = stage.health(|health| health.socket.detail["links"] == 1).await;
        assert!(health.socket.ok && health.gaps == 0, "it was never without a link");
        assert_eq!(last_end(&health), Some(format!("slack asked for it ({reason})").as_str()));
        stage.end().await;
    }
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
async fn each_connection_shows_how_it_stands() {
    let stage = Stage::set(Setting { connections: 4, ..Setting::default() }).await;
    let mut peers = Vec::new();
    for n in 1..=4 {
        let mut peer = stage.caller().await;
        peer.hello(n).await;
        peers.push(peer);
    }
    let open = |it: &ConnectionHealth| it.state == ConnectionState::Open;
    let health = stage.health(|health| health.connections.iter().all(open)).await;
    assert_eq!((health.connections.len(), &health.socket.detail["links"]), (4, &json!(4)));
    assert_eq!(health.socket.reason, None, "four of our own are no strangers");

    // An event on one is an event on that one.
    peers[0].event("e1").await;
    assert_eq!(peers[0].ack().await, "e1");
    let health = stage.health(|health| health.connections.iter().any(|it| it.last_event.is_some())).await;
    let heard: Vec<_> = health.connections.iter().filter(|it| it.last_event.is_some()).collect();
    assert_eq!(heard.len(), 1);
    assert!(health.connections.iter().all(|it| it.last_frame.is_some()), "hello is a frame");

    // One breaks: the others stand, and nothing was missed.
    let since = health.connections.iter().map(|it| it.since).max().unwrap();
    drop(peers.pop());
    let health = stage.health(|health| health.connections.iter().any(|it| it.last_end.is_some())).await;
    assert!(health.socket.ok && health.gaps == 0);
    let mut again = stage.caller().await;
    again.hello(4).await;
    let health = stage.health(|health| health.connections.iter().any(|it| it.reconnects == 1)).await;
    let back = health.connections.iter().find(|it| it.reconnects == 1).unwrap();
    assert!(open(back) && back.since >= since && back.trouble.is_none());
    let end = back.last_end.as_ref().unwrap();
    assert!(end.reason.contains("broke") && end.at >= since && end.at <= back.since, "{end:?}");
    assert_eq!(serde_json::to_value(back).unwrap()["state"], "open");

    let slack = std::sync::Arc::clone(&stage.slack);
    stage.end().await;
    let health = slack.health().borrow().clone();
    assert!(health.connections.iter().all(|it| it.state == ConnectionState::Stopped));
}

#[tokio::test]
async fn nothing_hangs_for_ever() {
    let ticketless = Reply::Json(json!({"ok": true}));
    let stage = Stage::start(true, vec![Reply::Hang, Reply::Break, ticketless]).await;
    // A connection without a handshake, and a handshake without a hello.
    let silent = stage.tcp().await;
    let mute = stage.caller().await;
    // A disconnect in the place of hello.
    let mut busy = stage.caller().await;
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
    let limits = LinkLimits { pong: Duration::from_millis(500), ..quick() };
    let stage = Stage::set(Setting { limits, ..Setting::default() }).await;
    // Nobody reads on this one, so its pings get no pong.
    let _silent = stage.link().await;
    let mut peer = stage.link().await;
    assert_eq!(last_end(&stage.slack.health().borrow()), Some("a ping was not answered"));
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    stage.end().await;
}

#[tokio::test]
async fn a_link_that_brings_pings_and_answers_none_is_dead() {
    let limits = LinkLimits { pong: Duration::from_millis(500), ..quick() };
    let stage = Stage::set(Setting { limits, ..Setting::default() }).await;
    let deaf = stage.link().await;
    let pinging = tokio::spawn(ping(deaf, false));
    let _new = stage.link().await;
    let health = stage.slack.health().borrow().clone();
    assert_eq!(last_end(&health), Some("a ping was not answered"));
    assert!(only(&health).platform_pings > 10, "it was anything but silent");
    pinging.abort();
    stage.end().await;
}

#[tokio::test]
async fn a_link_on_which_slacks_pings_cease_is_dead_although_something_answers() {
    let limits = LinkLimits { silence: Duration::from_millis(700), ..quick() };
    let stage = Stage::set(Setting { limits, ..Setting::default() }).await;
    let mut hollow = stage.link().await;
    hollow.0.send(Message::Ping(Bytes::new())).await.unwrap();
    // Reads, and thereby answers, and says nothing of its own.
    let answering = tokio::spawn(async move { while let Some(Ok(_)) = hollow.0.next().await {} });
    let _new = stage.link().await;
    let health = stage.slack.health().borrow().clone();
    assert_eq!(last_end(&health), Some("slack's own pings ceased"));
    assert!(only(&health).pongs >= 3, "its answers came: {:?}", only(&health));
    answering.abort();
    stage.end().await;
}

#[tokio::test]
async fn a_link_that_pings_and_answers_stands_and_so_does_one_that_never_pinged() {
    let hundred = Duration::from_millis(100);
    let limits = LinkLimits { ping: hundred / 5, pong: hundred * 10, silence: hundred * 10, ..quick() };
    for pings in [true, false] {
        let stage = Stage::set(Setting { limits, ..Setting::default() }).await;
        let mut peer = stage.link().await;
        let alive = match pings {
            true => tokio::spawn(ping(peer, true)),
            false => tokio::spawn(async move { while let Some(Ok(_)) = peer.0.next().await {} }),
        };
        // That is, for longer than any limit.
        let health = stage.health(|health| only(health).pongs >= 70).await;
        assert_eq!((last_end(&health), &health.socket.detail["connects"]), (None, &json!(1)), "{pings}");
        assert_eq!(only(&health).platform_pings > 10, pings);
        alive.abort();
        stage.end().await;
    }
}

#[tokio::test]
async fn a_closed_link_is_replaced_and_health_says_so() {
    let stage = Stage::start(true, vec![]).await;
    drop(stage.link().await);
    let health = stage.health(|health| !health.socket.ok && health.socket.reason.is_some()).await;
    assert_eq!(health.gaps, 1);
    let mut peer = stage.link().await;
    peer.event("e1").await;
    assert_eq!(peer.ack().await, "e1");
    stage.end().await;
}

#[tokio::test]
async fn refusals_are_told_apart_in_health_and_heal() {
    let codes = ["invalid_auth", "missing_scope", "too_many_websockets"];
    let stage = Stage::start(true, codes.map(refused).to_vec()).await;
    for (code, mend) in codes.into_iter().zip(["SLACK_APP_TOKEN", "connections:write", "end other programs"]) {
        let says = |health: &LinkHealth| health.socket.reason.as_ref().is_some_and(|it| it.contains(code));
        let health = stage.health(says).await;
        assert!(!health.socket.ok && health.socket.reason.as_ref().unwrap().contains(mend), "{:?}", health.socket);
        let connection = only(&health);
        assert_eq!(connection.state, ConnectionState::Waiting);
        assert!(connection.trouble.as_ref().unwrap().contains(code), "{connection:?}");
    }
    for (reason, mend) in [("link_disabled", "switch it on"), ("too_many_websockets", "end other programs")] {
        let mut peer = stage.link().await;
        peer.disconnect(reason).await;
        let says = |health: &LinkHealth| health.socket.reason.as_ref().is_some_and(|it| it.contains(reason));
        let health = stage.health(says).await;
        assert!(health.socket.ok, "the link stands until Slack closes it");
        assert!(health.socket.reason.unwrap().contains(mend), "{reason}");
    }
    let _again = stage.link().await;
    stage.health(|health| health.socket.ok && health.socket.reason.is_none()).await;
    stage.end().await;
}

#[tokio::test]
async fn a_refused_connection_shows_beside_one_that_stands() {
    let slow = LinkLimits { refused_wait: Duration::from_secs(600), ..quick() };
    let stage = Stage::set(Setting {
        connections: 2,
        limits: slow,
        replies: vec![refused("invalid_auth")],
        ..Setting::default()
    });
    let stage = stage.await;
    let _peer = stage.link().await;
    let missing = |health: &LinkHealth| health.socket.reason.as_ref().is_some_and(|it| it.contains("invalid_auth"));
    let health = stage.health(missing).await;
    assert!(health.socket.ok, "events arrive");
    stage.end().await;
}

#[tokio::test]
async fn the_time_that_slack_names_is_waited_for() {
    let limited = Reply::Raw(
        429,
        vec![("retry-after", "2"), ("content-type", "application/json")],
        r#"{"ok":false,"error":"ratelimited"}"#,
    );
    let stage = Stage::start(true, vec![limited]).await;
    let _link = stage.link().await;
    let [first, second] = stage.server.calls("apps.connections.open").try_into().unwrap();
    // The back-off of this stage is 50 ms at most.
    assert!(second.at - first.at >= Duration::from_secs(2), "{:?}", second.at - first.at);
    stage.end().await;
}

#[tokio::test]
async fn strangers_on_the_app_token_are_remarked() {
    let stage = Stage::start(true, vec![]).await;
    let mut peer = stage.caller().await;
    peer.hello(3).await;
    let health = stage.health(|health| health.socket.ok).await;
    assert!(health.socket.reason.unwrap().contains("2 more connection"));
    assert_eq!(health.socket.detail["strangers"], 2);
    // They have gone by the next hello; the link that is being replaced is one of ours.
    peer.disconnect("warning").await;
    let mut next = stage.caller().await;
    next.hello(2).await;
    stage.health(|health| health.socket.ok && health.socket.reason.is_none()).await;
    stage.end().await;
}

#[tokio::test]
async fn a_link_that_broke_without_a_farewell_is_no_stranger() {
    let stage = Stage::start(true, vec![]).await;
    drop(stage.link().await);
    stage.health(|health| health.gaps == 1).await;
    // Slack has not noticed yet, and counts it.
    let mut peer = stage.caller().await;
    peer.hello(2).await;
    let health = stage.health(|health| health.socket.ok).await;
    assert_eq!((health.socket.reason, &health.socket.detail["strangers"]), (None, &json!(0)));
    // More than that is somebody else.
    drop(peer);
    stage.health(|health| health.gaps == 2).await;
    let mut peer = stage.caller().await;
    peer.hello(4).await;
    let health = stage.health(|health| health.socket.ok).await;
    assert_eq!(health.socket.detail["strangers"], 1);
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
