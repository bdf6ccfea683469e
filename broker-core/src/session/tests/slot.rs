//! What a session does when as many turns run as may run at once.

use super::*;

/// A session whose first message waits for a place.
fn waiting() -> Rig {
    let mut rig = Rig::begun();
    rig.slots_free = false;
    assert_eq!(given(&rig.open(1)), [""; 0]);
    rig
}

fn count(rig: &Rig, wanted: &Effect) -> usize {
    rig.effects.iter().filter(|effect| *effect == wanted).count()
}

#[test]
fn a_turn_begins_when_a_place_is_free_and_its_end_gives_the_place_back() {
    let mut rig = waiting();
    rig.say(101, "and this");
    assert_eq!(count(&rig, &Effect::AskSlot), 1, "one place is enough for both");
    assert_eq!(given(&rig.step(SessionInput::SlotGranted)), ["s-i1", "s-i2"]);
    rig.accept("s-i1", "t1");
    rig.accept("s-i2", "t1");
    rig.record("s-i1", "t1");
    rig.record("s-i2", "t1");
    assert_eq!(given(&rig.say(102, "steered")), ["s-i3"], "what joins a running turn needs no place");
    rig.record("s-i3", "t1");
    assert_eq!(count(&rig, &Effect::ReturnSlot), 0);
    rig.finish("t1", Some("done"));
    assert_eq!(count(&rig, &Effect::ReturnSlot), 1);
    rig.say(103, "next");
    assert_eq!(count(&rig, &Effect::AskSlot), 2);
}

#[test]
fn whoever_has_more_to_say_asks_again_behind_the_others() {
    let mut rig = waiting();
    rig.step(SessionInput::SlotGranted);
    rig.accept("s-i1", "t1");
    rig.record("s-i1", "t1");
    // A silent end: the agent is asked for a word, in a turn of its own.
    assert_eq!(given(&rig.finish("t1", None)), [""; 0]);
    assert_eq!((count(&rig, &Effect::ReturnSlot), count(&rig, &Effect::AskSlot)), (1, 2));
    assert_eq!(given(&rig.step(SessionInput::SlotGranted)), ["s-i2"]);
}

#[test]
fn a_place_that_is_not_needed_any_more_is_given_back() {
    let mut rig = waiting();
    rig.stop(101);
    rig.step(SessionInput::SlotGranted);
    assert_eq!(count(&rig, &Effect::ReturnSlot), 1, "`-stop` came first");

    let mut rig = waiting();
    rig.step(SessionInput::SlotGranted);
    let down = AgentEvent::Down { epoch: Epoch(1), reason: "gone".to_owned() };
    rig.step(SessionInput::Agent(down));
    assert_eq!(count(&rig, &Effect::ReturnSlot), 1, "a process that is gone runs no turns");
}

#[test]
fn a_place_is_kept_while_a_living_process_runs_the_turn_without_a_way_to_it() {
    let mut rig = waiting();
    rig.step(SessionInput::SlotGranted);
    rig.accept("s-i1", "t1");
    rig.record("s-i1", "t1");
    rig.say(101, "and this");
    let result = Err(SubmitError::NotOpen);
    rig.step(SessionInput::Submitted { row: InputId::new("s-i2"), result });
    assert_eq!(count(&rig, &Effect::ReturnSlot), 0, "the turn runs on");
    let down = AgentEvent::Down { epoch: Epoch(1), reason: "gone".to_owned() };
    rig.step(SessionInput::Agent(down));
    assert_eq!(count(&rig, &Effect::ReturnSlot), 1);
}

#[test]
fn after_three_seconds_people_see_that_it_waits() {
    let mut rig = waiting();
    assert_eq!(rig.statuses.last(), Some(&Some("is thinking…")));
    rig.pass(Duration::from_millis(2900));
    assert_eq!(rig.statuses.last(), Some(&Some("is thinking…")));
    assert_eq!(rig.machine.deadline(), Some(rig.now.plus(Duration::from_millis(100))));
    rig.pass(Duration::from_millis(100));
    assert_eq!(rig.statuses.last(), Some(&Some("is waiting for other threads to finish…")));
    rig.step(SessionInput::SlotGranted);
    assert_eq!(rig.statuses.last(), Some(&Some("is thinking…")));
}

#[test]
fn what_was_taken_back_waits_for_nobody() {
    let mut rig = waiting();
    rig.stop(101);
    assert_eq!(rig.statuses.last(), Some(&None));
    rig.pass(Duration::from_secs(4));
    assert_eq!(rig.statuses.last(), Some(&None), "nothing would ever take it away");
}
