//! Messages that are changed or deleted.

use super::*;
use crate::store::KnownMessage;

impl Rig {
    /// The message of that second was changed.
    fn edit(&mut self, second: u64, text: &str) -> Vec<Effect> {
        let known = self.known(second).unwrap();
        let root = (second != 100).then_some("100");
        self.step(SessionInput::Edited { arrival: arrival(second, text, root), known })
    }

    fn delete(&mut self, second: u64) -> Vec<Effect> {
        let known = self.known(second);
        let arrival = arrival(second, "secret plan", (second != 100).then_some("100"));
        self.step(SessionInput::Deleted { arrival, known })
    }

    fn known(&self, second: u64) -> Option<KnownMessage> {
        let id = MessageId::new(second.to_string());
        let mut rows = self.inbox.values().filter(|row| row.kind != InboxKind::Edit);
        let row = rows.find(|row| row.message.as_ref().is_some_and(|message| message.id == id))?;
        let (kind, state, withdrawn) = (row.kind, row.state, row.withdrawn);
        Some(KnownMessage { kind, state, withdrawn, given_to: row.given_to.clone() })
    }

    fn edits(&self) -> Vec<(InboxState, &str)> {
        let edits = self.inbox.values().filter(|row| row.kind == InboxKind::Edit);
        edits.map(|row| (row.state, row.message.as_ref().unwrap().text.as_str())).collect()
    }
}

fn texts(effects: &[Effect]) -> Vec<&str> {
    let texts = effects.iter().filter_map(|effect| match effect {
        Effect::Submit { input, .. } => Some(input.text.as_str()),
        _ => None,
    });
    texts.collect()
}

#[test]
fn before_it_is_given_a_message_is_what_it_was_changed_to() {
    let mut rig = Rig::begun();
    rig.edit(100, "hello, corrected");
    let effects = rig.open(1);
    assert_eq!(given(&effects), ["s-i1"]);
    assert!(texts(&effects)[0].contains("hello, corrected"));
    assert_eq!(rig.edits(), []);
}

#[test]
fn once_it_is_given_a_change_is_told() {
    let mut rig = Rig::running();
    let effects = rig.edit(100, "hello, corrected");
    assert_eq!(given(&effects), ["s-i2"], "into the turn that runs");
    assert!(texts(&effects)[0].contains("has changed it") && texts(&effects)[0].contains("hello, corrected"));
    rig.record("s-i2", "t1");
    rig.finish("t1", Some("done"));
    // Later it begins a turn of its own, and two changes that were not given are one.
    rig.slots_free = false;
    rig.edit(100, "one");
    rig.edit(100, "two");
    assert_eq!(rig.edits(), [(InboxState::Delivered, "hello, corrected"), (InboxState::Queued, "two")]);
}

#[test]
fn a_change_of_what_is_in_doubt_is_told_once() {
    // The agent has it: it is told of the change.
    let mut rig = Rig::running();
    rig.say(101, "draft");
    let effects = rig.edit(101, "final");
    assert_eq!(given(&effects), ["s-i3"]);

    // The agent does not have it: it is given as it is now, and there is no change to tell.
    let mut rig = Rig::running();
    rig.say(101, "draft");
    rig.accept("s-i2", "t1");
    rig.finish("t1", Some("done"));
    rig.edit(101, "final");
    assert_eq!(rig.edits(), [(InboxState::Queued, "final")]);
    let effects = rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i2"), Fate::Absent)])));
    assert_eq!(given(&effects), ["s-i2"]);
    assert!(texts(&effects)[0].contains("final") && !texts(&effects)[0].contains("has changed it"));
    assert_eq!(rig.edits(), [(InboxState::Cancelled, "final")]);
}

#[test]
fn changes_that_nobody_asked_to_hear_of_are_not_told() {
    let mut rig = Rig::running();
    let mut by_a_bot = arrival(100, "changed", None);
    by_a_bot.instructs = false;
    let known = rig.known(100).unwrap();
    rig.step(SessionInput::Edited { arrival: by_a_bot, known });
    assert_eq!(rig.edits(), []);
    rig.stop(102);
    rig.say(101, "was stopped");
    rig.edit(101, "was stopped, and changed");
    assert_eq!(rig.edits(), [], "it was taken back before");
}

#[test]
fn a_message_that_becomes_a_stop_stops() {
    let mut rig = Rig::running();
    rig.say(101, "more");
    let effects = rig.edit(101, "-stop");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Interrupt { .. })));
    assert_eq!(rig.state("s-i2"), InboxState::Cancelled);
    assert_eq!(rig.posted().last(), Some(&(PostKind::Notice, prompt::STOPPED.to_owned())));
    assert_eq!(given(&rig.say(102, "what was said since is not meant")), [""; 0]);
    assert_eq!(rig.known(102).unwrap().state, InboxState::Queued);
}

#[test]
fn a_message_that_was_deleted_before_it_was_given_is_never_given() {
    let mut rig = Rig::begun();
    rig.say(101, "taken back");
    rig.delete(101);
    assert_eq!(given(&rig.open(1)), ["s-i1"]);
    assert_eq!(rig.state("s-i2"), InboxState::Cancelled);

    // In doubt: only if the agent does not have it.
    for (fate, state, told) in
        [(Fate::Absent, InboxState::Cancelled, vec![]), (Fate::Recorded, InboxState::Delivered, vec!["s-i5"])]
    {
        let mut rig = Rig::running();
        rig.say(101, "in doubt");
        rig.accept("s-i2", "t1");
        assert_eq!(given(&rig.delete(101)), [""; 0], "nobody knows yet whether there is anything to tell");
        rig.finish("t1", Some("done"));
        let effects = rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i2"), fate)])));
        assert_eq!(given(&effects), told, "{fate:?}");
        assert_eq!(rig.state("s-i2"), state);
    }

    // The deletion came first.
    let mut rig = Rig::running();
    rig.delete(101);
    assert_eq!(rig.known(101).unwrap().state, InboxState::Cancelled, "when it comes it is known");
    // What was written before the session is no message of it.
    rig.delete(99);
    assert_eq!(rig.known(99), None);
}

#[test]
fn once_it_is_given_a_deletion_is_told_once_and_without_what_was_deleted() {
    let mut rig = Rig::running();
    rig.edit(100, "secret plan too");
    rig.record("s-i2", "t1");
    let effects = rig.delete(100);
    assert_eq!(given(&effects), ["s-i3"]);
    let told = texts(&effects)[0];
    assert!(told.contains("was deleted") && told.contains("\"deleted\": true"), "{told}");
    assert!(!told.contains("secret plan"), "{told}");
    rig.record("s-i3", "t1");
    // The platform says it again, and a word of an earlier change comes late.
    assert_eq!(given(&rig.delete(100)), [""; 0]);
    assert_eq!(given(&rig.edit(100, "secret plan before")), [""; 0]);
    rig.crash();
    rig.open(2);
    assert_eq!(given(&rig.delete(100)), [""; 0], "nor after a crash");
}

#[test]
fn a_deletion_takes_the_place_of_a_change_that_waits() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.slots_free = false;
    rig.edit(100, "draft");
    rig.delete(100);
    assert_eq!(rig.edits(), [(InboxState::Cancelled, "draft"), (InboxState::Queued, "")]);
    assert!(rig.inbox.values().any(|row| row.message.as_ref().is_some_and(|message| message.deleted)));
}

#[test]
fn a_deletion_is_not_told_where_that_is_switched_off_nor_of_what_went_along() {
    let mut rig = Rig::running();
    let mut around = (*rig.machine.around).clone();
    around.deliver_edits = false;
    rig.machine.around = Arc::new(around);
    assert_eq!(given(&rig.delete(100)), [""; 0]);
    assert_eq!(rig.edits(), []);
    let mut rig = Rig::running();
    let mut bots = arrival(101, "build failed", Some("100"));
    bots.instructs = false;
    rig.step(SessionInput::Message(bots));
    rig.say(102, "look");
    rig.record("s-i3", "t1");
    assert_eq!(rig.known(101).unwrap().state, InboxState::Delivered);
    assert_eq!(given(&rig.delete(101)), [""; 0]);
}

#[test]
fn an_agent_that_has_lost_everything_is_told_what_became_of_none_of_it() {
    for delete in [true, false] {
        let mut rig = Rig::running();
        rig.finish("t1", Some("done"));
        rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: String::new() }));
        let effects = if delete { rig.delete(100) } else { rig.edit(100, "corrected") };
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Open { .. })), "{effects:?}");
        rig.step(SessionInput::Opened(Err(OpenError::Lost)));
        assert_eq!(rig.edits(), [(InboxState::Cancelled, if delete { "" } else { "corrected" })]);
    }
}

#[test]
fn a_deletion_in_doubt_outlives_a_crash() {
    let mut rig = Rig::running();
    rig.say(101, "in doubt");
    rig.delete(101);
    rig.crash();
    rig.open(2);
    let fates = ["s-i2"].map(|id| (InputId::new(id), Fate::Absent)).to_vec();
    let effects = rig.step(SessionInput::Fates(Ok(fates)));
    assert_eq!(rig.state("s-i2"), InboxState::Cancelled);
    assert_eq!(given(&effects), ["s-i3"], "the agent goes on with the turn that was cut");
}

#[test]
fn what_goes_along_loses_what_was_deleted_before_it_is_given() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.step(SessionInput::Command { arrival: arrival(102, "-new", Some("100")), command: Command::New });
    let effects = rig.say(103, "look");
    let wanted = effects.iter().find_map(|effect| match effect {
        Effect::Backfill { row, .. } => Some(row.clone()),
        _ => None,
    });
    let earlier = |message| ContextMessage { message, people: Vec::new(), denied: false };
    let messages =
        vec![earlier(arrival(50, "secret plan", Some("100")).message), earlier(arrival(100, "hello", None).message)];
    rig.step(SessionInput::Backfilled { row: wanted.expect("a new conversation"), result: Ok((messages, false)) });
    rig.step(SessionInput::Deleted { arrival: arrival(50, "secret plan", Some("100")), known: None });
    let effects = rig.open(2);
    let [text] = texts(&effects)[..] else { panic!("{effects:?}") };
    assert!(!text.contains("secret plan") && text.contains("\"deleted\": true") && text.contains("hello"), "{text}");
}

#[test]
fn a_conversation_is_told_of_no_message_that_it_never_had() {
    for delete in [true, false] {
        let mut rig = Rig::running();
        rig.finish("t1", Some("done"));
        rig.step(SessionInput::Command { arrival: arrival(102, "-new", Some("100")), command: Command::New });
        let before = rig.inbox.len();
        let effects = if delete { rig.delete(100) } else { rig.edit(100, "hello, corrected") };
        assert_eq!(effects, [], "nothing is opened for that");
        assert_eq!(rig.inbox.len(), before);
        // So the next message has the thread's history, as people were told.
        let effects = rig.say(103, "go on");
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Backfill { .. })), "{effects:?}");
    }
}

#[test]
fn what_was_a_command_for_a_while_is_told_of_again() {
    let mut rig = Rig::begun();
    rig.open(1);
    rig.accept("s-i1", "t1");
    rig.edit(100, "-help");
    // The agent had it by then.
    rig.record("s-i1", "t1");
    assert!(rig.known(100).is_some_and(|known| !known.withdrawn));
    rig.edit(100, "hello, after all");
    assert!(rig.edits().iter().any(|(_, text)| *text == "hello, after all"), "{:?}", rig.edits());
}
