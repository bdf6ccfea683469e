//! Figures, with the goals that they are held against.

use std::fmt;
use std::fs;
use std::time::Duration;

/// One line of the report.
#[derive(Debug, Clone)]
pub struct Figure {
    name: String,
    value: String,
    goal: Option<(String, bool)>,
}

impl Figure {
    /// A figure without a goal.
    pub fn plain(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), goal: None }
    }

    /// A figure with a goal, and whether it was met.
    pub fn checked(name: impl Into<String>, value: impl Into<String>, goal: &str, met: bool) -> Self {
        Self { goal: Some((goal.to_owned(), met)), ..Self::plain(name, value) }
    }

    /// A duration that should be at most `goal`.
    pub fn within(name: impl Into<String>, value: Duration, goal: Duration) -> Self {
        Self::checked(name, millis(value), &format!("at most {}", millis(goal)), value <= goal)
    }

    /// Whether a goal was missed.
    pub fn missed(&self) -> bool {
        self.goal.as_ref().is_some_and(|(_, met)| !met)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (goal, met) = match &self.goal {
            Some((goal, true)) => (goal.as_str(), "met"),
            Some((goal, false)) => (goal.as_str(), "MISSED"),
            None => ("", ""),
        };
        write!(f, "| {} | {} | {goal} | {met} |", self.name, self.value)
    }
}

/// As the report shows it.
pub fn millis(duration: Duration) -> String {
    let millis = duration.as_secs_f64() * 1000.0;
    if millis >= 1000.0 { format!("{:.2} s", millis / 1000.0) } else { format!("{millis:.1} ms") }
}

/// The value that so many percent of the times do not exceed: the nearest rank.
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1) - 1;
    times.get(rank).copied().unwrap_or_default()
}

/// What a process uses, after proc(5).
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Time on a processor, in user and kernel mode, since its start.
    pub cpu: Duration,
    /// `VmRSS`.
    pub resident_kib: u64,
    /// `VmHWM`: the most that was resident.
    pub peak_kib: u64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Usage {
    /// Of a process that runs; all zero when there is none.
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let count = |what: &str| fs::read_dir(format!("/proc/{pid}/{what}")).map(Iterator::count).unwrap_or(0);
        Self {
            cpu: cpu(pid),
            resident_kib: number("VmRSS:"),
            peak_kib: number("VmHWM:"),
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// `utime` and `stime` count in ticks, a hundred a second on every Linux that is built today.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let ticks: u64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The size of all files below a folder, and how many there are.
pub fn files_below(folder: &std::path::Path) -> (u64, usize) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.fold((0, 0), |(bytes, files), entry| match entry.metadata() {
        Ok(about) if about.is_dir() => {
            let (more, count) = files_below(&entry.path());
            (bytes + more, files + count)
        }
        Ok(about) => (bytes + about.len(), files + 1),
        Err(_) => (bytes, files),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut times: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&mut times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&mut times, 100), Duration::from_millis(200));
        assert_eq!(percentile(&mut [], 99), Duration::ZERO);
    }
}
