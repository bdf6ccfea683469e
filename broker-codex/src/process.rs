//! The app-server as a child process: how it is started, listened to and ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};

use crate::wire;

/// How long the app-server may take to end by itself, and then after a SIGTERM. Measured: 0.03 to 0.12 s.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// The longest line of its stderr that is logged, in bytes; it closes at a longer one only the log, not the process.
const MAX_STDERR_LINE: usize = 64 * 1024;

/// Lines of stderr that are logged within [`STDERR_WINDOW`]; the rest is counted.
const STDERR_LINES: u32 = 20;
const STDERR_WINDOW: Duration = Duration::from_secs(10);

/// Everything that a process is started with.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
}

impl Launch {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().envs(&self.env).current_dir(&self.cwd);
        // A group of its own: a signal reaches its helpers too, and one for the broker does not reach it.
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Runs the program to its end, with nothing to read and its output taken.
    pub(crate) async fn run(&self, limit: Duration) -> std::io::Result<std::process::Output> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, format!("it took longer than {limit:?}"));
        // Dropping the child kills it.
        timeout(limit, command.output()).await.map_err(|_| late())?
    }
}

/// A running app-server.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
}

/// Its three streams.
pub(crate) struct Pipes {
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

impl Process {
    /// Starts it.
    pub(crate) fn spawn(launch: &Launch) -> std::io::Result<(Self, Pipes)> {
        let mut command = launch.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let missing = || std::io::Error::other("the child has no pipes");
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).ok_or_else(missing)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else { return Err(missing()) };
        Ok((Self { child, pid }, Pipes { stdin, stdout, stderr }))
    }

    /// Its process id, which is its group's too.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end.
    pub(crate) async fn wait(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => ending(status),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Ends it. Its stdin is closed already: it gets `grace` to end by itself, as much again after a SIGTERM to its
    /// group, then a SIGKILL.
    pub(crate) async fn end(&mut self, grace: Duration) -> String {
        if let Ok(how) = timeout(grace, self.wait()).await {
            return how;
        }
        self.signal(Signal::TERM);
        if let Ok(how) = timeout(grace, self.wait()).await {
            return how;
        }
        tracing::warn!(pid = self.pid(), "Codex did not end in time and is killed");
        self.signal(Signal::KILL);
        // A process that even this does not end is stuck in the kernel: waiting longer would hang the broker too.
        timeout(GRACE, self.wait()).await.unwrap_or_else(|_| "it cannot be killed".to_owned())
    }

    fn signal(&self, signal: Signal) {
        // The child is not waited for yet, so the number cannot belong to anybody else.
        if self.child.id().is_some()
            && let Err(error) = rustix::process::kill_process_group(self.pid, signal)
        {
            tracing::debug!(%error, "the signal did not reach Codex's group");
        }
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;

    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Logs what the app-server writes to its stderr, until that ends. `last` gets each line, for the health page.
pub(crate) async fn log_stderr(stderr: impl AsyncRead + Unpin, last: impl Fn(String)) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    let (mut window, mut logged, mut hidden) = (Instant::now(), 0_u32, 0_u64);
    while let Ok(true) = wire::read_line(&mut reader, &mut line, MAX_STDERR_LINE).await {
        let text = wire::clip(without_colour(&String::from_utf8_lossy(&line)).trim());
        // With every start; it uses its own copy then, and the trial of the sandbox says whether that works.
        if text.is_empty() || text.contains("could not find bubblewrap") {
            continue;
        }
        if window.elapsed() >= STDERR_WINDOW {
            if hidden > 0 {
                tracing::warn!(lines = hidden, "Codex wrote more to its stderr than is logged");
            }
            (window, logged, hidden) = (Instant::now(), 0, 0);
        }
        if logged < STDERR_LINES {
            logged += 1;
            tracing::warn!(stderr = text, "Codex");
        } else {
            hidden += 1;
        }
        last(text);
    }
    // What is left is thrown away, so that a full pipe never stops the process.
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
}

/// The text without ANSI colour sequences.
fn without_colour(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.find(|char: char| char.is_ascii_alphabetic());
        rest = end.map_or("", |end| &after[end + 1..]);
    }
    plain.push_str(rest);
    plain.replace(|char: char| char.is_control(), " ")
}

/// Makes a folder that only the broker's user can enter.
pub(crate) fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Makes a folder in one that an agent can write: whatever else has its name goes, and no link is followed.
pub(crate) fn private_folder_within(parent: &Path, name: &str) -> std::io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    use std::io::{Error, ErrorKind};
    use std::os::unix::fs::DirBuilderExt;

    let path = parent.join(name);
    // An agent that puts something else there at this very moment may spoil a try, and nothing more.
    for _ in 0..3 {
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder = rustix::fs::open(&path, flags, Mode::empty())?;
                return Ok(rustix::fs::fchmod(&folder, Mode::RWXU)?);
            }
            Ok(_) => std::fs::remove_file(&path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                    Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::other("something else keeps coming in its place"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_link_is_followed_in_a_folder_of_the_agents() {
        use std::os::unix::fs::PermissionsExt;

        let root = tempfile::tempdir().expect("a folder");
        let (workspace, outside) = (root.path().join("workspace"), root.path().join("outside"));
        for folder in [&workspace, &outside] {
            std::fs::create_dir(folder).expect("a folder");
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        }
        for trick in ["link", "dangling", "file", "folder"] {
            let tmp = workspace.join(".tmp");
            match trick {
                "link" => std::os::unix::fs::symlink(&outside, &tmp).expect("a link"),
                "dangling" => std::os::unix::fs::symlink("/nowhere", &tmp).expect("a link"),
                "file" => std::fs::write(&tmp, "x").expect("a file"),
                _ => std::fs::create_dir(&tmp).expect("a folder"),
            }
            super::private_folder_within(&workspace, ".tmp").expect(trick);
            let found = std::fs::symlink_metadata(&tmp).expect(trick);
            assert!(found.is_dir() && found.permissions().mode() & 0o777 == 0o700, "{trick}");
            std::fs::remove_dir(&tmp).expect(trick);
        }
        let mode = std::fs::metadata(&outside).expect("outside").permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "what a link leads to is left alone");
    }

    use super::*;

    fn shell(script: &str) -> Launch {
        Launch {
            program: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".into(), script.into()],
            env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
            cwd: std::env::temp_dir(),
        }
    }

    #[test]
    fn colour_goes_and_text_stays() {
        assert_eq!(without_colour("\u{1b}[2m2026\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m x\ty"), "2026 ERROR x y");
        assert_eq!(without_colour("\u{1b}["), "");
    }

    #[tokio::test]
    async fn a_process_that_will_not_end_is_killed_with_its_children() {
        let launch = shell("trap '' TERM; (trap '' TERM; sleep 300) & echo $!; wait; sleep 300");
        let (mut process, pipes) = Process::spawn(&launch).expect("a shell");
        let mut line = Vec::new();
        wire::read_line(&mut BufReader::new(pipes.stdout), &mut line, 100).await.expect("the child's id");
        let child: i32 = String::from_utf8_lossy(&line).trim().parse().expect("a number");
        drop(pipes.stdin);
        assert_eq!(process.end(Duration::from_millis(100)).await, "it was ended by signal 9");
        let child = Pid::from_raw(child).expect("a pid");
        timeout(Duration::from_secs(5), async {
            // Until whoever adopted it has reaped it, it may stand there as a zombie.
            while rustix::process::test_kill_process(child).is_ok() && !crate::orphans::is_zombie(child) {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the child is gone");
    }

    #[tokio::test]
    async fn only_the_given_environment_is_there_and_time_is_limited() {
        let output = shell("env").run(Duration::from_secs(10)).await.expect("env runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.lines().all(|line| ["PATH=", "PWD=", "SHLVL=", "_="].iter().any(|name| line.starts_with(name))));
        let error = shell("sleep 60").run(Duration::from_millis(50)).await.expect_err("too long");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    }
}
