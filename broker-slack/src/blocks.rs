//! The text of messages that consist of blocks (<https://docs.slack.dev/reference/block-kit/blocks>), in Slack's markup.

use serde_json::Value;

use crate::lenient;
use crate::text::escape;

/// The longest text that is made of blocks, in bytes: a message that consists of blocks alone is a bot's, and context.
const MAX_TEXT: usize = 64 * 1024;
/// Levels of a list that are indented; Slack has nine.
const MAX_INDENT: usize = 8;

/// A text that is being made.
#[derive(Debug, Default)]
pub(crate) struct Text {
    out: String,
    /// Whether something did not fit.
    pub(crate) is_cut: bool,
}

/// All that there is of what many bots write.
pub(crate) fn of<'a>(blocks: impl IntoIterator<Item = &'a Value>) -> Text {
    let mut text = Text::default();
    for block in blocks {
        text.node(block);
        text.end_line();
    }
    text.out.truncate(text.out.trim_end().len());
    text
}

impl Text {
    /// What was made.
    pub(crate) fn into_string(self) -> String {
        self.out
    }

    /// Walks one block or element. Unknown kinds are walked too: what they hold under the usual names is taken.
    /// The depth is bounded by the JSON parser, which refuses more than 128 levels.
    fn node(&mut self, node: &Value) {
        match lenient::text(node, "type").unwrap_or_default() {
            "user" => self.wrap("<@", lenient::text(node, "user_id"), ">"),
            "channel" => self.wrap("<#", lenient::text(node, "channel_id"), ">"),
            "usergroup" => self.wrap("<!subteam^", lenient::text(node, "usergroup_id"), ">"),
            "broadcast" => self.wrap("@", lenient::text(node, "range"), ""),
            "emoji" => self.wrap(":", lenient::text(node, "name"), ":"),
            "date" => self.push(&escape(lenient::text(node, "fallback").unwrap_or_default())),
            "color" => self.push(lenient::text(node, "value").unwrap_or_default()),
            "link" => self.push(&styled(node, link(lenient::text(node, "url"), lenient::text(node, "text")))),
            "button" => {
                let label = node.get("text").and_then(|label| lenient::text(label, "text"));
                self.push(&link(lenient::text(node, "url"), label));
            }
            "image" => self.image(node),
            // These are no markup.
            "text" | "plain_text" | "raw_text" => {
                self.push(&styled(node, escape(&lenient::written(node, "text"))));
            }
            "rich_text_list" => self.list(node),
            "rich_text_quote" => {
                let mut inner = Self::default();
                inner.children(node, false);
                for line in inner.out.lines() {
                    self.push("&gt; ");
                    self.push(line);
                    self.end_line();
                }
            }
            "rich_text_preformatted" => {
                self.end_line();
                self.push("```\n");
                self.children(node, false);
                self.end_line();
                self.push("```\n");
            }
            kind => self.parts(node, kind != "rich_text_section"),
        }
    }

    /// What a block or element holds under the usual names.
    fn parts(&mut self, node: &Value, lines: bool) {
        match node.get("text") {
            Some(Value::String(text)) => self.push(text),
            Some(inner @ Value::Object(_)) => self.node(inner),
            _ => {}
        }
        for name in ["title", "label", "description", "accessory"] {
            if let Some(part @ Value::Object(_)) = node.get(name) {
                self.end_line();
                self.node(part);
            }
        }
        self.children(node, lines);
    }

    /// What is in a block or element, in lines of its own or in one.
    fn children(&mut self, node: &Value, lines: bool) {
        for name in ["elements", "fields", "rows"] {
            for child in lenient::list(node, name) {
                match child {
                    Value::Array(cells) => cells.iter().for_each(|cell| {
                        self.node(cell);
                        self.push(" ");
                    }),
                    _ => self.node(child),
                }
                if lines {
                    self.end_line();
                }
            }
        }
    }

    /// A list (<https://docs.slack.dev/reference/block-kit/blocks/rich-text-block>): each level of it is a list of its own.
    fn list(&mut self, node: &Value) {
        let indent = usize::try_from(lenient::number(node, "indent").unwrap_or_default()).unwrap_or(MAX_INDENT);
        let first = lenient::number(node, "offset").unwrap_or_default().saturating_add(1);
        let ordered = lenient::text(node, "style") == Some("ordered");
        for (number, item) in (first..).zip(lenient::list(node, "elements")) {
            self.end_line();
            self.push(&"    ".repeat(indent.min(MAX_INDENT)));
            self.push(&if ordered { format!("{number}. ") } else { "• ".to_owned() });
            self.node(item);
        }
        self.end_line();
    }

    /// An image: what it shows and where it is.
    fn image(&mut self, node: &Value) {
        let title = node.get("title").and_then(|title| lenient::text(title, "text"));
        let shows = lenient::text(node, "alt_text").or(title).map(escape);
        let file = node.get("slack_file").and_then(|file| lenient::text(file, "url"));
        let place = lenient::text(node, "image_url").or(file).map(str::to_owned);
        let words: Vec<String> = shows.into_iter().chain(place).collect();
        if !words.is_empty() {
            self.push(&format!("(image: {})", words.join(", ")));
        }
    }

    fn wrap(&mut self, before: &str, id: Option<&str>, after: &str) {
        if let Some(id) = id {
            self.push(&format!("{before}{id}{after}"));
        }
    }

    fn push(&mut self, text: &str) {
        let room = MAX_TEXT.saturating_sub(self.out.len());
        self.is_cut |= text.len() > room;
        self.out.push_str(&text[..text.floor_char_boundary(room)]);
    }

    fn end_line(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.push("\n");
        }
    }
}

/// A link in Slack's markup; a label alone where there is no address.
fn link(url: Option<&str>, label: Option<&str>) -> String {
    let label = label.map(escape);
    match (url.filter(|url| !url.contains(['<', '>', '|'])), label) {
        (Some(url), Some(label)) if label != url => format!("<{url}|{}>", label.replace('|', "¦")),
        (Some(url), _) => format!("<{url}>"),
        (None, label) => label.unwrap_or_default(),
    }
}

/// A text with the marks of its element's style; spaces around it stay outside of them.
fn styled(node: &Value, text: String) -> String {
    let Some(style) = node.get("style").filter(|style| style.is_object()) else { return text };
    let inner = text.trim();
    if inner.is_empty() {
        return text;
    }
    let marks = [("code", "`"), ("strike", "~"), ("italic", "_"), ("bold", "*")];
    let marks = marks.iter().filter(|(name, _)| lenient::flag(style, name));
    let marked = marks.fold(inner.to_owned(), |text, (_, mark)| format!("{mark}{text}{mark}"));
    text.replacen(inner, &marked, 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(blocks: &Value) -> String {
        of(blocks.as_array().unwrap()).into_string()
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
        assert_eq!(read(&message["blocks"]), "Build\nfailed for <@U1>:x:\na\nb");
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
            let read = read(&json!([block]));
            let lines: Vec<&str> = read.lines().map(str::trim).collect();
            assert_eq!(lines.join("\n"), expected, "{block}");
        }
    }

    #[test]
    fn lists_code_and_styles_keep_their_marks() {
        let section = |text: &str| json!({"type": "rich_text_section", "elements": [{"type": "text", "text": text}]});
        let list = |style: &str, indent: u32, offset: u32, items: &[&str]| {
            let items: Vec<Value> = items.iter().map(|item| section(item)).collect();
            json!({"type": "rich_text_list", "style": style, "indent": indent, "offset": offset, "elements": items})
        };
        let styled = |text: &str, style: Value| json!({"type": "text", "text": text, "style": style});
        let cases = [
            (
                json!([
                    section("to do"),
                    list("bullet", 0, 0, &["a", "b"]),
                    list("bullet", 1, 0, &["c"]),
                    section("end")
                ]),
                "to do\n• a\n• b\n    • c\nend",
            ),
            (json!([list("ordered", 0, 0, &["a", "b"]), list("ordered", 0, 2, &["c"])]), "1. a\n2. b\n3. c"),
            (
                json!([section("see"), {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "if a < b {\n}"}]},
                    section("there")]),
                "see\n```\nif a &lt; b {\n}\n```\nthere",
            ),
            (
                json!([{"type": "rich_text_section", "elements": [{"type": "text", "text": "run "}, styled("rm -r", json!({"code": true})),
                    styled(" now ", json!({"bold": true, "italic": true})), styled("not", json!({"strike": true})),
                    styled("?", json!({"bold": false}))]}]),
                "run `rm -r` *_now_* ~not~?",
            ),
            (
                json!([{"type": "rich_text_quote", "elements": [{"type": "text", "text": "a\nb"}]}, section("c")]),
                "&gt; a\n&gt; b\nc",
            ),
        ];
        for (elements, expected) in cases {
            assert_eq!(read(&json!([{"type": "rich_text", "elements": elements}])), expected, "{elements}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let blocks =
            |bytes: usize| json!([{"type": "section", "text": {"type": "mrkdwn", "text": "é".repeat(bytes / 2)}}]);
        assert!(!of(blocks(MAX_TEXT - 2).as_array().unwrap()).is_cut);
        let text = of(blocks(MAX_TEXT + 2).as_array().unwrap());
        assert!(text.is_cut && text.out.len() <= MAX_TEXT);
    }
}
