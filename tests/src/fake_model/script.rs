//! What the model is told to do, and how a request's text says so.

use std::time::Duration;

use serde_json::Value;

/// What one answer of the model is.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// A text that ends the turn.
    Text(String),
    /// A text in so many pieces, with a pause before each.
    Slow(u32, Duration),
    /// A pause after the beginning of the answer, then a text.
    Sleep(Duration),
    /// A pause after the beginning of the answer, then another step.
    After(Duration, Box<Step>),
    /// A few words, then nothing until the client hangs up.
    Hang,
    /// A shell command, by whichever shell tool is offered.
    Shell(String),
    /// A shell command with more arguments: an object with `cmd`.
    ShellWith(Value),
    /// A function call: name (`namespace.name` for one in a namespace) and arguments.
    Tool(String, Value),
    /// Several function calls in one answer.
    Tools(Vec<(String, Value)>),
    /// A commentary and a shell command in one answer.
    SayAndShell(String, String),
    /// A commentary, then a final answer that repeats it.
    Commentary(String),
    /// A text of so many KiB.
    BigText(usize),
    /// A text without a letter: the turn ends with nothing said.
    Nothing,
    /// An HTTP error.
    Error(u16, Option<u64>),
    /// HTTP 200, then `response.failed` with a code and a message.
    Failed(String, String),
    /// HTTP 429 with the body of a reached usage limit.
    UsageLimit,
    /// HTTP 200 with events that are none.
    Malformed,
    /// A few words, then the connection breaks off.
    Cutoff,
    /// No answer at all: the connection closes.
    Refuse,
}

impl Step {
    /// A call of the broker's tool `post`.
    pub fn post(kind: &str, text: &str) -> Self {
        let mut args = serde_json::json!({ "text": text, "kind": kind });
        if kind == "block" {
            args["reason"] = "a person has to decide".into();
        }
        Self::Tool("post".to_owned(), args)
    }

    /// Reads what stands behind `scenario:`.
    ///
    /// `text:…` and `commentary:…` take `\n` for a line break. An unknown word is a text that says so.
    pub fn parse(line: &str) -> Self {
        let (kind, rest) = line.split_once(':').unwrap_or((line, ""));
        let rest = rest.trim();
        let lines = || rest.replace("\\n", "\n");
        let seconds = |text: &str| Duration::from_secs_f64(text.parse().unwrap_or(0.0));
        let call = |text: &str| {
            let (name, args) = text.split_once(':').unwrap_or((text, "{}"));
            (name.to_owned(), serde_json::from_str(args).unwrap_or_else(|_| Value::String(args.to_owned())))
        };
        let two = |by: char| rest.split_once(by).map_or((rest, ""), |(a, b)| (a, b));
        match kind.trim() {
            "text" => Self::Text(lines()),
            "slow" => Self::Slow(two(':').0.parse().unwrap_or(1), seconds(two(':').1)),
            "sleep" => Self::Sleep(seconds(rest)),
            "hang" => Self::Hang,
            "shell" => Self::Shell(rest.to_owned()),
            "shellx" => Self::ShellWith(serde_json::from_str(rest).unwrap_or_default()),
            "tool" => {
                let (name, args) = call(rest);
                Self::Tool(name, args)
            }
            "mtool" => Self::Tools(rest.split(";;").map(call).collect()),
            "say_and_shell" => Self::SayAndShell(two('|').0.to_owned(), two('|').1.to_owned()),
            "commentary" => Self::Commentary(lines()),
            "bigtext" => Self::BigText(rest.parse().unwrap_or(1)),
            "nothing" => Self::Nothing,
            "error" => Self::Error(two(':').0.parse().unwrap_or(500), two(':').1.parse().ok()),
            "failed" => Self::Failed(two(':').0.to_owned(), two(':').1.to_owned()),
            "usage_limit" => Self::UsageLimit,
            "malformed" => Self::Malformed,
            "cutoff" => Self::Cutoff,
            "refuse" => Self::Refuse,
            _ => Self::Text(format!("unknown scenario: {line}")),
        }
    }
}

/// Where a text says what the model is to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Found {
    /// `script#N`: a script that a test registered.
    Registered(usize),
    /// `scenario:` lines.
    Inline(Vec<Step>),
}

/// The script of a user's text.
///
/// A message reaches the model as JSON in a fence, where line breaks and quotes are escaped, beside its own text with
/// mentions resolved and after fences with earlier messages. So the last fence is decoded and the `text` in it counts;
/// Slack's `&amp; &lt; &gt;` are undone. A text without fences is read as it is.
pub(super) fn find(text: &str) -> Option<Found> {
    match last_fence(text) {
        Some(block) => texts(&block).iter().rev().find_map(|text| read(text)),
        None => read(text),
    }
}

/// The user's own words: the `text` in the last fence, else the whole.
pub(super) fn words(text: &str) -> String {
    last_fence(text).and_then(|block| texts(&block).pop()).unwrap_or_else(|| text.to_owned())
}

fn read(text: &str) -> Option<Found> {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let registered = text.rsplit_once("script#").and_then(|(_, rest)| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    if let Some(number) = registered {
        return Some(Found::Registered(number));
    }
    let steps: Vec<_> =
        text.lines().filter_map(|line| line.split_once("scenario:")).map(|(_, step)| Step::parse(step)).collect();
    if steps.is_empty() { None } else { Some(Found::Inline(steps)) }
}

/// The JSON of the last fence. A fence is as long as its first line says.
fn last_fence(text: &str) -> Option<Value> {
    let mut found = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let ticks = line.trim_start().chars().take_while(|c| *c == '`').count();
        if ticks < 3 {
            continue;
        }
        let fence = "`".repeat(ticks);
        let body: Vec<_> = lines.by_ref().take_while(|line| line.trim() != fence).collect();
        found = serde_json::from_str::<Value>(&body.join("\n")).ok().or(found);
    }
    found
}

/// The strings under the name `text`, in order.
fn texts(block: &Value) -> Vec<String> {
    let objects = match block {
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    objects.iter().filter_map(|object| object["text"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_found_wherever_a_message_carries_it() {
        let block = |text: &str| {
            let json = serde_json::json!({ "text": text, "text_with_mentions": text, "sender": { "user_id": "U1" } });
            format!("A new message.\n````json\n{json:#}\n````\n")
        };
        let text = |text: &str| Some(Found::Inline(vec![Step::Text(text.to_owned())]));
        for (case, given, expected) in [
            ("nothing", "hello".to_owned(), None),
            ("plain", "scenario:text:a".to_owned(), text("a")),
            ("in the middle of a line", "@broker scenario:text:a".to_owned(), text("a")),
            ("escaped in JSON", block("<@U0> scenario:text:say \"a\""), text("say \"a\"")),
            ("escaped by Slack", block("scenario:text:a &lt; b &amp;&amp; c"), text("a < b && c")),
            ("the last of several", format!("{}{}", block("scenario:text:a"), block("scenario:text:b")), text("b")),
            ("one in an earlier message", format!("{}{}", block("scenario:text:a"), block("b")), None),
            ("registered", block("<@U0> please script#12 now"), Some(Found::Registered(12))),
            (
                "several steps",
                block("scenario:shell:ls | wc\nscenario:text:done"),
                Some(Found::Inline(vec![Step::Shell("ls | wc".to_owned()), Step::Text("done".to_owned())])),
            ),
        ] {
            assert_eq!(find(&given), expected, "{case}");
        }
    }

    #[test]
    fn every_word_is_understood() {
        let call = |name: &str| (name.to_owned(), serde_json::json!({ "b": 1 }));
        for (line, expected) in [
            ("text:a\\nb", Step::Text("a\nb".to_owned())),
            ("slow:3:0.5", Step::Slow(3, Duration::from_millis(500))),
            ("hang", Step::Hang),
            ("shellx:{\"cmd\":\"id\"}", Step::ShellWith(serde_json::json!({ "cmd": "id" }))),
            ("tool:post:{\"b\":1}", Step::Tool("post".to_owned(), serde_json::json!({ "b": 1 }))),
            ("mtool:a:{\"b\":1};;c:{\"b\":1}", Step::Tools(vec![call("a"), call("c")])),
            ("say_and_shell:hi|ls", Step::SayAndShell("hi".to_owned(), "ls".to_owned())),
            ("error:503", Step::Error(503, None)),
            ("error:429:7", Step::Error(429, Some(7))),
            ("failed:bad:so it is", Step::Failed("bad".to_owned(), "so it is".to_owned())),
            ("what", Step::Text("unknown scenario: what".to_owned())),
        ] {
            assert_eq!(Step::parse(line), expected, "{line}");
        }
    }
}
