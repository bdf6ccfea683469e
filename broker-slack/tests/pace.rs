//! Calls that get into each other's way, and calls that must not: the transport against a local server.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker_core::chat::{
    ChatOp, ChatTime, ChatTransport, ConversationId, DeliverError, InstallationId, MessageId, OpKey, PartBody,
    ThreadKey,
};
use broker_core::history::{HistoryProvider, Urgency};
use broker_slack::Slack;
use serde_json::{Value, json};
use support::{Call, LIMIT, Reply, Server, auth_test, config};
use tokio::task::JoinSet;
use tokio::time::timeout;

fn thread(channel: &str, n: usize) -> ThreadKey {
    ThreadKey {
        installation: InstallationId::new("T0000001"),
        conversation: ConversationId::new(channel),
        root: MessageId::new(format!("1700000{n:03}.000100")),
    }
}

fn post(channel: &str, n: usize) -> ChatOp {
    ChatOp::Post { thread: thread(channel, n), body: PartBody::Text { markup: "text".to_owned() } }
}

fn status(channel: &str, n: usize) -> ChatOp {
    ChatOp::Status { thread: thread(channel, n), text: Some("is thinking…".to_owned()) }
}

fn channel_of(call: &Call) -> String {
    let named = call.body["channel"].as_str().or_else(|| call.body["channel_id"].as_str());
    named.map(str::to_owned).or_else(|| call.params.get("channel").cloned()).unwrap_or_default()
}

fn done() -> Reply {
    Reply::Json(json!({"ok": true, "ts": "1700000001.000200", "messages": [], "has_more": false}))
}

async fn connected(server: &Server, post_rate: f64) -> Arc<Slack> {
    let mut config = config(&server.base);
    config.post_rate = post_rate;
    Slack::connect(config, Arc::new(broker_core::clock::SystemClock::new())).await.unwrap()
}

#[tokio::test]
async fn channels_whose_calls_hang_delay_no_other_channel() {
    let server = Server::start(|call| match (call.method.as_str(), channel_of(call).as_str()) {
        ("auth.test", _) => auth_test(),
        (_, "CHUNG1" | "CHUNG2") => Reply::Hang,
        _ => done(),
    })
    .await;
    let slack = connected(&server, 0.0).await;
    let mut hanging = JoinSet::new();
    for n in 0..100 {
        for channel in ["CHUNG1", "CHUNG2"] {
            let slack = Arc::clone(&slack);
            hanging.spawn(async move {
                let key = OpKey::new("k");
                let all = ChatTime::ZERO..ChatTime::MAX;
                let (post, status, thread) = (post(channel, n), status(channel, n), thread(channel, n));
                let page = slack.page(&thread, all, 10, None, Urgency::Awaited);
                drop(tokio::join!(slack.perform(&key, &post), slack.perform(&key, &status), page));
            });
        }
    }
    // Until as much hangs as may: eight calls of each kind in either channel.
    let hung = || server.calls.lock().unwrap().iter().filter(|call| channel_of(call).starts_with("CHUNG")).count();
    let full = async {
        while hung() < 32 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LIMIT, full).await.unwrap();
    // None of these waits for any of those, or it would wait for their time limits, of five seconds at least.
    for n in 0..20 {
        let key = OpKey::new("k");
        let (said, shown, thread) = (post("CWELL", n), status("CWELL", n), thread("CWELL", n));
        let read = slack.page(&thread, ChatTime::ZERO..ChatTime::MAX, 10, None, Urgency::Awaited);
        let all = async { tokio::join!(slack.perform(&key, &said), slack.perform(&key, &shown), read) };
        let (said, shown, read) =
            timeout(Duration::from_secs(4), all).await.expect("it waits for a channel that hangs");
        assert!(said.is_ok() && shown.is_ok() && read.is_ok(), "{said:?} {shown:?} {read:?}");
    }
    assert_eq!(hung(), 32, "a channel has eight calls of a kind under way and no more");
    hanging.abort_all();
}

#[tokio::test]
async fn an_archived_channel_delays_no_other_channel() {
    let server = Server::start(|call| match (call.method.as_str(), channel_of(call).as_str()) {
        ("auth.test", _) => auth_test(),
        (_, "CARCHIVED") => Reply::Json(json!({"ok": false, "error": "is_archived"})),
        _ => done(),
    })
    .await;
    // With the usual rate: the archived channel has used up its burst, and its next post waits for a second.
    let slack = connected(&server, 1.0).await;
    let key = OpKey::new("k");
    for n in 0..3 {
        let refused = slack.perform(&key, &post("CARCHIVED", n)).await;
        assert_eq!(refused, Err(DeliverError::Refused { code: "is_archived".to_owned() }));
    }
    let waits = {
        let slack = Arc::clone(&slack);
        tokio::spawn(async move { slack.perform(&OpKey::new("k"), &post("CARCHIVED", 4)).await })
    };
    tokio::task::yield_now().await;
    for channel in ["C1", "C2", "C3"] {
        slack.perform(&key, &post(channel, 0)).await.unwrap();
    }
    assert!(!waits.is_finished(), "the others went first");
    assert!(waits.await.unwrap().is_err());
}

#[tokio::test]
async fn a_search_for_missed_messages_goes_after_what_somebody_waits_for() {
    let limited = AtomicBool::new(true);
    let server = Server::start(move |call| match call.method.as_str() {
        "auth.test" => auth_test(),
        _ if limited.swap(false, Ordering::SeqCst) => Reply::Raw(
            429,
            vec![("retry-after", "1"), ("content-type", "application/json")],
            r#"{"ok":false,"error":"ratelimited"}"#,
        ),
        _ => done(),
    })
    .await;
    let slack = connected(&server, 1.0).await;
    let page = |n: usize, urgency| {
        let slack = Arc::clone(&slack);
        async move { slack.page(&thread("C1", n), ChatTime::ZERO..ChatTime::MAX, 10, None, urgency).await }
    };
    assert!(page(0, Urgency::Awaited).await.is_err(), "the gate is closed");
    // The search asks first, and what is awaited overtakes it.
    let search = tokio::spawn(page(1, Urgency::Background));
    tokio::task::yield_now().await;
    let awaited = tokio::spawn(page(2, Urgency::Awaited));
    let looked = async { slack.find(&thread("C1", 3), &[OpKey::new("k")], ChatTime::ZERO).await };
    let (search, awaited, looked) = tokio::join!(search, awaited, looked);
    assert!(search.unwrap().is_ok() && awaited.unwrap().is_ok() && looked.is_ok());
    let calls = server.calls("conversations.replies");
    let roots: Vec<_> = calls.iter().map(|call| Value::from(call.params["ts"].as_str())).collect();
    let expected: Vec<_> = [0, 2].map(|n| Value::from(thread("C1", n).root.as_str())).to_vec();
    // The first after the gate goes alone; the other two follow together, the search no earlier than the read-back.
    assert_eq!(roots[..2], expected, "{roots:?}");
    assert_eq!(roots.len(), 4);
}
