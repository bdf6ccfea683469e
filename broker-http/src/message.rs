//! A message of a thread, in the words of this API.

use std::path::Path;

use broker_core::chat::{Attachment, Author, FileRef, Kept, Person, ThreadKey};
use broker_core::store::ContextMessage;
use serde_json::{Value, json};

/// A message as clients see it.
pub(crate) fn shown(thread: &ThreadKey, known: &ContextMessage, workspace: Option<&Path>) -> Value {
    let ContextMessage { message, people, denied } = known;
    let person = |id: &str| people.iter().find(|person| person.id.as_str() == id);
    let (kind, user, bot, name) = match &message.author {
        Author::Person { id, .. } => (Some("user"), Some(id.as_str()), None, None),
        Author::Bot { id, name, .. } => (Some("bot"), None, Some(id.as_str()), name.as_deref()),
        Author::Own => (Some("self"), None, None, None),
        Author::Unknown => (None, None, None, None),
    };
    let file = |file| shown_file(file, workspace);
    let attachment = |attachment| shown_attachment(attachment, workspace);
    let mentioned: Vec<Value> =
        message.mentions.iter().filter_map(|id| person(id.as_str()).map(shown_person)).collect();
    json!({
        "channelId": thread.conversation,
        "channelType": message.conversation_kind,
        "rootThreadTs": thread.root,
        "messageTs": message.id,
        "senderKind": kind,
        "userId": user,
        "botId": bot,
        "senderUsername": name,
        "sender": user.and_then(person).map(shown_person),
        "text": message.text,
        "attachments": message.attached.iter().map(attachment).collect::<Vec<_>>(),
        "attachmentsLeftOut": message.attachments_left_out,
        "files": message.files.iter().map(file).collect::<Vec<_>>(),
        "edited": message.edited,
        "deleted": message.deleted,
        "permalink": message.permalink,
        "mayInstruct": !denied && matches!(message.author, Author::Person { .. } | Author::Bot { .. }),
        "mentionedUserIds": message.mentions,
        "mentionedUsers": mentioned,
    })
}

/// What hangs on a message: those fields alone that are there.
fn shown_attachment(attachment: &Attachment, workspace: Option<&Path>) -> Value {
    let Attachment {
        kind, author, channel, message_ts, link, service, pretext, title, title_link, text, image, ..
    } = attachment;
    let files: Vec<Value> = attachment.files.iter().map(|file| shown_file(file, workspace)).collect();
    let mut shown = json!({
        "kind": kind,
        "author": author,
        "channel": channel,
        "messageTs": message_ts,
        "link": link,
        "service": service,
        "pretext": pretext,
        "title": title,
        "titleLink": title_link,
        "text": text,
        "image": image,
        "files": (!files.is_empty()).then_some(files),
        "isCut": attachment.is_cut.then_some(true),
    });
    if let Value::Object(fields) = &mut shown {
        fields.retain(|_, value| !value.is_null());
    }
    shown
}

fn shown_file(file: &FileRef, workspace: Option<&Path>) -> Value {
    let (path, reason) = match &file.kept {
        Some(Kept::Here { path, .. }) => (workspace.map(|workspace| workspace.join(path)), None),
        Some(Kept::Missing { reason }) => (None, Some(reason)),
        None => (None, None),
    };
    json!({
        "id": file.id,
        "name": file.name,
        "mimetype": file.media_type,
        "size": file.size,
        "path": path,
        "notAvailable": reason,
    })
}

/// A person, without what is nobody's business in a thread.
fn shown_person(person: &Person) -> Value {
    json!({
        "userId": person.id,
        "displayName": person.display_name,
        "realName": person.real_name,
        "username": person.username,
    })
}
