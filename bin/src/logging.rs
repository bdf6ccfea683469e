//! Logs: human-readable on a terminal, JSON otherwise, and JSON in files when wanted.
//!
//! Everything is written by one thread behind a bounded queue, so that a pipe that nobody reads or a slow disk never holds
//! up the broker. What does not fit is dropped and counted. The broker's own secrets are struck out of every line, in case
//! one is ever logged by mistake.

use std::backtrace::Backtrace;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::log_files::{Bounds, HourlyFiles};

/// The most lines that wait to be written.
const QUEUE: usize = 8192;
/// How long the end of the process waits for the queue.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// How often, and after which pauses, it looks for room in a queue that is full.
const FLUSH_TRIES: usize = 40;
const FLUSH_PAUSE: Duration = Duration::from_millis(25);
/// What stands in the place of a secret.
const STRUCK_OUT: &[u8] = b"[secret]";
/// The broker's own parts. Libraries say warnings at most, whatever LOG_LEVEL is: some of them log whole requests.
const OURS: [&str; 6] = ["broker", "broker_core", "broker_slack", "broker_codex", "broker_store", "broker_http"];

enum Order {
    Line(Vec<u8>, Destination),
    /// Answer once everything before this is written.
    Flush(SyncSender<()>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Stderr,
    File,
}

/// The way to the log's thread. Dropping it waits, within a limit, until everything is written.
#[derive(Debug)]
pub(crate) struct Log {
    queue: SyncSender<Order>,
}

impl Log {
    /// Waits until everything that was logged so far is written, three seconds at most.
    pub(crate) fn flush(&self) {
        let (done, written) = mpsc::sync_channel(1);
        let mut order = Order::Flush(done);
        // A queue that is full has to move first; with a pipe that nobody reads it never does.
        for _ in 0..FLUSH_TRIES {
            match self.queue.try_send(order) {
                Ok(()) => {
                    let _ = written.recv_timeout(FLUSH_LIMIT);
                    return;
                }
                Err(TrySendError::Full(back)) => order = back,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::park_timeout(FLUSH_PAUSE);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Starts the log of the process, panics included.
///
/// # Errors
///
/// When the folder cannot be made, or a log was started before.
pub(crate) fn start(level: Level, folder: Option<&Path>, secrets: Vec<SecretString>) -> io::Result<Log> {
    open(level, folder, secrets, true)
}

/// The same in files alone: stderr belongs to somebody else.
///
/// # Errors
///
/// When the folder cannot be made, or a log was started before.
pub(crate) fn start_beside(level: Level, folder: &Path, secrets: Vec<SecretString>) -> io::Result<Log> {
    open(level, Some(folder), secrets, false)
}

fn open(level: Level, folder: Option<&Path>, secrets: Vec<SecretString>, with_stderr: bool) -> io::Result<Log> {
    let files = folder.map(|folder| HourlyFiles::open(&folder.join("broker"), Bounds::default())).transpose()?;
    let with_files = files.is_some();
    let (queue, orders) = mpsc::sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = Writer { files, secrets, dropped: Arc::clone(&dropped), file_failed: false };
    std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&orders))?;

    let out = |to| Out { queue: queue.clone(), dropped: Arc::clone(&dropped), to };
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> = Vec::new();
    if with_stderr && io::stderr().is_terminal() {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        layers.push(fmt::layer().with_ansi(colour).with_writer(out(Destination::Stderr)).boxed());
    } else if with_stderr {
        layers.push(fmt::layer().json().flatten_event(true).with_writer(out(Destination::Stderr)).boxed());
    }
    if with_files {
        layers.push(fmt::layer().json().flatten_event(true).with_writer(out(Destination::File)).boxed());
    }
    tracing_subscriber::registry().with(layers).with(filter(level)).try_init().map_err(io::Error::other)?;
    log_panics();
    Ok(Log { queue })
}

fn filter(level: Level) -> Targets {
    let libraries = LevelFilter::from_level(level.min(Level::WARN));
    Targets::new().with_default(libraries).with_targets(OURS.map(|target| (target, level)))
}

/// A panic ends the task or thread that it happened in; it must not end unseen.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        tracing::error!(
            thread = thread.name().unwrap_or("unnamed"),
            place = panic.location().map(ToString::to_string),
            backtrace = %Backtrace::capture(),
            "a panic: {}",
            panic.payload_as_str().unwrap_or("of an unknown kind"),
        );
    }));
}

/// Hands lines to the thread. An event is one write: that is how `tracing_subscriber::fmt` writes.
#[derive(Debug, Clone)]
struct Out {
    queue: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
    to: Destination,
}

impl Write for Out {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Order::Line(line.to_vec(), self.to)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Out {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What the thread owns.
struct Writer {
    files: Option<HourlyFiles>,
    secrets: Vec<SecretString>,
    dropped: Arc<AtomicU64>,
    /// Whether the last write to a file failed, so that a full disk is told once.
    file_failed: bool,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Line(line, to) => {
                    self.line(line, to);
                    let dropped = self.dropped.swap(0, Ordering::Relaxed);
                    if dropped > 0 {
                        let told = format!("{{\"level\":\"WARN\",\"message\":\"{dropped} log lines were dropped\"}}\n");
                        self.line(told.clone().into_bytes(), Destination::Stderr);
                        self.line(told.into_bytes(), Destination::File);
                    }
                }
                Order::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn line(&mut self, line: Vec<u8>, to: Destination) {
        let line = strike_out(line, &self.secrets);
        match (to, &mut self.files) {
            // Nobody is left to be told when stderr is gone.
            (Destination::Stderr, _) => drop(io::stderr().write_all(&line)),
            (Destination::File, None) => {}
            (Destination::File, Some(files)) => match files.write(&line, seconds()) {
                Ok(()) => self.file_failed = false,
                Err(error) if !self.file_failed => {
                    self.file_failed = true;
                    let _ = writeln!(io::stderr(), "the log file cannot be written ({error}); see LOG_DIR");
                }
                Err(_) => {}
            },
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "files are named by the same wall clock that stamps their lines")]
fn seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The line without the secrets. They hold nothing that JSON would escape, so their bytes are found as they are.
fn strike_out(mut line: Vec<u8>, secrets: &[SecretString]) -> Vec<u8> {
    for secret in secrets.iter().map(|secret| secret.expose_secret().as_bytes()) {
        // A secret of a few characters is none, and would strike out ordinary words.
        if secret.len() < 8 {
            continue;
        }
        let mut from = 0;
        while let Some(at) = line[from..].windows(secret.len()).position(|window| window == secret) {
            let at = from + at;
            line.splice(at..at + secret.len(), STRUCK_OUT.iter().copied());
            from = at + STRUCK_OUT.len();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_struck_out() {
        let secrets = ["xoxb-1234", "xapp-12345678", "[secret]", "1"].map(SecretString::from);
        let line = b"{\"a\":\"xoxb-1234\",\"b\":\"Bearer xapp-12345678xoxb-1234\",\"c\":1}\n".to_vec();
        let struck = String::from_utf8(strike_out(line, &secrets)).expect("text");
        assert_eq!(struck, "{\"a\":\"[secret]\",\"b\":\"Bearer [secret][secret]\",\"c\":1}\n");
    }

    #[test]
    fn libraries_say_warnings_at_most() {
        for (level, target, asked, expected) in [
            (Level::TRACE, "broker_slack::socket", Level::TRACE, true),
            (Level::TRACE, "slack_morphism::client", Level::INFO, false),
            (Level::TRACE, "slack_morphism::client", Level::WARN, true),
            (Level::INFO, "broker", Level::DEBUG, false),
            (Level::INFO, "broker::run", Level::INFO, true),
            (Level::ERROR, "hyper", Level::WARN, false),
        ] {
            assert_eq!(filter(level).would_enable(target, &asked), expected, "{target} {asked} at {level}");
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (queue, orders) = mpsc::sync_channel(1);
        let mut out = Out { queue, dropped: Arc::default(), to: Destination::Stderr };
        for _ in 0..3 {
            out.write_all(b"line\n").expect("never an error");
        }
        assert_eq!(out.dropped.load(Ordering::Relaxed), 2);
        assert!(matches!(orders.try_recv(), Ok(Order::Line(..))));
    }
}
