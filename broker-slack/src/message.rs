//! One Slack message, from an event or from a history page.
//!
//! Everything is read from the raw JSON: slack-morphism's model drops a message's whole content when one field of it has
//! an unexpected type. Only the channel, the `ts` and an author of some kind are indispensable.

use broker_core::chat::{
    Attachment, AttachmentKind, Author, ChatMessage, ConversationId, ConversationKey, ConversationKind, FileRef,
    MessageId, PersonId,
};
use serde_json::Value;

use crate::attached::Attachments;
use crate::identity::Identity;
use crate::{attached, blocks, lenient, text, ts};

/// Files taken from one message; Slack's own clients allow ten.
const MAX_FILES: usize = 100;

/// Stands at the end of a text of blocks that is longer than what is read of them.
const CUT: &str = "… (cut)";

/// What stands around a message and is not in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    /// Who the broker is.
    pub(crate) identity: &'a Identity,
    /// The conversation, where the message itself does not name it (history pages do not).
    pub(crate) conversation: Option<&'a str>,
    /// The kind of the conversation, where the message itself does not name it.
    pub(crate) channel_type: Option<&'a str>,
    /// The app that the event was sent to: ours, by definition.
    pub(crate) app: Option<&'a str>,
    /// Whether the conversation is shared with another organisation, where that is known.
    pub(crate) shared: Option<bool>,
    /// Whether Slack says that the message mentions the broker (`app_mention`).
    pub(crate) mentioned: bool,
}

/// What an event says of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    /// It was written.
    New(&'a Value),
    /// It was changed: what it is now, and what it was, where Slack says so.
    Edited(&'a Value, Option<&'a Value>),
    /// It was deleted: what it was.
    Deleted(&'a Value),
}

/// What an event of type `message` says (<https://docs.slack.dev/reference/events/message/message_changed>,
/// <https://docs.slack.dev/reference/events/message/message_deleted>). A message with replies is not deleted but changed
/// into a `tombstone`.
pub(crate) fn change(event: &Value) -> Result<Change<'_>, &'static str> {
    let part = |name| event.get(name).filter(|part: &&Value| part.is_object());
    let previous = part("previous_message");
    match lenient::text(event, "subtype") {
        Some("message_changed") => {
            let now = part("message").ok_or("an edit without its message")?;
            if is_tombstone(now) {
                return previous.map(Change::Deleted).ok_or("a deletion of an unknown message");
            }
            Ok(Change::Edited(now, previous))
        }
        Some("message_deleted") => previous.map(Change::Deleted).ok_or("a deletion of an unknown message"),
        _ => Ok(Change::New(event)),
    }
}

/// The subtype of the placeholder of a message that was deleted and has replies.
const TOMBSTONE: &str = "tombstone";

/// Whether a message is what is left of one that was deleted. In a history it keeps its place.
pub(crate) fn is_tombstone(message: &Value) -> bool {
    lenient::text(message, "subtype") == Some(TOMBSTONE)
}

/// Whether a message with this `subtype` is something that somebody wrote, and if not, what it is.
///
/// `thread_broadcast` is a reply that is also shown in the channel. All other subtypes are notices about a channel or
/// about another message (<https://docs.slack.dev/reference/events/message>).
pub(crate) fn notice(message: &Value) -> Option<&'static str> {
    match lenient::text(message, "subtype")? {
        "file_share" | "me_message" | "bot_message" | "thread_broadcast" => None,
        TOMBSTONE => Some("a deletion"),
        _ => Some("a notice about the conversation"),
    }
}

/// Reads a message. `Err` says what indispensable part is missing.
pub(crate) fn read(message: &Value, frame: Frame<'_>) -> Result<ChatMessage, &'static str> {
    let conversation = lenient::id(message, "channel")
        .or_else(|| lenient::text(message, "channel_id"))
        .or(frame.conversation)
        .ok_or("a message without a channel")?;
    // For messages `event_ts` is the same moment; it stands in when `ts` is odd.
    let id = lenient::ts(message, "ts").or_else(|| lenient::ts(message, "event_ts")).ok_or("a message without a ts")?;
    let at = ts::time(&id).ok_or("a message without a ts")?;
    let deleted = is_tombstone(message);
    // Slack puts itself in the place of whoever wrote it.
    let author = if deleted { Some(Author::Unknown) } else { author(message, frame) };
    let author = author.ok_or("a message without an author")?;
    let mut attached = attached::of(message);
    let body = body(message, &author, &mut attached);
    let mentions = text::mentions(&body);
    let channels = text::channels(std::iter::once(body.as_str()).chain(attached.markup()));
    let thread_root = lenient::ts(message, "thread_ts").filter(|root| *root != id).map(MessageId::new);
    let read = ChatMessage {
        conversation: ConversationKey {
            installation: frame.identity.installation.clone(),
            conversation: ConversationId::new(conversation),
        },
        conversation_kind: kind(lenient::text(message, "channel_type").or(frame.channel_type), conversation),
        permalink: permalink(frame.identity, conversation, &id, thread_root.as_ref()),
        id: MessageId::new(id),
        at,
        thread_root,
        author,
        mentions_self: frame.mentioned || text::names(&body, &frame.identity.user),
        control_text: text::control(&body, &frame.identity.user),
        mentions,
        channels,
        files: files(message),
        attached: attached.read,
        attachments_left_out: attached.left_out,
        edited: message.get("edited").is_some_and(Value::is_object),
        deleted: false,
        externally_shared: frame.shared.unwrap_or_else(|| lenient::flag(message, "is_ext_shared_channel")),
        text: body,
    };
    Ok(if deleted { read.into_deleted() } else { read })
}

/// What a message says. What people write stands in `text` as well as in blocks; of a bot's message `text` is often no more
/// than the line of a notification.
fn body(message: &Value, author: &Author, attached: &mut Attachments) -> String {
    let (written, blocks) = (lenient::written(message, "text"), blocks::of(lenient::list(message, "blocks")));
    let mark = if blocks.is_cut { CUT } else { "" };
    let blocks = blocks.into_string() + mark;
    if written.trim().is_empty() && blocks.is_empty() {
        // Whoever forwards a message without a word has not said what stands in it.
        let is_bots = matches!(author, Author::Bot { .. });
        if !is_bots {
            return String::new();
        }
        let is_own =
            |attachment: &Attachment| attachment.kind == AttachmentKind::Attachment && attachment.files.is_empty();
        let (own, others) = std::mem::take(&mut attached.read).into_iter().partition::<Vec<_>, _>(is_own);
        attached.read = others;
        let mark = if own.iter().any(|attachment| attachment.is_cut) { CUT } else { "" };
        return attached::as_text(&own) + mark;
    }
    if written.trim().is_empty() {
        return blocks;
    }
    match author {
        Author::Bot { .. } if text::says_all_of(&written, &blocks) => written,
        Author::Bot { .. } if text::says_all_of(&blocks, &written) => blocks,
        Author::Bot { .. } => format!("{written}\n{blocks}"),
        _ => written,
    }
}

/// Where a message is found in a browser
/// (<https://docs.slack.dev/reference/methods/chat.getPermalink>; the form is stable, and asking would cost a call each).
fn permalink(identity: &Identity, conversation: &str, id: &str, root: Option<&MessageId>) -> Option<String> {
    let url = identity.url.as_deref()?.trim_end_matches('/');
    let thread = root.map(|root| format!("?thread_ts={root}&cid={conversation}")).unwrap_or_default();
    Some(format!("{url}/archives/{conversation}/p{}{thread}", id.replace('.', "")))
}

/// What kind of conversation it is: by `channel_type`, else by the first letter of its id.
fn kind(channel_type: Option<&str>, conversation: &str) -> ConversationKind {
    match channel_type {
        Some("im") => return ConversationKind::Direct,
        Some("mpim") => return ConversationKind::GroupDirect,
        Some("channel") => return ConversationKind::Channel,
        Some("group") => return ConversationKind::PrivateChannel,
        _ => {}
    }
    match conversation.as_bytes().first() {
        Some(b'D') => ConversationKind::Direct,
        Some(b'C') => ConversationKind::Channel,
        Some(b'G') => ConversationKind::PrivateChannel,
        _ => ConversationKind::Unknown,
    }
}

/// Who wrote a message.
///
/// A message with a `bot_id` is a bot's even when it names a user: bots have users of their own, and what an app posts
/// in a person's name was not written by that person.
fn author(message: &Value, frame: Frame<'_>) -> Option<Author> {
    let user = lenient::id(message, "user");
    let bot = lenient::text(message, "bot_id").or_else(|| lenient::text(message.get("bot_profile")?, "id"));
    let app = lenient::text(message, "app_id").or_else(|| lenient::text(message.get("bot_profile")?, "app_id"));
    let own = user == Some(frame.identity.user.as_str())
        || bot == Some(frame.identity.bot.as_str())
        || (app.is_some() && (app == frame.app || app == frame.identity.app.as_deref()));
    if own {
        return Some(Author::Own);
    }
    let says_bot = bot.is_some() || lenient::text(message, "subtype") == Some("bot_message");
    match user {
        // Slackbot speaks without a bot_id.
        Some(user) if !says_bot && user != "USLACKBOT" => {
            Some(Author::Person { id: PersonId::new(user), team: team(message, frame).map(str::to_owned) })
        }
        _ => {
            let name = lenient::text(message, "username")
                .or_else(|| lenient::text(message.get("bot_profile")?, "name"))
                .map(str::to_owned);
            let mut ids = [user, bot, app].into_iter().flatten().map(str::to_owned);
            // A name identifies nobody, so it is marked as one and can never be the id that an operator listed.
            let id = ids.next().or_else(|| name.as_ref().map(|name| format!("name:{name}")))?;
            Some(Author::Bot { id, other_ids: ids.collect(), name })
        }
    }
}

/// The team that a message's author belongs to, where the message tells it beyond doubt.
///
/// `user_team` and the team of the profile are the author's own. `source_team` and `team` may be those of the side of a
/// shared channel (<https://api.slack.com/apis/channels-between-orgs>) that sent or received the message, so they count
/// only where Slack says that the channel is not shared; the envelope's `team_id` is always the receiving side and never
/// counts. Silence costs nothing: then `users.info` is asked, while a wrong team might let a stranger in.
fn team<'a>(message: &'a Value, frame: Frame<'_>) -> Option<&'a str> {
    let own = lenient::text(message, "user_team").or_else(|| lenient::text(message.get("user_profile")?, "team"));
    if own.is_some() || frame.shared != Some(false) {
        return own;
    }
    lenient::text(message, "source_team").or_else(|| lenient::text(message, "team"))
}

fn files(message: &Value) -> Vec<FileRef> {
    lenient::list(message, "files").iter().filter_map(file).take(MAX_FILES).collect()
}

/// A file object (<https://docs.slack.dev/reference/objects/file-object>).
pub(crate) fn file(file: &Value) -> Option<FileRef> {
    Some(FileRef {
        id: lenient::text(file, "id")?.to_owned(),
        name: lenient::text(file, "name").or_else(|| lenient::text(file, "title")).map(str::to_owned),
        media_type: lenient::text(file, "mimetype").map(str::to_owned),
        size: lenient::number(file, "size"),
        url: lenient::text(file, "url_private_download")
            .or_else(|| lenient::text(file, "url_private"))
            .map(str::to_owned),
        kept: None,
    })
}
