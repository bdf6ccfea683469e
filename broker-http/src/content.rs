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
use sha2::{Digest, Sha256};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::body;
use crate::fields::{self, Apart, not_json};
use crate::refusal::Refusal;
use crate::sessions::Sessions;

/// What most programs write, with the padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// After so many bytes it is looked again whether the disk has room for more.
const ROOM_EVERY: usize = 8 * 1024 * 1024;

/// A file that came with a request.
pub(crate) struct Content {
    pub(crate) received: Received,
    /// What it holds: the same for the same bytes.
    pub(crate) digest: [u8; 32],
}

/// The JSON object of a body without `field`, and the file that `field` was.
pub(crate) async fn object(
    headers: &HeaderMap,
    mut body: Body,
    field: &'static str,
    sessions: &Sessions,
    door: Door,
) -> Result<(Map<String, Value>, Option<Content>), Refusal> {
    let limits = sessions.limits;
    let (most, rest) = (limits.file_body_bytes, limits.body_bytes as u64);
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|declared| declared > most) {
        body::throw_away(body).await;
        return Err(Refusal::BodyTooLarge);
    }
    let (beginning, whole) = if declared.is_some_and(|declared| declared > rest) {
        // It takes one of the few places from its first byte on, and has the time of a large one.
        (Vec::new(), false)
    } else {
        let beginning = timeout(limits.body, body::beginning(&mut body, limits.body_bytes));
        beginning.await.unwrap_or(Err(Refusal::BodyTooSlow))?
    };
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
    field: &'static str,
    (rest, most): (u64, u64),
    door: &Door,
) -> Result<(Map<String, Value>, Option<Content>), Refusal> {
    let (left, trouble) = (Rc::new(Cell::new(rest)), Rc::new(Cell::new(None)));
    let bounded = Bounded { input: &mut input, left: Rc::clone(&left), trouble: Rc::clone(&trouble) };
    let mut content = None;
    let mut onto_disk = |coming: &mut dyn Read| {
        let others = left.replace(most);
        content = Some(write(coming, field, door)?);
        left.set(others);
        Ok(())
    };
    let read = fields::read(bounded, Some(Apart { name: field, read: &mut onto_disk }));
    let refusal = match (read, trouble.get()) {
        (Ok(object), None) => return Ok((object, content)),
        (Err(refusal), None) => refusal,
        (_, Some(io::ErrorKind::FileTooLarge)) => Refusal::BodyTooLarge,
        (_, Some(io::ErrorKind::TimedOut)) => return Err(Refusal::BodyTooSlow),
        (_, Some(_)) => return Err(Refusal::Malformed("the body broke off".to_owned())),
    };
    drop(content);
    // Whoever is still sending hears the answer, unless that takes longer.
    let (since, mut thrown_away) = (Instant::now(), vec![0; 64 * 1024]);
    while since.elapsed() < body::LINGER && input.read(&mut thrown_away).is_ok_and(|read| read > 0) {}
    Err(refusal)
}

/// Decodes a field onto the disk. Blocks.
fn write(content: &mut dyn Read, field: &str, door: &Door) -> Result<Content, Refusal> {
    let disk = |error: io::Error| {
        let message = format!("what came could not be written down: {}", error.kind());
        Refusal::own(StatusCode::SERVICE_UNAVAILABLE, "failed", message)
    };
    let (received, mut file) = door.receive().map_err(disk)?;
    let mut digest = Sha256::new();
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
        digest.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(disk)?;
    }
    file.sync_data().map_err(disk)?;
    Ok(Content { received, digest: digest.finalize().into() })
}

fn invalid(field: &str, what: &str) -> Refusal {
    Refusal::own(StatusCode::BAD_REQUEST, format!("invalid_{field}"), format!("`{field}` {what}; nothing was posted"))
}
