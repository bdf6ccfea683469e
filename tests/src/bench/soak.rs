//! Two days of a busy workspace in less time: what grows is seen.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::Said;
use super::house::House;
use super::report::{Figure, Usage, files_below};
use crate::fake_slack::Trouble;

/// How much is said, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// For so long.
    pub length: Duration,
    /// Messages per second.
    pub per_second: u32,
    /// Samples over the whole length.
    pub samples: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Self { length: Duration::from_secs(32 * 60), per_second: 50, samples: 32 }
    }
}

/// What the broker used at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    minute: f64,
    messages: usize,
    usage: Usage,
    state: u64,
    logs: u64,
    files: usize,
}

/// One in so many messages begins a thread; the others go on in one of the last [`OPEN`].
const FRESH: usize = 25;
const OPEN: usize = 100;
/// Every so many messages something goes wrong, each kind in turn.
const TROUBLE: usize = 500;

/// Runs the soak, prints a line per sample, and returns what has to be flat.
///
/// New threads, replies, connections that are refreshed, cut and dropped, a rate limit, calls that fail, hang and lose their
/// answer, an app-server that is killed.
pub async fn soak(plan: Plan) -> Vec<Figure> {
    let house = House::open("bench-soak", &[]).await;
    let mut said = Said::default();
    let mut roots = vec![said.mention(&house)];
    house.all_said(1).await;
    println!(
        "| minute | messages | CPU s | memory MB | peak MB | descriptors | threads | state MB | logs MB | files |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut samples: Vec<Sample> = Vec::new();
    let mut troubles = 0;
    while begun.elapsed() < plan.length {
        ticks.tick().await;
        let n = said.0.len();
        if n.is_multiple_of(FRESH) {
            roots.push(said.mention(&house));
        } else {
            let open = &roots[roots.len().saturating_sub(OPEN)..];
            said.reply(&house, &open[n * 7 % open.len()]);
        }
        if n.is_multiple_of(TROUBLE) {
            troubles += 1;
            if troubles % 8 == 7 {
                // What a turn does when it is cut is the kill test's business: here only what a new process leaves behind.
                house.every_word(&said.0, Duration::from_secs(120)).await;
            }
            trouble(&house, troubles);
            house.slack.forget_settled();
        }
        let due = plan.length * (samples.len() as u32 + 1) / plan.samples;
        if begun.elapsed() >= due {
            let sample = sample(&house, begun.elapsed(), said.0.len());
            println!("{sample}");
            samples.push(sample);
        }
    }
    house.slack.no_more_trouble();
    house.every_word(&said.0, Duration::from_secs(120)).await;
    let last = sample(&house, begun.elapsed(), said.0.len());
    println!("{last}");
    let mut figures = vec![Figure::plain("troubles", troubles.to_string()), house.check(&said.0)];
    figures.extend(flat(&samples));
    figures
}

fn trouble(house: &House, number: usize) {
    let slack = &house.slack;
    match number % 8 {
        0 => slack.disconnect("refresh_requested", Duration::from_secs(5)),
        1 => slack.drop_sockets(),
        2 => slack.trouble("chat.postMessage", Trouble::RateLimited(1), 3),
        3 => slack.trouble("chat.postMessage", Trouble::Status(503), 3),
        4 => slack.disconnect("warning", Duration::from_secs(5)),
        5 => slack.trouble("chat.postMessage", Trouble::LoseAnswer, 2),
        6 => slack.trouble("assistant.threads.setStatus", Trouble::Status(500), 5),
        _ => {
            for pid in house.broker.app_server_pids() {
                crate::processes::signal(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn sample(house: &House, at: Duration, messages: usize) -> Sample {
    let data = house.data();
    let ((state, some), (logs, more)) = (files_below(&data.join("state")), files_below(&data.join("logs")));
    let minute = at.as_secs_f64() / 60.0;
    Sample { minute, messages, usage: house.usage(), state, logs, files: some + more }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { minute, messages, usage, state, logs, files } = self;
        let mb = |kib: u64| kib as f64 * 1024.0 / 1e6;
        let (cpu, resident, peak) = (usage.cpu.as_secs_f64(), mb(usage.resident_kib), mb(usage.peak_kib));
        let (state, logs) = (*state as f64 / 1e6, *logs as f64 / 1e6);
        let Usage { descriptors, threads, .. } = usage;
        write!(
            f,
            "| {minute:.1} | {messages} | {cpu:.1} | {resident:.1} | {peak:.1} | {descriptors} | {threads} | {state:.1} | \
             {logs:.1} | {files} |"
        )
    }
}

/// The last quarter against the quarter after the first half: sessions are put away after ten minutes, so before that it grows.
fn flat(samples: &[Sample]) -> Vec<Figure> {
    let quarter = samples.len() / 4;
    let (early, late) = (&samples[quarter * 2..quarter * 3], &samples[quarter * 3..]);
    let mean = |of: &[Sample], what: fn(&Sample) -> f64| of.iter().map(what).sum::<f64>() / of.len().max(1) as f64;
    let line = |name: &str, what: fn(&Sample) -> f64, more: f64| {
        let (before, after) = (mean(early, what), mean(late, what));
        let goal = format!("at most {more} more");
        Figure::checked(name, format!("{before:.1} -> {after:.1}"), &goal, after - before <= more)
    };
    vec![
        line("memory (MB), third quarter -> fourth", |sample| sample.usage.resident_kib as f64 * 1024.0 / 1e6, 2.0),
        line("descriptors", |sample| sample.usage.descriptors as f64, 4.0),
        line("threads", |sample| sample.usage.threads as f64, 1.0),
        line("files", |sample| sample.files as f64, 2.0),
        Figure::plain("state, bytes per message", {
            let (first, last) = (samples.first(), samples.last());
            let per = first
                .zip(last)
                .map(|(a, b)| (b.state.saturating_sub(a.state)) / (b.messages - a.messages).max(1) as u64);
            per.unwrap_or_default().to_string()
        }),
    ]
}
