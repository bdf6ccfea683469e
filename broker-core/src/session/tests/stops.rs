//! What a `-stop` takes back, and how a turn is interrupted.

use super::*;

#[test]
fn a_stop_takes_back_everything_that_was_said_before_it() {
    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "on it", "kind": "progress"}));
    rig.say(101, "more");
    let effects = rig.stop(102);
    assert!(has_interrupt(&effects));
    assert!(!answers(&effects)[0].0, "the call that waits is refused");
    let more = rig.inbox.values().find(|row| row.at == ChatTime::from_micros(101_000_000)).unwrap();
    assert_eq!(more.state, InboxState::Cancelled);
    assert_eq!(rig.posted(), [(PostKind::Notice, prompt::STOPPED.to_owned())], "parts that waited are dropped");
    // What is said while the turn is being stopped waits for its end.
    assert_eq!(given(&rig.say(103, "rather this")), Vec::<String>::new());
    rig.end("t1", TurnOutcome::Interrupted);
    assert_eq!(given(&rig.pass(STOP_WINDOW)).len(), 1);
    assert_eq!(rig.posted().len(), 1, "nobody is told of an interrupt that they asked for");
}

#[test]
fn a_stop_cancels_inputs_in_doubt_and_the_turn_that_they_start() {
    let mut rig = Rig::begun();
    rig.open(1);
    assert!(!has_interrupt(&rig.stop(101)), "no turn is known yet");
    assert_eq!(rig.state("s-i1"), InboxState::Cancelled);
    let started = AgentEvent::TurnStarted { thread: AgentThreadId::new("th"), turn: TurnId::new("t1") };
    assert!(has_interrupt(&rig.step(SessionInput::Agent(started))), "it is interrupted as soon as it is seen");
    rig.end("t1", TurnOutcome::Interrupted);
    assert!(rig.machine.is_quiet());
    assert_eq!(rig.posted(), [(PostKind::Notice, prompt::STOPPED.to_owned())]);
}

#[test]
fn a_stop_ends_the_turn_of_a_submit_that_comes_in_long_after_it() {
    let mut rig = Rig::begun();
    rig.open(1);
    rig.stop(101);
    rig.pass(STOP_WINDOW * 2);
    rig.record("s-i1", "t1");
    assert!(has_interrupt(&rig.effects), "it was on its way when it was taken back");
    rig.end("t1", TurnOutcome::Interrupted);
    assert_eq!(rig.posted().len(), 1, "nobody is told of an interrupt that they asked for");
}

#[test]
fn a_stop_takes_back_no_submit_of_what_was_written_after_it() {
    let mut rig = Rig::begun();
    rig.open(1);
    assert_eq!(given(&rig.say(102, "from after")), ["s-i2"]);
    let rows = vec![InputId::new("s-i1")];
    assert!(rig.stop(101).contains(&Effect::DropSubmits { rows }), "its event came last");
    assert_eq!(rig.state("s-i2"), InboxState::Given);
    assert_eq!(rig.posted(), [(PostKind::Notice, prompt::STOPPED.to_owned())]);
    rig.accept("s-i2", "t1");
    rig.record("s-i2", "t1");
    assert!(!has_interrupt(&rig.effects), "the turn is that of the newer message");
}

#[test]
fn a_stop_that_comes_late_spares_what_was_asked_for_since() {
    let mut rig = Rig::running();
    rig.say(105, "rather this");
    rig.accept("s-i2", "t1");
    rig.record("s-i2", "t1");
    rig.tool("1", "post", serde_json::json!({"text": "on it", "kind": "progress"}));
    let effects = rig.stop(103);
    assert!(!has_interrupt(&effects) && answers(&effects).is_empty());
    let said = rig.posted();
    assert_eq!(said[0].1, "on it", "what the agent has said since is not dropped");
    assert_eq!(said[1], (PostKind::Notice, prompt::STOP_CAME_LATE.to_owned()));
    assert!(has_interrupt(&rig.stop(106)));
}

#[test]
fn a_message_from_before_a_late_stop_is_not_given_a_second_time() {
    let mut rig = Rig::running();
    rig.say(102, "more");
    rig.say(105, "rather this");
    rig.accept("s-i2", "t1");
    rig.accept("s-i3", "t1");
    rig.stop(103);
    assert_eq!(rig.state("s-i2"), InboxState::Given, "the turn may have it");
    rig.finish("t1", Some("done"));
    rig.step(fates(&[("s-i2", Fate::Absent), ("s-i3", Fate::Absent)]));
    assert_eq!(rig.state("s-i2"), InboxState::Cancelled);
    assert_eq!(rig.state("s-i3"), InboxState::Given);
}

#[test]
fn a_stop_with_nothing_to_stop_says_so_and_a_message_from_before_it_stays_stopped() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.stop(105);
    assert_eq!(rig.posted().last().unwrap().1, prompt::NOTHING_TO_STOP);
    assert_eq!(given(&rig.say(104, "from before")), Vec::<String>::new());
    assert_eq!(given(&rig.say(106, "from after")).len(), 1);
}

#[test]
fn a_turn_that_had_answered_or_was_stopped_is_not_continued() {
    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "done", "kind": "final"}));
    rig.crash();
    assert_eq!(given(&rig.open(2)), Vec::<String>::new());
    let mut rig = Rig::running();
    rig.stop(101);
    rig.crash();
    assert_eq!(given(&rig.open(2)), Vec::<String>::new());
}

#[test]
fn a_stop_while_the_thread_is_not_open_interrupts_as_soon_as_it_is() {
    let mut rig = Rig::running();
    rig.say(101, "steer");
    rig.step(SessionInput::Submitted { row: InputId::new("s-i2"), result: Err(SubmitError::NotOpen) });
    assert!(!has_interrupt(&rig.stop(102)), "there is no way to the turn");
    assert!(has_interrupt(&rig.open(1)), "the process lives, and so does the turn");
}

#[test]
fn a_stop_during_the_look_up_after_a_crash_decides_the_turn_that_was_cut() {
    for (at, goes_on) in [(102, true), (104, false)] {
        let mut rig = Rig::running();
        rig.say(101, "in doubt");
        rig.say(103, "taken");
        rig.accept("s-i3", "t1");
        rig.record("s-i3", "t1");
        rig.crash();
        let effects = rig.open(2);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::ReadFates { .. })));
        let effects = rig.stop(at);
        assert_eq!(rig.state("s-i2"), InboxState::Cancelled);
        assert!(!rig.machine.is_running() && !has_interrupt(&effects), "{at}");
        assert_eq!(given(&effects).len(), usize::from(goes_on), "{at}: the agent goes on with what was not stopped");
    }
}

#[test]
fn a_stop_of_which_the_runtime_did_not_hear_is_told_again() {
    let mut rig = Rig::running();
    assert!(has_interrupt(&rig.stop(101)));
    let unheard = |rig: &mut Rig| {
        let result = Err(InterruptError::Unavailable { reason: "no answer".to_owned() });
        rig.step(SessionInput::Interrupted { turn: TurnId::new("t1"), result })
    };
    for failures in 1..=8_u32 {
        assert!(!has_interrupt(&unheard(&mut rig)));
        // What is written meanwhile would be stopped with it.
        assert!(given(&rig.say(110 + u64::from(failures), "meanwhile")).is_empty());
        let wait = Duration::from_millis(500 << (failures - 1)).min(INTERRUPT_BACK_OFF);
        assert_eq!(rig.machine.deadline(), Some(rig.now.plus(wait)), "{failures}");
        assert!(has_interrupt(&rig.pass(wait)), "{failures}");
    }
    unheard(&mut rig);
    let told = prompt::not_interrupted("no answer");
    assert_eq!(rig.posted().iter().filter(|(_, text)| *text == told).count(), 1, "{:?}", rig.posted());
    let effects = rig.end("t1", TurnOutcome::Completed { final_text: Some("done".to_owned()) });
    assert!(!given(&effects).is_empty(), "the end of the turn ends that too");
    assert!(!has_interrupt(&rig.pass(Duration::from_secs(60))));
}

#[test]
fn a_stop_of_which_the_runtime_did_not_hear_waits_for_a_way_to_it() {
    let mut rig = Rig::running();
    rig.say(101, "steer");
    rig.stop(101);
    let result = Err(InterruptError::Unavailable { reason: "no answer".to_owned() });
    rig.step(SessionInput::Interrupted { turn: TurnId::new("t1"), result });
    // The process is there, and the thread is not open in it any more.
    rig.step(SessionInput::Submitted { row: InputId::new("s-i2"), result: Err(SubmitError::NotOpen) });
    for _ in 0..3 {
        assert!(!has_interrupt(&rig.pass(INTERRUPT_BACK_OFF)));
        assert!(rig.machine.deadline().is_none_or(|deadline| deadline > rig.now), "{:?}", rig.machine.deadline());
    }
    assert!(has_interrupt(&rig.open(1)));
}

#[test]
fn a_turn_without_a_sign_of_life_is_interrupted_and_told() {
    let mut rig = Rig::running();
    assert_eq!(rig.machine.deadline(), Some(rig.now.plus(Duration::from_secs(900))));
    rig.now = rig.now.plus(Duration::from_secs(600));
    let (thread, turn) = (AgentThreadId::new("th"), TurnId::new("t1"));
    rig.step(SessionInput::Agent(AgentEvent::Progress { thread, turn }));
    assert!(!has_interrupt(&rig.pass(Duration::from_secs(899))));
    assert!(has_interrupt(&rig.pass(Duration::from_secs(1))));
    rig.end("t1", TurnOutcome::Interrupted);
    assert_eq!(rig.posted().last().unwrap().1, prompt::idle(15));
}

#[test]
fn an_interrupt_without_an_end_ends_the_turn_after_a_while() {
    let mut rig = Rig::running();
    rig.stop(101);
    rig.say(102, "next");
    assert_eq!(given(&rig.pass(INTERRUPT_LIMIT)).len(), 1);
    assert_eq!(rig.turns[&TurnId::new("t1")].ended.unwrap().1, crate::store::TurnEnd::Interrupted);
    // Once it is known that it was interrupted, the word of its end is all that is missing.
    for result in [Ok(()), Err(InterruptError::NotRunning)] {
        let mut rig = Rig::running();
        rig.stop(101);
        rig.say(102, "next");
        rig.step(SessionInput::Interrupted { turn: TurnId::new("t1"), result });
        assert_eq!(given(&rig.pass(END_LIMIT)).len(), 1);
    }
}

#[test]
fn a_turn_that_counted_as_ended_and_runs_on_is_stopped_again() {
    let mut rig = Rig::running();
    rig.stop(101);
    rig.pass(INTERRUPT_LIMIT);
    let id = given(&rig.say(110, "go on")).remove(0);
    // The runtime joins it to the turn that it still runs.
    let effects = rig.accept(&id, "t1");
    assert!(has_interrupt(&effects) && rig.machine.is_running());
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::ReadFates { .. })), "{effects:?}");
    let effects = rig.end("t1", TurnOutcome::Interrupted);
    assert!(effects.contains(&Effect::ReadFates { thread: AgentThreadId::new("th"), ids: vec![InputId::new(&id)] }));
    assert_eq!(given(&rig.step(fates(&[(&id, Fate::Absent)]))), [id.as_str()], "now it is known not to have it");
    rig.accept(&id, "t2");
    rig.record(&id, "t2");
    // A word of it that comes late means nothing any more.
    rig.end("t1", TurnOutcome::Interrupted);
    assert!(rig.machine.is_running());
}
