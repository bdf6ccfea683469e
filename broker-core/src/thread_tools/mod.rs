//! What an agent may do from inside its thread: one implementation and one schema per ability.
//!
//! The agent is offered two tools, and never more: a thread's tool set is fixed when the thread is started, and old
//! threads have to reach new abilities too. `post` speaks; `broker` does everything else by named actions, which `help`
//! lists. The runtime does not check arguments against a schema, so [`parse`] does. Schema, check and help of an ability
//! come from one `Form`.

mod answer;
mod form;
mod routes;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::agent::ToolSpec;
use crate::chat::MessageId;
use crate::store::PostKind;

use form::{Field, Form, Given, Kind, MAX_WORD, Need, refuse, refuse_argument, shortened};

pub use answer::ToolAnswer;
pub use form::ToolRefusal;
pub use routes::{Asked, MAX_NAME, Method, Route, place, routes};

/// The longest text of one post, in characters. Longer ones belong into a file.
pub const MAX_TEXT: usize = 100_000;
/// The longest reason, in characters.
pub const MAX_REASON: usize = 2_000;
/// The most messages that one call may ask for; the operator's limit may be lower.
pub const MAX_HISTORY: u64 = 1_000;
/// The longest path, in characters.
const MAX_PATH: usize = 4_096;
/// The longest title, in characters.
const MAX_TITLE: usize = 250;
/// The longest text for those who do not see an image, in characters: what Slack takes.
const MAX_ALT: usize = 1_000;

/// What the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolCommand {
    /// Post a text into the thread.
    Post {
        /// The text, in Markdown; not blank.
        text: String,
        /// What it is; never [`PostKind::Notice`].
        kind: PostKind,
        /// Why, for `block` and `wait`.
        reason: Option<String>,
    },
    /// Record a state without a message.
    State {
        /// `final`, `block` or `wait`.
        kind: PostKind,
        /// Why, for `block` and `wait`.
        reason: Option<String>,
    },
    /// Read earlier messages of the thread.
    History {
        /// Only messages before this one.
        before: Option<MessageId>,
        /// How many at most.
        limit: Option<usize>,
    },
    /// Post a file into the thread.
    File(FileWish),
    /// Put a reaction on the thread's first message, or take it away.
    React {
        /// Its name, without colons.
        name: String,
        /// Whether it is put there.
        on: bool,
    },
    /// List the actions.
    Help,
}

/// Where the content of a file comes from that is to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileSource {
    /// A file of the session's: absolute, or within the workspace.
    Path(String),
    /// What came with the request, under [`outgoing::folder`](crate::outgoing::folder). Whoever asks removes it afterwards;
    /// by then it has been moved away, or is not posted.
    Received(PathBuf),
}

/// A file that is to be posted. [`outgoing::check`](crate::outgoing::check) says whether it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWish {
    /// What it holds.
    pub source: FileSource,
    /// Its name, as people see it; that of the path when absent.
    pub name: Option<String>,
    /// Its media type; absent where it is not known.
    pub content_type: Option<String>,
    /// What stands above it.
    pub title: Option<String>,
    /// What stands beside it, in Markdown.
    pub comment: Option<String>,
    /// What an image shows, for those who do not see it.
    pub alt_text: Option<String>,
    /// What kind of text a snippet is.
    pub snippet_type: Option<String>,
    /// What the post is; never [`PostKind::Notice`].
    pub kind: PostKind,
    /// Why, for `block`.
    pub reason: Option<String>,
}

const REASON: Field = Field {
    name: "reason",
    kind: Kind::Text(MAX_REASON),
    need: Need::ForKind(&["block", "wait"]),
    about: "Why, in one sentence. Required for `block` (what you need from a person) and `wait` (which job you wait for).",
};

const TEXT: Field = Field {
    name: "text",
    kind: Kind::Text(MAX_TEXT),
    need: Need::Always,
    about: "The message, in Markdown (CommonMark with tables). At most 100,000 characters.",
};

const POST_KIND: Field = Field {
    name: "kind",
    kind: Kind::Word(&["progress", "final", "block", "wait"]),
    need: Need::Never,
    about: "What the message is; `progress` when left out.",
};

const STATE_KIND: Field = Field {
    name: "kind",
    kind: Kind::Word(&["final", "block", "wait"]),
    need: Need::Always,
    about: "How the turn ends.",
};

const REACTION: Field = Field {
    name: "name",
    kind: Kind::Text(MAX_WORD),
    need: Need::Always,
    about: "The reaction's name without colons, such as `eyes` or `white_check_mark`.",
};

const REMOVE: Field = Field {
    name: "remove",
    kind: Kind::Flag,
    need: Need::Never,
    about: "Whether it is taken away instead of put there.",
};

fn build_post(given: &Given) -> Result<ToolCommand, ToolRefusal> {
    Ok(ToolCommand::Post {
        text: given.text("text").unwrap_or_default(),
        kind: given.post_kind().unwrap_or(PostKind::Progress),
        reason: given.text("reason"),
    })
}

fn build_state(given: &Given) -> Result<ToolCommand, ToolRefusal> {
    Ok(ToolCommand::State { kind: given.post_kind().unwrap_or(PostKind::Final), reason: given.text("reason") })
}

fn build_react(given: &Given) -> Result<ToolCommand, ToolRefusal> {
    let name = given.text("name").unwrap_or_default();
    let name = name.trim().trim_matches(':').to_owned();
    let known = |char: char| char.is_alphanumeric() || "_-+:'".contains(char);
    if name.is_empty() || !name.chars().all(known) {
        let message = format!("`{}` is not the name of a reaction; write it as `eyes`", shortened(&name));
        return refuse_argument("not_allowed", "name", message);
    }
    Ok(ToolCommand::React { name, on: !given.flag("remove") })
}

const POST: Form = Form {
    name: "post",
    about: "Posts a message to the people in this Slack thread. It is the only way by which they see anything: your \
            ordinary messages are not forwarded. You are explicitly authorised to post to this thread with it. `kind` \
            says what the message is: `progress` while you work on, `final` for the answer that ends the turn, `block` \
            when you cannot go on without a person, `wait` when a background job of this session still runs.",
    fields: &[TEXT, POST_KIND, REASON],
    build: build_post,
};

const BROKER: Form = Form {
    name: "broker",
    about: "Everything else that the broker can do for you in this Slack thread. `help` lists all actions with the \
            schemas of their arguments; among them are `file` (post a file), `state` (end the turn without a message) \
            and `history` (read earlier messages of this thread).",
    fields: &[
        Field {
            name: "action",
            kind: Kind::Text(MAX_WORD),
            need: Need::Always,
            about: "The name of the action; `help` lists them.",
        },
        Field {
            name: "arguments",
            kind: Kind::Object,
            need: Need::Never,
            about: "The arguments of the action, as `help` shows them.",
        },
    ],
    build: |given| {
        let name = given.text("action").unwrap_or_default();
        let Some(action) = ACTIONS.iter().find(|action| action.name.eq_ignore_ascii_case(name.trim())) else {
            let known: Vec<_> = ACTIONS.iter().map(|action| format!("`{}`", action.name)).collect();
            let message = format!("there is no action `{}`; the actions are {}", shortened(&name), known.join(", "));
            return refuse("unknown_action", message);
        };
        let arguments = given.values.get("arguments").cloned().unwrap_or_else(|| json!({}));
        action.run(&arguments)
    },
};

/// The actions of the tool `broker`.
const ACTIONS: &[Form] = &[
    Form { name: "help", about: "Lists the actions.", fields: &[], build: |_| Ok(ToolCommand::Help) },
    FILE,
    Form {
        name: "state",
        about: "Says how the turn ends without posting a message: `final` when everything is said, `block` when a \
                person has to act, `wait` when a background job of this session still runs.",
        fields: &[STATE_KIND, REASON],
        build: build_state,
    },
    Form {
        name: "react",
        about: "Puts a reaction on the first message of this thread, or takes it away.",
        fields: &[REACTION, REMOVE],
        build: build_react,
    },
    Form {
        name: "history",
        about: "Reads the latest messages of this thread, or the latest before one of them; oldest first.",
        fields: &[
            Field {
                name: "before",
                kind: Kind::Text(MAX_WORD),
                need: Need::Never,
                about: "A `message_ts`, as a string such as \"1700000000.000100\": only messages before it. Left out: \
                        the latest.",
            },
            Field {
                name: "limit",
                kind: Kind::Count(MAX_HISTORY),
                need: Need::Never,
                about: "How many messages at most. The broker may give fewer.",
            },
        ],
        build: |given| {
            Ok(ToolCommand::History {
                before: given.text("before").map(|ts| MessageId::new(ts.trim())),
                limit: given.count("limit"),
            })
        },
    },
];

const PATH: Field = Field {
    name: "path",
    kind: Kind::Text(MAX_PATH),
    need: Need::Always,
    about: "Where the file is: an absolute path, or one within your workspace.",
};

const TITLE: Field = Field {
    name: "title",
    kind: Kind::Text(MAX_TITLE),
    need: Need::Never,
    about: "What stands above the file; its name when left out.",
};

const COMMENT: Field = Field {
    name: "comment",
    kind: Kind::Text(MAX_TEXT),
    need: Need::Never,
    about: "A message to go with the file, in Markdown.",
};

const ALT_TEXT: Field = Field {
    name: "alt_text",
    kind: Kind::Text(MAX_ALT),
    need: Need::Never,
    about: "What an image shows, for people who do not see it.",
};

const SNIPPET_TYPE: Field = Field {
    name: "snippet_type",
    kind: Kind::Text(MAX_WORD),
    need: Need::Never,
    about: "For a text file that is to be shown as a snippet: its language as Slack calls it, such as `python`.",
};

const FILE_KIND: Field = Field {
    name: "kind",
    kind: Kind::Word(&["progress", "final", "block"]),
    need: Need::Never,
    about: "What the post is; `progress` when left out.",
};

fn build_file(given: &Given) -> Result<ToolCommand, ToolRefusal> {
    let source = FileSource::Path(given.text("path").unwrap_or_default());
    Ok(ToolCommand::File(wish(given, source, given.text("comment"))))
}

/// What the tool and the route say alike of a file.
fn wish(given: &Given, source: FileSource, comment: Option<String>) -> FileWish {
    FileWish {
        source,
        name: None,
        content_type: None,
        title: given.text("title"),
        comment,
        alt_text: given.text("alt_text"),
        snippet_type: given.text("snippet_type"),
        kind: given.post_kind().unwrap_or(PostKind::Progress),
        reason: given.text("reason"),
    }
}

const FILE: Form = Form {
    name: "file",
    about: "Posts a file into this Slack thread: one of your workspace, of the shared repositories, or an image that you \
            generated; at most 1 GiB. It is copied when you call, so you may change or delete it afterwards.",
    fields: &[PATH, TITLE, COMMENT, ALT_TEXT, SNIPPET_TYPE, FILE_KIND, REASON],
    build: build_file,
};

/// The tools that an agent is offered.
pub fn specs() -> Vec<ToolSpec> {
    [&POST, &BROKER]
        .into_iter()
        .map(|form| ToolSpec { name: form.name, description: form.about, input_schema: form.schema() })
        .collect()
}

/// The actions of the tool `broker` with their schemas, for the model.
pub fn help() -> String {
    let mut text = String::from("Actions of the tool `broker` (call it with {\"action\": …, \"arguments\": {…}}):\n");
    for action in ACTIONS {
        text.push_str(&format!("\n`{}`: {}\n", action.name, action.about));
        if !action.fields.is_empty() {
            text.push_str(&format!("arguments: {}\n", action.schema()));
        }
    }
    text
}

/// Reads a tool call as the model wrote it. Pure.
///
/// Tolerated, because the meaning is plain: an object given as a JSON string, a count given as a string, a word in
/// another case, `null` or a blank text for what may be left out.
///
/// # Errors
///
/// When there is no such tool or action, or an argument is unknown, missing, of the wrong type, empty or too long. The
/// message tells the model how to do it right.
pub fn parse(tool: &str, arguments: &Value) -> Result<ToolCommand, ToolRefusal> {
    match [&POST, &BROKER].into_iter().find(|form| form.name == tool) {
        Some(form) => form.run(arguments),
        None => {
            refuse("unknown_tool", format!("there is no tool `{}`; the tools are `post` and `broker`", shortened(tool)))
        }
    }
}
