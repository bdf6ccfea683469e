//! Which files are fetched.

use super::*;
use crate::chat::{Attachment, AttachmentKind, Author, FileRef, Kept};

fn file(id: &str) -> FileRef {
    FileRef { id: id.to_owned(), ..FileRef::default() }
}

fn fetched(effects: &[Effect]) -> Vec<(InputId, Vec<(MessageId, FileRef)>)> {
    let fetches = effects.iter().filter_map(|effect| match effect {
        Effect::Fetch { row, files } => Some((row.clone(), files.clone())),
        _ => None,
    });
    fetches.collect()
}

#[test]
fn files_of_forwarded_messages_are_fetched_like_the_messages_own() {
    let mut rig = Rig::running();
    let mut forwards = arrival(101, "look", Some("100"));
    forwards.message.files = vec![file("F1")];
    let kind = AttachmentKind::Forwarded;
    forwards.message.attached = vec![Attachment { kind, files: vec![file("F2")], ..Attachment::default() }];
    let effects = rig.step(SessionInput::Message(forwards));
    assert_eq!(given(&effects), [""; 0], "it waits for both");
    let [(row, files)] = fetched(&effects).try_into().unwrap();
    let ids: Vec<&str> = files.iter().map(|(_, file)| file.id.as_str()).collect();
    assert_eq!(ids, ["F1", "F2"]);
    let reason = "the bot may not read it".to_owned();
    let missing = |file: FileRef| FileRef { kept: Some(Kept::Missing { reason: reason.clone() }), ..file };
    let files = files.into_iter().map(|(message, file)| (message, missing(file))).collect();
    let effects = rig.step(SessionInput::Fetched { row, files });
    let [Effect::Submit { input, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(input.text.matches("the bot may not read it").count(), 2, "{}", input.text);
}

#[test]
fn a_bots_message_that_waits_goes_along_once_when_the_earlier_ones_are_read() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    let mut bots = arrival(101, "build failed", Some("100"));
    bots.instructs = false;
    bots.message.author = Author::Bot { id: "B1".to_owned(), other_ids: Vec::new(), name: None };
    bots.message.files = vec![FileRef { kept: Some(Kept::Missing { reason: "no".to_owned() }), ..file("F1") }];
    rig.step(SessionInput::Message(bots.clone()));
    rig.step(SessionInput::Command { arrival: arrival(102, "-new", Some("100")), command: Command::New });
    let effects = rig.say(103, "look");
    let wanted = effects.iter().find_map(|effect| match effect {
        Effect::Backfill { row, .. } => Some(row.clone()),
        _ => None,
    });
    let again = bots.message.files.iter().map(|file| FileRef { kept: None, ..file.clone() }).collect();
    let earlier = |message| ContextMessage { message, people: Vec::new(), denied: false };
    let messages = vec![
        earlier(arrival(100, "hello", None).message),
        earlier(crate::chat::ChatMessage { files: again, ..bots.message }),
    ];
    let result = Ok((messages, false));
    let effects = rig.step(SessionInput::Backfilled { row: wanted.expect("a new conversation"), result });
    assert_eq!(fetched(&effects), [], "its file is known");
    let effects = rig.open(2);
    let [Effect::Submit { input, .. }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(input.text.matches("build failed").count(), 1, "{}", input.text);
    assert!(input.text.contains("hello"));
}
