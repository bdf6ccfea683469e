//! Slack's `ts`: seconds and microseconds as text, at once a message's time and its id within a conversation.

use broker_core::chat::ChatTime;

/// The moment that a `ts` such as `1700000000.000100` names; absent for any other text.
pub(crate) fn time(text: &str) -> Option<ChatTime> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let seconds: u64 = seconds.parse().ok()?;
    let micros: u64 = micros.parse().ok()?;
    seconds.checked_mul(1_000_000)?.checked_add(micros).map(ChatTime::from_micros)
}

/// The `ts` of a moment.
pub(crate) fn text(time: ChatTime) -> String {
    let micros = time.as_micros();
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ts_is_microseconds() {
        for (given, micros) in [
            ("1700000000.000100", Some(1_700_000_000_000_100)),
            ("1700000000.1", Some(1_700_000_000_100_000)),
            ("1700000000", Some(1_700_000_000_000_000)),
            ("1700000000.1234567", Some(1_700_000_000_123_456)),
            ("0.000001", Some(1)),
            ("", None),
            (".5", None),
            ("-1.0", None),
            ("1e9", None),
            ("99999999999999999999.0", None),
            ("18446744073709551.0", None),
            ("17.00 01", None),
        ] {
            assert_eq!(time(given).map(ChatTime::as_micros), micros, "{given}");
        }
        assert_eq!(text(ChatTime::from_micros(1_700_000_000_000_100)), "1700000000.000100");
    }
}
