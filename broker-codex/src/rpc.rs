//! Requests and their answers over one pair of pipes.
//!
//! One task writes, one reads. What is sent by one caller after another is written in that order. Every request has a
//! time limit, because the app-server never answers some (an overload reply that it drops, a line that it cannot read).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::wire::{self, Incoming, RemoteError};

/// Requests that wait for an answer at any time. Of 1000 at once the app-server never answered 28 %, of 500 all.
const MAX_IN_FLIGHT: usize = 64;

/// Lines that wait to be written: the requests in flight, and answers to the app-server's own questions.
const MAX_UNWRITTEN: usize = 256;

/// A silence so long calls for a look at the process. Shorter limits are the caller's impatience.
const SUSPICIOUS: Duration = Duration::from_secs(30);

/// Unreadable lines that are logged per process; the rest is only counted.
const MAX_COMPLAINTS: u64 = 20;

/// Why a request has no result.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum CallError {
    /// The process is gone.
    #[error("the Codex process is gone ({reason})")]
    Gone {
        /// Whether the request may have reached it.
        written: bool,
        reason: String,
    },
    /// No answer in time.
    #[error("Codex gave no answer within {limit:?}")]
    Unanswered { written: bool, limit: Duration },
    /// An error for an answer.
    #[error("{0}")]
    Refused(RemoteError),
    /// An answer that is not of the expected shape. The request had its effect.
    #[error("Codex's answer could not be read ({0})")]
    Unreadable(String),
}

/// Takes what the app-server says by itself. The reader waits for it, so that order is kept and memory is bounded.
#[async_trait]
pub(crate) trait Inbound: Send + Sync + 'static {
    async fn notification(&self, method: &str, params: &RawValue);
    async fn request(&self, id: Value, method: &str, params: &RawValue);
    /// Any answer came: the process lives.
    fn answered(&self);
}

type Reply = oneshot::Sender<Result<Box<RawValue>, RemoteError>>;

struct Waiting {
    reply: Reply,
    /// Set just before the bytes go out: from then on it is unknown what the app-server saw.
    written: bool,
}

enum Outgoing {
    Request { id: u64, line: Vec<u8> },
    Plain(Vec<u8>),
}

struct Inner {
    outgoing: mpsc::Sender<Outgoing>,
    /// Bounded by the semaphore.
    waiting: Mutex<HashMap<u64, Waiting>>,
    next: AtomicU64,
    in_flight: Semaphore,
    gone: CancellationToken,
    reason: Mutex<Option<String>>,
    /// A written request stayed unanswered: somebody should look whether the process still lives.
    suspicion: Notify,
    /// The reader waits for the consumer of events: silence is not the app-server's fault.
    stalled: AtomicBool,
}

impl Inner {
    // Held for a moment, never across an await.
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reason: &str) {
        {
            let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            known.get_or_insert_with(|| reason.to_owned());
        }
        self.gone.cancel();
    }

    fn reason(&self) -> String {
        let known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone().unwrap_or_else(|| "it ended".to_owned())
    }
}

/// Takes a request out of the table when its caller stops waiting, for whatever reason.
struct Ticket<'a> {
    inner: &'a Inner,
    id: u64,
}

impl Ticket<'_> {
    /// Withdraws the request: whether it may have been written. After this it will not be, when it was not yet.
    fn withdraw(&self) -> bool {
        self.inner.waiting().remove(&self.id).is_none_or(|waiting| waiting.written)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.inner.waiting().remove(&self.id);
    }
}

/// One conversation with one app-server process. Clones share it.
#[derive(Clone)]
pub(crate) struct Rpc {
    inner: Arc<Inner>,
}

/// The two tasks' work, to be driven by whoever owns the process.
pub(crate) struct Ends<R, W> {
    inner: Arc<Inner>,
    lines: mpsc::Receiver<Outgoing>,
    reader: R,
    writer: W,
}

impl Rpc {
    /// A conversation over a pair of pipes. It begins when [`Ends::run`] is polled.
    pub(crate) fn new<R, W>(reader: R, writer: W) -> (Self, Ends<R, W>) {
        let (outgoing, lines) = mpsc::channel(MAX_UNWRITTEN);
        let inner = Arc::new(Inner {
            outgoing,
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            gone: CancellationToken::new(),
            reason: Mutex::default(),
            suspicion: Notify::new(),
            stalled: AtomicBool::new(false),
        });
        (Self { inner: Arc::clone(&inner) }, Ends { inner, lines, reader, writer })
    }

    /// Makes a request.
    ///
    /// # Errors
    ///
    /// See [`CallError`]. What says `written: false` had no effect.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        limit: Duration,
    ) -> Result<T, CallError> {
        let raw = self.call_raw(method, &params, limit).await?;
        serde_json::from_str(raw.get()).map_err(|error| CallError::Unreadable(format!("{method}: {error}")))
    }

    async fn call_raw(&self, method: &str, params: &Value, limit: Duration) -> Result<Box<RawValue>, CallError> {
        let inner = &*self.inner;
        let deadline = tokio::time::Instant::now() + limit;
        let gone = |written| CallError::Gone { written, reason: inner.reason() };
        let permit = tokio::select! {
            biased;
            () = inner.gone.cancelled() => return Err(gone(false)),
            permit = inner.in_flight.acquire() => permit.map_err(|_| gone(false))?,
            () = tokio::time::sleep_until(deadline) => return Err(CallError::Unanswered { written: false, limit }),
        };
        let id = inner.next.fetch_add(1, Ordering::Relaxed);
        let (reply, mut answer) = oneshot::channel();
        inner.waiting().insert(id, Waiting { reply, written: false });
        let ticket = Ticket { inner, id };
        let line = wire::encode(&json!({"id": id, "method": method, "params": params}));
        let exchange = async {
            if inner.outgoing.send(Outgoing::Request { id, line }).await.is_err() {
                // Never resolves: the cancellation of `gone` follows.
                std::future::pending::<()>().await;
            }
            (&mut answer).await
        };
        let outcome = tokio::select! {
            biased;
            outcome = exchange => outcome.map_err(|_| gone(true))?,
            () = inner.gone.cancelled() => return Err(gone(ticket.withdraw())),
            () = tokio::time::sleep_until(deadline) => {
                let written = ticket.withdraw();
                let stalled = inner.stalled.load(Ordering::Relaxed);
                if written && limit >= SUSPICIOUS && !stalled {
                    inner.suspicion.notify_one();
                }
                return Err(CallError::Unanswered { written, limit });
            }
        };
        drop(permit);
        outcome.map_err(CallError::Refused)
    }

    /// Sends a message that has no answer: a notification, or the answer to a question.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub(crate) async fn send(&self, message: &Value) -> Result<(), CallError> {
        let gone = || CallError::Gone { written: false, reason: self.inner.reason() };
        tokio::select! {
            biased;
            () = self.inner.gone.cancelled() => Err(gone()),
            sent = self.inner.outgoing.send(Outgoing::Plain(wire::encode(message))) => sent.map_err(|_| gone()),
        }
    }

    /// Ends the conversation: closes the app-server's stdin, and every request that waits fails with `reason`.
    pub(crate) fn close(&self, reason: &str) {
        self.inner.close(reason);
    }

    /// Whether the conversation is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.gone.is_cancelled()
    }

    /// Waits until the conversation is over; says why.
    pub(crate) async fn closed(&self) -> String {
        self.inner.gone.cancelled().await;
        self.inner.reason()
    }

    /// Waits until a written request stayed unanswered.
    pub(crate) async fn suspicion(&self) {
        self.inner.suspicion.notified().await;
    }

    /// Says whether the reader waits for the consumer of events.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.inner.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Whether the reader waits for the consumer of events.
    pub(crate) fn is_stalled(&self) -> bool {
        self.inner.stalled.load(Ordering::Relaxed)
    }
}

impl<R, W> Ends<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    /// Reads and writes until the conversation is over. The reader goes on to the end of what the process has said.
    pub(crate) async fn run(self, inbound: Arc<dyn Inbound>) {
        let Self { inner, lines, reader, writer } = self;
        tokio::join!(write(&inner, lines, writer), read(&inner, reader, &*inbound));
    }
}

async fn write<W: AsyncWrite + Unpin>(inner: &Inner, mut lines: mpsc::Receiver<Outgoing>, mut writer: W) {
    loop {
        let outgoing = tokio::select! {
            biased;
            () = inner.gone.cancelled() => break,
            outgoing = lines.recv() => outgoing,
        };
        let line = match outgoing {
            None => break,
            Some(Outgoing::Plain(line)) => line,
            Some(Outgoing::Request { id, line }) => match inner.waiting().get_mut(&id) {
                Some(waiting) => {
                    waiting.written = true;
                    line
                }
                // Its caller has stopped waiting: it is as if it had never been made.
                None => continue,
            },
        };
        let written = async {
            writer.write_all(&line).await?;
            writer.flush().await
        };
        let result = tokio::select! {
            biased;
            () = inner.gone.cancelled() => break,
            result = written => result,
        };
        if let Err(error) = result {
            inner.close(&format!("its stdin broke: {error}"));
        }
    }
    // The end of its stdin is what tells the app-server to end.
    let _ = writer.shutdown().await;
}

async fn read<R: AsyncRead + Unpin>(inner: &Inner, reader: R, inbound: &dyn Inbound) {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let mut line = Vec::new();
    let mut complaints = 0;
    let reason = loop {
        match wire::read_line(&mut reader, &mut line, wire::MAX_LINE).await {
            Ok(true) => take(inner, &line, inbound, &mut complaints).await,
            Ok(false) => break "its stdout ended".to_owned(),
            Err(error) => break format!("its stdout broke: {error}"),
        }
        // One long line must not hold its memory for ever.
        if line.capacity() > 1024 * 1024 {
            line = Vec::new();
        }
    };
    inner.close(&reason);
}

async fn take(inner: &Inner, line: &[u8], inbound: &dyn Inbound, complaints: &mut u64) {
    match wire::decode(line) {
        Ok(Incoming::Response { id, outcome }) => {
            inbound.answered();
            // Nobody waits any more: the answer came after its time limit.
            let Some(waiting) = inner.waiting().remove(&id) else { return };
            let _ = waiting.reply.send(outcome);
        }
        Ok(Incoming::Notification { method, params }) => inbound.notification(&method, &params).await,
        Ok(Incoming::Request { id, method, params }) => inbound.request(id, &method, &params).await,
        Err(error) => {
            *complaints += 1;
            if *complaints <= MAX_COMPLAINTS {
                tracing::warn!(%error, bytes = line.len(), count = *complaints, "Codex wrote a line that is no message");
            }
        }
    }
}

#[cfg(test)]
mod tests;
