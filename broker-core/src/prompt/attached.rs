//! What hangs on a message beside its text, as the agent is shown it.

use serde::Serialize;

use super::block::{File, Files, cut};
use super::mentions::{Names, resolved};
use crate::chat::{Attachment, AttachmentKind};

/// An attachment: each part in a field of its own, so that no text can pass for a part that the platform has written.
#[derive(Debug, Serialize)]
pub(super) struct Attached<'a> {
    kind: AttachmentKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_ts: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pretext: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title_link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) files: Vec<File<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_cut: bool,
}

impl<'a> Attached<'a> {
    /// At most `most` characters of each of its texts.
    pub(super) fn new(attachment: &'a Attachment, names: Names<'_>, (most, files): (usize, Files<'_>)) -> Self {
        let mut is_cut = attachment.is_cut;
        let mut short = |text: &'a Option<String>| {
            let text = text.as_deref()?;
            let short = cut(text, most);
            is_cut |= short.len() < text.len();
            Some(short)
        };
        let (link, title_link, image) =
            (short(&attachment.link), short(&attachment.title_link), short(&attachment.image));
        let mut seen = |text: &'a Option<String>| short(text).map(|text| resolved(text, names));
        Self {
            kind: attachment.kind,
            author: seen(&attachment.author),
            channel: seen(&attachment.channel),
            message_ts: attachment.message_ts.as_ref().map(|ts| ts.as_str()),
            link,
            service: seen(&attachment.service),
            pretext: seen(&attachment.pretext),
            title: seen(&attachment.title),
            title_link,
            text: seen(&attachment.text),
            image,
            files: attachment.files.iter().map(|file| File::new(file, files)).collect(),
            is_cut,
        }
    }
}
