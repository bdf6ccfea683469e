//! One limiter for every Web API call.
//!
//! Slack limits each method, and `chat.postMessage` each channel as well
//! (<https://docs.slack.dev/apis/web-api/rate-limits>). So there is a gate per method, which a 429 closes for everybody
//! until the time that Slack names, and a token bucket per channel for posts. After a 429 calls of that method go one by
//! one until one of them succeeds: a crowd that waited at the gate would only run into the next 429. Where several calls
//! could go, the more urgent goes first, and among equals the one that waits longest.
//!
//! A call that hangs keeps its place until its time limit. So a channel may have a few calls under way and no more: what
//! hangs in one channel leaves the places of the others alone.

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
/// Calls under way at once that say something to people, and as many of any other kind: neither takes the places of the
/// other.
const MAX_IN_FLIGHT: usize = 64;
/// How many of either kind one channel may take.
const MAX_IN_CHANNEL: usize = 8;
/// The call that tries a gate after a 429 is waited for so long; then the next one may try.
const TRIAL: Duration = Duration::from_secs(1);
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

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane<'a> {
    /// It is about no channel.
    Workspace,
    /// It is about a channel.
    Channel(&'a str),
    /// It posts into a channel, and draws on its bucket.
    Posts(&'a str),
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
    /// The channel, and whether it is an answer: that is whose places it takes.
    place: Option<(String, bool)>,
    /// Whether it draws on the bucket of its channel.
    posts: bool,
    priority: Priority,
}

impl Want {
    /// The bucket that it draws on.
    fn bucket(&self) -> Option<&String> {
        self.place.as_ref().filter(|_| self.posts).map(|(channel, _)| channel)
    }

    fn is_answer(&self) -> bool {
        self.priority == Priority::Answer
    }
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
    /// Answers under way.
    answers: usize,
    /// Other calls under way.
    others: usize,
    /// Both kinds by channel; the flag says whether it is answers. Only channels with a call under way stand here.
    in_channel: HashMap<(String, bool), usize>,
}

#[derive(Debug, Default)]
struct Gate {
    closed_until: Option<Instant>,
    /// Since the last 429 no call has succeeded: one at a time.
    careful: bool,
    /// When the call that tries it began, until that has ended.
    trial: Option<Instant>,
}

impl Gate {
    /// When a call may go through, as far as is known.
    fn opens(&self) -> Option<Instant> {
        let trial = self.trial.filter(|_| self.careful).map(|begun| begun + TRIAL);
        self.closed_until.max(trial)
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Lanes {
    /// When the call's gate and bucket let it through, as far as time decides that.
    fn ready_at(&self, want: &Want) -> Option<Instant> {
        let gate = self.gates.get(want.method).and_then(Gate::opens);
        let bucket = want.bucket().and_then(|channel| self.buckets.peek(channel));
        let token = bucket.filter(|_| self.rate > 0.0).map(|bucket| {
            let missing = (1.0 - bucket.tokens).max(0.0);
            // Rounded up to a microsecond, so that the token is there when its time has come.
            bucket.at + Duration::from_secs_f64((missing / self.rate).min(MAX_REST.as_secs_f64())) + MICROSECOND
        });
        gate.max(token)
    }

    /// Takes what the call needs, if all of it is there.
    fn take(&mut self, want: &Want, now: Instant) -> bool {
        // First of all, since of many that wait most end here.
        if *self.in_flight(want) >= MAX_IN_FLIGHT {
            return false;
        }
        let in_channel = want.place.as_ref().and_then(|place| self.in_channel.get(place)).copied().unwrap_or(0);
        let gate = self.gates.entry(want.method).or_default();
        if gate.opens().is_some_and(|at| at > now) || in_channel >= MAX_IN_CHANNEL {
            return false;
        }
        if let Some(channel) = want.bucket().filter(|_| self.rate > 0.0) {
            let fresh = || Bucket { tokens: BURST, at: now };
            let bucket = self.buckets.get_or_insert_mut(channel.clone(), fresh);
            bucket.tokens = (bucket.tokens + now.duration_since(bucket.at).as_secs_f64() * self.rate).min(BURST);
            bucket.at = now;
            if bucket.tokens < 1.0 {
                return false;
            }
            bucket.tokens -= 1.0;
        }
        gate.trial = gate.careful.then_some(now);
        *self.in_flight(want) += 1;
        if let Some(place) = &want.place {
            self.in_channel.insert(place.clone(), in_channel + 1);
        }
        true
    }

    fn in_flight(&mut self, want: &Want) -> &mut usize {
        if want.is_answer() { &mut self.answers } else { &mut self.others }
    }

    fn give_back(&mut self, want: &Want) {
        let in_flight = self.in_flight(want);
        *in_flight = in_flight.saturating_sub(1);
        if let Some(gate) = self.gates.get_mut(want.method) {
            gate.trial = None;
        }
        let Some(place) = &want.place else { return };
        match self.in_channel.get_mut(place) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.in_channel.remove(place)),
        }
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
        let lanes = Lanes {
            rate,
            gates: HashMap::new(),
            buckets: LruCache::new(MAX_BUCKETS),
            answers: 0,
            others: 0,
            in_channel: HashMap::new(),
        };
        let state = State { lanes, waiting: BTreeMap::new(), sequence: 0 };
        Self { state: Mutex::new(state), closed: Notify::new() }
    }

    // Held for a moment, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the call's turn, at most as long as its priority allows.
    pub(crate) async fn turn(
        &self,
        method: &'static str,
        lane: Lane<'_>,
        priority: Priority,
    ) -> Result<Turn<'_>, NoTurn> {
        let (channel, posts) = match lane {
            Lane::Workspace => (None, false),
            Lane::Channel(channel) => (Some(channel), false),
            Lane::Posts(channel) => (Some(channel), true),
        };
        let place = channel.map(|channel| (channel.to_owned(), priority == Priority::Answer));
        let want = Want { method, place, posts, priority };
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
        let (grant, granted) = oneshot::channel();
        state.waiting.insert(place, Waiting { want: want.clone(), grant: Some(grant) });
        state.dispatch(now);
        Ok((Turn { limiter: self, want, place, over: false }, granted))
    }
}

/// A call's turn, or its place in the queue before that. Dropping it gives either back.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    limiter: &'a Limiter,
    want: Want,
    place: (Priority, u64),
    /// The place was given up already.
    over: bool,
}

impl Turn<'_> {
    /// Slack answered 429: nobody calls the method until `retry_after` is over. Returns how long that is.
    pub(crate) fn limited(&self, retry_after: Option<Duration>) -> Duration {
        let rest = retry_after.unwrap_or(DEFAULT_REST).min(MAX_REST);
        let mut state = self.limiter.state();
        let gate = state.lanes.gates.entry(self.want.method).or_default();
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
        let gate = state.lanes.gates.entry(self.want.method).or_default();
        // A call that was under way when the gate closed says nothing about the time after it.
        if gate.closed_until.is_none_or(|until| until <= now) {
            gate.careful = false;
            gate.closed_until = None;
            gate.trial = None;
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
            state.lanes.give_back(&self.want);
            state.dispatch(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::{FutureExt, StreamExt};

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
            assert_eq!(seconds_until(started, limiter.turn(POST, Lane::Posts("C1"), Priority::Answer)).await, expected);
        }
        // Another channel has a bucket of its own, and other methods have none.
        assert_eq!(seconds_until(started, limiter.turn(POST, Lane::Posts("C2"), Priority::Answer)).await, 3.0);
        assert_eq!(seconds_until(started, limiter.turn(REPLIES, Lane::Workspace, Priority::Backfill)).await, 3.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_may_be_a_fraction() {
        let limiter = Limiter::new(0.25);
        let started = Instant::now();
        for expected in [0.0, 0.0, 0.0, 4.0, 8.0] {
            assert_eq!(seconds_until(started, limiter.turn(POST, Lane::Posts("C1"), Priority::Answer)).await, expected);
        }
        // A token that comes later than the caller's patience is not waited for: the sender comes again.
        let slow = Limiter::new(0.01);
        for _ in 0..3 {
            slow.turn(POST, Lane::Posts("C1"), Priority::Answer).await.unwrap();
        }
        let refused = slow.turn(POST, Lane::Posts("C1"), Priority::Answer).await.unwrap_err();
        assert_eq!(refused.retry_after.as_secs(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_hang_in_one_channel_delay_no_other_channel() {
        let limiter = Limiter::new(0.0);
        let mut hanging = Vec::new();
        for channel in ["C1", "C2", "C3", "C4"] {
            for _ in 0..MAX_IN_CHANNEL {
                hanging.push(limiter.turn(POST, Lane::Posts(channel), Priority::Answer).await.unwrap());
                hanging.push(limiter.turn(REPLIES, Lane::Channel(channel), Priority::Backfill).await.unwrap());
            }
        }
        // Fifty more of each wait behind them.
        let more = |lane, method, priority| (0..50).map(move |_| (method, lane, priority));
        let waiting = more(Lane::Posts("C1"), POST, Priority::Answer)
            .chain(more(Lane::Channel("C1"), "assistant.threads.setStatus", Priority::Status))
            .map(|(method, lane, priority)| limiter.turn(method, lane, priority));
        let mut waiting: futures_util::stream::FuturesUnordered<_> = waiting.collect();
        assert!(waiting.next().now_or_never().is_none(), "a place in the channel was left");
        let started = Instant::now();
        for channel in ["C5", "C6", "C7"] {
            limiter.turn(POST, Lane::Posts(channel), Priority::Answer).await.unwrap();
            limiter.turn(REPLIES, Lane::Channel(channel), Priority::Backfill).await.unwrap();
            limiter.turn("users.info", Lane::Workspace, Priority::Status).await.unwrap();
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        // Where one of them is given up, the next of its channel goes at once, and nothing is left over at the end.
        hanging.clear();
        assert!(waiting.next().now_or_never().is_some());
        drop(waiting);
        let state = limiter.state();
        assert_eq!(
            (state.lanes.answers + state.lanes.others, state.lanes.in_channel.len(), state.waiting.len()),
            (0, 0, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_waits_for_its_rate_delays_no_other_channel() {
        let limiter = Limiter::new(1.0);
        let busy = (0..15).map(|_| limiter.turn(POST, Lane::Posts("C1"), Priority::Answer));
        let mut busy: futures_util::stream::FuturesUnordered<_> = busy.collect();
        let mut at_once = 0;
        while busy.next().now_or_never().is_some() {
            at_once += 1;
        }
        assert_eq!(at_once, 3);
        let started = Instant::now();
        limiter.turn(POST, Lane::Posts("C2"), Priority::Answer).await.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_after_a_429_holds_nobody_up_for_long() {
        let limiter = Limiter::new(0.0);
        let before = limiter.turn(POST, Lane::Posts("C1"), Priority::Answer).await.unwrap();
        let limited = limiter.turn(POST, Lane::Posts("C2"), Priority::Answer).await.unwrap();
        limited.limited(Some(Duration::from_secs(2)));
        drop(limited);
        let started = Instant::now();
        // One that hung before the gate closed does not keep it closed.
        let trial = limiter.turn(POST, Lane::Posts("C3"), Priority::Answer).await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(2));
        // While the trial has no answer, one call a second goes.
        let second = limiter.turn(POST, Lane::Posts("C4"), Priority::Answer).await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(2) + TRIAL);
        // An answer to any of them opens the gate.
        second.answered();
        limiter.turn(POST, Lane::Posts("C5"), Priority::Answer).await.unwrap();
        assert_eq!(started.elapsed(), Duration::from_secs(2) + TRIAL);
        drop((before, trial));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let limiter = Limiter::new(0.0);
        let started = Instant::now();
        for _ in 0..1000 {
            limiter.turn(POST, Lane::Posts("C1"), Priority::Answer).await.unwrap();
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_closes_the_gate_for_everybody_and_the_urgent_go_first() {
        let limiter = Arc::new(Limiter::new(0.0));
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = limiter.turn(REPLIES, Lane::Workspace, Priority::Answer).await.unwrap();
        assert_eq!(first.limited(Some(Duration::from_secs(4))), Duration::from_secs(4));
        drop(first);
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for priority in [Priority::ReadBack, Priority::Backfill, Priority::GapFiller, Priority::Answer] {
            let (limiter, order) = (Arc::clone(&limiter), Arc::clone(&order));
            tasks.spawn(async move {
                let turn = limiter.turn(REPLIES, Lane::Workspace, priority).await.unwrap();
                order.lock().unwrap().push((priority, started.elapsed().as_secs()));
                tokio::time::sleep(Duration::from_secs(1)).await;
                turn.answered();
            });
        }
        // Another method is not touched.
        limiter.turn("users.info", Lane::Workspace, Priority::Status).await.unwrap();
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
        limiter.turn(POST, Lane::Workspace, Priority::Answer).await.unwrap().limited(Some(Duration::from_secs(120)));
        let started = Instant::now();
        // It would be over before the gate opens, so it does not even begin to wait.
        let refused = limiter.turn(POST, Lane::Workspace, Priority::Answer).await.unwrap_err();
        assert_eq!((refused.retry_after, started.elapsed()), (Duration::from_secs(120), Duration::ZERO));

        let limiter = Limiter::new(0.0);
        let mut turns = Vec::new();
        for _ in 0..MAX_IN_FLIGHT {
            turns.push(limiter.turn(REPLIES, Lane::Workspace, Priority::ReadBack).await.unwrap());
        }
        let started = Instant::now();
        assert!(limiter.turn(REPLIES, Lane::Workspace, Priority::Backfill).await.is_err());
        assert_eq!(started.elapsed(), Priority::Backfill.patience());
        // Answers have places of their own.
        limiter.turn(POST, Lane::Workspace, Priority::Answer).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_up_takes_no_place() {
        let limiter = Limiter::new(1.0);
        for _ in 0..3 {
            limiter.turn(POST, Lane::Posts("C1"), Priority::Answer).await.unwrap();
        }
        let impatient =
            tokio::time::timeout(Duration::from_millis(300), limiter.turn(POST, Lane::Posts("C1"), Priority::Answer));
        assert!(impatient.await.is_err());
        assert!(limiter.state().waiting.is_empty());
        assert_eq!(limiter.state().lanes.answers, 0);
        let held = limiter.turn(POST, Lane::Posts("C1"), Priority::Answer).await.unwrap();
        assert_eq!(limiter.state().lanes.answers, 1);
        drop(held);
        assert_eq!(limiter.state().lanes.answers, 0);
    }
}
