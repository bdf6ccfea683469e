//! What every request passes before it is routed.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;

use crate::hosts::Hosts;
use crate::refusal::Refusal;

/// What is answered however much else is being served.
const WATCHED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Whose wish a request is, as browsers tell it.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The gate's rules; one per server.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) hosts: Hosts,
    /// One permit per request that may be served at once.
    pub(crate) slots: Arc<Semaphore>,
    /// How long one may take that asks how the broker is.
    pub(crate) watched: Duration,
    /// How long any other may take. Each route has limits of its own, which end it earlier with better words.
    pub(crate) limit: Duration,
}

impl Gate {
    fn refusal(&self, uri: &Uri, headers: &HeaderMap) -> Option<Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        // One host and one only: a second one is for somebody who reads the other.
        let host = match (hosts.next().map(HeaderValue::to_str), hosts.next()) {
            (Some(Ok(host)), None) => host,
            _ => return Some(Refusal::HostNotAllowed),
        };
        // A target such as `http://host/path` overrules the header.
        let target = uri.authority().map_or(host, |authority| authority.as_str());
        if !self.hosts.allow(host) || !self.hosts.allow(target) {
            return Some(Refusal::HostNotAllowed);
        }
        // A page that only wants something loaded names no origin; what loads it says whose wish it is
        // (<https://www.w3.org/TR/fetch-metadata/>), and `none` is a person who typed the address.
        let sites = headers.get_all(SEC_FETCH_SITE);
        let of_a_page = headers.contains_key(header::ORIGIN) || sites.iter().any(|site| site != "none");
        of_a_page.then_some(Refusal::OriginNotAllowed)
    }
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    // Whether something was changed by then nobody knows.
    let late = if request.method() == Method::GET { Refusal::TimedOut } else { Refusal::OutcomeUnknown };
    let response = tokio::time::timeout(limit, next.run(request)).await;
    response.unwrap_or_else(|_| late.into_response())
}

/// Lets a request through, or refuses it.
pub(crate) async fn pass(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match gate.refusal(request.uri(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        // Whoever watches over the broker asks how it is, and no number of slow clients may keep the answer back. These
        // read no body, and connections are bounded.
        None if WATCHED.contains(&request.uri().path()) => within(gate.watched, request, next).await,
        None => match Arc::clone(&gate.slots).try_acquire_owned() {
            Ok(slot) => {
                let limit = gate.limit;
                // By itself, so that whoever hangs up keeps its places until what it asked for is done: otherwise one client
                // could have any amount of it done at once.
                let served = tokio::spawn(async move {
                    let _slot = slot;
                    within(limit, request, next).await
                });
                served.await.unwrap_or_else(|_| Refusal::OutcomeUnknown.into_response())
            }
            Err(_) => Refusal::Busy.into_response(),
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
