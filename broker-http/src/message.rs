//! A message of a thread, in the words of this API.

use broker_core::chat::{Author, Person, ThreadKey};
use broker_core::store::ContextMessage;
use serde_json::{Value, json};

/// A message as clients see it.
pub(crate) fn shown(thread: &ThreadKey, known: &ContextMessage) -> Value {
    let ContextMessage { message, people, denied } = known;
    let person = |id: &str| people.iter().find(|person| person.id.as_str() == id);
    let (kind, user, bot, name) = match &message.author {
        Author::Person { id, .. } => (Some("user"), Some(id.as_str()), None, None),
        Author::Bot { id, name, .. } => (Some("bot"), None, Some(id.as_str()), name.as_deref()),
        Author::Own => (Some("self"), None, None, None),
        Author::Unknown => (None, None, None, None),
    };
    let files: Vec<Value> = message
        .files
        .iter()
        .map(|file| json!({"id": file.id, "name": file.name, "mimetype": file.media_type, "size": file.size}))
        .collect();
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
        "attachments": message.attached,
        "files": files,
        "edited": message.edited,
        "deleted": message.deleted,
        "permalink": message.permalink,
        "mayInstruct": !denied && matches!(message.author, Author::Person { .. }),
        "mentionedUserIds": message.mentions,
        "mentionedUsers": mentioned,
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
