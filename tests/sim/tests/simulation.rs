#![forbid(unsafe_code)]
//! The delivery rules under every crash, from seeds.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use broker_sim::run::run;
use broker_sim::scenario::Scenario;
use broker_sim::shrink::{shrink, story};

/// So many seeds are run at the least.
const SEEDS: u64 = 1_200;

/// Names for how many seconds seeds are run at the least: every change's tests say 90.
const SECONDS: &str = "BROKER_SIM_SECONDS";

/// Seeds in which something was wrong once, and what that was.
const REGRESSIONS: &[(u64, &str)] = &[
    (222, "a refused post was not told, since the broker was killed before the session heard of it"),
    (233, "a message that waited for a place was deleted, and its session said for ever that it waits"),
    (891, "an early reply stayed unread until the next broker, since the store failed for a moment"),
    (1179, "a search that could not list the conversations counted as complete"),
    (
        8591,
        "messages that a turn took after its final were forgotten, since the broker was killed before it heard of them",
    ),
    (1374, "a stop dropped the submit of a message that was written after it"),
];

fn check(scenario: &Scenario) -> Result<(), String> {
    let outcome = run(scenario).map_err(|error| error.to_string())?;
    if outcome.wrong.is_empty() {
        return Ok(());
    }
    let (shortest, outcome) = shrink(scenario, outcome);
    Err(story(&shortest, &outcome))
}

#[test]
fn two_runs_of_a_seed_are_the_same_word_for_word() {
    for seed in 1..=60 {
        let scenario = Scenario::of(seed);
        let (one, other) = (run(&scenario).unwrap(), run(&scenario).unwrap());
        assert!(one.trace.len() > 5, "seed {seed} does something");
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert_eq!(one.wrong, other.wrong, "seed {seed}");
    }
}

#[test]
fn every_rule_holds_in_every_run() {
    let seconds = std::env::var(SECONDS).ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    // How long is up to whoever runs it; what is checked is not a matter of time.
    let until = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let next = AtomicU64::new(1);
    let stories = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = seed > SEEDS && tokio::time::Instant::now() >= until;
                    if enough || !stories.lock().unwrap().is_empty() {
                        return;
                    }
                    if let Err(story) = check(&Scenario::of(seed)) {
                        stories.lock().unwrap().push(story);
                    }
                }
            });
        }
    });
    let stories = stories.into_inner().unwrap();
    assert!(stories.is_empty(), "{}", stories.join("\n"));
    println!("{} seeds", next.into_inner() - 1);
}

/// Everything goes wrong in one conversation: its calls hang, fail and are refused, its turns are silent. In the threads of the
/// others everything happens at the same moment as without that.
#[test]
fn what_goes_wrong_in_one_conversation_moves_nothing_in_another() {
    let mut compared = 0;
    for seed in 1..=200 {
        let runs = [false, true].map(|besieged| run(&Scenario::siege(seed, besieged)).unwrap());
        let [calm, besieged] = runs;
        assert_eq!(calm.wrong, [""; 0], "seed {seed}");
        for (thread, moments) in &calm.moments {
            if thread.conversation.as_str() == "C1" {
                continue;
            }
            let besieged = besieged.moments.get(thread).cloned().unwrap_or_default();
            let same = moments.len() == besieged.len();
            let apart = moments.iter().zip(&besieged).map(|(one, other)| one.abs_diff(*other)).max().unwrap_or(0);
            assert!(same && apart <= 50, "seed {seed}, {thread}: {moments:?} and besieged {besieged:?}");
            compared += moments.len();
        }
    }
    assert!(compared > 1_000, "{compared} moments");
}

#[test]
fn what_was_wrong_once_is_wrong_no_more() {
    for (seed, what) in REGRESSIONS {
        if let Err(story) = check(&Scenario::plain(*seed)) {
            panic!("{what}\n{story}");
        }
    }
}

#[cfg(feature = "sabotage")]
#[test]
fn planted_faults_are_found_within_two_thousand_seeds() {
    use broker_core::sabotage::{Plant, plant};

    for fault in Plant::ALL {
        let first = thread::spawn(move || {
            plant(Some(fault));
            let found = (1..=2_000).find_map(|seed| {
                Some((seed, run(&Scenario::of(seed)).unwrap())).filter(|(_, run)| !run.wrong.is_empty())
            });
            plant(None);
            let (seed, outcome) = found?;
            assert_eq!(run(&Scenario::of(seed)).unwrap().wrong, [""; 0], "without the fault all is well");
            Some((seed, outcome.wrong))
        });
        let (seed, wrong) = first.join().unwrap().unwrap_or_else(|| panic!("{fault:?} is not found"));
        println!("{fault:?} is found by seed {seed}: {}", wrong.join("; "));
    }
}
