//! Slack's message text: mentions, entities, and the plain text of messages that consist of blocks.

use broker_core::chat::PersonId;
use serde_json::Value;

use crate::lenient;

/// People whom one message mentions; more are not looked up.
const MAX_MENTIONS: usize = 100;

/// The people whom a text mentions (`<@U1>`, `<@U1|label>`, `W…` ids on Enterprise Grid), in order, each once.
pub(crate) fn mentions(text: &str) -> Vec<PersonId> {
    let mut found: Vec<PersonId> = Vec::new();
    for (_, id) in tokens(text) {
        if found.len() == MAX_MENTIONS {
            break;
        }
        if !found.iter().any(|known| known.as_str() == id) {
            found.push(PersonId::new(id));
        }
    }
    found
}

/// Whether a text mentions somebody.
pub(crate) fn names(text: &str, person: &PersonId) -> bool {
    tokens(text).any(|(_, id)| id == person.as_str())
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
        "date" => return push(out, &escape(lenient::text(node, "fallback").unwrap_or_default())),
        "color" => return push(out, lenient::text(node, "value").unwrap_or_default()),
        "link" => return link(out, lenient::text(node, "url"), lenient::text(node, "text")),
        "button" => {
            let label = node.get("text").and_then(|label| lenient::text(label, "text"));
            return link(out, lenient::text(node, "url"), label);
        }
        "image" => return image(node, out),
        // These are no markup.
        "text" | "plain_text" | "raw_text" => return push(out, &escape(&lenient::written(node, "text"))),
        _ => {}
    }
    match node.get("text") {
        Some(Value::String(text)) => push(out, text),
        Some(inner @ Value::Object(_)) => collect(inner, out),
        _ => {}
    }
    for name in ["title", "label", "description", "accessory"] {
        if let Some(part @ Value::Object(_)) = node.get(name) {
            end_line(out);
            collect(part, out);
        }
    }
    let kind = lenient::text(node, "type").unwrap_or_default();
    let lines = !matches!(kind, "rich_text_section" | "rich_text_preformatted" | "rich_text_quote");
    if kind == "rich_text_quote" {
        push(out, "&gt; ");
    }
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

/// A link in Slack's markup; a label alone where there is no address.
fn link(out: &mut String, url: Option<&str>, label: Option<&str>) {
    let label = label.map(escape);
    match (url.filter(|url| !url.contains(['<', '>', '|'])), label) {
        (Some(url), Some(label)) if label != url => push(out, &format!("<{url}|{}>", label.replace('|', "¦"))),
        (Some(url), _) => push(out, &format!("<{url}>")),
        (None, label) => push(out, &label.unwrap_or_default()),
    }
}

/// An image: what it shows and where it is.
fn image(node: &Value, out: &mut String) {
    let title = node.get("title").and_then(|title| lenient::text(title, "text"));
    let shows = lenient::text(node, "alt_text").or(title).map(escape);
    let file = node.get("slack_file").and_then(|file| lenient::text(file, "url"));
    let place = lenient::text(node, "image_url").or(file).map(str::to_owned);
    let words: Vec<String> = shows.into_iter().chain(place).collect();
    if !words.is_empty() {
        push(out, &format!("(image: {})", words.join(", ")));
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

    #[test]
    fn blocks_tell_what_they_link_to_and_show() {
        let plain = |text: &str| json!({"type": "plain_text", "text": text});
        let rich = |elements: Value| json!({"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]});
        let cases = [
            (
                rich(
                    json!([{"type": "link", "url": "https://ci/7?a=1", "text": "run 7"}, {"type": "text", "text": " <@U1> & "},
                            {"type": "link", "url": "https://ci"}]),
                ),
                "<https://ci/7?a=1|run 7> &lt;@U1&gt; &amp; <https://ci>",
            ),
            (rich(json!([{"type": "link", "url": "https://x>|<!here", "text": "a|b>"}])), "a|b&gt;"),
            (
                rich(json!([{"type": "date", "timestamp": 1_700_000_000, "format": "{date}", "fallback": "14 Nov"},
                            {"type": "color", "value": "#fff"}])),
                "14 Nov#fff",
            ),
            (
                json!({"type": "actions", "elements": [{"type": "button", "text": plain("Open"), "url": "https://ci"},
                                                       {"type": "button", "text": plain("Approve")}]}),
                "<https://ci|Open>\nApprove",
            ),
            (
                json!({"type": "section", "text": {"type": "mrkdwn", "text": "*down* <https://a|b>"},
                       "accessory": {"type": "image", "image_url": "https://i/1.png", "alt_text": "a graph"}}),
                "*down* <https://a|b>\n(image: a graph, https://i/1.png)",
            ),
            (
                json!({"type": "image", "title": plain("p99"), "slack_file": {"url": "https://f/1"}}),
                "(image: p99, https://f/1)",
            ),
            (
                json!({"type": "rich_text", "elements": [
                    {"type": "rich_text_quote", "elements": [{"type": "text", "text": "ask "}, {"type": "user", "user_id": "U1"}]},
                    {"type": "rich_text_section", "elements": [{"type": "text", "text": "done"}]}]}),
                "&gt; ask <@U1>\ndone",
            ),
            (json!({"type": "video", "title": plain("Talk"), "description": plain("An hour")}), "Talk\nAn hour"),
            (
                json!({"type": "table", "rows": [[{"type": "raw_text", "text": "a<b"}, rich(json!([{"type": "text", "text": "c"}]))]]}),
                "a&lt;b c",
            ),
        ];
        for (block, expected) in cases {
            let read = of_blocks(&json!({"blocks": [block]}));
            let lines: Vec<&str> = read.lines().map(str::trim).collect();
            assert_eq!(lines.join("\n"), expected, "{block}");
        }
    }
}
