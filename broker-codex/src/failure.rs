//! Why a turn failed: Codex's `codexErrorInfo`, by what a person can do about it.

use broker_core::agent::FailureCause;
use serde_json::Value;

/// The cause behind a `codexErrorInfo`: a word, or an object with one key. The set is open: what is new is `Other`.
pub(crate) fn cause(info: &Value) -> FailureCause {
    match info {
        Value::String(word) => of_word(word),
        Value::Object(object) => match object.iter().next() {
            Some((word, detail)) => match detail.get("httpStatusCode").and_then(Value::as_u64) {
                Some(status) => of_status(status),
                None => of_word(word),
            },
            None => FailureCause::Other,
        },
        _ => FailureCause::Other,
    }
}

fn of_word(word: &str) -> FailureCause {
    match word {
        "usageLimitExceeded" | "sessionBudgetExceeded" => FailureCause::UsageLimit,
        "unauthorized" => FailureCause::Auth,
        "contextWindowExceeded" => FailureCause::ContextWindow,
        "rateLimitExceeded" | "serverOverloaded" | "flexUnavailable" | "policyCapacityUnavailable" => {
            FailureCause::Overloaded
        }
        "internalServerError"
        | "httpConnectionFailed"
        | "responseStreamConnectionFailed"
        | "responseStreamDisconnected"
        | "responseTooManyFailedAttempts" => FailureCause::Unreachable,
        "cyberPolicy" | "misalignmentPolicyViolation" | "inferenceHookDenied" => FailureCause::Policy,
        _ => FailureCause::Other,
    }
}

fn of_status(status: u64) -> FailureCause {
    match status {
        401 | 403 => FailureCause::Auth,
        429 => FailureCause::Overloaded,
        _ => FailureCause::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_measured_shapes_have_their_causes() {
        let table = [
            (json!("usageLimitExceeded"), FailureCause::UsageLimit),
            (json!("contextWindowExceeded"), FailureCause::ContextWindow),
            (json!("serverOverloaded"), FailureCause::Overloaded),
            (json!("internalServerError"), FailureCause::Unreachable),
            (json!("cyberPolicy"), FailureCause::Policy),
            (json!({"httpConnectionFailed": {"httpStatusCode": 401}}), FailureCause::Auth),
            (json!({"httpConnectionFailed": {"httpStatusCode": 503}}), FailureCause::Unreachable),
            (json!({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}), FailureCause::Overloaded),
            (json!({"responseStreamDisconnected": {"httpStatusCode": null}}), FailureCause::Unreachable),
            (json!("other"), FailureCause::Other),
            (json!("somethingNew"), FailureCause::Other),
            (json!({"somethingNew": 1}), FailureCause::Other),
            (json!({}), FailureCause::Other),
            (json!(null), FailureCause::Other),
        ];
        for (info, expected) in table {
            assert_eq!(cause(&info), expected, "{info}");
        }
    }
}
