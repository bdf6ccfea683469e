//! What became of the traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write;

use super::{Thread, Traffic, numbers};
use crate::fake_model::ModelRequest;
use crate::fake_slack::{Message, State};
use crate::world::World;

/// What the broker puts in front of a post that may have appeared already.
const MARK: &str = "_(may be a duplicate)_\n";
/// The beginnings of the notices that stand for an answer.
const TOLD: [&str; 3] = [
    "The run was cut by a crash or a restart",
    "A message could not be given to the agent",
    "Only 0 of 1 messages of a",
];
/// How much of a line of the broker's log is told.
const LONGEST: usize = 400;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The number of the thread.
    pub thread: usize,
    /// What it is.
    pub what: String,
}

/// The count. The first five have to be empty.
#[derive(Debug, Default)]
pub struct Count {
    /// Messages that the agent was never shown.
    pub lost: Vec<Problem>,
    /// Messages that stand in the agent's history more than once.
    pub given_twice: Vec<Problem>,
    /// Messages without an answer, and without a notice that stands for it.
    pub unanswered: Vec<Problem>,
    /// The same post, the same answer, or another answer to the same message, and no mark that says so.
    pub posted_twice: Vec<Problem>,
    /// Answers in another thread than their message, and histories that lost something.
    pub astray: Vec<Problem>,
    /// How many messages there were.
    pub messages: usize,
    /// How many of them a notice stands for.
    pub told: usize,
    /// Posts with the mark.
    pub marked: usize,
    /// What else the broker said for itself.
    pub notices: Vec<String>,
    /// Tool calls that the runtime did not make.
    pub dropped: Vec<String>,
}

impl Count {
    /// Everything that must not be.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        [&self.lost, &self.given_twice, &self.unanswered, &self.posted_twice, &self.astray].into_iter().flatten()
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} messages: {} lost, {} given twice, {} unanswered, {} posted twice, {} astray ({} told by a notice, {} posts \
             marked as possible duplicates, {} other notices, {} tool calls dropped by the runtime)",
            self.messages,
            self.lost.len(),
            self.given_twice.len(),
            self.unanswered.len(),
            self.posted_twice.len(),
            self.astray.len(),
            self.told,
            self.marked,
            self.notices.len(),
            self.dropped.len()
        )
    }
}

/// What a message of the broker is.
enum Post {
    /// An answer: its number, and the words that it names.
    Answer { number: u32, words: Vec<u32>, again: Vec<u32> },
    /// How far the agent is, or that nothing is left to do.
    Aside,
    /// The broker's own words.
    Notice,
}

fn read(text: &str) -> Post {
    let text = text.strip_prefix(MARK).unwrap_or(text);
    if text.starts_with("progress ") || text.starts_with("nothing left ") {
        return Post::Aside;
    }
    let number = text.strip_prefix("answer ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    match number {
        Some(number) => Post::Answer { number, words: numbers(text, "word-"), again: numbers(text, "again-") },
        None => Post::Notice,
    }
}

fn own(state: &State, place: &Thread) -> Vec<Message> {
    state.messages_in(&place.channel, &place.root).into_iter().filter(Message::is_own).collect()
}

impl Traffic {
    /// The words of messages that have neither an answer nor a notice, and how many have a notice.
    fn answered(&self, state: &State) -> (BTreeSet<u32>, usize) {
        let (mut open, mut told) = (BTreeSet::new(), 0);
        for (number, place) in self.threads.iter().enumerate() {
            let posts = own(state, place);
            let mut answered = BTreeSet::new();
            for post in &posts {
                if let Post::Answer { words, again, .. } = read(&post.text) {
                    answered.extend(words);
                    answered.extend(again);
                }
            }
            for (word, said) in self.said.iter().filter(|(_, said)| said.thread == number) {
                let notice = |post: &&Message| post.ts > said.ts && TOLD.iter().any(|told| post.text.starts_with(told));
                match answered.contains(word) {
                    true => {}
                    false if posts.iter().any(|post| notice(&post)) => told += 1,
                    false => {
                        open.insert(*word);
                    }
                }
            }
        }
        (open, told)
    }

    pub(super) fn unanswered(&self, state: &State) -> BTreeSet<u32> {
        self.answered(state).0
    }

    fn problem(&self, word: u32, what: &str) -> Problem {
        let thread = self.said.get(&word).map_or(usize::MAX, |said| said.thread);
        Problem { thread, what: format!("word-{word:04} {what}") }
    }

    /// Counts. Worth something once nothing is on its way any more: see [`Traffic::close`].
    pub fn count(&self, world: &World) -> Count {
        let mut count = Count { messages: self.said.len(), ..Count::default() };
        self.count_given(&world.model.requests(), &mut count);
        world.slack.look(|state| {
            let (open, told) = self.answered(state);
            count.told = told;
            count.unanswered = open.into_iter().map(|word| self.problem(word, "was never answered")).collect();
            self.count_posts(state, &mut count);
        });
        let complaint = |what: String| Problem { thread: usize::MAX, what };
        count.astray.extend(self.agent.complaints().into_iter().map(complaint));
        count.dropped = self.agent.dropped();
        count
    }

    /// What the agent was shown: of each of the runtime's threads the longest history.
    fn count_given(&self, requests: &[ModelRequest], count: &mut Count) {
        let mut histories: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for request in requests {
            let (said, history) = (request.said(), histories.entry(&request.thread).or_default());
            if said.len() >= history.len() {
                *history = said;
            }
        }
        let shown = requests.iter().flat_map(ModelRequest::user_texts);
        let shown: BTreeSet<u32> = shown.flat_map(|text| numbers(&text, "word-")).collect();
        for word in self.said.keys() {
            let name = format!("word-{word:04} way:");
            let times = histories.values().flatten().filter(|text| text.contains(&name)).count();
            match times {
                0 if !shown.contains(word) => count.lost.push(self.problem(*word, "was never given")),
                0 | 1 => {}
                _ => count.given_twice.push(self.problem(*word, &format!("was given {times} times"))),
            }
        }
    }

    fn count_posts(&self, state: &State, count: &mut Count) {
        let (mut ids, mut answers, mut named) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (number, place) in self.threads.iter().enumerate() {
            for post in own(state, place) {
                let marked = post.text.starts_with(MARK);
                count.marked += usize::from(marked);
                let mut twice = |what: String| {
                    if !marked {
                        count.posted_twice.push(Problem { thread: number, what });
                    }
                };
                let id = post.metadata.as_ref().map(ToString::to_string).unwrap_or_default();
                if let Some(first) = ids.insert(id, post.ts.clone()) {
                    twice(format!("{} is the post {first} once more: {}", post.ts, post.text));
                }
                match read(&post.text) {
                    Post::Aside => {}
                    Post::Notice => count.notices.push(post.text.clone()),
                    Post::Answer { number: answer, words, again } => {
                        if let Some(first) = answers.insert(answer, post.ts.clone()) {
                            twice(format!("{} is the answer of {first} once more: {}", post.ts, post.text));
                        }
                        for word in &words {
                            if let Some(first) = named.insert(*word, post.ts.clone()) {
                                twice(format!("word-{word:04} was answered by {first} and by {}", post.ts));
                            }
                        }
                        let foreign = |word: &&u32| self.said.get(*word).is_none_or(|said| said.thread != number);
                        for word in words.iter().chain(&again).filter(foreign) {
                            let what = format!("word-{word:04} was answered in another thread: {place}");
                            count.astray.push(Problem { thread: number, what });
                        }
                    }
                }
            }
        }
        count.notices.retain(|notice| !TOLD.iter().any(|told| notice.starts_with(told)));
    }

    /// Fails with the stories of the first threads in which something went wrong.
    ///
    /// # Panics
    ///
    /// When something was lost, given twice, left unanswered or posted twice.
    pub fn assert_clean(&self, world: &World, count: &Count, whence: &str) {
        let problems: Vec<&Problem> = count.problems().collect();
        if problems.is_empty() {
            return;
        }
        let mut text = format!("{count}\n{whence}\n");
        for problem in &problems {
            let _ = writeln!(text, "- {}", problem.what);
        }
        let threads: BTreeSet<usize> = problems.iter().map(|problem| problem.thread).collect();
        for thread in threads.into_iter().filter(|thread| *thread < self.threads.len()).take(2) {
            let _ = writeln!(text, "\nthe story of {}:\n{}", self.threads[thread], self.story(world, thread));
        }
        panic!("{text}");
    }

    /// What happened in and around a thread, in order.
    pub fn story(&self, world: &World, thread: usize) -> String {
        let place = &self.threads[thread];
        let mut lines: Vec<(String, String)> = Vec::new();
        let clock = |millis: i64| {
            let (seconds, millis) = (millis.div_euclid(1000), millis.rem_euclid(1000));
            let of = |unit: i64, limit: i64| (seconds / unit).rem_euclid(limit);
            format!("{:02}:{:02}:{:02}.{millis:03}", of(3600, 24), of(60, 60), of(1, 60))
        };
        for message in world.slack.messages_in(&place.channel, &place.root) {
            let at = i64::try_from(message.micros / 1000).unwrap_or_default();
            let id = message.metadata.map(|metadata| metadata.to_string()).unwrap_or_default();
            lines.push((clock(at), format!("SLACK {} {}: {} {id}", message.ts, message.user, message.text)));
        }
        let own: Vec<u32> = self.said.iter().filter(|(_, said)| said.thread == thread).map(|(word, _)| *word).collect();
        for request in world.model.requests() {
            let said = request.said();
            if said.iter().flat_map(|text| numbers(text, "word-")).any(|word| own.contains(&word)) {
                let beginnings: Vec<String> = said.iter().map(|text| text.chars().take(40).collect()).collect();
                let what = format!("MODEL thread {} turn {}: {beginnings:?}", request.thread, request.turn);
                lines.push((clock(request.wall.as_millis()), what));
            }
        }
        lines.extend(self.events.iter().map(|(at, what)| (clock(at.as_millis()), format!("EVENT {what}"))));
        for line in world.broker.log_lines() {
            let at = line["timestamp"].as_str().and_then(|at| at.get(11..23)).unwrap_or_default().to_owned();
            let text = line.to_string();
            let beginning = line["message"].as_str().unwrap_or_default();
            let general = line["level"] == "WARN" && line["session"].is_null() || beginning == "ready";
            if text.contains(&place.root) || general {
                lines.push((at, format!("LOG {}", text.chars().take(LONGEST).collect::<String>())));
            }
        }
        lines.sort();
        lines.into_iter().map(|(at, what)| format!("{at} {what}\n")).collect()
    }
}
