//! Makes a scenario in which something is wrong as short as it can be.

use std::iter::once;

use crate::run::{Outcome, run};
use crate::scenario::{Crash, Item, Manner, Scenario};

/// Runs that are made at most for one scenario.
const MOST: usize = 4_000;
/// A kill is looked for so many places before where it was: without an item the broker makes fewer calls.
const EARLIER: u32 = 40;

/// The shortest scenario that was found in which something is still wrong, and what came of it. What is left out of a
/// scenario changes nothing of the rest, so that first halves and then single items are left out while it stays wrong.
pub fn shrink(scenario: &Scenario, outcome: Outcome) -> (Scenario, Outcome) {
    let (mut best, mut found) = (scenario.clone(), outcome);
    let mut left = MOST;
    let mut size = best.items.len().div_ceil(2).max(1);
    loop {
        let mut shorter = false;
        let mut start = 0;
        while start < best.items.len() && left > 0 {
            let mut tried = best.clone();
            let end = (start + size).min(tried.items.len());
            tried.items.drain(start..end);
            match first_wrong(once(tried.clone()).chain(moved(&tried, size == 1)), &mut left) {
                Some((tried, outcome)) => (best, found, shorter) = (tried, outcome, true),
                None => start += size,
            }
        }
        if left == 0 || (size == 1 && !shorter) {
            break;
        }
        size = if shorter && size == 1 { 1 } else { size.div_ceil(2).max(1) };
    }
    // A kill between two calls tells more than one in the middle of a write, a short absence more than a long one.
    let crashes: Vec<usize> = (0..best.items.len()).filter(|index| is_crash(&best.items[*index])).collect();
    for index in crashes {
        let simpler = [Crash { away: 10, manner: Manner::Killed { torn: None }, point: 0 }].into_iter().map(|plain| {
            let mut tried = best.clone();
            if let Item::Crash(crash) = &mut tried.items[index] {
                *crash = Crash { point: crash.point, ..plain };
            }
            tried
        });
        if let Some(simpler) = first_wrong(simpler.collect::<Vec<_>>().into_iter(), &mut left) {
            (best, found) = simpler;
        }
    }
    for simpler in [
        Scenario { disk: false, ..best.clone() },
        Scenario { sockets: 1, disk: false, ..best.clone() },
        Scenario { sockets: 1, disk: false, turns: 32, ..best.clone() },
    ] {
        if let Ok(outcome) = run(&simpler)
            && !outcome.wrong.is_empty()
        {
            (best, found) = (simpler, outcome);
        }
    }
    (best, found)
}

fn is_crash(item: &Item) -> bool {
    matches!(item, Item::Crash(_))
}

/// The first of some scenarios in which something is wrong.
fn first_wrong(scenarios: impl Iterator<Item = Scenario>, left: &mut usize) -> Option<(Scenario, Outcome)> {
    for scenario in scenarios {
        *left = left.checked_sub(1)?;
        if let Ok(outcome) = run(&scenario)
            && !outcome.wrong.is_empty()
        {
            return Some((scenario, outcome));
        }
    }
    None
}

/// A scenario with each of its kills a little earlier, where those are to be looked for.
fn moved(scenario: &Scenario, wanted: bool) -> impl Iterator<Item = Scenario> + use<'_> {
    let crashes = (0..scenario.items.len()).filter(move |index| wanted && is_crash(&scenario.items[*index]));
    crashes.flat_map(move |index| {
        (1..=EARLIER).filter_map(move |earlier| {
            let mut tried = scenario.clone();
            let Item::Crash(crash) = &mut tried.items[index] else { return None };
            crash.point = crash.point.checked_sub(earlier).filter(|point| *point > 0)?;
            Some(tried)
        })
    })
}

/// A scenario and its run, to be read.
pub fn story(scenario: &Scenario, outcome: &Outcome) -> String {
    let mut text = format!(
        "Seed {}: {} connections, {} turns at once, the store {}.\n\nWhat is wrong:\n",
        scenario.seed,
        scenario.sockets,
        scenario.turns,
        if scenario.disk { "on a disk" } else { "in memory" }
    );
    for wrong in &outcome.wrong {
        text.push_str(&format!("  {wrong}\n"));
    }
    text.push_str("\nWhat was to happen:\n");
    for item in &scenario.items {
        text.push_str(&format!("  {item}\n"));
    }
    text.push_str("\nWhat happened:\n");
    for line in &outcome.trace {
        text.push_str(&format!("  {line}\n"));
    }
    text
}
