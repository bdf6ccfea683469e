//! The same abilities for the agent's commands and for scripts: the routes of the local API, and what each takes.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{
    ALT_TEXT, COMMENT, FILE_KIND, Field, FileSource, FileWish, Form, Given, Kind, MAX_HISTORY, MAX_WORD, Need, PATH,
    POST_KIND, REACTION, REASON, REMOVE, SNIPPET_TYPE, STATE_KIND, TEXT, TITLE, ToolCommand, ToolRefusal, build_post,
    build_react, build_state, refuse, refuse_argument, wish,
};
use crate::chat::MessageId;

const CHANNEL_ID: Field = Field {
    name: "channel_id",
    kind: Kind::Text(MAX_WORD),
    need: Need::Always,
    about: "The id of the thread's channel, such as C012AB3CD.",
};

const THREAD_TS: Field = Field {
    name: "thread_ts",
    kind: Kind::Text(MAX_WORD),
    need: Need::Always,
    about: "The ts of the thread's first message, as a string such as \"1700000000.000100\".",
};

/// The longest name of a file, in characters.
pub const MAX_NAME: usize = 255;

const FILE_PATH: Field = Field {
    name: "file_path",
    need: Need::Never,
    about: "Where the file is: an absolute path, or one within the session's workspace. This or `content_base64`.",
    ..PATH
};

const CONTENT_BASE64: Field = Field {
    name: "content_base64",
    kind: Kind::Base64,
    need: Need::Never,
    about: "What the file holds, in base64; the whole request may have 150 MiB. This, with `filename`, or `file_path`.",
};

const FILENAME: Field = Field {
    name: "filename",
    kind: Kind::Text(MAX_NAME),
    need: Need::Never,
    about: "The file's name, as people see it; that of the path when left out. Required with `content_base64`.",
};

const CONTENT_TYPE: Field = Field {
    name: "content_type",
    kind: Kind::MediaType,
    need: Need::Never,
    about: "The file's media type, such as `image/png`. Slack goes by content and name.",
};

const INITIAL_COMMENT: Field = Field { name: "initial_comment", ..COMMENT };

const COMMENT_TEXT: Field = Field { about: "The same as `initial_comment`.", need: Need::Never, ..TEXT };

const STOP_REASON: Field = Field {
    name: "stop_reason",
    kind: Kind::Text(super::MAX_REASON),
    need: Need::Never,
    about: "The same as `reason`.",
};

/// Other names for the same thing, where a form takes both.
const ALIASES: [(&str, &str); 2] = [(STOP_REASON.name, REASON.name), (COMMENT_TEXT.name, INITIAL_COMMENT.name)];

fn build_file(given: &Given) -> Result<ToolCommand, ToolRefusal> {
    let name = match given.text(FILENAME.name) {
        Some(name) => Some(file_name(&name)?),
        None => None,
    };
    let source = match (given.text(FILE_PATH.name), &given.content) {
        (Some(_), Some(_)) => {
            let message = "give `file_path` or `content_base64`, not both; nothing was posted";
            return refuse("provide_exactly_one_file_source", message.to_owned());
        }
        (None, None) => {
            let message = "one of `file_path` and `content_base64` has to be there";
            return refuse_argument("missing_argument", FILE_PATH.name, message.to_owned());
        }
        (None, Some(_)) if name.is_none() => {
            let message = "`content_base64` needs the argument `filename`: the name that people see";
            return refuse_argument("missing_argument", FILENAME.name, message.to_owned());
        }
        (Some(path), None) => FileSource::Path(path),
        (None, Some(content)) => FileSource::Received(content.clone()),
    };
    let wish = wish(given, source, given.text(INITIAL_COMMENT.name));
    Ok(ToolCommand::File(FileWish { name, content_type: given.text(CONTENT_TYPE.name), ..wish }))
}

/// A name that is no path and stays on its line.
fn file_name(name: &str) -> Result<String, ToolRefusal> {
    let name = name.trim();
    let odd = |char: char| char == '/' || char == '\\' || char.is_control();
    if name.chars().any(odd) || matches!(name, "." | "..") {
        let message = "`filename` is the name alone: no folder, no control characters".to_owned();
        return refuse_argument("not_allowed", FILENAME.name, message);
    }
    Ok(name.to_owned())
}

/// The method of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Its arguments stand in the query, and nothing changes.
    Get,
    /// Its arguments are the JSON object of the body.
    Post,
}

/// A route: an ability, the way to it, and what it takes.
#[derive(Debug)]
pub struct Route {
    /// Its method.
    pub method: Method,
    pub(super) form: Form,
}

/// A request that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The conversation.
    pub conversation: String,
    /// The thread's first message.
    pub root: String,
    /// What is wanted.
    pub command: ToolCommand,
    /// Whether the answer shall be text for people instead of JSON.
    pub as_text: bool,
}

/// The conversation and the first message of the thread that a request is about, as far as it names them well: what is looked at
/// before anything else in it. Pure.
pub fn place(arguments: &Map<String, Value>) -> Option<(String, String)> {
    let word = |name| {
        let word = arguments.get(name).and_then(Value::as_str).map(str::trim);
        word.filter(|word| (1..=MAX_WORD).contains(&word.len()) && is_id(word)).map(str::to_owned)
    };
    Some((word(CHANNEL_ID.name)?, word(THREAD_TS.name)?))
}

/// Whether it is nothing that could be taken for another key when two are put together.
fn is_id(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

const ROUTES: &[Route] = &[
    Route {
        method: Method::Get,
        form: Form {
            name: "/slack/thread-history",
            about: "The latest messages of the thread, or the latest before one of them; oldest first.",
            fields: &[
                CHANNEL_ID,
                THREAD_TS,
                Field {
                    name: "before_ts",
                    kind: Kind::Text(MAX_WORD),
                    need: Need::Never,
                    about: "Only messages before this ts. Left out: the latest.",
                },
                Field {
                    name: "limit",
                    kind: Kind::Clamped(MAX_HISTORY),
                    need: Need::Never,
                    about: "How many messages at most; SLACK_INITIAL_THREAD_HISTORY_COUNT when left out, and never more than \
                            SLACK_HISTORY_API_MAX_LIMIT.",
                },
                Field {
                    name: "channel_type",
                    kind: Kind::Text(MAX_WORD),
                    need: Need::Never,
                    about: "Taken for compatibility, and of no effect.",
                },
                Field {
                    name: "format",
                    kind: Kind::Word(&["json", "text"]),
                    need: Need::Never,
                    about: "`json` when left out; `text` gives plain text.",
                },
            ],
            build: |given| {
                let before = given.text("before_ts").map(|ts| MessageId::new(ts.trim()));
                Ok(ToolCommand::History { before, limit: given.count("limit") })
            },
        },
    },
    Route {
        method: Method::Post,
        form: Form {
            name: "/slack/post-message",
            about: "Posts a message into the thread. Answers when every part of it is posted or refused, and after 20 s with \
                    the state `queued`.",
            fields: &[CHANNEL_ID, THREAD_TS, TEXT, POST_KIND, REASON, STOP_REASON],
            build: build_post,
        },
    },
    Route {
        method: Method::Post,
        form: Form {
            name: "/slack/post-file",
            about: "Posts a file into the thread: one of the session's workspace, of the shared repositories, or an image \
                    that the agent generated, of at most 1 GiB; or what comes with the request. It is copied before the \
                    answer. Answers as for a message.",
            fields: &[
                CHANNEL_ID,
                THREAD_TS,
                FILE_PATH,
                CONTENT_BASE64,
                FILENAME,
                CONTENT_TYPE,
                TITLE,
                INITIAL_COMMENT,
                COMMENT_TEXT,
                ALT_TEXT,
                SNIPPET_TYPE,
                FILE_KIND,
                REASON,
                STOP_REASON,
            ],
            build: build_file,
        },
    },
    Route {
        method: Method::Post,
        form: Form {
            name: "/slack/post-state",
            about: "Says how the running turn ends without posting a message.",
            fields: &[CHANNEL_ID, THREAD_TS, STATE_KIND, REASON, STOP_REASON],
            build: build_state,
        },
    },
    Route {
        method: Method::Post,
        form: Form {
            name: "/slack/react",
            about: "Puts a reaction on the first message of the thread, or takes it away.",
            fields: &[CHANNEL_ID, THREAD_TS, REACTION, REMOVE],
            build: build_react,
        },
    },
];

/// The routes of the abilities.
pub fn routes() -> &'static [Route] {
    ROUTES
}

impl Route {
    /// Its path.
    pub fn path(&self) -> &'static str {
        self.form.name
    }

    /// What it does.
    pub fn about(&self) -> &'static str {
        self.form.about
    }

    /// The JSON schema of its arguments.
    pub fn schema(&self) -> Value {
        let mut schema = self.form.schema();
        let mut conditions = Vec::new();
        let one_of = |names: &[&str]| {
            let sets: Vec<Value> = names.iter().map(|name| json!({"required": [name]})).collect();
            json!({"anyOf": sets})
        };
        for field in self.form.fields {
            if let Need::ForKind(kinds) = field.need {
                let known = ALIASES.iter().filter(|(_, name)| *name == field.name).map(|(alias, _)| *alias);
                let names: Vec<&str> = [field.name].into_iter().chain(known).collect();
                let kind = json!({"properties": {"kind": {"enum": kinds}}, "required": ["kind"]});
                conditions.push(json!({"if": kind, "then": one_of(&names)}));
            }
        }
        if self.content().is_some() {
            let inline = json!({"required": [CONTENT_BASE64.name, FILENAME.name]});
            conditions.push(json!({"oneOf": [json!({"required": [FILE_PATH.name]}), inline]}));
        }
        if !conditions.is_empty() {
            schema["allOf"] = Value::Array(conditions);
        }
        schema
    }

    /// Whether it makes a post, which a name of the client's can keep from being made twice.
    pub fn posts(&self) -> bool {
        self.form.fields.iter().any(|field| field.name == TEXT.name)
    }

    /// The arguments that have to be there in any case; `a|b` stands for one of two.
    pub fn required(&self) -> Vec<&'static str> {
        let needed = self.form.fields.iter().filter(|field| matches!(field.need, Need::Always));
        let sources = self.content().map(|_| "file_path|content_base64");
        needed.map(|field| field.name).chain(sources).collect()
    }

    /// The words that an argument may be, where it has to be one of a few.
    pub fn allowed(&self, argument: &str) -> Option<&'static [&'static str]> {
        let field = self.form.fields.iter().find(|field| field.name == argument)?;
        match field.kind {
            Kind::Word(words) => Some(words),
            _ => None,
        }
    }

    /// The argument that is a file's content, which is kept apart while the request is read: it may be large.
    pub fn content(&self) -> Option<&'static str> {
        self.form.fields.iter().find(|field| matches!(field.kind, Kind::Base64)).map(|field| field.name)
    }

    /// Reads the arguments of a request. `content` is where the [content](Self::content) stands that came with it. Pure.
    ///
    /// # Errors
    ///
    /// As for [`super::parse`], and `provide_exactly_one_file_source`.
    pub fn read(&self, mut arguments: Map<String, Value>, content: Option<PathBuf>) -> Result<Asked, ToolRefusal> {
        let takes = |name: &str| self.form.fields.iter().any(|field| field.name == name);
        for (alias, name) in ALIASES.into_iter().filter(|(alias, name)| takes(alias) && takes(name)) {
            if let Some(value) = arguments.remove(alias)
                && arguments.get(name).is_none_or(Value::is_null)
            {
                arguments.insert(name.to_owned(), value);
            }
        }
        let mut given: Given = self.form.check(arguments)?;
        given.content = content;
        let word = |name| given.text(name).unwrap_or_default().trim().to_owned();
        let (conversation, root) = (word(CHANNEL_ID.name), word(THREAD_TS.name));
        for (name, value) in [(CHANNEL_ID.name, &conversation), (THREAD_TS.name, &root)] {
            if !is_id(value) {
                return refuse_argument("not_allowed", name, format!("`{name}` is not an id of Slack's"));
            }
        }
        let as_text = given.text("format").as_deref() == Some("text");
        Ok(Asked { conversation, root, command: (self.form.build)(&given)?, as_text })
    }
}
