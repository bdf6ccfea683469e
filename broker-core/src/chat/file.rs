//! Files that hang on messages, and what became of them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

/// A file that hangs on a message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FileRef {
    /// The platform's id of the file.
    pub id: String,
    /// Its name, when the platform says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Its media type, when the platform says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub media_type: Option<String>,
    /// Its size in bytes, when the platform says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
    /// Where it can be fetched from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub url: Option<String>,
    /// What became of it; absent until it was fetched, or could not be.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<Kept>,
}

/// What became of a file of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Kept {
    /// It stands in the session's folder.
    Here {
        /// Its path within the workspace.
        path: String,
        /// The name of the scaled copy in the session's folder of images, for a file that is an image.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        image: Option<String>,
        /// Why an image cannot be shown as one.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        remark: Option<String>,
    },
    /// It could not be fetched.
    Missing {
        /// Why, for the agent.
        reason: String,
    },
}

/// A file that is posted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutFile {
    /// Its name.
    pub name: String,
    /// What stands above it; its name when absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub title: Option<String>,
    /// What an image shows, for those who do not see it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alt_text: Option<String>,
    /// What kind of text a snippet is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snippet_type: Option<String>,
    /// Its media type; absent where nobody said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_type: Option<String>,
    /// What stands beside it, in the platform's markup; may be empty.
    pub comment: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// What it holds.
    pub content: OutContent,
    /// The platform's id of it, once it was uploaded. Uploaded is not posted: it is seen by nobody yet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uploaded: Option<String>,
}

/// What a file that is posted holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutContent {
    /// A file that nobody changes any more, to be removed once the post is settled.
    Copy {
        /// Where it stands.
        path: PathBuf,
    },
    /// A text.
    Text {
        /// The text.
        text: String,
    },
}

/// Where a file is streamed to.
pub type FileSink = dyn AsyncWrite + Send + Unpin;

/// What became of a file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// How many bytes were written.
    pub bytes: u64,
    /// The name that the platform gives it.
    pub name: Option<String>,
    /// The media type that the platform names.
    pub media_type: Option<String>,
}

/// Why a file could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The platform cannot hand out files, or not this one.
    #[error("the file cannot be fetched ({reason})")]
    Refused {
        /// A code or a short reason.
        reason: String,
    },
    /// No answer, or a broken one; another try may succeed.
    #[error("the file could not be fetched for now ({reason})")]
    Unavailable {
        /// A code or a short reason.
        reason: String,
    },
}

impl FetchError {
    /// The reason alone.
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { reason } | Self::Unavailable { reason } => reason,
        }
    }
}
