//! Slack's message text: mentions, entities, and the plain text of messages that consist of blocks.

use broker_core::chat::PersonId;
use serde_json::Value;

use crate::lenient;

/// The people whom a text mentions (`<@U1>`, `<@U1|label>`, `W…` ids on Enterprise Grid), in order, each once.
pub(crate) fn mentions(text: &str) -> Vec<PersonId> {
    let mut found: Vec<PersonId> = Vec::new();
    for (_, id) in tokens(text) {
        if !found.iter().any(|known| known.as_str() == id) {
            found.push(PersonId::new(id));
        }
    }
    found
}

/// The text without mentions of `own`, entities decoded, trimmed: what a control word is compared with.
pub(crate) fn control(text: &str, own: &PersonId) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut from = 0;
    for (range, _) in tokens(text).filter(|(_, id)| *id == own.as_str()) {
        rest.push_str(&text[from..range.start]);
        from = range.end;
    }
    rest.push_str(&text[from..]);
    // `&amp;` comes last: `&amp;lt;` is the text `&lt;`.
    let decoded = rest.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    decoded.trim().to_owned()
}

/// Escapes text that is not markup (<https://docs.slack.dev/messaging/formatting-message-text>).
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The mention tokens of a text: where each stands, and whom it names.
fn tokens(text: &str) -> impl Iterator<Item = (std::ops::Range<usize>, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text[from..].find("<@")?;
            let inside = start + 2;
            from = inside;
            let Some(length) = text[inside..].find('>') else { continue };
            let token = &text[inside..inside + length];
            let id = token.split('|').next().unwrap_or_default();
            let well_formed = id.len() > 1
                && id.starts_with(['U', 'W'])
                && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
            if well_formed {
                from = inside + length + 1;
                return Some((start..from, id));
            }
        }
    })
}

/// The longest text that is made of blocks, in bytes: a message that consists of blocks alone is a bot's, and context.
const MAX_BLOCK_TEXT: usize = 64 * 1024;

/// The plain text of a message's blocks: all that there is of what many bots write.
pub(crate) fn of_blocks(message: &Value) -> String {
    let mut out = String::new();
    for block in lenient::list(message, "blocks") {
        collect(block, &mut out);
        end_line(&mut out);
    }
    out.trim().to_owned()
}

/// Whether all that one text says stands in another, whatever marks and spaces lie between.
pub(crate) fn says_all_of(text: &str, other: &str) -> bool {
    let plain = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    plain(text).contains(&plain(other))
}

/// Walks one block or element. Unknown kinds are walked too: what they hold under the usual names is taken.
/// The depth is bounded by the JSON parser, which refuses more than 128 levels.
pub(crate) fn collect(node: &Value, out: &mut String) {
    if out.len() >= MAX_BLOCK_TEXT {
        return;
    }
    match lenient::text(node, "type").unwrap_or_default() {
        "user" => return wrap(out, "<@", lenient::text(node, "user_id"), ">"),
        "channel" => return wrap(out, "<#", lenient::text(node, "channel_id"), ">"),
        "usergroup" => return wrap(out, "<!subteam^", lenient::text(node, "usergroup_id"), ">"),
        "broadcast" => return wrap(out, "@", lenient::text(node, "range"), ""),
        "emoji" => return wrap(out, ":", lenient::text(node, "name"), ":"),
        "link" => {
            let url = lenient::text(node, "url").unwrap_or_default();
            return push(out, lenient::text(node, "text").unwrap_or(url));
        }
        _ => {}
    }
    match node.get("text") {
        Some(Value::String(text)) => push(out, text),
        Some(inner @ Value::Object(_)) => collect(inner, out),
        _ => {}
    }
    let lines = !matches!(lenient::text(node, "type"), Some("rich_text_section" | "rich_text_preformatted"));
    for name in ["elements", "fields", "rows"] {
        for child in lenient::list(node, name) {
            match child {
                Value::Array(cells) => cells.iter().for_each(|cell| {
                    collect(cell, out);
                    push(out, " ");
                }),
                _ => collect(child, out),
            }
            if lines {
                end_line(out);
            }
        }
    }
}

fn wrap(out: &mut String, before: &str, id: Option<&str>, after: &str) {
    if let Some(id) = id {
        out.push_str(before);
        push(out, id);
        out.push_str(after);
    }
}

pub(crate) fn push(out: &mut String, text: &str) {
    let room = MAX_BLOCK_TEXT.saturating_sub(out.len());
    out.push_str(&text[..text.floor_char_boundary(room)]);
}

pub(crate) fn end_line(out: &mut String) {
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ids(text: &str) -> Vec<String> {
        mentions(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn mentions_of_every_spelling() {
        assert_eq!(ids("<@U1> and <@W2|ann>, <@U1> again"), ["U1", "W2"]);
        assert_eq!(ids("<@> <@U> <@u1> <@U1 <#C1> <!here> <@B1> <@U9"), Vec::<String>::new());
        assert_eq!(ids("<@<@U7>"), ["U7"]);
    }

    #[test]
    fn the_control_text_is_without_the_broker() {
        let own = PersonId::new("UBOT");
        assert_eq!(control(" <@UBOT>  -stop ", &own), "-stop");
        assert_eq!(control("<@UBOT|broker> a <@U1> &lt;b&gt; &amp;lt;", &own), "a <@U1> <b> &lt;");
        assert_eq!(control("-stop<@UBOT>", &own), "-stop");
        assert_eq!(control("ü<@UBOT>ß", &own), "üß");
    }

    #[test]
    fn blocks_become_lines() {
        let message = json!({"blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": "Build"}},
            {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": [
                {"type": "text", "text": "failed for "}, {"type": "user", "user_id": "U1"}, {"type": "emoji", "name": "x"}]}]},
            {"type": "section", "fields": [{"type": "mrkdwn", "text": "a"}, {"type": "mrkdwn", "text": "b"}]},
            {"type": "something_new", "text": 5},
            "odd"
        ]});
        assert_eq!(of_blocks(&message), "Build\nfailed for <@U1>:x:\na\nb");
    }
}
