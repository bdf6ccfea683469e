#![forbid(unsafe_code)]
//! A hundred threads at once on one app-server: all answered, none in another's thread; the figures are printed.
//!
//! How they are measured:
//! - *mention to `turn/start`*: from the moment when the fake Slack hands the frame of the mention to its socket to the
//!   moment that Codex stamps into the turn's id (a UUIDv7, milliseconds) when it takes `turn/start`. Both are the wall clock
//!   of this machine.
//! - *mention to model*: from the same moment to the arrival of the turn's first request at the fake model.
//! - *envelope to ack*: from the same moment to the arrival of the ack at the fake Slack.
//! - *memory*: `VmRSS` of the broker alone and of Codex.

use std::time::Duration;

use broker_core::clock::Timestamp;
use broker_tests::fake_slack::CHANNEL;
use broker_tests::processes;
use broker_tests::world::World;

/// A hundred turns of some 60 ms each on two loaded cores.
const ALL: Duration = Duration::from_secs(180);
const THREADS: usize = 100;

/// The moment in a UUIDv7.
fn moment(uuid: &str) -> Option<Timestamp> {
    let digits: String = uuid.chars().filter(|c| *c != '-').take(12).collect();
    i64::from_str_radix(&digits, 16).ok().map(Timestamp::from_millis)
}

fn line(name: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default();
    println!(
        "{name:<45} n {:>4}  p50 {:>9.1?}  p90 {:>9.1?}  p99 {:>9.1?}  max {:>9.1?}",
        times.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
    at(50)
}

/// Figures of the mentions with these words; returns the medians of mention to `turn/start` and envelope to ack.
fn figures(world: &World, name: &str, roots: &[(String, String)]) -> (Duration, Duration) {
    let requests = world.model.requests();
    let envelopes = world.slack.look(|state| state.envelopes().to_vec());
    let (mut starts, mut models, mut acks) = (Vec::new(), Vec::new(), Vec::new());
    for (word, root) in roots {
        let of_root = |e: &&broker_tests::fake_slack::Envelope| e.message.as_ref().is_some_and(|(_, ts)| ts == root);
        // Two envelopes carry a mention; the earlier one begins it.
        let first = envelopes.iter().filter(of_root).min_by_key(|envelope| envelope.first_sent);
        let request = requests.iter().find(|request| request.last_user_text().contains(word.as_str()));
        if let (Some(envelope), Some(request)) = (first, request) {
            let sent = envelope.first_sent_at.unwrap_or_default();
            starts.extend(moment(&request.turn).map(|start| start.since(sent)));
            models.extend(envelope.first_sent.map(|sent| request.at - sent));
        }
        acks.extend(envelopes.iter().filter(of_root).filter_map(|e| Some(e.acked? - e.first_sent?)));
    }
    line(&format!("{name}: mention to model"), models);
    (line(&format!("{name}: mention to turn/start"), starts), line(&format!("{name}: envelope to ack"), acks))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_threads_at_once() {
    let Some(world) = World::with("load", &[("LOG_LEVEL", "info")]).await else { return };
    println!("memory at rest: broker {} KiB", world.broker.resident_kib());

    // One after the other first: what a person sees on a broker that has nothing else to do.
    let mut alone = Vec::new();
    for n in 0..20 {
        let word = format!("alone-{n:03}");
        let root = world.exchange(&word).await;
        alone.push((word, root));
    }
    figures(&world, "one at a time", &alone);
    // The same in a thread whose Codex thread is open already.
    let mut replies = Vec::new();
    let root = alone[0].1.clone();
    for n in 0..20 {
        let word = format!("reply-{n:03}");
        let ts = world.reply(&root, &format!("{word} scenario:text:answer to {word}"));
        world.answer(&root, &format!("answer to {word}")).await;
        replies.push((word, ts));
    }
    figures(&world, "replies one at a time", &replies);

    let roots: Vec<_> = (0..THREADS)
        .map(|n| {
            let word = format!("thread-{n:03}");
            let root = world.mention(&format!("{word} scenario:text:answer to {word}"));
            (word, root)
        })
        .collect();
    let all = |state: &broker_tests::fake_slack::State| {
        roots.iter().all(|(_, root)| !state.answers(CHANNEL, root).is_empty()).then_some(())
    };
    world.slack.wait_for("answer in every thread", ALL, all).await;
    for (word, root) in &roots {
        assert_eq!(world.slack.answers(CHANNEL, root), [format!("answer to {word}")]);
    }
    figures(&world, "a hundred at once", &roots);
    println!("memory after: broker {} KiB", world.broker.resident_kib());
    for pid in world.broker.app_server_pids() {
        println!("memory after: codex {} KiB", processes::resident_kib(pid).unwrap_or_default());
    }
    let restarted = world.broker.app_server_pids().len();
    assert_eq!(restarted, 1, "one app-server serves all");
    world.finish().await;
}
