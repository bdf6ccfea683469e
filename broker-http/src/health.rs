//! `GET /healthz` and `GET /readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use broker_core::health::PartHealth;
use serde::Serialize;
use tokio::time::Instant;

use crate::part::{Part, ask_all};

/// What the two routes answer from.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) version: &'static str,
    pub(crate) since: Instant,
    pub(crate) parts: Vec<Part>,
}

/// The body of `GET /readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    /// Whether every part does its work.
    ok: bool,
    /// The version of the program.
    version: &'static str,
    /// How long the server has been up, in whole seconds.
    uptime_s: u64,
    /// Each part by its name.
    parts: BTreeMap<&'static str, PartHealth>,
}

/// The process is alive: it needs nothing else for this answer.
pub(crate) async fn alive() -> &'static str {
    "ok"
}

/// Each part as it stands: 200 when all are well, else 503.
pub(crate) async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, Json<Ready>) {
    let parts: BTreeMap<_, _> = ask_all(&health.parts).await.into_iter().collect();
    let ok = parts.values().all(|part| part.ok);
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let uptime_s = health.since.elapsed().as_secs();
    (status, Json(Ready { ok, version: health.version, uptime_s, parts }))
}
