//! The abilities of the agent's tools as routes: what [`broker_core::thread_tools`] lists, and nothing of its own.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use broker_core::chat::{MessageId, PartBody, ThreadKey};
use broker_core::engine::{Door, Earlier, EarlierError, Once};
use broker_core::prompt;
use broker_core::session::PostFate;
use broker_core::store::{Fingerprint, PartRow, PostId};
use broker_core::thread_tools::{self, Method, Route, ToolAnswer, ToolCommand, ToolRefusal};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::body;
use crate::content::{self, Content};
use crate::fields;
use crate::message;
use crate::refusal::Refusal;
use crate::sessions::{Admitted, Sessions};

/// The header by which a request may be sent twice and is served once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest such key.
const MAX_KEY: usize = 255;

/// One route per ability.
pub(crate) fn router() -> Router<Arc<Sessions>> {
    thread_tools::routes().iter().fold(Router::new(), |router, route| {
        let serve = move |State(sessions): State<Arc<Sessions>>, request: Request| async move {
            serve(&sessions, route, request).await
        };
        router.route(route.path(), if route.method == Method::Get { get(serve) } else { post(serve) })
    })
}

async fn serve(sessions: &Sessions, route: &'static Route, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let limits = sessions.limits;
    let (arguments, content) = match (route.method, route.content()) {
        (Method::Get, _) => (query(&parts)?, None),
        (Method::Post, None) => (body::object(body, limits.body_bytes, limits.body).await?, None),
        (Method::Post, Some(field)) => content::object(&parts.headers, body, field, sessions, sessions.door()?).await?,
    };
    let once = key.map(|key| Once { key, fingerprint: fingerprint(route, &arguments, content.as_ref()) });
    let path = content.as_ref().map(|content| content.received.path().to_owned());
    let open =
        async |place: &(String, String)| sessions.open(&parts.extensions, |door| door.thread(&place.0, &place.1)).await;
    // Whose thread it is comes first: nobody is told what else is wrong with a request about another's.
    let opened = match thread_tools::place(&arguments) {
        Some(place) => Some(open(&place).await?),
        None => None,
    };
    let asked = route.read(arguments, path).map_err(|refusal| refused(route, refusal))?;
    let Admitted { door, thread, place: _place } = match opened {
        Some(opened) => opened,
        None => open(&(asked.conversation, asked.root)).await?,
    };
    match asked.command {
        ToolCommand::History { before, limit } => {
            let read = history(&door, &thread, before, limit, asked.as_text);
            timeout(limits.request, read).await.unwrap_or(Err(Refusal::TimedOut))
        }
        command => {
            // Of what may be repeated there is nothing to remember.
            let once = once.filter(|_| matches!(command, ToolCommand::Post { .. } | ToolCommand::File(_)));
            let answer = timeout(limits.request, door.call(&thread, command, once)).await;
            // Once it is answered, what came with it has been moved or is not wanted.
            drop(content);
            told(&door, answer.map_err(|_| Refusal::OutcomeUnknown)??).await
        }
    }
}

/// What the client calls its request, when it does.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.to_str().ok().map(str::trim),
        (Some(_), Some(_)) => None,
    };
    let key = key.filter(|key| !key.is_empty() && key.len() <= MAX_KEY);
    let wrong = || {
        let message = format!("`idempotency-key` has to be one text of 1 to {MAX_KEY} visible ASCII characters");
        Refusal::own(StatusCode::BAD_REQUEST, "invalid_idempotency_key", message)
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(wrong)
}

/// What is asked for, whatever order and form its fields came in.
fn fingerprint(route: &Route, arguments: &Map<String, Value>, content: Option<&Content>) -> Fingerprint {
    // In the order of their names, without those that are as good as left out.
    let is_said = |value: &Value| !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty());
    let said = arguments.iter().filter(|(_, value)| is_said(value));
    let fields = Value::Object(said.map(|(name, value)| (name.clone(), value.clone())).collect()).to_string();
    let digest = content.map(|content| content.digest.as_slice()).unwrap_or_default();
    Fingerprint::of(&[route.path().as_bytes(), fields.as_bytes(), digest])
}

fn query(parts: &Parts) -> Result<Map<String, Value>, Refusal> {
    let mut arguments = Map::new();
    for (name, value) in form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
        if arguments.insert(name.clone().into_owned(), json!(value)).is_some() {
            let message = format!("`{}` stands in the query twice", fields::beginning(&name));
            return Err(Refusal::own(StatusCode::BAD_REQUEST, "repeated_query", message));
        }
    }
    Ok(arguments)
}

/// Arguments that are not right, by the codes that clients of this API know.
fn refused(route: &Route, refusal: ToolRefusal) -> Refusal {
    let bad = |code: String| Refusal::own(StatusCode::BAD_REQUEST, code, refusal.message.clone());
    match (refusal.code, refusal.argument) {
        ("missing_argument", Some("reason")) => bad("missing_reason".to_owned()).with("required", json!(["reason"])),
        ("missing_argument" | "empty", Some(name)) => {
            let place = if route.method == Method::Get { "query" } else { "body" };
            let always = route.required();
            let needed = always.iter().any(|needed| needed.split('|').any(|one| one == name));
            let required = if needed { always } else { vec![name] };
            bad(format!("missing_required_{place}")).with("required", json!(required))
        }
        ("too_long", _) => bad("too_long".to_owned()),
        (_, Some(name)) => match route.allowed(name) {
            Some(words) => bad(format!("invalid_{name}")).with("allowed", json!(words)),
            None => bad(format!("invalid_{name}")),
        },
        (code, None) => bad(code.to_owned()),
    }
}

async fn history(
    door: &Door,
    thread: &ThreadKey,
    before: Option<MessageId>,
    limit: Option<usize>,
    as_text: bool,
) -> Result<Response, Refusal> {
    let earlier = door.earlier(thread, before.as_ref(), limit).await.map_err(|error| match &error {
        EarlierError::NoSuchMoment => {
            let message = "`before_ts` is not a ts of Slack's, such as 1700000000.000100";
            Refusal::own(StatusCode::BAD_REQUEST, "invalid_before_ts", message)
        }
        EarlierError::Unreadable(_) => Refusal::own(StatusCode::BAD_GATEWAY, "history_unreadable", error.to_string()),
    })?;
    let Earlier { messages, has_more, workspace } = earlier;
    let workspace = workspace.as_deref();
    let text = prompt::history(&messages, has_more, workspace);
    if as_text {
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response());
    }
    let shown: Vec<Value> = messages.iter().map(|known| message::shown(thread, known, workspace)).collect();
    let answer = json!({
        "ok": true,
        "channelId": thread.conversation,
        "rootThreadTs": thread.root,
        "beforeMessageTs": before,
        "returnedCount": messages.len(),
        "hasMore": has_more,
        "has_more": has_more,
        "maxLimit": door.history_limit(),
        "formattedText": text,
        "messages": shown,
    });
    Ok(Json(answer).into_response())
}

/// What became of what was asked for.
async fn told(door: &Door, answer: ToolAnswer) -> Result<Response, Refusal> {
    let answer = match answer {
        ToolAnswer::Posted { post, .. } => {
            // It is posted, whether the store can say more of it or not.
            let parts = door.post(&post).await.unwrap_or_default();
            let messages: Vec<_> = parts.iter().filter_map(|part| part.message.clone()).collect();
            let mut answer = json!({"ok": true, "state": "sent", "post_id": post, "messages": messages});
            if let Some(file) = parts.iter().find_map(file) {
                answer["file"] = file;
            }
            answer
        }
        ToolAnswer::Queued { post } => {
            let answer = json!({"ok": true, "state": "queued", "post_id": post});
            return Ok((StatusCode::ACCEPTED, Json(answer)).into_response());
        }
        ToolAnswer::Undelivered { post, arrived, of, code } => return Err(undelivered(&post, arrived, of, &code)),
        ToolAnswer::Done => json!({"ok": true}),
        ToolAnswer::Text(text) => json!({"ok": true, "text": text}),
        ToolAnswer::Refused { code, message } => {
            let status = match code {
                "stopped" | "turn_over" | "no_turn" | "no_job" => StatusCode::CONFLICT,
                "idempotency_key_reused" => StatusCode::UNPROCESSABLE_ENTITY,
                "too_many_open_posts" => StatusCode::TOO_MANY_REQUESTS,
                "refused" => StatusCode::BAD_GATEWAY,
                "unavailable" | "failed" | "busy" => StatusCode::SERVICE_UNAVAILABLE,
                "no_room" => StatusCode::INSUFFICIENT_STORAGE,
                "not_supported" => StatusCode::NOT_IMPLEMENTED,
                _ => StatusCode::BAD_REQUEST,
            };
            return Err(Refusal::own(status, code, message));
        }
    };
    Ok(Json(answer).into_response())
}

/// The file that a part shows.
fn file(part: &PartRow) -> Option<Value> {
    let PartBody::File { file } = &part.body else { return None };
    let title = file.title.as_ref().unwrap_or(&file.name);
    Some(json!({
        "fileId": file.uploaded,
        "title": title,
        "name": file.name,
        "mimetype": file.content_type,
        "size": file.bytes,
    }))
}

fn undelivered(post: &PostId, arrived: u32, of: u32, code: &str) -> Refusal {
    let refusal = match code {
        "dropped" => {
            let message = format!("`-stop` came first: {arrived} of {of} messages arrived");
            Refusal::own(StatusCode::CONFLICT, "stopped", message)
        }
        _ => {
            let message = format!("{arrived} of {of} messages arrived; the rest could not be posted ({code})");
            Refusal::own(StatusCode::BAD_GATEWAY, "not_delivered", message).with("code", code)
        }
    };
    refusal.with("post_id", post.as_str()).with("arrived", arrived).with("of", of)
}

/// `GET /slack/posts/{id}`: how a post stands.
pub(crate) async fn look(
    State(sessions): State<Arc<Sessions>>,
    id: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let Path(id) = id.map_err(|_| Refusal::NotFound)?;
    let id = PostId::new(id);
    let door = sessions.door()?;
    let parts = timeout(sessions.limits.request, door.post(&id)).await.map_err(|_| Refusal::TimedOut)??;
    // Whose it is, or that there is none, is told to nobody whose it is not.
    sessions.open(request.extensions(), |_| parts.first().map(|part| part.thread.clone())).await?;
    let Some(PostFate { arrived, of, open, error, .. }) = PostFate::of(&parts) else { return Err(Refusal::NotFound) };
    let state = match (open, &error) {
        (true, _) => "queued",
        (false, None) => "sent",
        (false, Some(_)) => "refused",
    };
    let shown = |part: &PartRow| json!({"state": part.state, "ts": part.message, "file": file(part)});
    let parts: Vec<Value> = parts.iter().map(shown).collect();
    let mut answer = json!({"ok": true, "post_id": id, "state": state, "arrived": arrived, "of": of, "parts": parts});
    if let Some(code) = error {
        answer["code"] = json!(code);
    }
    Ok(Json(answer))
}
