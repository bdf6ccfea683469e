//! What the demo agent says and does. No model is asked: the first word that it knows decides.

use std::time::Duration;

use broker_core::agent::Activity;
use serde_json::{Value, json};

/// A step of a turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Act {
    /// People see that it does something.
    Doing(Activity),
    /// It takes its time; what is said meanwhile is noted.
    Work(Duration),
    /// It calls a tool of the broker and goes on.
    Call {
        /// The tool.
        tool: &'static str,
        /// Its arguments.
        arguments: Value,
    },
    /// It calls the broker's history and tells what it has read.
    TellHistory,
    /// It ends the turn with a text.
    Finish(String),
    /// It ends the turn without one: everything is said.
    Silent,
    /// It ends the turn with a failure.
    Fail(&'static str),
}

const GREETING: &str = "\
Hello! I am a scripted demo agent, not a real one: I know a few words and no more. What carries our words is the broker itself, \
with its journal, its sessions and its outbox; on Slack it does the same with Codex in my place.

Ask me \"what can you do?\"";

const ABILITIES: &str = "\
Each of these shows something that the broker does between Slack and an agent:

- `work`: a longer turn with progress on the way. Write something meanwhile: it joins the turn that runs. `-stop` ends it.
- `history`: I ask the broker for the earlier messages of this thread.
- `state`: I end my turn by saying that I am blocked, and why.
- `markdown`: a text with a list, a table and code. `broker mrkdwn` shows what Slack would get.
- `fail`: a turn that fails, and what people are told of that.
- anything else: I say it back.

Everything is kept: end the program, start it again, and this thread goes on. With a login for Codex (OPENAI_API_KEY, \
CODEX_AUTH_JSON_PATH, or an auth.json in CODEX_HOME) a real agent takes my place.";

const MARKDOWN: &str = "\
## A heading with **bold** in it

1. a list with *emphasis*
   - and another one in it
2. [a link](https://example.com)

| fruit | amount |
|:------|-------:|
| apple |      3 |
| pear  |     12 |

```rust
fn main() { println!(\"code stays as it is\"); }
```";

/// What is noted of something that is said while the agent is at work.
pub(super) fn noted(words: &str) -> String {
    format!("Noted, while I am at work: “{}”", beginning(words))
}

/// What is told of the history.
pub(super) fn history(answer: &str) -> String {
    let count = answer.matches("\"message_ts\"").count();
    match count {
        0 => "The broker says that nobody but me has written in this thread.".to_owned(),
        1 => "The broker gave me the one message that you have written in this thread.".to_owned(),
        count => format!("The broker gave me the {count} messages that you have written in this thread."),
    }
}

/// What follows from a person's words.
pub(super) fn acts(words: &str) -> Vec<Act> {
    let lower = words.to_lowercase();
    let says = |word: &str| lower.split(|c: char| !c.is_alphanumeric()).any(|known| known == word);
    if lower.contains("what can you") || says("help") || says("abilities") {
        return vec![Act::Finish(ABILITIES.to_owned())];
    }
    if says("hello") || says("hi") || says("hey") {
        return vec![Act::Finish(GREETING.to_owned())];
    }
    if says("work") || says("count") {
        return work();
    }
    if says("history") {
        return vec![Act::Doing(Activity::UsingTool), Act::TellHistory];
    }
    if says("state") || says("block") {
        let text = "I cannot go on by myself, so I end this turn as blocked. A real agent would say what it needs.";
        let arguments = json!({"text": text, "kind": "block", "reason": "a person has to decide"});
        return vec![Act::Call { tool: "post", arguments }, Act::Silent];
    }
    if says("markdown") || says("table") || says("code") {
        return vec![Act::Finish(MARKDOWN.to_owned())];
    }
    if says("fail") {
        return vec![Act::Fail("the demo agent was asked to fail")];
    }
    if lower.contains("turn was cut") {
        return vec![Act::Finish(
            "I was interrupted, and the broker woke me up to go on. Everything you said is here.".to_owned(),
        )];
    }
    let text = format!(
        "You said: “{}”. I am a scripted demo agent; \"what can you do?\" shows what I know.",
        beginning(words)
    );
    vec![Act::Finish(text)]
}

fn work() -> Vec<Act> {
    let mut acts = Vec::new();
    for (step, activity) in [(1, Activity::RunningCommand), (2, Activity::EditingFiles), (3, Activity::SearchingWeb)] {
        let text = format!("Step {step} of 3 begins.");
        acts.push(Act::Call { tool: "post", arguments: json!({"text": text, "kind": "progress"}) });
        acts.push(Act::Doing(activity));
        acts.push(Act::Work(Duration::from_millis(2_500)));
    }
    let text = "All three steps are done. This last word was posted by a tool, so it is not repeated.";
    acts.push(Act::Call { tool: "post", arguments: json!({"text": text, "kind": "final"}) });
    acts.push(Act::Silent);
    acts
}

fn beginning(words: &str) -> String {
    words.trim().chars().take(500).collect()
}

/// A person's own words in what the broker gives to an agent: the text in the last block of JSON, or the whole where there
/// is none.
pub(super) fn words(input: &str) -> String {
    let block = input.rfind("```json").map(|at| &input[at + "```json".len()..]);
    let block = block.and_then(|rest| rest.split("\n```").next());
    let value: Option<Value> = block.and_then(|text| serde_json::from_str(text).ok());
    let text = value.as_ref().and_then(|value| {
        let known = |name: &str| value.get(name).and_then(Value::as_str);
        known("text_with_resolved_mentions").or_else(|| known("text"))
    });
    text.unwrap_or(input).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_that_it_names_is_known() {
        for word in ["work", "history", "state", "markdown", "fail"] {
            assert!(ABILITIES.contains(&format!("`{word}`")));
            assert!(!matches!(&acts(word)[..], [Act::Finish(text)] if text.starts_with("You said")), "{word}");
        }
        assert_eq!(acts("Hello there"), [Act::Finish(GREETING.to_owned())]);
        assert_eq!(acts("what can you do?"), [Act::Finish(ABILITIES.to_owned())]);
        assert!(matches!(&acts("the workshop")[..], [Act::Finish(text)] if text.contains("the workshop")));
    }

    #[test]
    fn the_words_of_a_message_are_found() {
        let input = "A new message follows.\n```json\n{\"text\": \"a `b`\\n```\"}\n```\n";
        assert_eq!(words(input), "a `b`\n```");
        assert_eq!(words("no block"), "no block");
        assert_eq!(words("```json\n{broken\n```"), "```json\n{broken\n```");
    }
}
