//! What conversations are called, remembered for an hour: `conversations.info` allows some fifty calls a minute
//! (<https://docs.slack.dev/apis/web-api/rate-limits>), and every thread of a channel asks for the same name. And what kind of
//! conversation each is, which neither its id nor a page of its history tells.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::lenient;

/// Conversations whose kind is remembered: as many as a search for missed messages lists.
const MAX_KINDS: NonZeroUsize = match NonZeroUsize::new(10_000) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};
/// Conversations that are remembered.
const MAX: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(max) => max,
    None => NonZeroUsize::MIN,
};
/// How long a name is believed.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// A name that is known, or being asked for: those who come meanwhile wait for the same answer. A failure is not kept.
pub(crate) type Asked = Arc<OnceCell<Known>>;

/// What is known of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Known {
    pub(crate) name: Option<String>,
    /// Whether everybody in the workspace may know of it.
    pub(crate) is_public: bool,
    pub(crate) topic: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Names {
    asked: Mutex<LruCache<String, (Instant, Asked)>>,
    kinds: Mutex<LruCache<String, &'static str>>,
}

/// The `channel_type` that events of a conversation carry, by its object
/// (<https://docs.slack.dev/reference/objects/conversation-object>).
fn kind(channel: &Value) -> Option<&'static str> {
    let is = |name| lenient::flag(channel, name);
    // A group message is private too, and one that was made a channel counts as one.
    let kinds = [("is_im", "im"), ("is_mpim", "mpim"), ("is_private", "group"), ("is_group", "group")];
    let known = kinds.iter().find(|(name, _)| is(name)).map(|(_, kind)| *kind);
    known.or_else(|| is("is_channel").then_some("channel"))
}

impl Names {
    pub(crate) fn new() -> Self {
        Self { asked: Mutex::new(LruCache::new(MAX)), kinds: Mutex::new(LruCache::new(MAX_KINDS)) }
    }

    /// Learns of what kind a conversation is.
    pub(crate) fn learn(&self, id: &str, channel: &Value) {
        if let Some(kind) = kind(channel) {
            self.kinds.lock().unwrap_or_else(PoisonError::into_inner).put(id.to_owned(), kind);
        }
    }

    /// Of what kind a conversation is, as its events would say it.
    pub(crate) fn kind(&self, id: &str) -> Option<&'static str> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied()
    }

    /// Where the name of a channel stands, or will stand.
    pub(crate) fn of(&self, channel: &str) -> Asked {
        // Held for a moment, never across an await.
        let mut names = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(channel) {
            Some((since, asked)) if since.elapsed() < KEPT => Arc::clone(asked),
            _ => {
                let asked = Asked::default();
                names.put(channel.to_owned(), (Instant::now(), Arc::clone(&asked)));
                asked
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_of_conversations() {
        for (channel, expected) in [
            (json!({"is_channel": true, "is_private": false}), Some("channel")),
            (json!({"is_channel": true, "is_private": true}), Some("group")),
            (json!({"is_group": true}), Some("group")),
            (json!({"is_mpim": true, "is_group": true, "is_private": true}), Some("mpim")),
            (json!({"is_im": true}), Some("im")),
            (json!({"id": "C1"}), None),
        ] {
            let names = Names::new();
            names.learn("C1", &channel);
            assert_eq!(names.kind("C1"), expected, "{channel}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_an_hour() {
        let names = Names::new();
        let failed = names.of("C1").get_or_try_init(async || Err::<Known, _>("no answer")).await.cloned();
        assert_eq!(failed, Err("no answer"), "a failure is not remembered");
        let general = || Known { name: Some("general".to_owned()), is_public: true, topic: None };
        assert_eq!(names.of("C1").get_or_init(async || general()).await, &general());
        assert_eq!(names.of("C1").get(), Some(&general()));
        assert_eq!(names.of("C2").get(), None);
        tokio::time::advance(KEPT).await;
        assert_eq!(names.of("C1").get(), None);
    }
}
