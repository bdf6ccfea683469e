//! The model behind Codex: `POST /v1/responses` with scripted answers over server-sent events.
//!
//! # What the model answers
//!
//! 1. What a handler of the test says ([`FakeModel::handle`]), when it says anything.
//! 2. The script of the last user message that holds one: its first step answers the first request of that message, its
//!    second step the next, and so on. A message holds a script
//!    - as `script#N`, the text that [`FakeModel::script`] returns for steps of any kind: it survives every escaping;
//!    - or as lines with `scenario:WORD:…` ([`Step::parse`] names the words). A message may have gone through Slack's escaping
//!      and through JSON; both are undone.
//! 3. Otherwise `tool said: …` after a tool's answer, else `ok: ` and the user's words.
//!
//! A request that failed counts too: after `scenario:cutoff` a repeated request gets the next step.

mod request;
mod script;
mod sse;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use broker_core::clock::{Clock, SystemClock};
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use request::ModelRequest;
pub use script::Step;

use crate::watched::Watched;
use crate::wire::{self, Body, Dropped, Server, full, pieces, response};

/// Says what to answer to a request, or nothing.
type Handler = Arc<dyn Fn(&ModelRequest) -> Option<Step> + Send + Sync>;

#[derive(Default)]
struct State {
    handler: Option<Handler>,
    scripts: Vec<Vec<Step>>,
    /// How many requests each script has answered.
    played: HashMap<String, usize>,
    requests: Vec<ModelRequest>,
    /// Other requests that came, by path.
    other: Vec<String>,
    running: usize,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}

/// The handle. The model ends when it is dropped.
#[derive(Debug)]
pub struct FakeModel {
    state: Arc<Watched<State>>,
    server: Server,
}

impl FakeModel {
    /// Starts a model.
    pub async fn start() -> Self {
        let state = Arc::new(Watched::new(State::default()));
        let clock = Arc::new(SystemClock::new());
        let serving = Arc::clone(&state);
        let server = wire::serve(move |request| serve(Arc::clone(&serving), Arc::clone(&clock), request)).await;
        Self { state, server }
    }

    /// The value of `base_url` in Codex's configuration.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.server.address)
    }

    /// Lets the test answer requests itself; what it does not answer goes on to the scripts.
    pub fn handle(&self, handler: impl Fn(&ModelRequest) -> Option<Step> + Send + Sync + 'static) {
        self.state.change(|state| state.handler = Some(Arc::new(handler)));
    }

    /// Registers a script; the text that names it goes anywhere into a message.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) -> String {
        self.state.change(|state| {
            state.scripts.push(steps.into_iter().collect());
            format!("script#{}", state.scripts.len() - 1)
        })
    }

    /// The requests so far, oldest first.
    pub fn requests(&self) -> Vec<ModelRequest> {
        self.state.read(|state| state.requests.clone())
    }

    /// Requests to anything but the model, by path.
    pub fn other_requests(&self) -> Vec<String> {
        self.state.read(|state| state.other.clone())
    }

    /// Answers that are being written.
    pub fn running(&self) -> usize {
        self.state.read(|state| state.running)
    }

    /// Waits for a request that `fits`.
    ///
    /// # Panics
    ///
    /// When the limit is over; the message names `what` and shows the last requests.
    #[track_caller]
    pub fn wait_for_request(
        &self,
        what: &str,
        limit: Duration,
        fits: impl Fn(&ModelRequest) -> bool,
    ) -> impl Future<Output = ModelRequest> {
        let caller = std::panic::Location::caller();
        async move {
            let look = |state: &State| state.requests.iter().find(|request| fits(request)).cloned();
            match self.state.wait_for(look, limit).await {
                Some(request) => request,
                None => panic!("{caller}: within {limit:?} no {what}; {}", self.summary()),
            }
        }
    }

    /// Waits until no answer is being written.
    ///
    /// # Panics
    ///
    /// When the limit is over.
    pub async fn wait_until_idle(&self, limit: Duration) {
        let idle = self.state.wait_for(|state| (state.running == 0).then_some(()), limit).await;
        assert!(idle.is_some(), "within {limit:?} the model was never idle; {}", self.summary());
    }

    fn summary(&self) -> String {
        use std::fmt::Write;
        self.state.read(|state| {
            let mut text = format!("{} requests, {} running\n", state.requests.len(), state.running);
            for request in state.requests.iter().rev().take(6) {
                let said: String = script::words(&request.last_user_text()).chars().take(200).collect();
                let outputs = request.tool_outputs();
                let _ = writeln!(text, "thread {}: {said} (tools said {outputs:?})", request.thread);
            }
            text
        })
    }
}

fn next_step(state: &mut State, request: &ModelRequest) -> Step {
    let handler = state.handler.clone();
    if let Some(step) = handler.and_then(|handler| handler(request)) {
        return step;
    }
    if let Some((place, found)) = request.script() {
        let (key, steps) = match found {
            script::Found::Registered(number) => {
                (format!("script#{number}"), state.scripts.get(number).cloned().unwrap_or_default())
            }
            script::Found::Inline(steps) => (format!("{}/{place}/{steps:?}", request.thread), steps),
        };
        let played = state.played.entry(key).or_default();
        *played += 1;
        if let Some(step) = steps.into_iter().nth(*played - 1) {
            return step;
        }
    }
    default_step(request)
}

/// Without a script: the last thing that was said, by a tool or by the user.
fn default_step(request: &ModelRequest) -> Step {
    let last = request.input().iter().rev().find(|item| {
        let kind = item["type"].as_str().unwrap_or("message");
        kind.ends_with("_output") || (kind == "message" && item["role"] == "user")
    });
    let from_tool = last.is_some_and(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with("_output")));
    let short = |text: &str| text.chars().take(400).collect::<String>();
    if from_tool {
        return Step::Text(format!("tool said: {}", short(&request.tool_outputs().pop().unwrap_or_default())));
    }
    Step::Text(format!("ok: {}", short(&script::words(&request.last_user_text()))))
}

async fn serve(
    state: Arc<Watched<State>>,
    clock: Arc<SystemClock>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else { return Err(Dropped) };
    if head.method != "POST" || !head.uri.path().ends_with("/responses") {
        state.change(|state| state.other.push(format!("{} {}", head.method, head.uri.path())));
        return Ok(error(StatusCode::NOT_FOUND, &json!({ "error": { "message": "the fake has no such path" } })));
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let request = ModelRequest::new(&head.headers, body, clock.now());
    let step = state.change(|state| {
        state.requests.push(request.clone());
        next_step(state, &request)
    });
    match &step {
        Step::Error(code, retry_after) => {
            let message = format!("the fake fails with {code}");
            let body = json!({ "error": { "message": message, "type": "fake_error", "code": format!("fake_{code}") } });
            let mut answer = error(StatusCode::from_u16(*code).expect("an HTTP status"), &body);
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert("retry-after", (*seconds).into());
            }
            Ok(answer)
        }
        Step::UsageLimit => Ok(error(
            StatusCode::TOO_MANY_REQUESTS,
            &json!({
                "error": {
                    "type": "usage_limit_reached",
                    "message": "The usage limit has been reached",
                    "plan_type": "plus",
                    "resets_at": clock.now().as_millis() / 1000 + 3600,
                    "resets_in_seconds": 3600
                }
            }),
        )),
        Step::Refuse => Err(Dropped),
        _ => Ok(stream(state, request, step)),
    }
}

fn error(status: StatusCode, body: &Value) -> Response<Body> {
    response(status, "application/json", full(body.to_string()))
}

fn stream(state: Arc<Watched<State>>, request: ModelRequest, step: Step) -> Response<Body> {
    // One event at a time: what the client does not read is not written.
    let (out, from) = mpsc::channel::<io::Result<Bytes>>(1);
    state.change(|state| state.running += 1);
    tokio::spawn(async move {
        // A client that hangs up in the middle is an ordinary end: an interrupt does that.
        let _ = sse::Events::new(out).play(&request, &step).await;
        state.change(|state| state.running -= 1);
    });
    response(StatusCode::OK, "text/event-stream", pieces(from))
}
