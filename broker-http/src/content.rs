//! A body that a file may come with: JSON that is read as it arrives, one field of it onto the disk.
//!
//! Such a file stands within the JSON in base64, and may have 100 MB. Kept in memory it would be the broker's largest
//! possession, so the field is decoded while it arrives and written where files that are to be posted are kept.

use std::cell::Cell;
use std::io::{self, Cursor, Read, Write};
use std::rc::Rc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::read::DecoderReader;
use broker_core::engine::Door;
use broker_core::outgoing::Received;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use struson::reader::{JsonReader, JsonStreamReader, ReaderError, ValueType};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::body;
use crate::refusal::Refusal;
use crate::sessions::Sessions;

/// What most programs write, with the padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// After so many bytes it is looked again whether the disk has room for more.
const ROOM_EVERY: usize = 8 * 1024 * 1024;

/// The JSON object of a body without `field`, and the file that `field` was.
pub(crate) async fn object(
    headers: &HeaderMap,
    mut body: Body,
    field: &'static str,
    sessions: &Sessions,
    door: Door,
) -> Result<(Map<String, Value>, Option<Received>), Refusal> {
    let limits = sessions.limits;
    let (most, rest) = (limits.file_body_bytes, limits.body_bytes as u64);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|declared| declared > most) {
        body::throw_away(body).await;
        return Err(Refusal::BodyTooLarge);
    }
    let beginning = timeout(limits.body, body::beginning(&mut body, limits.body_bytes));
    let (beginning, whole) = beginning.await.unwrap_or(Err(Refusal::BodyTooSlow))?;
    let parsed = if whole {
        tokio::task::spawn_blocking(move || parse(Cursor::new(beginning), field, (rest, most), &door))
    } else {
        let place = sessions.file_bodies.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
        let until = Instant::now() + limits.file_body;
        let frames = stream::unfold(body, move |mut body| async move {
            loop {
                let data = match timeout_at(until, body.frame()).await {
                    Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
                    Ok(None) => return None,
                    Ok(Some(Err(_))) => Err(io::ErrorKind::ConnectionAborted.into()),
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => Ok(data),
                        Err(_) => continue,
                    },
                };
                return Some((data, body));
            }
        });
        let frames = SyncIoBridge::new(StreamReader::new(Box::pin(frames)));
        tokio::task::spawn_blocking(move || {
            let _place = place;
            parse(Cursor::new(beginning).chain(frames), field, (rest, most), &door)
        })
    };
    parsed.await.unwrap_or(Err(Refusal::OutcomeUnknown))
}

/// Reads as much as is left, and remembers why it could not: what reads from it has words of its own for that.
struct Bounded<R> {
    input: R,
    left: Rc<Cell<u64>>,
    trouble: Rc<Cell<Option<io::ErrorKind>>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer).and_then(|read| {
            let left = self.left.get().checked_sub(read as u64).ok_or(io::ErrorKind::FileTooLarge)?;
            self.left.set(left);
            Ok(read)
        });
        read.inspect_err(|error| self.trouble.set(Some(error.kind())))
    }
}

/// Base64 as people's tools give it: in lines, or of the other alphabet.
struct Plain<R>(R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.0.read(buffer)?;
            let mut kept = 0;
            for at in 0..read {
                let byte = match buffer[at] {
                    b'-' => b'+',
                    b'_' => b'/',
                    byte if byte.is_ascii_whitespace() => continue,
                    byte => byte,
                };
                buffer[kept] = byte;
                kept += 1;
            }
            // Nothing means the end, and spaces are none.
            if kept > 0 || read == 0 {
                return Ok(kept);
            }
        }
    }
}

/// Reads the object. `rest` bounds everything but the field, `most` the field. Blocks.
fn parse(
    mut input: impl Read,
    field: &str,
    (rest, most): (u64, u64),
    door: &Door,
) -> Result<(Map<String, Value>, Option<Received>), Refusal> {
    let (left, trouble) = (Rc::new(Cell::new(rest)), Rc::new(Cell::new(None)));
    let bounded = Bounded { input: &mut input, left: Rc::clone(&left), trouble: Rc::clone(&trouble) };
    let parsed = fields(bounded, field, most, &left, door);
    let refusal = match trouble.get() {
        None => return parsed,
        Some(io::ErrorKind::TimedOut) => return Err(Refusal::BodyTooSlow),
        Some(io::ErrorKind::FileTooLarge) => Refusal::BodyTooLarge,
        Some(_) => return Err(Refusal::Malformed("the body broke off".to_owned())),
    };
    drop(parsed);
    // Whoever is still sending hears the answer, unless that takes longer.
    let (since, mut thrown_away) = (Instant::now(), vec![0; 64 * 1024]);
    while since.elapsed() < body::LINGER && input.read(&mut thrown_away).is_ok_and(|read| read > 0) {}
    Err(refusal)
}

fn fields(
    mut input: impl Read,
    field: &str,
    most: u64,
    left: &Cell<u64>,
    door: &Door,
) -> Result<(Map<String, Value>, Option<Received>), Refusal> {
    let mut first = [0];
    if input.read(&mut first).map_err(|error| not_json(&error))? == 0 {
        return Ok((Map::new(), None));
    }
    let input = Cursor::new(first).chain(input);
    let mut json = JsonStreamReader::new(input);
    if json.peek().map_err(wrong)? != ValueType::Object {
        return Err(Refusal::Malformed("the body has to be a JSON object".to_owned()));
    }
    let (mut object, mut received) = (Map::new(), None);
    json.begin_object().map_err(wrong)?;
    while json.has_next().map_err(wrong)? {
        let name = json.next_name_owned().map_err(wrong)?;
        if name != field {
            object.insert(name, json.deserialize_next().map_err(|error| not_json(&error))?);
            continue;
        }
        match json.peek().map_err(wrong)? {
            ValueType::Null => json.next_null().map_err(wrong)?,
            ValueType::String if received.is_none() => {
                let others = left.replace(most);
                let content = json.next_string_reader().map_err(wrong)?;
                received = Some(write(content, field, door)?);
                left.set(others);
            }
            ValueType::String => return Err(invalid(field, "stands there twice")),
            _ => return Err(invalid(field, "has to be a text")),
        }
    }
    json.end_object().map_err(wrong)?;
    json.consume_trailing_whitespace().map_err(wrong)?;
    Ok((object, received))
}

/// Decodes a field onto the disk. Blocks.
fn write(content: impl Read, field: &str, door: &Door) -> Result<Received, Refusal> {
    let disk = |error: io::Error| {
        let message = format!("what came could not be written down: {}", error.kind());
        Refusal::own(StatusCode::SERVICE_UNAVAILABLE, "failed", message)
    };
    let (received, mut file) = door.receive().map_err(disk)?;
    let mut decoder = DecoderReader::new(Plain(content), &BASE64);
    let mut buffer = vec![0; 64 * 1024];
    let mut unlooked = ROOM_EVERY;
    loop {
        let read = decoder.read(&mut buffer).map_err(|error| match error.get_ref() {
            Some(inner) if inner.is::<base64::DecodeError>() => invalid(field, "is not base64"),
            _ => not_json(&error),
        })?;
        if read == 0 {
            break;
        }
        unlooked += read;
        if unlooked > ROOM_EVERY {
            unlooked = 0;
            if !received.has_room() {
                let message = "the broker's disk has no room for the file; tell a person".to_owned();
                return Err(Refusal::own(StatusCode::INSUFFICIENT_STORAGE, "no_room", message));
            }
        }
        file.write_all(&buffer[..read]).map_err(disk)?;
    }
    file.sync_data().map_err(disk)?;
    Ok(received)
}

fn invalid(field: &str, what: &str) -> Refusal {
    Refusal::own(StatusCode::BAD_REQUEST, format!("invalid_{field}"), format!("`{field}` {what}; nothing was posted"))
}

fn wrong(error: ReaderError) -> Refusal {
    not_json(&error)
}

fn not_json(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::Malformed(format!("the body is not JSON: {error}"))
}
