//! The same abilities for the agent's commands and for scripts: the routes of the local API, and what each takes.

use serde_json::{Map, Value};

use super::{
    ALT_TEXT, COMMENT, FILE_KIND, Field, Form, Given, Kind, MAX_HISTORY, MAX_WORD, Need, PATH, POST_KIND, REACTION,
    REASON, REMOVE, SNIPPET_TYPE, STATE_KIND, TEXT, TITLE, ToolCommand, ToolRefusal, build_file, build_post,
    build_react, build_state, refuse_argument,
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

const FILE_PATH: Field = Field { name: "file_path", ..PATH };

const INITIAL_COMMENT: Field = Field { name: "initial_comment", ..COMMENT };

const STOP_REASON: Field = Field {
    name: "stop_reason",
    kind: Kind::Text(super::MAX_REASON),
    need: Need::Never,
    about: "The same as `reason`.",
};

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
                    about: "How many messages at most; never more than SLACK_HISTORY_API_MAX_LIMIT.",
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
                    that the agent generated; at most 1 GiB. It is copied before the answer. Answers as for a message.",
            fields: &[
                CHANNEL_ID,
                THREAD_TS,
                FILE_PATH,
                TITLE,
                INITIAL_COMMENT,
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
        self.form.schema()
    }

    /// The arguments that have to be there in any case.
    pub fn required(&self) -> Vec<&'static str> {
        let needed = self.form.fields.iter().filter(|field| matches!(field.need, Need::Always));
        needed.map(|field| field.name).collect()
    }

    /// The words that an argument may be, where it has to be one of a few.
    pub fn allowed(&self, argument: &str) -> Option<&'static [&'static str]> {
        let field = self.form.fields.iter().find(|field| field.name == argument)?;
        match field.kind {
            Kind::Word(words) => Some(words),
            _ => None,
        }
    }

    /// Reads the arguments of a request. Pure.
    ///
    /// # Errors
    ///
    /// As for [`super::parse`].
    pub fn read(&self, mut arguments: Map<String, Value>) -> Result<Asked, ToolRefusal> {
        // An older name for the same thing, which the check of the reason has to find.
        if self.form.fields.iter().any(|field| field.name == STOP_REASON.name)
            && !arguments.contains_key(REASON.name)
            && let Some(reason) = arguments.remove(STOP_REASON.name)
        {
            arguments.insert(REASON.name.to_owned(), reason);
        }
        let given: Given = self.form.check(&Value::Object(arguments))?;
        let word = |name| given.text(name).unwrap_or_default().trim().to_owned();
        let (conversation, root) = (word(CHANNEL_ID.name), word(THREAD_TS.name));
        // Nothing that could be taken for another key when the two are put together.
        for (name, value) in [(CHANNEL_ID.name, &conversation), (THREAD_TS.name, &root)] {
            if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
                return refuse_argument("not_allowed", name, format!("`{name}` is not an id of Slack's"));
            }
        }
        let as_text = given.text("format").as_deref() == Some("text");
        Ok(Asked { conversation, root, command: (self.form.build)(&given)?, as_text })
    }
}
