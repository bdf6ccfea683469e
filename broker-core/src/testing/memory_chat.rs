//! A chat platform in memory.

mod transport;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chat::{
    AgentText, Author, ChatCapabilities, ChatMessage, ChatOp, ChatTime, ChatTransport, ConversationId, ConversationKey,
    ConversationKind, DeliverError, FetchError, Fetched, FileRef, FileSink, Found, InstallationId, Intake, LinkError,
    LinkHealth, LookupError, MessageId, OpKey, Parsed, PartBody, Person, PersonId, RawEnvelope, Receipt, Standing,
    ThreadKey,
};
use crate::health::PartHealth;
use crate::history::{Cursor, HeadsPage, HistoryError, HistoryProvider, Page, Urgency};

/// The id by which messages mention the broker.
pub const SELF: &str = "BROKER";
/// The installation that every message belongs to.
pub const INSTALLATION: &str = "T0";
/// The longest part, in characters.
pub const PART_CHARS: usize = 3500;

/// How people mention the broker in a text.
const NAME: &str = "@broker";
/// The kinds of envelopes.
const MESSAGE: &str = "message";
const EDIT: &str = "edit";
const DELETION: &str = "deletion";

/// How the next operation goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// It fails without an effect.
    Fail(DeliverError),
    /// It has its effect, and the answer is lost.
    LoseAnswer,
    /// It has no effect and is never answered.
    Hang,
    /// It has its effect, and then the transport itself breaks: the call panics.
    Panic,
}

/// A file that somebody shares.
#[derive(Debug, Clone, Default)]
pub struct MemoryFile {
    /// What its message says of it.
    pub shown: FileRef,
    /// What is told of its name once it is asked for.
    pub name: Option<String>,
    /// What is told of its media type once it is asked for.
    pub media_type: Option<String>,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// After these bytes nothing more comes.
    pub hangs: bool,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<(ChatMessage, Option<OpKey>)>,
    /// Every message that people wrote, as it was at first: what its event says, whenever that comes.
    written: Vec<ChatMessage>,
    ephemerals: Vec<(ThreadKey, PersonId, String)>,
    people: HashMap<PersonId, Person>,
    undelivered: VecDeque<RawEnvelope>,
    faults: VecDeque<Fault>,
    /// Every status that was set or taken away, in order.
    statuses: Vec<(ThreadKey, Option<String>)>,
    /// Threads on whose first message a reaction stands.
    reactions: Vec<(ThreadKey, String)>,
    status_faults: VecDeque<Fault>,
    breaks_on: Option<String>,
    /// Nothing is answered, and nothing has an effect.
    is_down: bool,
    /// People of whom nothing can be told.
    lost: Vec<PersonId>,
    /// Everybody who was looked up, in order.
    looked_up: Vec<PersonId>,
    /// Nobody is told how a conversation is called.
    keeps_names: bool,
    /// Every page of a thread that was asked for, in order.
    asked: Vec<(ThreadKey, Urgency)>,
    /// Files that people shared.
    shared: Vec<MemoryFile>,
    /// Files that were handed over, whether posted or not.
    uploaded: Vec<FileRef>,
    uploads: u64,
    clock: u64,
    events: u64,
}

impl State {
    fn tell_of(&mut self, message: &ChatMessage, kind: &str, retry_attempt: u32) {
        self.events += 1;
        self.undelivered.push_back(RawEnvelope {
            key: format!("event:{}", self.events),
            kind: kind.to_owned(),
            retry_attempt,
            received_at: message.at.timestamp(),
            raw: serde_json::to_vec(message).unwrap_or_default(),
        });
    }
}

fn control_text(text: &str) -> String {
    text.replace(NAME, "").trim().to_owned()
}

/// A chat platform in memory. Clones share one platform.
///
/// Every person is a full member unless [`MemoryChat::add_person`] says otherwise. Envelopes that nobody accepted wait
/// and are delivered to the next link.
#[derive(Clone)]
pub struct MemoryChat {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
    health: Arc<watch::Sender<LinkHealth>>,
}

impl fmt::Debug for MemoryChat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryChat").finish_non_exhaustive()
    }
}

impl Default for MemoryChat {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryChat {
    /// An empty platform whose clock starts at a fixed moment.
    pub fn new() -> Self {
        Self::starting_at(ChatTime::from_micros(1_700_000_000_000_000))
    }

    /// An empty platform whose clock starts at `start`; each message is one second later than the one before.
    pub fn starting_at(start: ChatTime) -> Self {
        let health = LinkHealth::new(PartHealth::ill("not connected"), PartHealth::well());
        let state = State { clock: start.as_micros(), ..State::default() };
        Self {
            state: Arc::new(Mutex::new(state)),
            changed: Arc::new(watch::Sender::new(0)),
            health: Arc::new(watch::Sender::new(health)),
        }
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The key of a conversation.
    pub fn conversation(name: &str) -> ConversationKey {
        ConversationKey { installation: InstallationId::new(INSTALLATION), conversation: ConversationId::new(name) }
    }

    /// Makes somebody something else than a full member.
    pub fn add_person(&self, person: Person) {
        self.state().people.insert(person.id.clone(), person);
    }

    /// From now on the platform does not know a person.
    pub fn lose_person(&self, id: &str) {
        self.state().lost.push(PersonId::new(id));
    }

    /// How often a person was looked up.
    pub fn times_looked_up(&self, id: &str) -> usize {
        self.state().looked_up.iter().filter(|known| known.as_str() == id).count()
    }

    /// Makes the next operations go wrong, one fault each.
    pub fn fail_next(&self, fault: Fault) {
        self.state().faults.push_back(fault);
    }

    /// Makes the next status or reaction go wrong, one fault each.
    pub fn fail_next_status(&self, fault: Fault) {
        self.state().status_faults.push_back(fault);
    }

    /// From now on no operation and no look-up is answered, and none has an effect; or all is well again.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// From now on whoever asks how a conversation is called waits for ever.
    pub fn keep_names(&self) {
        self.state().keeps_names = true;
    }

    /// Files that hung are fetched as a whole from now on.
    pub fn unhang(&self) {
        self.state().shared.iter_mut().for_each(|file| file.hangs = false);
    }

    /// The next text that contains this breaks the rendering: it panics.
    pub fn break_on(&self, text: &str) {
        self.state().breaks_on = Some(text.to_owned());
    }

    /// Every status of the thread that was set, or taken away, in order.
    pub fn statuses(&self, thread: &ThreadKey) -> Vec<Option<String>> {
        let state = self.state();
        state.statuses.iter().filter(|(known, _)| known == thread).map(|(_, text)| text.clone()).collect()
    }

    /// How urgently each page of the thread was asked for, in order.
    pub fn asked(&self, thread: &ThreadKey) -> Vec<Urgency> {
        let state = self.state();
        state.asked.iter().filter(|(known, _)| known == thread).map(|(_, urgency)| *urgency).collect()
    }

    /// The reactions that stand on the thread's first message.
    pub fn reactions(&self, thread: &ThreadKey) -> Vec<String> {
        let state = self.state();
        state.reactions.iter().filter(|(known, _)| known == thread).map(|(_, name)| name.clone()).collect()
    }

    /// Somebody writes a message; in a thread when `root` is given. A conversation whose name begins with `D` is a direct
    /// message. `@broker` in the text mentions the broker.
    pub fn say(&self, conversation: &str, root: Option<&MessageId>, person: &str, text: &str) -> ThreadKey {
        let author = Author::Person { id: PersonId::new(person), team: None };
        self.write(conversation, root, author, text, Vec::new(), true)
    }

    /// The same with files, which [`ChatTransport::fetch`] hands out.
    pub fn share(
        &self,
        conversation: &str,
        root: Option<&MessageId>,
        person: &str,
        text: &str,
        files: &[MemoryFile],
    ) -> ThreadKey {
        let author = Author::Person { id: PersonId::new(person), team: None };
        self.state().shared.extend(files.iter().cloned());
        let files = files.iter().map(|file| file.shown.clone()).collect();
        self.write(conversation, root, author, text, files, true)
    }

    /// Another bot writes a message.
    pub fn bot_says(&self, conversation: &str, root: Option<&MessageId>, bot: &str, text: &str) -> ThreadKey {
        self.write(
            conversation,
            root,
            Author::Bot { id: bot.to_owned(), other_ids: Vec::new(), name: None },
            text,
            Vec::new(),
            true,
        )
    }

    /// A message that was there before the broker: no event tells of it.
    pub fn seed(&self, conversation: &str, root: Option<&MessageId>, person: &str, text: &str) -> ThreadKey {
        let author = Author::Person { id: PersonId::new(person), team: None };
        self.write(conversation, root, author, text, Vec::new(), false)
    }

    /// A message of the broker's own that was there before, at the top level.
    pub fn seed_own(&self, conversation: &str) -> ThreadKey {
        self.write(conversation, None, Author::Own, "own", Vec::new(), false)
    }

    /// Makes something else of a message that is there, without a word.
    pub fn change(&self, id: &MessageId, into: impl FnOnce(ChatMessage) -> ChatMessage) {
        let mut state = self.state();
        if let Some((message, _)) = state.messages.iter_mut().find(|(message, _)| message.id == *id) {
            *message = into(message.clone());
        }
    }

    /// Lets time pass on the platform before the next message.
    pub fn pass(&self, time: Duration) {
        self.state().clock += u64::try_from(time.as_micros()).unwrap_or(0);
    }

    fn write(
        &self,
        conversation: &str,
        root: Option<&MessageId>,
        author: Author,
        text: &str,
        files: Vec<FileRef>,
        event: bool,
    ) -> ThreadKey {
        let mut state = self.state();
        let message = message(&mut state, Self::conversation(conversation), root.cloned(), author, text);
        let message = ChatMessage { files, ..message };
        let thread = message.thread();
        if event {
            state.tell_of(&message, MESSAGE, 0);
        }
        state.written.push(message.clone());
        state.messages.push((message, None));
        drop(state);
        self.tell();
        thread
    }

    /// Delivers the event of a message (again): it says what was written at first.
    pub fn redeliver(&self, id: &MessageId) {
        let mut state = self.state();
        let Some(message) = state.written.iter().find(|message| message.id == *id).cloned() else { return };
        state.tell_of(&message, MESSAGE, 1);
        drop(state);
        self.tell();
    }

    /// Delivers raw bytes as an envelope.
    pub fn deliver_raw(&self, key: &str, raw: &[u8]) {
        let mut state = self.state();
        let envelope = RawEnvelope {
            key: key.to_owned(),
            kind: MESSAGE.to_owned(),
            retry_attempt: 0,
            received_at: ChatTime::from_micros(state.clock).timestamp(),
            raw: raw.to_vec(),
        };
        state.undelivered.push_back(envelope);
        drop(state);
        self.tell();
    }

    /// Writes a reply that the broker is not told of, as [`MemoryChat::seed`] does. Returns its id.
    pub fn seed_reply(&self, thread: &ThreadKey, person: &str, text: &str) -> MessageId {
        self.seed(thread.conversation.as_str(), Some(&thread.root), person, text);
        MessageId::new(self.state().clock.to_string())
    }

    /// Somebody changes a message of theirs.
    pub fn edit(&self, id: &MessageId, text: &str) {
        let mut state = self.state();
        let Some((message, _)) = state.messages.iter_mut().find(|(message, _)| message.id == *id) else { return };
        (message.text, message.control_text) = (text.to_owned(), control_text(text));
        message.mentions_self = text.contains(NAME);
        let message = message.clone();
        state.tell_of(&message, EDIT, 0);
        drop(state);
        self.tell();
    }

    /// Somebody deletes a message of theirs. Of one with replies its place is left.
    pub fn delete(&self, id: &MessageId) {
        let mut state = self.state();
        let Some(place) = state.messages.iter().position(|(message, _)| message.id == *id) else { return };
        let has_replies = state.messages.iter().any(|(message, _)| message.thread_root.as_ref() == Some(id));
        let message = state.messages[place].0.clone();
        if has_replies {
            state.messages[place].0 = ChatMessage { author: Author::Unknown, ..message.clone().into_deleted() };
        } else {
            state.messages.remove(place);
        }
        state.tell_of(&message, DELETION, 0);
        drop(state);
        self.tell();
    }

    /// What the broker posted into a thread, in order.
    pub fn posts(&self, thread: &ThreadKey) -> Vec<String> {
        let state = self.state();
        let own =
            state.messages.iter().filter(|(message, _)| message.author == Author::Own && message.thread() == *thread);
        own.map(|(message, _)| message.text.clone()).collect()
    }

    /// The lines that were shown to one person alone.
    pub fn ephemerals(&self) -> Vec<(ThreadKey, PersonId, String)> {
        self.state().ephemerals.clone()
    }

    /// Waits until the broker has posted at least `count` messages into a thread, and gives them.
    ///
    /// # Errors
    ///
    /// What was posted when the time was over.
    pub async fn wait_for_posts(
        &self,
        thread: &ThreadKey,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<String>, Vec<String>> {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|_| self.posts(thread).len() >= count);
        let _ = tokio::time::timeout(limit, wait).await;
        let posts = self.posts(thread);
        if posts.len() >= count { Ok(posts) } else { Err(posts) }
    }
}

fn message(
    state: &mut State,
    conversation: ConversationKey,
    thread_root: Option<MessageId>,
    author: Author,
    text: &str,
) -> ChatMessage {
    state.clock += 1_000_000;
    let at = ChatTime::from_micros(state.clock);
    let kind = match conversation.conversation.as_str().starts_with('D') {
        true => ConversationKind::Direct,
        false => ConversationKind::Channel,
    };
    ChatMessage {
        conversation,
        conversation_kind: kind,
        id: MessageId::new(state.clock.to_string()),
        at,
        thread_root,
        author,
        text: text.to_owned(),
        mentions: Vec::new(),
        channels: Vec::new(),
        mentions_self: text.contains(NAME),
        control_text: control_text(text),
        files: Vec::new(),
        attached: Vec::new(),
        attachments_left_out: 0,
        edited: false,
        deleted: false,
        permalink: None,
        externally_shared: false,
    }
}
