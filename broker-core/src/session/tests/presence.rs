//! What stands beside the thread, and whom the agent may mention.

use super::*;
use crate::agent::Activity;
use crate::chat::{Mentionable, Person, Standing};

const THINKING: Option<&str> = Some("is thinking…");

impl Rig {
    fn settle_status(&mut self) {
        let generation = self.asked;
        self.step(SessionInput::StatusSettled { generation });
    }

    fn doing(&mut self, turn: &str, activity: Activity) {
        let (thread, turn) = (AgentThreadId::new("th"), TurnId::new(turn));
        self.step(SessionInput::Agent(AgentEvent::Doing { thread, turn, activity }));
    }

    fn may_be_shown(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.status_shown)
    }

    fn people(&self) -> Vec<(String, Vec<String>)> {
        let people = self.record.as_ref().map(|record| record.people.clone()).unwrap_or_default();
        people.into_iter().map(|Mentionable { id, names }| (id.to_string(), names)).collect()
    }
}

#[test]
fn a_status_stands_from_the_message_to_the_end_of_the_turn() {
    let mut rig = Rig::begun();
    assert_eq!(rig.statuses, [THINKING], "before the agent has anything");
    rig.open(1);
    rig.accept("s-i1", "t1");
    rig.record("s-i1", "t1");
    assert_eq!(rig.statuses, [THINKING], "said once");
    rig.doing("t1", Activity::RunningCommand);
    rig.doing("t1", Activity::RunningCommand);
    rig.doing("another", Activity::SearchingWeb);
    rig.doing("t1", Activity::Thinking);
    assert_eq!(rig.statuses[1..], [Some("is running a command…"), THINKING]);
    rig.finish("t1", Some("done"));
    assert_eq!(rig.statuses.last(), Some(&None));
    assert!(rig.may_be_shown(), "until it was taken away");
    rig.settle_status();
    assert!(!rig.may_be_shown());
}

#[test]
fn every_way_out_of_a_turn_takes_it_away() {
    type Way = fn(&mut Rig);
    let ways: [(&str, Way); 7] = [
        ("completed", |rig| drop(rig.finish("t1", Some("done")))),
        ("failed", |rig| {
            let message = "no".to_owned();
            rig.end("t1", TurnOutcome::Failed { cause: FailureCause::Auth, message });
        }),
        ("interrupted", |rig| drop(rig.end("t1", TurnOutcome::Interrupted))),
        ("stopped", |rig| drop(rig.stop(300))),
        ("its last word was posted", |rig| drop(rig.tool("c", "post", json!({"text": "x", "kind": "final"})))),
        ("blocked", |rig| {
            drop(rig.tool("c", "broker", json!({"action": "state", "arguments": {"kind": "block", "reason": "r"}})))
        }),
        ("silent for too long", |rig| {
            rig.pass(Duration::from_secs(901));
            rig.pass(INTERRUPT_LIMIT);
        }),
    ];
    for (name, way) in ways {
        let mut rig = Rig::running();
        way(&mut rig);
        assert_eq!(rig.statuses.last(), Some(&None), "{name}");
        rig.settle_status();
        assert!(!rig.may_be_shown(), "{name}");
    }
}

#[test]
fn a_message_after_the_last_word_shows_it_again() {
    let mut rig = Rig::running();
    rig.tool("c", "post", json!({"text": "x", "kind": "final"}));
    rig.say(300, "one more thing");
    assert_eq!(rig.statuses, [THINKING, None], "the turn that runs has said its last word");
    rig.accept("s-i5", "t1");
    let row = rig.inbox.values().find(|row| row.at == ChatTime::from_micros(300_000_000)).unwrap().id.clone();
    rig.accept(row.as_str(), "t1");
    rig.record(row.as_str(), "t1");
    assert_eq!(rig.statuses.last(), Some(&THINKING), "it owes an answer again");
}

#[test]
fn an_answer_to_an_older_question_settles_nothing() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    let old = rig.asked;
    rig.say(300, "and now?");
    rig.step(SessionInput::StatusSettled { generation: old });
    assert!(rig.may_be_shown(), "it stands again");
    rig.finish("t2", Some("done"));
    rig.step(SessionInput::StatusSettled { generation: old });
    assert!(rig.may_be_shown(), "and what stands now was not taken away by that");
}

#[test]
fn what_a_crash_left_is_taken_away_or_goes_on() {
    let mut idle = Rig::running();
    idle.finish("t1", Some("done"));
    let step = recovered(&mut idle);
    assert!(matches!(step[..], [Effect::Status { text: None, distrust: true, .. }]), "{step:?}");
    let mut settled = Rig::running();
    settled.finish("t1", Some("done"));
    settled.settle_status();
    assert_eq!(recovered(&mut settled), [], "nothing stands, nothing is asked");
    let mut busy = Rig::running();
    let step = recovered(&mut busy);
    assert!(step.iter().any(|effect| matches!(effect, Effect::Status { text: THINKING, distrust: true, .. })));
}

/// The effects of the first step after a crash, those of the status included.
fn recovered(rig: &mut Rig) -> Vec<Effect> {
    let mut machine = SessionMachine::load(Arc::clone(&rig.around), Fence(1), rig.rows(), rig.now).unwrap();
    let effects = machine.handle(SessionInput::Recover, rig.now).effects;
    effects.into_iter().filter(|effect| matches!(effect, Effect::Status { .. })).collect()
}

#[test]
fn a_message_that_waits_for_an_agent_which_does_not_come_up_shows_nothing() {
    let mut rig = Rig::begun();
    let reason = "no binary".to_owned();
    rig.step(SessionInput::Opened(Err(OpenError::Refused { reason })));
    assert_eq!(rig.statuses, [THINKING, None]);
}

fn person(id: &str, name: &str, standing: Standing) -> Person {
    Person {
        id: PersonId::new(id),
        display_name: Some(name.to_owned()),
        real_name: Some(name.to_owned()),
        username: Some(name.to_lowercase()),
        email: None,
        team: None,
        standing,
    }
}

#[test]
fn the_people_of_a_thread_are_those_who_wrote_and_whom_they_mentioned() {
    let mut rig = Rig::running();
    let mut arrival = arrival(300, "ask <@U2> and <@B1>", Some("100"));
    arrival.people = vec![
        person("U1", "Ada", Standing::Member),
        person("U2", "Bob", Standing::External),
        person("B1", "Bot", Standing::Bot),
        person("U3", "Gone", Standing::Deactivated),
    ];
    rig.step(SessionInput::Message(arrival.clone()));
    let names = |name: &str| vec![name.to_owned(), name.to_lowercase()];
    assert_eq!(rig.people(), [("U1".to_owned(), names("Ada")), ("U2".to_owned(), names("Bob"))]);
    arrival.message.id = MessageId::new("301");
    arrival.message.at = ChatTime::from_micros(301_000_000);
    arrival.message.author = Author::Bot { id: "B1".to_owned(), other_ids: Vec::new(), name: None };
    arrival.people = vec![person("U9", "Eve", Standing::Member)];
    arrival.instructs = false;
    rig.step(SessionInput::Message(arrival));
    assert_eq!(rig.people().len(), 2, "whom a bot names is nobody of the thread");
}

#[test]
fn the_people_of_a_thread_are_bounded() {
    let mut rig = Rig::running();
    for n in 0..MAX_PEOPLE as u64 + 5 {
        let mut arrival = arrival(300 + n, "hi", Some("100"));
        let id = format!("U{}", n + 10);
        arrival.message.author = Author::Person { id: PersonId::new(id.as_str()), team: None };
        arrival.people = vec![person(&id, &id, Standing::Member)];
        rig.step(SessionInput::Message(arrival));
    }
    let people = rig.people();
    assert_eq!((people.len(), people[0].0.as_str()), (MAX_PEOPLE, "U15"));
}

#[test]
fn nothing_stands_while_the_agent_of_a_cut_turn_does_not_come_up() {
    let mut rig = Rig::running();
    rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: "gone".to_owned() }));
    assert_eq!(rig.statuses.last(), Some(&THINKING), "most often it is back at once");
    assert!(!rig.machine.is_at_work(), "an end of the broker waits for nothing that it can do");
    let result = Err(OpenError::Unavailable { reason: "no binary".to_owned() });
    rig.step(SessionInput::Opened(result));
    assert_eq!(rig.statuses.last(), Some(&None));
}
