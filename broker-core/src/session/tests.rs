//! Given this state and this input, these effects. After every step the machine is rebuilt from what was committed and
//! compared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::agent::{Epoch, FailureCause, TurnOutcome};
use crate::chat::{Author, ConversationId, ConversationKey, ConversationKind, InstallationId, PersonId};
use crate::clock::Timestamp;
use crate::prompt;
use crate::store::{
    Backfill, Fence, InboxKind, InboxRow, InboxState, PartRow, PartState, Revision, SessionId, SessionRows, TurnRow,
};

mod amend;
mod asked;
mod commands;
mod files;
mod parked;
mod presence;
mod rig;
mod slot;
mod stops;

use rig::{Rig, answers, around, arrival, fates, given, has_interrupt};

#[test]
fn a_first_message_opens_the_thread_and_is_given_once_it_is_open() {
    let mut rig = Rig::begun();
    assert_eq!(rig.effects, [Effect::Open { known: None }]);
    assert_eq!(rig.state("s-i1"), InboxState::Queued);
    assert_eq!(given(&rig.open(1)), ["s-i1"]);
    assert_eq!(rig.state("s-i1"), InboxState::Given, "the attempt is committed before the call");
    rig.accept("s-i1", "t1");
    assert_eq!(rig.state("s-i1"), InboxState::Given, "a reply is not yet the history");
    rig.record("s-i1", "t1");
    assert_eq!(rig.state("s-i1"), InboxState::Delivered);
    assert!(rig.record.as_ref().unwrap().agent_confirmed);
}

#[test]
fn a_mention_inside_a_thread_waits_for_its_history() {
    let now = Timestamp::from_millis(0);
    let birth =
        Birth { id: SessionId::new("s"), folder: "f".to_owned(), channel_name: None, stopped_at: ChatTime::ZERO };
    let first = arrival(200, "look at this", Some("100"));
    let mut machine = SessionMachine::begin(around(), Fence(1), birth, &first, now);
    let step = machine.handle(SessionInput::Message(first), now);
    let row = InputId::new("s-i1");
    assert_eq!(
        step.effects[0],
        Effect::Backfill { row: row.clone(), before: ChatTime::from_micros(200_000_000), own: false }
    );
    let reason = "no answer within 10 s".to_owned();
    let step = machine.handle(SessionInput::Backfilled { row, result: Err(reason.clone()) }, now);
    assert_eq!(step.effects, [Effect::Open { known: None }], "without its history the message goes all the same");
    assert_eq!(step.commit.inbox[0].backfill, Backfill::Unreadable { reason });
}

#[test]
fn messages_are_given_in_the_order_of_their_time() {
    let mut rig = Rig::begun();
    rig.say(103, "third");
    rig.say(102, "second");
    assert_eq!(given(&rig.open(1)), ["s-i1", "s-i3", "s-i2"]);
    // One that turns up below what was given is given at once, and marked.
    assert_eq!(given(&rig.say(101, "late")), ["s-i4"]);
    assert!(rig.inbox[&InputId::new("s-i4")].late);
    assert!(!rig.inbox[&InputId::new("s-i2")].late);
}

#[test]
fn a_message_during_a_turn_joins_it() {
    let mut rig = Rig::running();
    assert_eq!(given(&rig.say(101, "and this")), ["s-i2"]);
    rig.accept("s-i2", "t1");
    rig.record("s-i2", "t1");
    assert_eq!(rig.turns[&TurnId::new("t1")].inputs, 2);
}

#[test]
fn how_a_turn_ends_says_what_is_posted() {
    let failed = TurnOutcome::Failed { cause: FailureCause::UsageLimit, message: "limit".to_owned() };
    let text = |text: &str| TurnOutcome::Completed { final_text: Some(text.to_owned()) };
    let cases: Vec<(&str, TurnOutcome, Vec<PostKind>)> = vec![
        ("a final text is posted", text("done"), vec![PostKind::Final]),
        ("blank text is silence", text(" \n "), vec![]),
        ("a failure is told", failed, vec![PostKind::Notice]),
        ("an interrupt by nobody we know is told", TurnOutcome::Interrupted, vec![PostKind::Notice]),
    ];
    for (name, outcome, kinds) in cases {
        let mut rig = Rig::running();
        rig.end("t1", outcome);
        let posted: Vec<_> = rig.posted().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(posted, kinds, "{name}");
        assert_eq!(rig.record.as_ref().unwrap().running_turn, None, "{name}");
    }
}

#[test]
fn a_silent_end_wakes_the_agent_once_and_no_more() {
    let mut rig = Rig::running();
    let effects = rig.finish("t1", None);
    assert_eq!(given(&effects), ["s-i2"]);
    assert_eq!(rig.inbox[&InputId::new("s-i2")].kind, InboxKind::WakeUp);
    rig.accept("s-i2", "t2");
    rig.record("s-i2", "t2");
    let effects = rig.finish("t2", None);
    assert_eq!(given(&effects), Vec::<String>::new());
    assert_eq!(rig.posted().len(), 1, "the thread is told instead");
}

#[test]
fn a_final_of_a_tool_is_not_posted_again_as_final_text() {
    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "on it", "kind": "progress"}));
    rig.tool("2", "post", json!({"text": "done", "kind": "final"}));
    rig.finish("t1", Some("done, as I said"));
    assert_eq!(rig.posted(), [(PostKind::Progress, "on it".to_owned()), (PostKind::Final, "done".to_owned())]);
    // Progress alone does not count as an answer.
    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "on it", "kind": "progress"}));
    rig.finish("t1", Some("done"));
    assert_eq!(rig.posted().len(), 2);
}

#[test]
fn a_tool_call_is_answered_when_its_post_is_through_or_late() {
    let outcome = |error: Option<&str>| {
        let arrived = if error.is_some() { 1 } else { 2 };
        let (post, error) = (PostId::new("s-p2"), error.map(str::to_owned));
        SessionInput::PostSettled(PostOutcome { post, kind: PostKind::Progress, arrived, of: 2, error })
    };
    let mut rig = Rig::running();
    assert_eq!(answers(&rig.tool("1", "post", json!({"text": "one|two", "kind": "progress"}))), []);
    let effects = rig.step(outcome(None));
    assert_eq!(answers(&effects), [(true, "posted (2 messages)".to_owned())]);

    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "one|two", "kind": "progress"}));
    let (success, text) = answers(&rig.step(outcome(Some("is_archived")))).remove(0);
    assert!(!success && text.contains("1 of 2") && text.contains("is_archived"), "{text}");
    assert_eq!(rig.posted().last().unwrap().0, PostKind::Notice, "the thread is told too");

    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "one|two", "kind": "progress"}));
    assert_eq!(rig.machine.deadline(), Some(rig.now.plus(TOOL_ANSWER_LIMIT)));
    let (success, text) = answers(&rig.pass(TOOL_ANSWER_LIMIT)).remove(0);
    assert!(success && text.contains("queued as s-p2"), "{text}");
}

#[test]
fn a_tool_call_that_cannot_be_done_is_refused_and_changes_nothing() {
    let cases = [
        ("nothing to post", json!({"text": "  ", "kind": "progress"})),
        ("no job to wait for", json!({"text": "later", "kind": "wait", "reason": "ci"})),
        ("too many parts", json!({"text": "x|".repeat(MAX_PARTS + 1), "kind": "progress"})),
    ];
    for (name, arguments) in cases {
        let mut rig = Rig::running();
        let (success, _) = answers(&rig.tool("1", "post", arguments)).remove(0);
        assert!(!success, "{name}");
        assert_eq!(rig.posted(), [], "{name}");
        assert_eq!(rig.turns[&TurnId::new("t1")].signal, None, "{name}");
    }
}

#[test]
fn a_runtime_that_takes_nothing_for_long_parks_nothing() {
    let mut rig = Rig::begun();
    rig.open(1);
    for _ in 0..50 {
        let result = Err(SubmitError::Unavailable { reason: "overloaded".to_owned() });
        rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
        rig.open(1);
        rig.pass(Duration::from_secs(60));
        assert_eq!(rig.state("s-i1"), InboxState::Given, "it is tried again");
    }
    assert_eq!(rig.posted().len(), 1, "the thread is told once");
    assert!(rig.posted()[0].1.contains("overloaded"));
}

#[test]
fn what_fails_together_is_one_failure() {
    let mut rig = Rig::running();
    for n in 1..=8 {
        rig.say(101 + n, "more");
    }
    for n in 2..=9 {
        rig.step(SessionInput::Submitted { row: InputId::new(format!("s-i{n}")), result: Err(SubmitError::NotOpen) });
    }
    assert_eq!(rig.posted(), [], "nobody need hear of it");
    rig.pass(Duration::from_secs(2));
    assert_eq!(given(&rig.open(1)).len(), 8);
}

#[test]
fn inputs_that_wait_for_different_things_are_each_decided_by_their_own() {
    let mut rig = Rig::running();
    rig.say(102, "forgotten");
    let result = Err(SubmitError::Unknown { limit: Duration::from_secs(30) });
    rig.step(SessionInput::Submitted { row: InputId::new("s-i2"), result });
    rig.say(103, "steered too late");
    rig.accept("s-i3", "t1");
    rig.pass(crate::session::delivery::FORGOTTEN_AFTER);
    rig.finish("t1", Some("done"));
    // The first read was asked for before the turn ended.
    let effects = rig.step(fates(&[("s-i2", Fate::Absent)]));
    assert_eq!(given(&effects), [""; 0]);
    rig.pass(Duration::from_secs(1));
    let effects = rig.step(fates(&[("s-i3", Fate::Absent)]));
    assert_eq!((rig.state("s-i2"), rig.state("s-i3")), (InboxState::Parked, InboxState::Given));
    assert_eq!(given(&effects), ["s-i3"], "surely not taken, so it is given again");
}

#[test]
fn what_a_turn_took_after_its_final_and_before_a_crash_is_owed_an_answer() {
    let mut rig = Rig::running();
    rig.tool("1", "post", serde_json::json!({"text": "done", "kind": "final"}));
    assert_eq!(given(&rig.say(102, "and this")), ["s-i4"]);
    rig.accept("s-i4", "t1");
    rig.crash();
    rig.open(2);
    rig.step(fates(&[("s-i4", Fate::Recorded)]));
    let waits = rig.rows().inbox;
    assert_eq!(waits.iter().map(|row| row.kind).collect::<Vec<_>>(), [InboxKind::Continuation]);
}

#[test]
fn after_a_crash_doubt_is_decided_by_the_history() {
    // The crash came after the submit, before its record.
    for (fate, state, wakes) in
        [(Fate::Recorded, InboxState::Delivered, true), (Fate::Absent, InboxState::Given, false)]
    {
        let mut rig = Rig::begun();
        rig.open(1);
        assert_eq!(rig.crash(), [Effect::Open { known: Some(AgentThreadId::new("th")) }]);
        let ids = vec![InputId::new("s-i1")];
        assert_eq!(rig.open(2), [Effect::ReadFates { thread: AgentThreadId::new("th"), ids }]);
        let effects = rig.step(fates(&[("s-i1", fate)]));
        assert_eq!(rig.state("s-i1"), state, "{fate:?}");
        assert_eq!(given(&effects).len(), 1, "the message again, or word of the crash");
        let kind = rig.inbox.values().find(|row| row.state == InboxState::Given).unwrap().kind;
        assert_eq!(kind == InboxKind::Continuation, wakes, "{fate:?}");
    }
}

#[test]
fn a_turn_that_was_cut_goes_on_once_and_then_the_thread_is_told() {
    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "half of it", "kind": "progress"}));
    rig.parts[0].state = PartState::Sent;
    rig.crash();
    rig.open(2);
    let row = rig.inbox.values().find(|row| row.kind == InboxKind::Continuation).unwrap();
    assert!(row.notice.as_ref().unwrap().contains("half of it"), "{row:?}");
    let id = row.id.to_string();
    assert_eq!(rig.turns[&TurnId::new("t1")].ended.unwrap().1, crate::store::TurnEnd::Cut);
    rig.accept(&id, "t2");
    rig.record(&id, "t2");
    rig.crash();
    let effects = rig.open(3);
    assert_eq!(given(&effects), Vec::<String>::new(), "not a third time");
    assert_eq!(rig.posted().last().unwrap(), &(PostKind::Notice, prompt::cut_again()));
}

#[test]
fn the_death_of_the_runtime_is_a_crash_of_the_turn_alone() {
    let mut rig = Rig::running();
    let down = AgentEvent::Down { epoch: Epoch(1), reason: "killed".to_owned() };
    let effects = rig.step(SessionInput::Agent(down));
    assert_eq!(effects, [Effect::Open { known: Some(AgentThreadId::new("th")) }]);
    assert_eq!(given(&rig.open(2)).len(), 1, "the continuation");
    // Word of an older process changes nothing.
    let down = AgentEvent::Down { epoch: Epoch(1), reason: "late".to_owned() };
    assert_eq!(rig.step(SessionInput::Agent(down)), []);
}

/// What is looked up after a crash is taken back: the turn that was cut is over all the same.
#[test]
fn what_a_turn_did_not_take_is_asked_for_at_its_end() {
    let mut rig = Rig::running();
    rig.say(101, "steer");
    rig.accept("s-i2", "t1");
    let effects = rig.end("t1", TurnOutcome::Completed { final_text: Some("done".to_owned()) });
    assert!(effects.contains(&Effect::ReadFates { thread: AgentThreadId::new("th"), ids: vec![InputId::new("s-i2")] }));
    assert_eq!(given(&rig.step(fates(&[("s-i2", Fate::Absent)]))), ["s-i2"], "it is given to a turn of its own");
    // The same when the reply to the submit comes after the end.
    let mut rig = Rig::running();
    rig.say(101, "steer");
    rig.finish("t1", Some("done"));
    assert!(rig.accept("s-i2", "t1").iter().any(|effect| matches!(effect, Effect::ReadFates { .. })));
}

#[test]
fn a_submit_that_fails_is_tried_five_times_and_then_told() {
    let mut rig = Rig::begun();
    rig.open(1);
    for attempt in 1..=MAX_ATTEMPTS {
        let result = Err(SubmitError::Refused { reason: "no".to_owned() });
        rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
        if attempt < MAX_ATTEMPTS {
            assert_eq!(rig.state("s-i1"), InboxState::Queued);
            let due = rig.machine.deadline().unwrap();
            assert!(due > rig.now, "it backs off");
            rig.now = due;
            assert_eq!(given(&rig.step(SessionInput::Tick)), ["s-i1"]);
        }
    }
    assert_eq!(rig.state("s-i1"), InboxState::Parked);
    assert_eq!(rig.posted().len(), 1);
}

#[test]
fn a_continuation_that_cannot_be_given_is_told() {
    let mut rig = Rig::running();
    rig.crash();
    rig.open(2);
    let row = rig.inbox.values().find(|row| row.kind == InboxKind::Continuation).unwrap().id.clone();
    for _ in 0..MAX_ATTEMPTS {
        let result = Err(SubmitError::Refused { reason: "no".to_owned() });
        rig.step(SessionInput::Submitted { row: row.clone(), result });
        rig.now = rig.machine.deadline().unwrap_or(rig.now);
        rig.step(SessionInput::Tick);
    }
    assert_eq!(rig.state(row.as_str()), InboxState::Parked);
    assert_eq!(rig.posted().last().unwrap(), &(PostKind::Notice, prompt::cut_again()));
}

#[test]
fn no_answer_to_a_submit_is_no_barrier() {
    let mut rig = Rig::begun();
    rig.open(1);
    let result = Err(SubmitError::Unknown { limit: Duration::from_secs(30) });
    let effects = rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
    assert_eq!(effects, [], "nothing is decided and nothing sent again");
    assert_eq!(rig.state("s-i1"), InboxState::Given);
    // A runtime that lives on and forgot the input: it is not given again, and the thread is told.
    rig.now = rig.machine.deadline().unwrap();
    assert!(matches!(rig.step(SessionInput::Tick)[..], [Effect::ReadFates { .. }]));
    assert_eq!(given(&rig.step(fates(&[("s-i1", Fate::Absent)]))), Vec::<String>::new());
    assert_eq!(rig.state("s-i1"), InboxState::Parked);
    assert_eq!(rig.posted().len(), 1);
}

#[test]
fn a_thread_that_is_gone_is_started_anew_silently_only_when_it_held_nothing() {
    let mut rig = Rig::begun();
    rig.open(1);
    rig.crash();
    let effects = rig.step(SessionInput::Opened(Err(OpenError::Lost)));
    assert_eq!(effects, [Effect::Open { known: None }]);
    assert_eq!(rig.posted(), []);
    assert_eq!(given(&rig.open(2)), ["s-i1"]);

    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.crash();
    rig.say(101, "and now?");
    let effects = rig.step(SessionInput::Opened(Err(OpenError::Lost)));
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Backfill { own: true, .. })),
        "the history goes as context"
    );
    assert_eq!(rig.posted().last().unwrap().1, prompt::history_lost());
}

#[test]
fn a_runtime_that_cannot_be_reached_is_told_once_and_tried_for_ever() {
    let mut rig = Rig::begun();
    for _ in 0..10 {
        let reason = "no binary".to_owned();
        rig.step(SessionInput::Opened(Err(OpenError::Unavailable { reason })));
        rig.now = rig.machine.deadline().unwrap();
        assert_eq!(rig.step(SessionInput::Tick), [Effect::Open { known: None }]);
    }
    assert_eq!(rig.posted().len(), 1);
    assert_eq!(given(&rig.open(1)), ["s-i1"], "nothing is lost meanwhile");
}

#[test]
fn words_of_other_bots_go_along_with_the_next_message_and_start_nothing() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    let mut alert = arrival(101, "build failed", Some("100"));
    alert.instructs = false;
    assert_eq!(given(&rig.step(SessionInput::Message(alert))), Vec::<String>::new());
    assert!(rig.machine.is_quiet());
    let effects = rig.say(102, "why?");
    let id = given(&effects).remove(0);
    rig.accept(&id, "t2");
    rig.record(&id, "t2");
    assert!(rig.inbox.values().all(|row| row.state == InboxState::Delivered));
}

#[test]
fn context_that_comes_after_a_message_was_composed_waits_for_the_next() {
    let mut rig = Rig::begun();
    rig.open(1);
    let mut late = arrival(99, "written before, arrived after", Some("98"));
    late.instructs = false;
    rig.step(SessionInput::Message(late));
    rig.accept("s-i1", "t1");
    rig.record("s-i1", "t1");
    let waiting = rig.inbox.values().find(|row| row.kind == InboxKind::Context).unwrap();
    assert_eq!(waiting.state, InboxState::Queued, "no prompt has held it");
    let effects = rig.say(101, "and now?");
    let told = effects.iter().any(|effect| match effect {
        Effect::Submit { input, .. } => input.text.contains("arrived after"),
        _ => false,
    });
    assert!(told);
}

#[test]
fn the_same_failure_is_told_once_in_five_minutes() {
    let mut rig = Rig::running();
    let failed = || TurnOutcome::Failed { cause: FailureCause::Auth, message: "no".to_owned() };
    rig.end("t1", failed());
    for (turn, minutes, told) in [("t2", 1, 1), ("t3", 5, 2)] {
        rig.now = rig.now.plus(Duration::from_secs(minutes * 60));
        let id = given(&rig.say(100 + minutes, "again")).remove(0);
        rig.accept(&id, turn);
        rig.record(&id, turn);
        rig.end(turn, failed());
        assert_eq!(rig.posted().len(), told, "{turn}");
    }
}

#[test]
fn a_reply_that_overtakes_the_end_of_the_turn_before_loses_nothing() {
    let mut rig = Rig::running();
    rig.say(101, "more");
    rig.accept("s-i2", "t2");
    rig.finish("t1", Some("the answer"));
    assert_eq!(rig.posted(), [(PostKind::Final, "the answer".to_owned())]);
    rig.step(SessionInput::Agent(AgentEvent::TurnStarted {
        thread: AgentThreadId::new("th"),
        turn: TurnId::new("t2"),
    }));
    rig.record("s-i2", "t2");
    rig.finish("t2", Some("the second"));
    assert_eq!(rig.posted().len(), 2);
}

#[test]
fn a_row_that_is_given_again_is_not_taken_for_forgotten() {
    let mut rig = Rig::begun();
    rig.open(1);
    let result = Err(SubmitError::Unknown { limit: Duration::from_secs(30) });
    rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
    rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: "hung".to_owned() }));
    rig.open(2);
    assert_eq!(given(&rig.step(fates(&[("s-i1", Fate::Absent)]))), ["s-i1"]);
    assert_eq!(rig.pass(Duration::from_secs(1)), [], "the answer is still on its way");
    rig.accept("s-i1", "t1");
    rig.record("s-i1", "t1");
    assert_eq!(rig.state("s-i1"), InboxState::Delivered);
}

#[test]
fn an_input_that_is_never_taken_is_not_given_for_ever() {
    let mut rig = Rig::begun();
    rig.open(1);
    let failed = || TurnOutcome::Failed { cause: FailureCause::UsageLimit, message: "limit".to_owned() };
    let mut times = 1;
    for turn in 1..=20 {
        let turn = format!("t{turn}");
        rig.accept("s-i1", &turn);
        rig.end(&turn, failed());
        rig.step(fates(&[("s-i1", Fate::Absent)]));
        if rig.state("s-i1") == InboxState::Parked {
            break;
        }
        if rig.state("s-i1") == InboxState::Queued {
            rig.now = rig.machine.deadline().unwrap();
            rig.step(SessionInput::Tick);
        }
        times += 1;
    }
    assert_eq!((rig.state("s-i1"), times), (InboxState::Parked, MAX_ATTEMPTS));
}

#[test]
fn more_inputs_than_may_be_in_doubt_wait() {
    let mut rig = Rig::running();
    for n in 0..=MAX_IN_DOUBT as u64 {
        rig.say(101 + n, "more");
    }
    let in_doubt = rig.inbox.values().filter(|row| row.state == InboxState::Given).count();
    assert_eq!(in_doubt, MAX_IN_DOUBT);
    let first = rig.inbox.values().find(|row| row.state == InboxState::Given).unwrap().id.to_string();
    rig.accept(&first, "t1");
    rig.record(&first, "t1");
    assert_eq!(rig.inbox.values().filter(|row| row.state == InboxState::Given).count(), MAX_IN_DOUBT);
}

#[test]
fn a_process_that_dies_while_its_thread_is_opened_anew_leaves_nothing_behind() {
    let mut rig = Rig::running();
    rig.say(101, "more");
    let result = Err(SubmitError::Unavailable { reason: "gone".to_owned() });
    let effects = rig.step(SessionInput::Submitted { row: InputId::new("s-i2"), result });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Open { .. })));
    rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: "gone".to_owned() }));
    let effects = rig.open(2);
    let kinds: Vec<_> = rig.inbox.values().map(|row| (row.kind, row.state)).collect();
    assert!(kinds.contains(&(InboxKind::Continuation, InboxState::Given)), "{kinds:?} after {effects:?}");
    assert!(rig.machine.rows().turn.is_none(), "the old turn is over");
}

#[test]
fn an_answer_to_what_joined_after_a_final_is_posted() {
    let mut rig = Rig::running();
    rig.tool("1", "post", json!({"text": "done", "kind": "final"}));
    rig.step(SessionInput::Message(arrival(101, "one more thing", Some("100"))));
    let id = rig.inbox.values().find(|row| row.at == ChatTime::from_micros(101_000_000)).unwrap().id.to_string();
    rig.accept(&id, "t1");
    rig.record(&id, "t1");
    rig.finish("t1", Some("that too"));
    assert_eq!(rig.posted().last().unwrap(), &(PostKind::Final, "that too".to_owned()));
}

#[test]
fn a_final_of_a_tool_that_is_refused_leaves_the_turn_owing_an_answer() {
    for (kind, arrived, error, texts) in [
        ("final", 0, Some("msg_blocks_too_long"), 2),
        // A part of it stands there: it was said.
        ("final", 1, Some("msg_blocks_too_long"), 1),
        ("final", 2, None, 0),
    ] {
        let mut rig = Rig::running();
        rig.tool("c1", "post", json!({"text": "one|two", "kind": kind}));
        let post = rig.parts.last().unwrap().post.clone();
        let before = rig.posted().len();
        let error = error.map(str::to_owned);
        rig.step(SessionInput::PostSettled(PostOutcome { post, kind: PostKind::Final, arrived, of: 2, error }));
        rig.finish("t1", Some("the answer in short"));
        assert_eq!(rig.posted().len() - before, texts, "a notice, and the final text where nothing was said");
    }
}
