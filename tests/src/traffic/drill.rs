//! A world with traffic, for a test of one fault.

use std::time::Duration;

use super::{Count, Traffic, Way};
use crate::fake_slack::{ALICE, BOB, CHANNEL, State};
use crate::world::World;

/// From the last message to the last answer. A post in doubt takes half a minute.
pub const SETTLE: Duration = Duration::from_secs(180);
/// What the messages of a [`Drill::stir`] ask for, one after the other.
const WAYS: [Way; 5] = [Way::Text, Way::Post, Way::Late(300), Way::Progress, Way::Shell];

/// A world with traffic.
#[derive(Debug)]
pub struct Drill {
    /// The world.
    pub world: World,
    /// The traffic.
    pub traffic: Traffic,
    said: usize,
}

impl Drill {
    /// Starts a world; `None` when Codex is left out on purpose.
    pub async fn start(name: &str) -> Option<Self> {
        World::start(name).await.map(Self::on)
    }

    /// Traffic in a world.
    pub fn on(world: World) -> Self {
        let traffic = Traffic::new(&world);
        Self { world, traffic, said: 0 }
    }

    /// Alice opens a thread; returns its number.
    pub fn open(&mut self, way: Way) -> usize {
        self.traffic.open(&self.world.slack, CHANNEL, ALICE, way)
    }

    /// Bob replies.
    pub fn say(&mut self, thread: usize, way: Way) {
        self.traffic.say(&self.world.slack, thread, BOB, way);
    }

    /// A new thread, and a reply in every other one.
    pub fn stir(&mut self) {
        for thread in 0..self.traffic.threads().len() {
            let way = self.next_way();
            self.say(thread, way);
        }
        let way = self.next_way();
        self.open(way);
    }

    fn next_way(&mut self) -> Way {
        self.said += 1;
        WAYS[self.said % WAYS.len()]
    }

    /// Waits until everything is answered.
    pub async fn answered(&self) {
        self.traffic.settle(&self.world, SETTLE).await;
    }

    /// Waits until Slack has seen something.
    #[track_caller]
    pub fn seen(&self, what: &str, limit: Duration, look: impl Fn(&State) -> bool) -> impl Future<Output = ()> {
        self.world.slack.wait_for(what, limit, move |state| look(state).then_some(()))
    }

    /// Waits until everything is answered, says one more thing in every thread, and counts.
    pub async fn count(&mut self) -> Count {
        self.answered().await;
        self.traffic.close(&self.world, ALICE, SETTLE).await;
        self.traffic.count(&self.world)
    }

    /// The same, and nothing was lost, given twice, left unanswered or posted twice.
    ///
    /// # Panics
    ///
    /// When something was.
    pub async fn end(mut self, fault: &str) -> Count {
        let count = self.count().await;
        println!("{fault}: {count}");
        self.traffic.assert_clean(&self.world, &count, fault);
        self.world.finish().await;
        count
    }
}
