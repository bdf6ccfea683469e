//! Messages that are changed, deleted, put aside; turns that wait for each other.

use super::*;
use crate::engine::AskError;
use crate::session::MAX_ATTEMPTS;

fn held() -> impl Fn(&AgentInput) -> Vec<Act> {
    |_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]
}

impl House {
    /// A house in which one turn runs at a time, and that turn: the thread waits for nothing, all others for it.
    async fn occupied() -> (Self, ThreadKey) {
        let mut house = Self::new(held()).await;
        house.settings.max_active_turns = 1;
        house.restart().await;
        let first = house.chat.say("C1", None, "U1", "@broker first");
        house.until("the turn runs", |house| house.agent.given().len() == 1).await;
        (house, first)
    }

    /// Waits until everything that was said before this has reached its session.
    async fn settled(&self) {
        let before = self.counts().journal_unreadable;
        self.chat.deliver_raw(&format!("mark-{before}"), b"a mark behind what was said");
        self.until("the mark is read", |house| house.counts().journal_unreadable > before).await;
        self.until("all is with its session", |house| house.broker().shared.registry.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn so_many_turns_run_at_once_and_the_others_follow_in_their_order() {
    let (house, first) = House::occupied().await;
    let second = house.chat.say("C1", None, "U1", "@broker second");
    house.until("it waits", |house| house.broker().turns().waiting == 1).await;
    let third = house.chat.say("C1", None, "U1", "@broker third");
    house.until("both wait", |house| house.broker().turns().waiting == 2).await;
    assert_eq!(house.broker().turns().active, 1);
    house.chat.say("C1", Some(&first.root), "U1", "into the turn that runs");
    house.until("it joins", |house| house.agent.given().len() == 2).await;
    assert_eq!((house.times_given("second"), house.times_given("third")), (0, 0));
    for (thread, next) in [(&first, 3), (&second, 4), (&third, 4)] {
        house.agent.resume();
        assert_eq!(house.posts(thread, 1).await, ["done"]);
        house.until("the next one begins", |house| house.agent.given().len() == next).await;
    }
    house.until("nobody holds a place", |house| house.broker().turns().active == 0).await;
}

#[tokio::test]
async fn a_drain_begins_no_turn_that_waited() {
    let (mut house, first) = House::occupied().await;
    let second = house.chat.say("C1", None, "U1", "@broker second");
    house.until("it waits", |house| house.broker().turns().waiting == 1).await;
    let broker = house.broker.take().unwrap();
    let drain = tokio::spawn(broker.drain(LIMIT));
    house.agent.resume();
    drain.await.unwrap();
    assert_eq!(house.chat.posts(&first), ["done"]);
    assert_eq!(house.times_given("second"), 0);
    house.agent = house.agent.successor();
    house.start().await;
    house.until("the next broker begins it", |house| house.times_given("second") == 1).await;
    house.agent.resume();
    assert_eq!(house.posts(&second, 1).await, ["done"]);
}

#[tokio::test]
async fn a_change_before_it_is_given_replaces_the_text_and_a_deletion_takes_it_back() {
    let (house, first) = House::occupied().await;
    let changed = house.chat.say("C1", None, "U1", "@broker draft");
    let deleted = house.chat.say("C1", None, "U1", "@broker mistake");
    house.until("both wait", |house| house.broker().turns().waiting == 2).await;
    house.chat.edit(&changed.root, "@broker as it should be");
    house.chat.delete(&deleted.root);
    house.settled().await;
    house.agent.resume();
    house.posts(&first, 1).await;
    house.until("it is given", |house| house.times_given("as it should be") == 1).await;
    house.agent.resume();
    house.posts(&changed, 1).await;
    house.until("all is done", |house| house.broker().shared.registry.busy() == 0).await;
    assert_eq!((house.times_given("draft"), house.times_given("mistake")), (0, 0));
    assert_eq!(house.agent.given().len(), 2, "and nothing was said of a change");
}

impl House {
    /// One whose agent has answered a message, and is told of changes or is not.
    async fn that_answered(told: bool) -> (Self, ThreadKey) {
        let mut house = Self::new(|_| finish("hello")).await;
        house.settings.deliver_edits = told;
        house.restart().await;
        let thread = house.chat.say("C1", None, "U1", "@broker one");
        house.posts(&thread, 1).await;
        (house, thread)
    }

    /// Waits until every event is read and what it asks for is done.
    async fn all_done(&self) {
        self.settled().await;
        self.until("all is done", |house| house.broker().shared.registry.busy() == 0).await;
    }
}

#[tokio::test]
async fn a_change_after_it_was_given_is_told_unless_that_is_switched_off() {
    for told in [true, false] {
        let (house, thread) = House::that_answered(told).await;
        house.chat.edit(&thread.root, "@broker two");
        house.all_done().await;
        assert_eq!(house.times_given("two"), usize::from(told));
        assert_eq!(house.times_given("has changed it"), usize::from(told));
    }
}

#[tokio::test]
async fn a_deletion_after_it_was_given_is_told_once_unless_that_is_switched_off() {
    for told in [true, false] {
        let (house, thread) = House::that_answered(told).await;
        house.chat.say("C1", Some(&thread.root), "U1", "two");
        house.posts(&thread, 2).await;
        house.chat.delete(&thread.root);
        house.all_done().await;
        // The platform says it once more.
        house.chat.delete(&thread.root);
        house.all_done().await;
        assert_eq!(house.times_given("was deleted"), usize::from(told));
        // What is left of it holds its place, so that nobody takes the reply for one to something else.
        let messages = house.broker().door().earlier(&thread, None, None).await.unwrap().messages;
        let shown: Vec<_> = messages.iter().map(|known| (known.message.deleted, known.message.text.as_str())).collect();
        assert_eq!(shown, [(true, ""), (false, "two")]);
    }
}

#[tokio::test]
async fn a_change_that_was_read_as_unread_and_settled_since_is_not_told_again() {
    let house = House::new(|_| finish("hello")).await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.posts(&thread, 1).await;
    house.settled().await;
    house.chat.edit(&thread.root, "@broker two");
    house.until("it is told", |house| house.times_given("has changed it") == 1).await;
    house.until("all is done", |house| house.broker().shared.registry.busy() == 0).await;
    // What a search of the journal, or the link, had in hand while the session settled it.
    let in_hand = house.store.journal().pop().unwrap();
    assert!(house.store.unread(None, 10).await.unwrap().is_empty());
    router::route(&house.broker().shared, in_hand, true).await;
    house.settled().await;
    house.until("all is done", |house| house.broker().shared.registry.busy() == 0).await;
    assert_eq!(house.times_given("has changed it"), 1);
    assert_eq!(house.broker().shared.registry.in_flight(), 0);
}

#[tokio::test]
async fn a_change_or_a_deletion_that_overtakes_its_message_is_not_lost() {
    let house = House::new(|_| finish("hello")).await;
    house.first_pass().await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    // In a thread with a session.
    let changed = house.chat.seed_reply(&thread, "U1", "draft");
    house.chat.edit(&changed, "as it should be");
    house.until("it is given as it is now", |house| house.times_given("as it should be") == 1).await;
    let deleted = house.chat.seed_reply(&thread, "U1", "mistake");
    house.chat.delete(&deleted);
    house.settled().await;
    house.chat.redeliver(&changed);
    house.chat.redeliver(&deleted);
    house.settled().await;
    // Before there is one.
    let late = house.chat.seed("C1", None, "U1", "@broker (its event is late)");
    house.chat.edit(&late.root, "@broker what it became");
    house.until("it is given", |house| house.times_given("what it became") == 1).await;
    house.chat.redeliver(&late.root);
    let never = house.chat.seed("C1", None, "U1", "@broker taken back");
    house.chat.delete(&never.root);
    house.until("it waits for its message", |house| house.store.unrouted() == 1).await;
    house.chat.redeliver(&never.root);
    house.settled().await;
    house.until("all is done", |house| house.broker().shared.registry.busy() == 0).await;
    for word in ["draft", "mistake", "late", "has changed it"] {
        assert_eq!(house.times_given(word), 0, "{word}");
    }
}

#[tokio::test]
async fn what_was_put_aside_is_taken_up_by_a_retry() {
    let mut house = House::new(|_| finish("hello")).await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    for _ in 0..MAX_ATTEMPTS {
        house.agent.fail_submit(SubmitError::Refused { reason: "no".to_owned() });
    }
    house.chat.say("C1", Some(&thread.root), "U1", "difficult");
    for failures in 1..MAX_ATTEMPTS {
        house.until("a try fails", |house| house.store.inbox(&thread).iter().any(|row| row.attempts == failures)).await;
        // Nobody waits for the next one.
        assert_eq!(house.broker().retry(&thread).await, Ok(()));
    }
    assert!(house.posts(&thread, 2).await[1].contains("put aside"));
    house.restart().await;
    assert_eq!(house.broker().retry(&thread).await, Ok(()));
    house.until("it is given", |house| house.times_given("difficult") == 1).await;
    let unknown = ThreadKey { root: crate::chat::MessageId::new("7"), ..thread };
    assert_eq!(house.broker().retry(&unknown).await, Err(AskError::NoSession));
}
