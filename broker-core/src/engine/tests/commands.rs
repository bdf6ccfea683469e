//! Commands and the sessions that there are, or are not, to carry them out.

use super::*;
use crate::store::InboxState;

#[tokio::test]
async fn a_command_that_comes_twice_is_answered_once() {
    let house = House::new(|_| finish("hello")).await;
    for text in ["@broker -help", "@broker -status", "@broker -stop"] {
        let thread = house.chat.say("C1", None, "U1", text);
        // As a mention and as a message.
        house.chat.redeliver(&thread.root);
        house.posts(&thread, 1).await;
        let later = house.chat.say("C1", None, "U1", "@broker hi");
        house.posts(&later, 1).await;
        house.until("both are settled", |house| house.counts().journal_unread == 0).await;
        assert_eq!(house.chat.posts(&thread).len(), 1, "{text}");
    }
}

#[tokio::test]
async fn a_stop_at_the_top_of_a_direct_message_reaches_every_thread_of_it() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let threads = [house.chat.say("D1", None, "U1", "one"), house.chat.say("D1", None, "U1", "two")];
    house.until("both run", |house| house.agent.given().len() == 2).await;
    let stop = house.chat.say("D1", None, "U1", "-stop");
    assert_eq!(house.posts(&stop, 1).await, [prompt::STOPPED]);
    // It is answered once it is durable in each.
    for thread in &threads {
        assert!(house.record(thread).unwrap().stopped_at > ChatTime::ZERO, "{thread}");
    }
    // It comes again, as if the broker had died before it was settled.
    house.chat.redeliver(&stop.root);
    house.chat.say("D1", None, "U1", "three");
    house.until("what came later runs", |house| house.times_given("three") == 1).await;
    house.until("it is settled", |house| house.counts().journal_unread == 0).await;
    assert_eq!(house.chat.posts(&stop).len(), 1);
}

/// Each message at the top of a direct message is a thread of its own, so nothing is there yet that could be stopped.
#[tokio::test(start_paused = true)]
async fn a_stop_right_behind_a_direct_message_reaches_it_on_its_way() {
    for is_looked_up in [false, true] {
        let house = House::new(|_| vec![Act::Pause]).await;
        if is_looked_up {
            house.chat.keep_names();
        }
        let one = house.chat.say("D1", None, "U1", "one");
        let stop = house.chat.say("D1", None, "U1", "-stop");
        assert_eq!(house.posts(&stop, 1).await, [prompt::STOPPED]);
        assert_eq!(house.store.inbox(&one)[0].state, InboxState::Cancelled);
        // The thread is there for whoever writes in it.
        house.chat.say("D1", Some(&one.root), "U1", "two");
        house.until("it is given", |house| house.times_given("two") == 1).await;
        assert_eq!(house.agent.given().len(), 1, "looked up: {is_looked_up}");
    }
}

#[tokio::test]
async fn what_comes_after_the_stop_that_was_written_behind_it_is_not_begun() {
    let house = House::new(|_| vec![Act::Finish(Some("done".to_owned()))]).await;
    let thread = house.chat.say("D1", None, "U1", "one");
    house.posts(&thread, 1).await;
    let top = house.chat.seed("D1", None, "U1", "two");
    let reply = house.chat.seed_reply(&thread, "U1", "three");
    let stop = house.chat.say("D1", None, "U1", "-stop");
    assert_eq!(house.posts(&stop, 1).await, [prompt::NOTHING_TO_STOP]);
    for late in [&top.root, &reply] {
        house.chat.redeliver(late);
    }
    let is_in = |house: &House, thread: &ThreadKey, count| house.store.inbox(thread).len() == count;
    house.until("both are in", |house| is_in(house, &top, 1) && is_in(house, &thread, 2)).await;
    house.until("all is settled", |house| house.counts().journal_unread == 0).await;
    house.chat.say("D1", Some(&thread.root), "U1", "four");
    house.until("what came after it is given", |house| house.times_given("four") == 1).await;
    assert_eq!(house.agent.given().len(), 2);
}

#[tokio::test]
async fn a_stop_of_a_direct_message_that_no_event_told_of_is_found() {
    let mut house = House::new(|_| vec![Act::Pause]).await;
    house.broker = None;
    house.agent.crash().await;
    house.agent = house.agent.successor();
    let one = house.chat.seed("D1", None, "U1", "one");
    let stop = house.chat.seed("D1", None, "U1", "-stop");
    house.chat.seed("D1", None, "U1", "two");
    house.start().await;
    house.until("what came after it runs", |house| house.times_given("two") == 1).await;
    house.until("all is settled", |house| house.counts().journal_unread == 0).await;
    assert_eq!(house.store.inbox(&one)[0].state, InboxState::Cancelled);
    assert_eq!(house.posts(&stop, 1).await, [prompt::STOPPED]);
    // Nothing is stopped, and nobody is told, when the next broker finds it again.
    house.restart().await;
    house.first_pass().await;
    house.until("all is settled", |house| house.counts().journal_unread == 0).await;
    assert_eq!(house.chat.posts(&stop).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_of_a_direct_message_does_not_wait_for_a_thread_that_is_left_alone() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let [ill, well] = ["one", "two"].map(|text| house.chat.say("D1", None, "U1", text));
    house.until("both run", |house| house.agent.given().len() == 2).await;
    let until = house.broker().shared.registry.fell(&ill, house.clock.now());
    let stop = house.chat.say("D1", None, "U1", "-stop");
    assert_eq!(house.posts(&stop, 1).await, [prompt::stopped_in_part(true)]);
    let is_stopped = |house: &House, thread: &ThreadKey| house.record(thread).unwrap().stopped_at > ChatTime::ZERO;
    assert!(is_stopped(&house, &well) && !is_stopped(&house, &ill));
    house.clock.sleep_until(until).await;
    house.until("it is stopped too", |house| is_stopped(house, &ill)).await;
    house.until("all is settled", |house| house.counts().journal_unread == 0).await;
    assert_eq!(house.chat.posts(&stop).len(), 1);
}

/// Whoever listens to a conversation no longer cannot end what begins there.
#[tokio::test]
async fn a_conversation_that_may_yet_take_something_is_not_closed_when_it_is_given_up() {
    for in_doubt in [true, false] {
        let house = House::new(|_| finish("hello")).await;
        if in_doubt {
            house.agent.fail_submit(SubmitError::Unknown { limit: Duration::from_secs(30) });
        }
        let thread = house.chat.say("C1", None, "U1", "@broker one");
        let row = |house: &House| house.store.inbox(&thread).first().map(|row| (row.state, row.attempts));
        let tried = if in_doubt { (InboxState::Given, 1) } else { (InboxState::Delivered, 0) };
        house.until("it was tried", |house| row(house) == Some(tried)).await;
        if !in_doubt {
            house.posts(&thread, 1).await;
        }
        let before = house.chat.posts(&thread).len();
        house.chat.say("C1", Some(&thread.root), "U1", "-new");
        house.posts(&thread, before + 1).await;
        house.chat.say("C1", Some(&thread.root), "U1", "two");
        house.until("it is given", |house| house.times_given("two") == 1).await;
        assert_eq!(house.agent.open_threads(), 1 + usize::from(in_doubt), "in doubt: {in_doubt}");
    }
}
