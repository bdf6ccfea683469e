//! The agent of the traffic: it answers what it was asked, once, and repeats after a crash only what did not appear.
//!
//! What it does with a message stands in the message (`way:…`). Every answer has a number of its own and names the words
//! of the messages that it answers, so that each can be found again in Slack.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::{Way, numbers};
use crate::fake_model::{ModelRequest, Step};
use crate::watched::Watched;

/// How the notice begins that a turn was cut.
const CUT: &str = "Your last turn was cut";
/// How the reminder begins that a turn ended without a word.
const SILENT: &str = "Your last turn ended without a final message";

/// What the agent knows of its conversations.
#[derive(Debug)]
pub(super) struct Agent {
    memory: Watched<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    answers: u64,
    /// By the runtime's thread.
    conversations: HashMap<String, Conversation>,
    complaints: Vec<String>,
    /// Calls that the runtime did not keep.
    dropped: Vec<String>,
}

#[derive(Debug, Default)]
struct Conversation {
    /// How many of the inputs it has seen.
    known: usize,
    turn: Turn,
    before: Turn,
}

/// A turn, as far as the agent knows.
#[derive(Debug, Default)]
struct Turn {
    id: String,
    /// Messages without an answer.
    open: BTreeSet<u32>,
    /// Messages whose answer may have appeared or not.
    again: BTreeSet<u32>,
    way: Way,
    /// How many steps went into the newest message.
    stage: usize,
    /// What the last call of `post` says, and the messages that it answers, until its result is known.
    posting: Option<(String, BTreeSet<u32>)>,
    /// Whether the agent has said its last word.
    ended: bool,
}

impl Agent {
    pub(super) fn new() -> Self {
        Self { memory: Watched::new(Memory::default()) }
    }

    /// What should not have come.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.memory.read(|memory| memory.complaints.clone())
    }

    /// Calls of which the runtime showed neither the call nor an answer in the same turn.
    pub(super) fn dropped(&self) -> Vec<String> {
        self.memory.read(|memory| memory.dropped.clone())
    }

    /// The answer to a request; nothing to one that is not of the traffic.
    pub(super) fn answer(&self, request: &ModelRequest) -> Option<Step> {
        let said = request.said();
        if said.iter().all(|text| numbers(text, "word-").is_empty()) {
            return None;
        }
        Some(self.memory.change(|memory| {
            if let Some(complaint) = memory.listen(request, &said) {
                memory.complaints.push(complaint);
            }
            memory.step(request)
        }))
    }
}

impl Memory {
    fn listen(&mut self, request: &ModelRequest, said: &[String]) -> Option<String> {
        let conversation = self.conversations.entry(request.thread.clone()).or_default();
        if conversation.turn.id != request.turn {
            let turn = Turn { id: request.turn.clone(), ..Turn::default() };
            conversation.before = std::mem::replace(&mut conversation.turn, turn);
        }
        let Some(new) = said.get(conversation.known..) else {
            return Some(format!("the history of {} became shorter", request.thread));
        };
        conversation.known = said.len();
        self.dropped.extend(conversation.turn.posted(request));
        for text in new {
            conversation.hear(text);
        }
        None
    }

    fn step(&mut self, request: &ModelRequest) -> Step {
        let Some(conversation) = self.conversations.get_mut(&request.thread) else { return Step::Nothing };
        let turn = &mut conversation.turn;
        let stage = turn.stage;
        turn.stage += 1;
        self.answers += 1;
        let number = self.answers;
        let word = turn.open.last().copied().unwrap_or_default();
        match (turn.way, stage) {
            (Way::Shell, 0) => return Step::Shell(format!("sleep 0.2; echo {word}")),
            (Way::Progress, 0) => return Step::post("progress", &format!("progress {number} on {word}")),
            (Way::Post, 0) if !turn.open.is_empty() => {
                let text = turn.words(number);
                turn.posting = Some((text.clone(), turn.open.clone()));
                return Step::post("final", &text);
            }
            _ => {}
        }
        turn.ended = true;
        if turn.open.is_empty() && turn.again.is_empty() {
            let posted = turn.way == Way::Post;
            return if posted { Step::Nothing } else { Step::Text(format!("nothing left {number}")) };
        }
        let answer = Step::Text(turn.words(number));
        match turn.way {
            Way::Late(millis) if stage == 0 => Step::After(Duration::from_millis(millis), Box::new(answer)),
            _ => answer,
        }
    }
}

impl Conversation {
    /// A new input.
    fn hear(&mut self, text: &str) {
        let turn = &mut self.turn;
        if text.starts_with(CUT) || text.starts_with(SILENT) {
            // What came right before this and was never seen may have been a turn of its own, or the end of the one before.
            let sure = turn.open.is_empty() || !self.before.ended;
            let left = std::mem::take(&mut self.before.open);
            if sure {
                turn.open.extend(left)
            } else {
                turn.again.extend(left)
            }
            for appeared in numbers(text, "word-").into_iter().chain(numbers(text, "again-")) {
                turn.open.remove(&appeared);
                turn.again.remove(&appeared);
            }
            return;
        }
        let new = numbers(text, "word-");
        if !new.is_empty() {
            turn.open.extend(new);
            (turn.way, turn.stage) = (Way::of(text), 0);
        }
    }
}

impl Turn {
    /// Looks at what became of the last post; returns it when it is not there.
    fn posted(&mut self, request: &ModelRequest) -> Option<String> {
        let (text, posting) = self.posting.take()?;
        // A call without an answer did not happen, as far as the agent knows.
        let Some(said) = request.output_of(&text) else {
            return Some(format!("{text} (turn {}, {} inputs)", self.id, request.said().len()));
        };
        if said.starts_with("posted (") || said.starts_with("queued as") {
            self.open.retain(|word| !posting.contains(word));
            self.again.clear();
        }
        None
    }

    fn words(&self, number: u64) -> String {
        let open = self.open.iter().map(|word| format!(" word-{word:04}"));
        let again = self.again.iter().map(|word| format!(" again-{word:04}"));
        format!("answer {number} to{}", open.chain(again).collect::<String>())
    }
}

impl Way {
    /// How a message of the traffic begins.
    pub(super) fn text(self, word: u32) -> String {
        format!("word-{word:04} way:{}", self.name())
    }
}
