//! The socket loop against a websocket server that each test drives by hand: commits, acknowledgements, odd frames. Its
//! links' lives stand in `links.rs`.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::{ChatTransport, Parsed};
use broker_slack::LinkLimits;
use futures_util::SinkExt;
use serde_json::json;
use support::quick;
use support::stage::{Fault, Setting, Stage};
use tokio_tungstenite::tungstenite::Message;

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
async fn a_store_that_hangs_costs_acknowledgements_and_never_the_link() {
    let millis = Duration::from_millis;
    let limits = LinkLimits { patience: millis(300), ping: millis(20), pong: millis(500), ..quick() };
    let stage = Stage::set(Setting { open: false, limits, ..Setting::default() }).await;
    let mut peer = stage.link().await;
    for id in 100..200 {
        peer.event(&format!("e{id}")).await;
    }
    // Sixty-four are in hand, and the rest is left to Slack: read, neither committed nor acknowledged.
    stage.health(|health| health.socket.detail["not_accepted"] == 36).await;
    // Slack's pings are answered, and so is the broker's: the link outlives the limit for pongs.
    let pings = stage.slack.health().borrow().connections[0].pings;
    while stage.slack.health().borrow().connections[0].pings < pings + 40 {
        peer.answers_pings().await;
    }
    assert_eq!(stage.accepted(0).await.len(), 0);
    // The store is back: what was in hand is acknowledged, and the rest when it comes again.
    stage.intake.gate.add_permits(100);
    assert_eq!(peer.acks(64).await, (100..164).map(|id| format!("e{id}")).collect::<Vec<_>>());
    for id in 164..200 {
        peer.event(&format!("e{id}")).await;
    }
    assert_eq!(peer.acks(36).await, (164..200).map(|id| format!("e{id}")).collect::<Vec<_>>());
    assert_eq!((stage.figure("connects"), stage.figure("links")), (json!(1), json!(1)));
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
