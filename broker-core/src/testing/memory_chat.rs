//! A chat platform in memory.

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

    /// Somebody deletes a message of theirs.
    pub fn delete(&self, id: &MessageId) {
        let mut state = self.state();
        let Some(place) = state.messages.iter().position(|(message, _)| message.id == *id) else { return };
        let (message, _) = state.messages.remove(place);
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
        mentions_self: text.contains(NAME),
        control_text: control_text(text),
        files: Vec::new(),
        attached: Vec::new(),
        edited: false,
        permalink: None,
        externally_shared: false,
    }
}

#[async_trait]
impl ChatTransport for MemoryChat {
    fn capabilities(&self) -> ChatCapabilities {
        ChatCapabilities {
            read_back: true,
            read_back_after: Duration::from_secs(30),
            ephemeral: true,
            status: true,
            files: true,
            reactions: true,
            part_chars: PART_CHARS,
        }
    }

    fn parse(&self, raw: &RawEnvelope) -> Parsed {
        match serde_json::from_slice::<ChatMessage>(&raw.raw) {
            Ok(message) if message.author == Author::Own => Parsed::Ignored { reason: "own message" },
            Ok(message) if raw.kind == EDIT => Parsed::Edited(Box::new(message)),
            Ok(message) if raw.kind == DELETION => Parsed::Deleted(Box::new(message)),
            Ok(message) => Parsed::Message(Box::new(message)),
            Err(error) => Parsed::Unreadable { reason: error.to_string() },
        }
    }

    fn render(&self, text: &AgentText) -> Vec<PartBody> {
        let breaks = self.state().breaks_on.take_if(|breaks_on| text.markdown().contains(breaks_on.as_str()));
        assert!(breaks.is_none(), "as it was told to");
        let parts = crate::mrkdwn::render(text.markdown(), PART_CHARS, text.mentionable());
        parts.into_iter().map(|markup| PartBody::Text { markup }).collect()
    }

    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError> {
        self.health.send_modify(|health| health.socket = PartHealth::well());
        let mut changed = self.changed.subscribe();
        while !stop.is_cancelled() {
            changed.mark_unchanged();
            let next = self.state().undelivered.pop_front();
            if let Some(envelope) = next {
                if intake.accept(envelope.clone()).await.is_err() {
                    self.state().undelivered.push_front(envelope);
                    tokio::task::yield_now().await;
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => break,
                _ = changed.changed() => {}
            }
        }
        self.health.send_modify(|health| {
            health.gaps += 1;
            health.socket = PartHealth::ill("closed");
        });
        Ok(())
    }

    async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError> {
        let mut state = self.state();
        let faults = match op {
            ChatOp::Post { .. } | ChatOp::Ephemeral { .. } | ChatOp::Upload { .. } => &mut state.faults,
            ChatOp::Status { .. } | ChatOp::React { .. } => &mut state.status_faults,
        };
        let fault = faults.pop_front();
        if state.is_down && fault.is_none() {
            return Err(DeliverError::Unknown { reason: "http_503".to_owned() });
        }
        if let Some(Fault::Fail(error)) = fault {
            return Err(error);
        }
        let mut uploaded = None;
        let done = match op {
            ChatOp::Upload { file } => {
                state.uploads += 1;
                let id = format!("F{}", state.uploads);
                uploaded = Some(id.clone());
                let (name, size) = (Some(file.name.clone()), Some(file.bytes));
                state.uploaded.push(FileRef { id, name, size, ..FileRef::default() });
                None
            }
            ChatOp::Post { thread, body: PartBody::File { file } } => {
                let known = state.uploaded.iter().find(|known| Some(&known.id) == file.uploaded.as_ref()).cloned();
                let Some(known) = known else {
                    return Err(DeliverError::Refused { code: "file_not_found".to_owned() });
                };
                let root = Some(thread.root.clone());
                let mut message = message(&mut state, thread.conversation_key(), root, Author::Own, &file.comment);
                let (id, carried) = (message.id.clone(), OpKey::new(known.id.clone()));
                message.files.push(known);
                state.messages.push((message, Some(carried)));
                Some(id)
            }
            ChatOp::Post { thread, body: PartBody::Text { markup } } => {
                let root = Some(thread.root.clone());
                let message = message(&mut state, thread.conversation_key(), root, Author::Own, markup);
                let id = message.id.clone();
                state.messages.push((message, Some(key.clone())));
                Some(id)
            }
            ChatOp::Ephemeral { thread, person, text } => {
                state.ephemerals.push((thread.clone(), person.clone(), text.clone()));
                None
            }
            ChatOp::Status { thread, text } => {
                state.statuses.push((thread.clone(), text.clone()));
                None
            }
            ChatOp::React { thread, name, on } => {
                state.reactions.retain(|known| known != &(thread.clone(), name.clone()));
                if *on {
                    state.reactions.push((thread.clone(), name.clone()));
                }
                None
            }
        };
        drop(state);
        self.tell();
        match fault {
            Some(Fault::Panic) => panic!("as it was told to"),
            Some(_) => Err(DeliverError::Unknown { reason: "the answer was lost".to_owned() }),
            None => Ok(Receipt { message: done, file: uploaded }),
        }
    }

    async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError> {
        let state = self.state();
        if state.is_down {
            return Err(HistoryError::Unavailable { reason: "http_503".to_owned(), retry_after: None });
        }
        let found = state.messages.iter().filter(|(message, _)| message.thread() == *thread && message.at >= since);
        Ok(found
            .filter_map(|(message, key)| {
                let key = key.as_ref().filter(|key| keys.contains(key))?;
                Some(Found { key: key.clone(), message: message.id.clone() })
            })
            .collect())
    }

    async fn fetch(&self, file: &FileRef, most: u64, into: &mut FileSink) -> Result<Fetched, FetchError> {
        let shared = self.state().shared.iter().find(|shared| shared.shown.id == file.id).cloned();
        let shared = shared.ok_or(FetchError::Refused { reason: "there is no such file".to_owned() })?;
        if shared.bytes.len() as u64 > most {
            return Err(FetchError::Refused { reason: "it is too large".to_owned() });
        }
        let not_written = |error: std::io::Error| FetchError::Refused { reason: error.to_string() };
        into.write_all(&shared.bytes).await.map_err(not_written)?;
        into.flush().await.map_err(not_written)?;
        if shared.hangs {
            std::future::pending::<()>().await;
        }
        Ok(Fetched { bytes: shared.bytes.len() as u64, name: shared.name, media_type: shared.media_type })
    }

    async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
        let known = self.state().people.get(id).cloned();
        Ok(known.unwrap_or_else(|| Person {
            id: id.clone(),
            display_name: Some(id.as_str().to_lowercase()),
            real_name: None,
            username: None,
            email: None,
            team: Some(INSTALLATION.to_owned()),
            standing: Standing::Member,
        }))
    }

    async fn conversation_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        if self.state().keeps_names {
            std::future::pending::<()>().await;
        }
        Ok(Some(conversation.conversation.as_str().to_lowercase()))
    }

    fn health(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }
}

#[async_trait]
impl HistoryProvider for MemoryChat {
    async fn page(
        &self,
        thread: &ThreadKey,
        range: Range<ChatTime>,
        limit: usize,
        cursor: Option<Cursor>,
        urgency: Urgency,
    ) -> Result<Page, HistoryError> {
        let skip = cursor.and_then(|cursor| cursor.as_str().parse::<usize>().ok()).unwrap_or(0);
        let mut state = self.state();
        state.asked.push((thread.clone(), urgency));
        let all: Vec<&ChatMessage> = state
            .messages
            .iter()
            .map(|(message, _)| message)
            .filter(|message| message.thread() == *thread && range.contains(&message.at))
            .collect();
        let messages: Vec<ChatMessage> = all.iter().skip(skip).take(limit).map(|message| (*message).clone()).collect();
        let end = skip + messages.len();
        let next = (end < all.len()).then(|| Cursor::new(end.to_string()));
        Ok(Page { messages, next })
    }

    async fn heads(
        &self,
        conversation: &ConversationKey,
        since: ChatTime,
        _cursor: Option<Cursor>,
    ) -> Result<HeadsPage, HistoryError> {
        let state = self.state();
        let roots = state.messages.iter().map(|(message, _)| message);
        let roots = roots.filter(|message| {
            message.conversation == *conversation && message.thread_root.is_none() && message.at >= since
        });
        let mut heads: Vec<_> = roots
            .map(|root| {
                let replies =
                    state.messages.iter().filter(|(message, _)| message.thread_root.as_ref() == Some(&root.id));
                let latest_reply = replies.map(|(message, _)| message.at).max();
                crate::history::Head { root: root.clone(), latest_reply }
            })
            .collect();
        heads.reverse();
        Ok(HeadsPage { heads, next: None })
    }

    fn time_of(&self, message: &MessageId) -> Option<ChatTime> {
        message.as_str().parse().ok().map(ChatTime::from_micros)
    }

    async fn conversations(&self) -> Result<Vec<ConversationKey>, HistoryError> {
        let mut all: Vec<_> = self.state().messages.iter().map(|(message, _)| message.conversation.clone()).collect();
        all.sort();
        all.dedup();
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::testing::chat_suite::{self, ChatWorld};

    #[derive(Default)]
    struct World {
        chat: MemoryChat,
        conversations: AtomicUsize,
    }

    #[async_trait]
    impl ChatWorld for World {
        fn transport(&self) -> Arc<dyn ChatTransport> {
            Arc::new(self.chat.clone())
        }

        fn history(&self) -> Arc<dyn HistoryProvider> {
            Arc::new(self.chat.clone())
        }

        async fn conversation(&self) -> ConversationKey {
            MemoryChat::conversation(&format!("C{}", self.conversations.fetch_add(1, Ordering::Relaxed)))
        }

        async fn write(&self, conversation: &ConversationKey, root: Option<&MessageId>, text: &str) -> ThreadKey {
            self.chat.say(conversation.conversation.as_str(), root, "U1", text)
        }

        async fn garble(&self) {
            self.chat.deliver_raw("event:garbled", b"\xff{");
        }

        async fn lose_next_answer(&self) {
            self.chat.fail_next(Fault::LoseAnswer);
        }
    }

    #[tokio::test]
    async fn it_is_a_chat_platform() {
        chat_suite::all(&World::default()).await;
    }
}
