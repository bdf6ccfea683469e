//! The Web API's door: tokens, arguments, faults, the shape of answers. The methods stand in `methods.rs`.
//! After <https://docs.slack.dev/apis/web-api>.

use std::collections::BTreeSet;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use super::faults::Trouble;
use super::state::{Call, State};
use super::{APP_TOKEN, BOT_TOKEN, Shared, files, methods, socket};
use crate::wire::{Body, Dropped, full, response};

/// What was asked, brought into one shape. Of a form or a query every value is a string.
#[derive(Debug, Clone)]
pub(super) struct Args {
    pub(super) values: Map<String, Value>,
    /// Breaches of the protocol, found on the way.
    pub(super) wrong: Vec<String>,
    json: bool,
    asked: BTreeSet<String>,
}

impl Args {
    /// A string. Ids and timestamps have to be strings in JSON too.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        self.asked.insert(name.to_owned());
        match self.values.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => {
                self.wrong.push(format!("`{name}` is not a string: {other}"));
                None
            }
        }
    }

    /// A number, written as one or as a string.
    pub(super) fn number(&mut self, name: &str) -> Option<usize> {
        self.asked.insert(name.to_owned());
        let value = self.values.get(name)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok()).and_then(|n| usize::try_from(n).ok());
        if number.is_none() {
            self.wrong.push(format!("`{name}` is not a number: {value}"));
        }
        number
    }

    /// A switch, written as a boolean, a word or a digit.
    pub(super) fn switch(&mut self, name: &str) -> bool {
        self.asked.insert(name.to_owned());
        match self.values.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::String(word)) if ["true", "1"].contains(&word.as_str()) => true,
            Some(Value::String(word)) if ["false", "0"].contains(&word.as_str()) => false,
            Some(other) => {
                self.wrong.push(format!("`{name}` is not a switch: {other}"));
                false
            }
        }
    }

    /// A structure: JSON, or in a form the text of it.
    pub(super) fn structure(&mut self, name: &str) -> Option<Value> {
        self.asked.insert(name.to_owned());
        match self.values.get(name)? {
            Value::String(text) => match serde_json::from_str(text) {
                Ok(value) if !self.json => Some(value),
                _ => {
                    self.wrong.push(format!("`{name}` is not a structure: {text}"));
                    None
                }
            },
            Value::Null => None,
            value => Some(value.clone()),
        }
    }

    /// Marks arguments as known that the fake does not look at.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        self.asked.extend(names.iter().map(|name| (*name).to_owned()));
    }
}

/// What a method answers: the fields beside `ok`, or Slack's error code.
pub(super) type Answer = Result<Value, &'static str>;

/// Serves one request.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stop: CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let path = request.uri().path().to_owned();
    if path == "/link" {
        return Ok(socket::accept(&shared, &stop, request));
    }
    if ["/files-pri/", "/elsewhere/", "/upload/"].iter().any(|place| path.starts_with(place)) {
        return files::serve(&shared, &stop, request).await;
    }
    let Some(method) = path.strip_prefix("/api/").map(str::to_owned) else {
        shared.state.change(|state| state.violation(format!("there is no such path: {path}")));
        return Ok(response(StatusCode::NOT_FOUND, "text/html", full("<html>no such page</html>")));
    };
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else { return Err(Dropped) };
    let mut args = arguments(&head.headers, &query, &body);
    let fault = shared.state.change(|state| take_fault(state, &method, &args));
    let token = token(&head.headers, &mut args);
    if let Some(Trouble::LandsLate(pause)) = fault {
        let (shared, method, token, mut args) = (Arc::clone(&shared), method.clone(), token.clone(), args.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            shared.state.change(|state| perform(state, &shared, &method, token.as_deref(), &mut args).is_ok());
        });
    }
    let (done, lost) = match &fault {
        Some(Trouble::Delay(pause)) => {
            tokio::time::sleep(*pause).await;
            (true, None)
        }
        Some(Trouble::DoneThenStatus(_) | Trouble::DoneThenError(_) | Trouble::DoneThenHang | Trouble::LoseAnswer) => {
            (true, fault.as_ref())
        }
        Some(Trouble::DoneThenDelay(_)) | None => (true, None),
        Some(_) => (false, fault.as_ref()),
    };
    let answer = shared.state.change(|state| {
        let answer = if done { Some(perform(state, &shared, &method, token.as_deref(), &mut args)) } else { None };
        for wrong in std::mem::take(&mut args.wrong) {
            state.violation(format!("{method}: {wrong}"));
        }
        let outcome = match (&fault, &answer) {
            (Some(fault), _) => format!("{fault:?}"),
            (None, Some(Err(code))) => (*code).to_owned(),
            (None, _) => "ok".to_owned(),
        };
        state.calls.push(Call { method: method.clone(), args: std::mem::take(&mut args.values), at, outcome });
        answer
    });
    if let Some(Trouble::DoneThenDelay(pause)) = fault {
        tokio::time::sleep(pause).await;
    }
    match (lost, answer) {
        (Some(trouble), _) => fail(trouble, &stop).await,
        (None, Some(answer)) => Ok(respond(&shared, answer)),
        (None, None) => Err(Dropped),
    }
}

fn respond(shared: &Shared, answer: Answer) -> Response<Body> {
    let body = match answer {
        Ok(Value::Object(mut fields)) => {
            fields.insert("ok".to_owned(), json!(true));
            Value::Object(fields)
        }
        Ok(other) => other,
        // After https://docs.slack.dev/apis/web-api/#responses.
        Err(code) => json!({ "ok": false, "error": code }),
    };
    let mut answer = response(StatusCode::OK, "application/json; charset=utf-8", full(body.to_string()));
    let scopes = shared.state.read(|state| state.scopes.join(","));
    for (name, value) in [("x-oauth-scopes", scopes.as_str()), ("x-slack-req-id", "7c4ba2a3f6b9a8a1")] {
        if let Ok(value) = value.parse() {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

pub(super) async fn fail(trouble: &Trouble, stop: &CancellationToken) -> Result<Response<Body>, Dropped> {
    let html = |status| response(status, "text/html", full("<html><body>Something went wrong</body></html>"));
    match trouble {
        Trouble::Hang | Trouble::DoneThenHang => {
            stop.cancelled().await;
            Err(Dropped)
        }
        Trouble::Status(code) | Trouble::DoneThenStatus(code) => {
            Ok(html(StatusCode::from_u16(*code).expect("an HTTP status")))
        }
        Trouble::RateLimited(seconds) => {
            let body = json!({ "ok": false, "error": "ratelimited" }).to_string();
            let mut answer = response(StatusCode::TOO_MANY_REQUESTS, "application/json", full(body));
            answer.headers_mut().insert("retry-after", (*seconds).into());
            Ok(answer)
        }
        Trouble::NotJson => Ok(html(StatusCode::OK)),
        Trouble::Error(code) | Trouble::DoneThenError(code) => {
            let body = json!({ "ok": false, "error": code }).to_string();
            Ok(response(StatusCode::OK, "application/json", full(body)))
        }
        Trouble::LoseAnswer | Trouble::Drop | Trouble::Delay(_) | Trouble::DoneThenDelay(_) | Trouble::LandsLate(_) => {
            Err(Dropped)
        }
    }
}

fn take_fault(state: &mut State, method: &str, args: &Args) -> Option<Trouble> {
    let text = Value::Object(args.values.clone()).to_string();
    let matches = |fault: &super::faults::Fault| {
        fault.method == method && fault.holding.as_ref().is_none_or(|holding| text.contains(holding.as_str()))
    };
    let index = state.faults.iter().position(matches)?;
    let fault = &mut state.faults[index];
    fault.times -= 1;
    let trouble = fault.trouble.clone();
    if fault.times == 0 {
        state.faults.remove(index);
    }
    Some(trouble)
}

fn arguments(headers: &HeaderMap, query: &str, body: &[u8]) -> Args {
    let mut args = Args { values: Map::new(), wrong: Vec::new(), json: false, asked: BTreeSet::new() };
    let form = |bytes: &[u8], values: &mut Map<String, Value>| {
        for (name, value) in form_urlencoded::parse(bytes) {
            values.insert(name.into_owned(), Value::String(value.into_owned()));
        }
    };
    form(query.as_bytes(), &mut args.values);
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.starts_with("application/json") {
        args.json = true;
        match serde_json::from_slice(body) {
            Ok(Value::Object(values)) => args.values.extend(values),
            // slack-morphism sends `null` for a request without arguments.
            Ok(Value::Null) => {}
            _ if body.is_empty() => {}
            _ => args.wrong.push("the body is not a JSON object".to_owned()),
        }
    } else if content_type.starts_with("application/x-www-form-urlencoded") || body.is_empty() {
        form(body, &mut args.values);
    } else {
        args.wrong.push(format!("the content type `{content_type}` is not one that Slack takes"));
    }
    args
}

/// The bearer token. One among the arguments would work with Slack, and would stand in logs of URLs.
fn token(headers: &HeaderMap, args: &mut Args) -> Option<String> {
    if args.values.remove("token").is_some() {
        args.wrong.push("the token is among the arguments".to_owned());
    }
    let header = headers.get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned);
    if token.is_none() {
        args.wrong.push("there is no bearer token".to_owned());
    }
    token
}

fn perform(state: &mut State, shared: &Shared, method: &str, token: Option<&str>, args: &mut Args) -> Answer {
    let Some(token) = token else { return Err("not_authed") };
    let wanted = if method == "apps.connections.open" { APP_TOKEN } else { BOT_TOKEN };
    if token != wanted {
        if token == APP_TOKEN || token == BOT_TOKEN {
            args.wrong.push("it was called with the other kind of token".to_owned());
            return Err("not_allowed_token_type");
        }
        return Err("invalid_auth");
    }
    if let Some(code) = state.refusal.filter(|_| token == BOT_TOKEN) {
        return Err(code);
    }
    if method == "apps.connections.open" {
        return open(state, shared, args);
    }
    let answer = match method {
        "files.getUploadURLExternal" => files::upload_url(state, &shared.address().to_string(), args),
        _ => methods::call(state, method, args),
    };
    let unknown: Vec<_> = args.values.keys().filter(|name| !args.asked.contains(*name)).cloned().collect();
    if answer.is_ok() && !unknown.is_empty() {
        args.wrong.push(format!("it has no arguments {unknown:?}"));
    }
    answer
}

/// After <https://docs.slack.dev/reference/methods/apps.connections.open>.
fn open(state: &mut State, shared: &Shared, args: &Args) -> Answer {
    if !args.values.is_empty() {
        state.violation("apps.connections.open takes no arguments");
    }
    if state.open_connections() >= 10 {
        return Err("too_many_websockets");
    }
    let ticket = format!("ticket=1871b911-{:08}&app_id=f9b2e6", state.number());
    state.tickets.insert(ticket.clone());
    Ok(json!({ "url": format!("ws://{}/link?{ticket}", shared.address()) }))
}
