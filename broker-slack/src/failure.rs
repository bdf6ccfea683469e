//! Why a Web API call failed, and what that means to each kind of caller.
//!
//! The one question that matters is whether the call may have had its effect:
//!
//! * *surely not*: no connection came about (hyper-util's `is_connect()`: name not found, refused, TLS handshake failed),
//!   the call never left the limiter, Slack answered 429, or a proxy or Slack's edge refused the request with a 4xx,
//! * *perhaps*: everything else without a readable answer: a time-out, a connection that broke after it had come about, a
//!   5xx, a 200 that is not Slack's JSON, and Slack's own codes for "something went wrong in the middle of it".
//!
//! Neither bodies nor slack-morphism's error texts (which print bodies) get into a reason: only codes do.

use std::time::Duration;

use broker_core::chat::{DeliverError, LookupError};
use broker_core::history::HistoryError;
use slack_morphism::errors::SlackClientError;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It surely had no effect, and another try may succeed.
    NotSent { reason: String, retry_after: Option<Duration> },
    /// It may have had its effect.
    Unanswered { reason: String },
    /// Slack understood it and refused.
    Refused { code: String },
}

/// Slack's codes after which an operator has to mend something before anything works again.
const ACCOUNT_CODES: [&str; 9] = [
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "not_allowed_token_type",
    "missing_scope",
    "org_login_required",
    "accesslimited",
];

impl Failure {
    pub(crate) fn not_sent(reason: &str) -> Self {
        Self::NotSent { reason: reason.to_owned(), retry_after: None }
    }

    pub(crate) fn unanswered(reason: &str) -> Self {
        Self::Unanswered { reason: reason.to_owned() }
    }

    /// What a code in Slack's answer means.
    pub(crate) fn of_code(code: &str) -> Self {
        let code = readable(code);
        match code.as_str() {
            "ratelimited" | "rate_limited" | "team_added_to_org" | "request_timeout" => {
                Self::NotSent { reason: code, retry_after: None }
            }
            "fatal_error" | "internal_error" | "service_unavailable" => Self::Unanswered { reason: code },
            _ => Self::Refused { code },
        }
    }

    /// What an HTTP status other than 200 and 429 means, when nothing better is known.
    pub(crate) fn of_status(status: u16) -> Self {
        let code = format!("http_{status}");
        match status {
            408 | 500.. => Self::Unanswered { reason: code },
            // The request itself is wrong, and would be wrong again.
            400 | 411 | 413 | 414 | 422 | 431 => Self::Refused { code },
            _ => Self::NotSent { reason: code, retry_after: None },
        }
    }

    /// What slack-morphism reports. A 429 is told apart by the caller, for the limiter's sake.
    pub(crate) fn of_client(error: &SlackClientError) -> Self {
        match error {
            SlackClientError::ApiError(error) => Self::of_code(&error.code),
            SlackClientError::HttpError(error) => Self::of_status(error.status_code.as_u16()),
            SlackClientError::RateLimitError(error) => {
                Self::NotSent { reason: "ratelimited".to_owned(), retry_after: error.retry_after }
            }
            SlackClientError::HttpProtocolError(error) => match &error.cause {
                Some(cause) => match cause.downcast_ref::<hyper_util::client::legacy::Error>() {
                    Some(error) => Self::of_connection(error),
                    None => Self::not_sent("the request could not be made"),
                },
                None => Self::unanswered("a broken answer"),
            },
            SlackClientError::ProtocolError(_) => Self::unanswered("not an answer of slack's"),
            SlackClientError::EndOfStream(_)
            | SlackClientError::SystemError(_)
            | SlackClientError::SocketModeProtocolError(_) => Self::unanswered("a broken answer"),
        }
    }

    /// What the HTTP client reports.
    pub(crate) fn of_connection(error: &hyper_util::client::legacy::Error) -> Self {
        if error.is_connect() { Self::not_sent("no connection") } else { Self::unanswered("the connection broke") }
    }

    /// The outcome for something that answers do not depend on: a scope or a kind of token that is missing for it is no
    /// fault of the account.
    pub(crate) fn of_extra(self) -> DeliverError {
        match self {
            Self::Refused { code }
                if matches!(code.as_str(), "missing_scope" | "not_allowed_token_type" | "accesslimited") =>
            {
                DeliverError::Refused { code }
            }
            other => other.into(),
        }
    }

    /// Whether only an operator can mend it.
    pub(crate) fn is_account(&self) -> bool {
        matches!(self, Self::Refused { code } if ACCOUNT_CODES.contains(&code.as_str()))
    }

    /// The code or reason, for logs.
    /// What it counts as.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::NotSent { reason, .. } if reason.starts_with("rate") => "limited",
            Self::NotSent { .. } => "not_sent",
            Self::Unanswered { .. } => "unknown",
            Self::Refused { .. } => "refused",
        }
    }

    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::NotSent { reason, .. } | Self::Unanswered { reason } => reason,
            Self::Refused { code } => code,
        }
    }
}

/// A code as Slack spells them; anything else is not passed on, since it might be somebody's text.
fn readable(code: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    if !code.is_empty() && code.len() <= 64 && code.bytes().all(plain) {
        code.to_owned()
    } else {
        "an_unreadable_code".to_owned()
    }
}

impl From<Failure> for DeliverError {
    fn from(failure: Failure) -> Self {
        let account = failure.is_account();
        match failure {
            Failure::NotSent { reason, retry_after } => Self::Temporary { reason, retry_after },
            Failure::Unanswered { reason } => Self::Unknown { reason },
            Failure::Refused { code } if account => Self::Account { code },
            Failure::Refused { code } => Self::Refused { code },
        }
    }
}

impl From<Failure> for HistoryError {
    fn from(failure: Failure) -> Self {
        let account = failure.is_account();
        match failure {
            Failure::NotSent { reason, retry_after } => Self::Unavailable { reason, retry_after },
            Failure::Unanswered { reason } => Self::Unavailable { reason, retry_after: None },
            // That our account is refused says nothing of the history.
            Failure::Refused { code } if account && code != "missing_scope" => {
                Self::Unavailable { reason: code, retry_after: None }
            }
            Failure::Refused { code } => Self::Refused { code },
        }
    }
}

impl From<Failure> for LookupError {
    fn from(failure: Failure) -> Self {
        let account = failure.is_account();
        match failure {
            Failure::NotSent { reason, .. } | Failure::Unanswered { reason } => Self::Unavailable { reason },
            // That our account is refused says nothing of the person.
            Failure::Refused { code } if account && code != "missing_scope" => Self::Unavailable { reason: code },
            Failure::Refused { code } => match code.as_str() {
                "user_not_found" | "user_not_visible" | "users_not_found" | "channel_not_found" => Self::NotFound,
                _ => Self::Forbidden { code },
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_statuses_to_outcomes() {
        let outcome = |failure: Failure| match DeliverError::from(failure) {
            DeliverError::Temporary { .. } => "temporary",
            DeliverError::Unknown { .. } => "unknown",
            DeliverError::Refused { .. } => "refused",
            DeliverError::Account { .. } => "account",
        };
        for (code, expected) in [
            ("ratelimited", "temporary"),
            ("fatal_error", "unknown"),
            ("internal_error", "unknown"),
            ("service_unavailable", "unknown"),
            ("invalid_auth", "account"),
            ("token_revoked", "account"),
            ("missing_scope", "account"),
            ("account_inactive", "account"),
            ("not_authed", "account"),
            ("is_archived", "refused"),
            ("not_in_channel", "refused"),
            ("msg_too_long", "refused"),
            ("a code of next year", "refused"),
        ] {
            assert_eq!(outcome(Failure::of_code(code)), expected, "{code}");
        }
        for (status, expected) in [
            (500, "unknown"),
            (503, "unknown"),
            (408, "unknown"),
            (413, "refused"),
            (407, "temporary"),
            (403, "temporary"),
            (302, "temporary"),
        ] {
            assert_eq!(outcome(Failure::of_status(status)), expected, "{status}");
        }
    }

    #[test]
    fn a_code_that_is_a_text_is_not_passed_on() {
        assert_eq!(Failure::of_code("the message was: hello").reason(), "an_unreadable_code");
    }
}
