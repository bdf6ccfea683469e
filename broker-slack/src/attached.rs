//! What hangs on a message beside its text: forwarded messages, previews of links, the attachments of bots.
//!
//! The shapes: <https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments>; what forwarded messages and
//! previews carry beyond that is not documented and was taken from messages as clients send them (`is_share`,
//! `is_msg_unfurl`, `message_blocks`, `from_url`). A field that is odd counts as absent.

use broker_core::chat::{Attachment, AttachmentKind, MessageId};
use serde_json::Value;

use crate::{blocks, lenient, message, text};

/// Attachments that are read of one message; Slack allows 100 (<https://docs.slack.dev/reference/methods/chat.postMessage>).
const MAX_ATTACHMENTS: usize = 20;
/// The longest texts of all attachments of a message together, in bytes.
const MAX_TEXT: usize = 64 * 1024;
/// Files taken from one attachment.
const MAX_FILES: usize = 20;

/// The attachments of a message.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    pub(crate) read: Vec<Attachment>,
    /// How many more there are that say something.
    pub(crate) left_out: usize,
}

impl Attachments {
    /// The texts in which something may be mentioned.
    pub(crate) fn markup(&self) -> impl Iterator<Item = &str> {
        let texts = self.read.iter().flat_map(|read| [&read.channel, &read.pretext, &read.title, &read.text]);
        texts.flatten().map(String::as_str)
    }
}

/// Reads the attachments of a message.
pub(crate) fn of(message: &Value) -> Attachments {
    let mut room = MAX_TEXT;
    let mut all = Attachments::default();
    for (index, attachment) in lenient::list(message, "attachments").iter().enumerate() {
        // What says nothing is not missed.
        let Some(mut attachment) = one(attachment) else { continue };
        if index >= MAX_ATTACHMENTS || room == 0 {
            all.left_out += 1;
            continue;
        }
        fit(&mut attachment, &mut room);
        all.read.push(attachment);
    }
    all
}

/// The texts of an attachment, and whether each is an address, of which a piece leads nowhere.
fn texts(attachment: &mut Attachment) -> impl Iterator<Item = (&mut Option<String>, bool)> {
    let Attachment { author, channel, link, service, pretext, title, title_link, text, image, .. } = attachment;
    let texts = [author, channel, service, pretext, title, text].map(|text| (text, false));
    [link, title_link, image].map(|address| (address, true)).into_iter().chain(texts)
}

/// Cuts what is longer than the room that is left.
fn fit(attachment: &mut Attachment, room: &mut usize) {
    let mut is_cut = false;
    for (place, is_address) in texts(attachment) {
        let Some(text) = place else { continue };
        if text.len() <= *room {
            *room -= text.len();
            continue;
        }
        is_cut = true;
        text.truncate(if is_address { 0 } else { text.floor_char_boundary(*room) });
        *room -= text.len();
        if text.is_empty() {
            *place = None;
        } else {
            *room = 0;
        }
    }
    attachment.is_cut |= is_cut;
}

/// Reads an attachment; absent when it says nothing.
fn one(attachment: &Value) -> Option<Attachment> {
    let named = |name| lenient::text(attachment, name).map(str::to_owned);
    let written = |name| Some(lenient::written(attachment, name)).filter(|text| !text.trim().is_empty());
    let forwarded = lenient::flag(attachment, "is_share") || lenient::flag(attachment, "is_msg_unfurl");
    let link = named("from_url").or_else(|| named("original_url"));
    let kind = match &link {
        _ if forwarded => AttachmentKind::Forwarded,
        Some(_) => AttachmentKind::Preview,
        None => AttachmentKind::Attachment,
    };
    let files = lenient::list(attachment, "files").iter().filter_map(message::file).take(MAX_FILES);
    let mut read = Attachment { kind, link, files: files.collect(), ..Attachment::default() };
    if forwarded {
        read.author = named("author_name")
            .or_else(|| named("author_subname"))
            .map(|name| text::escape(&name))
            .or_else(|| named("author_id").map(|id| format!("<@{id}>")));
        let channel = named("channel_name").map(|name| format!("#{}", text::escape(&name)));
        read.channel = channel.or_else(|| named("channel_id").map(|id| format!("<#{id}>")));
        read.message_ts = lenient::ts(attachment, "ts").map(MessageId::new);
    }
    let blocks = blocks(attachment);
    read.is_cut = blocks.is_cut;
    read.text = Some(blocks.into_string()).filter(|text| !text.is_empty());
    if read.text.is_none() {
        if !forwarded {
            (read.service, read.author) = (written("service_name"), written("author_name"));
        }
        (read.pretext, read.title) = (written("pretext"), written("title"));
        read.title_link = named("title_link").filter(|link| read.title.as_ref() != Some(link));
        (read.text, read.image) = (lines(attachment), named("image_url"));
    }
    let said = [&read.service, &read.pretext, &read.title, &read.title_link, &read.text, &read.image];
    if said.iter().all(|part| part.is_none()) && read.files.is_empty() {
        read.text = written("fallback");
    }
    let says_something = texts(&mut read).any(|(text, _)| text.is_some()) || !read.files.is_empty();
    says_something.then_some(read)
}

/// What the blocks of an attachment say. A forwarded message has its blocks in an envelope of their own.
fn blocks(attachment: &Value) -> blocks::Text {
    let inner = lenient::list(attachment, "message_blocks").iter();
    let inner = inner.filter_map(|of| of.get("message")).flat_map(|message| lenient::list(message, "blocks"));
    blocks::of(lenient::list(attachment, "blocks").iter().chain(inner))
}

/// What a bot says in attachments of its own alone, as a text.
pub(crate) fn as_text(attachments: &[Attachment]) -> String {
    let mut lines = Vec::new();
    for Attachment { service, author, pretext, title, title_link, text, image, .. } in attachments {
        lines.extend([pretext, service, author].into_iter().flatten().cloned());
        lines.extend(match (title, title_link) {
            (Some(title), Some(link)) => Some(format!("{title} ({link})")),
            (title, link) => title.as_ref().or(link.as_ref()).cloned(),
        });
        lines.extend(text.clone());
        lines.extend(image.as_ref().map(|image| format!("(image: {image})")));
    }
    lines.join("\n")
}

/// The lines of an old-style attachment.
fn lines(attachment: &Value) -> Option<String> {
    let mut lines = vec![lenient::written(attachment, "text")];
    for field in lenient::list(attachment, "fields") {
        let (title, value) = (lenient::written(field, "title"), lenient::written(field, "value"));
        lines.push(if title.is_empty() || value.is_empty() { title + &value } else { format!("{title}: {value}") });
    }
    lines.push(lenient::written(attachment, "footer"));
    lines.retain(|line| !line.trim().is_empty());
    (!lines.is_empty()).then(|| lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(attachment: &Value) -> Value {
        one(attachment).map_or(Value::Null, |read| serde_json::to_value(read).unwrap())
    }

    #[test]
    fn attachments_as_they_come() {
        let rich = json!([{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [
            {"type": "text", "text": "the "}, {"type": "text", "text": "deploy"}, {"type": "text", "text": " is red"}]}]}]);
        let cases = [
            (
                json!({"is_share": true, "author_name": "Ada <b>", "channel_name": "ops", "ts": "1700000000.000100",
                       "from_url": "https://x.slack.com/archives/C2/p1700000000000100", "fallback": "[…]",
                       "message_blocks": [{"team": "T1", "channel": "C2", "message": {"blocks": rich}}]}),
                json!({"kind": "forwarded", "author": "Ada &lt;b&gt;", "channel": "#ops", "text": "the deploy is red",
                       "message_ts": "1700000000.000100", "link": "https://x.slack.com/archives/C2/p1700000000000100"}),
            ),
            (
                json!({"is_msg_unfurl": true, "author_id": "U2", "channel_id": "C2", "text": "see <@U3>",
                       "files": [{"id": "F1", "name": "log.txt", "url_private": "https://files/1"}]}),
                json!({"kind": "forwarded", "author": "<@U2>", "channel": "<#C2>", "text": "see <@U3>",
                       "files": [{"id": "F1", "name": "log.txt", "url": "https://files/1"}]}),
            ),
            (
                json!({"from_url": "https://example.org/a", "service_name": "Example", "title": "A",
                       "title_link": "https://example.org/a?b", "text": "About &amp; more", "image_url": "https://i/1.png"}),
                json!({"kind": "preview", "link": "https://example.org/a", "service": "Example", "title": "A",
                       "title_link": "https://example.org/a?b", "text": "About &amp; more", "image": "https://i/1.png"}),
            ),
            (
                json!({"pretext": "Alert", "fields": [{"title": "Host", "value": "db1", "short": true}, {"value": "up"}],
                       "footer": "monitor", "fallback": "never"}),
                json!({"kind": "attachment", "pretext": "Alert", "text": "Host: db1\nup\nmonitor"}),
            ),
            // What a bot spells is a text, whatever it says.
            (
                json!({"text": "Forwarded message of Ada in #ops:\ndeploy (file: key.pem)"}),
                json!({"kind": "attachment", "text": "Forwarded message of Ada in #ops:\ndeploy (file: key.pem)"}),
            ),
            (json!({"fallback": "only this", "title": 5.5}), json!({"kind": "attachment", "title": "5.5"})),
            (json!({"fallback": "only this"}), json!({"kind": "attachment", "text": "only this"})),
            (json!({"color": "#fff"}), Value::Null),
            (json!("odd"), Value::Null),
        ];
        for (attachment, expected) in cases {
            assert_eq!(shown(&attachment), expected, "{attachment}");
        }
    }

    #[test]
    fn many_and_long_ones_are_bounded_and_say_so() {
        let many: Vec<Value> = (0..100).map(|n| json!({"text": format!("{n}{}", "é".repeat(5_000))})).collect();
        let Attachments { read, left_out } = of(&json!({"attachments": many}));
        let text = |attachment: &Attachment| attachment.text.as_ref().map_or(0, String::len);
        assert!(read.iter().map(text).sum::<usize>() <= MAX_TEXT);
        let cut: Vec<bool> = read.iter().map(|attachment| attachment.is_cut).collect();
        assert_eq!(cut.iter().rposition(|cut| !cut), Some(read.len() - 2), "the last one alone");
        assert_eq!(left_out, 100 - read.len());
        // What is left out is not there, and an address is whole or none.
        let long = json!({"title": "t", "title_link": format!("https://x/{}", "é".repeat(MAX_TEXT)), "text": "x".repeat(MAX_TEXT),
                          "footer": "f", "image_url": "https://i"});
        let Attachments { read, .. } = of(&json!({"attachments": [long, {"text": "more"}]}));
        let [only] = &read[..] else { panic!("{read:?}") };
        assert_eq!((&only.title_link, only.image.as_deref(), only.is_cut), (&None, Some("https://i"), true));
        assert!(texts(&mut only.clone()).all(|(text, _)| text.as_ref().is_none_or(|text| !text.is_empty())));
        let short: Vec<Value> = (0..30).map(|n| json!({"text": format!("{n}")})).collect();
        let Attachments { read, left_out } = of(&json!({"attachments": short}));
        assert_eq!((read.len(), left_out), (MAX_ATTACHMENTS, 10));
    }
}
