//! Events and frames, after the examples of Slack's documentation.

use serde_json::{Map, Value, json};

use super::people::Channel;
use super::{APP, BOT, BOT_USER, TEAM};

/// The first frame of a connection, after <https://docs.slack.dev/apis/events-api/using-socket-mode>.
pub(super) fn hello(connections: usize) -> Value {
    json!({
        "type": "hello",
        "connection_info": { "app_id": APP },
        "num_connections": connections,
        "debug_info": {
            "host": "applink-7fc4fdbb64-4x5xq",
            "started": "2026-11-20 12:12:12.120",
            "build_number": 54,
            "approximate_connection_time": 18060
        }
    })
}

/// A frame that announces the end of a connection, from the same page.
pub(super) fn disconnect(reason: &str) -> Value {
    json!({ "type": "disconnect", "reason": reason, "debug_info": { "host": "wss-111.slack.com" } })
}

/// An envelope around a payload, from the same page; the retry fields as the live platform sends them.
pub(super) fn envelope(id: &str, kind: &str, payload: &Value, attempt: u32, reason: &str) -> Value {
    json!({
        "payload": payload,
        "envelope_id": id,
        "type": kind,
        "accepts_response_payload": false,
        "retry_attempt": attempt,
        "retry_reason": reason
    })
}

/// The callback around an event, after <https://docs.slack.dev/apis/events-api/#callback-field>.
pub(super) fn callback(event: &Value, event_id: &str, seconds: u64, shared: bool) -> Value {
    json!({
        "token": "XXYYZZ",
        "team_id": TEAM,
        "context_team_id": TEAM,
        "context_enterprise_id": null,
        "api_app_id": APP,
        "event": event,
        "type": "event_callback",
        "event_id": event_id,
        "event_time": seconds,
        "authorizations": [
            {
                "enterprise_id": null,
                "team_id": TEAM,
                "user_id": BOT_USER,
                "is_bot": true,
                "is_enterprise_install": false
            }
        ],
        "is_ext_shared_channel": shared,
        "event_context": format!("4-{event_id}")
    })
}

/// The rich text that Slack's own clients send along with a text.
pub(super) fn rich_text(text: &str) -> Value {
    json!([
        {
            "type": "rich_text",
            "block_id": "gcr7a",
            "elements": [
                { "type": "rich_text_section", "elements": [ { "type": "text", "text": text } ] }
            ]
        }
    ])
}

/// A `message` event, after <https://docs.slack.dev/reference/events/message>: the stored message, and where it stands.
pub(super) fn message(stored: &Map<String, Value>, channel: &Channel) -> Value {
    let mut event = stored.clone();
    event.remove("metadata");
    event.insert("channel".to_owned(), json!(channel.id));
    event.insert("channel_type".to_owned(), json!(channel.kind.event_name()));
    event.insert("event_ts".to_owned(), stored.get("ts").cloned().unwrap_or_default());
    Value::Object(event)
}

/// An `app_mention` event, after <https://docs.slack.dev/reference/events/app_mention>: no `channel_type`.
pub(super) fn app_mention(stored: &Map<String, Value>, channel: &Channel) -> Value {
    let mut event = stored.clone();
    event.remove("metadata");
    event.insert("type".to_owned(), json!("app_mention"));
    event.insert("channel".to_owned(), json!(channel.id));
    event.insert("event_ts".to_owned(), stored.get("ts").cloned().unwrap_or_default());
    Value::Object(event)
}

/// Whether the text mentions the bot, in either of Slack's two ways.
pub(super) fn mentions_bot(text: &str) -> bool {
    text.contains(&format!("<@{BOT_USER}>")) || text.contains(&format!("<@{BOT_USER}|"))
}

/// What makes a message one of our bot.
pub(super) fn own_fields() -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("user".to_owned(), json!(BOT_USER));
    fields.insert("bot_id".to_owned(), json!(BOT));
    fields.insert("app_id".to_owned(), json!(APP));
    fields.insert("team".to_owned(), json!(TEAM));
    fields.insert("bot_profile".to_owned(), super::people::own_bot_profile());
    fields
}
