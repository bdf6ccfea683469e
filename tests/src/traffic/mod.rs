//! Conversations of which nothing may get lost and nothing may come twice.
//!
//! Every message holds a word of its own and says what the agent is to do with it; every answer names the words that it
//! answers. What became of each message is counted from the outside alone: what stands in Slack, and what the model was
//! shown, which is the agent's whole history of the thread. [`Traffic::count`] says what is counted.

mod agent;
mod count;
mod drill;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use broker_core::clock::{Clock, SystemClock, Timestamp};

use crate::fake_slack::{BOT_USER, FakeSlack, State};
use crate::world::World;
use agent::Agent;
pub use count::{Count, Problem};
pub use drill::{Drill, SETTLE};

/// What the agent does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// Its final text is the answer.
    #[default]
    Text,
    /// The same, after this time in milliseconds.
    Late(u64),
    /// It posts the answer by a tool call.
    Post,
    /// It posts how far it is, then answers by its final text.
    Progress,
    /// It runs a command, then answers by its final text.
    Shell,
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Late(millis) => format!("late-{millis}"),
            Self::Post => "post".to_owned(),
            Self::Progress => "progress".to_owned(),
            Self::Shell => "shell".to_owned(),
        }
    }

    fn of(text: &str) -> Self {
        let name = text.split_once("way:").map_or("", |(_, rest)| rest).split_whitespace().next().unwrap_or_default();
        match name {
            "post" => Self::Post,
            "progress" => Self::Progress,
            "shell" => Self::Shell,
            late => late.strip_prefix("late-").and_then(|millis| millis.parse().ok()).map_or(Self::Text, Self::Late),
        }
    }
}

/// A thread of the traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its conversation.
    pub channel: String,
    /// Its root.
    pub root: String,
}

/// A message of the traffic.
#[derive(Debug, Clone)]
struct Said {
    /// The number of its thread.
    thread: usize,
    ts: String,
}

/// The conversations, and what happened beside them.
#[derive(Debug)]
pub struct Traffic {
    agent: Arc<Agent>,
    clock: SystemClock,
    threads: Vec<Thread>,
    /// The messages by their words' numbers.
    said: BTreeMap<u32, Said>,
    events: Vec<(Timestamp, String)>,
}

impl fmt::Display for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.channel, self.root)
    }
}

impl Traffic {
    /// Puts the agent behind the model.
    pub fn new(world: &World) -> Self {
        let agent = Arc::new(Agent::new());
        let answering = Arc::clone(&agent);
        world.model.handle(move |request| answering.answer(request));
        Self { agent, clock: SystemClock::new(), threads: Vec::new(), said: BTreeMap::new(), events: Vec::new() }
    }

    /// Writes down something that happened, for the story.
    pub fn event(&mut self, what: impl Into<String>) {
        self.events.push((self.clock.now(), what.into()));
    }

    /// The threads so far.
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// The text of the next message.
    pub fn next_text(&self, way: Way) -> String {
        way.text(self.next())
    }

    /// The word of the next message.
    pub fn next_word(&self) -> String {
        format!("word-{:04}", self.next())
    }

    fn next(&self) -> u32 {
        self.said.keys().next_back().map_or(0, |last| last + 1)
    }

    /// Somebody mentions the broker at the top level; returns the number of the new thread.
    pub fn open(&mut self, slack: &FakeSlack, channel: &str, user: &str, way: Way) -> usize {
        let root = slack.mention(channel, user, &self.next_text(way));
        self.opened(channel, &root)
    }

    /// The next message was said at the top level, by the test itself; returns the number of the new thread.
    pub fn opened(&mut self, channel: &str, root: &str) -> usize {
        self.threads.push(Thread { channel: channel.to_owned(), root: root.to_owned() });
        self.heard(self.threads.len() - 1, root);
        self.threads.len() - 1
    }

    /// Somebody replies in a thread.
    pub fn say(&mut self, slack: &FakeSlack, thread: usize, user: &str, way: Way) {
        let place = &self.threads[thread];
        let ts = slack.reply(&place.channel, &place.root, user, &self.next_text(way));
        self.heard(thread, &ts);
    }

    /// The next message was said in a thread, by the test itself.
    pub fn heard(&mut self, thread: usize, ts: &str) {
        self.said.insert(self.next(), Said { thread, ts: ts.to_owned() });
    }

    /// Waits until every message has its answer, or a notice that stands for it. What never comes is for the count to say.
    pub async fn settle(&self, world: &World, limit: Duration) {
        self.backlog(world, 0, limit).await;
    }

    /// Waits until at most so many messages have none, at most so long.
    pub async fn backlog(&self, world: &World, most: usize, limit: Duration) {
        let settled = |state: &State| (self.unanswered(state).len() <= most).then_some(());
        world.slack.until(limit, settled).await;
    }

    /// Says one more thing in every thread and waits for the answers: whatever was still on its way out has gone before
    /// them, and what the model is shown for them is the whole history.
    pub async fn close(&mut self, world: &World, user: &str, limit: Duration) {
        for thread in 0..self.threads.len() {
            self.say(&world.slack, thread, user, Way::Text);
        }
        self.settle(world, limit).await;
    }
}

/// The numbers behind a prefix, four digits each, every one once.
fn numbers(text: &str, prefix: &str) -> Vec<u32> {
    let mut found: Vec<u32> =
        text.split(prefix).skip(1).filter_map(|rest| rest.get(..4)).filter_map(|digits| digits.parse().ok()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether a text is a mention of the broker.
pub fn mention(text: &str) -> String {
    format!("<@{BOT_USER}> {text}")
}
