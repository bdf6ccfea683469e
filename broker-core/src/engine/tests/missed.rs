//! What no event told of, and the search finds.

use super::*;

#[tokio::test]
async fn what_was_written_while_the_broker_was_away_is_found_and_given_once() {
    let mut house = House::new(echo).await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.posts(&thread, 1).await;
    house.broker.take().unwrap().drain(Duration::from_secs(2)).await;
    // No event tells of any of these.
    house.chat.seed("C1", Some(&thread.root), "U1", "two");
    let mention = house.chat.seed("C2", None, "U2", "@broker three");
    let direct = house.chat.seed("D1", None, "U1", "four");
    let talk = house.chat.seed("C2", None, "U2", "people talk");
    house.chat.seed("C2", Some(&talk.root), "U3", "and talk");
    house.chat.seed("C2", Some(&talk.root), "U3", "@broker five");
    house.chat.seed("C2", None, "U3", "six, and nobody is meant");
    for restart in 0..2 {
        house.restart().await;
        assert_eq!(house.posts(&thread, 2).await, ["one", "two"], "{restart}");
        assert_eq!(house.posts(&mention, 1).await, ["three"]);
        assert_eq!(house.posts(&direct, 1).await, ["four"]);
        assert_eq!(house.posts(&talk, 1).await, ["five"]);
        let health = house.broker().recovery_health();
        let found = if restart == 0 { 4 } else { 0 };
        house.until("a pass is over", |_| health.borrow().detail.get("found") == Some(&found.into())).await;
        house.broker().idle().await.unwrap();
        house.broker.take().unwrap().drain(Duration::from_secs(2)).await;
    }
    // A search asks as what can wait; what a first mention brings along is waited for.
    assert!(house.chat.asked(&thread).iter().all(|urgency| *urgency == Urgency::Background));
    assert!(
        house.chat.asked(&talk).contains(&Urgency::Background) && house.chat.asked(&talk).contains(&Urgency::Awaited)
    );
    assert_eq!(house.counts().sessions, 4);
    for word in ["two", "three", "four", "five"] {
        assert_eq!(house.times_given(word), 1, "{word}");
    }
}

#[tokio::test]
async fn a_message_that_a_link_lost_is_found_by_the_next_pass_and_marked_late() {
    let mut house = House::new(echo).await;
    house.settings.recovery_every = Duration::from_millis(50);
    house.restart().await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.posts(&thread, 1).await;
    // The second never comes, the third does: that must not hide the second.
    house.chat.seed("C1", Some(&thread.root), "U1", "two");
    house.chat.say("C1", Some(&thread.root), "U1", "three");
    house.until("both are given", |house| house.times_given("two") == 1 && house.times_given("three") == 1).await;
}

#[tokio::test]
async fn what_was_written_before_the_session_is_not_given_by_a_search() {
    let mut house = House::new(echo).await;
    let talk = house.chat.seed("C1", None, "U2", "six");
    house.chat.seed("C1", Some(&talk.root), "U2", "five");
    house.chat.say("C1", Some(&talk.root), "U1", "@broker one");
    house.posts(&talk, 1).await;
    house.settings.recovery_every = Duration::from_millis(20);
    house.restart().await;
    house.first_pass().await;
    assert_eq!(house.agent.given().len(), 1);
}

#[tokio::test]
async fn a_stop_that_is_found_late_stops_nothing() {
    let mut house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    let half_an_hour_ago = SystemClock::new().now().minus(Duration::from_secs(30 * 60));
    house.chat = MemoryChat::starting_at(ChatTime::of(half_an_hour_ago));
    house.restart().await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.until("the turn runs", House::has_delivered).await;
    house.chat.seed("C1", Some(&thread.root), "U1", "-stop");
    house.restart().await;
    let health = house.broker().recovery_health();
    house.until("a pass is over", |_| health.borrow().detail.get("found") == Some(&1.into())).await;
    let goes_on = |house: &House| house.counts().journal_unread == 0 && house.agent.given().len() == 2;
    house.until("it is settled, and the turn goes on", goes_on).await;
    house.agent.resume();
    assert_eq!(house.posts(&thread, 1).await, ["done"]);
}
