//! What survives a crash: the trait [`StateStore`], its records, and [`SessionCommit`], the only way to change a session.

mod error;
mod rows;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::agent::{AgentThreadId, TurnId};
use crate::chat::{
    ChatTime, ConversationKey, ConversationKind, Mentionable, MessageId, Person, PersonId, RawEnvelope, ThreadKey,
};
use crate::clock::Timestamp;
use crate::health::PartHealth;
use crate::ids::string_id;

pub use error::{CommitError, StoreError};
pub use rows::{
    Backfill, ContextMessage, InboxKind, InboxRow, InboxState, PartRow, PartState, PostKind, TurnEnd, TurnRow,
};

string_id! {
    /// A session, unique for ever: a thread whose session was deleted gets another id the next time.
    SessionId
}
string_id! {
    /// One post: what one tool call, one request or one final text made.
    PostId
}
impl PostId {
    /// The id of a post that its maker gave a name: the same for the same session and name, whatever the name holds.
    pub fn named(session: &SessionId, name: &str) -> Self {
        Self::new(format!("{session}-k{}", hex(Sha256::digest(name.as_bytes()).iter().take(16))))
    }
}

string_id! {
    /// What was asked for under a name, as a digest: whoever asks again under that name has to ask for the same.
    Fingerprint
}
impl Fingerprint {
    /// The digest of these pieces. Each counts for itself: what ends one piece never passes for the beginning of the next.
    pub fn of(pieces: &[&[u8]]) -> Self {
        let digest = pieces.iter().fold(Sha256::new(), |digest, piece| {
            let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
            digest.chain_update(length.to_be_bytes()).chain_update(piece)
        });
        Self::new(hex(digest.finalize().iter()))
    }
}

fn hex<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

string_id! {
    /// Who holds a session: one broker process.
    OwnerId
}

/// A row of the journal of raw envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JournalId(pub u64);

/// How often a session's rows have been changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// Raised by each claim: a commit with an older fence is refused, so that a former owner can change nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fence(pub u64);

/// What became of an envelope that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// Its row.
    pub id: JournalId,
    /// Whether it was new. `false` is a redelivery: the row is the one of the first delivery.
    pub fresh: bool,
}

/// An envelope of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// The row.
    pub id: JournalId,
    /// The envelope.
    pub envelope: RawEnvelope,
}

/// What became of a journal row that made no inbox row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalFate {
    /// Nothing for the broker.
    Ignored {
        /// Why.
        reason: String,
    },
    /// A reply in a thread without a session: taken up when its root's mention opens one.
    Unrouted {
        /// The thread.
        thread: ThreadKey,
    },
    /// It could not be read; kept for whoever mends the parser.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// Its author may not instruct the broker.
    Denied {
        /// Why.
        reason: String,
    },
    /// It was acted upon and leaves no row of its own (a `-stop` without a session).
    Done,
}

impl JournalFate {
    /// The name that is stored.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ignored { .. } => "ignored",
            Self::Unrouted { .. } => "unrouted",
            Self::Unreadable { .. } => "unreadable",
            Self::Denied { .. } => "denied",
            Self::Done => "done",
        }
    }
}

/// The record of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The thread that it is the session of.
    pub key: ThreadKey,
    /// Its own id.
    pub id: SessionId,
    /// The conversation's name, when known.
    pub channel_name: Option<String>,
    /// What kind of conversation it is in.
    pub conversation_kind: ConversationKind,
    /// Who started it.
    pub started_by: PersonId,
    /// With which message.
    pub started_with: MessageId,
    /// The name of its folder below the sessions root.
    pub folder: String,
    /// The agent's thread, once one was started.
    pub agent_thread: Option<AgentThreadId>,
    /// Whether that thread is known to hold something: until then it may be gone after a crash, and nothing is lost.
    pub agent_confirmed: bool,
    /// The turn that runs.
    pub running_turn: Option<TurnId>,
    /// Where the session began: up to here *every* message is in the inbox, or part of the history that came along. How far
    /// that has come since is told by [`StateStore::active_sessions`].
    pub watermark: ChatTime,
    /// Messages written before this moment were stopped by `-stop`.
    pub stopped_at: ChatTime,
    /// The last notice to the thread about a failure: its cause and when. The same cause is told once in five minutes.
    pub last_notice: Option<(String, Timestamp)>,
    /// The people of the thread, whom the agent may mention: those who wrote in it, and those whom somebody who may
    /// instruct mentioned in it. At most [`MAX_PEOPLE`](crate::session::MAX_PEOPLE), the latest last.
    pub people: Vec<Mentionable>,
    /// Whether a status, or a reaction in its place, may stand beside the thread: whoever finds it so after a crash takes
    /// it away.
    pub status_shown: bool,
    /// The next number for an id of this session.
    pub next_number: u64,
    /// Which of the session's tokens is good: an earlier one was revoked.
    pub token_generation: u64,
    /// When it was created.
    pub created_at: Timestamp,
    /// When a person or the agent last did something in it.
    pub last_activity: Timestamp,
}

/// A change of one part by the sender: takes effect only when the row is still in the expected state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartChange {
    /// The state the sender believes the row to be in.
    pub expected: PartState,
    /// The row as it shall be.
    pub row: PartRow,
}

/// Everything that is loaded of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionRows {
    /// Its record; absent while nothing was committed for the thread.
    pub record: Option<SessionRecord>,
    /// Its revision; zero while there is no record.
    pub revision: Revision,
    /// Its open inbox rows, by place.
    pub inbox: Vec<InboxRow>,
    /// Its messages that were put aside, by place: the latest, at most [`MAX_PARKED`](crate::session::MAX_PARKED).
    pub parked: Vec<InboxRow>,
    /// The newest place of a message that was given, so that a later find can be marked late.
    pub newest_given: ChatTime,
    /// The turn that runs.
    pub turn: Option<TurnRow>,
    /// Parts that the running turn made, in order, whatever their state.
    pub turn_parts: Vec<PartRow>,
    /// How many parts of its thread are not yet sent.
    pub open_parts: usize,
}

/// One step of a session: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCommit {
    /// The session.
    pub key: ThreadKey,
    /// The claim under which it is made.
    pub fence: Fence,
    /// The revision it builds on.
    pub expected: Revision,
    /// How many steps it holds: so much the revision grows.
    pub steps: u64,
    /// The record as it shall be; absent where it does not change.
    pub record: Option<SessionRecord>,
    /// Inbox rows as they shall be, new ones included. A *new* row whose message is already in the inbox under another
    /// id is left out silently: (installation, conversation, message) is one row.
    pub inbox: Vec<InboxRow>,
    /// Turns as they shall be.
    pub turns: Vec<TurnRow>,
    /// New parts.
    pub parts: Vec<PartRow>,
    /// Whether parts of the thread that were not yet sent (`queued`) are dropped. Applied before `parts`.
    pub drop_queued_parts: bool,
    /// Messages of the conversation that were deleted after their rows were settled: the rows are marked as withdrawn, so
    /// that nobody hears of it twice. Applied after `inbox`.
    pub withdrawn: Vec<MessageId>,
    /// Journal rows that are settled by this step.
    pub read: Vec<JournalId>,
}

impl SessionCommit {
    /// A commit that changes nothing yet.
    pub fn empty(key: ThreadKey, fence: Fence, expected: Revision) -> Self {
        Self {
            key,
            fence,
            expected,
            steps: 1,
            record: None,
            inbox: Vec::new(),
            turns: Vec::new(),
            parts: Vec::new(),
            drop_queued_parts: false,
            withdrawn: Vec::new(),
            read: Vec::new(),
        }
    }

    /// Adds the step after it, so that both become durable at once.
    ///
    /// # Errors
    ///
    /// The step itself, when the two have to be made one after the other: it drops parts that this one adds.
    pub fn join(&mut self, next: Self) -> Result<(), Box<Self>> {
        if next.is_empty() {
            return Ok(());
        }
        if self.is_empty() {
            *self = next;
            return Ok(());
        }
        if next.drop_queued_parts && !self.parts.is_empty() {
            return Err(Box::new(next));
        }
        self.steps += next.steps;
        self.record = next.record.or(self.record.take());
        replace(&mut self.inbox, next.inbox, |row| row.id.clone());
        replace(&mut self.turns, next.turns, |turn| turn.id.clone());
        self.parts.extend(next.parts);
        self.drop_queued_parts |= next.drop_queued_parts;
        self.withdrawn.extend(next.withdrawn);
        self.read.extend(next.read);
        Ok(())
    }

    /// Whether committing it would change anything.
    pub fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.inbox.is_empty()
            && self.turns.is_empty()
            && self.parts.is_empty()
            && !self.drop_queued_parts
            && self.withdrawn.is_empty()
            && self.read.is_empty()
    }
}

/// Puts later versions of rows in the place of earlier ones, and new rows behind them.
fn replace<T, Id: PartialEq>(rows: &mut Vec<T>, later: Vec<T>, id: impl Fn(&T) -> Id) {
    for row in later {
        match rows.iter_mut().find(|known| id(known) == id(&row)) {
            Some(known) => *known = row,
            None => rows.push(row),
        }
    }
}

/// A session that may have missed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveSession {
    /// Its thread.
    pub key: ThreadKey,
    /// Where it began: what was written before is no message for it.
    pub began: ChatTime,
    /// Up to when every message of the thread is in the inbox: what was read back last, or else where the session began.
    pub caught_up: ChatTime,
}

/// A message that is in the inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMessage {
    /// As what.
    pub kind: InboxKind,
    /// Where it stands.
    pub state: InboxState,
    /// Whether it was deleted.
    pub withdrawn: bool,
    /// The agent's conversation that it was given to.
    pub given_to: Option<AgentThreadId>,
}

/// A search for missed messages looks at what was written up to so long before the moment up to which a thread is known to
/// have been read back completely: messages that it may find are not deleted.
pub const SEARCHED_AGAIN: Duration = Duration::from_secs(3 * 60);

/// What is old enough to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Old {
    /// Journal rows that came before this and are not unread, the unreadable and unrouted ones included.
    pub journal: Timestamp,
    /// Inbox rows and parts that are not open and were made before this, turns that ended before it, people who were last
    /// looked up before it. A message stays for as long as a search may find it again ([`SEARCHED_AGAIN`]), the record of a
    /// session for ever: its thread may go on after years.
    pub closed: Timestamp,
}

/// How much there is of what, for health and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreCounts {
    /// Sessions.
    pub sessions: u64,
    /// Journal rows that wait to be read.
    pub journal_unread: u64,
    /// Journal rows that could not be read.
    pub journal_unreadable: u64,
    /// Inbox rows that wait or are in doubt.
    pub inbox_open: u64,
    /// When the oldest of them was made.
    pub inbox_oldest: Option<Timestamp>,
    /// Parts that are not yet sent.
    pub parts_open: u64,
    /// When the oldest of them was made.
    pub parts_oldest: Option<Timestamp>,
}

/// What survives a crash. Every method that changes something returns after it is durable.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait StateStore: Send + Sync {
    /// Appends envelopes to the journal, one row per key, in the order given.
    async fn accept(&self, batch: Vec<RawEnvelope>) -> Result<Vec<Accepted>, StoreError>;

    /// Journal rows that are neither read nor settled, after `after`, oldest first.
    async fn unread(&self, after: Option<JournalId>, limit: usize) -> Result<Vec<JournalRow>, StoreError>;

    /// Settles journal rows that make no inbox row.
    async fn settle(&self, ids: Vec<JournalId>, fate: JournalFate) -> Result<(), StoreError>;

    /// Unrouted journal rows of a thread that came at or after `since`, oldest first. They count as unread again.
    async fn take_unrouted(&self, thread: &ThreadKey, since: Timestamp) -> Result<Vec<JournalRow>, StoreError>;

    /// Takes a session (or a thread that has none yet) and loads it. An earlier claim is void from here on.
    async fn claim(&self, session: &ThreadKey, owner: &OwnerId) -> Result<(Fence, SessionRows), StoreError>;

    /// Makes one step of a session durable: all of it or nothing.
    async fn commit(&self, change: SessionCommit) -> Result<Revision, CommitError>;

    /// What is known of a message, when it is in the inbox.
    async fn known_message(
        &self,
        conversation: &ConversationKey,
        message: &MessageId,
    ) -> Result<Option<KnownMessage>, StoreError>;

    /// The record of a session.
    async fn session(&self, key: &ThreadKey) -> Result<Option<SessionRecord>, StoreError>;

    /// Sessions in which something is to be done: open inbox rows or a running turn.
    async fn sessions_with_work(&self) -> Result<Vec<ThreadKey>, StoreError>;

    /// Sessions of a conversation in which a turn runs or an inbox row is open.
    async fn busy_sessions_in(&self, conversation: &ConversationKey) -> Result<Vec<ThreadKey>, StoreError>;

    /// Sessions in which something happened at or after `since`, the latest first, at most `limit`.
    async fn active_sessions(&self, since: Timestamp, limit: usize) -> Result<Vec<ActiveSession>, StoreError>;

    /// Remembers up to when a thread was read back completely. Never goes back; a thread without a session is no error.
    async fn caught_up(&self, thread: &ThreadKey, up_to: ChatTime) -> Result<(), StoreError>;

    /// Since when there is a broker on this store: what was written before was never for it.
    async fn birth(&self) -> Result<Timestamp, StoreError>;

    /// Threads with parts that are not yet sent.
    async fn threads_with_parts(&self) -> Result<Vec<ThreadKey>, StoreError>;

    /// The open parts of a thread, by place, at most `limit`.
    async fn open_parts(&self, thread: &ThreadKey, limit: usize) -> Result<Vec<PartRow>, StoreError>;

    /// All parts of a post, by number.
    async fn post(&self, post: &PostId) -> Result<Vec<PartRow>, StoreError>;

    /// Changes parts, all or none: `false` when one of them is no longer in the expected state.
    async fn change_parts(&self, changes: Vec<PartChange>) -> Result<bool, StoreError>;

    /// A person as last looked up, and when.
    async fn person(&self, id: &PersonId) -> Result<Option<(Person, Timestamp)>, StoreError>;

    /// Remembers a person.
    async fn put_person(&self, person: Person, at: Timestamp) -> Result<(), StoreError>;

    /// Deletes what is old and settled; returns how many rows.
    async fn prune(&self, old: Old) -> Result<u64, StoreError>;

    /// How much there is of what.
    async fn counts(&self) -> Result<StoreCounts, StoreError>;

    /// Whether the store commits, now and from now on.
    fn health(&self) -> watch::Receiver<PartHealth>;
}
