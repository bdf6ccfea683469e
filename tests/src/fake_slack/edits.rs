//! Messages that people change or delete.

use serde_json::{Map, Value, json};

use super::FakeSlack;
use super::events::rich_text;
use super::people::Channel;
use super::state::{self, micros};

impl FakeSlack {
    /// Somebody changes a message of theirs. Slack says so under a `ts` of its own, with what the message was.
    pub fn edit(&self, channel: &str, ts: &str, text: &str) {
        self.shared.state.change(|state| {
            let at = state.fresh_ts();
            let message = state.message_mut(channel, ts).expect("a message of the workspace");
            let previous = message.fields.clone();
            message.text = text.to_owned();
            message.fields.insert("text".to_owned(), json!(text));
            message.fields.insert("blocks".to_owned(), rich_text(text));
            message.fields.insert("edited".to_owned(), json!({ "user": message.user, "ts": at }));
            let now = message.fields.clone();
            let event = changed(state.channel(channel), &at, &now, &previous);
            state.queue_event(&event, false);
        });
    }

    /// Somebody deletes a message of theirs. One with replies leaves a tombstone.
    pub fn delete(&self, channel: &str, ts: &str) {
        self.shared.state.change(|state| {
            let at = state.fresh_ts();
            let replies = state.has_replies(channel, ts);
            let event = if replies {
                let message = state.message_mut(channel, ts).expect("a message of the workspace");
                let previous = std::mem::replace(&mut message.fields, tombstone(ts));
                changed(state.channel(channel), &at, &tombstone(ts), &previous)
            } else {
                let previous = state.take_message(channel, ts).expect("a message of the workspace").fields;
                deleted(state.channel(channel), &at, ts, &previous)
            };
            state.queue_event(&event, false);
        });
    }
}

impl state::State {
    fn fresh_ts(&mut self) -> String {
        state::ts(self.fresh_micros())
    }

    fn message_mut(&mut self, channel: &str, ts: &str) -> Option<&mut state::Message> {
        self.messages.get_mut(channel)?.get_mut(&micros(ts)?)
    }

    fn take_message(&mut self, channel: &str, ts: &str) -> Option<state::Message> {
        self.messages.get_mut(channel)?.remove(&micros(ts)?)
    }

    fn has_replies(&self, channel: &str, root: &str) -> bool {
        self.thread(channel, root).iter().any(|message| message.ts != root)
    }

    fn channel(&self, channel: &str) -> &Channel {
        self.channels.get(channel).expect("a conversation of the workspace")
    }
}

/// After <https://docs.slack.dev/reference/events/message/message_changed>.
fn changed(channel: &Channel, at: &str, now: &Map<String, Value>, previous: &Map<String, Value>) -> Value {
    json!({
        "type": "message",
        "subtype": "message_changed",
        "hidden": true,
        "channel": channel.id,
        "channel_type": channel.kind.event_name(),
        "ts": at,
        "event_ts": at,
        "message": now,
        "previous_message": previous
    })
}

/// After <https://docs.slack.dev/reference/events/message/message_deleted>.
fn deleted(channel: &Channel, at: &str, ts: &str, previous: &Map<String, Value>) -> Value {
    json!({
        "type": "message",
        "subtype": "message_deleted",
        "hidden": true,
        "channel": channel.id,
        "channel_type": channel.kind.event_name(),
        "ts": at,
        "event_ts": at,
        "deleted_ts": ts,
        "previous_message": previous
    })
}

/// What stands in the place of a deleted message with replies.
fn tombstone(ts: &str) -> Map<String, Value> {
    let Value::Object(fields) = json!({
        "type": "message",
        "subtype": "tombstone",
        "text": "This message was deleted.",
        "user": "USLACKBOT",
        "hidden": true,
        "ts": ts,
        "thread_ts": ts
    }) else {
        unreachable!("an object was written")
    };
    fields
}
