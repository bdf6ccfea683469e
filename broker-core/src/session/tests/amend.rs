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
        let message = arrival(second, "gone", Some("100")).message;
        self.step(SessionInput::Deleted { journal: None, message, known })
    }

    fn known(&self, second: u64) -> Option<KnownMessage> {
        let id = MessageId::new(second.to_string());
        let mut rows = self.inbox.values().filter(|row| row.kind != InboxKind::Edit);
        let row = rows.find(|row| row.message.as_ref().is_some_and(|message| message.id == id))?;
        Some(KnownMessage { kind: row.kind, state: row.state })
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
    for (fate, state) in [(Fate::Absent, InboxState::Cancelled), (Fate::Recorded, InboxState::Delivered)] {
        let mut rig = Rig::running();
        rig.say(101, "in doubt");
        rig.accept("s-i2", "t1");
        rig.delete(101);
        rig.finish("t1", Some("done"));
        let effects = rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i2"), fate)])));
        assert_eq!(given(&effects), [""; 0]);
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
