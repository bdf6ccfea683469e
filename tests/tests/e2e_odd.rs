#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! Odd envelopes: whatever comes through the socket, the broker lives, the socket stays open, the row is kept and counted,
//! and the next message is answered.

use std::time::Duration;

use broker_tests::fake_slack::{APP, BOT_USER, CHANNEL, TEAM, envelope_id};
use broker_tests::processes::poll;
use broker_tests::world::{ANSWER, World};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

/// A `ts` that fits into no number.
const LATE: &str = "99999999999999999999999.000001";
/// How long the broker may take to look at a frame that it has acknowledged.
const COUNTED: Duration = Duration::from_secs(5);

/// What has to become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Acknowledged: it has an envelope id that can be read. It may be understood, ignored or kept as unreadable.
    Acked,
    /// The same, and counted as unreadable.
    Unreadable,
    /// Without an id that could be acknowledged: kept, counted, and nothing sent back.
    Kept,
    /// Nothing that could be kept: it only must do no harm.
    Harmless,
}

/// An envelope around an event, after <https://docs.slack.dev/apis/events-api/using-socket-mode>.
fn envelope(id: &str, event: Value) -> Value {
    json!({
        "envelope_id": id,
        "type": "events_api",
        "accepts_response_payload": false,
        "retry_attempt": 0,
        "retry_reason": "",
        "payload": {
            "token": "XXYYZZ",
            "team_id": TEAM,
            "api_app_id": APP,
            "event": event,
            "type": "event_callback",
            "event_id": format!("Ev-{id}"),
            "event_time": 1_700_000_000,
            "authorizations": [{ "team_id": TEAM, "user_id": BOT_USER, "is_bot": true }],
            "is_ext_shared_channel": false
        }
    })
}

fn message() -> Value {
    json!({
        "type": "message",
        "channel": CHANNEL,
        "channel_type": "channel",
        "user": "U0ALICE",
        "team": TEAM,
        "text": "odd",
        "ts": "1700000000.000100",
        "event_ts": "1700000000.000100"
    })
}

/// An envelope with one thing changed, by a pointer (RFC 6901); `null` takes it away.
fn changed(id: &str, pointer: &str, value: Value) -> Value {
    let mut envelope = envelope(id, message());
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = envelope.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    match value {
        Value::Null => drop(parent.remove(name)),
        value => drop(parent.insert(name.to_owned(), value)),
    }
    envelope
}

fn corpus() -> Vec<(&'static str, Frame, Fate)> {
    use Fate::{Acked, Harmless, Kept, Unreadable};
    let text = |value: Value| Frame::text(value.to_string());
    let event = |id: &str, event: Value| text(envelope(id, event));
    let with = |id: &str, more: Value| {
        let mut message = message();
        message.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        text(envelope(id, message))
    };
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let mention = format!("<@{BOT_USER}> ");
    let megabyte = "m".repeat(1 << 20);
    let whole = envelope("odd-cut", message()).to_string();
    vec![
        // The frame.
        ("not JSON", Frame::text("hello?"), Kept),
        ("empty", Frame::text(""), Kept),
        ("an array", Frame::text("[1,2,3]"), Kept),
        ("a number", Frame::text("17"), Kept),
        ("null", Frame::text("null"), Kept),
        ("an empty object", Frame::text("{}"), Kept),
        ("binary", Frame::binary(vec![0_u8, 159, 146, 150]), Harmless),
        ("a ping with a payload", Frame::Ping(vec![1_u8; 100].into()), Harmless),
        ("cut in the middle, with its id", Frame::text(whole[..whole.len() / 2].to_owned()), Harmless),
        (
            "deeper than a parser likes",
            Frame::text(format!("{{\"envelope_id\":\"odd-deep\",\"type\":\"events_api\",\"payload\":{deep}}}")),
            Unreadable,
        ),
        (
            "a lone surrogate",
            Frame::text(
                "{\"envelope_id\":\"odd-surrogate\",\"type\":\"events_api\",\"payload\":{\"event\":{\"type\":\"message\",\"text\":\"\\ud800\"}}}",
            ),
            Acked,
        ),
        ("a hello in the middle", Frame::text("{\"type\":\"hello\"}"), Harmless),
        // The envelope.
        ("an unknown type", text(json!({ "envelope_id": "odd-type", "type": "brand_new", "payload": {} })), Acked),
        ("a type that is a number", text(json!({ "envelope_id": "odd-type-number", "type": 7, "payload": {} })), Acked),
        ("no type", text(json!({ "envelope_id": "odd-no-type", "payload": {} })), Acked),
        ("no payload", text(json!({ "envelope_id": "odd-no-payload", "type": "events_api" })), Unreadable),
        ("a payload that is a text", text(changed("odd-payload", "/payload", json!("text"))), Unreadable),
        ("an envelope id that is a number", text(changed("x", "/envelope_id", json!(5))), Harmless),
        ("a retry that is a text", text(changed("odd-retry", "/retry_attempt", json!("many"))), Acked),
        ("an event id that is a number", text(changed("odd-event-id", "/payload/event_id", json!(5))), Acked),
        ("no event id", text(changed("odd-no-event-id", "/payload/event_id", Value::Null)), Acked),
        ("no team", text(changed("odd-no-team", "/payload/team_id", Value::Null)), Acked),
        ("a time that is a text", text(changed("odd-time", "/payload/event_time", json!("yesterday"))), Acked),
        ("authorizations that are none", text(changed("odd-auth", "/payload/authorizations", json!("none"))), Acked),
        (
            "a slash command",
            text(
                json!({ "envelope_id": "odd-slash", "type": "slash_commands", "payload": { "command": "/x" }, "accepts_response_payload": true }),
            ),
            Acked,
        ),
        (
            "an interaction of an unknown kind",
            text(
                json!({ "envelope_id": "odd-interactive", "type": "interactive", "payload": { "type": "telepathy" } }),
            ),
            Acked,
        ),
        // The event.
        ("no event", text(changed("odd-no-event", "/payload/event", Value::Null)), Unreadable),
        ("an event that is a list", text(changed("odd-event", "/payload/event", json!([1]))), Unreadable),
        ("an event of an unknown type", event("odd-unknown", json!({ "type": "brand_new_event", "x": 1 })), Acked),
        ("an event without a type", event("odd-untyped", json!({ "x": 1 })), Acked),
        ("a message without a ts", text(changed("odd-ts", "/payload/event/ts", Value::Null)), Acked),
        ("a message without any ts", with("odd-no-ts", json!({ "ts": null, "event_ts": null })), Unreadable),
        ("a ts that is a number", with("odd-ts-number", json!({ "ts": 1.5 })), Acked),
        ("a ts that is no time", with("odd-ts-text", json!({ "ts": "soon", "event_ts": "soon" })), Unreadable),
        ("a ts beyond all numbers", with("odd-ts-long", json!({ "ts": LATE, "event_ts": LATE })), Unreadable),
        ("no channel", text(changed("odd-channel", "/payload/event/channel", Value::Null)), Unreadable),
        ("a channel that is an object", with("odd-channel-object", json!({ "channel": { "id": CHANNEL } })), Acked),
        ("no author", text(changed("odd-user", "/payload/event/user", Value::Null)), Acked),
        ("an author that is a number", with("odd-user-number", json!({ "user": 7 })), Acked),
        ("a text that is an object", with("odd-text", json!({ "text": { "a": 1 } })), Acked),
        ("an unknown subtype", with("odd-subtype", json!({ "subtype": "brand_new_subtype" })), Acked),
        ("files that are none", with("odd-files", json!({ "files": "none" })), Acked),
        (
            "files of odd shapes",
            with(
                "odd-file",
                json!({ "files": [null, 7, { "id": 7 }, { "id": "F1", "url_private": "", "size": "big" }] }),
            ),
            Acked,
        ),
        ("odd blocks", with("odd-blocks", json!({ "blocks": [{ "type": "brand_new" }, null, 7] })), Acked),
        ("odd metadata", with("odd-metadata", json!({ "metadata": { "event_payload": { "n": 1.5 } } })), Acked),
        (
            "odd attachments",
            with("odd-attachments", json!({ "attachments": [{ "id": "one", "fields": [{ "value": 7 }] }] })),
            Acked,
        ),
        ("a thread that is its own reply", with("odd-self", json!({ "thread_ts": "1700000000.000100" })), Acked),
        ("a thread_ts that is no time", with("odd-thread", json!({ "thread_ts": "never" })), Acked),
        ("a NUL in the text", with("odd-nul", json!({ "text": "a\u{0}b" })), Acked),
        ("a mention that is not closed", with("odd-mention", json!({ "text": "<@U0BROKER hello <@> <@|x>" })), Acked),
        ("a megabyte", with("odd-megabyte", json!({ "text": megabyte })), Acked),
        (
            "keys twice",
            Frame::text(format!(
                "{{\"envelope_id\":\"odd-twice\",\"envelope_id\":\"odd-twice\",\"type\":\"events_api\",\"payload\":{{\"event\":{}}}}}",
                message()
            )),
            Acked,
        ),
        // An edit and a deletion are not new messages.
        (
            "an edit",
            event(
                "odd-edit",
                json!({ "type": "message", "subtype": "message_changed", "channel": CHANNEL, "ts": "1700000001.000100", "message": { "text": mention, "ts": "1700000000.000100" } }),
            ),
            Acked,
        ),
        (
            "a deletion",
            event(
                "odd-deletion",
                json!({ "type": "message", "subtype": "message_deleted", "channel": CHANNEL, "ts": "1700000002.000100", "deleted_ts": "1700000000.000100" }),
            ),
            Acked,
        ),
        (
            "a mention without a channel",
            event(
                "odd-mention-channel",
                json!({ "type": "app_mention", "user": "U0ALICE", "text": mention, "ts": "1700000003.000100" }),
            ),
            Unreadable,
        ),
        (
            "somebody whom nobody knows",
            with(
                "odd-nobody",
                json!({ "user": "U0NOBODY", "text": format!("{mention}hello"), "ts": "1700000004.000100" }),
            ),
            Acked,
        ),
    ]
}

async fn figure(world: &World, part: &str, name: &str) -> u64 {
    world.broker.figure(part, name).await.and_then(|value| value.as_u64()).unwrap_or_default()
}

/// Waits until every row of the journal has been looked at.
async fn all_looked_at(world: &World) {
    let unread = async || (figure(world, "store", "journal_unread").await == 0).then_some(());
    assert!(poll(ANSWER, unread).await.is_some(), "a row is not looked at; {}", world.broker.last_lines(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_odd_envelope_is_survived_kept_and_counted() {
    let Some(world) = World::start("odd").await else { return };
    let corpus = corpus();
    assert!(corpus.len() >= 30);
    let pid = world.broker.pid();
    let mut not_counted = Vec::new();
    let sockets = world.slack.look(|state| state.connections_ever());

    for (n, (name, frame, fate)) in corpus.into_iter().enumerate() {
        let id = frame.to_text().ok().and_then(envelope_id);
        all_looked_at(&world).await;
        let before = figure(&world, "store", "journal_unreadable").await;
        assert!(world.slack.send_raw_frame(frame), "{name}: a connection is open");
        if let Some(id) = id.filter(|_| matches!(fate, Fate::Acked | Fate::Unreadable)) {
            let acked = world.slack.wait_for(name, ANSWER, |state| state.raw_acks(&id).first().copied());
            acked.await;
        }
        if matches!(fate, Fate::Unreadable | Fate::Kept) {
            let moved = async || (figure(&world, "store", "journal_unreadable").await > before).then_some(());
            if poll(COUNTED, moved).await.is_none() {
                not_counted.push(name);
            }
        }
        // What is said next is answered. Each tenth time, so that the whole takes no minutes; the last one counts for all.
        if n % 10 == 0 {
            world.exchange(&format!("after {n}")).await;
        }
    }
    world.exchange("after all of them").await;
    assert!(not_counted.is_empty(), "not counted as unreadable: {not_counted:?}");

    assert_eq!(world.broker.pid(), pid, "the same process");
    assert_eq!(world.slack.look(|state| state.connections_ever()), sockets, "the same socket");
    all_looked_at(&world).await;
    let answered = world.slack.look(|state| state.messages_of(CHANNEL).into_iter().filter(|m| m.is_own()).count());
    assert_eq!(answered, 7, "nothing but the ordinary messages was answered");
    world.broker.ready().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_beyond_every_limit_costs_a_connection_and_nothing_else() {
    let Some(world) = World::start("huge").await else { return };
    let frame = envelope("odd-huge", json!({ "type": "message", "text": "h".repeat(40 << 20) })).to_string();
    assert!(world.slack.send_raw_frame(Frame::text(frame)));
    world.exchange("after the huge one").await;
    world
        .slack
        .wait_for("connection", Duration::from_secs(30), |state| (state.open_connections() > 0).then_some(()))
        .await;
    world.finish().await;
}
