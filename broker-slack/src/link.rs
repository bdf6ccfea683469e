//! One websocket of Socket Mode, from its ticket to its end.
//!
//! Every frame is committed by [`Intake::accept`] and acknowledged after that, on the link that brought it. Committing
//! happens beside the reading, so that pings are answered while the store is slow. While it takes nothing at all, frames
//! are read and left to Slack to deliver again: a store may cost acknowledgements, and never the link.
//!
//! A link can be dead without saying so, in two ways, and both are looked for: our pings have no answer (what we send
//! does not arrive, acknowledgements neither), or Slack's own pings have ceased (whatever answers ours, it is not Slack).

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use broker_core::chat::Intake;
use futures_util::{FutureExt, SinkExt, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use tokio_util::sync::CancellationToken;

use crate::config::LinkLimits;
use crate::status::{Board, Counted, Heard, LinkId};
use crate::{envelope, lenient};

/// Envelopes of one link that are being committed at once; while there are so many, no more are taken in hand.
const MAX_IN_HAND: usize = 64;
/// The longest message that is read, in bytes. A longer one ends the link; Slack's stay far below a megabyte.
const MAX_MESSAGE: usize = 16 << 20;
/// Frames that may come before `hello`.
const MAX_EARLY: usize = 16;

/// The reason of a `disconnect` that follows the switching off of Socket Mode.
pub(crate) const LINK_DISABLED: &str = "link_disabled";
/// The reason of a `disconnect`, or the code of a refused ticket, when more links are open than Slack allows.
pub(crate) const TOO_MANY_WEBSOCKETS: &str = "too_many_websockets";

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
    /// From the link, before `ending`: Slack's reason, where an operator has to mend something.
    pub(crate) refused: Arc<OnceLock<String>>,
    /// From the link: it delivers no more. What is in hand is still finished.
    pub(crate) down: CancellationToken,
    /// To the link: another one stands in its place.
    pub(crate) replaced: CancellationToken,
    /// To the link: the broker stops.
    pub(crate) stop: CancellationToken,
}

/// An open link.
pub(crate) struct Link {
    id: LinkId,
    counted: Counted,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What came before `hello`.
    early: Vec<Vec<u8>>,
    limits: LinkLimits,
    /// The app's connections, as `hello` counts them.
    pub(crate) connections: Option<u64>,
}

impl Link {
    /// Opens the socket that the ticket names and waits for `hello`.
    pub(crate) async fn open(
        id: LinkId,
        ticket: &SecretString,
        limits: LinkLimits,
        mut counted: Counted,
    ) -> Result<Self, NoLink> {
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        let connect = connect_async_with_config(ticket.expose_secret(), Some(config), true);
        let socket = match timeout(limits.step, connect).await {
            Err(_) => return Err(NoLink::Unreachable("the websocket did not open in time")),
            // The error's text may hold the address, which is a secret.
            Ok(Err(error)) => return Err(NoLink::Unreachable(kind_of(&error))),
            Ok(Ok((socket, _))) => socket,
        };
        counted.known();
        let mut link = Self { id, counted, socket, early: Vec::new(), limits, connections: None };
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
        board.opened(self.id, self.connections);
        let Self { id, counted, socket, early, limits, .. } = self;
        let mut serving = Serving {
            id,
            counted,
            socket,
            limits,
            intake,
            board,
            signals,
            accepts: JoinSet::new(),
            heard: Instant::now(),
            heard_slack: None,
            unanswered: None,
            full: None,
            phase: Phase::Live,
        };
        for raw in early {
            serving.take(raw.into());
        }
        let why = serving.run().await;
        serving.signals.down.cancel();
        serving.board.closed(id, why);
        tracing::info!(connection = id.slot + 1, link = id.number, why, "a socket link ended");
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
    id: LinkId,
    counted: Counted,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    limits: LinkLimits,
    intake: Arc<dyn Intake>,
    board: Arc<Board>,
    signals: Signals,
    /// Envelopes in hand; each gives the id to acknowledge, when it was committed and has one.
    accepts: JoinSet<Option<String>>,
    /// When something came last that was neither ping nor pong, or another link came to stand in the place of this one.
    heard: Instant,
    /// When anything but a pong came last; absent until Slack has pinged once, since one that never does cannot fall silent.
    heard_slack: Option<Instant>,
    /// Since when a ping has had no answer.
    unanswered: Option<Instant>,
    /// Since when there has been no room for another envelope.
    full: Option<Instant>,
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
            let reading = self.is_reading();
            let stopping = matches!(self.phase, Phase::Stopping(_));
            if stopping && idle {
                return "the broker stops";
            }
            // Looked at here too, since frames that never cease would keep the deadline below from its turn.
            if let Some(why) = self.overdue(idle).filter(|_| self.phase != Phase::Live) {
                return why;
            }
            let deadline = self.deadline(reading);
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => self.phase = Phase::Stopping(Instant::now() + self.limits.stop),
                () = replaced.cancelled(), if self.phase == Phase::Live => {
                    self.heard = Instant::now();
                    self.phase = Phase::Replaced(self.heard + self.limits.drain);
                }
                Some(done) = self.accepts.join_next(), if !idle => {
                    if let Some(why) = self.settle(done.ok().flatten()).await {
                        return why;
                    }
                }
                message = self.socket.next(), if reading && !stopping => match message {
                    None => return "slack closed the websocket",
                    Some(Err(error)) => return kind_of(&error),
                    Some(Ok(message)) => self.hear(message),
                },
                _ = ping.tick() => {
                    if let Some(why) = self.send(Message::Ping(Bytes::new())).await {
                        return why;
                    }
                    self.unanswered.get_or_insert_with(Instant::now);
                    self.board.pinged(self.id);
                }
                // Comes last: what has arrived is read before it is missed.
                () = sleep_until(deadline) => if let Some(why) = self.overdue(idle) {
                    return why;
                },
            }
        }
    }

    /// Whether frames are read now: always, but for the moments that a store may need to catch up.
    fn is_reading(&mut self) -> bool {
        if self.accepts.len() < MAX_IN_HAND {
            self.full = None;
            return true;
        }
        let now = Instant::now();
        now >= *self.full.get_or_insert(now) + self.limits.patience
    }

    /// When to look again, at the latest.
    fn deadline(&self, reading: bool) -> Instant {
        match self.phase {
            // While nothing is read, silence says nothing about the other side.
            Phase::Live if !reading => self.full.unwrap_or_else(Instant::now) + self.limits.patience,
            Phase::Live => {
                let answer = self.unanswered.map(|since| since + self.limits.pong);
                let slack = self.heard_slack.map(|last| last + self.limits.silence);
                let soonest = answer.into_iter().chain(slack).min();
                soonest.unwrap_or_else(|| Instant::now() + self.limits.silence)
            }
            Phase::Replaced(until) if self.accepts.is_empty() => {
                until.min(self.heard + self.limits.quiet).max(Instant::now())
            }
            Phase::Replaced(until) | Phase::Stopping(until) => until,
        }
    }

    fn overdue(&mut self, idle: bool) -> Option<&'static str> {
        let (now, reading) = (Instant::now(), self.is_reading());
        let since = |moment: Option<Instant>, limit| moment.is_some_and(|moment| now >= moment + limit);
        match self.phase {
            Phase::Live if !reading => None,
            Phase::Live if since(self.unanswered, self.limits.pong) => Some("a ping was not answered"),
            Phase::Live if since(self.heard_slack, self.limits.silence) => Some("slack's own pings ceased"),
            Phase::Replaced(until) if now >= until || (idle && now >= self.heard + self.limits.quiet) => {
                Some("it was replaced")
            }
            Phase::Stopping(until) if now >= until => Some("the broker stops"),
            _ => None,
        }
    }

    fn hear(&mut self, message: Message) {
        let now = Instant::now();
        if matches!(message, Message::Pong(_)) {
            self.unanswered = None;
            return self.board.heard(self.id, Heard::Pong);
        }
        let is_ping = matches!(message, Message::Ping(_));
        if is_ping || self.heard_slack.is_some() {
            self.heard_slack = Some(now);
        }
        if is_ping {
            return self.board.heard(self.id, Heard::Ping);
        }
        self.heard = now;
        if matches!(message, Message::Close(_)) {
            self.counted.farewell();
        }
        match payload(message) {
            Some(raw) => self.take(raw),
            None => self.board.heard(self.id, Heard::Other),
        }
    }

    /// Takes a frame in hand.
    fn take(&mut self, raw: Bytes) {
        let head = envelope::read(&raw);
        if head.is_about_the_link() {
            self.board.heard(self.id, Heard::Other);
            if head.kind.as_deref() == Some("disconnect") {
                let frame: Value = serde_json::from_slice(&raw).unwrap_or(Value::Null);
                let reason = reason_of(&frame);
                tracing::info!(connection = self.id.slot + 1, reason, "slack is about to end a socket link");
                self.board.ending(self.id, &reason);
                if is_refusal(&reason) {
                    // Only the first reason counts.
                    let _ = self.signals.refused.set(reason);
                }
                self.signals.ending.cancel();
            }
            return;
        }
        let (envelope, cut) = head.envelope(raw.into(), self.board.now());
        self.board.heard(self.id, Heard::Envelope { readable: head.envelope_id.is_some(), cut });
        if self.accepts.len() >= MAX_IN_HAND {
            tracing::debug!(
                connection = self.id.slot + 1,
                "the store takes nothing more; slack will send an envelope again"
            );
            return self.board.not_accepted();
        }
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
        let (socket, counted) = (&mut self.socket, &mut self.counted);
        let farewell = async {
            // It may be closed already.
            let _ = socket.close(None).await;
            // Read to the end: a socket that is closed with something unread takes the last acknowledgements with it.
            while let Some(Ok(message)) = socket.next().await {
                if matches!(message, Message::Close(_)) {
                    counted.farewell();
                }
            }
        };
        let _ = timeout(self.limits.quiet, farewell).await;
        drop((self.socket, self.counted));
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

/// Whether the reason of a `disconnect` is one that an operator has to mend.
pub(crate) fn is_refusal(reason: &str) -> bool {
    matches!(reason, LINK_DISABLED | TOO_MANY_WEBSOCKETS)
}

/// What kind of error it was. Its own text is not used: it may hold the address.
fn kind_of(error: &tungstenite::Error) -> &'static str {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "slack closed the websocket",
        tungstenite::Error::Io(_) | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            "the connection broke or could not be made"
        }
        tungstenite::Error::Tls(_) => "the TLS handshake failed",
        tungstenite::Error::Capacity(_) => "a message was longer than 16 MiB",
        tungstenite::Error::Http(_) | tungstenite::Error::HttpFormat(_) => "the websocket was refused",
        tungstenite::Error::Url(_) => "the websocket's address is not one",
        tungstenite::Error::Utf8(_) => "a text message was not UTF-8",
        _ => "the websocket protocol was broken",
    }
}
