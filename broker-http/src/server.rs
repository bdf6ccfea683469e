//! The listener's loop and its limits.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header;
use axum::middleware;
use axum::routing::get;
use axum::{Json, Router};
use broker_core::engine::Door;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::{Seat, Seats};
use crate::gate::{self, Gate};
use crate::health::{self, Health};
use crate::hosts::Hosts;
use crate::openapi;
use crate::part::Part;
use crate::refusal::Refusal;
use crate::sessions::{self, Access, Sessions};

/// The most bytes of a request's head that are kept; a longer one is answered with 431.
const HEAD_BYTES: usize = 16 * 1024;
/// How long the loop waits after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What bounds the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. One more takes the place of the one that has been without a request for longest. 128.
    pub connections: usize,
    /// Requests served at once; further ones are answered with 503 `busy`. 64.
    pub requests: usize,
    /// How long the head of a request may take, idle time between two requests included. 10 s.
    pub head: Duration,
    /// Requests of one session at once; further ones are answered with 429 `too_many_requests`. 32.
    pub session_requests: usize,
    /// How long the answer may take once the request is read: a post is waited for, a file is copied. 30 s.
    pub request: Duration,
    /// How long the body of a request may take, and the first bytes of one that may be large and does not say so. 10 s.
    pub body: Duration,
    /// How many bytes it may have. 1 MiB.
    pub body_bytes: usize,
    /// How long a body may take that is larger, since a file comes with it. 2 min.
    pub file_body: Duration,
    /// How many bytes that may have. 150 MiB.
    pub file_body_bytes: u64,
    /// How many of them are read at once; further ones are answered with 503 `busy`. 4.
    pub file_bodies: usize,
    /// How long a connection may live, whatever goes on in it. 60 s.
    pub connection: Duration,
    /// How long connections may take to end once the server stops. 2 s.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            requests: 64,
            head: Duration::from_secs(10),
            session_requests: 32,
            request: Duration::from_secs(30),
            body: Duration::from_secs(10),
            body_bytes: 1024 * 1024,
            file_body: Duration::from_secs(120),
            file_body_bytes: 150 * 1024 * 1024,
            file_bodies: 4,
            connection: Duration::from_secs(60),
            stop: Duration::from_secs(2),
        }
    }
}

impl Limits {
    /// Longer than any request takes whose parts keep to their own limits.
    fn longest(&self) -> Duration {
        self.body + self.file_body + self.request
    }
}

/// Gives the text of `/metrics`.
struct Metrics(Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>);

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// What is served.
#[derive(Debug)]
pub struct Api {
    version: &'static str,
    bind_host: String,
    hosts: Vec<String>,
    parts: Vec<Part>,
    metrics: Option<Metrics>,
    sessions: Option<(watch::Receiver<Option<Door>>, Access)>,
    limits: Limits,
}

impl Api {
    /// Nothing but health, with no parts. `bind_host` is the host that the listener was bound to: it may be called by that
    /// name, and when it stands for all addresses (`0.0.0.0`, `::`), by any address.
    pub fn new(version: &'static str, bind_host: impl Into<String>) -> Self {
        Self {
            version,
            bind_host: bind_host.into(),
            hosts: Vec::new(),
            parts: Vec::new(),
            metrics: None,
            sessions: None,
            limits: Limits::default(),
        }
    }

    /// Adds a part to readiness.
    #[must_use]
    pub fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// Serves `GET /metrics` with what `text` gives, in the text format of Prometheus.
    #[must_use]
    pub fn metrics<F, A>(mut self, text: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = String> + Send + 'static,
    {
        self.metrics = Some(Metrics(Arc::new(move || Box::pin(text()))));
        self
    }

    /// Serves the routes of sessions. While there is no door they are answered with 503 `starting`.
    #[must_use]
    pub fn sessions(mut self, door: watch::Receiver<Option<Door>>, access: Access) -> Self {
        self.sessions = Some((door, access));
        self
    }

    /// Lets requests call the server by one more host.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// Changes the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    fn router(self) -> Router {
        let gate = Gate {
            hosts: Hosts::new(&self.bind_host, &self.hosts),
            slots: Arc::new(Semaphore::new(self.limits.requests)),
            watched: self.limits.request,
            limit: self.limits.longest(),
        };
        let health = Health { version: self.version, since: Instant::now(), parts: self.parts };
        let mut router = Router::new();
        let metrics = self.metrics.is_some();
        if let Some(Metrics(text)) = self.metrics {
            let format = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            router = router.route("/metrics", get(async move || (format, text().await)));
        }
        if let Some((_, access)) = &self.sessions {
            let document = openapi::document(self.version, matches!(access, Access::Tokens(_)), metrics);
            router = router.route("/openapi.json", get(async move || Json(document)));
        }
        let sessions = self.sessions.map(|(door, access)| Sessions::new(access, door, self.limits));
        let sessions = sessions.map(sessions::router).unwrap_or_default();
        router
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .with_state(Arc::new(health))
            .merge(sessions)
            .method_not_allowed_fallback(async || Refusal::MethodNotAllowed)
            .fallback(async || Refusal::NotFound)
            .layer(middleware::from_fn_with_state(Arc::new(gate), gate::pass))
    }
}

/// Serves until `stop` is cancelled and the last connection has ended or outlived [`Limits::stop`].
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let limits = api.limits;
    let router = api.router();
    let seats = Seats::new(limits.connections);
    let connections = TaskTracker::new();
    while let Some(stream) = stop.run_until_cancelled(next(&listener)).await {
        let Some(Some((seat, place))) = stop.run_until_cancelled(seats.take()).await else { break };
        let (router, stop) = (router.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, router, limits, &seat, stop).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop((seat, place));
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The next connection. An accept fails when the peer has hung up already, or for want of descriptors: then it is tried
/// again after a pause, since the listener itself is well.
async fn next(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    seat: &Arc<Seat>,
    stop: CancellationToken,
) -> Result<(), hyper::Error> {
    let (at, router) = (Arc::clone(seat), TowerToHyperService::new(router));
    let service = service_fn(move |request| {
        let (busy, response) = (at.busy(), router.call(request));
        async move {
            let response = response.await;
            drop(busy);
            response
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let (rest, chosen) = tokio::select! {
        ended = connection.as_mut() => return ended,
        // What came after it was chosen is answered.
        () = seat.gone() => if seat.is_busy() { (limits.longest(), true) } else { return Ok(()) },
        () = tokio::time::sleep(limits.connection) => (limits.longest(), false),
        () = stop.cancelled() => (limits.stop, false),
    };
    // What is being answered may be finished, nothing new is begun. Its place may be needed and the server may stop meanwhile.
    connection.as_mut().graceful_shutdown();
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(limits.stop).await;
    };
    tokio::select! {
        ended = connection => ended,
        () = seat.gone(), if !chosen => Ok(()),
        () = stopped => Ok(()),
        () = tokio::time::sleep(rest) => Ok(()),
    }
}
