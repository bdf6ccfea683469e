//! What can be done to a session, and who may do it.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use broker_core::access::InstallKey;
use broker_core::chat::ThreadKey;
use broker_core::engine::Door;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::refusal::Refusal;
use crate::server::Limits;
use crate::{abilities, body};

/// Who may use the routes of sessions.
#[derive(Debug, Clone)]
pub enum Access {
    /// Whoever has the session's token, made from this key.
    Tokens(Arc<InstallKey>),
    /// Whoever reaches the port.
    Open,
}

/// What the routes work on.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) access: Access,
    /// Absent while the broker is not connected.
    pub(crate) door: watch::Receiver<Option<Door>>,
    pub(crate) limits: Limits,
}

impl Sessions {
    /// The way to all sessions, once there is one.
    pub(crate) fn door(&self) -> Result<Door, Refusal> {
        self.door.borrow().clone().ok_or(Refusal::Starting)
    }

    /// The way to a session's thread, for whoever may go it.
    pub(crate) async fn open(
        &self,
        headers: &HeaderMap,
        find: impl FnOnce(&Door) -> Option<ThreadKey>,
    ) -> Result<(Door, ThreadKey), Refusal> {
        let door = self.door()?;
        let thread = find(&door);
        let session = match &thread {
            Some(thread) => door.session(thread).await?,
            None => None,
        };
        match &self.access {
            Access::Open if session.is_none() => return Err(Refusal::SessionNotFound),
            Access::Open => {}
            Access::Tokens(key) => {
                let token = bearer(headers).ok_or(Refusal::TokenMissing)?;
                if !key.opens(session.as_ref().map(|session| (&session.id, session.token_generation)), token) {
                    return Err(Refusal::Forbidden);
                }
            }
        }
        thread.map(|thread| (door, thread)).ok_or(Refusal::SessionNotFound)
    }
}

/// The routes.
pub(crate) fn router(sessions: Sessions) -> Router {
    let sessions = Arc::new(sessions);
    Router::new()
        .route(RETRY, post(retry))
        .route(REVOKE_TOKEN, post(revoke_token))
        .route(POSTS, get(abilities::look))
        .merge(abilities::router())
        .route_layer(middleware::from_fn_with_state(Arc::clone(&sessions), before))
        .with_state(sessions)
}

/// The token of `authorization: Bearer …`, when there is one and one only.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(Ok(given)), None) = (all.next().map(|value| value.to_str()), all.next()) else { return None };
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// What can be refused before the body is read.
async fn before(State(sessions): State<Arc<Sessions>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if matches!(sessions.access, Access::Tokens(_)) && bearer(headers).is_none() {
        return Refusal::TokenMissing.into_response();
    }
    if request.method() == Method::POST && !body::promises_json(headers) {
        return Refusal::NotJson.into_response();
    }
    next.run(request).await
}

/// A session that is named in the path.
async fn named(
    sessions: &Sessions,
    key: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<(Door, ThreadKey), Refusal> {
    let (parts, content) = request.into_parts();
    let Path(key) = key.map_err(|_| Refusal::NotFound)?;
    let admitted = sessions.open(&parts.headers, |door| thread(door, &key)).await?;
    // There is nothing to be said there, which is held to: it would be of no effect.
    let given = body::object(content, sessions.limits.body_bytes, sessions.limits.body).await?;
    match given.keys().next() {
        None => Ok(admitted),
        Some(name) => Err(Refusal::Malformed(format!("this route takes no `{name}`; send {{}}"))),
    }
}

/// A session key as people write it: `C…:1700000000.000100`, with `<installation>/` before it or without.
fn thread(door: &Door, key: &str) -> Option<ThreadKey> {
    match key.split_once(':') {
        Some((conversation, root)) if !conversation.contains('/') => door.thread(conversation, root),
        _ => key.parse().ok(),
    }
}

/// Tries again what was put aside.
pub(crate) const RETRY: &str = "/sessions/{key}/retry";
/// Makes the tokens of a session worthless.
pub(crate) const REVOKE_TOKEN: &str = "/sessions/{key}/revoke-token";
/// How a post stands.
pub(crate) const POSTS: &str = "/slack/posts/{id}";

type KeyOfPath = Result<Path<String>, PathRejection>;

async fn retry(
    State(sessions): State<Arc<Sessions>>,
    key: KeyOfPath,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let (door, thread) = named(&sessions, key, request).await?;
    door.retry(&thread).await?;
    Ok(Json(json!({"ok": true})))
}

async fn revoke_token(
    State(sessions): State<Arc<Sessions>>,
    key: KeyOfPath,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    let (door, thread) = named(&sessions, key, request).await?;
    door.revoke_token(&thread).await?;
    Ok(Json(json!({"ok": true})))
}
