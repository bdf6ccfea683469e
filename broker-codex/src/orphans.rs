//! Ending what a crashed broker left behind (invariant 12).
//!
//! The app-server ends by itself when its stdin closes, and its commands die with it; but not always: a sandbox helper
//! was seen alive 15 minutes after its app-server. So before an app-server is started, the processes of our user are
//! looked through for the mark that all of ours carry, the agent's commands included.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

/// How long an orphan may take to end after a SIGTERM, and then after a SIGKILL.
const PATIENCE: Duration = Duration::from_secs(2);

/// A process, told apart from a later one with the same number by when it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    pid: Pid,
    stamp: String,
}

/// Which processes are ours.
#[derive(Debug, Clone)]
pub(crate) struct Orphans {
    data_root: PathBuf,
    pid_file: PathBuf,
}

impl Orphans {
    /// The processes of the broker that has this data root.
    pub(crate) fn new(data_root: &Path) -> Self {
        Self { data_root: data_root.to_path_buf(), pid_file: data_root.join("state/app-server.pid") }
    }

    /// Notes the app-server that was just started. A failure only makes a later search less sure.
    pub(crate) async fn note(&self, pid: u32) {
        let Some(stamp) = stamp(pid).await else { return };
        if let Err(error) = tokio::fs::write(&self.pid_file, format!("{pid} {stamp}\n")).await {
            tracing::warn!(%error, "the app-server's process id cannot be noted");
        }
    }

    /// Forgets the noted app-server: it has ended.
    pub(crate) async fn forget(&self) {
        let _ = tokio::fs::remove_file(&self.pid_file).await;
    }

    /// Finds and ends what is left of an earlier app-server. Returns how many processes there were.
    ///
    /// To be called only while no app-server of ours runs.
    pub(crate) async fn sweep(&self) -> usize {
        let found = self.find().await;
        if found.is_empty() {
            return 0;
        }
        tracing::warn!(count = found.len(), "processes of an earlier run are still there and are ended");
        for signal in [Signal::TERM, Signal::KILL] {
            for orphan in &found {
                if is_still(orphan).await {
                    let _ = rustix::process::kill_process(orphan.pid, signal);
                }
            }
            let deadline = Instant::now() + PATIENCE;
            while any_is_still(&found).await {
                if Instant::now() >= deadline {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        if any_is_still(&found).await {
            tracing::error!("a process of an earlier run cannot be ended; look for {}", self.data_root.display());
        }
        found.len()
    }

    async fn find(&self) -> Vec<Found> {
        let noted = self.noted().await;
        #[cfg(target_os = "linux")]
        {
            let root = self.data_root.clone();
            let all = tokio::task::spawn_blocking(move || linux::marked(&root, noted.as_ref())).await;
            all.unwrap_or_default()
        }
        #[cfg(not(target_os = "linux"))]
        {
            noted.into_iter().collect()
        }
    }

    /// The app-server of the pid file, when it still runs.
    async fn noted(&self) -> Option<Found> {
        let text = tokio::fs::read_to_string(&self.pid_file).await.ok()?;
        let (pid, stamp) = text.trim().split_once(' ')?;
        let found = Found { pid: Pid::from_raw(pid.parse().ok()?)?, stamp: stamp.to_owned() };
        is_still(&found).await.then_some(found)
    }
}

async fn is_still(found: &Found) -> bool {
    stamp(found.pid.as_raw_nonzero().get().unsigned_abs()).await.is_some_and(|stamp| stamp == found.stamp)
}

async fn any_is_still(found: &[Found]) -> bool {
    for orphan in found {
        if is_still(orphan).await {
            return true;
        }
    }
    false
}

/// What a process with this number has that a later one cannot have; `None` when there is none, or only a zombie.
#[cfg(target_os = "linux")]
async fn stamp(pid: u32) -> Option<String> {
    let stat = tokio::fs::read_to_string(format!("/proc/{pid}/stat")).await.ok()?;
    linux::stamp_of(&stat)
}

/// What a process with this number has that a later one cannot have; `None` when there is none.
#[cfg(not(target_os = "linux"))]
async fn stamp(pid: u32) -> Option<String> {
    let mut command = tokio::process::Command::new("/bin/ps");
    command.args(["-o", "lstart=", "-p", &pid.to_string()]).env_clear().env("LC_ALL", "C").kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(5), command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Whether a process has ended and only waits for its parent to take notice.
#[cfg(test)]
pub(crate) fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rustix::process::{Pid, getpid, getuid};

    use super::Found;
    use crate::environment::MARK;

    /// How much of an environment or command line is read; the kernel gives no more than a few MiB.
    const MAX_READ: u64 = 4 * 1024 * 1024;

    /// Programs that Codex runs commands through. They were seen without our mark: they are ours when their command line names
    /// our data root, or when their temporary files belong there. The latter is all that a helper shows with which Codex tries
    /// its sandbox; one whose parent was killed a moment too early waits for it for ever.
    const HELPERS: [&str; 2] = ["bwrap", "codex-linux-sandbox"];

    struct Seen {
        parent: i32,
        group: i32,
        found: Found,
        ours: bool,
    }

    /// All processes of our user that belong to this data root, without ourselves.
    pub(super) fn marked(data_root: &Path, noted: Option<&Found>) -> Vec<Found> {
        let uid = getuid().as_raw();
        let mut seen: HashMap<i32, Seen> = HashMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if entry.metadata().is_ok_and(|metadata| metadata.uid() == uid)
                && let Some(process) = look(pid, data_root, noted)
            {
                seen.insert(pid, process);
            }
        }
        let own = getpid().as_raw_nonzero().get();
        let leaders: Vec<i32> = seen.iter().filter(|(_, process)| process.ours).map(|(pid, _)| *pid).collect();
        seen.iter()
            .filter(|(pid, process)| **pid != own && !is_above(own, **pid, &seen) && process.found.pid != Pid::INIT)
            .filter(|(pid, process)| {
                process.ours
                    || leaders.contains(&process.group)
                    || leaders.iter().any(|top| is_above(**pid, *top, &seen))
            })
            .map(|(_, process)| process.found.clone())
            .collect()
    }

    /// Whether `top` is a parent, grandparent, … of `pid`.
    fn is_above(pid: i32, top: i32, seen: &HashMap<i32, Seen>) -> bool {
        let mut next = seen.get(&pid).map(|process| process.parent);
        // A bound, since the table was read while processes came and went.
        for _ in 0..1000 {
            match next {
                Some(parent) if parent == top => return true,
                Some(parent) => next = seen.get(&parent).map(|process| process.parent),
                None => return false,
            }
        }
        false
    }

    fn look(pid: i32, data_root: &Path, noted: Option<&Found>) -> Option<Seen> {
        let folder = Path::new("/proc").join(pid.to_string());
        let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
        let fields = fields_of(&stat)?;
        let found = Found { pid: Pid::from_raw(pid)?, stamp: stamp_of(&stat)? };
        let environ = read(&folder.join("environ"));
        let ours = noted == Some(&found)
            || has_mark(&environ, data_root)
            || is_helper(&read(&folder.join("cmdline")), &environ, data_root);
        Some(Seen { parent: fields.get(1)?.parse().ok()?, group: fields.get(2)?.parse().ok()?, found, ours })
    }

    fn read(path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(file) = std::fs::File::open(path) {
            // What was read before an error is still good to look at.
            let _ = file.take(MAX_READ).read_to_end(&mut bytes);
        }
        bytes
    }

    /// The fields after the name: state, parent, group, … (proc(5); the name itself may contain anything).
    fn fields_of(stat: &str) -> Option<Vec<&str>> {
        Some(stat.rsplit_once(')')?.1.split_whitespace().collect())
    }

    /// When the process was started, in ticks since this boot of the machine, and which boot that is.
    pub(super) fn stamp_of(stat: &str) -> Option<String> {
        let fields = fields_of(stat)?;
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(format!("{} {}", fields.get(19)?, boot.trim()))
    }

    pub(super) fn has_mark(environ: &[u8], data_root: &Path) -> bool {
        let mark = [MARK.as_bytes(), b"=", data_root.as_os_str().as_bytes()].concat();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark)
    }

    pub(super) fn is_helper(cmdline: &[u8], environ: &[u8], data_root: &Path) -> bool {
        let mut words = cmdline.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let temporary = environ.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"TMPDIR="));
        HELPERS.iter().any(|helper| helper.as_bytes() == name)
            && (words.any(|word| names(word, data_root)) || temporary.is_some_and(|folder| names(folder, data_root)))
    }

    /// Whether a word is a path in the data root, or mentions one. `/data2` does not mention `/data`.
    fn names(word: &[u8], data_root: &Path) -> bool {
        let root = data_root.as_os_str().as_bytes();
        word.windows(root.len()).enumerate().any(|(at, window)| {
            let before =
                at == 0 || !matches!(word[at - 1], b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z');
            let after = word.get(at + root.len()).is_none_or(|byte| matches!(byte, b'/' | b'"' | b'\'' | b',' | b'}'));
            window == root && before && after
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::environment::MARK;

    #[test]
    fn a_neighbour_with_a_similar_root_is_not_ours() {
        let root = Path::new("/srv/data");
        assert!(linux::has_mark(b"A=1\0SCB_RUNTIME=/srv/data\0", root));
        assert!(!linux::has_mark(b"SCB_RUNTIME=/srv/data2\0XSCB_RUNTIME=/srv/data\0", root));
        assert!(linux::is_helper(b"/usr/bin/bwrap\0--bind\0/srv/data/sessions/a\0", b"", root));
        assert!(linux::is_helper(b"bwrap\0--tmpfs\0/srv/data\0", b"", root));
        assert!(!linux::is_helper(b"bwrap\0--bind\0/srv/data2/a\0/x/srv/data/a\0", b"", root));
        assert!(!linux::is_helper(b"vim\0/srv/data/a\0", b"", root));
        assert!(!linux::is_helper(b"", b"", root));
        assert!(linux::is_helper(
            b"bwrap\0--\0/usr/bin/true\0",
            b"PATH=/bin\0TMPDIR=/srv/data/runtime-home/tmp\0",
            root
        ));
        assert!(!linux::is_helper(b"bwrap\0--\0/usr/bin/true\0", b"PWD=/srv/data\0TMPDIR=/srv/data2/tmp\0", root));
    }

    #[tokio::test]
    async fn marked_processes_are_ended_and_others_are_not() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path().canonicalize().expect("a path");
        std::fs::create_dir_all(root.join("state")).expect("folder");
        let start = |mark: &Path| {
            let mut command = tokio::process::Command::new("/bin/sh");
            command.args(["-c", "trap '' TERM; (exec env -u SCB_RUNTIME sleep 300) & echo go; wait"]);
            command.env(MARK, mark).process_group(0).kill_on_drop(true).stdout(Stdio::piped());
            command.spawn().expect("a shell")
        };
        let mut ours = start(&root);
        let mut other = start(&root.join("x"));
        for child in [&mut ours, &mut other] {
            let mut reader = tokio::io::BufReader::new(child.stdout.take().expect("piped"));
            crate::wire::read_line(&mut reader, &mut Vec::new(), 100).await.expect("it has begun");
        }
        let orphans = Orphans::new(&root);
        orphans.note(ours.id().expect("it runs")).await;
        // The shell, found by its mark, and its child, found below it: it lost the mark.
        assert_eq!(orphans.sweep().await, 2);
        // Killed itself, or at the end of its script because its child was killed first.
        tokio::time::timeout(PATIENCE, ours.wait()).await.expect("in time").expect("ended");
        assert!(other.try_wait().expect("a state").is_none());
        assert_eq!(orphans.sweep().await, 0);
        // The other shell ignores SIGTERM and its child belongs to its group.
        let group = other.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
        rustix::process::kill_process_group(group, Signal::KILL).expect("it is ours");
    }
}
