#![forbid(unsafe_code)]
//! One thread's trouble is no other thread's: while a call to Slack hangs, a channel is archived and a model is silent, threads
//! of other channels are answered as fast as ever; and an app-server that hangs is replaced.
//!
//! What is measured is the time from a reply in an open thread, one at a time, to its answer in Slack, first without trouble,
//! then with all of it. The goal is that the median grows by no more than 50 ms; it is printed. Asserted is that everything is
//! answered while the trouble lasts.

use std::time::Duration;

use broker_tests::fake_slack::{ALICE, BOB, CHANNEL, Channel, ChannelKind, State, Trouble};
use broker_tests::processes::{self, poll};
use broker_tests::traffic::Drill;
use broker_tests::world::{ANSWER, World};
use rustix::process::Signal;
use tokio::time::Instant;

/// Replies of one measurement.
const REPLIES: usize = 25;
/// How long an app-server that hangs may stand.
const REPLACED: Duration = Duration::from_secs(45);
const HANGS: &str = "C0HANGS";
const SHELVED: &str = "C0SHELVED";
const SILENT: &str = "C0SILENT";

/// The times from a reply to its answer, shortest first.
async fn times(world: &World, root: &str, name: &str) -> Vec<Duration> {
    let mut times = Vec::new();
    for number in 0..REPLIES {
        let begun = Instant::now();
        world.reply(root, &format!("scenario:text:{name} {number}"));
        world.answer(root, &format!("{name} {number}")).await;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("{name:<8} p50 {:>8.1?}  max {:>8.1?}", times[REPLIES / 2], times[REPLIES - 1]);
    times
}

/// What hangs, is refused and is silent; returns once all of it does.
async fn trouble(world: &World) -> (String, String) {
    for (id, name) in [(HANGS, "hangs"), (SHELVED, "shelved"), (SILENT, "silent")] {
        world.slack.add_channel(Channel::new(id, name, ChannelKind::Public));
    }
    for method in ["chat.postMessage", "assistant.threads.setStatus", "conversations.replies", "reactions.add"] {
        world.slack.trouble_when(method, HANGS, Trouble::Hang, usize::MAX);
    }
    world.slack.archive(SHELVED, true);
    let hangs = world.slack.mention(HANGS, ALICE, "word-hangs scenario:text:into a call that hangs");
    world.slack.mention(SHELVED, BOB, "word-shelved scenario:text:into the archive");
    let silent = world.slack.mention(SILENT, ALICE, "word-silent scenario:hang");
    let begun = |state: &State| {
        let calls = state.calls("chat.postMessage");
        let has = |outcome: &str| calls.iter().any(|call| call.outcome == outcome);
        (has("Hang") && has("is_archived")).then_some(())
    };
    world.slack.wait_for("call that hangs and one that is refused", ANSWER, begun).await;
    world.model.wait_for_request("turn without a word", ANSWER, |request| request.says("word-silent")).await;
    (hangs, silent)
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_other_channels_delays_nobody() {
    let Some(world) = World::start("isolation").await else { return };
    let root = world.exchange("first").await;
    times(&world, &root, "warm-up").await;
    let before = times(&world, &root, "before").await;
    let (hangs, silent) = trouble(&world).await;
    let during = times(&world, &root, "during").await;
    // A thread that is new, too.
    world.exchange("another").await;
    assert_eq!(world.slack.answers(HANGS, &hangs), Vec::<String>::new(), "the call still hangs");
    assert_eq!(world.slack.answers(SILENT, &silent), Vec::<String>::new(), "the model is still silent");
    assert!(world.model.running() > 0, "its turn still runs");
    let delay = during[REPLIES / 2].saturating_sub(before[REPLIES / 2]);
    println!("delay of the median: {delay:.1?} (goal 50 ms)");
    assert_eq!(world.slack.answers(CHANNEL, &root).len(), 3 * REPLIES + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_server_that_hangs_is_replaced() {
    let Some(mut drill) = Drill::start("hung").await else { return };
    drill.stir();
    drill.answered().await;
    drill.stir();
    let old = drill.world.broker.app_server_pids();
    assert!(!old.is_empty(), "an app-server runs");
    for pid in &old {
        processes::signal(*pid, Signal::STOP);
    }
    let begun = Instant::now();
    drill.stir();
    let broker = &drill.world.broker;
    let replaced = async || {
        let now = broker.app_server_pids();
        (!now.is_empty() && now.iter().all(|pid| !old.contains(pid))).then_some(())
    };
    assert!(poll(REPLACED, replaced).await.is_some(), "{:?} still hang; {}", old, broker.last_lines(40));
    println!("replaced after {:.1?} (goal 45 s)", begun.elapsed());
    drill.end("app-server that hangs").await;
}
