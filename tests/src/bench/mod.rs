//! How fast and how small the broker is: the real program, a fake Slack without latency, and an app-server whose turns take
//! five milliseconds. `cargo run --release -p broker-tests --bin broker-bench` prints the figures of docs/performance.md.
//!
//! How they are measured:
//! - *envelope to ack*: from the moment when the fake hands a frame to its socket to the arrival of the ack, both in the fake.
//! - *mention to `turn/start`*: from the same moment of the first frame with the message to the moment when the app-server has
//!   read the line, both on the machine's monotonic clock; the app-server's moment comes back in the answer's text.
//! - *CPU*: user and system time of the broker alone, from `/proc/PID/stat`, in ticks of 10 ms.
//! - *memory*: `VmRSS` and its peak `VmHWM` of the broker alone.
//!
//! Fake Slack, bench and app-server run on the same processors as the broker, which has less than the whole machine.

pub mod app_server;
pub mod clock;
mod house;
pub mod report;
mod soak;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::fake_slack::{ALICE, CHANNEL};
use house::House;
use report::{Figure, millis, percentile};

pub use soak::{Plan, soak};

/// What a message begins with that is measured; a number follows.
pub(crate) const WORD: &str = "bench-";

/// The measurements, by the names that the command takes.
pub const NAMES: [&str; 4] = ["single", "burst", "stream", "sessions"];

/// Makes one measurement; `None` for an unknown name.
pub async fn measure(name: &str) -> Option<Vec<Figure>> {
    Some(match name {
        "single" => single().await,
        "burst" => burst(2_000).await,
        "stream" => stream(20_000, 500, 200).await,
        "sessions" => sessions(10_000).await,
        _ => return None,
    })
}

/// Words and the `ts` of the messages that hold them.
#[derive(Debug, Default)]
struct Said(HashMap<String, String>);

impl Said {
    fn next(&self) -> String {
        format!("{WORD}{:06}", self.0.len())
    }

    fn mention(&mut self, house: &House) -> String {
        let word = self.next();
        let ts = house.slack.mention(CHANNEL, ALICE, &word);
        self.0.insert(word, ts.clone());
        ts
    }

    fn reply(&mut self, house: &House, root: &str) {
        let word = self.next();
        let ts = house.slack.reply(CHANNEL, root, ALICE, &word);
        self.0.insert(word, ts);
    }
}

/// One message after the other, on a broker that has nothing else to do.
async fn single() -> Vec<Figure> {
    const TIMES: usize = 300;
    let house = House::open("bench-single", &[]).await;
    let mut warm = Said::default();
    let root = warm.mention(&house);
    house.answered(1).await;
    let before = house.usage();

    let (mut fresh, mut more) = (Said(warm.0.clone()), 1);
    for _ in 0..TIMES {
        fresh.mention(&house);
        more += 1;
        house.answered(more).await;
    }
    let mut replies = Said(fresh.0.clone());
    for _ in 0..TIMES {
        replies.reply(&house, &root);
        more += 1;
        house.answered(more).await;
    }
    let check = house.check(&replies.0);
    replies.0.retain(|word, _| !fresh.0.contains_key(word));
    fresh.0.retain(|word, _| !warm.0.contains_key(word));
    let (mut fresh, mut replies) = (house.times(&fresh.0), house.times(&replies.0));
    let line = |name: &str, times: &mut Vec<Duration>, goal: Duration| {
        let spread = format!("p99 {}, n {}", millis(percentile(times, 99)), times.len());
        [
            Figure::within(format!("{name}, p50"), percentile(times, 50), goal),
            Figure::plain(format!("{name}, spread"), spread),
        ]
    };
    let mut figures = vec![Figure::plain("memory at rest", mib(before.resident_kib))];
    figures.extend(line("first mention to `turn/start`", &mut fresh.starts, Duration::from_millis(10)));
    figures.extend(line("reply in an open thread to `turn/start`", &mut replies.starts, Duration::from_millis(5)));
    figures.push(check);
    figures
}

/// So many first mentions at once.
async fn burst(count: usize) -> Vec<Figure> {
    let house = House::open("bench-burst", &[]).await;
    let mut said = Said::default();
    said.mention(&house);
    house.answered(1).await;
    let before = house.usage();
    // Kept back until all are written, so that the bench's own work is not in between.
    house.slack.hold();
    for _ in 0..count {
        said.mention(&house);
    }
    let begun = Instant::now();
    house.slack.release(|_| ());
    house.answered(1 + count).await;
    let all = begun.elapsed();
    let after = house.usage();
    let check = house.check(&said.0);
    said.0.remove(&format!("{WORD}000000"));
    let mut times = house.times(&said.0);
    vec![
        Figure::within(
            format!("{count} mentions at once: slowest ack"),
            percentile(&mut times.acks, 100),
            Duration::from_secs(1),
        ),
        Figure::plain("… envelope to ack, p50", millis(percentile(&mut times.acks, 50))),
        Figure::within("… last `turn/start`", percentile(&mut times.starts, 100), Duration::from_secs(4)),
        Figure::plain("… `turn/start`, p50, p90 and p99", {
            let [half, most, nearly_all] = [50, 90, 99].map(|percent| millis(percentile(&mut times.starts, percent)));
            format!("{half}, {most}, {nearly_all}")
        }),
        Figure::plain("… last answer in Slack", millis(all)),
        Figure::plain(
            "… CPU of the broker per mention",
            millis((after.cpu - before.cpu) / u32::try_from(count).unwrap_or(1)),
        ),
        Figure::plain("… memory before, after, peak", usage(before.resident_kib, after)),
        check,
    ]
}

/// A steady stream of replies over many threads.
async fn stream(count: usize, threads: usize, per_second: u32) -> Vec<Figure> {
    let house = House::open("bench-stream", &[]).await;
    let mut said = Said::default();
    let roots: Vec<String> = (0..threads).map(|_| said.mention(&house)).collect();
    house.answered(threads).await;
    let before = house.usage();
    let first = said.0.clone();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let begun = Instant::now();
    for n in 0..count {
        ticks.tick().await;
        said.reply(&house, &roots[n * 7 % threads]);
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    house.all_said(said.0.len()).await;
    let after = house.usage();
    let check = house.check(&said.0);
    said.0.retain(|word, _| !first.contains_key(word));
    let mut times = house.times(&said.0);
    let each = (after.cpu - before.cpu) / u32::try_from(count).unwrap_or(1);
    vec![
        Figure::plain("messages, threads, messages per second", format!("{count}, {threads}, {rate:.0}")),
        Figure::within("envelope to ack, p99", percentile(&mut times.acks, 99), Duration::from_millis(20)),
        Figure::plain(
            "envelope to ack, p50 and slowest",
            format!("{}, {}", millis(percentile(&mut times.acks, 50)), millis(percentile(&mut times.acks, 100))),
        ),
        Figure::plain("to `turn/start`, p50 and p99", {
            format!("{}, {}", millis(percentile(&mut times.starts, 50)), millis(percentile(&mut times.starts, 99)))
        }),
        Figure::within("CPU of the broker per message", each, Duration::from_millis(2)),
        memory("memory, at its peak", after.peak_kib, 60),
        Figure::plain("memory before, after, peak", usage(before.resident_kib, after)),
        check,
    ]
}

/// A start with so many sessions, all of them young enough to be looked after.
async fn sessions(count: usize) -> Vec<Figure> {
    let mut house = House::open("bench-sessions", &[]).await;
    let mut said = Said::default();
    for n in 0..count {
        said.mention(&house);
        // In portions: how a burst fares is measured by itself.
        if n % 500 == 499 {
            house.answered(n + 1).await;
        }
    }
    house.answered(count).await;
    let check = house.check(&said.0);
    let empty = house.usage();
    let mut starts = Vec::new();
    for _ in 0..5 {
        starts.push(house.restart().await);
    }
    let ready = house.usage();
    // The search for missed messages reads thirty pages a minute: over so many sessions it takes its time, and its memory.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let searching = house.usage();
    let (slowest, middle) = (percentile(&mut starts, 100), percentile(&mut starts, 50));
    vec![
        Figure::within(
            format!("start with {count} sessions to ready, slowest of 5"),
            slowest,
            Duration::from_millis(500),
        ),
        Figure::plain("… p50", millis(middle)),
        memory("memory when ready", ready.resident_kib, 40),
        memory("memory at its peak in the 30 s after, while missed messages are looked for", searching.peak_kib, 40),
        Figure::plain("memory of the broker that took them all in", mib(empty.resident_kib)),
        check,
    ]
}

fn mib(kib: u64) -> String {
    format!("{:.1} MB", kib as f64 * 1024.0 / 1e6)
}

fn usage(before_kib: u64, after: report::Usage) -> String {
    format!("{}, {}, {}", mib(before_kib), mib(after.resident_kib), mib(after.peak_kib))
}

fn memory(name: &str, kib: u64, goal: u64) -> Figure {
    Figure::checked(name, mib(kib), &format!("under {goal} MB"), kib * 1024 < goal * 1_000_000)
}
