//! Socket Mode: connections, envelopes, acks, redelivery.
//! After <https://docs.slack.dev/apis/events-api/using-socket-mode>.

use std::sync::Arc;
use std::time::Duration;

use broker_core::clock::Timestamp;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use super::state::State;
use super::{Shared, events};
use crate::wire::{Body, full, response};

/// Frames that wait to be written to one connection. More are a failure of the test: nobody reads.
const FRAMES: usize = 16_384;
/// Slack pings; the documentation names no pause.
const PING_EVERY: Duration = Duration::from_secs(5);

/// An envelope and what became of it.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Its ids, newest last: a redelivery may carry a new one.
    pub ids: Vec<String>,
    /// The event's id, when it carries an event.
    pub event_id: Option<String>,
    /// The channel and `ts` of the message in it, when there is one.
    pub message: Option<(String, String)>,
    /// When it was first written to a connection.
    pub first_sent: Option<Instant>,
    /// The same moment by the wall clock.
    pub first_sent_at: Option<Timestamp>,
    /// How often it was sent.
    pub sent: u32,
    /// When it was acknowledged first.
    pub acked: Option<Instant>,
    /// How often it was acknowledged.
    pub acks: u32,
    /// Whether no more deliveries will come.
    pub given_up: bool,
    kind: String,
    payload: Value,
    /// The connections that it went to, by number, beside its ids.
    connections: Vec<usize>,
    last_sent: Option<Instant>,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    /// The way to its writer; gone when it is closed.
    pub(super) frames: Option<mpsc::Sender<Frame>>,
    /// Closes it without a close frame.
    pub(super) abort: CancellationToken,
    /// Lets nothing through any more, in either direction.
    pub(super) dead: CancellationToken,
    /// When it was opened.
    pub opened: Instant,
    /// Whether it takes new envelopes: one that was told to go takes none.
    leaving: bool,
}

impl Connection {
    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.frames.is_some()
    }
}

impl State {
    /// Wraps an event and queues it; returns its `event_id`.
    pub(super) fn queue_event(&mut self, event: &Value, shared: bool) -> String {
        let event_id = format!("Ev{:09}", self.number());
        let seconds = u64::try_from(self.now().as_millis() / 1000).unwrap_or_default();
        let payload = events::callback(event, &event_id, seconds, shared);
        self.queue_envelope("events_api", payload);
        event_id
    }

    /// Queues an envelope of any kind.
    pub(super) fn queue_envelope(&mut self, kind: &str, payload: Value) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let event = &payload["event"];
        self.pending.push(self.envelopes.len());
        self.envelopes.push(Envelope {
            ids: Vec::new(),
            event_id: text(&payload["event_id"]),
            message: text(&event["channel"]).zip(text(&event["ts"])),
            first_sent: None,
            first_sent_at: None,
            sent: 0,
            acked: None,
            acks: 0,
            given_up: false,
            kind: kind.to_owned(),
            payload,
            connections: Vec::new(),
            last_sent: None,
        });
    }

    /// Writes what is due; returns when to look again, and whether anything was written.
    fn deliver(&mut self) -> (Instant, bool) {
        if self.held {
            return (Instant::now() + Duration::from_secs(3600), false);
        }
        let open: Vec<usize> = (0..self.connections.len())
            .filter(|n| self.connections[*n].is_open() && !self.connections[*n].leaving)
            .collect();
        let now = Instant::now();
        let (mut again, mut sent) = (now + Duration::from_secs(3600), false);
        for index in std::mem::take(&mut self.pending) {
            if self.settled(index) {
                continue;
            }
            self.pending.push(index);
            if open.is_empty() {
                continue;
            }
            let due = self.due(index).unwrap_or(now);
            if due > now {
                again = again.min(due);
                continue;
            }
            let turn = self.next_turn(open.len());
            self.send_envelope(index, open[turn], now);
            again = again.min(now + self.redelivery.after);
            sent = true;
        }
        (again, sent)
    }

    fn settled(&mut self, index: usize) -> bool {
        let over = self.due(index).is_some_and(|due| due <= Instant::now());
        let envelope = &mut self.envelopes[index];
        if envelope.acked.is_none() && envelope.sent > self.redelivery.times && over {
            envelope.given_up = true;
        }
        envelope.acked.is_some() || envelope.given_up
    }

    /// When an envelope that was sent comes again: at once when its connection is closed.
    fn due(&self, index: usize) -> Option<Instant> {
        let envelope = &self.envelopes[index];
        let last = envelope.last_sent?;
        let closed = envelope.connections.last().is_some_and(|n| !self.connections[*n].is_open());
        Some(if closed { last } else { last + self.redelivery.after })
    }

    fn send_envelope(&mut self, index: usize, connection: usize, now: Instant) {
        let fresh = self.redelivery.fresh_id || self.envelopes[index].ids.is_empty();
        let id = if fresh {
            format!("57d6a792-4d35-4d0b-b6aa-{:012}", self.number())
        } else {
            self.envelopes[index].ids.last().cloned().unwrap_or_default()
        };
        let wall = self.now();
        let envelope = &mut self.envelopes[index];
        let (attempt, reason) = (envelope.sent, if envelope.sent == 0 { "" } else { "timeout" });
        let frame = events::envelope(&id, &envelope.kind, &envelope.payload, attempt, reason);
        envelope.ids.push(id.clone());
        envelope.connections.push(connection);
        envelope.sent += 1;
        envelope.last_sent = Some(now);
        envelope.first_sent.get_or_insert(now);
        envelope.first_sent_at.get_or_insert(wall);
        self.envelope_ids.insert(id, index);
        self.write(connection, Frame::text(frame.to_string()));
    }

    /// Hands a frame to a connection's writer.
    pub(super) fn write(&mut self, connection: usize, frame: Frame) {
        let Some(frames) = &self.connections[connection].frames else { return };
        if frames.try_send(frame).is_err() {
            self.violation(format!("connection {connection} is not read: {FRAMES} frames wait"));
        }
    }

    /// An ack, after the page named above: `{"envelope_id": …}`, with `payload` only where it was asked for.
    fn acknowledge(&mut self, connection: usize, text: &str) {
        let Ok(Value::Object(ack)) = serde_json::from_str::<Value>(text) else {
            return self.violation(format!("a frame of the client is not a JSON object: {text}"));
        };
        if let Some(name) = ack.keys().find(|name| !["envelope_id", "payload"].contains(&name.as_str())) {
            self.violation(format!("an ack has the unknown field `{name}`"));
        }
        let Some(id) = ack.get("envelope_id").and_then(Value::as_str) else {
            return self.violation(format!("an ack names no envelope: {text}"));
        };
        let now = Instant::now();
        if self.raw_ids.contains(id) {
            return self.raw_acks.entry(id.to_owned()).or_default().push(now);
        }
        let Some(index) = self.envelope_ids.get(id).copied() else {
            return self.violation(format!("an ack names an envelope that was never sent: {id}"));
        };
        if self.lost_acks > 0 {
            self.lost_acks -= 1;
            return;
        }
        let envelope = &mut self.envelopes[index];
        envelope.acks += 1;
        envelope.acked.get_or_insert(now);
        let here = envelope.ids.iter().zip(&envelope.connections).any(|pair| pair == (&id.to_owned(), &connection));
        let (acks, sent) = (envelope.acks, envelope.sent);
        if !here {
            self.violation(format!("{id} was acknowledged on another connection than the one that brought it"));
        }
        if acks > sent {
            self.violation(format!("{id} was acknowledged {acks} times and sent {sent} times"));
        }
    }

    /// Keeps of everything that is over what the counts need.
    pub(super) fn forget_settled(&mut self) {
        self.calls.clear();
        self.statuses.clear();
        for envelope in self.envelopes.iter_mut().filter(|envelope| envelope.acked.is_some()) {
            envelope.payload = Value::Null;
        }
    }

    /// Writes down how many connections are open now.
    fn note_connections(&mut self) {
        let open = self.open_connections();
        self.open_counts.push((Instant::now(), open));
    }

    /// When the connections were opened that take new envelopes.
    pub fn standing_since(&self) -> Vec<Instant> {
        let standing = self.connections.iter().filter(|connection| connection.is_open() && !connection.leaving);
        standing.map(|connection| connection.opened).collect()
    }

    /// How many connections were open at the worst moment since this one.
    pub fn fewest_connections_since(&self, moment: Instant) -> usize {
        let before = self.open_counts.iter().rev().find(|(at, _)| *at <= moment).map_or(0, |(_, open)| *open);
        let after = self.open_counts.iter().filter(|(at, _)| *at > moment).map(|(_, open)| *open);
        after.min().unwrap_or(before).min(before)
    }

    /// Tells every open connection to go.
    pub(super) fn send_disconnect(&mut self, reason: &str) {
        let frame = events::disconnect(reason).to_string();
        for connection in 0..self.connections.len() {
            self.write(connection, Frame::text(frame.clone()));
            self.connections[connection].leaving = true;
        }
    }
}

/// Delivers until the fake ends.
pub(super) async fn pump(shared: Arc<Shared>, stop: CancellationToken) {
    let mut changes = shared.state.changes();
    loop {
        changes.borrow_and_update();
        // The bell rings only when something was written, or this loop would wake itself for ever.
        let again = shared.state.change_if(|state| {
            let pending = state.pending.len();
            let (again, sent) = state.deliver();
            (again, sent || state.pending.len() != pending)
        });
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(again) => {}
        }
    }
}

/// Answers the handshake of a websocket and serves it.
pub(super) fn accept(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    mut request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let ticket = request.uri().query().unwrap_or_default().to_owned();
    let known = shared.state.change(|state| {
        let known = state.tickets.remove(&ticket);
        if !known {
            state.violation("a websocket was opened with a ticket that was never given or was used before");
        }
        known
    });
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let (true, Some(accept)) = (known, key) else {
        return response(StatusCode::FORBIDDEN, "text/plain", full("no such ticket"));
    };
    let (shared, stop) = (Arc::clone(shared), stop.clone());
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
            serve(shared, stop, upgraded).await;
        }
    });
    let mut answer = response(StatusCode::SWITCHING_PROTOCOLS, "text/plain", full(""));
    for (name, value) in [(CONNECTION, "Upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_ACCEPT, accept.as_str())] {
        answer.headers_mut().insert(name, value.parse().expect("a header value"));
    }
    answer.headers_mut().remove("content-type");
    answer
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn serve(shared: Arc<Shared>, stop: CancellationToken, upgraded: Upgraded) {
    let socket: Socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut out, incoming) = socket.split();
    let (frames, mut waiting) = mpsc::channel::<Frame>(FRAMES);
    let (abort, dead) = (stop.child_token(), CancellationToken::new());
    let number = shared.state.change(|state| {
        let number = state.connections.len();
        let hello = events::hello(state.open_connections() + 1);
        // The first frame of the queue, so that nothing can come before it.
        frames.try_send(Frame::text(hello.to_string())).expect("an empty queue");
        let (abort, dead) = (abort.clone(), dead.clone());
        let opened = Instant::now();
        state.connections.push(Connection { frames: Some(frames), abort, dead, opened, leaving: false });
        state.note_connections();
        number
    });
    let write = async {
        let mut pings = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        loop {
            let frame = tokio::select! {
                frame = waiting.recv() => match frame {
                    Some(frame) => frame,
                    None => return,
                },
                _ = pings.tick() => Frame::Ping(b"Ping from applink-7fc4fdbb64-4x5xq"[..].into()),
            };
            let last = matches!(frame, Frame::Close(_));
            if out.send(frame).await.is_err() || last {
                return;
            }
        }
    };
    let alive = async {
        tokio::select! {
            () = write => {}
            () = read(&shared, number, incoming) => {}
            // The socket itself stays as it is.
            () = dead.cancelled() => std::future::pending().await,
        }
    };
    tokio::select! {
        () = abort.cancelled() => {}
        () = alive => {}
    }
    shared.state.change(|state| {
        state.connections[number].frames = None;
        state.note_connections();
    });
}

async fn read(shared: &Arc<Shared>, number: usize, mut incoming: SplitStream<Socket>) {
    while let Some(Ok(frame)) = incoming.next().await {
        match frame {
            Frame::Text(text) => shared.state.change(|state| state.acknowledge(number, text.as_str())),
            Frame::Binary(_) => {
                shared.state.change(|state| state.violation("the client sent a binary frame"));
            }
            Frame::Close(_) => return,
            Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_) => {}
        }
    }
}
