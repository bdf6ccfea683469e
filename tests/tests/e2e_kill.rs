#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! SIGKILL of the broker, of the app-server, or of both, at random moments of a stream of messages: nothing is lost, nothing
//! is given or posted twice, everything is answered or told.
//!
//! The seed decides everything that the test does: who writes what where and when, what Slack's answers to posts are like,
//! what is killed at which point of the stream. When a call is answered and how far a turn has come at that point is the
//! machine's doing, so a seed is repeated rather than replayed.
//!
//! `BROKER_KILL_SEED`, `BROKER_KILL_MESSAGES`, `BROKER_KILL_THREADS` and `BROKER_KILL_KILLS` set the size.

use std::time::Duration;

use broker_tests::fake_slack::{ALICE, BOB, CHANNEL, Trouble};
use broker_tests::processes::{self, poll};
use broker_tests::traffic::{Traffic, Way};
use broker_tests::world::{ANSWER, World};
use fastrand::Rng;
use rustix::process::Signal;

/// From the last message to the last answer: a post in doubt takes half a minute, and two in a row of one thread twice that.
const SETTLE: Duration = Duration::from_secs(240);
/// From so many messages on posts are refused in ways that leave them in doubt.
const DOUBTS_FROM: usize = 200;
/// How long an [`Act::Backlog`] waits at most.
const BACKLOG: Duration = Duration::from_secs(8);
/// How the large run is repeated.
const LARGE: &str = "cargo test -p broker-tests --test e2e_kill -- --ignored --nocapture";
/// How the small one is.
const SMALL: &str = "cargo test -p broker-tests --test e2e_kill -- --nocapture";

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Size {
    seed: u64,
    messages: usize,
    threads: usize,
    kills: usize,
}

impl Size {
    /// The size that the variables say, else this.
    fn or(self) -> Self {
        let number = |name: &str, usual: usize| {
            let text = std::env::var(name).ok().filter(|text| !text.is_empty());
            text.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
        };
        let seed = usize::try_from(self.seed).unwrap_or_default();
        Self {
            seed: number("BROKER_KILL_SEED", seed) as u64,
            messages: number("BROKER_KILL_MESSAGES", self.messages),
            threads: number("BROKER_KILL_THREADS", self.threads).max(1),
            kills: number("BROKER_KILL_KILLS", self.kills),
        }
    }

    fn command(self, command: &str) -> String {
        let Self { seed, messages, threads, kills } = self;
        format!(
            "repeat it with: BROKER_KILL_SEED={seed} BROKER_KILL_MESSAGES={messages} BROKER_KILL_THREADS={threads} \
             BROKER_KILL_KILLS={kills} {command}"
        )
    }
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Broker,
    AppServer,
    Both,
}

/// What the test does next.
#[derive(Debug, Clone)]
enum Act {
    /// Somebody opens a thread.
    Open(Way),
    /// Somebody replies in a thread.
    Say(usize, Way),
    /// The post that answers the next message meets trouble.
    Trouble(Trouble),
    Pause(u64),
    Kill(Victim),
    /// The broker is started again, when it was killed.
    Start,
    /// Everything is well again.
    Ready,
    /// At most so many messages wait for their answers, or a while is over.
    Backlog(usize),
}

/// The stream: what happens, in order.
fn script(size: Size) -> Vec<Act> {
    let mut rng = Rng::with_seed(size.seed);
    let (mut acts, mut said, mut open, mut last) = (Vec::new(), 0, 0, 0);
    let mut kills = 0;
    while said < size.messages || kills < size.kills {
        // As many messages for each kill as the sizes say, most of them before it, some while nobody is there to hear.
        let share = (size.messages * (kills + 1)).checked_div(size.kills).unwrap_or(size.messages);
        let messages = share.min(size.messages).saturating_sub(said);
        let away = if kills < size.kills { rng.usize(0..=messages / 2) } else { 0 };
        let mut say = |acts: &mut Vec<Act>, rng: &mut Rng, count: usize| {
            for _ in 0..count {
                let message = one(rng, (open, said), size, &mut last);
                open += usize::from(matches!(message, Act::Open(_)));
                said += 1;
                acts.extend(trouble(rng, size));
                acts.push(message);
                acts.push(Act::Pause(if rng.u8(..) < 100 { rng.u64(0..20) } else { rng.u64(0..350) }));
            }
        };
        let early = rng.usize(0..=messages - away);
        say(&mut acts, &mut rng, early);
        if kills < size.kills && rng.bool() {
            acts.push(Act::Backlog(rng.usize(0..4)));
        }
        say(&mut acts, &mut rng, messages - away - early);
        if kills == size.kills {
            break;
        }
        kills += 1;
        // Without this most kills would find a broker that has hardly begun with what an earlier one left behind.
        if rng.u8(0..3) < 2 {
            acts.push(Act::Backlog(rng.usize(0..8)));
        }
        acts.push(Act::Pause(rng.u64(0..900)));
        acts.push(Act::Kill([Victim::Broker, Victim::AppServer, Victim::Both][rng.usize(0..3)]));
        let late = rng.usize(0..=away);
        say(&mut acts, &mut rng, away - late);
        acts.push(Act::Start);
        say(&mut acts, &mut rng, late);
        // Now and then the next kill finds a broker that is still coming up.
        if rng.u8(..) < 180 {
            acts.push(Act::Ready);
        }
    }
    acts
}

/// One message. `open` threads exist, and `said` messages were written.
fn one(rng: &mut Rng, (open, said): (usize, usize), size: Size, last: &mut usize) -> Act {
    let way = match rng.u8(0..10) {
        0..=2 => Way::Text,
        3..=4 => Way::Late(rng.u64(100..1500)),
        5..=6 => Way::Post,
        7 => Way::Progress,
        _ => Way::Shell,
    };
    // All threads are open after two thirds of the stream.
    let due = (size.threads * (said + 1) * 3).div_ceil(size.messages.max(1) * 2).min(size.threads);
    if open == 0 || open < due && rng.bool() || size.threads - open >= size.messages - said {
        *last = open;
        return Act::Open(way);
    }
    // Half of the replies go on where the last message was.
    if rng.bool() {
        *last = rng.usize(0..open);
    }
    Act::Say(*last, way)
}

/// What Slack makes of the next answer's post. In a small run nothing that leaves a post in doubt: that takes half a minute
/// each time, and a kill does it anyway.
fn trouble(rng: &mut Rng, size: Size) -> Option<Act> {
    let millis = |rng: &mut Rng| Duration::from_millis(rng.u64(50..1500));
    let doubt = size.messages >= DOUBTS_FROM;
    let trouble = match rng.u8(0..20) {
        0..=2 => Trouble::Delay(millis(rng)),
        3..=5 => Trouble::DoneThenDelay(millis(rng)),
        6 => Trouble::LoseAnswer,
        7 => Trouble::RateLimited(1),
        8 if doubt => Trouble::Status(503),
        9 => Trouble::DoneThenStatus(502),
        _ => return None,
    };
    Some(Act::Trouble(trouble))
}

/// The test, as it goes along.
struct Run {
    world: World,
    traffic: Traffic,
    /// Whether the broker is dead.
    dead: bool,
}

impl Run {
    async fn act(&mut self, act: Act) {
        let Self { world, traffic, dead } = self;
        match act {
            Act::Open(way) => drop(traffic.open(&world.slack, CHANNEL, ALICE, way)),
            Act::Say(thread, way) => traffic.say(&world.slack, thread, BOB, way),
            Act::Trouble(trouble) => {
                world.slack.trouble_when("chat.postMessage", &traffic.next_word(), trouble, 1);
            }
            // The moments of the kills are what the test is about; nothing is waited for.
            Act::Pause(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Act::Kill(victim) => {
                let servers = self.kill(victim).await;
                self.traffic.event(format!("SIGKILL of {victim:?} (app-servers {servers:?})"));
            }
            Act::Start if *dead => {
                world.broker.start_again().await;
                traffic.event("the broker is started again");
                *dead = false;
            }
            Act::Start => {}
            Act::Backlog(most) => {
                traffic.backlog(world, most, BACKLOG).await;
            }
            Act::Ready => {
                world.broker.ready().await;
                traffic.event("all well");
            }
        }
    }

    /// Kills, and returns the app-servers that were meant.
    async fn kill(&mut self, victim: Victim) -> Vec<u32> {
        let broker = &self.world.broker;
        let mut servers = Vec::new();
        if victim != Victim::Broker {
            let running = async || Some(broker.app_server_pids()).filter(|pids| !pids.is_empty());
            servers = poll(ANSWER, running).await.expect("an app-server that can be killed");
            for pid in &servers {
                processes::signal(*pid, Signal::KILL);
            }
        }
        if victim != Victim::AppServer {
            self.world.broker.sigkill().await;
            self.dead = true;
        }
        servers
    }
}

async fn kills(name: &str, size: Size, command: &str) {
    let size = size.or();
    let Some(world) = World::start(name).await else { return };
    let traffic = Traffic::new(&world);
    let mut run = Run { world, traffic, dead: false };
    let how = size.command(command);
    println!("{how}");
    for act in script(size) {
        run.act(act).await;
    }
    run.act(Act::Start).await;
    let Run { mut world, mut traffic, .. } = run;
    world.broker.ready().await;
    traffic.settle(&world, SETTLE).await;
    traffic.event("the stream is over; one more message in every thread");
    traffic.close(&world, ALICE, SETTLE).await;
    let count = traffic.count(&world);
    println!("{} threads, {} kills; {count}", traffic.threads().len(), size.kills);
    for line in count.notices.iter().chain(&count.dropped) {
        println!("beside: {line}");
    }
    traffic.assert_clean(&world, &count, &how);
    // The agent may be away for longer than a message waits in silence; nothing else is to be told.
    let odd: Vec<_> =
        count.notices.iter().filter(|notice| !notice.starts_with("The agent cannot be reached")).collect();
    assert!(odd.is_empty(), "{odd:?}\n{how}");
    assert_eq!(world.slack.violations(), Vec::<String>::new(), "{how}");
    let status = world.broker.sigterm().await;
    assert!(status.success(), "{status}\n{how}");
    let data = world.data();
    let alone = poll(ANSWER, async || processes::belonging_to(&data).is_empty().then_some(())).await;
    assert!(alone.is_some(), "left behind: {:?}\n{how}", processes::belonging_to(&data));
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_and_double_nothing() {
    kills("kills", Size { seed: 1, messages: 60, threads: 12, kills: 6 }, SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; see docs/delivery.md"]
async fn thirty_kills_in_three_hundred_messages_lose_and_double_nothing() {
    kills("thirty-kills", Size { seed: 1, messages: 300, threads: 50, kills: 30 }, LARGE).await;
}

#[test]
fn a_seed_says_what_happens() {
    let size = Size { seed: 7, messages: 300, threads: 50, kills: 30 };
    let acts = script(size);
    assert_eq!(format!("{acts:?}"), format!("{:?}", script(size)));
    let count = |wanted: fn(&Act) -> bool| acts.iter().filter(|act| wanted(act)).count();
    assert_eq!(count(|act| matches!(act, Act::Open(_))), size.threads);
    assert_eq!(count(|act| matches!(act, Act::Open(_) | Act::Say(..))), size.messages);
    assert_eq!(count(|act| matches!(act, Act::Kill(_))), size.kills);
}
