//! Messages that were put aside.

use super::*;

/// A session whose first message was refused five times.
pub(super) fn parked() -> Rig {
    let mut rig = Rig::begun();
    rig.open(1);
    for _ in 0..MAX_ATTEMPTS {
        let result = Err(SubmitError::Refused { reason: "no".to_owned() });
        rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
        rig.pass(Duration::from_secs(60));
    }
    assert_eq!(rig.state("s-i1"), InboxState::Parked);
    assert_eq!(rig.posted().len(), 1);
    rig
}

fn looks_up(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::ReadFates { .. }))
}

#[test]
fn a_new_message_takes_up_what_was_put_aside_before_it() {
    let mut rig = parked();
    let effects = rig.say(101, "and now?");
    assert!(looks_up(&effects) && given(&effects).is_empty(), "the agent may have it after all");
    let effects = rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i1"), Fate::Absent)])));
    let both = given(&effects);
    assert_eq!((both.len(), both[0].as_str()), (2, "s-i1"));
    // One try is all that it gets this way.
    let result = Err(SubmitError::Refused { reason: "still no".to_owned() });
    rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
    assert_eq!(rig.state("s-i1"), InboxState::Parked);
    rig.accept(&both[1], "t1");
    rig.record(&both[1], "t1");
    assert_eq!(rig.state(&both[1]), InboxState::Delivered, "the new one does not wait for it");
}

#[test]
fn what_the_agent_has_after_all_is_not_given_again() {
    let mut rig = parked();
    rig.step(SessionInput::Retry);
    let effects = rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i1"), Fate::Recorded)])));
    assert_eq!(given(&effects), [""; 0]);
    assert_eq!(rig.state("s-i1"), InboxState::Delivered);
}

/// Another input's failure closes the way to the runtime while it is looked up.
#[test]
fn a_look_up_outlives_the_way_on_which_it_was_asked() {
    for answered_first in [true, false] {
        let mut rig = parked();
        rig.say(101, "and now?");
        let absent = || SessionInput::Fates(Ok(vec![(InputId::new("s-i1"), Fate::Absent)]));
        let both = given(&rig.step(absent()));
        let refused = Err(SubmitError::Refused { reason: "still no".to_owned() });
        rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result: refused });
        assert!(looks_up(&rig.step(SessionInput::Retry)));
        let gone = Err(SubmitError::Unavailable { reason: "busy".to_owned() });
        rig.step(SessionInput::Submitted { row: InputId::new(&both[1]), result: gone });
        if answered_first {
            rig.step(absent());
        }
        rig.pass(Duration::from_secs(60));
        let mut effects = rig.open(1);
        if !answered_first {
            effects = rig.step(absent());
        }
        assert_eq!(given(&effects), both, "{answered_first}");
    }
}

#[test]
fn whoever_asks_for_it_gets_all_tries_anew() {
    let mut rig = parked();
    rig.crash();
    assert!(rig.machine.is_quiet(), "nobody has asked");
    rig.step(SessionInput::Retry);
    rig.open(2);
    let effects = rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i1"), Fate::Absent)])));
    assert_eq!(given(&effects), ["s-i1"]);
    assert_eq!(rig.inbox[&InputId::new("s-i1")].attempts, 0);
}

#[test]
fn a_retry_does_not_wait_for_the_next_try() {
    let mut rig = Rig::begun();
    for _ in 0..3 {
        let reason = "no runtime".to_owned();
        rig.step(SessionInput::Opened(Err(OpenError::Unavailable { reason })));
        rig.pass(Duration::from_secs(60));
    }
    rig.step(SessionInput::Opened(Err(OpenError::Unavailable { reason: "no runtime".to_owned() })));
    let effects = rig.step(SessionInput::Retry);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Open { .. })));
}

#[test]
fn a_stop_is_meant_for_what_was_put_aside_too() {
    let mut rig = parked();
    rig.stop(102);
    assert_eq!(rig.state("s-i1"), InboxState::Cancelled);
    assert_eq!(given(&rig.say(103, "something else")).len(), 1);
}

#[test]
fn a_stop_takes_back_what_was_put_aside_beyond_the_bound_too() {
    let mut rig = parked();
    rig.stop(200);
    // Of many, the store keeps older ones than the machine holds: they come in when it is loaded anew.
    let mut rows = rig.rows();
    let mut older = rig.inbox[&InputId::new("s-i1")].clone();
    older.state = InboxState::Parked;
    rows.parked = vec![older];
    let machine = SessionMachine::load(Arc::clone(&rig.around), Fence(1), rows, rig.now);
    assert_eq!(machine.expect("there is a record").parked, []);
}

#[test]
fn what_was_given_before_the_machine_was_loaded_anew_in_a_living_process_is_looked_up() {
    let mut rig = Rig::running();
    rig.say(102, "more");
    let effects = rig.crash();
    assert!(given(&effects).is_empty());
    let opened =
        Opened { thread: AgentThreadId::new("th"), epoch: Epoch(1), running: Some(TurnId::new("t1")), model: None };
    rig.step(SessionInput::Opened(Ok(opened)));
    assert!(looks_up(&rig.pass(crate::session::delivery::FORGOTTEN_AFTER)), "its answer went to another machine");
}
