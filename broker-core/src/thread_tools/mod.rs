//! What an agent may do from inside its thread: one implementation and one schema per ability.
//!
//! The agent is offered two tools, and never more: a thread's tool set is fixed when the thread is started, and old
//! threads have to reach new abilities too. `post` speaks; `broker` does everything else by named actions, which `help`
//! lists. The runtime does not check arguments against a schema, so [`parse`] does. Schema, check and help of an ability
//! come from one `Form`.

mod answer;
mod routes;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::agent::ToolSpec;
use crate::chat::MessageId;
use crate::store::PostKind;

pub use answer::ToolAnswer;
pub use routes::{Asked, Method, Route, routes};

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
/// The longest short argument (a name, an id), in characters.
const MAX_WORD: usize = 100;

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

/// A file that is to be posted. [`outgoing::pin`](crate::outgoing::pin) says whether it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileWish {
    /// Where it stands: absolute, or within the workspace.
    pub path: String,
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

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolRefusal {
    /// The kind of mistake, for logs: `unknown_tool`, `unknown_action`, `unknown_argument`, `missing_argument`,
    /// `wrong_type`, `empty`, `too_long` or `not_allowed`.
    pub code: &'static str,
    /// What is wrong and what would be right, for the model.
    pub message: String,
    /// The argument that it is about, when it is about one.
    pub argument: Option<&'static str>,
}

fn refuse<T>(code: &'static str, message: String) -> Result<T, ToolRefusal> {
    Err(ToolRefusal { code, message, argument: None })
}

fn refuse_argument<T>(code: &'static str, argument: &'static str, message: String) -> Result<T, ToolRefusal> {
    Err(ToolRefusal { code, message, argument: Some(argument) })
}

/// What an argument has to be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A text of at most so many characters.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A whole number from 1 to this.
    Count(u64),
    /// A whole number from 1; a larger one than this stands for this.
    Clamped(u64),
    /// Yes or no.
    Flag,
    /// A JSON object.
    Object,
}

/// When an argument has to be there.
#[derive(Debug, Clone, Copy)]
enum Need {
    Always,
    /// When the argument `kind` is one of these words.
    ForKind(&'static [&'static str]),
    Never,
}

/// One argument.
#[derive(Debug)]
struct Field {
    name: &'static str,
    kind: Kind,
    need: Need,
    about: &'static str,
}

/// A tool or an action: its name, its arguments, and what it becomes.
#[derive(Debug)]
struct Form {
    name: &'static str,
    about: &'static str,
    fields: &'static [Field],
    build: fn(&Given) -> Result<ToolCommand, ToolRefusal>,
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
    Ok(ToolCommand::File(FileWish {
        path: given.text("path").or_else(|| given.text("file_path")).unwrap_or_default(),
        title: given.text("title"),
        comment: given.text("comment").or_else(|| given.text("initial_comment")),
        alt_text: given.text("alt_text"),
        snippet_type: given.text("snippet_type"),
        kind: given.post_kind().unwrap_or(PostKind::Progress),
        reason: given.text("reason"),
    }))
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

/// Arguments that have been checked.
struct Given {
    values: Map<String, Value>,
}

impl Given {
    fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    fn count(&self, name: &str) -> Option<usize> {
        self.values.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    }

    fn flag(&self, name: &str) -> bool {
        self.values.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn post_kind(&self) -> Option<PostKind> {
        [PostKind::Progress, PostKind::Final, PostKind::Block, PostKind::Wait]
            .into_iter()
            .find(|kind| self.values.get("kind").and_then(Value::as_str) == Some(kind.as_str()))
    }
}

impl Form {
    fn schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.fields.iter().map(|field| (field.name.to_owned(), field.schema())).collect();
        let required: Vec<&str> =
            self.fields.iter().filter(|field| matches!(field.need, Need::Always)).map(|field| field.name).collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    fn run(&self, arguments: &Value) -> Result<ToolCommand, ToolRefusal> {
        (self.build)(&self.check(arguments)?)
    }

    fn check(&self, arguments: &Value) -> Result<Given, ToolRefusal> {
        let Some(given) = object(arguments) else {
            let message = format!("the arguments of `{}` have to be a JSON object; {}", self.name, self.usage());
            return refuse("wrong_type", message);
        };
        if let Some(name) = given.keys().find(|name| self.fields.iter().all(|field| field.name != *name)) {
            let message = format!("`{}` has no argument `{}`; {}", self.name, shortened(name), self.usage());
            return refuse("unknown_argument", message);
        }
        let mut values = Map::new();
        for field in self.fields {
            if let Some(value) = given.get(field.name).filter(|value| !value.is_null())
                && let Some(value) = field.check(value)?
            {
                values.insert(field.name.to_owned(), value);
            }
        }
        let given = Given { values };
        for field in self.fields {
            self.check_need(field, &given)?;
        }
        Ok(given)
    }

    fn check_need(&self, field: &Field, given: &Given) -> Result<(), ToolRefusal> {
        if given.values.contains_key(field.name) {
            return Ok(());
        }
        match field.need {
            Need::Never => Ok(()),
            Need::Always => {
                let message = format!("`{}` needs the argument `{}`; {}", self.name, field.name, self.usage());
                refuse_argument("missing_argument", field.name, message)
            }
            Need::ForKind(kinds) => match given.text("kind").filter(|kind| kinds.contains(&kind.as_str())) {
                None => Ok(()),
                Some(kind) => {
                    let message = format!("kind `{kind}` needs `{}`: {}", field.name, field.about);
                    refuse_argument("missing_argument", field.name, message)
                }
            },
        }
    }

    /// What the form takes, in a clause.
    fn usage(&self) -> String {
        if self.fields.is_empty() {
            return "it takes none".to_owned();
        }
        let fields: Vec<String> = self
            .fields
            .iter()
            .map(|field| {
                let need = if matches!(field.need, Need::Always) { "required" } else { "optional" };
                format!("`{}` ({}, {need})", field.name, field.expectation())
            })
            .collect();
        format!("it takes {}", fields.join(", "))
    }
}

impl Field {
    fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Text(most) => json!({"type": "string", "maxLength": most}),
            Kind::Word(words) => json!({"type": "string", "enum": words}),
            Kind::Count(most) => json!({"type": "integer", "minimum": 1, "maximum": most}),
            Kind::Clamped(_) => json!({"type": "integer", "minimum": 1}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Object => json!({"type": "object"}),
        };
        schema["description"] = json!(self.about);
        schema
    }

    fn expectation(&self) -> String {
        match self.kind {
            Kind::Text(_) => "a string".to_owned(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Count(most) => format!("a whole number from 1 to {most}"),
            Kind::Clamped(_) => "a whole number from 1".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Object => "a JSON object".to_owned(),
        }
    }

    /// The value in its plain form; absent when it is as good as left out.
    fn check(&self, value: &Value) -> Result<Option<Value>, ToolRefusal> {
        let wrong = |code| {
            let message = format!("`{}` has to be {}, and is {}", self.name, self.expectation(), described(value));
            refuse_argument(code, self.name, message)
        };
        match self.kind {
            Kind::Text(most) => {
                let Some(text) = value.as_str() else { return wrong("wrong_type") };
                let chars = text.chars().count();
                if chars > most {
                    let message = format!(
                        "`{}` has {chars} characters, {most} are the most; shorten it, or put the whole into a file of \
                         the workspace and say where it is",
                        self.name
                    );
                    return refuse_argument("too_long", self.name, message);
                }
                if text.trim().is_empty() {
                    return if matches!(self.need, Need::Always) { wrong("empty") } else { Ok(None) };
                }
                Ok(Some(value.clone()))
            }
            Kind::Word(words) => {
                let Some(text) = value.as_str() else { return wrong("wrong_type") };
                match words.iter().find(|word| word.eq_ignore_ascii_case(text.trim())) {
                    Some(word) => Ok(Some(json!(word))),
                    None => wrong("not_allowed"),
                }
            }
            Kind::Count(most) => match count(value) {
                None => wrong("wrong_type"),
                Some(count) if count == 0 || count > most => wrong("not_allowed"),
                Some(count) => Ok(Some(json!(count))),
            },
            Kind::Clamped(most) => match count(value) {
                None => wrong("wrong_type"),
                Some(0) => wrong("not_allowed"),
                Some(count) => Ok(Some(json!(count.min(most)))),
            },
            Kind::Flag => match value {
                Value::Bool(_) => Ok(Some(value.clone())),
                Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(json!(true))),
                Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(json!(false))),
                _ => wrong("wrong_type"),
            },
            Kind::Object => match object(value) {
                Some(object) => Ok(Some(Value::Object(object))),
                None => wrong("wrong_type"),
            },
        }
    }
}

/// An object, or the text of one. Nothing at all is an empty one.
fn object(value: &Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::Null => Some(Map::new()),
        Value::String(text) if text.trim().is_empty() => Some(Map::new()),
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

fn count(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        // `5.0` is how some models write 5.
        Value::Number(number) => number.as_u64().or_else(|| {
            let text = number.to_string();
            text.strip_suffix(".0").and_then(|whole| whole.parse().ok())
        }),
        _ => None,
    }
}

/// A value in an error message: what it is, and not all of it.
fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.trim().is_empty() => "empty".to_owned(),
        Value::String(text) => format!("\"{}\"", shortened(text)),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// The beginning of something that the model wrote.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_WORD).collect()
}
