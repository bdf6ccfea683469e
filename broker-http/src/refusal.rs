//! Answers to requests that are not served.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use broker_core::engine::AskError;
use broker_core::store::StoreError;
use serde::Serialize;
use serde_json::{Map, Value};

/// A request that is not served, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotFound,
    MethodNotAllowed,
    HostNotAllowed,
    OriginNotAllowed,
    Busy,
    /// This session has as many requests under way as it may.
    TooManyRequests,
    /// Nothing was changed.
    TimedOut,
    /// The change may have been made: the answer to it was lost, or came too late.
    OutcomeUnknown,
    /// No session can be asked yet: the broker is not connected.
    Starting,
    TokenMissing,
    /// The token opens something else, or there is nothing to open: which of the two is nobody's business.
    Forbidden,
    /// Only where no token is asked for.
    SessionNotFound,
    NotJson,
    BodyTooLarge,
    BodyTooSlow,
    /// The body breaks off, or is no JSON object.
    Malformed(String),
    Store,
    /// What only one route says.
    Own(Own),
}

/// A refusal that one route alone knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    /// What stands beside code and message.
    pub(crate) more: Map<String, Value>,
}

#[derive(Serialize)]
struct Body {
    ok: bool,
    error: Cow<'static, str>,
    message: Cow<'static, str>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Refusal {
    /// A refusal that one route alone knows.
    pub(crate) fn own(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self::Own(Own { status, code: code.into(), message: message.into(), more: Map::new() })
    }

    /// The same with something beside code and message.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Self::Own(own) = &mut self {
            own.more.insert(name.to_owned(), value.into());
        }
        self
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound | Self::SessionNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::HostNotAllowed | Self::OriginNotAllowed | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::TokenMissing => StatusCode::UNAUTHORIZED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            // Not 502 to 504, after which many a client sends the same again by itself.
            Self::OutcomeUnknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Busy | Self::TimedOut | Self::Starting | Self::Store => StatusCode::SERVICE_UNAVAILABLE,
            Self::Own(own) => own.status,
        }
    }

    fn code(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::HostNotAllowed => "host_not_allowed",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::Busy => "busy",
            Self::TooManyRequests => "too_many_requests",
            Self::TimedOut => "timed_out",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::Starting => "starting",
            Self::TokenMissing => "token_missing",
            Self::Forbidden => "forbidden",
            Self::SessionNotFound => "session_not_found",
            Self::NotJson => "unsupported_content_type",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooSlow => "body_too_slow",
            Self::Malformed(_) => "invalid_json",
            Self::Store => "store_unavailable",
            Self::Own(own) => return own.code.clone(),
        })
    }

    fn message(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NotFound => "there is nothing here; the routes stand in docs/http-api.md",
            Self::MethodNotAllowed => "use one of the methods that `allow` lists",
            Self::HostNotAllowed => "call the broker by its address, by localhost or by the host it is bound to",
            Self::OriginNotAllowed => "the broker takes no requests from web pages",
            Self::Busy => "too many requests at once; try again",
            Self::TooManyRequests => "this session has too many requests under way; send the next after an answer",
            Self::TimedOut => "no answer in time; nothing was changed, try again",
            Self::OutcomeUnknown => {
                "it may have been done, or not: look into the thread first; with the same `idempotency-key` a post may be \
                 asked for again without being made twice"
            }
            Self::Starting => "the broker is not connected to Slack yet; /readyz says why",
            Self::TokenMissing => {
                "send `authorization: Bearer $BROKER_TOKEN`; `broker token <key>` prints the token of a session"
            }
            Self::Forbidden => "the token does not open this thread; it opens the thread of its own session alone",
            Self::SessionNotFound => "there is no session in this thread: it begins with a mention or a direct message",
            Self::NotJson => "send a JSON object, with `content-type: application/json`",
            Self::BodyTooLarge => "the body has more bytes than this route takes",
            Self::BodyTooSlow => "the body did not come in time",
            Self::Store => "the broker cannot read or write its store; /readyz and the log say why",
            Self::Malformed(what) => return Cow::Owned(what),
            Self::Own(own) => return Cow::Owned(own.message),
        })
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // Its words name places of the operator's disk.
        tracing::warn!(%error, "a request could not be served for want of the store");
        Self::Store
    }
}

impl From<AskError> for Refusal {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NoSession => Self::SessionNotFound,
            AskError::Busy => Self::Busy,
            AskError::Unanswered => Self::OutcomeUnknown,
            AskError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = (self.status(), self.code());
        let more = if let Self::Own(own) = &self { own.more.clone() } else { Map::new() };
        let mut response = (status, Json(Body { ok: false, error, message: self.message(), more })).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What is left of the body is not waited for.
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
