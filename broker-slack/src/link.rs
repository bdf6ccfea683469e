//! One websocket of Socket Mode, from its ticket to its end.
//!
//! Every frame is committed by [`Intake::accept`] and acknowledged after that, on the link that brought it. Committing
//! happens beside the reading, so that pings are answered while the store is slow.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use broker_core::chat::Intake;
use futures_util::{FutureExt, SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tokio_util::sync::CancellationToken;

use crate::config::LinkLimits;
use crate::status::Board;
use crate::{envelope, lenient};

/// Envelopes of one link that are being committed at once; while there are so many, nothing is read.
const MAX_IN_HAND: usize = 64;
/// The longest message that is read, in bytes. A longer one ends the link; Slack's stay far below a megabyte.
const MAX_MESSAGE: usize = 16 << 20;
/// Frames that may come before `hello`.
const MAX_EARLY: usize = 16;
/// A link that is being replaced is closed once nothing came on it for so long.
const QUIET: std::time::Duration = std::time::Duration::from_secs(1);

/// The reason of a `disconnect` that follows the switching off of Socket Mode.
pub(crate) const LINK_DISABLED: &str = "link_disabled";

/// Why no link came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoLink {
    /// Slack said `disconnect` in the place of `hello`, for the reason given.
    Disconnected(String),
    /// Anything else.
    Unreachable(&'static str),
}

/// What a link and its keeper tell each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// From the link: Slack is about to end it.
    pub(crate) ending: CancellationToken,
    /// From the link, before `ending`: Socket Mode was switched off.
    pub(crate) disabled: CancellationToken,
    /// From the link: it delivers no more. What is in hand is still finished.
    pub(crate) down: CancellationToken,
    /// To the link: another one stands in its place.
    pub(crate) replaced: CancellationToken,
    /// To the link: the broker stops.
    pub(crate) stop: CancellationToken,
}

/// An open link.
pub(crate) struct Link {
    number: u64,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What came before `hello`.
    early: Vec<Vec<u8>>,
    limits: LinkLimits,
    /// The app's connections, as `hello` counts them.
    pub(crate) connections: Option<u64>,
}

impl Link {
    /// Opens the socket that the ticket names and waits for `hello`.
    pub(crate) async fn open(number: u64, ticket: &SecretString, limits: LinkLimits) -> Result<Self, NoLink> {
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let connect = connect_async_with_config(ticket.expose_secret(), Some(config), true);
        let socket = match timeout(limits.step, connect).await {
            Err(_) => return Err(NoLink::Unreachable("the websocket did not open in time")),
            // The error's text may hold the address, which is a secret.
            Ok(Err(error)) => return Err(NoLink::Unreachable(kind_of(&error))),
            Ok(Ok((socket, _))) => socket,
        };
        let mut link = Self { number, socket, early: Vec::new(), limits, connections: None };
        match timeout(limits.step, link.hello()).await {
            Err(_) => Err(NoLink::Unreachable("slack did not say hello in time")),
            Ok(Err(no_link)) => Err(no_link),
            Ok(Ok(connections)) => {
                link.connections = connections;
                Ok(link)
            }
        }
    }

    /// Reads up to `hello` and gives its `num_connections`.
    async fn hello(&mut self) -> Result<Option<u64>, NoLink> {
        loop {
            let raw = match self.socket.next().await {
                None => return Err(NoLink::Unreachable("the websocket was closed before hello")),
                Some(Err(error)) => return Err(NoLink::Unreachable(kind_of(&error))),
                Some(Ok(message)) => match payload(message) {
                    Some(raw) => raw,
                    None => continue,
                },
            };
            let head = envelope::read(&raw);
            if !head.is_about_the_link() {
                if self.early.len() >= MAX_EARLY {
                    return Err(NoLink::Unreachable("slack did not say hello"));
                }
                self.early.push(raw.into());
                continue;
            }
            let frame: Value = serde_json::from_slice(&raw).unwrap_or(Value::Null);
            if head.kind.as_deref() == Some("hello") {
                return Ok(lenient::number(&frame, "num_connections"));
            }
            return Err(NoLink::Disconnected(reason_of(&frame)));
        }
    }

    /// Serves the link to its end.
    pub(crate) async fn serve(self, intake: Arc<dyn Intake>, board: Arc<Board>, signals: Signals) {
        board.opened(self.number, self.connections);
        let now = Instant::now();
        let Self { number, socket, early, limits, .. } = self;
        let accepts = JoinSet::new();
        let mut serving = Serving { socket, limits, intake, board, signals, accepts, heard: now, phase: Phase::Live };
        for raw in early {
            serving.take(raw.into());
        }
        let why = serving.run().await;
        serving.signals.down.cancel();
        serving.board.closed(number, why);
        tracing::debug!(link = number, why, "a socket link ended");
        serving.finish().await;
    }
}

/// What a link is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// Another link stands: acknowledge what still comes, until then.
    Replaced(Instant),
    /// Nothing is read any more: acknowledge what is in hand, until then.
    Stopping(Instant),
}

struct Serving {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    limits: LinkLimits,
    intake: Arc<dyn Intake>,
    board: Arc<Board>,
    signals: Signals,
    /// Envelopes in hand; each gives the id to acknowledge, when it was committed and has one.
    accepts: JoinSet<Option<String>>,
    /// When the last frame came, pongs included.
    heard: Instant,
    phase: Phase,
}

impl Serving {
    /// Runs until the link is over, and says why it is.
    async fn run(&mut self) -> &'static str {
        let mut ping = interval_at(Instant::now() + self.limits.ping, self.limits.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (stop, replaced) = (self.signals.stop.clone(), self.signals.replaced.clone());
        loop {
            let idle = self.accepts.is_empty();
            let room = self.accepts.len() < MAX_IN_HAND;
            let stopping = matches!(self.phase, Phase::Stopping(_));
            if stopping && idle {
                return "the broker stops";
            }
            // Looked at here too, since frames that never cease would keep the deadline below from its turn.
            if let Some(why) = self.overdue(idle).filter(|_| self.phase != Phase::Live) {
                return why;
            }
            let deadline = self.deadline(room);
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => self.phase = Phase::Stopping(Instant::now() + self.limits.stop),
                () = replaced.cancelled(), if self.phase == Phase::Live => {
                    self.phase = Phase::Replaced(Instant::now() + self.limits.drain);
                }
                Some(done) = self.accepts.join_next(), if !idle => {
                    if let Some(why) = self.settle(done.ok().flatten()).await {
                        return why;
                    }
                }
                message = self.socket.next(), if room && !stopping => match message {
                    None => return "slack closed the websocket",
                    Some(Err(error)) => return kind_of(&error),
                    Some(Ok(message)) => self.hear(message),
                },
                _ = ping.tick() => {
                    if let Some(why) = self.send(Message::Ping(Bytes::new())).await {
                        return why;
                    }
                }
                () = sleep_until(deadline) => if let Some(why) = self.overdue(idle) {
                    return why;
                },
            }
        }
    }

    /// When to look whether something is overdue.
    fn deadline(&self, room: bool) -> Instant {
        // While nothing is read, silence says nothing about the other side.
        let dead = if room { self.heard + self.limits.silence } else { Instant::now() + self.limits.silence };
        match self.phase {
            Phase::Live => dead,
            Phase::Replaced(until) if self.accepts.is_empty() => until.min(self.heard + QUIET).max(Instant::now()),
            Phase::Replaced(until) | Phase::Stopping(until) => until,
        }
    }

    fn overdue(&self, idle: bool) -> Option<&'static str> {
        let now = Instant::now();
        match self.phase {
            Phase::Live if now >= self.heard + self.limits.silence && self.accepts.len() < MAX_IN_HAND => {
                Some("nothing came for too long")
            }
            Phase::Replaced(until) if now >= until || (idle && now >= self.heard + QUIET) => Some("it was replaced"),
            Phase::Stopping(until) if now >= until => Some("the broker stops"),
            _ => None,
        }
    }

    fn hear(&mut self, message: Message) {
        self.heard = Instant::now();
        match payload(message) {
            Some(raw) => self.take(raw),
            None => self.board.heard(),
        }
    }

    /// Takes a frame in hand.
    fn take(&mut self, raw: Bytes) {
        let head = envelope::read(&raw);
        if head.is_about_the_link() {
            self.board.heard();
            if head.kind.as_deref() == Some("disconnect") {
                let frame: Value = serde_json::from_slice(&raw).unwrap_or(Value::Null);
                let reason = reason_of(&frame);
                tracing::debug!(reason, "slack is about to end a socket link");
                if reason == LINK_DISABLED {
                    self.signals.disabled.cancel();
                }
                self.signals.ending.cancel();
            }
            return;
        }
        let (envelope, cut) = head.envelope(raw.into(), self.board.now());
        self.board.received(head.envelope_id.is_some(), cut);
        let (intake, board) = (Arc::clone(&self.intake), Arc::clone(&self.board));
        // The first step is taken here and not in the task, so that envelopes reach the store in the order of their coming.
        // A panic costs this envelope its acknowledgement, and not the link.
        let accept = AssertUnwindSafe(async move { intake.accept(envelope).await }).catch_unwind();
        let mut accept = Box::pin(accept);
        let at_once = (&mut accept).now_or_never();
        self.accepts.spawn(async move {
            let accepted = match at_once {
                Some(accepted) => accepted,
                None => accept.await,
            };
            match accepted {
                Ok(Ok(_)) => return head.envelope_id,
                Ok(Err(error)) => tracing::warn!(%error, "an envelope was not committed; slack will send it again"),
                Err(_) => tracing::error!("committing an envelope panicked; slack will send it again"),
            }
            board.not_accepted();
            None
        });
    }

    /// Acknowledges a committed envelope. Says why the link is over, when it is.
    async fn settle(&mut self, envelope_id: Option<String>) -> Option<&'static str> {
        let envelope_id = envelope_id?;
        let ack = serde_json::json!({ "envelope_id": envelope_id }).to_string();
        let over = self.send(Message::text(ack)).await;
        if over.is_none() {
            self.board.acked();
        }
        over
    }

    async fn send(&mut self, message: Message) -> Option<&'static str> {
        match timeout(self.limits.step, self.socket.send(message)).await {
            Err(_) => Some("the other side takes nothing any more"),
            Ok(Err(error)) => Some(kind_of(&error)),
            Ok(Ok(())) => None,
        }
    }

    /// Closes the socket, and lets what is in hand be committed: nobody can be told any more, but then the next delivery
    /// is known as one.
    async fn finish(mut self) {
        let close = self.socket.close(None);
        let _ = timeout(QUIET, close).await;
        drop(self.socket);
        let accepts = &mut self.accepts;
        let rest = async { while accepts.join_next().await.is_some() {} };
        // What is not done by then is dropped with the set.
        let _ = timeout(self.limits.drain, rest).await;
    }
}

/// The bytes of a frame that carries some.
fn payload(message: Message) -> Option<Bytes> {
    match message {
        Message::Text(text) => Some(text.into()),
        Message::Binary(bytes) => Some(bytes),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => None,
    }
}

/// The `reason` of a `disconnect`, with or without its `debug_info`.
fn reason_of(frame: &Value) -> String {
    let reason = lenient::text(frame, "reason").unwrap_or("no reason given");
    reason.chars().filter(|it| it.is_ascii_alphanumeric() || " _-".contains(*it)).take(64).collect()
}

/// What kind of error it was. Its own text is not used: it may hold the address.
fn kind_of(error: &tungstenite::Error) -> &'static str {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "slack closed the websocket",
        tungstenite::Error::Io(_) => "the connection broke or could not be made",
        tungstenite::Error::Tls(_) => "the TLS handshake failed",
        tungstenite::Error::Capacity(_) => "a message was longer than 16 MiB",
        tungstenite::Error::Http(_) | tungstenite::Error::HttpFormat(_) => "the websocket was refused",
        tungstenite::Error::Url(_) => "the websocket's address is not one",
        tungstenite::Error::Utf8(_) => "a text message was not UTF-8",
        _ => "the websocket protocol was broken",
    }
}
