//! What somebody who asked for something is told.

use crate::agent::AgentAnswer;
use crate::session::TOOL_ANSWER_LIMIT;
use crate::store::PostId;

/// The answer to a [`ToolCommand`](super::ToolCommand).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolAnswer {
    /// Every message of the post stands in the thread.
    Posted {
        /// The post.
        post: PostId,
        /// How many messages it is.
        messages: u32,
    },
    /// The post is durable, and on its way for longer than anybody wants to wait.
    Queued {
        /// The post.
        post: PostId,
    },
    /// The platform refused a message of the post for good, and the rest was dropped.
    Undelivered {
        /// The post.
        post: PostId,
        /// How many messages arrived.
        arrived: u32,
        /// How many it has.
        of: u32,
        /// The platform's code.
        code: String,
    },
    /// It is done, and there is nothing to say of it.
    Done,
    /// A text to read.
    Text(String),
    /// Nothing was done.
    Refused {
        /// The kind of mistake.
        code: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ToolAnswer {
    /// A refusal.
    pub fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    /// In words for the model that called the tool.
    pub fn for_agent(&self) -> AgentAnswer {
        let (success, text) = match self {
            Self::Posted { messages, .. } => (true, format!("posted ({messages} message{})", plural(*messages))),
            Self::Queued { post } => {
                let seconds = TOOL_ANSWER_LIMIT.as_secs();
                let text = format!(
                    "queued as {post}: Slack did not take it within {seconds} s; it will be posted, do not post it again"
                );
                (true, text)
            }
            Self::Undelivered { arrived, of, code, .. } => {
                (false, format!("{arrived} of {of} messages arrived; the rest could not be posted ({code})"))
            }
            Self::Done => (true, "noted".to_owned()),
            Self::Text(text) => (true, text.clone()),
            Self::Refused { message, .. } => (false, message.clone()),
        };
        AgentAnswer::Tool { success, text }
    }
}

fn plural(n: u32) -> &'static str {
    if n == 1 { "" } else { "s" }
}
