//! A platform: what was written, the connections, the events on their way, and what calls do.

mod transport;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use broker_core::chat::{
    AgentText, Author, ChatCapabilities, ChatMessage, ChatOp, ChatTime, ChatTransport, ConversationId, ConversationKey,
    ConversationKind, DeliverError, FetchError, Fetched, FileRef, FileSink, Found, InstallationId, Intake, LinkError,
    LinkHealth, LookupError, MessageId, OpKey, Parsed, PartBody, Person, PersonId, RawEnvelope, Receipt, Standing,
    ThreadKey,
};
use broker_core::clock::Timestamp;
use broker_core::command::Command;
use broker_core::health::PartHealth;
use broker_core::history::{Cursor, Head, HeadsPage, HistoryError, HistoryProvider, Page, Urgency};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::scenario::{Call, Delivery, Fault, Reason, What};
use crate::world::{BEGINNING, Event, State, World};

pub use transport::SimSlack;

/// The time limit of a call, in milliseconds.
const LIMIT: u64 = 10_000;
/// An event that was not acknowledged within this time is delivered again.
const ACK_LIMIT: u64 = 3_000;
/// After which pauses: at once, a minute, five minutes.
const RETRIES: [u64; 3] = [1, 60_000, 300_000];
/// A connection on which nothing comes is given up after this time.
const SILENCE: u64 = 25_000;
/// A status that nobody renews is taken away by the platform after this time.
const STATUS_KEPT: u64 = 120_000;
/// Messages on one page, so that there are several.
const PAGE: usize = 4;
/// The longest part, in characters: short, so that posts have several.
const PART_CHARS: usize = 120;

const MESSAGE: &str = "message";
const EDIT: &str = "edit";
const DELETION: &str = "deletion";

/// A message as it stands.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its number in the scenario; absent for the broker's own.
    pub number: Option<u32>,
    /// What the platform knows of it.
    pub message: ChatMessage,
    /// The key of the broker's own.
    pub key: Option<OpKey>,
    /// Whether it was deleted, and when.
    pub deleted: Option<u64>,
    /// When it appeared, in milliseconds.
    pub at: u64,
    /// Whether it was changed.
    pub edited: bool,
}

/// Something that happens on the platform by itself.
#[derive(Debug, Clone)]
pub enum SlackEvent {
    /// An event goes out, for the n-th time.
    Deliver(usize, usize),
    /// Whether it was acknowledged.
    Acked(usize, usize),
    /// A call has its effect.
    Land(u32, OpKey, ChatOp, u32),
    /// What stands beside a thread is taken away by the platform itself.
    Expires(ThreadKey),
    /// A connection stands again.
    Up(usize),
    /// A connection is found dead.
    Dead(usize, u64),
}

#[derive(Debug)]
struct Envelope {
    key: String,
    kind: &'static str,
    raw: Vec<u8>,
    acked: bool,
    name: String,
}

#[derive(Debug, Clone)]
struct Socket {
    open: bool,
    /// Whether what is sent on it arrives.
    hears: bool,
    /// Raised with each new connection: an acknowledgement goes to the connection that brought the event.
    number: u64,
    gap: u64,
}

/// The platform.
#[derive(Debug)]
pub struct Slack {
    /// Every message, in the order of its appearance.
    pub messages: Vec<Written>,
    /// What stands beside threads.
    pub standing: BTreeMap<ThreadKey, String>,
    envelopes: Vec<Envelope>,
    sockets: Vec<Socket>,
    frames: VecDeque<(usize, u64, usize, usize)>,
    landed: BTreeMap<u32, MessageId>,
    micros: u64,
    linked: bool,
    health: Option<watch::Sender<LinkHealth>>,
    came: Arc<Notify>,
}

impl Slack {
    /// An empty platform, with so many connections per broker.
    pub fn new(sockets: usize) -> Self {
        let socket = Socket { open: false, hears: true, number: 0, gap: 0 };
        Self {
            messages: Vec::new(),
            standing: BTreeMap::new(),
            envelopes: Vec::new(),
            sockets: vec![socket; sockets.max(1)],
            frames: VecDeque::new(),
            landed: BTreeMap::new(),
            micros: 0,
            linked: false,
            health: None,
            came: Arc::default(),
        }
    }

    fn open_sockets(&self) -> Vec<usize> {
        (0..self.sockets.len()).filter(|index| self.sockets[*index].open).collect()
    }

    /// The message with this number.
    pub fn numbered(&self, number: u32) -> Option<&Written> {
        self.messages.iter().find(|written| written.number == Some(number))
    }

    fn has_replies(&self, root: &ChatMessage) -> bool {
        let of_root = |reply: &&Written| reply.message.thread_root.as_ref() == Some(&root.id);
        self.messages.iter().filter(of_root).any(|reply| reply.deleted.is_none())
    }

    /// What the broker posted into a thread.
    pub fn own<'a>(&'a self, thread: &'a ThreadKey) -> impl Iterator<Item = &'a Written> {
        self.messages.iter().filter(move |written| written.key.is_some() && written.message.thread() == *thread)
    }
}

/// The text of a message.
fn text_of(message: &ChatMessage) -> &str {
    &message.text
}

impl State {
    fn chat_time(&mut self) -> u64 {
        self.slack.micros = (self.slack.micros + 1).max((BEGINNING + self.now()) * 1000);
        self.slack.micros
    }

    pub(crate) fn slack_step(&mut self, what: What) {
        match what {
            What::Write { message, conversation, thread, author, mentions, command, delivery } => {
                let root = match thread {
                    Some(number) => match self.slack.numbered(number) {
                        Some(root) => Some(root.message.id.clone()),
                        None => return,
                    },
                    None => None,
                };
                let at = self.chat_time();
                let written = write(at, message, conversation, root, author, (mentions, command));
                self.say(format!("{author} writes m{message} in {}: {}", written.thread(), text_of(&written)));
                let now = self.now();
                self.send_event(&written, MESSAGE, delivery, format!("m{message}"));
                self.slack.messages.push(Written {
                    number: Some(message),
                    message: written,
                    key: None,
                    deleted: None,
                    at: now,
                    edited: false,
                });
            }
            What::Edit { message, command, delivery } => self.change(message, delivery, Some(command)),
            What::Delete { message, delivery } => self.change(message, delivery, None),
            What::Disconnect { socket, reason, gap } => self.disconnect(socket, reason, gap),
            _ => {}
        }
    }

    /// A message is changed, perhaps into a command; or it is deleted.
    fn change(&mut self, number: u32, delivery: Delivery, edit: Option<Option<Command>>) {
        let now = self.now();
        let Some(written) = self.slack.messages.iter_mut().find(|written| written.number == Some(number)) else {
            return;
        };
        if written.deleted.is_some() {
            return;
        }
        let (kind, did) = match edit {
            None => (DELETION, "deleted"),
            Some(_) => (EDIT, "changed"),
        };
        match edit {
            None => written.deleted = Some(now),
            Some(None) => {
                written.message.text.push_str(" (changed)");
                written.message.control_text.push_str(" (changed)");
                written.edited = true;
            }
            Some(Some(command)) => {
                written.message.control_text = format!("-{}", command.word());
                written.message.text.clone_from(&written.message.control_text);
                written.edited = true;
            }
        }
        let message = written.message.clone();
        self.say(format!("m{number} is {did}"));
        self.send_event(&message, kind, delivery, format!("m{number} {did}"));
    }

    fn send_event(&mut self, message: &ChatMessage, kind: &'static str, delivery: Delivery, name: String) {
        let raw = serde_json::to_vec(message).unwrap_or_default();
        let index = self.slack.envelopes.len();
        let send = |state: &mut Self, after: u64, index: usize| {
            if index == state.slack.envelopes.len() {
                let key = format!("event:{index}");
                state.slack.envelopes.push(Envelope { key, kind, raw: raw.clone(), acked: false, name: name.clone() });
            }
            state.after(after, Event::Slack(SlackEvent::Deliver(index, 0)));
        };
        match delivery {
            Delivery::Once(after) => send(self, after, index),
            Delivery::Twice(after, later) => {
                send(self, after, index);
                send(self, after + later, index + 1);
            }
            Delivery::Again(after, later) => {
                send(self, after, index);
                send(self, after + later, index);
            }
            Delivery::Never => {}
        }
    }

    fn disconnect(&mut self, socket: usize, reason: Reason, gap: u64) {
        let index = socket % self.slack.sockets.len();
        if !self.slack.sockets[index].open {
            return;
        }
        self.say(format!("### connection {index} ends: {reason:?}"));
        match reason {
            // The next connection was greeted before: what is in hand is acknowledged on the old one.
            Reason::Refresh => {}
            Reason::Broken => self.close(index, gap.min(2_000)),
            Reason::TooMany => self.close(index, gap),
            Reason::Disabled => {
                for index in self.slack.open_sockets() {
                    self.close(index, gap);
                }
            }
            Reason::HalfOpen => {
                let socket = &mut self.slack.sockets[index];
                socket.hears = false;
                socket.gap = gap.min(2_000);
                let number = socket.number;
                self.after(SILENCE, Event::Slack(SlackEvent::Dead(index, number)));
            }
        }
    }

    fn close(&mut self, index: usize, gap: u64) {
        self.slack.sockets[index].open = false;
        self.slack.frames.retain(|(socket, ..)| *socket != index);
        self.after(gap, Event::Slack(SlackEvent::Up(index)));
        self.tell_link();
    }

    fn tell_link(&mut self) {
        let open = !self.slack.open_sockets().is_empty();
        let Some(health) = &self.slack.health else { return };
        health.send_if_modified(|health| {
            if health.socket.ok == open {
                return false;
            }
            health.socket = if open { PartHealth::well() } else { PartHealth::ill("no connection") };
            health.gaps += u64::from(!open);
            true
        });
    }

    pub(crate) fn slack_event(&mut self, event: SlackEvent) {
        match event {
            SlackEvent::Deliver(index, attempt) => {
                if self.slack.envelopes[index].acked && attempt > 0 {
                    return;
                }
                let open = self.slack.open_sockets();
                let spread = self.draw("socket", (index as u64) << 8 | attempt as u64, open.len() as u64);
                if let Some(socket) = open.get(usize::try_from(spread).unwrap_or(0)).copied() {
                    let Socket { number, hears, .. } = self.slack.sockets[socket];
                    if hears {
                        self.slack.frames.push_back((socket, number, index, attempt));
                        self.slack.came.notify_one();
                    }
                }
                self.after(ACK_LIMIT, Event::Slack(SlackEvent::Acked(index, attempt)));
            }
            SlackEvent::Acked(index, attempt) => {
                if !self.slack.envelopes[index].acked
                    && let Some(pause) = RETRIES.get(attempt)
                {
                    let name = self.slack.envelopes[index].name.clone();
                    self.say(format!("the event of {name} was not acknowledged; again in {pause} ms"));
                    self.after(*pause, Event::Slack(SlackEvent::Deliver(index, attempt + 1)));
                }
            }
            SlackEvent::Land(count, key, op, life) => {
                if let ChatOp::Status { thread, text: Some(_) } = &op
                    && life < self.life
                {
                    // A call that a broker made who is gone: the platform takes the status away after two minutes.
                    self.after(STATUS_KEPT, Event::Slack(SlackEvent::Expires(thread.clone())));
                }
                self.land(count, key, op);
            }
            SlackEvent::Expires(thread) => drop(self.slack.standing.remove(&thread)),
            SlackEvent::Up(index) => {
                if self.slack.linked {
                    let socket = &mut self.slack.sockets[index];
                    (socket.open, socket.hears) = (true, true);
                    socket.number += 1;
                    self.say(format!("connection {index} stands"));
                    self.tell_link();
                }
            }
            SlackEvent::Dead(index, number) => {
                if self.slack.sockets[index].number == number && self.slack.sockets[index].open {
                    let gap = self.slack.sockets[index].gap;
                    self.close(index, gap);
                }
            }
        }
    }

    fn land(&mut self, count: u32, key: OpKey, op: ChatOp) {
        if let ChatOp::Status { thread, text } = &op {
            let text = text.as_deref().unwrap_or("nothing");
            self.say(format!("beside {thread} stands: {text}"));
        }
        match op {
            ChatOp::Post { thread, body } => {
                let PartBody::Text { markup } = body else { return };
                let micros = self.chat_time();
                let message = own(micros, &thread, &markup);
                self.say(format!("posted in {thread} [{key}]: {}", first_line(&markup)));
                self.slack.landed.insert(count, message.id.clone());
                self.slack.standing.remove(&thread);
                let at = self.now();
                self.slack.messages.push(Written {
                    number: None,
                    message,
                    key: Some(key),
                    deleted: None,
                    at,
                    edited: false,
                });
            }
            ChatOp::Status { thread, text } => match text {
                Some(text) => drop(self.slack.standing.insert(thread, text)),
                None => drop(self.slack.standing.remove(&thread)),
            },
            ChatOp::React { thread, name, on } => match on {
                true => drop(self.slack.standing.insert(thread, name)),
                false => drop(self.slack.standing.remove(&thread)),
            },
            _ => {}
        }
    }

    /// The broker is gone, and its connections with it.
    pub(crate) fn unlink(&mut self) {
        self.slack.linked = false;
        self.slack.health = None;
        self.slack.frames.clear();
        for socket in &mut self.slack.sockets {
            socket.open = false;
            socket.hears = true;
        }
    }

    fn acknowledged(&mut self, (socket, number, index, attempt): (usize, u64, usize, usize)) {
        let key = self.slack.envelopes[index].key.clone();
        self.facts.accepted.insert(key);
        let stands = self.slack.sockets[socket].open && self.slack.sockets[socket].number == number;
        let name = self.slack.envelopes[index].name.clone();
        if stands {
            self.slack.envelopes[index].acked = true;
            self.say(format!("the event of {name} is acknowledged (attempt {attempt})"));
        } else {
            self.say(format!("the acknowledgement of {name} is lost: its connection is gone"));
        }
    }

    /// What the journal knew an event by, and what it was.
    pub(crate) fn envelope(&self, key: &str) -> Option<RawEnvelope> {
        self.slack.envelopes.iter().find(|envelope| envelope.key == key).map(|envelope| raw(envelope, 0))
    }
}

fn raw(envelope: &Envelope, attempt: usize) -> RawEnvelope {
    RawEnvelope {
        key: envelope.key.clone(),
        kind: envelope.kind.to_owned(),
        retry_attempt: u32::try_from(attempt).unwrap_or(0),
        received_at: Timestamp::default(),
        raw: envelope.raw.clone(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(90).collect()
}

fn message_id(micros: u64) -> MessageId {
    MessageId::new(format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000))
}

fn kind_of(conversation: &str) -> ConversationKind {
    if conversation.starts_with('D') { ConversationKind::Direct } else { ConversationKind::Channel }
}

fn write(
    micros: u64,
    number: u32,
    conversation: &str,
    thread_root: Option<MessageId>,
    author: &str,
    (mentions, command): (bool, Option<Command>),
) -> ChatMessage {
    let control_text = match command {
        Some(command) => format!("-{}", command.word()),
        None => format!("[m{number}] please"),
    };
    let text = if mentions { format!("<@BROKER> {control_text}") } else { control_text.clone() };
    ChatMessage {
        conversation: ConversationKey {
            installation: InstallationId::new("T0"),
            conversation: ConversationId::new(conversation),
        },
        conversation_kind: kind_of(conversation),
        id: message_id(micros),
        at: ChatTime::from_micros(micros),
        thread_root,
        author: match author.strip_prefix('B') {
            Some(_) => Author::Bot { id: author.to_owned(), other_ids: Vec::new(), name: None },
            None => Author::Person { id: PersonId::new(author), team: None },
        },
        text,
        mentions: Vec::new(),
        channels: Vec::new(),
        mentions_self: mentions,
        control_text,
        files: Vec::new(),
        attached: Vec::new(),
        attachments_left_out: 0,
        edited: false,
        deleted: false,
        permalink: None,
        externally_shared: false,
    }
}

fn own(micros: u64, thread: &ThreadKey, markup: &str) -> ChatMessage {
    ChatMessage {
        conversation: thread.conversation_key(),
        conversation_kind: kind_of(thread.conversation.as_str()),
        id: message_id(micros),
        at: ChatTime::from_micros(micros),
        thread_root: Some(thread.root.clone()),
        author: Author::Own,
        text: markup.to_owned(),
        mentions: Vec::new(),
        channels: Vec::new(),
        mentions_self: false,
        control_text: markup.to_owned(),
        files: Vec::new(),
        attached: Vec::new(),
        attachments_left_out: 0,
        edited: false,
        deleted: false,
        permalink: None,
        externally_shared: false,
    }
}

/// The conversation that a call is made for.
fn about(op: &ChatOp) -> &str {
    match op {
        ChatOp::Post { thread, .. }
        | ChatOp::Ephemeral { thread, .. }
        | ChatOp::Status { thread, .. }
        | ChatOp::React { thread, .. } => thread.conversation.as_str(),
        _ => "",
    }
}
