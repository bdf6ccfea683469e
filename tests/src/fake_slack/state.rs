//! What the fake workspace holds, and what it has seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use broker_core::clock::{Clock, SystemClock, Timestamp};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::faults::Fault;
use super::files::{self, Stored, Upload};
use super::people::{Channel, ChannelKind, Kind, User};
use super::socket::{Connection, Envelope};
use super::{CHANNEL, events};

/// A message as it stands in the workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its place: microseconds since the Unix epoch.
    pub micros: u64,
    /// Its `ts`.
    pub ts: String,
    /// The root of the thread that it replies in.
    pub thread: Option<String>,
    /// Its author, as `user` names them.
    pub user: String,
    /// Its text, in Slack's markup.
    pub text: String,
    /// Its metadata, when it was posted with some.
    pub metadata: Option<Value>,
    /// Whether a reply also stands at the top level.
    pub broadcast: bool,
    /// The whole message object, as the Web API shows it.
    pub(super) fields: Map<String, Value>,
}

impl Message {
    /// The ids of the files that hang on it.
    pub fn files(&self) -> Vec<String> {
        files::ids(&self.fields)
    }

    /// Whether the broker wrote it.
    pub fn is_own(&self) -> bool {
        self.user == super::BOT_USER
    }
}

/// A call to the Web API.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: String,
    /// Its arguments; of a form each is a string.
    pub args: Map<String, Value>,
    /// When it came.
    pub at: Instant,
    /// What was answered: `ok`, Slack's error code, or the fault in words.
    pub outcome: String,
}

/// A line that one person was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ephemeral {
    /// Where.
    pub channel: String,
    /// In which thread.
    pub thread: Option<String>,
    /// Who saw it.
    pub user: String,
    /// What it said.
    pub text: String,
}

/// A status that was set, or taken away with an empty text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// Where.
    pub channel: String,
    /// Beside which thread.
    pub thread: String,
    /// What stands behind the bot's name.
    pub text: String,
    /// When it took effect.
    pub at: Instant,
}

/// How an unacknowledged envelope comes again. Slack's own pauses for HTTP are: at once, one minute, five minutes; for
/// sockets none are documented.
#[derive(Debug, Clone, Copy)]
pub struct Redelivery {
    /// How long an ack is waited for on a connection that stays open. After a connection ends it comes at once.
    pub after: Duration,
    /// How often it comes again.
    pub times: u32,
    /// Whether it comes under a new `envelope_id`: reports differ. The `event_id` stays.
    pub fresh_id: bool,
}

/// Everything.
#[derive(Debug)]
pub struct State {
    clock: SystemClock,
    /// How far this clock is ahead of the machine's, in milliseconds.
    pub(super) ahead: i64,
    newest: u64,
    numbers: u64,
    pub(super) users: BTreeMap<String, User>,
    pub(super) channels: BTreeMap<String, Channel>,
    pub(super) messages: BTreeMap<String, BTreeMap<u64, Message>>,
    /// Where the replies of a thread stand, by channel and root: a busy channel is not gone through for each of them.
    pub(super) replies: HashMap<(String, String), BTreeSet<u64>>,
    /// Messages of the broker so far.
    own_messages: usize,
    pub(super) ephemerals: Vec<Ephemeral>,
    pub(super) reactions: BTreeSet<(String, String, String)>,
    pub(super) statuses: Vec<StatusChange>,
    /// What stands beside which thread, by channel and root.
    pub(super) standing: BTreeMap<(String, String), String>,
    pub(super) calls: Vec<Call>,
    pub(super) violations: Vec<String>,
    pub(super) faults: Vec<Fault>,
    pub(super) envelopes: Vec<Envelope>,
    /// Which envelope an id belongs to.
    pub(super) envelope_ids: HashMap<String, usize>,
    pub(super) raw_acks: BTreeMap<String, Vec<Instant>>,
    pub(super) raw_ids: BTreeSet<String>,
    pub(super) pending: Vec<usize>,
    pub(super) connections: Vec<Connection>,
    /// How many connections were open from which moment on.
    pub(super) open_counts: Vec<(Instant, usize)>,
    pub(super) tickets: BTreeSet<String>,
    pub(super) scopes: Vec<String>,
    pub(super) redelivery: Redelivery,
    pub(super) root_on_every_page: bool,
    /// Envelopes are kept back.
    pub(super) held: bool,
    /// Acknowledgements that will get lost.
    pub(super) lost_acks: usize,
    /// What every call with the bot token is answered.
    pub(super) refusal: Option<&'static str>,
    pub(super) files: BTreeMap<String, Stored>,
    pub(super) downloads: usize,
    pub(super) uploads: Vec<Upload>,
    turn: usize,
}

/// What the app may do unless a test says otherwise.
const SCOPES: &str = "app_mentions:read assistant:write channels:history channels:read chat:write files:read files:write \
                      groups:history groups:read im:history im:read im:write mpim:history mpim:read reactions:read \
                      reactions:write users:read users:read.email";

impl State {
    pub(super) fn new() -> Self {
        let users = [
            User::new(super::ALICE, "alice", Kind::Member),
            User::new(super::BOB, "bob", Kind::Member),
            User::new(super::GUEST, "guest", Kind::Guest),
            User::new(super::STRANGER, "stranger", Kind::External),
            User::new(super::GONE, "gone", Kind::Deactivated),
            User::new(super::OTHER_BOT_USER, "otherbot", Kind::Bot),
            User::new(super::BOT_USER, "broker", Kind::Bot),
        ];
        let channels = [Channel::new(CHANNEL, "general", ChannelKind::Public)];
        Self {
            clock: SystemClock::new(),
            ahead: 0,
            newest: 0,
            numbers: 0,
            users: users.into_iter().map(|user| (user.id.clone(), user)).collect(),
            channels: channels.into_iter().map(|channel| (channel.id.clone(), channel)).collect(),
            messages: BTreeMap::new(),
            replies: HashMap::new(),
            own_messages: 0,
            ephemerals: Vec::new(),
            reactions: BTreeSet::new(),
            statuses: Vec::new(),
            standing: BTreeMap::new(),
            calls: Vec::new(),
            violations: Vec::new(),
            faults: Vec::new(),
            envelopes: Vec::new(),
            envelope_ids: HashMap::new(),
            raw_acks: BTreeMap::new(),
            raw_ids: BTreeSet::new(),
            pending: Vec::new(),
            connections: Vec::new(),
            open_counts: Vec::new(),
            tickets: BTreeSet::new(),
            scopes: SCOPES.split_whitespace().map(str::to_owned).collect(),
            redelivery: Redelivery { after: Duration::from_secs(15), times: 3, fresh_id: true },
            root_on_every_page: true,
            held: false,
            lost_acks: 0,
            refusal: None,
            files: BTreeMap::new(),
            downloads: 0,
            uploads: Vec::new(),
            turn: 0,
        }
    }

    /// Slack's time.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.now().as_millis() + self.ahead)
    }

    /// A number that nobody had before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Which connection the next envelope goes to: any of them, says Slack, so each in turn.
    pub(super) fn next_turn(&mut self, of: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn % of.max(1)
    }

    pub(super) fn violation(&mut self, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!(%what, "protocol violation");
        self.violations.push(what);
    }

    /// A `ts` that is newer than every other.
    pub(super) fn fresh_micros(&mut self) -> u64 {
        let now = u64::try_from(self.now().as_millis()).unwrap_or_default() * 1000;
        self.newest = now.max(self.newest + 100);
        self.newest
    }

    /// Adds a message, now or at a place of its own; returns its `ts`.
    pub(super) fn add_message(
        &mut self,
        channel: &str,
        thread: Option<&str>,
        at: Option<u64>,
        mut fields: Map<String, Value>,
    ) -> Message {
        let taken = |micros: &u64| self.messages.get(channel).is_some_and(|all| all.contains_key(micros));
        let micros = match at {
            Some(at) => (at..).find(|micros| !taken(micros)).expect("a free place"),
            None => self.fresh_micros(),
        };
        let ts = ts(micros);
        fields.insert("type".to_owned(), json!("message"));
        fields.insert("ts".to_owned(), json!(ts));
        if let Some(thread) = thread {
            fields.insert("thread_ts".to_owned(), json!(thread));
        }
        let metadata = fields.remove("metadata");
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let message = Message {
            micros,
            ts: ts.clone(),
            thread: thread.map(str::to_owned),
            user: text("user"),
            text: text("text"),
            metadata,
            broadcast: text("subtype") == "thread_broadcast",
            fields,
        };
        if let Some(thread) = thread {
            self.replies.entry((channel.to_owned(), thread.to_owned())).or_default().insert(micros);
        }
        self.own_messages += usize::from(message.is_own());
        self.messages.entry(channel.to_owned()).or_default().insert(micros, message.clone());
        message
    }

    /// Sets the status of a thread, or takes it away with an empty text.
    pub(super) fn set_status(&mut self, channel: String, thread: String, text: String) {
        let place = (channel.clone(), thread.clone());
        if text.is_empty() {
            self.standing.remove(&place);
        } else {
            self.standing.insert(place, text.clone());
        }
        self.statuses.push(StatusChange { channel, thread, text, at: Instant::now() });
    }

    /// Sends the events that Slack sends for a message; returns their ids.
    pub(super) fn announce(&mut self, channel: &str, message: &Message) -> Vec<String> {
        let channel = self.channels.get(channel).expect("a conversation of the workspace").clone();
        let mut sent = Vec::new();
        if !channel.member {
            return sent;
        }
        // There is no `app_mention` in direct messages; elsewhere both come, in no promised order.
        if channel.kind != ChannelKind::Im && events::mentions_bot(&message.text) && !message.is_own() {
            sent.push(self.queue_event(&events::app_mention(&message.fields, &channel), channel.shared));
        }
        sent.push(self.queue_event(&events::message(&message.fields, &channel), channel.shared));
        sent
    }

    /// The messages of a thread, root first; without the root when it does not exist.
    pub(super) fn thread(&self, channel: &str, root: &str) -> Vec<&Message> {
        let Some(all) = self.messages.get(channel) else { return Vec::new() };
        let replies = self.replies.get(&(channel.to_owned(), root.to_owned())).into_iter().flatten();
        // A reply that was deleted is no longer there.
        micros(root).iter().chain(replies).filter_map(|place| all.get(place)).collect()
    }

    pub(super) fn message(&self, channel: &str, ts: &str) -> Option<&Message> {
        self.messages.get(channel)?.get(&micros(ts)?)
    }

    /// The message object as `conversations.*` show it: a root tells of its replies.
    pub(super) fn object(&self, channel: &str, message: &Message, with_metadata: bool) -> Value {
        let mut object = message.fields.clone();
        if let (true, Some(metadata)) = (with_metadata, &message.metadata) {
            object.insert("metadata".to_owned(), metadata.clone());
        }
        let replies: Vec<_> = self.thread(channel, &message.ts).into_iter().filter(|m| m.ts != message.ts).collect();
        if let Some(latest) = replies.last() {
            let users: BTreeSet<_> = replies.iter().map(|reply| reply.user.as_str()).collect();
            object.insert("thread_ts".to_owned(), json!(message.ts));
            object.insert("reply_count".to_owned(), json!(replies.len()));
            object.insert("reply_users_count".to_owned(), json!(users.len()));
            object.insert("reply_users".to_owned(), json!(users));
            object.insert("latest_reply".to_owned(), json!(latest.ts));
            object.insert("subscribed".to_owned(), json!(false));
        }
        Value::Object(object)
    }

    /// How many messages the broker has posted.
    pub fn own_messages(&self) -> usize {
        self.own_messages
    }

    /// The messages that the broker posted into a thread, in order.
    pub fn answers(&self, channel: &str, root: &str) -> Vec<String> {
        self.thread(channel, root).into_iter().filter(|m| m.is_own()).map(|m| m.text.clone()).collect()
    }

    /// The messages of a thread, root first.
    pub fn messages_in(&self, channel: &str, root: &str) -> Vec<Message> {
        self.thread(channel, root).into_iter().cloned().collect()
    }

    /// Every message of a conversation, oldest first.
    pub fn messages_of(&self, channel: &str) -> Vec<Message> {
        self.messages.get(channel).map(|all| all.values().cloned().collect()).unwrap_or_default()
    }

    /// What the client did that Slack would not take well.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// The calls of a method so far.
    pub fn calls(&self, method: &str) -> Vec<Call> {
        self.calls.iter().filter(|call| call.method == method).cloned().collect()
    }

    /// The ephemeral lines so far.
    pub fn ephemerals(&self) -> &[Ephemeral] {
        &self.ephemerals
    }

    /// The statuses of a thread that were set, and taken away with an empty text, in the order of their effect.
    pub fn statuses(&self, channel: &str, root: &str) -> Vec<StatusChange> {
        let of_thread = |change: &&StatusChange| change.channel == channel && change.thread == root;
        self.statuses.iter().filter(of_thread).cloned().collect()
    }

    /// The statuses that stand, by channel and root.
    pub fn standing(&self) -> &BTreeMap<(String, String), String> {
        &self.standing
    }

    /// The reactions of the broker: channel, message, name.
    pub fn reactions(&self) -> &BTreeSet<(String, String, String)> {
        &self.reactions
    }

    /// The envelopes so far.
    pub fn envelopes(&self) -> &[Envelope] {
        &self.envelopes
    }

    /// Whether every envelope with this message was acknowledged.
    pub fn acked_message(&self, channel: &str, ts: &str) -> bool {
        let of_message = |e: &&Envelope| e.message.as_ref().is_some_and(|(c, t)| c == channel && t == ts);
        self.envelopes.iter().filter(of_message).all(|envelope| envelope.acked.is_some())
    }

    /// The connections that are open.
    pub fn open_connections(&self) -> usize {
        self.connections.iter().filter(|connection| connection.is_open()).count()
    }

    /// How many connections there have been.
    pub fn connections_ever(&self) -> usize {
        self.connections.len()
    }

    /// When a frame with this `envelope_id`, sent raw, was acknowledged.
    pub fn raw_acks(&self, envelope_id: &str) -> &[Instant] {
        self.raw_acks.get(envelope_id).map_or(&[], Vec::as_slice)
    }

    /// In a few lines, for the message of a test that failed.
    pub(super) fn summary(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let unacked = self.envelopes.iter().filter(|envelope| envelope.acked.is_none()).count();
        let _ = writeln!(
            text,
            "connections open: {}, envelopes: {} ({unacked} not acked), calls: {}, violations: {:?}",
            self.open_connections(),
            self.envelopes.len(),
            self.calls.len(),
            self.violations
        );
        let failed = self.calls.iter().rev().filter(|call| call.outcome != "ok").take(10);
        for call in failed {
            let _ = writeln!(text, "call {} -> {}", call.method, call.outcome);
        }
        for ephemeral in self.ephemerals.iter().rev().take(5) {
            let _ = writeln!(text, "ephemeral to {}: {}", ephemeral.user, ephemeral.text);
        }
        for (channel, all) in &self.messages {
            for message in all.values().rev().take(20).collect::<Vec<_>>().into_iter().rev() {
                let place = message.thread.as_deref().unwrap_or("top");
                let start: String = message.text.chars().take(200).collect();
                let _ = writeln!(text, "{channel} {} in {place} by {}: {start}", message.ts, message.user);
            }
        }
        text
    }
}

/// A place as a `ts`.
pub(super) fn ts(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// The place of a `ts`; absent when it is none.
pub(super) fn micros(ts: &str) -> Option<u64> {
    let (seconds, rest) = ts.split_once('.').unwrap_or((ts, "0"));
    if seconds.is_empty() || rest.is_empty() || rest.len() > 6 || !rest.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = format!("{rest:0<6}").parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(fraction)
}
