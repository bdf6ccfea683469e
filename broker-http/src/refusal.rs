//! Answers to requests that are not served.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A request that is not served, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    MethodNotAllowed,
    HostNotAllowed,
    OriginNotAllowed,
    Busy,
    TimedOut,
}

#[derive(Serialize)]
struct Body {
    ok: bool,
    error: &'static str,
    message: &'static str,
}

impl Refusal {
    fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "there is nothing here; try /healthz or /readyz"),
            Self::MethodNotAllowed => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use one of the methods that `allow` lists")
            }
            Self::HostNotAllowed => (
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                "call the broker by its address, by localhost or by the host it is bound to",
            ),
            Self::OriginNotAllowed => {
                (StatusCode::FORBIDDEN, "origin_not_allowed", "the broker takes no requests from web pages")
            }
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests at once; try again"),
            Self::TimedOut => (StatusCode::SERVICE_UNAVAILABLE, "timed_out", "no answer in time; try again"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error, message) = self.parts();
        (status, Json(Body { ok: false, error, message })).into_response()
    }
}
