//! The messages that a platform already holds: the trait [`HistoryProvider`], and the window that finds the latest ones.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;

use crate::chat::{Author, ChatMessage, ChatTime, ConversationKey, MessageId, ThreadKey};
use crate::ids::string_id;

string_id! {
    /// Where a listing goes on; opaque.
    Cursor
}

/// A page of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Messages within the asked range, oldest first, the broker's own included.
    pub messages: Vec<ChatMessage>,
    /// Where the rest of the range goes on; absent when this was all.
    pub next: Option<Cursor>,
}

/// The root of a thread, as a conversation's listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The root message.
    pub root: ChatMessage,
    /// When its newest reply was written; absent when it has none.
    pub latest_reply: Option<ChatTime>,
}

/// A page of a conversation's top level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadsPage {
    /// Roots, newest first.
    pub heads: Vec<Head>,
    /// Where the listing goes on; absent when this was all.
    pub next: Option<Cursor>,
}

/// How soon the answer to a call is wanted. A platform that limits calls serves the urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// A person or an agent waits for it.
    Awaited,
    /// Nobody does: it is part of a search for what was missed, and goes when nothing else wants to.
    Background,
}

/// Why history could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The broker may not read it, or it does not exist.
    #[error("the history may not be read ({code})")]
    Refused {
        /// The platform's error code.
        code: String,
    },
    /// No answer for now.
    #[error("the history could not be read for now ({reason})")]
    Unavailable {
        /// A code or a short reason.
        reason: String,
        /// How long the platform asks to wait.
        retry_after: Option<Duration>,
    },
}

/// Reads what a platform already holds.
#[cfg_attr(feature = "testing", mockall::automock)]
#[async_trait]
pub trait HistoryProvider: Send + Sync {
    /// One page of a thread: messages at or after `range.start` and before `range.end`, oldest first, the root included
    /// when it lies in the range.
    async fn page(
        &self,
        thread: &ThreadKey,
        range: Range<ChatTime>,
        limit: usize,
        cursor: Option<Cursor>,
        urgency: Urgency,
    ) -> Result<Page, HistoryError>;

    /// The roots of a conversation that were written at or after `since`. In the background.
    async fn heads(
        &self,
        conversation: &ConversationKey,
        since: ChatTime,
        cursor: Option<Cursor>,
    ) -> Result<HeadsPage, HistoryError>;

    /// When the message with this id was written, where the id tells. Pure.
    fn time_of(&self, message: &MessageId) -> Option<ChatTime>;

    /// The conversations that the broker is a member of. In the background.
    async fn conversations(&self) -> Result<Vec<ConversationKey>, HistoryError>;
}

/// Messages asked for in one page.
const PAGE: usize = 200;
/// Pages read for one look at the latest messages.
const MAX_PAGES: usize = 10;
/// The first window before the bound.
const FIRST_WINDOW: Duration = Duration::from_secs(60 * 60);

/// The latest messages before a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latest {
    /// The messages, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Whether the thread holds older ones.
    pub has_more: bool,
}

/// Where a look at a thread ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Before this moment.
    Before(ChatTime),
    /// With the newest message there is, by the platform's clock and not by the broker's.
    Newest {
        /// About now: where the search begins.
        now: ChatTime,
    },
}

/// The latest `limit` messages of a thread up to `until`, the broker's `own` among them or not, from a thread of any length.
///
/// A platform's page begins at the *oldest* message of a range. So the newest of a long thread are closed in on from both
/// ends: from the bound by a window that widens until it holds enough and narrows while it holds more than a page, and from
/// below by the last message of each page that did not reach the bound. At most ten pages are read; where they do not
/// suffice, the newest that were seen are given.
///
/// # Errors
///
/// When a page could not be read.
pub async fn latest_before(
    provider: &dyn HistoryProvider,
    thread: &ThreadKey,
    until: Until,
    limit: usize,
    own: bool,
) -> Result<Latest, HistoryError> {
    if limit == 0 {
        return Ok(Latest { messages: Vec::new(), has_more: false });
    }
    let root = provider.time_of(&thread.root).unwrap_or(ChatTime::ZERO);
    let (end, near) = match until {
        Until::Before(end) => (end, end),
        Until::Newest { now } => (ChatTime::MAX, now),
    };
    let mut search = Search { root, low: root, below: Vec::new(), whole_below: true, end, above: Vec::new() };
    let mut window = FIRST_WINDOW;
    let mut from_below = false;
    for _ in 0..MAX_PAGES {
        let near = search.end.min(near);
        let start = if from_below { search.low } else { near.minus(window).max(search.low) };
        let span = Duration::from_micros(near.as_micros().saturating_sub(start.as_micros()));
        let mut page = provider.page(thread, start..search.end, PAGE, None, Urgency::Awaited).await?;
        let last = page.messages.last().map(|message| message.at);
        page.messages.retain(|message| own || message.author != Author::Own);
        if page.next.is_some() {
            search.reached(start, last, page.messages);
            from_below = !from_below;
            window = span / 8;
        } else {
            search.complete(start, page.messages);
            // One more than is wanted says that there are older ones.
            if search.above.len() > limit || start == search.low {
                break;
            }
            from_below = !search.below.is_empty();
            window = window.saturating_mul(24);
        }
    }
    Ok(search.latest(limit))
}

/// What is known of a thread while its newest messages are looked for.
struct Search {
    /// When the thread begins.
    root: ChatTime,
    /// `below` holds the messages that end just before this moment.
    low: ChatTime,
    below: Vec<ChatMessage>,
    /// Whether `below` holds all messages from the root on.
    whole_below: bool,
    /// `above` holds all messages from this moment on.
    end: ChatTime,
    above: Vec<ChatMessage>,
}

impl Search {
    /// A page that did not reach `end`, and when the last of all its messages was written.
    fn reached(&mut self, start: ChatTime, last: Option<ChatTime>, messages: Vec<ChatMessage>) {
        if let Some(last) = last {
            self.whole_below = start <= self.root;
            self.low = last.plus_one();
            self.below = messages;
        }
    }

    /// A page that holds everything from `start` to `end`.
    fn complete(&mut self, start: ChatTime, messages: Vec<ChatMessage>) {
        self.above.splice(0..0, messages);
        self.end = start;
    }

    fn latest(self, limit: usize) -> Latest {
        // The two meet, or the pages were used up and what is nearest to the bound has to do.
        let mut messages = if self.end == self.low || self.above.is_empty() { self.below } else { Vec::new() };
        messages.extend(self.above);
        let older = messages.len().saturating_sub(limit);
        messages.drain(..older);
        // Where the two met, what is below reaches down to the root if it began there.
        let is_all = self.end <= self.root || (self.end == self.low && self.whole_below);
        let has_more = older > 0 || !is_all;
        Latest { messages, has_more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryChat;

    /// A thread with these pauses in seconds before each reply.
    async fn latest(pauses: impl Iterator<Item = u64>, limit: usize) -> Latest {
        let chat = MemoryChat::new();
        let thread = chat.seed("C1", None, "U1", "root");
        for (n, pause) in pauses.enumerate() {
            chat.pass(Duration::from_secs(pause));
            chat.seed("C1", Some(&thread.root), "U2", &format!("reply {}", n + 1));
        }
        let mention = chat.seed("C1", None, "U1", "@broker");
        let before = chat.time_of(&mention.root).unwrap();
        latest_before(&chat, &thread, Until::Before(before), limit, false).await.unwrap()
    }

    #[tokio::test]
    async fn the_newest_messages_of_a_thread_of_any_length_are_found() {
        let even = |n: usize| Box::new(std::iter::repeat_n(1_u64, n)) as Box<dyn Iterator<Item = u64>>;
        let month = 30 * 24 * 60 * 60;
        // Three hundred in an hour, a month of silence, then the mention; and the same with a word in between.
        let silence = Box::new(std::iter::repeat_n(1_u64, 300).chain([month]));
        let scattered = Box::new((0..500).map(|n| n * n * 60));
        for (name, pauses, replies, limit) in [
            ("the root alone", even(0), 0_usize, 8),
            ("exactly enough", even(7), 7, 8),
            ("one more", even(8), 8, 8),
            ("three pages", even(450), 450, 8),
            ("a very long one", even(5000), 5000, 50),
            ("a burst and silence", silence, 301, 8),
            ("ever slower", scattered, 500, 8),
        ] {
            let found = latest(pauses, limit).await;
            let texts: Vec<_> = found.messages.iter().map(|message| message.text.clone()).collect();
            let first = (replies + 1).saturating_sub(limit);
            let wanted: Vec<_> =
                (first..=replies).map(|n| if n == 0 { "root".to_owned() } else { format!("reply {n}") }).collect();
            assert_eq!(texts, wanted, "{name}");
            assert_eq!(found.has_more, first > 0, "{name}");
        }
    }

    #[tokio::test]
    async fn the_brokers_own_root_is_not_more() {
        let chat = MemoryChat::new();
        let thread = chat.seed_own("C1");
        for n in 0..8 {
            chat.pass(Duration::from_secs(600));
            chat.seed("C1", Some(&thread.root), "U2", &format!("reply {n}"));
        }
        let now = chat.time_of(&thread.root).unwrap();
        for (limit, own, has_more) in [(8, false, false), (7, false, true), (8, true, true), (9, true, false)] {
            // The broker's clock is hours behind the platform's.
            let found = latest_before(&chat, &thread, Until::Newest { now }, limit, own).await.unwrap();
            assert_eq!((found.messages.len(), found.has_more), (limit, has_more), "{limit} {own}");
            assert_eq!(found.messages.last().unwrap().text, "reply 7");
        }
    }

    #[tokio::test]
    async fn pages_of_the_brokers_own_are_not_more() {
        let chat = MemoryChat::new();
        let thread = chat.seed("C1", None, "U1", "root");
        for n in 0..256 {
            chat.pass(Duration::from_secs(1));
            let id = chat.seed_reply(&thread, "U2", &format!("reply {n}"));
            if n < 250 {
                chat.change(&id, |message| ChatMessage { author: Author::Own, ..message });
            }
        }
        let now = chat.time_of(&thread.root).unwrap();
        let found = latest_before(&chat, &thread, Until::Newest { now }, 50, false).await.unwrap();
        assert_eq!((found.messages.len(), found.has_more), (7, false));
    }

    #[tokio::test]
    async fn nothing_is_asked_for_no_messages() {
        let found = latest(std::iter::repeat_n(1, 3), 0).await;
        assert_eq!(found.messages, []);
    }
}
