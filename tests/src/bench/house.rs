//! The real broker program between a fake Slack and [`super::app_server`], on a folder of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::clock;
use super::report::{Figure, Usage};
use crate::broker_process::{Broker, Start, TestFolder};
use crate::fake_slack::{self, CHANNEL, FakeSlack};
use crate::processes::poll;

/// How long everything that was said may take to be answered.
const PATIENCE: Duration = Duration::from_secs(120);

/// The house.
#[derive(Debug)]
pub(super) struct House {
    /// The broker.
    pub(super) broker: Broker,
    /// Slack, without latency.
    pub(super) slack: FakeSlack,
    clock: clock::Shared,
    folder: TestFolder,
}

/// When each message was sent, acknowledged and given to the agent.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// From the frame to its ack.
    pub(super) acks: Vec<Duration>,
    /// From the first frame of a message to the arrival of its `turn/start` at the app-server.
    pub(super) starts: Vec<Duration>,
}

impl House {
    /// Starts it and waits until it is ready.
    pub(super) async fn open(name: &str, env: &[(&str, &str)]) -> Self {
        let slack = FakeSlack::start().await;
        let folder = TestFolder::new(name);
        let broker = Broker::start(start(&folder, &slack, env)).await;
        broker.ready().await;
        Self { broker, slack, clock: clock::Shared::new(), folder }
    }

    /// The broker's DATA_ROOT.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Waits until so many answers stand in Slack, over its whole life. Looks every 5 ms.
    ///
    /// # Panics
    ///
    /// When they do not within two minutes.
    pub(super) async fn answered(&self, count: usize) {
        let all = async {
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            loop {
                looks.tick().await;
                if self.slack.look(|state| state.own_messages()) >= count {
                    return;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            let there = self.slack.look(|state| state.own_messages());
            panic!("{there} answers of {count} within {PATIENCE:?}; {}", self.broker.last_lines(40));
        }
    }

    /// Waits until so many words stand in answers: a message that joins a running turn is answered with it. Looks every 50 ms.
    ///
    /// # Panics
    ///
    /// When they do not within two minutes.
    pub(super) async fn all_said(&self, count: usize) {
        let words = |text: &str| text.split_whitespace().filter(|part| part.starts_with(super::WORD)).count();
        let there = || -> usize {
            let messages = self.slack.look(|state| state.messages_of(CHANNEL));
            messages.iter().filter(|message| message.is_own()).map(|message| words(&message.text)).sum()
        };
        let all = async {
            // Most come alone: the cheap look first.
            let mut looks = tokio::time::interval(Duration::from_millis(50));
            let mut seen = 0;
            loop {
                looks.tick().await;
                let answers = self.slack.look(|state| state.own_messages());
                if answers != seen && answers * 2 >= count && there() >= count {
                    return;
                }
                seen = answers;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "{} words of {count}", there());
    }

    /// Waits until each of these words was answered.
    ///
    /// # Panics
    ///
    /// When one was not within `limit`; the message names some.
    pub(super) async fn every_word(&self, words: &HashMap<String, String>, limit: Duration) {
        let missing = async || {
            let messages = self.slack.look(|state| state.messages_of(CHANNEL));
            let own = messages.iter().filter(|message| message.is_own());
            let said: HashSet<&str> =
                own.flat_map(|message| message.text.split('@').flat_map(str::split_whitespace)).collect();
            let missing: Vec<String> =
                words.keys().filter(|word| !said.contains(word.as_str())).take(10).cloned().collect();
            missing
        };
        let none = poll(limit, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            missing().await.is_empty().then_some(())
        });
        assert!(none.await.is_some(), "not answered: {:?}; {}", missing().await, self.broker.last_lines(60));
    }

    /// Figures of the messages of these `ts`, by the words in them.
    pub(super) fn times(&self, words: &HashMap<String, String>) -> Times {
        let (answers, envelopes) = self.slack.look(|state| (state.messages_of(CHANNEL), state.envelopes().to_vec()));
        let mut given: HashMap<&str, Duration> = HashMap::new();
        for message in answers.iter().filter(|message| message.is_own()) {
            for (word, at) in message.text.split_whitespace().filter_map(|part| part.split_once('@')) {
                if let (Some(ts), Ok(micros)) = (words.get(word), at.parse()) {
                    given.entry(ts).or_insert(Duration::from_micros(micros));
                }
            }
        }
        let ours: HashMap<&str, ()> = words.values().map(|ts| (ts.as_str(), ())).collect();
        let mut times = Times::default();
        let mut sent: HashMap<&str, Instant> = HashMap::new();
        for envelope in &envelopes {
            let Some((_, ts)) = envelope.message.as_ref().filter(|(_, ts)| ours.contains_key(ts.as_str())) else {
                continue;
            };
            if let Some(first) = envelope.first_sent {
                times.acks.extend(envelope.acked.map(|acked| acked - first));
                let earliest = sent.entry(ts).or_insert(first);
                *earliest = first.min(*earliest);
            }
        }
        for (ts, at) in given {
            times.starts.extend(sent.get(ts).map(|sent| self.clock.since(*sent, at)));
        }
        times
    }

    /// What the broker has used so far.
    pub(super) fn usage(&self) -> Usage {
        Usage::of(self.broker.pid())
    }

    /// Starts the broker again on the same folder; returns how long it took until it was ready, from the start of the process.
    ///
    /// # Panics
    ///
    /// When it does not become ready.
    pub(super) async fn restart(&mut self) -> Duration {
        self.broker.sigterm().await;
        let begun = Instant::now();
        self.broker.start_again().await;
        // Not by the usual look every 20 ms: the goal is half a second.
        let ready = async {
            while self.broker.readiness().await.is_none_or(|said| said["ok"] != true) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ready).await.expect("a broker that gets ready");
        begun.elapsed()
    }

    /// What has to hold after every measurement: everything acknowledged, answered once, nothing odd said to Slack.
    ///
    /// # Panics
    ///
    /// When it does not hold.
    pub(super) fn check(&self, answers: &HashMap<String, String>) -> Figure {
        let mut times: HashMap<String, usize> = HashMap::new();
        for message in self.slack.look(|state| state.messages_of(CHANNEL)).iter().filter(|message| message.is_own()) {
            for (word, _) in message.text.split_whitespace().filter_map(|part| part.split_once('@')) {
                *times.entry(word.to_owned()).or_default() += 1;
            }
        }
        let missing = answers.keys().filter(|word| !times.contains_key(*word)).count();
        let twice = answers.keys().filter(|word| times.get(*word).is_some_and(|times| *times > 1)).count();
        assert_eq!(self.slack.violations(), Vec::<String>::new());
        Figure::checked("unanswered, answered twice", format!("{missing}, {twice}"), "0, 0", missing + twice == 0)
    }
}

fn start(folder: &TestFolder, slack: &FakeSlack, env: &[(&str, &str)]) -> Start {
    let at = |name: &str| folder.path().join(name);
    for name in ["cwd", "home"] {
        std::fs::create_dir_all(at(name)).expect("a folder of the bench");
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let codex = std::env::current_exe().expect("the path of this program");
    let usual = [
        ("HOME", text(at("home"))),
        ("LANG", "C.UTF-8".to_owned()),
        ("SLACK_APP_TOKEN", fake_slack::APP_TOKEN.to_owned()),
        ("SLACK_BOT_TOKEN", fake_slack::BOT_TOKEN.to_owned()),
        ("SLACK_API_BASE_URL", slack.api_base()),
        ("SLACK_POST_RATE", "0".to_owned()),
        ("DATA_ROOT", text(at("data"))),
        ("CODEX_BIN", text(codex)),
        ("PORT", "0".to_owned()),
    ];
    let mut all: BTreeMap<String, String> = usual.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Start { env: all, cwd: at("cwd"), before: String::new() }
}
