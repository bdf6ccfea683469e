//! The body of a request: JSON, of a bounded size, within a bounded time.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::fields;
use crate::refusal::Refusal;

/// How long a body that is too large is read on and thrown away, so that whoever is still sending hears the answer.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Whether the headers promise JSON. A web page can send nothing of that type without asking first.
pub(crate) fn promises_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(Ok(given)), None) = (types.next().map(|value| value.to_str()), types.next()) else { return false };
    let mut parts = given.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    json && parts.all(|parameter| parameter.eq_ignore_ascii_case("charset=utf-8"))
}

/// The JSON object of a body; an empty body is an empty one.
pub(crate) async fn object(body: Body, most: usize, limit: Duration) -> Result<Map<String, Value>, Refusal> {
    let bytes = timeout(limit, bytes(body, most)).await.unwrap_or(Err(Refusal::BodyTooSlow))?;
    // A megabyte takes longer than an async thread may be kept.
    let read = tokio::task::spawn_blocking(move || fields::read(bytes.as_slice(), None)).await;
    read.unwrap_or(Err(Refusal::OutcomeUnknown))
}

async fn bytes(mut body: Body, most: usize) -> Result<Vec<u8>, Refusal> {
    let (bytes, whole) = beginning(&mut body, most).await?;
    if whole {
        return Ok(bytes);
    }
    drop(bytes);
    throw_away(body).await;
    Err(Refusal::BodyTooLarge)
}

/// Reads what is left. Whoever sends on for longer than that is waited for sees the connection end.
pub(crate) async fn throw_away(mut body: Body) {
    let _ = timeout(LINGER, async { while let Some(Ok(_)) = body.frame().await {} }).await;
}

/// The beginning of a body: the whole of it if it has at most so many bytes, and one frame more than these otherwise.
pub(crate) async fn beginning(body: &mut Body, most: usize) -> Result<(Vec<u8>, bool), Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::Malformed("the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > most {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}
