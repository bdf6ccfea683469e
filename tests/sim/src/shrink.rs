//! Makes a scenario in which something is wrong as short as it can be.

use crate::run::{Outcome, run};
use crate::scenario::Scenario;

/// Runs that are made at most for one scenario.
const MOST: usize = 1_500;

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
            left -= 1;
            match run(&tried) {
                Ok(outcome) if !outcome.wrong.is_empty() => {
                    (best, found, shorter) = (tried, outcome, true);
                }
                _ => start += size,
            }
        }
        if left == 0 || (size == 1 && !shorter) {
            break;
        }
        size = if shorter && size == 1 { 1 } else { size.div_ceil(2).max(1) };
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
