//! A wall clock that jumps between two brokers. Within one broker none does: [`SystemClock`] reads it once.

use async_trait::async_trait;

use super::*;
use crate::clock::{Clock, Timestamp};

const DAY: i64 = 24 * 60 * 60 * 1000;

/// A clock that is ahead of the system's by so many milliseconds.
#[derive(Debug)]
struct Shifted(SystemClock, i64);

#[async_trait]
impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.now().as_millis() + self.1)
    }

    async fn sleep_until(&self, at: Timestamp) {
        self.0.sleep_until(Timestamp::from_millis(at.as_millis() - self.1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_loses_doubles_and_marks_nothing() {
    // Whether the post has its effect, although nobody answers.
    for stands in [true, false] {
        let house = House::new(|_| finish("hello")).await;
        if stands {
            house.chat.fail_next(Fault::LoseAnswer);
        }
        house.chat.set_down(true);
        let thread = house.chat.say("C1", None, "U1", "@broker hi");
        house.until("it is in doubt", |house| house.times_given("hi") == 1 && house.counts().parts_open == 1).await;
        house.clock.sleep_until(house.clock.now().plus(Duration::from_secs(60 * 60))).await;
        assert_eq!(house.counts().parts_open, 1, "it waits, and nothing else has to be told");
        house.chat.set_down(false);
        house.clock.sleep_until(house.clock.now().plus(Duration::from_secs(3 * 60))).await;
        assert_eq!(house.counts().parts_open, 0, "it does not wait for long after that");
        assert_eq!(house.chat.posts(&thread), ["hello"], "the first one stands: {stands}");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_between_two_brokers_holds_nothing_up_and_doubles_nothing() {
    for jump in [DAY, -DAY] {
        let mut house = House::new(|_| finish("hello")).await;
        // A post that Slack does not take at the moment, and a message that the agent does not.
        let busy = DeliverError::Temporary { reason: "busy".to_owned(), retry_after: Some(Duration::from_secs(1)) };
        house.chat.fail_next(Fault::Fail(busy));
        let post = house.chat.say("C1", None, "U1", "@broker one");
        house.until("it was tried", |house| house.times_given("one") == 1 && house.counts().parts_open == 1).await;
        house.agent.fail_submit(SubmitError::Refused { reason: "not now".to_owned() });
        let message = house.chat.say("C2", None, "U1", "@broker two");
        house.until("it is there", |house| house.counts().sessions == 2).await;
        house.clock = Arc::new(Shifted(SystemClock::new(), jump));
        house.restart().await;
        assert_eq!(house.posts(&post, 1).await, ["hello"], "{jump}");
        assert_eq!(house.posts(&message, 1).await, ["hello"], "{jump}");
        let later = house.chat.say("C1", Some(&post.root), "U1", "three");
        assert_eq!(house.posts(&later, 2).await, ["hello", "hello"], "{jump}");
        house.chat.say("C2", Some(&message.root), "U1", "four");
        assert_eq!(house.posts(&message, 2).await, ["hello", "hello"], "{jump}");
    }
}
