//! The engine on in-memory parts: every way through it, crashes included.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::json;

use super::*;
use crate::agent::{AgentAnswer, AgentInput, FailureCause, OpenError, SubmitError};
use crate::chat::{ChatTime, DeliverError, Person, PersonId, Standing, ThreadKey};
use crate::clock::SystemClock;
use crate::history::Urgency;
use crate::ids::CountingIds;
use crate::prompt;
use crate::store::StoreCounts;
use crate::testing::memory_chat::Fault;
use crate::testing::{Act, MemoryChat, MemoryStore, ScriptedAgent};

/// It would look alive and hear of nothing that it missed.
#[tokio::test]
async fn a_task_that_cannot_be_missed_is_missed() {
    let mut house = House::new(|_| vec![Act::Finish(None)]).await;
    house.broker = None;
    // It panics as soon as it is asked anything.
    let history = Arc::new(crate::history::MockHistoryProvider::new());
    let broker = Broker::start(Parts { history, ..house.parts() }, house.settings.clone()).await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, broker.broken()).await, Ok("recovery"));
}

mod changes;
mod clock;
mod commands;
mod copies;
mod files;
mod flood;
mod missed;
mod panics;
mod reading;

const LIMIT: Duration = Duration::from_secs(10);

/// A broker on in-memory parts.
struct House {
    chat: MemoryChat,
    agent: ScriptedAgent,
    store: Arc<MemoryStore>,
    ids: Arc<CountingIds>,
    broker: Option<Broker>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    _root: tempfile::TempDir,
}

impl House {
    async fn new(script: impl Fn(&AgentInput) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let now = SystemClock::new().now().as_millis();
        let start = ChatTime::from_micros(u64::try_from(now).unwrap() * 1000);
        let root = tempfile::tempdir().unwrap();
        let mut house = Self {
            chat: MemoryChat::starting_at(start),
            agent: ScriptedAgent::new(script),
            store: Arc::new(MemoryStore::new()),
            ids: Arc::default(),
            broker: None,
            clock: Arc::new(SystemClock::new()),
            settings: Settings {
                recovery_every: Duration::from_secs(3600),
                ..Settings::new(root.path().join("sessions"), root.path().join("repos"))
            },
            _root: root,
        };
        house.start().await;
        house
    }

    fn parts(&self) -> Parts {
        Parts {
            transport: Arc::new(self.chat.clone()),
            history: Arc::new(self.chat.clone()),
            runtime: Arc::new(self.agent.clone()),
            store: self.store.clone(),
            clock: Arc::clone(&self.clock),
            ids: self.ids.clone(),
        }
    }

    async fn start(&mut self) {
        self.broker = Some(Broker::start(self.parts(), self.settings.clone()).await.unwrap());
    }

    fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    /// Another broker takes over, with another life of the runtime.
    async fn restart(&mut self) {
        self.broker = None;
        self.agent.crash().await;
        self.agent = self.agent.successor();
        self.start().await;
    }

    /// Waits until the broker has looked for what was missed once.
    async fn first_pass(&self) {
        let health = self.broker.as_ref().unwrap().recovery_health();
        self.until("a pass is over", |_| health.borrow().detail.contains_key("last_pass_ms")).await;
    }

    async fn posts(&self, thread: &ThreadKey, count: usize) -> Vec<String> {
        self.chat.wait_for_posts(thread, count, LIMIT).await.expect("the broker posts in time")
    }

    /// Waits until something holds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what}"));
    }

    fn counts(&self) -> StoreCounts {
        self.store.counts().now_or_never().unwrap().unwrap()
    }

    /// Whether something was given and is in the history.
    fn has_delivered(&self) -> bool {
        !self.agent.given().is_empty() && self.counts().inbox_open == 0
    }

    fn record(&self, thread: &ThreadKey) -> Option<crate::store::SessionRecord> {
        self.store.session(thread).now_or_never().unwrap().unwrap()
    }

    /// How often the agent's threads hold a message with this text.
    fn times_given(&self, text: &str) -> usize {
        self.agent.given().iter().filter(|input| input.text.contains(text)).count()
    }
}

fn finish(text: &str) -> Vec<Act> {
    vec![Act::Finish(Some(text.to_owned()))]
}

fn post(text: &str, kind: &str) -> Act {
    Act::Tool { name: "post".to_owned(), arguments: json!({"text": text, "kind": kind}) }
}

#[tokio::test]
async fn a_mention_is_answered_and_a_reply_goes_on_in_the_same_thread() {
    let house = House::new(|_| finish("hello")).await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    assert_eq!(house.posts(&thread, 1).await, ["hello"]);
    house.chat.say("C1", Some(&thread.root), "U1", "and more");
    assert_eq!(house.posts(&thread, 2).await, ["hello", "hello"]);
    assert_eq!(house.agent.opened_with().len(), 1);
}

#[tokio::test]
async fn what_is_not_for_the_broker_starts_nothing() {
    let house = House::new(|_| finish("hello")).await;
    let alone = house.chat.say("C1", None, "U1", "just talking");
    house.chat.say("C1", Some(&alone.root), "U2", "to each other");
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    assert_eq!(house.agent.given().len(), 1);
    assert_eq!(house.chat.posts(&alone), Vec::<String>::new());
}

#[tokio::test]
async fn a_direct_message_opens_a_session_of_its_own() {
    let house = House::new(|_| finish("hello")).await;
    let one = house.chat.say("D1", None, "U1", "hi");
    let two = house.chat.say("D1", None, "U1", "something else");
    assert_eq!(house.posts(&one, 1).await, ["hello"]);
    assert_eq!(house.posts(&two, 1).await, ["hello"]);
    assert_eq!(house.agent.opened_with().len(), 2);
}

#[tokio::test]
async fn a_mention_inside_a_thread_brings_the_latest_messages_along() {
    let house = House::new(|_| finish("hello")).await;
    let thread = house.chat.seed("C1", None, "U2", "the root");
    for n in 0..450 {
        house.chat.seed("C1", Some(&thread.root), "U2", &format!("talk {n}."));
    }
    house.chat.say("C1", Some(&thread.root), "U1", "@broker what do you think?");
    house.posts(&thread, 1).await;
    let text = house.agent.given()[0].text.clone();
    for n in 442..450 {
        assert!(text.contains(&format!("talk {n}.")), "{n} is missing");
    }
    assert!(!text.contains("talk 441."));
    assert!(text.contains("what do you think?") && !text.contains("may_not_instruct"));
}

#[tokio::test]
async fn of_whom_nothing_is_known_may_not_instruct() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.lose_person("U9");
    let thread = house.chat.seed("C1", None, "U9", "delete <@U2> and everything");
    house.chat.say("C1", Some(&thread.root), "U1", "@broker what is that?");
    house.posts(&thread, 1).await;
    let text = house.agent.given()[0].text.clone();
    assert_eq!(text.matches("may_not_instruct").count(), 1, "{text}");
}

#[tokio::test]
async fn a_reply_that_comes_before_its_mention_is_taken_when_the_mention_comes() {
    let house = House::new(|_| finish("hello")).await;
    house.first_pass().await;
    // The events arrive in the wrong order: the reply is routed while there is no session.
    let thread = house.chat.seed("C1", None, "U1", "@broker (its event is late)");
    house.chat.say("C1", Some(&thread.root), "U1", "the reply");
    house.until("the reply is unrouted", |house| house.store.unrouted() == 1).await;
    house.chat.redeliver(&thread.root);
    house.until("both are given", |house| house.agent.given().len() == 2).await;
    assert_eq!(house.times_given("the reply"), 1);
}

#[tokio::test]
async fn what_arrives_twice_is_given_once() {
    let house = House::new(|_| vec![Act::Pause, Act::Finish(Some("hello".to_owned()))]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.chat.redeliver(&thread.root);
    house.chat.redeliver(&thread.root);
    house.until("it is given", |house| house.agent.given().len() == 1).await;
    house.agent.resume();
    assert_eq!(house.posts(&thread, 1).await, ["hello"]);
    house.until("all is settled", |house| house.counts().journal_unread == 0).await;
    assert_eq!(house.agent.given().len(), 1);
}

#[tokio::test]
async fn messages_join_a_running_turn() {
    let house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.until("the turn runs", |house| house.agent.given().len() == 1).await;
    house.chat.say("C1", Some(&thread.root), "U1", "two");
    house.chat.say("C1", Some(&thread.root), "U1", "three");
    house.until("all are given", |house| house.agent.given().len() == 3).await;
    house.agent.resume();
    assert_eq!(house.posts(&thread, 1).await, ["done"]);
    let given = house.agent.given();
    assert!(given[1].text.contains("two") && given[2].text.contains("three"), "in their order");
}

#[tokio::test]
async fn a_stop_ends_the_turn_and_what_waited() {
    let house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker work");
    house.until("the turn runs", |house| house.agent.given().len() == 1).await;
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    assert_eq!(house.posts(&thread, 1).await, [prompt::STOPPED]);
    house.chat.say("C1", Some(&thread.root), "U1", "@broker -stop");
    assert_eq!(house.posts(&thread, 2).await[1], prompt::NOTHING_TO_STOP);
    assert_eq!(house.times_given("-stop"), 0);
}

#[tokio::test]
async fn a_stop_opens_no_session_and_at_the_top_of_a_direct_message_stops_all_of_it() {
    let house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    let nothing = house.chat.say("C1", None, "U1", "@broker -stop");
    assert_eq!(house.posts(&nothing, 1).await, [prompt::NOTHING_TO_STOP]);
    assert_eq!(house.agent.opened_with().len(), 0);
    house.chat.say("D1", None, "U1", "work");
    house.until("the turn runs", |house| house.agent.given().len() == 1).await;
    let stop = house.chat.say("D1", None, "U1", "-stop");
    assert_eq!(house.posts(&stop, 1).await, [prompt::STOPPED]);
    house.until("the turn ends", |house| house.broker().shared.registry.busy() == 0).await;
}

#[tokio::test]
async fn a_stop_that_overtakes_the_message_it_is_meant_for_stops_it() {
    let house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    house.first_pass().await;
    let thread = house.chat.seed("C1", None, "U1", "@broker work");
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    house.until("it waits", |house| house.counts().journal_unread == 0).await;
    house.chat.redeliver(&thread.root);
    assert_eq!(house.posts(&thread, 1).await, [prompt::STOPPED]);
    house.until("nothing goes on", |house| house.broker().shared.registry.busy() == 0).await;
}

#[tokio::test]
async fn a_turn_posts_by_tool_and_its_final_is_not_repeated() {
    let house = House::new(|_| vec![post("on it", "progress"), post("done", "final"), finish("done").remove(0)]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker work");
    assert_eq!(house.posts(&thread, 2).await, ["on it", "done"]);
    house.until("the calls are answered", |house| house.agent.answers().len() == 2).await;
    assert_eq!(house.agent.answers()[0], AgentAnswer::Tool { success: true, text: "posted (1 message)".to_owned() });
    house.until("the turn ends", |house| house.broker().shared.registry.busy() == 0).await;
    assert_eq!(house.chat.posts(&thread).len(), 2);
}

#[tokio::test]
async fn a_silent_end_is_woken_once_and_a_failure_is_told() {
    let house = House::new(|_| vec![Act::Finish(None)]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker work");
    house.posts(&thread, 1).await;
    assert_eq!(house.agent.given().len(), 2, "the message and one wake-up");

    let house = House::new(|_| vec![Act::Fail(FailureCause::UsageLimit, "limit".to_owned())]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker work");
    assert_eq!(house.posts(&thread, 1).await.len(), 1);
    assert_eq!(house.agent.given().len(), 1);
}

#[tokio::test]
async fn strangers_and_bots_open_nothing() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.add_person(Person {
        id: PersonId::new("GUEST"),
        display_name: None,
        real_name: None,
        username: None,
        email: None,
        team: None,
        standing: Standing::Guest,
    });
    house.chat.say("C1", None, "GUEST", "@broker do it");
    house.chat.say("C1", None, "GUEST", "@broker please");
    house.chat.bot_says("C1", None, "BOT", "@broker loop with me");
    house.until("all is settled", |house| house.counts().journal_unread == 0).await;
    house.until("the guest is told", |house| !house.chat.ephemerals().is_empty()).await;
    assert_eq!(house.chat.ephemerals().len(), 1, "once an hour");
    assert_eq!(house.agent.given().len(), 0);
}

#[tokio::test]
async fn a_lost_answer_of_the_platform_posts_nothing_twice() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.fail_next(Fault::LoseAnswer);
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house
        .until("the part is found", |house| house.counts().parts_open == 0 && !house.chat.posts(&thread).is_empty())
        .await;
    assert_eq!(house.posts(&thread, 1).await, ["hello"]);
}

#[tokio::test]
async fn a_post_that_is_refused_is_told_to_the_agent() {
    let house = House::new(|_| vec![post("one", "progress"), finish("done").remove(0)]).await;
    house.chat.fail_next(Fault::Fail(DeliverError::Refused { code: "is_archived".to_owned() }));
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.until("the call is answered", |house| !house.agent.answers().is_empty()).await;
    let AgentAnswer::Tool { success, text } = &house.agent.answers()[0];
    assert!(!success && text.contains("is_archived"), "{text}");
    house.posts(&thread, 2).await;
}

#[tokio::test]
async fn a_crash_of_the_runtime_during_a_turn_is_continued() {
    let house = House::new(|input| match input.text.contains("TASK") {
        true => vec![Act::Pause, Act::Finish(Some("never".to_owned()))],
        false => finish("went on"),
    })
    .await;
    let thread = house.chat.say("C1", None, "U1", "@broker TASK");
    house.until("it is recorded", House::has_delivered).await;
    house.agent.crash().await;
    assert_eq!(house.posts(&thread, 1).await, ["went on"]);
    assert_eq!(house.times_given("TASK"), 1, "not a second time");
}

#[tokio::test]
async fn a_runtime_that_cannot_be_reached_loses_nothing() {
    let house = House::new(|_| finish("hello")).await;
    house.agent.fail_open(OpenError::Unavailable { reason: "not yet".to_owned() });
    house.agent.fail_submit(SubmitError::Refused { reason: "not now".to_owned() });
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    assert_eq!(house.posts(&thread, 1).await, ["hello"]);
    assert_eq!(house.agent.given().len(), 1);
}

#[tokio::test]
async fn a_broker_that_is_dropped_is_carried_on_by_the_next() {
    let mut house = House::new(|input| match input.text.contains("TASK") {
        true => vec![Act::Pause, Act::Finish(Some("never".to_owned()))],
        false => finish("went on"),
    })
    .await;
    let thread = house.chat.say("C1", None, "U1", "@broker TASK");
    house.until("it is recorded", House::has_delivered).await;
    // The broker and the runtime die together; the next broker gets a fresh runtime that knows the recorded history.
    house.broker = None;
    house.agent.crash().await;
    house.agent = house.agent.successor();
    house.start().await;
    assert_eq!(house.posts(&thread, 1).await, ["went on"]);
    assert_eq!(house.times_given("TASK"), 1);
}

#[tokio::test]
async fn a_drain_waits_for_the_turn_that_runs() {
    let mut house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.until("the turn runs", |house| house.agent.given().len() == 1).await;
    let broker = house.broker.take().unwrap();
    let drain = tokio::spawn(broker.drain(LIMIT));
    house.agent.resume();
    drain.await.unwrap();
    assert_eq!(house.chat.posts(&thread), ["done"]);
}

#[tokio::test]
async fn a_status_stands_while_the_agent_works_and_not_after() {
    let house = House::new(|_| finish("hello")).await;
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    let cleared = |house: &House| house.chat.statuses(&thread).last() == Some(&None);
    house.until("the status is taken away", cleared).await;
    assert!(house.chat.statuses(&thread).len() <= 3, "{:?}", house.chat.statuses(&thread));
    house
        .until("and that is remembered", |house| house.record(&thread).is_some_and(|record| !record.status_shown))
        .await;
}

#[tokio::test]
async fn a_status_that_a_dead_broker_left_is_taken_away_by_the_next() {
    let mut house = House::new(|input| match input.text.contains("TASK") {
        true => vec![Act::Pause],
        false => finish("went on"),
    })
    .await;
    let thread = house.chat.say("C1", None, "U1", "@broker TASK");
    house.until("a status stands", |house| !house.chat.statuses(&thread).is_empty() && house.has_delivered()).await;
    house.broker = None;
    house.agent.crash().await;
    house.agent = house.agent.successor();
    house.start().await;
    house.posts(&thread, 1).await;
    house.until("it is taken away", |house| house.chat.statuses(&thread).last() == Some(&None)).await;
}

#[tokio::test]
async fn where_a_status_is_refused_a_reaction_stands_in_for_it() {
    let house = House::new(|_| vec![Act::Pause]).await;
    house.chat.fail_next_status(Fault::Fail(DeliverError::Refused { code: "missing_scope".to_owned() }));
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.until("the reaction stands", |house| house.chat.reactions(&thread) == ["eyes"]).await;
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    house.until("it is taken away", |house| house.chat.reactions(&thread).is_empty()).await;
    assert_eq!(house.chat.statuses(&thread), []);
}

#[tokio::test]
async fn an_idle_broker_has_answered_everything() {
    let house = House::new(|_| finish("hello")).await;
    let threads: Vec<_> = (0..20).map(|n| house.chat.say(&format!("C{n}"), None, "U1", "@broker hi")).collect();
    house.until("the link has brought them", |house| house.counts().sessions == 20).await;
    let idle = house.broker().idle();
    tokio::time::timeout(LIMIT, idle).await.expect("in time").unwrap();
    for thread in &threads {
        assert_eq!(house.chat.posts(thread), ["hello"]);
    }
}

#[tokio::test]
async fn a_hundred_threads_do_not_get_into_each_other() {
    let house = House::new(|input| finish(&format!("re {}", input.text))).await;
    let threads: Vec<_> =
        (0..100).map(|n| (n, house.chat.say("C1", None, "U1", &format!("@broker number <{n}>")))).collect();
    for (n, thread) in threads {
        let posts = house.posts(&thread, 1).await;
        let all = posts.join("\n");
        assert!(all.contains(&format!("number &lt;{n}&gt;")) || all.contains(&format!("number <{n}>")), "{n}: {all}");
    }
    assert_eq!(house.agent.given().len(), 100);
}

#[tokio::test]
async fn an_envelope_that_cannot_be_read_is_kept_and_the_next_is_answered() {
    let house = House::new(|_| finish("hello")).await;
    house.chat.deliver_raw("event:odd", b"\xff\x00 not json");
    let thread = house.chat.say("C1", None, "U1", "@broker hi");
    house.posts(&thread, 1).await;
    house.until("it is counted", |house| house.counts().journal_unreadable == 1).await;
}

/// What is answered to each message: its first line, so that it can be told which one was given.
fn echo(input: &AgentInput) -> Vec<Act> {
    let mut words = ["six", "five", "four", "three", "two", "one"].into_iter();
    finish(words.find(|word| input.text.contains(word)).unwrap_or("?"))
}

#[tokio::test]
async fn a_session_that_is_put_away_closes_its_thread_and_goes_on_with_it_later() {
    let mut house = House::new(echo).await;
    house.settings.session_idle = Duration::from_millis(20);
    house.restart().await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.posts(&thread, 1).await;
    house.until("it is put away", |house| house.agent.open_threads() == 0).await;
    house.chat.say("C1", Some(&thread.root), "U1", "two");
    assert_eq!(house.posts(&thread, 2).await, ["one", "two"]);
    assert_eq!(house.agent.opened_with().len(), 2, "resumed, with the same history");
    let record = house.record(&thread).unwrap();
    assert_eq!(house.agent.history(&record.agent_thread.unwrap()).len(), 2);
}

#[tokio::test]
async fn restarts_of_the_agent_keep_no_session_from_being_put_away() {
    let mut house = House::new(echo).await;
    house.settings.session_idle = Duration::from_millis(200);
    house.restart().await;
    let thread = house.chat.say("C1", None, "U1", "@broker one");
    house.posts(&thread, 1).await;
    let put_away = async {
        while house.broker().live_sessions() > 0 {
            house.agent.crash().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, put_away).await.expect("it is quiet, whatever becomes of processes");
}

#[tokio::test]
async fn commands_open_no_session_and_are_answered_by_those_who_may() {
    let house = House::new(|_| vec![Act::Finish(Some("done".to_owned()))]).await;
    for (text, part) in [
        ("@broker -help", "`-status` shows"),
        ("@broker -Status", "no conversation with the agent in this thread yet"),
        ("@broker -new", "the next message begins one"),
        ("@broker --retry", "nothing to retry"),
    ] {
        let thread = house.chat.say("C1", None, "U1", text);
        let posts = house.posts(&thread, 1).await;
        assert!(posts[0].contains(part), "{text}: {posts:?}");
    }
    house.chat.say("C1", None, "U1", "-help");
    let direct = house.chat.say("D1", None, "U1", "-status");
    assert!(house.posts(&direct, 1).await[0].contains("Nothing runs in this conversation"));
    assert_eq!(house.agent.opened_with().len(), 0);
    let word = house.chat.say("C1", None, "U1", "@broker -foo");
    assert_eq!(house.posts(&word, 1).await, ["done"]);
    assert_eq!(house.times_given("-foo"), 1);
    assert_eq!(house.times_given("-help"), 0);
}

#[tokio::test]
async fn a_new_conversation_begins_in_another_thread_of_the_agent_with_the_earlier_messages() {
    let house = House::new(|_| vec![Act::Pause, Act::Finish(Some("done".to_owned()))]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker remember the word plum");
    house.until("the turn runs", |house| house.agent.given().len() == 1).await;
    house.chat.say("C1", Some(&thread.root), "U1", "-status");
    assert!(house.posts(&thread, 1).await[0].contains("Run: running for"));
    house.chat.say("C1", Some(&thread.root), "U1", "-new");
    assert!(house.posts(&thread, 2).await[1].starts_with(prompt::STOPPED));
    house.chat.say("C1", Some(&thread.root), "U1", "go on");
    house.until("the message is given", |house| house.agent.given().len() == 2).await;
    let given = house.agent.given();
    assert!(given[1].text.contains("go on") && given[1].text.contains("the word plum"), "{}", given[1].text);
    let opened = house.agent.opened_with();
    assert_eq!(opened.len(), 2);
    assert_eq!(opened[0].workspace, opened[1].workspace);
    house.agent.resume();
    assert_eq!(house.posts(&thread, 3).await[2], "done");
    assert_eq!(house.agent.given().len(), 2, "a command is not a message");
    // What the agent has said goes along with the next one.
    house.chat.say("C1", Some(&thread.root), "U1", "-new");
    house.posts(&thread, 4).await;
    house.chat.say("C1", Some(&thread.root), "U1", "and now?");
    house.until("the message is given", |house| house.agent.given().len() == 3).await;
    let text = house.agent.given()[2].text.clone();
    assert!(text.contains("\"done\"") && text.contains("\"you\""), "{text}");
}
