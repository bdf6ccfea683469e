//! Socket Mode: keeps a link open.
//!
//! A loop of ours on tokio-tungstenite, since slack-morphism's own has no time limits, closes the old socket before it
//! opens the new one and loses acknowledgements by that. One [`Keeper`] keeps one link; several would share a [`Board`].

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::chat::Intake;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::config::{LinkLimits, mend};
use crate::failure::Failure;
use crate::link::{LINK_DISABLED, Link, NoLink, Signals};
use crate::status::Board;

/// Links that end while their successor stands; further ones wait until one of them is done.
const MAX_ENDING: usize = 4;
/// A link that stood this long was a good one: the waits begin anew.
const GOOD: Duration = Duration::from_secs(30);
/// What an operator does about `link_disabled`.
const DISABLED: &str = "socket mode is switched off for the app: switch it on in the app's settings";
/// The longest `Retry-After` that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Keeps one link open.
pub(crate) struct Keeper {
    pub(crate) api: Arc<Api>,
    pub(crate) limits: LinkLimits,
    pub(crate) board: Arc<Board>,
    pub(crate) intake: Arc<dyn Intake>,
    /// Numbers the links of all keepers.
    pub(crate) numbers: Arc<AtomicU64>,
}

impl Keeper {
    /// Keeps a link open until `stop`, and returns when everything in hand is done.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut waits = Waits::new(self.limits);
        let mut links = JoinSet::new();
        let mut current: Option<Signals> = None;
        loop {
            // Before one is opened: an open link has to be served at once.
            while links.len() >= MAX_ENDING {
                links.join_next().await;
            }
            let Some(link) = self.open(&mut waits, &stop).await else { break };
            let opened = Instant::now();
            let signals = Signals { stop: stop.clone(), ..Signals::default() };
            links.spawn(link.serve(Arc::clone(&self.intake), Arc::clone(&self.board), signals.clone()));
            if let Some(old) = current.replace(signals.clone()) {
                old.replaced.cancel();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = signals.ending.cancelled() => {}
                () = signals.down.cancelled() => {}
            }
            while links.try_join_next().is_some() {}
            if signals.disabled.is_cancelled() {
                self.board.trouble(DISABLED);
                if stop.run_until_cancelled(sleep(self.limits.refused_wait)).await.is_none() {
                    break;
                }
            } else if opened.elapsed() >= GOOD {
                waits.reset();
            } else if stop.run_until_cancelled(sleep(waits.next())).await.is_none() {
                break;
            }
        }
        let end = async { while links.join_next().await.is_some() {} };
        // Each link keeps its own limits; this one is for what they do not cover.
        let limit = self.limits.stop + self.limits.drain + Duration::from_secs(5);
        if timeout(limit, end).await.is_err() {
            tracing::warn!("socket links did not end in time");
        }
    }

    /// Tries until a link is open; nothing when the broker stops.
    async fn open(&self, waits: &mut Waits, stop: &CancellationToken) -> Option<Link> {
        loop {
            let trouble = match stop.run_until_cancelled(self.try_open()).await? {
                Ok(link) => return Some(link),
                Err(trouble) => trouble,
            };
            let wait = match trouble.wait {
                Wait::BackOff => waits.next(),
                Wait::AtLeast(asked) => waits.next().max(asked.min(MAX_RETRY_AFTER)),
                Wait::Refused => self.limits.refused_wait,
            };
            tracing::warn!(reason = trouble.reason, ?wait, "no socket link");
            self.board.trouble(&trouble.reason);
            stop.run_until_cancelled(sleep(wait)).await?;
        }
    }

    async fn try_open(&self) -> Result<Link, Trouble> {
        let ticket = match timeout(self.limits.step, self.api.open_connection()).await {
            Ok(ticket) => ticket?,
            Err(_) => return Err(Failure::unanswered("no answer in time").into()),
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        Ok(Link::open(number, &ticket, self.limits).await?)
    }
}

/// Why there is no link, and when to try again.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    reason: String,
    wait: Wait,
}

#[derive(Debug, PartialEq, Eq)]
enum Wait {
    BackOff,
    AtLeast(Duration),
    /// An operator has to mend something.
    Refused,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent { reason, retry_after: Some(asked) } => Self { reason, wait: Wait::AtLeast(asked) },
            Failure::NotSent { reason, .. } | Failure::Unanswered { reason } => Self { reason, wait: Wait::BackOff },
            Failure::Refused { code } => {
                let mend = mend(&code, "SLACK_APP_TOKEN");
                Self { reason: format!("slack refuses the socket ({code}): {mend}"), wait: Wait::Refused }
            }
        }
    }
}

impl From<NoLink> for Trouble {
    fn from(no_link: NoLink) -> Self {
        match no_link {
            NoLink::Unreachable(reason) => Self { reason: reason.to_owned(), wait: Wait::BackOff },
            NoLink::Disconnected(reason) if reason == LINK_DISABLED => {
                Self { reason: DISABLED.to_owned(), wait: Wait::Refused }
            }
            NoLink::Disconnected(reason) => {
                Self { reason: format!("slack ended the link at once ({reason})"), wait: Wait::BackOff }
            }
        }
    }
}

/// The waits between tries: doubling, with jitter, so that brokers that lost Slack together do not return together.
struct Waits {
    limits: LinkLimits,
    failures: u32,
}

impl Waits {
    fn new(limits: LinkLimits) -> Self {
        Self { limits, failures: 0 }
    }

    fn reset(&mut self) {
        self.failures = 0;
    }

    fn next(&mut self) -> Duration {
        let full = self.limits.min_wait.saturating_mul(1 << self.failures.min(16)).min(self.limits.max_wait);
        self.failures = self.failures.saturating_add(1);
        // The hasher's keys are random: enough for a jitter, and no dependency.
        let jitter = u32::try_from(RandomState::new().build_hasher().finish() % 1000).unwrap_or(0);
        (full / 2 + full / 2 * jitter / 1000).max(self.limits.min_wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut waits = Waits::new(LinkLimits::default());
        let all: Vec<Duration> = (0..40).map(|_| waits.next()).collect();
        assert_eq!(all[0], Duration::from_millis(500));
        assert!(all.iter().all(|wait| (Duration::from_millis(500)..=Duration::from_secs(30)).contains(wait)));
        assert!(all[39] >= Duration::from_secs(15));
        waits.reset();
        assert_eq!(waits.next(), Duration::from_millis(500));
    }

    #[test]
    fn refusals_say_what_mends_them() {
        let trouble = Trouble::from(Failure::of_code("invalid_auth"));
        assert!(trouble.reason.contains("SLACK_APP_TOKEN"), "{}", trouble.reason);
        assert_eq!(trouble.wait, Wait::Refused);
        assert_eq!(Trouble::from(NoLink::Disconnected("link_disabled".to_owned())).wait, Wait::Refused);
        assert_eq!(Trouble::from(NoLink::Disconnected("too_many_websockets".to_owned())).wait, Wait::BackOff);
    }
}
