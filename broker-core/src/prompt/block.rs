//! Messages as JSON inside a fence that no text can close.

use std::path::Path;

use serde::Serialize;

use super::attached::Attached;
use super::mentions::{Names, known, label, resolved};
use crate::chat::{Attachment, Author, ChatMessage, ConversationKind, FileRef, Kept, Person, PersonId};

/// The most people that are listed for one message.
const MAX_LISTED: usize = 20;
/// The longest name that is shown, in characters.
const MAX_NAME: usize = 200;

/// Somebody, as the agent is shown them.
#[derive(Debug, Serialize)]
pub(super) struct Someone {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    user_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mention: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    real_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    may_not_instruct: bool,
}

impl Someone {
    fn person(id: &PersonId, people: &[Person]) -> Self {
        let person = known(people, id);
        let display = person.map(label).filter(|name| *name != id.as_str());
        let other = |name: Option<&String>, shown: &[Option<&str>]| {
            let name = name?.trim();
            (!name.is_empty() && !shown.contains(&Some(name))).then(|| cut(name, MAX_NAME).to_owned())
        };
        let real = person.and_then(|person| person.real_name.as_ref());
        Self {
            kind: None,
            user_id: id.to_string(),
            mention: Some(format!("<@{id}>")),
            display_name: display.map(|name| cut(name, MAX_NAME).to_owned()),
            real_name: other(real, &[display]),
            username: other(
                person.and_then(|person| person.username.as_ref()),
                &[display, real.map(|name| name.trim())],
            ),
            may_not_instruct: false,
        }
    }

    /// Absent where nobody knows any more.
    fn author(author: &Author, people: &[Person]) -> Option<Self> {
        let other = |kind, id: &str, name: Option<&String>| Self {
            kind: Some(kind),
            user_id: id.to_owned(),
            mention: None,
            display_name: name.map(|name| cut(name, MAX_NAME).to_owned()),
            real_name: None,
            username: None,
            may_not_instruct: false,
        };
        match author {
            Author::Person { id, .. } => Some(Self { kind: Some("person"), ..Self::person(id, people) }),
            Author::Bot { id, name, .. } => Some(other("bot", id, name.as_ref())),
            Author::Own => Some(other("you", author.id(), None)),
            Author::Unknown => None,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct File<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The name under which the image goes along.
    #[serde(skip_serializing_if = "Option::is_none")]
    shown_as_image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_available: Option<&'a str>,
}

/// What is known of the files that go along with an input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    /// Where their paths begin; absent where files do not go along.
    pub(super) workspace: Option<&'a Path>,
    /// The images that are shown.
    pub(super) images: &'a [&'a str],
}

impl<'a> File<'a> {
    pub(super) fn new(file: &'a FileRef, files: Files<'_>) -> Self {
        let short = |text: &'a Option<String>| text.as_deref().map(|text| cut(text, MAX_NAME));
        let mut shown = Self {
            id: &file.id,
            name: short(&file.name),
            media_type: short(&file.media_type),
            size: file.size,
            path: None,
            shown_as_image: None,
            remark: None,
            not_available: None,
        };
        match (&file.kept, files.workspace) {
            (Some(Kept::Here { path, image, remark }), Some(workspace)) => {
                shown.path = Some(workspace.join(path).display().to_string());
                shown.shown_as_image = image.as_deref().filter(|image| files.images.contains(image));
                shown.remark = remark.as_deref();
            }
            (Some(Kept::Missing { reason }), Some(_)) => shown.not_available = Some(cut(reason, MAX_NAME)),
            _ => {}
        }
        shown
    }
}

/// A message, as the agent is shown it.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    message_ts: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<Someone>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mentioned_users: Vec<Someone>,
    /// Absent for what was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_with_resolved_mentions: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attached<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachments_left_out: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<File<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    edited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    permalink: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    text_is_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    whole_message_file: Option<&'a str>,
}

/// Files and attachments of a message that goes along, where not everything fits.
const FEW: usize = 5;

impl<'a> Shown<'a> {
    /// With few files and attachments, where not everything fits.
    pub(super) fn shortened(mut self) -> Self {
        self.text_is_cut |= self.files.len() > FEW || self.attachments.len() > FEW;
        self.files.truncate(FEW);
        self.attachments.truncate(FEW);
        // Those of forwarded messages count like its own.
        let mut room = FEW - self.files.len();
        for attachment in &mut self.attachments {
            let too_many = attachment.files.len() > room;
            (attachment.is_cut, self.text_is_cut) = (attachment.is_cut | too_many, self.text_is_cut | too_many);
            attachment.files.truncate(room);
            room -= attachment.files.len();
        }
        self
    }

    /// A message that only goes along; at most `most` characters of its text.
    pub(super) fn context(message: &'a ChatMessage, people: &[Person], (most, files): (usize, Files<'_>)) -> Self {
        let text = cut(&message.text, most);
        let names = Names { people, channels: &message.channels };
        let shown = |attachment| Attached::new(attachment, names, (most, files));
        let attachments: Vec<Attached<'a>> = message.attached.iter().map(shown).collect();
        let longer = |(shown, whole): (&Attached<'_>, &Attachment)| shown.is_cut && !whole.is_cut;
        let text_is_cut = text.len() < message.text.len() || attachments.iter().zip(&message.attached).any(longer);
        let resolved = resolved(text, names);
        Self {
            source: None,
            message_ts: message.id.as_str(),
            deleted: message.deleted,
            sender: Someone::author(&message.author, people),
            mentioned_users: Vec::new(),
            text: (!message.deleted).then_some(text),
            text_with_resolved_mentions: (resolved != text).then_some(resolved),
            attachments,
            attachments_left_out: (message.attachments_left_out > 0).then_some(message.attachments_left_out),
            files: message.files.iter().map(|file| File::new(file, files)).collect(),
            edited: message.edited,
            permalink: message.permalink.as_deref(),
            late: false,
            remark: None,
            text_is_cut,
            whole_message_file: None,
        }
    }

    /// The same of somebody who may not instruct the agent.
    pub(super) fn denied(mut self, denied: bool) -> Self {
        if let Some(sender) = &mut self.sender {
            sender.may_not_instruct = denied;
        }
        self
    }

    /// The message that is given; at most `most` characters of its text. `file` is where the whole of it stands.
    pub(super) fn given(
        message: &'a ChatMessage,
        people: &[Person],
        late: bool,
        share: (usize, Files<'_>),
        file: Option<&'a str>,
    ) -> Self {
        let mut shown = Self::context(message, people, share);
        if message.deleted {
            return shown;
        }
        let mut mentions: Vec<&PersonId> = Vec::new();
        for id in &message.mentions {
            if mentions.len() < MAX_LISTED && !mentions.contains(&id) {
                mentions.push(id);
            }
        }
        shown.source = Some(source(message));
        shown.mentioned_users = mentions.into_iter().map(|id| Someone::person(id, people)).collect();
        // Always there, so that the agent need not wonder which of the two to read. Not twice what is too long anyway.
        if !shown.text_is_cut && shown.text_with_resolved_mentions.is_none() {
            shown.text_with_resolved_mentions = shown.text.map(str::to_owned);
        }
        shown.late = late;
        shown.remark =
            late.then_some("It was found late: newer messages of this thread have been given to you before it.");
        shown.whole_message_file = file;
        shown
    }
}

fn source(message: &ChatMessage) -> &'static str {
    if message.conversation_kind == ConversationKind::Direct {
        "direct_message"
    } else if message.mentions_self {
        "app_mention"
    } else {
        "thread_reply"
    }
}

/// The beginning of a text, at most `most` characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

/// A value as JSON inside a fence. JSON has no line of backticks alone, and the fence is longer than any run within.
pub(super) fn fenced(value: &impl Serialize) -> String {
    let json = json(value);
    let (mut longest, mut run) = (0, 0);
    for c in json.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}json\n{json}\n{fence}")
}

/// A value as JSON, for people and models to read.
pub(super) fn json(value: &impl Serialize) -> String {
    // Our own types of strings and numbers: this cannot fail.
    serde_json::to_string_pretty(value).unwrap_or_default()
}
