//! Something of what the broker was given to work with breaks: that costs its thread a moment, and no other thread anything.

use super::*;
use crate::chat::{OpKey, PartBody};
use crate::store::{OwnerId, PartRow, PartState, PostId, PostKind, SessionCommit};

#[tokio::test]
async fn a_post_that_panics_is_looked_up_and_not_repeated() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.fail_next(Fault::Panic);
    let broken = house.chat.say("C1", None, "U1", "@broker hi");
    let other = house.chat.say("C2", None, "U1", "@broker hi");
    for thread in [&broken, &other] {
        assert_eq!(house.posts(thread, 1).await, ["hello"]);
    }
    house.until("nobody waits for it", |house| house.counts().parts_open == 0).await;
    assert_eq!(house.chat.posts(&broken).len(), 1);
}

#[tokio::test]
async fn a_status_that_panics_does_not_stay() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.fail_next_status(Fault::Panic);
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    let nothing_stands = |house: &House| house.broker().shared.statuses.is_empty();
    house.until("nobody is owed a status any more", nothing_stands).await;
    assert_eq!(house.chat.statuses(&thread).last(), Some(&None), "nobody knows what it left behind");
}

#[tokio::test]
async fn a_session_that_panics_goes_on_from_its_rows() {
    let house = House::new(|input| finish(if input.text.contains("alpha") { "boom" } else { "well" })).await;
    house.chat.break_on("boom");
    let broken = house.chat.say("C1", None, "U1", "@broker alpha");
    house.until("it has panicked", |house| house.broker().shared.registry.has_fallen(&broken)).await;
    // Something for a session that is left alone waits in the journal.
    house.chat.say("C1", Some(&broken.root), "U1", "beta");
    let other = house.chat.say("C2", None, "U1", "@broker beta");
    assert_eq!(house.posts(&other, 1).await, ["well"]);
    house.until("what was said meanwhile is answered", |house| house.times_given("beta") == 2).await;
    house.until("nothing is open", |house| house.counts().inbox_open == 0 && house.counts().parts_open == 0).await;
    assert_eq!(house.times_given("alpha"), 1, "what the agent has is not given again");
    let said = house.chat.posts(&broken);
    assert!(said.iter().any(|text| text == "well"), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_breaks_down_again_and_again_shows_in_the_health() {
    let house = House::new(|_| finish("hello")).await;
    let (broker, thread) = (house.broker(), house.chat.say("C1", None, "U1", "@broker hi"));
    house.posts(&thread, 1).await;
    for panics in 1..=vital::BROKEN {
        assert!(broker.session_health().ok, "{panics}");
        let until = broker.shared.registry.fell(&thread, house.clock.now());
        assert_eq!(broker.session_health().detail["resting"], 1);
        house.clock.sleep_until(until).await;
    }
    let health = broker.session_health();
    assert!(!health.ok && !health.reason.unwrap().contains("C1"), "no name for whoever asks");
    assert_eq!(health.detail["resting"], 0);
    house.clock.sleep_until(house.clock.now().plus(vital::FORGIVEN)).await;
    assert!(broker.session_health().ok);
}

/// Its step was durable and its effects never ran: whoever takes the session up sees to it.
#[tokio::test]
async fn a_post_of_which_the_sender_never_heard_is_sent() {
    let house = House::new(|input| if input.text.contains("more") { vec![Act::Pause] } else { finish("hello") }).await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    house.until("nothing is open", |house| house.has_delivered() && house.counts().parts_open == 0).await;
    let (fence, rows) = house.store.claim(&thread, &OwnerId::new("another")).await.unwrap();
    let (id, now) = (OpKey::new("forgotten"), house.clock.now());
    let body = PartBody::Text { markup: "forgotten".to_owned() };
    let part = PartRow {
        id,
        thread: thread.clone(),
        post: PostId::new("forgotten"),
        place: 99,
        number: 1,
        of: 1,
        kind: PostKind::Notice,
        turn: None,
        fingerprint: None,
        body,
        state: PartState::Queued,
        attempts: 0,
        attempted_at: None,
        first_attempt_at: None,
        look_ups: 0,
        not_before: now,
        message: None,
        error: None,
        created_at: now,
    };
    let planned = SessionCommit { parts: vec![part], ..SessionCommit::empty(thread.clone(), fence, rows.revision) };
    house.store.commit(planned).await.unwrap();
    house.chat.say("C1", Some(&thread.root), "U1", "more");
    assert_eq!(house.posts(&thread, 2).await, ["hello", "forgotten"]);
}

#[tokio::test]
async fn an_answer_that_never_comes_because_its_maker_panicked_is_not_waited_for() {
    let mut house = House::new(|_| finish("hello")).await;
    house.broker = None;
    house.agent.crash().await;
    house.agent = house.agent.successor();
    let history = Arc::new(Breaking { inner: house.chat.clone(), breaks: Default::default() });
    let parts = Parts { history: Arc::clone(&history) as _, ..house.parts() };
    house.broker = Some(Broker::start(parts, house.settings.clone()).await.unwrap());
    house.first_pass().await;
    history.breaks.store(true, std::sync::atomic::Ordering::Relaxed);
    let root = house.chat.seed("C1", None, "U2", "earlier").root;
    let thread = house.chat.say("C1", Some(&root), "U1", "@broker hi");
    assert_eq!(house.posts(&thread, 1).await, ["hello"], "its earlier messages were read by another task");
}

/// A history that panics once when it is told to.
struct Breaking {
    inner: MemoryChat,
    breaks: std::sync::atomic::AtomicBool,
}

#[async_trait::async_trait]
impl crate::history::HistoryProvider for Breaking {
    async fn page(
        &self,
        thread: &ThreadKey,
        range: std::ops::Range<ChatTime>,
        limit: usize,
        cursor: Option<crate::history::Cursor>,
        urgency: Urgency,
    ) -> Result<crate::history::Page, crate::history::HistoryError> {
        let breaks = self.breaks.swap(false, std::sync::atomic::Ordering::Relaxed);
        assert!(!breaks, "as it was told to");
        self.inner.page(thread, range, limit, cursor, urgency).await
    }

    async fn heads(
        &self,
        conversation: &crate::chat::ConversationKey,
        since: ChatTime,
        cursor: Option<crate::history::Cursor>,
    ) -> Result<crate::history::HeadsPage, crate::history::HistoryError> {
        self.inner.heads(conversation, since, cursor).await
    }

    fn time_of(&self, message: &crate::chat::MessageId) -> Option<ChatTime> {
        self.inner.time_of(message)
    }

    async fn conversations(&self) -> Result<Vec<crate::chat::ConversationKey>, crate::history::HistoryError> {
        self.inner.conversations().await
    }
}
