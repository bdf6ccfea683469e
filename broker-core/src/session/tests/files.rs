//! Which files are fetched.

use super::*;
use crate::chat::{Attachment, AttachmentKind, FileRef, Kept};

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
