//! What hangs on a message beside its text.

use serde::{Deserialize, Deserializer, Serialize};

use super::{FileRef, MessageId};

/// A forwarded message, the preview of a link, or what a bot hangs on its message. The texts are in the platform's own markup;
/// what is not there is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attachment {
    /// Which of these it is: told by the platform, and by no text.
    pub kind: AttachmentKind,
    /// Who wrote it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub author: Option<String>,
    /// The conversation that a forwarded message stands in.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub channel: Option<String>,
    /// The id of a forwarded message.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub message_ts: Option<MessageId>,
    /// Where a forwarded message is found, or what a preview is of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// The site or the program that it comes from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub service: Option<String>,
    /// What stands above it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pretext: Option<String>,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// Where its title leads.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title_link: Option<String>,
    /// What it says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
    /// The address of the image that it shows.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<String>,
    /// The files that hang on a forwarded message.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub files: Vec<FileRef>,
    /// Whether some of it was left out, since it was too long.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub is_cut: bool,
}

/// What an [`Attachment`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachmentKind {
    /// Somebody's message, as another one passes it on.
    Forwarded,
    /// What the platform shows of a link.
    Preview,
    /// Whatever the author of the message has hung on it.
    #[default]
    Attachment,
}

/// An attachment as rows hold it: those of an earlier broker are texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Attachment(Box<Attachment>),
}

/// Reads the attachments of a row.
pub(super) fn stored<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Attachment>, D::Error> {
    let read = |stored| match stored {
        Stored::Text(text) => Attachment { text: Some(text), ..Attachment::default() },
        Stored::Attachment(attachment) => *attachment,
    };
    Ok(Vec::<Stored>::deserialize(from)?.into_iter().map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::super::ChatMessage;
    use super::*;

    #[test]
    fn rows_of_an_earlier_broker_are_read() {
        let row = |attached: &str| {
            let row = format!(
                r#"{{"conversation":{{"installation":"T1","conversation":"C1"}},"conversation_kind":"channel","id":"1.1",
                    "at":1100000,"author":{{"kind":"own"}},"text":"a","attached":{attached}}}"#
            );
            serde_json::from_str::<ChatMessage>(&row).unwrap().attached
        };
        let text = |text: &str| Attachment { text: Some(text.to_owned()), ..Attachment::default() };
        assert_eq!(row(r#"["Preview of x:\nA page","b"]"#), [text("Preview of x:\nA page"), text("b")]);
        let forwarded = Attachment { kind: AttachmentKind::Forwarded, is_cut: true, ..text("c") };
        let written = serde_json::to_string(&[&forwarded]).unwrap();
        assert_eq!(written, r#"[{"kind":"forwarded","text":"c","is_cut":true}]"#);
        assert_eq!(row(&written), [forwarded]);
    }
}
