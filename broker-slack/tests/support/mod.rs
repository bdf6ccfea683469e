//! A local HTTP server that answers as a test says, and tokens to reach it with.

#![expect(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod stage;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_core::clock::SystemClock;
use broker_slack::{ConnectError, LinkLimits, Slack, SlackConfig};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Nothing that a test waits for takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A call as it came.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) params: HashMap<String, String>,
    pub(crate) body: Value,
    pub(crate) authorization: String,
    pub(crate) at: Instant,
}

/// What the server does about a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Json(Value),
    /// Status, headers, body.
    Raw(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// Nothing, ever.
    Hang,
    /// The connection breaks.
    Break,
}

type Handler = dyn Fn(&Call) -> Reply + Send + Sync;

/// The server. It ends with the test's runtime.
pub(crate) struct Server {
    pub(crate) base: String,
    pub(crate) calls: Arc<Mutex<Vec<Call>>>,
}

impl Server {
    pub(crate) async fn start(handler: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/api", listener.local_addr().unwrap());
        let calls = Arc::new(Mutex::new(Vec::new()));
        let handler: Arc<Handler> = Arc::new(handler);
        let seen = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                let service = service_fn(move |request| answer(request, Arc::clone(&handler), Arc::clone(&seen)));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { base, calls }
    }

    pub(crate) fn calls(&self, method: &str) -> Vec<Call> {
        self.calls.lock().unwrap().iter().filter(|call| call.method == method).cloned().collect()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the test breaks the connection")]
struct Broken;

async fn answer(
    request: Request<Incoming>,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Call>>>,
) -> Result<Response<Full<Bytes>>, Broken> {
    let uri = request.uri().clone();
    let url = url::Url::parse(&format!("http://x{uri}")).unwrap();
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let authorization = header("authorization");
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let call = Call {
        method: uri.path().trim_start_matches("/api/").to_owned(),
        params: url.query_pairs().into_owned().collect(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        authorization,
        at: Instant::now(),
    };
    let reply = handler(&call);
    seen.lock().unwrap().push(call);
    let (status, headers, body) = match reply {
        Reply::Json(value) => (200, vec![("content-type", "application/json; charset=utf-8")], value.to_string()),
        Reply::Raw(status, headers, body) => (status, headers, body.to_owned()),
        Reply::Hang => {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
        Reply::Break => return Err(Broken),
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::from(body)).unwrap())
}

/// What `auth.test` answers, as in Slack's documentation.
pub(crate) fn auth_test() -> Reply {
    Reply::Json(json!({
        "ok": true, "url": "https://subarachnoid.slack.com/", "team": "Subarachnoid Workspace", "user": "broker",
        "team_id": "T0000001", "user_id": "UBROKER", "bot_id": "BBROKER", "is_enterprise_install": false
    }))
}

pub(crate) fn config(base: &str) -> SlackConfig {
    let mut config = SlackConfig::new("xapp-1-test".into(), "xoxb-test".into());
    config.connections = 1;
    base.clone_into(&mut config.api_base);
    config.post_rate = 0.0;
    config
}

pub(crate) async fn connect(base: &str) -> Result<Arc<Slack>, ConnectError> {
    Slack::connect(config(base), Arc::new(SystemClock::new())).await
}

/// Limits of a socket that gives up and tries again within fractions of a second; a link is never dead to it.
pub(crate) fn quick() -> LinkLimits {
    LinkLimits {
        step: Duration::from_millis(500),
        ping: Duration::from_millis(100),
        pong: LIMIT,
        silence: LIMIT,
        patience: LIMIT,
        drain: Duration::from_secs(5),
        quiet: Duration::from_millis(200),
        stop: Duration::from_secs(5),
        min_wait: Duration::from_millis(10),
        max_wait: Duration::from_millis(50),
        refused_wait: Duration::from_millis(50),
    }
}

pub(crate) async fn connect_quick(base: &str, connections: usize, limits: LinkLimits) -> Arc<Slack> {
    let mut config = config(base);
    config.connections = connections;
    config.link = limits;
    Slack::connect(config, Arc::new(SystemClock::new())).await.unwrap()
}
