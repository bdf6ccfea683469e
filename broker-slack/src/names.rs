//! What conversations are called, remembered for an hour: `conversations.info` allows some fifty calls a minute
//! (<https://docs.slack.dev/apis/web-api/rate-limits>), and every thread of a channel asks for the same name.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio::time::Instant;

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
    pub(crate) topic: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Names(Mutex<LruCache<String, (Instant, Asked)>>);

impl Names {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(MAX)))
    }

    /// Where the name of a channel stands, or will stand.
    pub(crate) fn of(&self, channel: &str) -> Asked {
        // Held for a moment, never across an await.
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_an_hour() {
        let names = Names::new();
        let failed = names.of("C1").get_or_try_init(async || Err::<Known, _>("no answer")).await.cloned();
        assert_eq!(failed, Err("no answer"), "a failure is not remembered");
        let general = || Known { name: Some("general".to_owned()), topic: None };
        assert_eq!(names.of("C1").get_or_init(async || general()).await, &general());
        assert_eq!(names.of("C1").get(), Some(&general()));
        assert_eq!(names.of("C2").get(), None);
        tokio::time::advance(KEPT).await;
        assert_eq!(names.of("C1").get(), None);
    }
}
