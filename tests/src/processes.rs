//! Processes of this machine, by `/proc`: finding, measuring and ending those that a test started.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How often a condition outside this process is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `look` finds something; `None` when the limit is over. For what rings no bell: files and processes.
pub async fn poll<R>(limit: Duration, mut look: impl AsyncFnMut() -> Option<R>) -> Option<R> {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(limit, found).await.ok()
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent's number.
    pub parent: u32,
    /// Its arguments, joined by spaces.
    pub command: String,
    /// Whether it has ended and only waits to be collected.
    pub zombie: bool,
}

/// All processes that can be seen.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(process).collect()
}

/// One process; absent when there is none.
pub fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut rest = stat.rsplit_once(')')?.1.split_whitespace();
    let zombie = matches!(rest.next()?, "Z" | "X");
    let parent = rest.next()?.parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned();
    Some(Process { pid, parent, command, zombie })
}

/// Whether the process runs.
pub fn alive(pid: u32) -> bool {
    process(pid).is_some_and(|process| !process.zombie)
}

/// The running processes that belong to a folder of a test: it stands in their environment or arguments, or they work in
/// it. The folder's name is unique, so these are the test's own.
pub fn belonging_to(folder: &Path) -> Vec<Process> {
    let own = std::process::id();
    all().into_iter().filter(|process| process.pid != own && !process.zombie && belongs(process, folder)).collect()
}

fn belongs(process: &Process, folder: &Path) -> bool {
    let name = folder.to_string_lossy();
    if process.command.contains(&*name) {
        return true;
    }
    let proc = format!("/proc/{}", process.pid);
    let environment = fs::read(format!("{proc}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&environment).contains(&*name)
        || fs::read_link(format!("{proc}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
}

/// The process and all that descend from it.
pub fn family(pid: u32) -> Vec<Process> {
    let all = all();
    let mut family: Vec<Process> = all.iter().filter(|process| process.pid == pid).cloned().collect();
    let mut at = 0;
    while at < family.len() {
        let parent = family[at].pid;
        family.extend(all.iter().filter(|process| process.parent == parent).cloned());
        at += 1;
    }
    family
}

/// Ends a process that the test started.
pub fn signal(pid: u32, signal: Signal) {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(number) = number {
        // One that has ended by itself needs no signal.
        let _ = kill_process(number, signal);
    }
}

/// Waits until a process has ended; `false` when the limit is over.
pub async fn gone(pid: u32, limit: Duration) -> bool {
    poll(limit, async || (!alive(pid)).then_some(())).await.is_some()
}

/// The resident memory of a process in KiB, from `VmRSS` (proc(5)).
pub fn resident_kib(pid: u32) -> Option<u64> {
    status(pid, "VmRSS:")
}

/// The most resident memory that a process ever had in KiB, from `VmHWM` (proc(5)).
pub fn peak_kib(pid: u32) -> Option<u64> {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
