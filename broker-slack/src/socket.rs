//! Socket Mode: keeps a link open.
//!
//! A loop of ours on tokio-tungstenite, since slack-morphism's own has no time limits, closes the old socket before it
//! opens the new one and loses acknowledgements by that. One [`Keeper`] keeps one link; several share a [`Board`].

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::chat::Intake;
use broker_core::telemetry;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::config::{LinkLimits, mend};
use crate::failure::Failure;
use crate::link::{LINK_DISABLED, Link, NoLink, Signals, TOO_MANY_WEBSOCKETS, is_refusal};
use crate::status::{Board, LinkId};

/// Links that end while their successor stands; further ones wait until one of them is done.
const MAX_ENDING: usize = 4;
/// For each time that a link stood so long, one failure before it is forgiven: after half a minute all of them. An end that
/// Slack announces is none when it comes later than this.
const GOOD: Duration = Duration::from_secs(5);
/// The longest `Retry-After` that is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Keeps one link open.
pub(crate) struct Keeper {
    /// Which of the connections it is, counted from zero.
    pub(crate) slot: usize,
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
            waits.forgive(opened.elapsed());
            if let Some(reason) = signals.refused.get() {
                let trouble = Trouble::from(NoLink::Disconnected(reason.clone()));
                if self.rest(&trouble, &mut waits, &stop).await.is_none() {
                    break;
                }
                continue;
            }
            // While the old link stands, its successor comes at once.
            let announced = signals.ending.is_cancelled() && opened.elapsed() >= GOOD;
            if !announced && stop.run_until_cancelled(sleep(waits.next())).await.is_none() {
                break;
            }
        }
        let end = async { while links.join_next().await.is_some() {} };
        // Each link keeps its own limits; this one is for what they do not cover.
        let limit = self.limits.stop + self.limits.drain + Duration::from_secs(5);
        if timeout(limit, end).await.is_err() {
            tracing::warn!("socket links did not end in time");
        }
        self.board.stopped(self.slot);
    }

    /// Tries until a link is open; nothing when the broker stops.
    async fn open(&self, waits: &mut Waits, stop: &CancellationToken) -> Option<Link> {
        loop {
            self.board.trying(self.slot);
            match stop.run_until_cancelled(self.try_open()).await? {
                Ok(link) => {
                    metrics::counter!(telemetry::LINKS).increment(1);
                    return Some(link);
                }
                Err(trouble) => self.rest(&trouble, waits, stop).await?,
            }
        }
    }

    /// Tells of a trouble and waits until the next try; nothing when the broker stops.
    async fn rest(&self, trouble: &Trouble, waits: &mut Waits, stop: &CancellationToken) -> Option<()> {
        let wait = match trouble.wait {
            Wait::BackOff => waits.next(),
            Wait::AtLeast(asked) => waits.next().max(asked.min(MAX_RETRY_AFTER)),
            Wait::Refused => self.limits.refused_wait,
        };
        let Trouble { reason, mend, .. } = trouble;
        metrics::counter!(telemetry::LINK_TROUBLES).increment(1);
        tracing::warn!(connection = self.slot + 1, reason, mend, ?wait, "no socket link");
        self.board.trouble(self.slot, &trouble.to_string());
        stop.run_until_cancelled(sleep(wait)).await
    }

    async fn try_open(&self) -> Result<Link, Trouble> {
        let ticket = match timeout(self.limits.step, self.api.open_connection()).await {
            Ok(ticket) => ticket?,
            Err(_) => return Err(Failure::unanswered("no answer to apps.connections.open in time").into()),
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let id = LinkId { slot: self.slot, number };
        Ok(Link::open(id, &ticket, self.limits, self.board.count()).await?)
    }
}

/// Why there is no link, what mends that, and when to try again.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    reason: String,
    /// Present where an operator has to do something.
    mend: Option<String>,
    wait: Wait,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.mend {
            Some(mend) => write!(f, "{}: {mend}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Wait {
    BackOff,
    AtLeast(Duration),
    /// An operator has to mend something.
    Refused,
}

/// Failures that count: after so many the waits have reached their bound.
const MAX_FAILURES: u32 = 6;

/// What an operator does about a refusal.
fn mend_of(code: &str) -> String {
    match code {
        LINK_DISABLED => "Socket Mode is switched off for the app: switch it on in the app's settings".to_owned(),
        TOO_MANY_WEBSOCKETS => {
            "Slack allows an app ten connections, and they are open: end other programs that use the app, \
                                or give them an app of their own (those of a broker that died go by themselves)"
                .to_owned()
        }
        _ => mend(code, "SLACK_APP_TOKEN"),
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        let (reason, wait) = match failure {
            Failure::NotSent { reason, retry_after: Some(asked) } => (reason, Wait::AtLeast(asked)),
            Failure::NotSent { reason, .. } | Failure::Unanswered { reason } => (reason, Wait::BackOff),
            Failure::Refused { code } => {
                let reason = format!("slack refuses the socket ({code})");
                // A place may become free at any moment.
                let wait = if code == TOO_MANY_WEBSOCKETS { Wait::BackOff } else { Wait::Refused };
                return Self { reason, mend: Some(mend_of(&code)), wait };
            }
        };
        Self { reason, mend: None, wait }
    }
}

impl From<NoLink> for Trouble {
    fn from(no_link: NoLink) -> Self {
        match no_link {
            NoLink::Unreachable(reason) => Self { reason: reason.to_owned(), mend: None, wait: Wait::BackOff },
            NoLink::Disconnected(code) => {
                let reason = format!("slack ended the link ({code})");
                let mend = is_refusal(&code).then(|| mend_of(&code));
                let wait = if code == LINK_DISABLED { Wait::Refused } else { Wait::BackOff };
                Self { reason, mend, wait }
            }
        }
    }
}

/// The waits between tries: the first up to twice the shortest, each next one up to twice as long, and at least half of
/// that, by chance, so that brokers that lost Slack together do not return together.
struct Waits {
    limits: LinkLimits,
    failures: u32,
}

impl Waits {
    fn new(limits: LinkLimits) -> Self {
        Self { limits, failures: 0 }
    }

    /// A link has stood for so long.
    fn forgive(&mut self, stood: Duration) {
        let forgiven = u32::try_from(stood.as_secs() / GOOD.as_secs()).unwrap_or(u32::MAX);
        self.failures = self.failures.min(MAX_FAILURES).saturating_sub(forgiven);
    }

    fn next(&mut self) -> Duration {
        let full = self.limits.min_wait.saturating_mul(2 << self.failures.min(MAX_FAILURES)).min(self.limits.max_wait);
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
    fn waits_grow_with_jitter_from_half_a_second_to_thirty_and_begin_anew() {
        let mut waits = Waits::new(LinkLimits::default());
        let in_seconds = |range: std::ops::RangeInclusive<f64>, wait: Duration| range.contains(&wait.as_secs_f64());
        for (bottom, top) in [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 8.0), (8.0, 16.0), (15.0, 30.0), (15.0, 30.0)] {
            let wait = waits.next();
            assert!(in_seconds(bottom..=top, wait), "{wait:?} is not within {bottom} to {top} s");
        }
        let late: Vec<Duration> = (0..40).map(|_| waits.next()).collect();
        assert!(late.iter().all(|wait| in_seconds(15.0..=30.0, *wait)));
        assert!(late.iter().any(|wait| *wait != late[0]), "forty times the same wait is no jitter");
        // A link that breaks again soon is no success.
        waits.forgive(Duration::from_secs(4));
        assert!(in_seconds(15.0..=30.0, waits.next()));
        waits.forgive(Duration::from_secs(20));
        assert!(in_seconds(2.0..=4.0, waits.next()));
        waits.forgive(Duration::from_secs(30));
        assert!(in_seconds(0.5..=1.0, waits.next()));
    }

    #[test]
    fn refusals_are_told_apart_and_say_what_mends_them() {
        let api = |code: &str| Trouble::from(Failure::of_code(code));
        let disconnect = |reason: &str| Trouble::from(NoLink::Disconnected(reason.to_owned()));
        for (trouble, code, mend, wait) in [
            (api("invalid_auth"), "invalid_auth", "SLACK_APP_TOKEN", Wait::Refused),
            (api("missing_scope"), "missing_scope", "connections:write", Wait::Refused),
            (api("too_many_websockets"), "too_many_websockets", "end other programs", Wait::BackOff),
            (disconnect("too_many_websockets"), "too_many_websockets", "end other programs", Wait::BackOff),
            (disconnect("link_disabled"), "link_disabled", "switch it on", Wait::Refused),
        ] {
            assert!(trouble.reason.contains(code), "{trouble}");
            assert!(trouble.mend.as_ref().is_some_and(|it| it.contains(mend)), "{trouble}");
            assert_eq!(trouble.wait, wait, "{trouble}");
        }
        assert_eq!(disconnect("refresh_requested").mend, None);
        let limited = Failure::NotSent { reason: "ratelimited".to_owned(), retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(Trouble::from(limited).wait, Wait::AtLeast(Duration::from_secs(7)));
    }
}
