//! The world around the broker: its time, its order of events, its trace, and the moments at which the broker is ended.
//!
//! Everything outside the broker is state in one place, [`State`], which outlives the broker. What happens there by itself is
//! an [`Event`] in a queue in the order of time. The broker's calls come in through the simulated platform, agent and store,
//! and each of them passes [`World::enter`] and [`World::leave`]: there the seed says how long it takes, in which order tasks
//! that are ready go on, and whether the broker ends at this very moment.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::clock::{Clock, Timestamp};
use broker_core::ids::IdSource;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::codex::{Codex, CodexEvent};
use crate::facts::Facts;
use crate::scenario::{Call, Crash, Fault, Item, Manner, Scenario, Script, Siege, What};
use crate::slack::{Slack, SlackEvent};

/// When a run begins: milliseconds since the Unix epoch.
pub const BEGINNING: u64 = 1_700_000_000_000;

/// Something that happens outside the broker.
#[derive(Debug, Clone)]
pub enum Event {
    /// A step of the scenario.
    Step(What),
    /// Something on the platform.
    Slack(SlackEvent),
    /// Something in the agent's process.
    Codex(CodexEvent),
}

/// How the broker was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How long it is away, in milliseconds.
    pub away: u64,
    /// How much of the change that was being written is on the disk, in thousandths; absent when none was being written.
    pub torn: Option<u32>,
}

/// Everything outside the broker.
#[derive(Debug)]
pub struct State {
    seed: u64,
    steady: bool,
    siege: Option<Siege>,
    /// The time at which the present runtime began, and that moment on its clock.
    base: u64,
    started: Option<Instant>,
    queue: BTreeMap<(u64, u64), Event>,
    next: u64,
    trace: Vec<String>,
    calls: BTreeMap<Call, u32>,
    faults: BTreeMap<(Call, u32), Fault>,
    outages: Vec<(Call, Fault, u64)>,
    crashes: Vec<Crash>,
    points: u32,
    ids: u64,
    /// The number of the broker that runs, from 1.
    pub life: u32,
    /// Set when the broker is to be ended: nothing that it does has an effect any more.
    pub ended: Option<Ended>,
    /// When something last happened by itself.
    pub happened: u64,
    /// Whether the broker is asked to end in order.
    pub drain: bool,
    /// The platform.
    pub slack: Slack,
    /// The agent.
    pub codex: Codex,
    /// What is remembered for the judge.
    pub facts: Facts,
}

impl State {
    /// Milliseconds since the run began.
    pub fn now(&self) -> u64 {
        let here = self.started.map_or(Duration::ZERO, |started| started.elapsed());
        self.base + u64::try_from(here.as_millis()).unwrap_or(u64::MAX)
    }

    /// A number below `below` that depends on the seed, a name and a count, and on nothing else: a step that is left out
    /// changes nothing of the others.
    pub fn draw(&self, name: &str, count: u64, below: u64) -> u64 {
        if self.steady {
            return below / 2;
        }
        let mut hash = self.seed ^ 0x9e37_79b9_7f4a_7c15;
        for byte in name.bytes() {
            hash = mix(hash ^ u64::from(byte));
        }
        mix(hash ^ count.wrapping_mul(0x2545_f491_4f6c_dd1d)) % below.max(1)
    }

    /// Something happens `after` milliseconds from now.
    pub fn after(&mut self, after: u64, event: Event) {
        let at = self.now() + after;
        self.at(at, event);
    }

    /// Something happens at a moment.
    pub fn at(&mut self, at: u64, event: Event) {
        self.next += 1;
        self.queue.insert((at, self.next), event);
    }

    /// A line of the trace.
    pub fn say(&mut self, line: String) {
        let now = self.now();
        self.trace.push(format!("{:>5}.{:03} {line}", now / 1000, now % 1000));
    }

    /// The trace up to now.
    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    /// What goes wrong with the next call of its kind, and its number from 1.
    fn fault(&mut self, call: Call, about: &str) -> (u32, Option<Fault>) {
        let count = self.calls.entry(call).or_default();
        *count += 1;
        let count = *count;
        let now = self.now();
        let outage = self.outages.iter().find(|(of, _, until)| *of == call && *until > now).map(|(_, fault, _)| *fault);
        let siege = self.siege.as_ref().filter(|siege| siege.conversation == about);
        let besieged = siege.and_then(|siege| siege.faults.iter().find(|(of, _)| *of == call)).map(|(_, fault)| *fault);
        (count, self.faults.get(&(call, count)).copied().or(outage).or(besieged))
    }

    /// Whether no conversation is besieged.
    pub fn calm(&self) -> bool {
        self.siege.is_none()
    }

    /// What the agent does in every turn of a conversation, where that is so.
    pub fn script_in(&self, conversation: &str) -> Option<Script> {
        self.siege.as_ref().filter(|siege| siege.conversation == conversation).map(|siege| siege.script)
    }

    /// From now on calls of a kind go wrong, for a while.
    pub fn outage(&mut self, call: Call, fault: Fault, millis: u64) {
        let until = self.now() + millis;
        self.outages.push((call, fault, until));
    }

    /// Whether the broker ends here, at a moment between two of its calls' effects.
    fn crashes_here(&mut self, what: &str, torn: bool) -> bool {
        if self.ended.is_some() {
            return true;
        }
        self.points += 1;
        let Some(index) = self.crashes.iter().position(|crash| crash.point == self.points) else { return false };
        let crash = self.crashes.remove(index);
        let Manner::Killed { torn: thousandths } = crash.manner;
        let torn = thousandths.filter(|_| torn);
        self.say(format!(
            "### the broker is killed {what}{}",
            if torn.is_some() { ", which is half written" } else { "" }
        ));
        self.ended = Some(Ended { away: crash.away, torn });
        true
    }

    /// How often the broker's calls passed a place at which it can be ended.
    pub fn points(&self) -> u32 {
        self.points
    }

    /// The next id of the broker.
    pub fn id(&mut self) -> String {
        self.ids += 1;
        format!("x{}", self.ids)
    }

    /// When the next event is due.
    pub fn due(&self) -> Option<u64> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Whether a step of the scenario is still to come.
    pub fn steps_left(&self) -> bool {
        self.queue.values().any(|event| matches!(event, Event::Step(_)))
    }

    fn pop(&mut self) -> Option<Event> {
        self.queue.pop_first().map(|(_, event)| event)
    }

    fn step(&mut self, what: What) {
        match what {
            What::Drain { away } => {
                if self.ended.is_none() {
                    self.say("### the broker is asked to end".to_owned());
                    self.drain = true;
                    self.facts.away = away;
                }
            }
            What::Outage { call, fault, millis } => {
                self.say(format!("### for {millis} ms {call:?} calls go wrong: {fault:?}"));
                self.outage(call, fault, millis);
            }
            What::KillCodex => self.kill_codex("it is killed"),
            What::HangCodex { millis } => self.hang_codex(millis),
            What::LoseThreads => self.lose_threads(),
            other => self.slack_step(other),
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The world, shared by everything that the broker is given.
#[derive(Debug, Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    /// Wakes whoever lets the world's events happen.
    changed: Arc<Notify>,
}

impl World {
    /// The world of a scenario, at its beginning.
    pub fn new(scenario: &Scenario) -> Self {
        let mut state = State {
            seed: scenario.seed,
            steady: scenario.steady,
            siege: scenario.siege.clone(),
            base: 0,
            started: None,
            queue: BTreeMap::new(),
            next: 0,
            trace: Vec::new(),
            calls: BTreeMap::new(),
            faults: BTreeMap::new(),
            outages: Vec::new(),
            crashes: Vec::new(),
            points: 0,
            ids: 0,
            life: 0,
            ended: None,
            happened: 0,
            drain: false,
            slack: Slack::new(scenario.sockets),
            codex: Codex::default(),
            facts: Facts::default(),
        };
        for item in &scenario.items {
            match item {
                Item::Step { at, what } => state.at(*at, Event::Step(what.clone())),
                Item::Fault { call, count, fault } => drop(state.faults.insert((*call, *count), *fault)),
                Item::Crash(crash) => state.crashes.push(*crash),
                Item::Script { turn, script } => drop(state.codex.scripts.insert(*turn, *script)),
            }
        }
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// The state. Held for a moment, never across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was put into the queue.
    pub fn tell(&self) {
        self.changed.notify_one();
    }

    /// A broker begins, on a runtime of its own.
    pub fn begin(&self) {
        let mut state = self.lock();
        state.started = Some(Instant::now());
        state.life += 1;
        state.ended = None;
        state.drain = false;
        let life = state.life;
        let now = state.now();
        state.facts.begun.push(now);
        state.say(format!("### broker {life} begins"));
    }

    /// The runtime is about to be dropped: time stands still until the next one.
    pub fn pause(&self) {
        let mut state = self.lock();
        state.base = state.now();
        state.started = None;
    }

    /// Lets time pass while no broker runs.
    pub fn pass(&self, millis: u64) {
        let until = self.lock().base + millis;
        loop {
            let due = self.lock().due().filter(|at| *at <= until);
            let Some(at) = due else { break };
            let mut state = self.lock();
            state.base = state.base.max(at);
            drop(state);
            self.happen();
        }
        self.lock().base = until;
    }

    fn happen(&self) {
        let mut state = self.lock();
        while state.due().is_some_and(|at| at <= state.now()) {
            state.happened = state.now();
            match state.pop() {
                Some(Event::Step(what)) => state.step(what),
                Some(Event::Slack(event)) => state.slack_event(event),
                Some(Event::Codex(event)) => state.codex_event(event),
                None => break,
            }
        }
    }

    /// Lets the world's events happen until the broker is ended or `until` has come.
    pub async fn run(&self, until: u64) {
        loop {
            self.happen();
            let (now, due, over) = {
                let state = self.lock();
                (state.now(), state.due(), state.ended.is_some() || state.drain)
            };
            if over || now >= until {
                return;
            }
            let wait = due.unwrap_or(until).min(until).saturating_sub(now);
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            }
        }
    }

    /// A call of the broker begins: other tasks may go first, and the broker may end here, before the call has any effect.
    /// Gives its number and what goes wrong with it. `about` is the conversation that it is made for, empty for none.
    pub async fn enter(&self, call: Call, about: &str) -> (u32, Option<Fault>) {
        let (count, fault, yields, wait) = {
            let mut state = self.lock();
            let (count, fault) = state.fault(call, about);
            let yields = state.draw(call.name(), u64::from(count), 4);
            let wait = if call.is_of_store() { state.draw(call.name(), u64::from(count) << 20, 3) } else { 0 };
            (count, fault, yields, wait)
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        if wait > 0 {
            self.sleep(wait).await;
        }
        self.point(&format!("before {} {count}", call.name())).await;
        (count, fault)
    }

    /// A call has had its effect: the broker may end here, before it knows.
    pub async fn leave(&self, call: Call, count: u32) {
        self.point(&format!("after {} {count}", call.name())).await;
    }

    async fn point(&self, what: &str) {
        let over = self.lock().crashes_here(what, false);
        if over {
            self.changed.notify_one();
            pending::<()>().await;
        }
    }

    /// A change is about to be written: whether the broker ends in the middle of that.
    pub fn torn(&self, call: Call, count: u32) -> bool {
        let over = self.lock().crashes_here(&format!("during {} {count}", call.name()), true);
        if over {
            self.changed.notify_one();
        }
        over
    }

    /// Waits, in simulated time.
    pub async fn sleep(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// A task of the broker's that nothing will ever wake again.
    pub async fn never<T>(&self) -> T {
        pending().await
    }
}

#[async_trait]
impl Clock for World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(BEGINNING + self.lock().now()).unwrap_or(i64::MAX))
    }

    async fn sleep_until(&self, at: Timestamp) {
        tokio::time::sleep(at.since(self.now())).await;
    }
}

impl IdSource for World {
    fn next(&self) -> String {
        self.lock().id()
    }
}

/// Names that were seen, each once.
pub type Names = BTreeSet<String>;
