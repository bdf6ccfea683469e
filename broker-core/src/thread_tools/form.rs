//! Arguments as somebody else wrote them: what they have to be, their schema, and their check.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::ToolCommand;
use crate::store::PostKind;

/// The longest short argument (a name, an id), in characters.
pub(super) const MAX_WORD: usize = 100;

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

pub(super) fn refuse<T>(code: &'static str, message: String) -> Result<T, ToolRefusal> {
    Err(ToolRefusal { code, message, argument: None })
}

pub(super) fn refuse_argument<T>(
    code: &'static str,
    argument: &'static str,
    message: String,
) -> Result<T, ToolRefusal> {
    Err(ToolRefusal { code, message, argument: Some(argument) })
}

/// What an argument has to be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A text of at most so many characters.
    Text(usize),
    /// A media type without parameters.
    MediaType,
    /// Bytes in base64, which whoever reads the request keeps apart.
    Base64,
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
pub(super) enum Need {
    Always,
    /// When the argument `kind` is one of these words.
    ForKind(&'static [&'static str]),
    Never,
}

/// One argument.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) need: Need,
    pub(super) about: &'static str,
}

/// A tool or an action: its name, its arguments, and what it becomes.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) fields: &'static [Field],
    pub(super) build: fn(&Given) -> Result<ToolCommand, ToolRefusal>,
}

/// Arguments that have been checked.
pub(super) struct Given {
    pub(super) values: Map<String, Value>,
    /// Where the content stands that came with the request.
    pub(super) content: Option<PathBuf>,
}

impl Given {
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).and_then(Value::as_str).map(str::to_owned)
    }

    pub(super) fn count(&self, name: &str) -> Option<usize> {
        self.values.get(name).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.values.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    pub(super) fn post_kind(&self) -> Option<PostKind> {
        [PostKind::Progress, PostKind::Final, PostKind::Block, PostKind::Wait]
            .into_iter()
            .find(|kind| self.values.get("kind").and_then(Value::as_str) == Some(kind.as_str()))
    }
}

impl Form {
    pub(super) fn schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.fields.iter().map(|field| (field.name.to_owned(), field.schema())).collect();
        let required: Vec<&str> =
            self.fields.iter().filter(|field| matches!(field.need, Need::Always)).map(|field| field.name).collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    }

    pub(super) fn run(&self, arguments: &Value) -> Result<ToolCommand, ToolRefusal> {
        let Some(given) = object(arguments) else {
            let message = format!("the arguments of `{}` have to be a JSON object; {}", self.name, self.usage());
            return refuse("wrong_type", message);
        };
        (self.build)(&self.check(given)?)
    }

    pub(super) fn check(&self, mut given: Map<String, Value>) -> Result<Given, ToolRefusal> {
        if let Some(name) = given.keys().find(|name| self.fields.iter().all(|field| field.name != *name)) {
            let message = format!("`{}` has no argument `{}`; {}", self.name, shortened(name), self.usage());
            return refuse("unknown_argument", message);
        }
        let mut values = Map::new();
        for field in self.fields {
            if let Some(value) = given.remove(field.name).filter(|value| !value.is_null())
                && let Some(value) = field.check(value)?
            {
                values.insert(field.name.to_owned(), value);
            }
        }
        let given = Given { values, content: None };
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
    pub(super) fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Text(most) => json!({"type": "string", "maxLength": most}),
            Kind::MediaType => json!({"type": "string", "maxLength": MAX_WORD, "pattern": "^[^/]+/[^/]+$"}),
            Kind::Base64 => json!({"type": "string", "contentEncoding": "base64"}),
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
            Kind::MediaType => "a media type such as image/png".to_owned(),
            Kind::Base64 => "bytes in base64".to_owned(),
            Kind::Word(words) => format!("one of {}", words.join(", ")),
            Kind::Count(most) => format!("a whole number from 1 to {most}"),
            Kind::Clamped(_) => "a whole number from 1".to_owned(),
            Kind::Flag => "true or false".to_owned(),
            Kind::Object => "a JSON object".to_owned(),
        }
    }

    /// The value in its plain form; absent when it is as good as left out.
    fn check(&self, value: Value) -> Result<Option<Value>, ToolRefusal> {
        let wrong = |code| {
            let message = format!("`{}` has to be {}, and is {}", self.name, self.expectation(), described(&value));
            refuse_argument(code, self.name, message)
        };
        // As good as left out, whatever it would have to be.
        if !matches!(self.need, Need::Always) && value.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Ok(None);
        }
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
                if text.trim().is_empty() { wrong("empty") } else { Ok(Some(value)) }
            }
            Kind::MediaType => {
                let Some(text) = value.as_str() else { return wrong("wrong_type") };
                let text = text.trim().to_ascii_lowercase();
                match text.split_once('/') {
                    Some((of, kind)) if text.len() <= MAX_WORD && is_token(of) && is_token(kind) => {
                        Ok(Some(json!(text)))
                    }
                    _ => wrong("not_allowed"),
                }
            }
            // It would have been kept apart.
            Kind::Base64 => wrong("wrong_type"),
            Kind::Word(words) => {
                let Some(text) = value.as_str() else { return wrong("wrong_type") };
                match words.iter().find(|word| word.eq_ignore_ascii_case(text.trim())) {
                    Some(word) => Ok(Some(json!(word))),
                    None => wrong("not_allowed"),
                }
            }
            Kind::Count(most) => match count(&value) {
                None => wrong("wrong_type"),
                Some(count) if count == 0 || count > most => wrong("not_allowed"),
                Some(count) => Ok(Some(json!(count))),
            },
            Kind::Clamped(most) => match count(&value) {
                None => wrong("wrong_type"),
                Some(0) => wrong("not_allowed"),
                Some(count) => Ok(Some(json!(count.min(most)))),
            },
            Kind::Flag => match &value {
                Value::Bool(flag) => Ok(Some(json!(flag))),
                Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(json!(true))),
                Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(json!(false))),
                _ => wrong("wrong_type"),
            },
            Kind::Object => match object(&value) {
                Some(object) => Ok(Some(Value::Object(object))),
                None => wrong("wrong_type"),
            },
        }
    }
}

/// A token of HTTP (RFC 9110, 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
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
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(MAX_WORD).collect()
}
