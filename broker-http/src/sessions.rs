//! What can be done to a session, and who may do it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{Extensions, HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use broker_core::access::{self, InstallKey};
use broker_core::chat::ThreadKey;
use broker_core::engine::{AskError, Door};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::refusal::Refusal;
use crate::server::Limits;
use crate::{abilities, body, fields};

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
    access: Access,
    /// Absent while the broker is not connected.
    door: watch::Receiver<Option<Door>>,
    pub(crate) limits: Limits,
    /// One permit per body that is read at once although it is large.
    pub(crate) file_bodies: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<ThreadKey, usize>>>,
}

/// Whoever asks: which session its token opens. Known before anything of the body is read.
#[derive(Debug, Clone)]
struct Opened {
    thread: ThreadKey,
    /// Of the token: while the body comes it may be revoked.
    generation: u64,
}

/// The way to a session's thread, for whoever may go it.
pub(crate) struct Admitted {
    pub(crate) door: Door,
    pub(crate) thread: ThreadKey,
    /// A place among the session's requests, where none was taken before its body was read.
    pub(crate) place: Option<Place>,
}

/// A place among a session's requests, given back when it is dropped.
pub(crate) struct Place {
    under_way: Arc<Mutex<HashMap<ThreadKey, usize>>>,
    thread: ThreadKey,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.thread) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.thread);
            }
        }
    }
}

impl Sessions {
    pub(crate) fn new(access: Access, door: watch::Receiver<Option<Door>>, limits: Limits) -> Self {
        let file_bodies = Arc::new(Semaphore::new(limits.file_bodies));
        Self { access, door, limits, file_bodies, under_way: Arc::default() }
    }

    /// The way to all sessions, once there is one.
    pub(crate) fn door(&self) -> Result<Door, Refusal> {
        self.door.borrow().clone().ok_or(Refusal::Starting)
    }

    /// The session that a request's token opens; nothing where none is asked for.
    async fn opened(&self, headers: &HeaderMap) -> Result<Option<Opened>, Refusal> {
        let Access::Tokens(key) = &self.access else { return Ok(None) };
        let token = bearer(headers).ok_or(Refusal::TokenMissing)?;
        let door = self.door()?;
        let thread = access::thread_of(token);
        let session = match &thread {
            Some(thread) => door.session(thread).await?,
            None => None,
        };
        let opens = key.opens(session.as_ref().map(|session| (&session.id, session.token_generation)), token);
        let generation = session.map(|session| session.token_generation);
        match (thread, generation) {
            (Some(thread), Some(generation)) if opens => Ok(Some(Opened { thread, generation })),
            _ => Err(Refusal::Forbidden),
        }
    }

    /// A place among the requests of a session.
    fn place(&self, thread: &ThreadKey) -> Result<Place, Refusal> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let count = under_way.entry(thread.clone()).or_default();
        if *count == self.limits.session_requests {
            return Err(Refusal::TooManyRequests);
        }
        *count += 1;
        Ok(Place { under_way: Arc::clone(&self.under_way), thread: thread.clone() })
    }

    /// The way to a session's thread, for whoever may go it.
    pub(crate) async fn open(
        &self,
        asks: &Extensions,
        find: impl FnOnce(&Door) -> Option<ThreadKey>,
    ) -> Result<Admitted, Refusal> {
        let door = self.door()?;
        let thread = find(&door);
        if matches!(self.access, Access::Tokens(_)) {
            let Some(Opened { thread: own, generation }) = asks.get::<Opened>() else { return Err(Refusal::Forbidden) };
            let thread = thread.filter(|thread| thread == own).ok_or(Refusal::Forbidden)?;
            let session = door.session(&thread).await?;
            let opens = session.is_some_and(|session| session.token_generation == *generation);
            return if opens { Ok(Admitted { door, thread, place: None }) } else { Err(Refusal::Forbidden) };
        }
        let thread = thread.ok_or(Refusal::SessionNotFound)?;
        match door.session(&thread).await? {
            // Whose request it is was not known before.
            Some(_) => Ok(Admitted { place: Some(self.place(&thread)?), door, thread }),
            None => Err(Refusal::SessionNotFound),
        }
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

/// What can be refused before the body is read. Whoever has no token holds nothing but this look.
async fn before(State(sessions): State<Arc<Sessions>>, mut request: Request, next: Next) -> Response {
    let opened = match timeout(sessions.limits.request, sessions.opened(request.headers())).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(refusal)) => return refusal.into_response(),
        Err(_) => return Refusal::TimedOut.into_response(),
    };
    if request.method() == Method::POST && !body::promises_json(request.headers()) {
        return Refusal::NotJson.into_response();
    }
    // Without tokens its thread is known once it is read.
    let Some(opened) = opened else { return next.run(request).await };
    let _place = match sessions.place(&opened.thread) {
        Ok(place) => place,
        Err(refusal) => return refusal.into_response(),
    };
    request.extensions_mut().insert(opened);
    next.run(request).await
}

/// Does something to the session that is named in the path.
async fn act(
    sessions: &Sessions,
    key: Result<Path<String>, PathRejection>,
    request: Request,
    ask: impl AsyncFnOnce(&Door, &ThreadKey) -> Result<(), AskError>,
) -> Result<Json<Value>, Refusal> {
    let (parts, content) = request.into_parts();
    let Path(key) = key.map_err(|_| Refusal::NotFound)?;
    let given = body::object(content, sessions.limits.body_bytes, sessions.limits.body).await;
    // The token is looked at once the body is there, as it may have been revoked meanwhile, and before what is wrong with it.
    let Admitted { door, thread, place: _place } =
        sessions.open(&parts.extensions, |door| thread_of(door, &key)).await?;
    // There is nothing to be said there, which is held to: it would be of no effect.
    if let Some(name) = given?.keys().next() {
        let message = format!("this route takes no `{}`; send {{}}", fields::beginning(name));
        return Err(Refusal::own(StatusCode::BAD_REQUEST, "unknown_argument", message));
    }
    let asked = timeout(sessions.limits.request, ask(&door, &thread)).await;
    asked.map_err(|_| Refusal::OutcomeUnknown)??;
    Ok(Json(json!({"ok": true})))
}

/// A session key as people write it: `C…:1700000000.000100`, with `<installation>/` before it or without.
fn thread_of(door: &Door, key: &str) -> Option<ThreadKey> {
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
    act(&sessions, key, request, Door::retry).await
}

async fn revoke_token(
    State(sessions): State<Arc<Sessions>>,
    key: KeyOfPath,
    request: Request,
) -> Result<Json<Value>, Refusal> {
    act(&sessions, key, request, Door::revoke_token).await
}
