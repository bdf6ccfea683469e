//! `GET /openapi.json`: every route with what it takes and answers, from the same schemas that requests are checked by.

use broker_core::store::PartState;
use broker_core::thread_tools::{self, Method, Route};
use serde_json::{Map, Value, json};

use crate::sessions::{POSTS, RETRY, REVOKE_TOKEN};

/// What a route answers when it is served: status, words, media type, schema.
type Answer = (&'static str, &'static str, &'static str, Value);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// The description of the whole surface.
pub(crate) fn document(version: &str, tokens: bool, metrics: bool) -> Value {
    let mut paths = Map::new();
    for route in thread_tools::routes() {
        paths.insert(route.path().to_owned(), ability(route));
    }
    let key = parameter("key", "path", true, "`<channel>:<thread ts>`", &json!({"type": "string"}));
    let id = parameter("id", "path", true, "The post's id.", &json!({"type": "string"}));
    let empty = json!({"type": "object", "additionalProperties": false});
    let act = |about: &str| {
        let mut operation = operation(about, std::slice::from_ref(&key), &[done()]);
        operation["requestBody"] = json!({"required": false, "content": {JSON: {"schema": empty}}});
        json!({"post": operation})
    };
    paths.insert(RETRY.to_owned(), act("Tries now what was put aside after too many failures."));
    paths.insert(REVOKE_TOKEN.to_owned(), act("Makes every token that was given out for the session worthless."));
    paths.insert(POSTS.to_owned(), json!({"get": operation("How a post stands.", &[id], &[stands()])}));
    let any = |about| ("200", about, JSON, json!({"type": "object"}));
    let text = ("200", "The text.", TEXT, json!({"type": "string"}));
    let mut watched = vec![
        ("/healthz", "`ok` while the process is alive.", vec![text.clone()]),
        (
            "/readyz",
            "Each part with `ok`, or the reason and what mends it.",
            vec![any("Every part is well."), ("503", "A part is ill.", JSON, json!({"type": "object"}))],
        ),
        ("/openapi.json", "This document.", vec![any("The document.")]),
    ];
    if metrics {
        watched.push(("/metrics", "Figures in Prometheus' text format.", vec![text]));
    }
    for (path, about, answers) in watched {
        let mut open = operation(about, &[], &answers);
        open["security"] = json!([]);
        paths.insert(path.to_owned(), json!({"get": open}));
    }
    let security = if tokens { json!([{"session": []}]) } else { json!([]) };
    json!({
        "openapi": "3.1.0",
        "info": {"title": "slack-codex-broker", "version": version},
        "security": security,
        "components": {
            "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": {
                "type": "object",
                "properties": {
                    "ok": {"const": false},
                    "error": {"type": "string", "description": "The code; docs/http-api.md lists them."},
                    "message": {"type": "string", "description": "What is wrong, and what to do."},
                },
                "required": ["ok", "error", "message"],
            }},
        },
        "paths": paths,
    })
}

fn ability(route: &Route) -> Value {
    let schema = route.schema();
    match route.method {
        Method::Get => {
            let required = route.required();
            let fields = schema["properties"].as_object().into_iter().flatten();
            let parameters: Vec<Value> = fields
                .map(|(name, field)| {
                    let about = field["description"].as_str().unwrap_or_default();
                    parameter(name, "query", required.contains(&name.as_str()), about, field)
                })
                .collect();
            let text = ("200", "The messages.", TEXT, json!({"type": "string"}));
            json!({"get": operation(route.about(), &parameters, &[history(), text])})
        }
        Method::Post => {
            let mut operation = if route.posts() {
                let about = "1 to 255 visible ASCII characters: the same key within 24 hours makes no second post, and is \
                             answered with what became of the first.";
                let key =
                    parameter("Idempotency-Key", "header", false, about, &json!({"type": "string", "maxLength": 255}));
                operation(route.about(), &[key], &posted())
            } else {
                operation(route.about(), &[], &[done()])
            };
            operation["requestBody"] = json!({"required": true, "content": {JSON: {"schema": schema}}});
            json!({"post": operation})
        }
    }
}

fn done() -> Answer {
    ("200", "It is done.", JSON, object(json!({}), &[]))
}

fn posted() -> [Answer; 2] {
    let sent = json!({
        "state": {"const": "sent"},
        "post_id": {"type": "string"},
        "messages": {"type": "array", "items": {"type": "string"}, "description": "The ts of each message; of a file Slack \
                                                                                 tells none."},
        "file": file(),
    });
    let queued = json!({"state": {"const": "queued"}, "post_id": {"type": "string"}});
    let late = "It is durable and will be posted; Slack did not take it within 20 s.";
    [("200", "Every part of it is posted.", JSON, object(sent, &["file"])), ("202", late, JSON, object(queued, &[]))]
}

fn file() -> Value {
    let fields = json!({
        "fileId": {"type": ["string", "null"]},
        "title": {"type": "string"},
        "name": {"type": "string"},
        "mimetype": {"type": ["string", "null"]},
        "size": {"type": "integer"},
    });
    let mut file = closed(fields, &[]);
    file["type"] = json!(["object", "null"]);
    file
}

fn stands() -> Answer {
    let states = [PartState::Queued, PartState::Sending, PartState::Unknown, PartState::Sent, PartState::Refused];
    let states: Vec<&str> = states.into_iter().chain([PartState::Dropped]).map(PartState::as_str).collect();
    let fields =
        json!({"state": {"type": "string", "enum": states}, "ts": {"type": ["string", "null"]}, "file": file()});
    let part = closed(fields, &[]);
    let fields = json!({
        "post_id": {"type": "string"},
        "state": {"type": "string", "enum": ["queued", "sent", "refused"]},
        "arrived": {"type": "integer"},
        "of": {"type": "integer"},
        "parts": {"type": "array", "items": part},
        "code": {"type": "string", "description": "Slack's, where it was refused."},
    });
    ("200", "How it stands.", JSON, object(fields, &["code"]))
}

fn history() -> Answer {
    let fields = json!({
        "channelId": {"type": "string"},
        "rootThreadTs": {"type": "string"},
        "beforeMessageTs": {"type": ["string", "null"]},
        "returnedCount": {"type": "integer"},
        "hasMore": {"type": "boolean"},
        "has_more": {"type": "boolean"},
        "maxLimit": {"type": "integer"},
        "formattedText": {"type": "string"},
        "messages": {"type": "array", "items": message()},
    });
    ("200", "The messages, oldest first.", JSON, object(fields, &[]))
}

/// A message, as [`crate::message::shown`] gives it.
fn message() -> Value {
    let (text, perhaps, flag) =
        (json!({"type": "string"}), json!({"type": ["string", "null"]}), json!({"type": "boolean"}));
    let person = |kind: Value| {
        let fields = json!({"userId": text, "displayName": perhaps, "realName": perhaps, "username": perhaps});
        let mut person = closed(fields, &[]);
        person["type"] = kind;
        person
    };
    let file = json!({
        "id": text,
        "name": perhaps,
        "mimetype": perhaps,
        "size": {"type": ["integer", "null"]},
        "path": perhaps,
        "notAvailable": perhaps,
    });
    let files = json!({"type": "array", "items": closed(file, &[])});
    let optional =
        ["author", "channel", "messageTs", "link", "service", "pretext", "title", "titleLink", "text", "image"];
    let mut attachment: Map<String, Value> = optional.iter().map(|name| ((*name).to_owned(), text.clone())).collect();
    attachment.insert("kind".to_owned(), json!({"type": "string", "enum": ["forwarded", "preview", "attachment"]}));
    attachment.insert("files".to_owned(), files.clone());
    attachment.insert("isCut".to_owned(), json!({"const": true}));
    let left_out: Vec<&str> = optional.into_iter().chain(["files", "isCut"]).collect();
    let fields = json!({
        "channelId": text,
        "channelType": text,
        "rootThreadTs": text,
        "messageTs": text,
        "senderKind": {"type": ["string", "null"], "enum": ["user", "bot", "self", null]},
        "userId": perhaps,
        "botId": perhaps,
        "senderUsername": perhaps,
        "sender": person(json!(["object", "null"])),
        "text": text,
        "attachments": {"type": "array", "items": closed(Value::Object(attachment), &left_out)},
        "attachmentsLeftOut": {"type": "integer"},
        "files": files,
        "edited": flag,
        "deleted": flag,
        "permalink": perhaps,
        "mayInstruct": flag,
        "mentionedUserIds": {"type": "array", "items": text},
        "mentionedUsers": {"type": "array", "items": person(json!("object"))},
    });
    closed(fields, &[])
}

/// An answer with `ok` and these fields; which of them may be left out.
fn object(mut fields: Value, optional: &[&str]) -> Value {
    fields["ok"] = json!({"const": true});
    closed(fields, optional)
}

/// An object with these fields and no others.
fn closed(fields: Value, optional: &[&str]) -> Value {
    let names = fields.as_object().into_iter().flat_map(Map::keys);
    let required: Vec<&String> = names.filter(|name| !optional.contains(&name.as_str())).collect();
    let required = json!(required);
    json!({"type": "object", "properties": fields, "required": required, "additionalProperties": false})
}

fn parameter(name: &str, place: &str, required: bool, about: &str, schema: &Value) -> Value {
    json!({"name": name, "in": place, "required": required, "description": about, "schema": schema})
}

fn operation(about: &str, parameters: &[Value], answers: &[Answer]) -> Value {
    let error = json!({JSON: {"schema": {"$ref": "#/components/schemas/Error"}}});
    let mut responses = Map::new();
    responses.insert("default".to_owned(), json!({"description": "It is refused.", "content": error}));
    for (status, about, kind, schema) in answers {
        let response = responses.entry(*status).or_insert_with(|| json!({"description": about, "content": {}}));
        response["content"][kind] = json!({"schema": schema});
    }
    json!({"summary": about, "parameters": parameters, "responses": responses})
}
