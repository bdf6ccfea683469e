//! [`Terminal`]: a chat platform whose one person types on this terminal.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::chat::{
    AgentText, Author, ChatCapabilities, ChatMessage, ChatOp, ChatTime, ChatTransport, ConversationId, ConversationKey,
    ConversationKind, DeliverError, FetchError, Fetched, FileRef, FileSink, Found, InstallationId, Intake, LinkError,
    LinkHealth, LookupError, MessageId, OpKey, Parsed, PartBody, Person, PersonId, RawEnvelope, Receipt, Standing,
    ThreadKey,
};
use broker_core::clock::{Clock, Timestamp};
use broker_core::health::PartHealth;
use broker_core::history::{Cursor, Head, HeadsPage, HistoryError, HistoryProvider, Page, Urgency};
use broker_core::store::{PostId, StateStore};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::log::{Entry, Log};
use super::plain::plain;
use super::screen::{Screen, Show};

/// The installation that everything belongs to.
pub(super) const INSTALLATION: &str = "local";
/// The conversation that people type in.
pub(super) const CONVERSATION: &str = "terminal";
/// The person who types.
const PERSON: &str = "you";
/// The longest part, in characters.
const PART_CHARS: usize = 16_000;
/// The pause after an envelope that could not be committed.
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    undelivered: VecDeque<RawEnvelope>,
    /// The thread that is looked at; absent while the next message begins one.
    current: Option<u64>,
    newest: u64,
}

/// See the module's documentation.
pub(super) struct Terminal {
    state: Mutex<State>,
    log: tokio::sync::Mutex<Log>,
    screen: Screen,
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    changed: watch::Sender<()>,
    health: watch::Sender<LinkHealth>,
}

impl Terminal {
    /// Opens the chat that is kept in a file, at the thread in which somebody wrote last.
    pub(super) async fn open(
        file: PathBuf,
        screen: Screen,
        store: Arc<dyn StateStore>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Arc<Self>> {
        let (log, entries) = Log::open(file).await?;
        let state = State {
            current: entries.last().map(Entry::thread),
            newest: entries.iter().map(|entry| entry.at).max().unwrap_or(0),
            entries,
            undelivered: VecDeque::new(),
        };
        let health = LinkHealth::new(PartHealth::ill("not connected"), PartHealth::well());
        Ok(Arc::new(Self {
            state: Mutex::new(state),
            log: tokio::sync::Mutex::new(log),
            screen,
            store,
            clock,
            changed: watch::Sender::new(()),
            health: watch::Sender::new(health),
        }))
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The threads, oldest first: the first message of each.
    pub(super) fn threads(&self) -> Vec<Entry> {
        self.state().entries.iter().filter(|entry| entry.root.is_none()).cloned().collect()
    }

    /// The messages of a thread, oldest first.
    pub(super) fn messages(&self, thread: u64) -> Vec<Entry> {
        self.state().entries.iter().filter(|entry| entry.thread() == thread).cloned().collect()
    }

    /// The thread that is looked at.
    pub(super) fn current(&self) -> Option<u64> {
        self.state().current
    }

    /// Looks at a thread, or at none: then the next message begins one.
    pub(super) fn look_at(&self, thread: Option<u64>) {
        self.state().current = thread;
    }

    /// The person types a message into the thread that is looked at.
    pub(super) async fn say(&self, text: &str) -> std::io::Result<()> {
        let root = self.current();
        let entry = self.write(CONVERSATION, root, None, text).await?;
        self.look_at(Some(entry.thread()));
        self.deliver(&entry);
        Ok(())
    }

    /// Returns when every message has been handed over.
    pub(super) async fn delivered(&self) {
        let mut changed = self.changed.subscribe();
        while !self.state().undelivered.is_empty() {
            let _ = changed.changed().await;
        }
    }

    /// Adds a message, on the disk first.
    async fn write(
        &self,
        conversation: &str,
        root: Option<u64>,
        own: Option<(String, Option<String>)>,
        text: &str,
    ) -> std::io::Result<Entry> {
        let mut log = self.log.lock().await;
        let now = u64::try_from(self.clock.now().as_millis()).unwrap_or(0).saturating_mul(1000);
        let at = now.max(self.state().newest + 1);
        let (key, kind) = own.unzip();
        let entry =
            Entry { at, conversation: conversation.to_owned(), root, key, kind: kind.flatten(), text: text.to_owned() };
        log.append(&entry).await?;
        let mut state = self.state();
        state.newest = at;
        state.entries.push(entry.clone());
        Ok(entry)
    }

    fn deliver(&self, entry: &Entry) {
        // An entry is made of text and numbers.
        let raw = serde_json::to_vec(entry).unwrap_or_default();
        let key = format!("{}:{}", entry.conversation, entry.at);
        let received_at = self.clock.now();
        let envelope = RawEnvelope { key, kind: "line".to_owned(), retry_attempt: 0, received_at, raw };
        self.state().undelivered.push_back(envelope);
        self.changed.send_replace(());
    }

    async fn post(&self, key: &OpKey, thread: &ThreadKey, text: &str) -> Result<MessageId, DeliverError> {
        let root = number(&thread.root).ok_or(DeliverError::Refused { code: "thread_not_found".to_owned() })?;
        let kind = self.kind(key).await;
        let written = self.write(thread.conversation.as_str(), Some(root), Some((key.to_string(), kind)), text).await;
        let entry = written.map_err(|error| DeliverError::Temporary {
            reason: format!("the chat's file cannot be written: {error}"),
            retry_after: None,
        })?;
        let threads = self.threads();
        self.screen.show(shown(&entry, self.current(), &threads)).await;
        Ok(MessageId::new(entry.at.to_string()))
    }

    /// What kind of post a part belongs to: a part's key is its post's with a number behind a dot.
    async fn kind(&self, key: &OpKey) -> Option<String> {
        let (post, _) = key.as_str().rsplit_once('.')?;
        let parts = self.store.post(&PostId::new(post)).await.ok()?;
        parts.first().map(|part| part.kind.as_str().to_owned())
    }
}

/// A message as it is shown, with the thread's number when it is not the one that is looked at.
pub(super) fn shown(entry: &Entry, current: Option<u64>, threads: &[Entry]) -> Show {
    let who = if entry.key.is_some() { "agent" } else { PERSON };
    let mut from = who.to_owned();
    if let Some(kind) = &entry.kind {
        from = format!("{from} · {kind}");
    }
    let number = threads.iter().position(|root| root.at == entry.thread()).map(|index| index + 1);
    if let (true, Some(number)) = (current != Some(entry.thread()), number) {
        from = format!("[thread {number}] {from}");
    }
    Show::Message { from, text: entry.text.clone() }
}

fn number(id: &MessageId) -> Option<u64> {
    id.as_str().parse().ok()
}

fn message(entry: &Entry) -> ChatMessage {
    let author = match entry.key {
        Some(_) => Author::Own,
        None => Author::Person { id: PersonId::new(PERSON), team: None },
    };
    ChatMessage {
        conversation: ConversationKey {
            installation: InstallationId::new(INSTALLATION),
            conversation: ConversationId::new(entry.conversation.as_str()),
        },
        conversation_kind: ConversationKind::Direct,
        id: MessageId::new(entry.at.to_string()),
        at: ChatTime::from_micros(entry.at),
        thread_root: entry.root.map(|root| MessageId::new(root.to_string())),
        author,
        text: entry.text.clone(),
        mentions: Vec::new(),
        channels: Vec::new(),
        mentions_self: false,
        control_text: entry.text.trim().to_owned(),
        files: Vec::new(),
        attached: Vec::new(),
        attachments_left_out: 0,
        edited: false,
        deleted: false,
        permalink: None,
        externally_shared: false,
    }
}

/// The text in pieces that are not too long, broken between lines where there is one.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches('\n');
    while rest.chars().nth(PART_CHARS).is_some() {
        let limit = rest.char_indices().nth(PART_CHARS).map_or(rest.len(), |(at, _)| at);
        let at = rest[..limit].rfind('\n').filter(|at| *at > 0).unwrap_or(limit);
        let (piece, tail) = rest.split_at(at);
        pieces.push(piece.to_owned());
        rest = tail.trim_start_matches('\n');
    }
    pieces.push(rest.to_owned());
    pieces.retain(|piece| !piece.trim().is_empty());
    pieces
}

#[async_trait]
impl ChatTransport for Terminal {
    fn capabilities(&self) -> ChatCapabilities {
        ChatCapabilities {
            read_back: true,
            // A post is in the file when its call has ended, or never will be.
            read_back_after: Duration::ZERO,
            ephemeral: false,
            status: true,
            files: false,
            reactions: false,
            part_chars: PART_CHARS,
        }
    }

    fn parse(&self, raw: &RawEnvelope) -> Parsed {
        match serde_json::from_slice::<Entry>(&raw.raw) {
            Ok(entry) if entry.key.is_some() => Parsed::Ignored { reason: "own message" },
            Ok(entry) => Parsed::Message(Box::new(message(&entry))),
            Err(error) => Parsed::Unreadable { reason: error.to_string() },
        }
    }

    /// Markdown is readable as it is.
    fn render(&self, text: &AgentText) -> Vec<PartBody> {
        pieces(&plain(text.markdown())).into_iter().map(|markup| PartBody::Text { markup }).collect()
    }

    async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError> {
        self.health.send_modify(|health| health.socket = PartHealth::well());
        let mut changed = self.changed.subscribe();
        while !stop.is_cancelled() {
            changed.mark_unchanged();
            let next = self.state().undelivered.front().cloned();
            match next {
                Some(envelope) => match intake.accept(envelope).await {
                    Ok(_) => {
                        self.state().undelivered.pop_front();
                        self.changed.send_replace(());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a message could not be committed; trying again");
                        tokio::time::sleep(AGAIN).await;
                    }
                },
                None => tokio::select! {
                    () = stop.cancelled() => break,
                    _ = changed.changed() => {}
                },
            }
        }
        self.health.send_modify(|health| {
            health.gaps += 1;
            health.socket = PartHealth::ill("closed");
        });
        Ok(())
    }

    async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError> {
        match op {
            ChatOp::Post { thread, body: PartBody::Text { markup } } => {
                self.post(key, thread, markup).await.map(|message| Receipt { message: Some(message), file: None })
            }
            ChatOp::Status { thread, text } => {
                if number(&thread.root) == self.current() {
                    self.screen.show(Show::Status(text.clone())).await;
                }
                Ok(Receipt::default())
            }
            other => Err(DeliverError::Refused { code: format!("{}_is_not_supported", other.name()) }),
        }
    }

    async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError> {
        let state = self.state();
        let here = state.entries.iter().filter(|entry| {
            entry.at >= since.as_micros()
                && entry.conversation == thread.conversation.as_str()
                && Some(entry.thread()) == number(&thread.root)
        });
        let found = here.filter_map(|entry| {
            let key = keys.iter().find(|key| Some(key.as_str()) == entry.key.as_deref())?;
            Some(Found { key: key.clone(), message: MessageId::new(entry.at.to_string()) })
        });
        Ok(found.collect())
    }

    async fn fetch(&self, _file: &FileRef, _most: u64, _into: &mut FileSink) -> Result<Fetched, FetchError> {
        Err(FetchError::Refused { reason: "there are no files in a terminal".to_owned() })
    }

    async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
        let name = std::env::var("USER").ok().filter(|name| !name.trim().is_empty());
        Ok(Person {
            id: id.clone(),
            display_name: name,
            real_name: None,
            username: None,
            email: None,
            team: None,
            standing: Standing::Member,
        })
    }

    async fn conversation_name(&self, _conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
        Ok(None)
    }

    fn health(&self) -> watch::Receiver<LinkHealth> {
        self.health.subscribe()
    }
}

#[async_trait]
impl HistoryProvider for Terminal {
    async fn page(
        &self,
        thread: &ThreadKey,
        range: Range<ChatTime>,
        limit: usize,
        cursor: Option<Cursor>,
        _urgency: Urgency,
    ) -> Result<Page, HistoryError> {
        let after = cursor.and_then(|cursor| cursor.as_str().parse().ok()).unwrap_or(0_u64);
        let messages = number(&thread.root).map(|root| self.messages(root)).unwrap_or_default();
        let here = |entry: &&Entry| {
            entry.conversation == thread.conversation.as_str()
                && entry.at > after
                && range.contains(&ChatTime::from_micros(entry.at))
        };
        let mut wanted: Vec<&Entry> = messages.iter().filter(here).collect();
        let more = wanted.len() > limit;
        wanted.truncate(limit);
        let next = wanted.last().filter(|_| more).map(|last| Cursor::new(last.at.to_string()));
        Ok(Page { messages: wanted.into_iter().map(message).collect(), next })
    }

    async fn heads(
        &self,
        conversation: &ConversationKey,
        since: ChatTime,
        _cursor: Option<Cursor>,
    ) -> Result<HeadsPage, HistoryError> {
        let state = self.state();
        let here = |entry: &&Entry| entry.conversation == conversation.conversation.as_str();
        let roots = state.entries.iter().filter(here).filter(|entry| entry.root.is_none());
        let mut heads: Vec<Head> = roots
            .filter(|root| root.at >= since.as_micros())
            .map(|root| {
                let replies = state.entries.iter().filter(here).filter(|entry| entry.root == Some(root.at));
                let latest_reply = replies.map(|entry| ChatTime::from_micros(entry.at)).max();
                Head { root: message(root), latest_reply }
            })
            .collect();
        heads.reverse();
        Ok(HeadsPage { heads, next: None })
    }

    fn time_of(&self, message: &MessageId) -> Option<ChatTime> {
        number(message).map(ChatTime::from_micros)
    }

    async fn conversations(&self) -> Result<Vec<ConversationKey>, HistoryError> {
        let mut names: Vec<String> = self.state().entries.iter().map(|entry| entry.conversation.clone()).collect();
        names.sort();
        names.dedup();
        let key = |name: String| ConversationKey {
            installation: InstallationId::new(INSTALLATION),
            conversation: ConversationId::new(name),
        };
        Ok(names.into_iter().map(key).collect())
    }
}

/// How long ago something was written, in words.
pub(super) fn ago(at: u64, now: Timestamp) -> String {
    let seconds = now.since(ChatTime::from_micros(at).timestamp()).as_secs();
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use broker_core::clock::SystemClock;
    use broker_core::testing::MemoryStore;
    use broker_core::testing::chat_suite::{self, ChatWorld};

    use super::*;

    /// The terminal as a platform, and a person at it.
    struct World {
        terminal: Arc<Terminal>,
        transport: Arc<Faulty>,
        conversations: AtomicUsize,
        _folder: tempfile::TempDir,
    }

    /// Loses an answer when it is told to: the terminal itself never does.
    struct Faulty {
        terminal: Arc<Terminal>,
        lose: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl ChatTransport for Faulty {
        fn capabilities(&self) -> ChatCapabilities {
            self.terminal.capabilities()
        }

        fn parse(&self, raw: &RawEnvelope) -> Parsed {
            self.terminal.parse(raw)
        }

        fn render(&self, text: &AgentText) -> Vec<PartBody> {
            self.terminal.render(text)
        }

        async fn run(&self, intake: Arc<dyn Intake>, stop: CancellationToken) -> Result<(), LinkError> {
            self.terminal.run(intake, stop).await
        }

        async fn perform(&self, key: &OpKey, op: &ChatOp) -> Result<Receipt, DeliverError> {
            let receipt = self.terminal.perform(key, op).await?;
            match self.lose.swap(false, Ordering::SeqCst) {
                true => Err(DeliverError::Unknown { reason: "the answer was lost".to_owned() }),
                false => Ok(receipt),
            }
        }

        async fn find(&self, thread: &ThreadKey, keys: &[OpKey], since: ChatTime) -> Result<Vec<Found>, HistoryError> {
            self.terminal.find(thread, keys, since).await
        }

        async fn fetch(&self, file: &FileRef, most: u64, into: &mut FileSink) -> Result<Fetched, FetchError> {
            self.terminal.fetch(file, most, into).await
        }

        async fn person(&self, id: &PersonId) -> Result<Person, LookupError> {
            self.terminal.person(id).await
        }

        async fn conversation_name(&self, conversation: &ConversationKey) -> Result<Option<String>, LookupError> {
            self.terminal.conversation_name(conversation).await
        }

        fn health(&self) -> watch::Receiver<LinkHealth> {
            ChatTransport::health(self.terminal.as_ref())
        }
    }

    #[async_trait]
    impl ChatWorld for World {
        fn transport(&self) -> Arc<dyn ChatTransport> {
            Arc::clone(&self.transport) as _
        }

        fn history(&self) -> Arc<dyn HistoryProvider> {
            Arc::clone(&self.terminal) as _
        }

        async fn conversation(&self) -> ConversationKey {
            let number = self.conversations.fetch_add(1, Ordering::SeqCst);
            ConversationKey {
                installation: InstallationId::new(INSTALLATION),
                conversation: ConversationId::new(format!("conversation-{number}")),
            }
        }

        async fn write(&self, conversation: &ConversationKey, root: Option<&MessageId>, text: &str) -> ThreadKey {
            let name = conversation.conversation.as_str();
            let entry = self.terminal.write(name, root.and_then(number), None, text).await.unwrap();
            self.terminal.deliver(&entry);
            message(&entry).thread()
        }

        async fn garble(&self) {
            let raw = b"\xff{".to_vec();
            let received_at = Timestamp::from_millis(0);
            let kind = "line".to_owned();
            let envelope = RawEnvelope { key: "garbled".to_owned(), kind, retry_attempt: 0, received_at, raw };
            self.terminal.state().undelivered.push_back(envelope);
            self.terminal.changed.send_replace(());
        }

        async fn lose_next_answer(&self) {
            self.transport.lose.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn the_terminal_passes_the_suite() {
        let folder = tempfile::tempdir().unwrap();
        let (screen, mut orders) = Screen::new(false);
        tokio::spawn(async move { while orders.recv().await.is_some() {} });
        let store = Arc::new(MemoryStore::new());
        let file = folder.path().join("chat.jsonl");
        let terminal = Terminal::open(file, screen, store, Arc::new(SystemClock::new())).await.unwrap();
        let transport = Arc::new(Faulty { terminal: Arc::clone(&terminal), lose: false.into() });
        chat_suite::all(&World { terminal, transport, conversations: AtomicUsize::new(0), _folder: folder }).await;
    }

    #[test]
    fn long_texts_break_between_lines_where_they_can() {
        assert_eq!(pieces("\n \n"), Vec::<String>::new());
        assert_eq!(pieces("a\n\nb\n"), ["a\n\nb"]);
        let lines = "x".repeat(9_000) + "\n" + &"y".repeat(9_000);
        assert_eq!(pieces(&lines), ["x".repeat(9_000), "y".repeat(9_000)]);
        let long: Vec<usize> = pieces(&"é".repeat(40_000)).iter().map(|piece| piece.chars().count()).collect();
        assert_eq!(long, [16_000, 16_000, 8_000]);
    }
}
