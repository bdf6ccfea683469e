//! What every [`ChatTransport`] with its [`HistoryProvider`] has to do: a conformance suite.
//!
//! An implementation gives a [`ChatWorld`], the platform behind it with people in it, and calls [`all`], or the single
//! checks where it wants a test for each. Every check uses a conversation of its own, so that one world does for all.
//! A check panics where the implementation is wrong.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::chat::{
    AgentText, Author, ChatMessage, ChatOp, ChatTime, ChatTransport, ConversationKey, DeliverError, Intake, MessageId,
    OpKey, Parsed, PartBody, PersonId, RawEnvelope, Receipt, ThreadKey,
};
use crate::history::{Cursor, HistoryProvider, Urgency};
use crate::store::{Accepted, JournalId, StoreError};

/// How long anything may take that has to come about by itself.
const LIMIT: Duration = Duration::from_secs(20);

/// A platform with people in it, behind the implementation that is checked.
#[async_trait]
pub trait ChatWorld: Send + Sync {
    /// The transport that is checked.
    fn transport(&self) -> Arc<dyn ChatTransport>;

    /// The history that is checked: of the same platform.
    fn history(&self) -> Arc<dyn HistoryProvider>;

    /// A conversation that nobody has used yet, in which the broker is a member.
    async fn conversation(&self) -> ConversationKey;

    /// Somebody, always the same full member, writes a message: at the top level, or in the thread of `root`. Its event
    /// goes to the link, now or when there is one. Gives the thread that the message belongs to.
    async fn write(&self, conversation: &ConversationKey, root: Option<&MessageId>, text: &str) -> ThreadKey;

    /// A frame goes to the link that nobody can read.
    async fn garble(&self);

    /// The next post appears, but the answer that says so does not arrive.
    async fn lose_next_answer(&self);
}

/// Runs every check.
pub async fn all(world: &dyn ChatWorld) {
    rendering_is_repeatable_and_bounded(world).await;
    posts_stand_in_the_thread_in_order(world).await;
    posts_are_found_by_their_keys(world).await;
    a_post_whose_answer_was_lost_is_found(world).await;
    what_one_person_is_shown_leaves_no_trace(world).await;
    a_status_and_a_reaction_may_be_repeated(world).await;
    pages_hold_half_open_ranges(world).await;
    pages_follow_each_other(world).await;
    heads_are_roots_newest_first(world).await;
    own_conversations_are_listed(world).await;
    authors_can_be_looked_up(world).await;
    the_link_delivers_messages(world).await;
    what_was_not_accepted_comes_again(world).await;
    what_cannot_be_read_is_still_accepted(world).await;
}

/// The same text gives the same parts, none longer than the platform's limit, and no text gives none.
pub async fn rendering_is_repeatable_and_bounded(world: &dyn ChatWorld) {
    let chat = world.transport();
    let limit = chat.capabilities().part_chars;
    let long = "A sentence of some words, *emphasis* and `code`.\n\n".repeat(limit / 20);
    for text in ["", " \n ", "short", long.as_str()] {
        let parts = chat.render(&AgentText::new(text));
        assert_eq!(parts, chat.render(&AgentText::new(text)), "rendering is not repeatable");
        assert_eq!(parts.is_empty(), text.trim().is_empty(), "no text, no part, and the other way round");
        for part in &parts {
            let PartBody::Text { markup } = part else { panic!("a text is rendered as text") };
            let chars = markup.chars().count();
            assert!((1..=limit).contains(&chars), "a part of {chars} characters");
        }
    }
}

/// Posts stand in the thread, as the broker's own, in the order in which they were made.
pub async fn posts_stand_in_the_thread_in_order(world: &dyn ChatWorld) {
    let thread = new_thread(world).await;
    let mut made = Vec::new();
    for (key, text) in [("order-1", "the first"), ("order-2", "the second"), ("order-3", "the third")] {
        made.push(posted(post(world, &thread, key, text).await));
    }
    let messages = whole(world, &thread).await;
    let own: Vec<&ChatMessage> = messages.iter().filter(|message| message.author == Author::Own).collect();
    assert_eq!(own.iter().map(|message| message.id.clone()).collect::<Vec<_>>(), made, "own posts, in order");
    assert!(own.iter().all(|message| message.thread() == thread), "own posts stand in their thread");
    assert_eq!(own[0].text, "the first", "what was posted is what stands there");
    assert!(messages.is_sorted_by_key(|message| message.at), "a thread is listed oldest first");
}

/// Read-back finds the keys that are asked for, in their thread, from the given moment on, and nothing else.
pub async fn posts_are_found_by_their_keys(world: &dyn ChatWorld) {
    let chat = world.transport();
    let (thread, other) = (new_thread(world).await, new_thread(world).await);
    let first = posted(post(world, &thread, "find-1", "one").await);
    let second = posted(post(world, &thread, "find-2", "two").await);
    posted(post(world, &other, "find-3", "three").await);
    let keys = ["find-1", "find-2", "find-3", "find-4"].map(OpKey::new);

    let found = must(chat.find(&thread, &keys, ChatTime::ZERO).await, "find");
    let pairs: HashSet<_> = found.into_iter().map(|found| (found.key, found.message)).collect();
    assert_eq!(pairs, HashSet::from([(keys[0].clone(), first.clone()), (keys[1].clone(), second.clone())]));

    let only = must(chat.find(&thread, &keys[..1], ChatTime::ZERO).await, "find");
    assert_eq!(only.into_iter().map(|found| found.message).collect::<Vec<_>>(), [first], "only what is asked for");

    let since = time_of(world, &second);
    let later = must(chat.find(&thread, &keys, since).await, "find");
    assert_eq!(later.into_iter().map(|found| found.message).collect::<Vec<_>>(), [second], "from the moment on");
    let after = ChatTime::from_micros(since.as_micros() + 1);
    assert_eq!(must(chat.find(&thread, &keys, after).await, "find"), [], "and nothing before it");
}

/// A post whose answer was lost is in doubt, and read-back settles it.
pub async fn a_post_whose_answer_was_lost_is_found(world: &dyn ChatWorld) {
    let thread = new_thread(world).await;
    world.lose_next_answer().await;
    let outcome = post(world, &thread, "lost-1", "in doubt").await;
    assert!(matches!(outcome, Err(DeliverError::Unknown { .. })), "in doubt, but it says {outcome:?}");
    let found = world.transport().find(&thread, &[OpKey::new("lost-1")], ChatTime::ZERO).await;
    assert_eq!(must(found, "find").len(), 1, "it is there, once");
}

/// What stands beside a thread is no message, and may be set and taken away as often as one likes.
pub async fn a_status_and_a_reaction_may_be_repeated(world: &dyn ChatWorld) {
    let chat = world.transport();
    let thread = new_thread(world).await;
    let before = whole(world, &thread).await;
    let status = |text: Option<&str>| ChatOp::Status { thread: thread.clone(), text: text.map(str::to_owned) };
    let react = |on| ChatOp::React { thread: thread.clone(), name: "eyes".to_owned(), on };
    let mut ops = Vec::new();
    if chat.capabilities().status {
        ops.extend([status(None), status(Some("is <thinking> & more…")), status(Some("is done")), status(None)]);
    }
    if chat.capabilities().reactions {
        ops.extend([react(false), react(true), react(true), react(false), react(false)]);
    }
    for (number, op) in ops.iter().enumerate() {
        let receipt = must(chat.perform(&OpKey::new(format!("beside-{number}")), op).await, "what stands beside");
        assert_eq!(receipt.message, None, "{op:?} is no message");
    }
    assert_eq!(whole(world, &thread).await.len(), before.len(), "nothing was added to the thread");
}

/// A line that one person is shown is no message.
pub async fn what_one_person_is_shown_leaves_no_trace(world: &dyn ChatWorld) {
    if !world.transport().capabilities().ephemeral {
        return;
    }
    let thread = new_thread(world).await;
    let before = whole(world, &thread).await;
    let person = PersonId::new(before[0].author.id());
    let op = ChatOp::Ephemeral { thread: thread.clone(), person, text: "only <you> & me".to_owned() };
    let receipt = must(world.transport().perform(&OpKey::new("whisper-1"), &op).await, "perform");
    assert_eq!(receipt, Receipt::default());
    assert_eq!(whole(world, &thread).await, before, "the thread is as it was");
}

/// A page holds the messages from its start on and before its end.
pub async fn pages_hold_half_open_ranges(world: &dyn ChatWorld) {
    let thread = new_thread(world).await;
    for text in ["1", "2", "3", "4"] {
        world.write(&thread.conversation_key(), Some(&thread.root), text).await;
    }
    let all = whole(world, &thread).await;
    assert_eq!(all.len(), 5, "the root and four replies");
    for (from, to) in [(0, 2), (1, 3), (2, 5), (3, 3)] {
        let end = all.get(to).map_or(ChatTime::MAX, |message| message.at);
        let page = world.history().page(&thread, all[from].at..end, 100, None, Urgency::Awaited).await;
        assert_eq!(must(page, "page").messages, all[from..to], "from {from} to before {to}");
    }
    for message in &all {
        assert_eq!(world.history().time_of(&message.id), Some(message.at), "the id tells the time");
    }
}

/// Pages that follow each other hold every message once.
pub async fn pages_follow_each_other(world: &dyn ChatWorld) {
    let thread = new_thread(world).await;
    for text in ["1", "2", "3", "4", "5"] {
        world.write(&thread.conversation_key(), Some(&thread.root), text).await;
    }
    let all = whole(world, &thread).await;
    let (mut collected, mut cursor): (Vec<ChatMessage>, Option<Cursor>) = (Vec::new(), None);
    for _ in 0..all.len() + 1 {
        let page = world.history().page(&thread, ChatTime::ZERO..ChatTime::MAX, 2, cursor, Urgency::Background).await;
        let page = must(page, "page");
        collected.extend(page.messages);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(cursor, None, "a listing ends");
    assert_eq!(collected, all, "each message once, in order");
}

/// Heads are the roots of a conversation, newest first, with the time of their latest reply; replies are none.
pub async fn heads_are_roots_newest_first(world: &dyn ChatWorld) {
    let older = new_thread(world).await;
    let conversation = older.conversation_key();
    let newer = world.write(&conversation, None, "another root").await;
    world.write(&conversation, Some(&older.root), "a reply").await;
    let last = whole(world, &older).await.pop().map(|message| message.at);

    let page = must(world.history().heads(&conversation, ChatTime::ZERO, None).await, "heads");
    let heads: Vec<_> = page.heads.iter().map(|head| (head.root.id.clone(), head.latest_reply)).collect();
    assert_eq!(heads, [(newer.root.clone(), None), (older.root.clone(), last)]);

    let page = must(world.history().heads(&conversation, time_of(world, &newer.root), None).await, "heads");
    assert_eq!(page.heads.len(), 1, "only roots from the moment on");
}

/// A conversation that the broker is a member of is listed.
pub async fn own_conversations_are_listed(world: &dyn ChatWorld) {
    let conversation = new_thread(world).await.conversation_key();
    let listed = must(world.history().conversations().await, "conversations");
    assert!(listed.contains(&conversation), "{conversation:?} is missing");
}

/// Whoever writes can be looked up.
pub async fn authors_can_be_looked_up(world: &dyn ChatWorld) {
    let thread = new_thread(world).await;
    let author = PersonId::new(whole(world, &thread).await[0].author.id());
    let person = must(world.transport().person(&author).await, "person");
    assert_eq!(person.id, author);
}

/// The link delivers messages, which are the same in the history; own posts come back as nothing new. Stopped, it ends.
pub async fn the_link_delivers_messages(world: &dyn ChatWorld) {
    let link = LinkUnderTest::start(world);
    let thread = new_thread(world).await;
    posted(post(world, &thread, "link-1", "an own post").await);
    world.write(&thread.conversation_key(), Some(&thread.root), "a reply").await;
    let delivered = link.wait_for(&thread, 2).await;
    let history: Vec<_> = whole(world, &thread).await.into_iter().map(|message| (message.id, message.text)).collect();
    let delivered: Vec<_> = delivered.into_iter().map(|message| (message.id, message.text)).collect();
    assert!(delivered.iter().all(|message| history.contains(message)), "{delivered:?} is not in {history:?}");
    assert!(delivered.iter().all(|(_, text)| text != "an own post"), "own posts are nothing new");
    link.stop().await;
}

/// An envelope that could not be committed comes again.
pub async fn what_was_not_accepted_comes_again(world: &dyn ChatWorld) {
    let link = LinkUnderTest::start(world);
    link.intake.refuse(1);
    let thread = new_thread(world).await;
    assert_eq!(link.wait_for(&thread, 1).await.len(), 1);
    link.stop().await;
}

/// A frame that nobody can read is committed like any other, and the next message arrives.
pub async fn what_cannot_be_read_is_still_accepted(world: &dyn ChatWorld) {
    let link = LinkUnderTest::start(world);
    world.garble().await;
    let thread = new_thread(world).await;
    link.wait_for(&thread, 1).await;
    let unreadable = |envelope: &RawEnvelope| matches!(link.chat.parse(envelope), Parsed::Unreadable { .. });
    link.intake.wait(|accepted| accepted.iter().any(unreadable)).await;
    link.stop().await;
}

fn must<T, E: fmt::Display>(outcome: Result<T, E>, what: &str) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {error}"),
    }
}

async fn new_thread(world: &dyn ChatWorld) -> ThreadKey {
    let conversation = world.conversation().await;
    world.write(&conversation, None, "a root").await
}

async fn post(world: &dyn ChatWorld, thread: &ThreadKey, key: &str, text: &str) -> Result<Receipt, DeliverError> {
    let body = PartBody::Text { markup: text.to_owned() };
    let op = ChatOp::Post { thread: thread.clone(), body };
    world.transport().perform(&OpKey::new(key), &op).await
}

fn posted(outcome: Result<Receipt, DeliverError>) -> MessageId {
    match must(outcome, "a post").message {
        Some(message) => message,
        None => panic!("a post that made no message"),
    }
}

fn time_of(world: &dyn ChatWorld, message: &MessageId) -> ChatTime {
    match world.history().time_of(message) {
        Some(at) => at,
        None => panic!("{message} tells no time"),
    }
}

/// All messages of a short thread.
async fn whole(world: &dyn ChatWorld, thread: &ThreadKey) -> Vec<ChatMessage> {
    let page =
        must(world.history().page(thread, ChatTime::ZERO..ChatTime::MAX, 100, None, Urgency::Awaited).await, "page");
    assert_eq!(page.next, None, "a short thread is one page");
    assert!(!page.messages.is_empty(), "a thread has a root");
    page.messages
}

/// A running link, and what it delivered.
struct LinkUnderTest {
    chat: Arc<dyn ChatTransport>,
    intake: Arc<Recorder>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl LinkUnderTest {
    fn start(world: &dyn ChatWorld) -> Self {
        let (chat, intake, stop) = (world.transport(), Arc::new(Recorder::default()), CancellationToken::new());
        let run = {
            let (chat, intake, stop) = (Arc::clone(&chat), Arc::clone(&intake), stop.clone());
            async move { must(chat.run(intake, stop).await, "the link") }
        };
        Self { chat, intake, stop, running: tokio::spawn(run) }
    }

    /// Waits for `count` different messages of a thread.
    async fn wait_for(&self, thread: &ThreadKey, count: usize) -> Vec<ChatMessage> {
        let messages = |accepted: &[RawEnvelope]| {
            let mut seen = HashSet::new();
            let parsed = accepted.iter().map(|envelope| self.chat.parse(envelope));
            let messages = parsed.filter_map(|parsed| match parsed {
                Parsed::Message(message) if message.thread() == *thread => Some(*message),
                _ => None,
            });
            messages.filter(|message| seen.insert(message.id.clone())).collect::<Vec<_>>()
        };
        self.intake.wait(|accepted| messages(accepted).len() >= count).await;
        let accepted = self.intake.accepted();
        for envelope in &accepted {
            assert_eq!(self.chat.parse(envelope), self.chat.parse(envelope), "parsing is pure");
        }
        messages(&accepted)
    }

    async fn stop(self) {
        self.stop.cancel();
        let Ok(Ok(())) = timeout(LIMIT, self.running).await else { panic!("the link did not end well") };
    }
}

/// An intake that remembers, and refuses when it is told to.
#[derive(Default)]
struct Recorder {
    state: Mutex<Recorded>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct Recorded {
    accepted: Vec<RawEnvelope>,
    to_refuse: usize,
}

impl Recorder {
    fn refuse(&self, count: usize) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).to_refuse = count;
    }

    fn accepted(&self) -> Vec<RawEnvelope> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).accepted.clone()
    }

    async fn wait(&self, mut enough: impl FnMut(&[RawEnvelope]) -> bool) {
        let mut changed = self.changed.subscribe();
        let waiting = async { while !enough(&self.accepted()) && changed.changed().await.is_ok() {} };
        if timeout(LIMIT, waiting).await.is_err() {
            panic!("the link delivered only {:?}", self.accepted());
        }
    }
}

#[async_trait]
impl Intake for Recorder {
    async fn accept(&self, envelope: RawEnvelope) -> Result<Accepted, StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.to_refuse > 0 {
            state.to_refuse -= 1;
            return Err(StoreError::new("refused by the check"));
        }
        let fresh = state.accepted.iter().all(|known| known.key != envelope.key);
        state.accepted.push(envelope);
        let id = JournalId(u64::try_from(state.accepted.len()).unwrap_or(u64::MAX));
        drop(state);
        self.changed.send_replace(());
        Ok(Accepted { id, fresh })
    }
}
