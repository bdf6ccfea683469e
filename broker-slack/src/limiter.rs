//! One limiter for every Web API call.
//!
//! Slack limits each method, and `chat.postMessage` each channel as well
//! (<https://docs.slack.dev/apis/web-api/rate-limits>). So there is a gate per method, which a 429 closes for everybody
//! until the time that Slack names, and a token bucket per channel for posts. After a 429 calls of that method go one by
//! one until one of them succeeds: a crowd that waited at the gate would only run into the next 429. Where several calls
//! could go, the more urgent goes first, and among equals the one that waits longest.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

/// Posts that may go at once into a channel that was quiet.
const BURST: f64 = 3.0;
/// Channels whose buckets are remembered; the one unused for longest starts anew with a full one.
const MAX_BUCKETS: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};
/// Calls under way at once.
const MAX_IN_FLIGHT: usize = 32;
/// How many of them anything but answers may take.
const MAX_IN_FLIGHT_OTHERS: usize = 24;
/// Calls that wait for their turn; beyond that, a call is told to come again.
const MAX_WAITING: usize = 4096;
/// How long a method rests after a 429 that names no time.
const DEFAULT_REST: Duration = Duration::from_secs(5);
/// The longest rest that is believed.
const MAX_REST: Duration = Duration::from_secs(3600);

/// What a call is for, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// Saying something to people.
    Answer,
    /// Reading what a thread held before its first mention.
    Backfill,
    /// Looking whether a post arrived.
    ReadBack,
    /// Names of people and channels, and what stands beside a thread.
    Status,
    /// Looking for what was missed while away.
    GapFiller,
}

impl Priority {
    /// How long such a call waits for its turn.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::Answer | Self::ReadBack => Duration::from_secs(20),
            Self::Backfill => Duration::from_secs(8),
            Self::Status => Duration::from_secs(5),
            Self::GapFiller => Duration::from_secs(60),
        }
    }
}

/// The call did not get its turn. Nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoTurn {
    /// When to come again.
    pub(crate) retry_after: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Limiter {
    state: Mutex<State>,
    /// Tells the waiting that a gate closed, so that they look anew when their time comes.
    closed: Notify,
}

#[derive(Debug)]
struct State {
    lanes: Lanes,
    waiting: BTreeMap<(Priority, u64), Waiting>,
    sequence: u64,
}

/// What a call needs.
#[derive(Debug, Clone)]
struct Want {
    method: &'static str,
    /// The channel whose bucket it draws from, for posts.
    channel: Option<String>,
    priority: Priority,
}

#[derive(Debug)]
struct Waiting {
    want: Want,
    /// Taken when the turn has come.
    grant: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Lanes {
    /// Posts a second and channel; zero for no buckets.
    rate: f64,
    gates: HashMap<&'static str, Gate>,
    buckets: LruCache<String, Bucket>,
    in_flight: usize,
}

#[derive(Debug, Default)]
struct Gate {
    closed_until: Option<Instant>,
    /// Since the last 429 no call has succeeded: one at a time.
    careful: bool,
    in_flight: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Lanes {
    /// When the call's gate and bucket let it through, as far as time decides that.
    fn ready_at(&self, want: &Want) -> Option<Instant> {
        let gate = self.gates.get(want.method).and_then(|gate| gate.closed_until);
        let bucket = want.channel.as_ref().and_then(|channel| self.buckets.peek(channel));
        let token = bucket.filter(|_| self.rate > 0.0).map(|bucket| {
            let missing = (1.0 - bucket.tokens).max(0.0);
            // Rounded up to a microsecond, so that the token is there when its time has come.
            bucket.at + Duration::from_secs_f64((missing / self.rate).min(MAX_REST.as_secs_f64())) + MICROSECOND
        });
        gate.max(token)
    }

    /// Takes what the call needs, if all of it is there.
    fn take(&mut self, want: &Want, now: Instant) -> bool {
        let limit = if want.priority == Priority::Answer { MAX_IN_FLIGHT } else { MAX_IN_FLIGHT_OTHERS };
        let gate = self.gates.entry(want.method).or_default();
        let open = gate.closed_until.is_none_or(|until| until <= now) && !(gate.careful && gate.in_flight > 0);
        if !open || self.in_flight >= limit {
            return false;
        }
        if let Some(channel) = want.channel.as_ref().filter(|_| self.rate > 0.0) {
            let fresh = || Bucket { tokens: BURST, at: now };
            let bucket = self.buckets.get_or_insert_mut(channel.clone(), fresh);
            bucket.tokens = (bucket.tokens + now.duration_since(bucket.at).as_secs_f64() * self.rate).min(BURST);
            bucket.at = now;
            if bucket.tokens < 1.0 {
                return false;
            }
            bucket.tokens -= 1.0;
        }
        gate.in_flight += 1;
        self.in_flight += 1;
        true
    }

    fn give_back(&mut self, method: &'static str) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let gate = self.gates.entry(method).or_default();
        gate.in_flight = gate.in_flight.saturating_sub(1);
    }
}

const MICROSECOND: Duration = Duration::from_micros(1);

impl State {
    /// Lets everybody go who may, in order.
    fn dispatch(&mut self, now: Instant) {
        let lanes = &mut self.lanes;
        self.waiting.retain(|_, waiting| {
            let granted = lanes.take(&waiting.want, now);
            if let Some(grant) = waiting.grant.take_if(|_| granted) {
                // Nobody listening means that the call is being given up; its place is then given back by that.
                let _ = grant.send(());
            }
            !granted
        });
    }
}

impl Limiter {
    /// A limiter with `post_rate` posts a second and channel; with zero posts wait for nothing but a 429.
    pub(crate) fn new(post_rate: f64) -> Self {
        let rate = if post_rate.is_finite() { post_rate.max(0.0) } else { 0.0 };
        let lanes = Lanes { rate, gates: HashMap::new(), buckets: LruCache::new(MAX_BUCKETS), in_flight: 0 };
        let state = State { lanes, waiting: BTreeMap::new(), sequence: 0 };
        Self { state: Mutex::new(state), closed: Notify::new() }
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the call's turn, at most as long as its priority allows. `channel` is given for posts.
    pub(crate) async fn turn(
        &self,
        method: &'static str,
        channel: Option<&str>,
        priority: Priority,
    ) -> Result<Turn<'_>, NoTurn> {
        let want = Want { method, channel: channel.map(str::to_owned), priority };
        let deadline = Instant::now() + priority.patience();
        let (mut turn, mut granted) = self.queue(want.clone(), deadline)?;
        loop {
            let closed = self.closed.notified();
            let wake = {
                let now = Instant::now();
                self.state().lanes.ready_at(&want).filter(|ready| *ready > now).map_or(deadline, |at| at.min(deadline))
            };
            tokio::select! {
                biased;
                _ = &mut granted => return Ok(turn),
                () = closed => {}
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            let mut state = self.state();
            state.dispatch(now);
            if now >= deadline && state.waiting.remove(&turn.place).is_some() {
                turn.over = true;
                let ready = state.lanes.ready_at(&want).map_or(Duration::ZERO, |ready| ready.duration_since(now));
                return Err(NoTurn { retry_after: ready.max(Duration::from_secs(1)) });
            }
        }
    }

    fn queue(&self, want: Want, deadline: Instant) -> Result<(Turn<'_>, oneshot::Receiver<()>), NoTurn> {
        let now = Instant::now();
        let mut state = self.state();
        let ready = state.lanes.ready_at(&want).unwrap_or(now);
        if ready > deadline {
            return Err(NoTurn { retry_after: ready.duration_since(now) });
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err(NoTurn { retry_after: DEFAULT_REST });
        }
        state.sequence += 1;
        let place = (want.priority, state.sequence);
        let method = want.method;
        let (grant, granted) = oneshot::channel();
        state.waiting.insert(place, Waiting { want, grant: Some(grant) });
        state.dispatch(now);
        Ok((Turn { limiter: self, method, place, over: false }, granted))
    }
}

/// A call's turn, or its place in the queue before that. Dropping it gives either back.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    limiter: &'a Limiter,
    method: &'static str,
    place: (Priority, u64),
    /// The place was given up already.
    over: bool,
}

impl Turn<'_> {
    /// Slack answered 429: nobody calls the method until `retry_after` is over. Returns how long that is.
    pub(crate) fn limited(&self, retry_after: Option<Duration>) -> Duration {
        let rest = retry_after.unwrap_or(DEFAULT_REST).min(MAX_REST);
        let mut state = self.limiter.state();
        let gate = state.lanes.gates.entry(self.method).or_default();
        gate.closed_until = gate.closed_until.max(Some(Instant::now() + rest));
        gate.careful = true;
        drop(state);
        self.limiter.closed.notify_waiters();
        rest
    }

    /// Slack answered anything else.
    pub(crate) fn answered(&self) {
        let now = Instant::now();
        let mut state = self.limiter.state();
        let gate = state.lanes.gates.entry(self.method).or_default();
        // A call that was under way when the gate closed says nothing about the time after it.
        if gate.closed_until.is_none_or(|until| until <= now) {
            gate.careful = false;
            gate.closed_until = None;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut state = self.limiter.state();
        if state.waiting.remove(&self.place).is_none() {
            state.lanes.give_back(self.method);
            state.dispatch(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const POST: &str = "chat.postMessage";
    const REPLIES: &str = "conversations.replies";

    async fn seconds_until(started: Instant, turn: impl Future<Output = Result<Turn<'_>, NoTurn>>) -> f64 {
        turn.await.unwrap();
        (started.elapsed().as_secs_f64() * 10.0).round() / 10.0
    }

    #[tokio::test(start_paused = true)]
    async fn posts_go_in_a_short_burst_and_then_at_the_rate() {
        let limiter = Limiter::new(1.0);
        let started = Instant::now();
        for expected in [0.0, 0.0, 0.0, 1.0, 2.0, 3.0] {
            assert_eq!(seconds_until(started, limiter.turn(POST, Some("C1"), Priority::Answer)).await, expected);
        }
        // Another channel has a bucket of its own, and other methods have none.
        assert_eq!(seconds_until(started, limiter.turn(POST, Some("C2"), Priority::Answer)).await, 3.0);
        assert_eq!(seconds_until(started, limiter.turn(REPLIES, None, Priority::Backfill)).await, 3.0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let limiter = Limiter::new(0.0);
        let started = Instant::now();
        for _ in 0..1000 {
            limiter.turn(POST, Some("C1"), Priority::Answer).await.unwrap();
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_closes_the_gate_for_everybody_and_the_urgent_go_first() {
        let limiter = Arc::new(Limiter::new(0.0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = limiter.turn(REPLIES, None, Priority::Answer).await.unwrap();
        assert_eq!(first.limited(Some(Duration::from_secs(4))), Duration::from_secs(4));
        drop(first);
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for priority in [Priority::ReadBack, Priority::Backfill, Priority::GapFiller, Priority::Answer] {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.spawn(async move {
                let turn = limiter.turn(REPLIES, None, priority).await.unwrap();
                order.lock().unwrap().push((priority, started.elapsed().as_secs()));
                tokio::time::sleep(Duration::from_secs(1)).await;
                turn.answered();
            });
        }
        // Another method is not touched.
        limiter.turn("users.info", None, Priority::Status).await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
        tasks.join_all().await;
        // The first goes alone; its success lets the others go together.
        let order = order.lock().unwrap();
        let priorities: Vec<_> = order.iter().map(|(priority, _)| *priority).collect();
        assert_eq!(priorities, [Priority::Answer, Priority::Backfill, Priority::ReadBack, Priority::GapFiller]);
        assert_eq!(order.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [4, 5, 5, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_is_bounded() {
        let limiter = Limiter::new(0.0);
        limiter.turn(POST, None, Priority::Answer).await.unwrap().limited(Some(Duration::from_secs(120)));
        let started = Instant::now();
        // It would be over before the gate opens, so it does not even begin to wait.
        let refused = limiter.turn(POST, None, Priority::Answer).await.unwrap_err();
        assert_eq!((refused.retry_after, started.elapsed()), (Duration::from_secs(120), Duration::ZERO));

        let limiter = Limiter::new(0.0);
        let mut turns = Vec::new();
        for _ in 0..MAX_IN_FLIGHT_OTHERS {
            turns.push(limiter.turn(REPLIES, None, Priority::ReadBack).await.unwrap());
        }
        let started = Instant::now();
        assert!(limiter.turn(REPLIES, None, Priority::Backfill).await.is_err());
        assert_eq!(started.elapsed(), Priority::Backfill.patience());
        // Answers have places of their own.
        limiter.turn(POST, None, Priority::Answer).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_takes_no_place() {
        let limiter = Limiter::new(1.0);
        for _ in 0..3 {
            limiter.turn(POST, Some("C1"), Priority::Answer).await.unwrap();
        }
        let impatient =
            tokio::time::timeout(Duration::from_millis(300), limiter.turn(POST, Some("C1"), Priority::Answer));
        assert!(impatient.await.is_err());
        assert!(limiter.state().waiting.is_empty());
        assert_eq!(limiter.state().lanes.in_flight, 0);
        let held = limiter.turn(POST, Some("C1"), Priority::Answer).await.unwrap();
        assert_eq!(limiter.state().lanes.in_flight, 1);
        drop(held);
        assert_eq!(limiter.state().lanes.in_flight, 0);
    }
}
