//! What hangs on a message beside its text: forwarded messages, previews of links, the attachments of bots.
//!
//! The shapes: <https://docs.slack.dev/legacy/legacy-messaging/legacy-secondary-message-attachments>; what forwarded messages and
//! previews carry beyond that is not documented and was taken from messages as clients send them (`is_share`,
//! `is_msg_unfurl`, `message_blocks`, `from_url`). A field that is odd counts as absent.

use serde_json::Value;

use crate::{lenient, text};

/// Attachments that are read of one message; Slack allows 100 (<https://docs.slack.dev/reference/methods/chat.postMessage>).
const MAX_ATTACHMENTS: usize = 20;
/// The longest text of all attachments of a message, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// The attachments of a message, each as text in Slack's markup.
pub(crate) fn of(message: &Value) -> Vec<String> {
    let all = lenient::list(message, "attachments");
    let mut room = MAX_TEXT;
    let (mut read, mut shown) = (Vec::new(), 0);
    for attachment in all.iter().take(MAX_ATTACHMENTS) {
        let mut text = one(attachment);
        if room == 0 && !text.is_empty() {
            break;
        }
        shown += 1;
        if text.len() > room {
            text.truncate(text.floor_char_boundary(room));
            text.push_str("… (cut)");
            room = 0;
        } else {
            room -= text.len();
        }
        if !text.is_empty() {
            read.push(text);
        }
    }
    // What says nothing is not missed.
    let more = all.iter().skip(shown).filter(|attachment| !one(attachment).is_empty()).count();
    if more > 0 {
        read.push(format!("({more} more were left out)"));
    }
    read
}

fn one(attachment: &Value) -> String {
    let mut out = String::new();
    let forwarded = lenient::flag(attachment, "is_share") || lenient::flag(attachment, "is_msg_unfurl");
    let link = lenient::text(attachment, "from_url").or_else(|| lenient::text(attachment, "original_url"));
    if forwarded {
        out.push_str(&forwarded_from(attachment, link));
    } else if let Some(link) = link {
        text::push(&mut out, &format!("Preview of {link}:"));
    }
    text::end_line(&mut out);
    let head = out.len();
    // A forwarded message has its blocks in an envelope of their own.
    let inner = lenient::list(attachment, "message_blocks").iter();
    let inner = inner.filter_map(|of| of.get("message")).flat_map(|message| lenient::list(message, "blocks"));
    for block in lenient::list(attachment, "blocks").iter().chain(inner) {
        text::collect(block, &mut out);
        text::end_line(&mut out);
    }
    if out.len() == head {
        lines(attachment, forwarded, &mut out);
    }
    for file in lenient::list(attachment, "files") {
        let name = lenient::text(file, "name").or_else(|| lenient::text(file, "title")).unwrap_or("without a name");
        text::push(&mut out, &format!("(file: {name})"));
        text::end_line(&mut out);
    }
    if out.len() == head {
        text::push(&mut out, &lenient::written(attachment, "fallback"));
    }
    out.trim().to_owned()
}

/// Whose words these are, where they stand and since when.
fn forwarded_from(attachment: &Value, link: Option<&str>) -> String {
    let name = lenient::text(attachment, "author_name").or_else(|| lenient::text(attachment, "author_subname"));
    let author = match (name, lenient::text(attachment, "author_id")) {
        (Some(name), _) => format!(" of {}", text::escape(name)),
        (None, Some(id)) => format!(" of <@{id}>"),
        (None, None) => String::new(),
    };
    let place = match (lenient::text(attachment, "channel_name"), lenient::text(attachment, "channel_id")) {
        (Some(name), _) => format!(" in #{}", text::escape(name)),
        (None, Some(id)) => format!(" in <#{id}>"),
        (None, None) => String::new(),
    };
    let ts = lenient::ts(attachment, "ts").map(|ts| format!(", message_ts {ts}")).unwrap_or_default();
    let link = link.map(|link| format!(", {link}")).unwrap_or_default();
    format!("Forwarded message{author}{place}{ts}{link}:")
}

/// An old-style attachment: its lines.
fn lines(attachment: &Value, forwarded: bool, out: &mut String) {
    let mut line = |line: &str| {
        text::push(out, line);
        text::end_line(out);
    };
    line(&lenient::written(attachment, "pretext"));
    if !forwarded {
        line(&lenient::written(attachment, "service_name"));
        line(&lenient::written(attachment, "author_name"));
    }
    let title = lenient::written(attachment, "title");
    match lenient::text(attachment, "title_link") {
        Some(link) if !title.is_empty() && link != title => line(&format!("{title} ({link})")),
        Some(link) if title.is_empty() => line(link),
        _ => line(&title),
    }
    line(&lenient::written(attachment, "text"));
    for field in lenient::list(attachment, "fields") {
        let (title, value) = (lenient::written(field, "title"), lenient::written(field, "value"));
        line(&if title.is_empty() || value.is_empty() { title + &value } else { format!("{title}: {value}") });
    }
    if let Some(image) = lenient::text(attachment, "image_url") {
        line(&format!("(image: {image})"));
    }
    line(&lenient::written(attachment, "footer"));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attachments_as_they_come() {
        let rich = json!([{"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [
            {"type": "text", "text": "the "}, {"type": "text", "text": "deploy"}, {"type": "text", "text": " is red"}]}]}]);
        let cases = [
            (
                json!({"is_share": true, "author_name": "Ada <b>", "channel_name": "ops", "ts": "1700000000.000100",
                       "from_url": "https://x.slack.com/archives/C2/p1700000000000100", "fallback": "[…]",
                       "message_blocks": [{"team": "T1", "channel": "C2", "message": {"blocks": rich}}]}),
                "Forwarded message of Ada &lt;b&gt; in #ops, message_ts 1700000000.000100, \
                 https://x.slack.com/archives/C2/p1700000000000100:\nthe deploy is red",
            ),
            (
                json!({"is_msg_unfurl": true, "author_id": "U2", "channel_id": "C2", "text": "see <@U3>",
                       "files": [{"name": "log.txt"}]}),
                "Forwarded message of <@U2> in <#C2>:\nsee <@U3>\n(file: log.txt)",
            ),
            (
                json!({"from_url": "https://example.org/a", "service_name": "Example", "title": "A",
                       "title_link": "https://example.org/a?b", "text": "About &amp; more", "image_url": "https://i/1.png"}),
                "Preview of https://example.org/a:\nExample\nA (https://example.org/a?b)\nAbout &amp; more\n\
                 (image: https://i/1.png)",
            ),
            (
                json!({"pretext": "Alert", "fields": [{"title": "Host", "value": "db1", "short": true}, {"value": "up"}],
                       "footer": "monitor", "fallback": "never"}),
                "Alert\nHost: db1\nup\nmonitor",
            ),
            (json!({"fallback": "only this", "title": 5.5}), "5.5"),
            (json!({"fallback": "only this"}), "only this"),
            (json!({"color": "#fff"}), ""),
            (json!("odd"), ""),
        ];
        for (attachment, expected) in cases {
            assert_eq!(one(&attachment), expected, "{attachment}");
        }
    }

    #[test]
    fn many_and_long_ones_are_bounded_and_say_so() {
        let many: Vec<Value> = (0..100).map(|n| json!({"text": format!("{n}{}", "é".repeat(5_000))})).collect();
        let read = of(&json!({"attachments": many}));
        assert!(read.iter().map(String::len).sum::<usize>() <= MAX_TEXT + 100);
        assert!(read[read.len() - 2].ends_with("… (cut)"));
        assert_eq!(*read.last().unwrap(), format!("({} more were left out)", 100 - (read.len() - 1)));
        let short: Vec<Value> = (0..30).map(|n| json!({"text": format!("{n}")})).collect();
        assert_eq!(of(&json!({"attachments": short})).last().unwrap(), "(10 more were left out)");
    }
}
