//! The app-server's messages: JSON-RPC 2.0 without the `jsonrpc` field, one object on a line.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// The longest line that is read. The longest measured are pages of items with command outputs of 1 MiB each.
pub(crate) const MAX_LINE: usize = 64 * 1024 * 1024;

/// How much of an error's message is kept at its beginning, and at its end: the refusal of an unknown method lists all others, about 6 kB.
const MAX_MESSAGE: usize = 600;

/// A message from the app-server. Payloads stay raw until somebody asks for them: most are deltas that nobody does.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The answer to a request of ours.
    Response { id: u64, outcome: Result<Box<RawValue>, RemoteError> },
    /// A question to us.
    Request { id: Value, method: String, params: Box<RawValue> },
    /// Something that happened.
    Notification { method: String, params: Box<RawValue> },
}

/// What the app-server answered instead of a result. Nearly all carry -32600, so the message tells them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteError {
    pub(crate) code: i64,
    pub(crate) message: String,
}

impl RemoteError {
    /// Whether the message contains `words`, in any case.
    pub(crate) fn says(&self, words: &str) -> bool {
        self.message.to_lowercase().contains(&words.to_lowercase())
    }

    /// The queue in front of the app-server is full; it did nothing.
    pub(crate) fn is_overload(&self) -> bool {
        self.code == -32001 || self.says("server overloaded")
    }
}

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    id: Option<Value>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    params: Option<Box<RawValue>>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

/// Why a line is not a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("not a JSON object ({0})")]
    Json(#[from] serde_json::Error),
    #[error("neither a request, a response nor a notification")]
    Shape,
}

/// Reads one line.
pub(crate) fn decode(line: &[u8]) -> Result<Incoming, DecodeError> {
    let envelope: Envelope = serde_json::from_slice(line)?;
    match (envelope.method, envelope.id) {
        (Some(method), id) => {
            let params = envelope.params.map_or_else(empty, Ok)?;
            Ok(match id {
                None | Some(Value::Null) => Incoming::Notification { method, params },
                Some(id) => Incoming::Request { id, method, params },
            })
        }
        // We number our requests ourselves, so an answer to anything else is not ours.
        (None, Some(id)) => {
            let id = id.as_u64().ok_or(DecodeError::Shape)?;
            let outcome = match envelope.error {
                Some(failure) => Err(RemoteError { code: failure.code, message: clip(&failure.message) }),
                None => Ok(envelope.result.map_or_else(null, Ok)?),
            };
            Ok(Incoming::Response { id, outcome })
        }
        (None, None) => Err(DecodeError::Shape),
    }
}

fn empty() -> Result<Box<RawValue>, serde_json::Error> {
    RawValue::from_string("{}".to_owned())
}

fn null() -> Result<Box<RawValue>, serde_json::Error> {
    RawValue::from_string("null".to_owned())
}

/// A message whose beginning and end are kept: what went wrong stands at the end of some, behind paths.
pub(crate) fn clip(text: &str) -> String {
    let count = text.chars().count();
    if count <= 2 * MAX_MESSAGE {
        return text.to_owned();
    }
    let (head, tail) = (text.chars().take(MAX_MESSAGE), text.chars().skip(count - MAX_MESSAGE));
    head.chain(['…']).chain(tail).collect()
}

/// One message as a line. Always valid UTF-8: anything else would end the app-server.
pub(crate) fn encode(message: &Value) -> Vec<u8> {
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Reads one line, without its end, into `line`. `Ok(false)` at the end of the stream.
///
/// # Errors
///
/// When reading fails, or the line is longer than `limit` bytes.
pub(crate) async fn read_line<R>(reader: &mut R, line: &mut Vec<u8>, limit: usize) -> std::io::Result<bool>
where
    R: AsyncBufRead + Unpin,
{
    line.clear();
    loop {
        let chunk = reader.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        if line.len() + taken > limit {
            return Err(std::io::Error::other(format!("a line is longer than {limit} bytes")));
        }
        line.extend_from_slice(&chunk[..taken]);
        let used = end.map_or(taken, |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_kinds_are_told_apart() {
        // As Codex 0.169.0 writes them.
        let line = br#"{"id":3,"result":{"turn":{"id":"t"}}}"#;
        assert!(matches!(decode(line), Ok(Incoming::Response { id: 3, outcome: Ok(_) })));
        let line = br#"{"id":4,"error":{"code":-32001,"message":"Server overloaded; retry later."}}"#;
        let Ok(Incoming::Response { id: 4, outcome: Err(error) }) = decode(line) else { panic!("an error") };
        assert!(error.is_overload());
        let line = br#"{"method":"item/tool/call","id":0,"params":{"tool":"post"}}"#;
        assert!(matches!(decode(line), Ok(Incoming::Request { .. })));
        let line = br#"{"method":"turn/started","params":{},"emittedAtMs":1}"#;
        assert!(matches!(decode(line), Ok(Incoming::Notification { .. })));
        assert!(matches!(decode(br#"{"method":"x"}"#), Ok(Incoming::Notification { .. })));
    }

    #[test]
    fn what_is_no_message_is_an_error_and_not_a_panic() {
        for line in
            [&b""[..], b"hello", b"[]", b"{}", b"{\"id\":\"x\"}", b"{\"id\":1.5}", b"\xff\xfe", b"{\"method\":7}"]
        {
            assert!(decode(line).is_err(), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_long_message_is_clipped_on_a_character() {
        let clipped = clip(&"ä".repeat(2000));
        assert_eq!(clipped.chars().count(), 2 * MAX_MESSAGE + 1);
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let mut reader = tokio::io::BufReader::with_capacity(4, &b"abc\n\ndefgh\nno end"[..]);
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while read_line(&mut reader, &mut line, 8).await.expect("short lines") {
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
        assert_eq!(lines, ["abc", "", "defgh", "no end"]);
        let mut reader = tokio::io::BufReader::with_capacity(4, &b"123456789\n"[..]);
        assert!(read_line(&mut reader, &mut line, 8).await.is_err());
    }
}
