//! Files that hang on messages, and what became of them.

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

/// Where a file is streamed to.
pub type FileSink = dyn AsyncWrite + Send + Unpin;

/// What became of a file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// How many bytes were written.
    pub bytes: u64,
    /// The media type that the platform named.
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
