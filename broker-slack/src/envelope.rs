//! The little that must be known of a frame before it can be committed and acknowledged.
//!
//! Only `envelope_id`, `type`, `retry_attempt` and `payload.event_id` are read, by a scanner of our own rather than a
//! JSON parser: it needs no memory, has no limit of depth, and finds them also in a frame that breaks off or is broken
//! further on.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use broker_core::chat::RawEnvelope;
use broker_core::clock::Timestamp;

/// Raw bytes kept of one frame. Slack's own payloads stay below a megabyte.
pub(crate) const MAX_STORED: usize = 4 << 20;
/// The longest id that is used as it came, in bytes; Slack's have at most 36.
const MAX_ID: usize = 200;

/// Tells frames without any id apart that came in the same millisecond.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// What was found at the head of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// What the acknowledgement names.
    pub(crate) envelope_id: Option<String>,
    /// The kind of frame.
    pub(crate) kind: Option<String>,
    /// How often Slack had delivered it before.
    pub(crate) retry_attempt: u32,
    /// The event that it carries.
    pub(crate) event_id: Option<String>,
}

impl Head {
    /// Whether the frame speaks of the connection itself; such frames are no envelopes and never reach the journal.
    pub(crate) fn is_about_the_link(&self) -> bool {
        self.envelope_id.is_none() && matches!(self.kind.as_deref(), Some("hello" | "disconnect"))
    }

    /// The envelope as it is committed, and whether its raw bytes had to be cut.
    pub(crate) fn envelope(&self, mut raw: Vec<u8>, received_at: Timestamp) -> (RawEnvelope, bool) {
        let key = match (&self.event_id, &self.envelope_id) {
            (Some(event), _) => format!("event:{}", bounded(event)),
            (None, Some(envelope)) => format!("envelope:{}", bounded(envelope)),
            (None, None) => {
                let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
                format!("frame:{:016x}-{}-{}-{sequence}", digest(&raw), raw.len(), received_at.as_millis())
            }
        };
        let cut = raw.len() > MAX_STORED;
        raw.truncate(MAX_STORED);
        let kind = self.kind.as_deref().map_or_else(|| "unknown".to_owned(), bounded);
        (RawEnvelope { key, kind, retry_attempt: self.retry_attempt, received_at, raw }, cut)
    }
}

fn bounded(id: &str) -> String {
    if id.len() <= MAX_ID { id.to_owned() } else { format!("{:016x}-{}", digest(id.as_bytes()), id.len()) }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Reads the head of a frame, whatever its bytes.
pub(crate) fn read(raw: &[u8]) -> Head {
    let mut head = Head::default();
    let mut scanner = Scanner { raw, at: 0 };
    let mut depth = 0_usize;
    // The keys whose values are being read: at the top level, and one level below it.
    let (mut outer, mut inner): (&[u8], &[u8]) = (b"", b"");
    while let Some(token) = scanner.next() {
        if depth == 0 && token != Token::Open {
            break;
        }
        match token {
            Token::Open => depth += 1,
            Token::Close => depth -= 1,
            Token::Key(key) if depth == 1 => outer = key,
            Token::Key(key) if depth == 2 => inner = key,
            Token::Key(_) => {}
            Token::Value(value) if depth == 1 => match outer {
                b"envelope_id" => keep(&mut head.envelope_id, value),
                b"type" => keep(&mut head.kind, value),
                b"retry_attempt" => head.retry_attempt = plain(value).and_then(|it| it.parse().ok()).unwrap_or(0),
                _ => {}
            },
            Token::Value(value) if depth == 2 && outer == b"payload" && inner == b"event_id" => {
                keep(&mut head.event_id, value);
            }
            Token::Value(_) => {}
        }
    }
    head
}

/// Keeps the first usable text; a later one of the same name changes nothing.
fn keep(place: &mut Option<String>, value: &[u8]) {
    if place.is_none() && value.first() == Some(&b'"') {
        *place = plain(value).filter(|text| !text.is_empty());
    }
}

/// A scalar as text: a string without quotes and escapes, anything else as it stands.
fn plain(value: &[u8]) -> Option<String> {
    if value.first() != Some(&b'"') {
        return std::str::from_utf8(value).ok().map(str::to_owned);
    }
    serde_json::from_slice(value).ok()
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    /// A string that a colon follows, without its quotes.
    Key(&'a [u8]),
    /// A scalar, a string with its quotes.
    Value(&'a [u8]),
}

struct Scanner<'a> {
    raw: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let start = self.at;
            match *self.raw.get(start)? {
                b'{' | b'[' => {
                    self.at += 1;
                    return Some(Token::Open);
                }
                b'}' | b']' => {
                    self.at += 1;
                    return Some(Token::Close);
                }
                b'"' => return self.string(),
                b',' | b':' | b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                _ => {
                    let length = self.raw[start..].iter().position(|byte| b"{}[],:\" \t\r\n".contains(byte));
                    self.at = length.map_or(self.raw.len(), |length| start + length);
                    return Some(Token::Value(&self.raw[start..self.at]));
                }
            }
        }
    }

    /// A string from its opening quote; nothing when the frame ends within it.
    fn string(&mut self) -> Option<Token<'a>> {
        let start = self.at;
        let mut at = start + 1;
        loop {
            match *self.raw.get(at)? {
                b'"' => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.at = at + 1;
        let next = self.raw[self.at..].iter().find(|byte| !byte.is_ascii_whitespace());
        Some(match next {
            Some(b':') => Token::Key(&self.raw[start + 1..at]),
            _ => Token::Value(&self.raw[start..=at]),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FULL: &str = r#"{"envelope_id":"e-1","payload":{"token":"x","team_id":"T1","event":{"type":"message",
        "event_id":"inner","text":"\"envelope_id\":\"no\" {[","blocks":[{"type":"rich_text"}]},"type":"event_callback",
        "event_id":"Ev1","event_time":1},"type":"events_api","accepts_response_payload":false,"retry_attempt":2,
        "retry_reason":"timeout"}"#;

    fn head(envelope: Option<&str>, kind: Option<&str>, retry_attempt: u32, event: Option<&str>) -> Head {
        Head {
            envelope_id: envelope.map(str::to_owned),
            kind: kind.map(str::to_owned),
            retry_attempt,
            event_id: event.map(str::to_owned),
        }
    }

    #[test]
    fn heads_of_every_shape() {
        let deep = format!(r#"{{"envelope_id":"e","payload":{}"#, "[".repeat(100_000));
        for (raw, expected) in [
            (FULL, head(Some("e-1"), Some("events_api"), 2, Some("Ev1"))),
            // Cut before the end: what came is known.
            (&FULL[..FULL.len() - 120], head(Some("e-1"), None, 0, Some("Ev1"))),
            (&FULL[..60], head(Some("e-1"), None, 0, None)),
            (r#"{"envelope_id":"e-1"#, Head::default()),
            (r#"{"type":"hello","num_connections":1}"#, head(None, Some("hello"), 0, None)),
            (r#"{ "type" : "x" , "retry_attempt" : "3" }"#, head(None, Some("x"), 3, None)),
            (r#"{"envelope_id":7,"type":null,"retry_attempt":"many"}"#, Head::default()),
            (r#"{"envelope_id":"\u0041\n"}"#, head(Some("A\n"), None, 0, None)),
            (r#"{"payload":["event_id","Ev9"],"event_id":"Ev8"}"#, Head::default()),
            (r#"{"payload":"event_id","type":"t"}"#, head(None, Some("t"), 0, None)),
            (r#"[{"envelope_id":"e"}]"#, Head::default()),
            (r#""envelope_id":"e""#, Head::default()),
            ("", Head::default()),
            ("not json", Head::default()),
            (deep.as_str(), head(Some("e"), None, 0, None)),
        ] {
            assert_eq!(read(raw.as_bytes()), expected, "{}", &raw[..raw.len().min(80)]);
        }
    }

    #[test]
    fn a_redelivery_has_the_key_of_the_first_delivery() {
        let at = Timestamp::from_millis(5);
        let key = |raw: &str| read(raw.as_bytes()).envelope(raw.as_bytes().to_vec(), at).0.key;
        assert_eq!(key(FULL), "event:Ev1");
        assert_eq!(key(r#"{"envelope_id":"e-2","payload":{"event_id":"Ev1"}}"#), "event:Ev1");
        assert_eq!(key(r#"{"envelope_id":"e-2","type":"interactive"}"#), "envelope:e-2");
        assert_ne!(key("broken"), key("broken"));
        let long = format!(r#"{{"envelope_id":"{}"}}"#, "e".repeat(1000));
        assert!(key(&long).len() < 100);
    }

    #[test]
    fn what_is_too_long_is_cut() {
        let raw = vec![b'x'; MAX_STORED + 1];
        let (envelope, cut) = read(&raw).envelope(raw, Timestamp::from_millis(0));
        assert!(cut);
        assert_eq!(envelope.raw.len(), MAX_STORED);
        assert_eq!(envelope.kind, "unknown");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let head = read(&raw);
            let _ = head.envelope(raw, Timestamp::from_millis(0));
        }

        #[test]
        fn no_cut_makes_it_panic_or_lie(end in 0..FULL.len()) {
            let head = read(&FULL.as_bytes()[..end]);
            prop_assert!(head.envelope_id.is_none_or(|id| id == "e-1"));
            prop_assert!(head.event_id.is_none_or(|id| id == "Ev1"));
        }
    }
}
