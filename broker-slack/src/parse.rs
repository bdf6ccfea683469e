//! What a raw envelope turned out to be. Pure: it runs again over unread journal rows at boot.

use std::borrow::Cow;

use broker_core::chat::{Author, ChatMessage, Parsed};
use serde_json::Value;

use crate::identity::Identity;
use crate::lenient;
use crate::message::{self, Change, Frame};

/// The event types that carry messages. The manifest subscribes to them, and a test holds the two together.
pub(crate) const EVENT_TYPES: [&str; 2] = ["app_mention", "message"];

/// Reads an envelope.
pub(crate) fn parse(identity: &Identity, raw: &[u8]) -> Parsed {
    let Some(frame) = json(raw) else {
        return Parsed::Unreadable { reason: "it is not JSON".to_owned() };
    };
    let payload = frame.get("payload").unwrap_or(&Value::Null);
    match (lenient::text(&frame, "type"), payload.get("event")) {
        (Some("events_api"), _) | (None, Some(Value::Object(_))) => event(identity, payload),
        (Some("interactive" | "slash_commands"), _) => Parsed::Ignored { reason: "not handled yet" },
        (Some("hello" | "disconnect"), _) => Parsed::Ignored { reason: "about the connection" },
        (Some(_), _) => Parsed::Ignored { reason: "an unknown kind of envelope" },
        (None, _) => Parsed::Unreadable { reason: "it has no type".to_owned() },
    }
}

fn event(identity: &Identity, payload: &Value) -> Parsed {
    let Some(event) = payload.get("event").filter(|event| event.is_object()) else {
        return Parsed::Unreadable { reason: "it has no event".to_owned() };
    };
    let Some(kind) = lenient::text(event, "type") else {
        return Parsed::Unreadable { reason: "its event has no type".to_owned() };
    };
    if !EVENT_TYPES.contains(&kind) {
        return Parsed::Ignored { reason: "another kind of event" };
    }
    let change = match message::change(event) {
        Ok(change) => change,
        Err(reason) => return Parsed::Ignored { reason },
    };
    let (Change::New(message) | Change::Edited(message, _) | Change::Deleted(message)) = change;
    if let Some(reason) = message::notice(message) {
        return Parsed::Ignored { reason };
    }
    let frame = Frame {
        identity,
        // The message within a change does not name its channel.
        conversation: lenient::id(event, "channel"),
        channel_type: lenient::text(event, "channel_type"),
        app: lenient::text(payload, "api_app_id"),
        shared: payload.get("is_ext_shared_channel").and_then(Value::as_bool),
        mentioned: kind == "app_mention",
    };
    let message = match message::read(message, frame) {
        Ok(message) if message.author == Author::Own => return Parsed::Ignored { reason: "own message" },
        Ok(message) => Box::new(message),
        // Whatever was changed can still be read from the history.
        Err(_) if !matches!(change, Change::New(_)) => {
            return Parsed::Ignored { reason: "a change of something that is no message" };
        }
        Err(reason) => return Parsed::Unreadable { reason: reason.to_owned() },
    };
    match change {
        Change::New(_) => Parsed::Message(message),
        Change::Deleted(_) => Parsed::Deleted(message),
        Change::Edited(_, previous) => {
            let before = previous.and_then(|previous| message::read(previous, frame).ok());
            // Slack changes messages by itself too: it unfurls links, counts replies, pins.
            let files = |message: &ChatMessage| message.files.iter().map(|file| file.id.clone()).collect::<Vec<_>>();
            let same = |before: ChatMessage| before.text == message.text && files(&before) == files(&message);
            match before.is_some_and(same) {
                true => Parsed::Ignored { reason: "a change of neither text nor files" },
                false => Parsed::Edited(message),
            }
        }
    }
}

/// Reads JSON, also such in which single characters are broken: text that was cut in the middle of a character arrives
/// as bytes that are no UTF-8 or as half of an escaped surrogate pair, and is no reason to lose the message.
fn json(raw: &[u8]) -> Option<Value> {
    serde_json::from_slice(raw).ok().or_else(|| {
        let text = String::from_utf8_lossy(raw);
        serde_json::from_str(&mend_surrogates(&text)).ok()
    })
}

/// Replaces every half of a surrogate pair that stands alone by U+FFFD.
fn mend_surrogates(text: &str) -> Cow<'_, str> {
    let half = |at: usize| -> Option<u16> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        let unit = u16::from_str_radix(digits, 16).ok()?;
        (0xD800..0xE000).contains(&unit).then_some(unit)
    };
    let mut mended = String::new();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match half(at) {
            Some(high) if high < 0xDC00 && half(at + 6).is_some_and(|low| low >= 0xDC00) => at += 12,
            Some(_) => {
                mended.push_str(&text[from..at]);
                mended.push_str("\\ufffd");
                at += 6;
                from = at;
            }
            // An escaped character of any other kind, `\\` included, is stepped over as a pair.
            None => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    if from == 0 {
        return Cow::Borrowed(text);
    }
    mended.push_str(&text[from..]);
    Cow::Owned(mended)
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
