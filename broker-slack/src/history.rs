//! What Slack already holds: history pages, and the read-back of our own posts.

use std::ops::Range;

use async_trait::async_trait;
use broker_core::chat::{
    Author, ChatMessage, ChatTime, ConversationId, ConversationKey, Found, MessageId, OpKey, ThreadKey,
};
use broker_core::history::{Cursor, Head, HeadsPage, HistoryError, HistoryProvider, Page, Urgency};
use serde_json::Value;

use crate::api::{HISTORY, MY_CONVERSATIONS, Params, REPLIES};
use crate::limiter::Priority;
use crate::message::{self, Frame};
use crate::slack::{METADATA_TYPE, Slack, time_of};
use crate::{lenient, ts};

/// The most messages that are asked for in one page.
const PAGE: usize = 200;
/// Pages of one read-back, and so 2,000 messages after an attempt.
const MAX_FIND_PAGES: usize = 10;
/// Pages of conversations, and so 10,000 of them.
const MAX_CONVERSATION_PAGES: usize = 50;

impl Slack {
    fn frame<'a>(&'a self, conversation: &'a ConversationId) -> Frame<'a> {
        Frame {
            identity: &self.identity,
            conversation: Some(conversation.as_str()),
            channel_type: self.names.kind(conversation.as_str()),
            app: None,
            shared: None,
            mentioned: false,
        }
    }

    /// The messages of an answer, without notices; of one that was deleted and has replies its place is left. One that cannot be read is left out and logged.
    fn messages<'a>(&self, answer: &'a Value, conversation: &ConversationId) -> Vec<(&'a Value, ChatMessage)> {
        let messages = lenient::list(answer, "messages").iter();
        let messages = messages.filter(|raw| message::notice(raw).is_none() || message::is_tombstone(raw));
        messages
            .filter_map(|raw| match message::read(raw, self.frame(conversation)) {
                Ok(message) => Some((raw, message)),
                Err(reason) => {
                    tracing::warn!(%conversation, reason, "a message of the history cannot be read");
                    None
                }
            })
            .collect()
    }

    /// See [`broker_core::chat::ChatTransport::find`]. Only messages of our own count: anybody may write metadata.
    pub(crate) async fn find_keys(
        &self,
        thread: &ThreadKey,
        keys: &[OpKey],
        since: ChatTime,
    ) -> Result<Vec<Found>, HistoryError> {
        let mut found = Vec::new();
        let mut cursor = None;
        for _ in 0..MAX_FIND_PAGES {
            let mut params = replies(thread, &(since..ChatTime::MAX), PAGE, cursor);
            params.push(("include_all_metadata", Some("true".to_owned())));
            let answer = self.api.get(REPLIES, Priority::ReadBack, &params).await?;
            for (raw, message) in self.messages(&answer, &thread.conversation) {
                if message.author != Author::Own || message.at < since {
                    continue;
                }
                let files = message.files.iter().map(|file| file.id.as_str());
                let carried: Vec<_> = key_of(raw).into_iter().chain(files).collect();
                let sought = keys.iter().filter(|key| carried.contains(&key.as_str()));
                found.extend(sought.map(|key| Found { key: key.clone(), message: message.id.clone() }));
            }
            // An answer that cannot be read to its end will not decide anything the next time either.
            cursor = next(&answer).map_err(|_| undecidable("a_page_without_a_cursor"))?;
            if cursor.is_none() {
                return Ok(found);
            }
        }
        Err(undecidable("too_many_messages"))
    }
}

/// The key that a message of ours carries.
fn key_of(message: &Value) -> Option<&str> {
    let metadata = message.get("metadata")?;
    let ours = lenient::text(metadata, "event_type") == Some(METADATA_TYPE);
    lenient::text(metadata.get("event_payload")?, "key").filter(|_| ours)
}

/// The parameters of `conversations.replies` for a range.
///
/// Slack's `oldest` and `latest` are both exclusive, so a range that includes its start begins a microsecond earlier.
fn replies(thread: &ThreadKey, range: &Range<ChatTime>, limit: usize, cursor: Option<Cursor>) -> Params<'static> {
    vec![
        ("channel", Some(thread.conversation.as_str().to_owned())),
        ("ts", Some(thread.root.as_str().to_owned())),
        ("oldest", oldest(range.start)),
        ("latest", (range.end != ChatTime::MAX).then(|| ts::text(range.end))),
        ("limit", Some(limit.clamp(1, PAGE).to_string())),
        ("cursor", cursor.map(|cursor| cursor.as_str().to_owned())),
    ]
}

fn oldest(start: ChatTime) -> Option<String> {
    let before = start.as_micros().checked_sub(1)?;
    Some(ts::text(ChatTime::from_micros(before)))
}

/// Where a listing goes on. A page that has more and no cursor would end a listing that is not complete.
fn next(answer: &Value) -> Result<Option<Cursor>, HistoryError> {
    let cursor = answer.get("response_metadata").and_then(|metadata| lenient::text(metadata, "next_cursor"));
    match cursor {
        Some(cursor) => Ok(Some(Cursor::new(cursor))),
        None if lenient::flag(answer, "has_more") => Err(unavailable("a page without a cursor")),
        None => Ok(None),
    }
}

fn undecidable(code: &str) -> HistoryError {
    HistoryError::Refused { code: code.to_owned() }
}

fn unavailable(reason: &str) -> HistoryError {
    HistoryError::Unavailable { reason: reason.to_owned(), retry_after: None }
}

#[async_trait]
impl HistoryProvider for Slack {
    async fn page(
        &self,
        thread: &ThreadKey,
        range: Range<ChatTime>,
        limit: usize,
        cursor: Option<Cursor>,
        urgency: Urgency,
    ) -> Result<Page, HistoryError> {
        let goes_on = cursor.is_some();
        let params = replies(thread, &range, limit, cursor);
        let priority = match urgency {
            Urgency::Awaited => Priority::Backfill,
            Urgency::Background => Priority::GapFiller,
        };
        let answer = self.api.get(REPLIES, priority, &params).await?;
        let messages = self.messages(&answer, &thread.conversation).into_iter().map(|(_, message)| message);
        // Slack gives the root with every page, whatever the range; it belongs to the first.
        let belongs = |message: &ChatMessage| range.contains(&message.at) && !(goes_on && message.id == thread.root);
        let mut messages: Vec<_> = messages.filter(belongs).collect();
        messages.sort_by_key(|message| message.at);
        Ok(Page { messages, next: next(&answer)? })
    }

    async fn heads(
        &self,
        conversation: &ConversationKey,
        since: ChatTime,
        cursor: Option<Cursor>,
    ) -> Result<HeadsPage, HistoryError> {
        let params = vec![
            ("channel", Some(conversation.conversation.as_str().to_owned())),
            ("oldest", oldest(since)),
            ("limit", Some(PAGE.to_string())),
            ("cursor", cursor.map(|cursor| cursor.as_str().to_owned())),
        ];
        let answer = self.api.get(HISTORY, Priority::GapFiller, &params).await?;
        let mut heads: Vec<Head> = Vec::new();
        for (raw, root) in self.messages(&answer, &conversation.conversation) {
            // A reply that was also sent to the channel stands in its listing, and is no root.
            if root.thread_root.is_none() && root.at >= since {
                let latest_reply = lenient::ts(raw, "latest_reply").and_then(|latest| ts::time(&latest));
                heads.push(Head { root, latest_reply });
            }
        }
        heads.sort_by_key(|head| std::cmp::Reverse(head.root.at));
        Ok(HeadsPage { heads, next: next(&answer)? })
    }

    fn time_of(&self, message: &MessageId) -> Option<ChatTime> {
        time_of(message)
    }

    /// Of the kinds of conversation whose `…:read` scope is granted; without any of them it is refused.
    async fn conversations(&self) -> Result<Vec<ConversationKey>, HistoryError> {
        let kinds = [
            ("public_channel", "channels:read"),
            ("private_channel", "groups:read"),
            ("mpim", "mpim:read"),
            ("im", "im:read"),
        ];
        let granted = kinds.iter().filter(|(_, scope)| self.may(scope)).map(|(kind, _)| *kind);
        let types: Vec<&str> = granted.collect();
        if types.is_empty() {
            return Err(HistoryError::Refused { code: "missing_scope".to_owned() });
        }
        let mut all = Vec::new();
        let mut cursor: Option<Cursor> = None;
        for _ in 0..MAX_CONVERSATION_PAGES {
            let params = vec![
                ("types", Some(types.join(","))),
                ("exclude_archived", Some("true".to_owned())),
                ("limit", Some(PAGE.to_string())),
                ("cursor", cursor.map(|cursor| cursor.as_str().to_owned())),
            ];
            let answer = self.api.get(MY_CONVERSATIONS, Priority::GapFiller, &params).await?;
            for channel in lenient::list(&answer, "channels") {
                let Some(id) = lenient::text(channel, "id") else { continue };
                self.names.learn(id, channel);
                let installation = self.identity.installation.clone();
                all.push(ConversationKey { installation, conversation: ConversationId::new(id) });
            }
            cursor = next(&answer)?;
            if cursor.is_none() {
                return Ok(all);
            }
        }
        Err(unavailable("more conversations than are read"))
    }
}
