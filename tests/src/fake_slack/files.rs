//! Files: those that people share, and the three steps in which an app uploads one.
//! After <https://docs.slack.dev/messaging/working-with-files> and <https://docs.slack.dev/reference/objects/file-object>.

use std::io;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faults::Trouble;
use super::state::{Call, State};
use super::web_api::{self, Answer, Args};
use super::{APP_TOKEN, BOT_TOKEN, FakeSlack, Shared, TEAM, events};
use crate::wire::{Body, Dropped, full, pieces, response};

/// What an app without `files:read` is shown in place of a file.
const SIGN_IN: &str = "<!DOCTYPE html><html><head><title>Sign in | Slack</title></head><body>Sign in</body></html>";

/// What Slack hands out for a file.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes, made up on the way.
    Many(u64),
    /// These bytes, after a redirect to another host, which must not see the token.
    Elsewhere(Vec<u8>),
    /// The first of these bytes, and then the connection breaks.
    Broken(Vec<u8>),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) | Self::Elsewhere(bytes) => bytes.len() as u64,
            Self::Broken(bytes) => bytes.len() as u64 + 1000,
            Self::Many(count) => *count,
        }
    }
}

/// A file that somebody shares.
#[derive(Debug, Clone)]
pub struct SharedFile {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// What it holds.
    pub content: Content,
    /// Whether events show nothing of it but its id, as with files of other organisations.
    pub stub: bool,
}

impl SharedFile {
    /// A file with these bytes.
    pub fn new(name: &str, media_type: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let (name, media_type) = (name.to_owned(), media_type.to_owned());
        Self { name, media_type, content: Content::Bytes(bytes.into()), stub: false }
    }
}

/// A file as the workspace holds it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) object: Value,
    content: Content,
}

/// An upload on its way, or done.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The id of the file.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How many bytes were announced.
    pub announced: u64,
    /// How many came.
    pub received: Option<u64>,
    /// What came, of a file of at most 64 KiB.
    pub bytes: Vec<u8>,
    /// The [`sum`] of all that came.
    pub sum: u64,
    /// The alternative text.
    pub alt_text: Option<String>,
    /// The type of a snippet.
    pub snippet_type: Option<String>,
    /// How often it was completed.
    pub completed: usize,
}

/// The sum of no bytes.
pub const EMPTY_SUM: u64 = 0xcbf2_9ce4_8422_2325;

/// Goes on with a sum over bytes (64-bit FNV-1a), so that large files can be compared without being held.
pub fn sum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl FakeSlack {
    /// Somebody shares files, in a thread or at the top level; returns the message's `ts`.
    pub fn share(&self, channel: &str, root: Option<&str>, user: &str, text: &str, files: &[SharedFile]) -> String {
        let address = self.shared.address();
        let mut fields = self.human(user, text);
        let listed = self.shared.state.change(|state| {
            let shared = files.iter().map(|file| state.store_file(user, file, &address.to_string()));
            shared.collect::<Vec<_>>()
        });
        fields.insert("subtype".to_owned(), json!("file_share"));
        fields.insert("files".to_owned(), json!(listed));
        fields.insert("upload".to_owned(), json!(false));
        self.add(channel, root, fields, true)
    }

    /// The same with one message that an event tells nothing of: it stands in the history alone.
    pub fn seed_file(&self, channel: &str, root: Option<&str>, user: &str, text: &str, file: &SharedFile) -> String {
        let address = self.shared.address().to_string();
        let mut fields = self.human(user, text);
        let listed = self.shared.state.change(|state| state.store_file(user, file, &address));
        fields.insert("subtype".to_owned(), json!("file_share"));
        fields.insert("files".to_owned(), json!([listed]));
        self.add(channel, root, fields, false)
    }
}

impl State {
    /// How often files were asked for.
    pub fn downloads(&self) -> usize {
        self.downloads
    }

    /// The uploads so far.
    pub fn uploads(&self) -> &[Upload] {
        &self.uploads
    }

    /// The second step of an upload, as if it were a method.
    fn count_upload(&mut self, outcome: &str) {
        let (method, args, outcome) = ("upload".to_owned(), Map::new(), outcome.to_owned());
        self.calls.push(Call { method, args, at: Instant::now(), outcome });
    }

    fn store_file(&mut self, user: &str, file: &SharedFile, address: &str) -> Value {
        let id = format!("F0FILE{:05}", self.number());
        let url = format!("http://{address}/files-pri/{TEAM}-{id}/{}", file.name.replace(' ', "_"));
        let object = json!({
            "id": id,
            "created": 1_700_000_000,
            "timestamp": 1_700_000_000,
            "name": file.name,
            "title": file.name,
            "mimetype": file.media_type,
            "filetype": file.name.rsplit('.').next(),
            "pretty_type": "File",
            "user": user,
            "user_team": TEAM,
            "editable": false,
            "size": file.content.len(),
            "mode": "hosted",
            "is_external": false,
            "external_type": "",
            "is_public": true,
            "public_url_shared": false,
            "display_as_bot": false,
            "username": "",
            "url_private": url,
            "url_private_download": url.replace(&format!("{id}/"), &format!("{id}/download/")),
            "permalink": format!("https://broker-test.slack.com/files/{user}/{id}/x"),
            "has_rich_preview": false,
            "file_access": "visible"
        });
        self.files.insert(id.clone(), Stored { object: object.clone(), content: file.content.clone() });
        if file.stub { json!({ "id": id, "mode": "file_access", "file_access": "check_file_info" }) } else { object }
    }
}

/// After <https://docs.slack.dev/reference/methods/files.info>.
pub(super) fn info(state: &State, args: &mut Args) -> Answer {
    if !state.scopes.iter().any(|scope| scope == "files:read") {
        return Err("missing_scope");
    }
    let Some(id) = args.text("file") else { return Err("file_not_found") };
    let stored = state.files.get(&id).ok_or("file_not_found")?;
    Ok(json!({ "file": stored.object, "comments": [], "response_metadata": { "next_cursor": "" } }))
}

/// The first step, after <https://docs.slack.dev/reference/methods/files.getUploadURLExternal>: by query or form alone.
pub(super) fn upload_url(state: &mut State, address: &str, args: &mut Args) -> Answer {
    let (name, length) = (args.text("filename"), args.number("length"));
    let (Some(name), Some(length)) = (name, length) else { return Err("invalid_arguments") };
    if length == 0 {
        return Err("invalid_arguments");
    }
    let id = format!("F0SENT{:05}", state.number());
    state.uploads.push(Upload {
        id: id.clone(),
        name,
        announced: length as u64,
        received: None,
        bytes: Vec::new(),
        sum: EMPTY_SUM,
        alt_text: args.text("alt_txt"),
        snippet_type: args.text("snippet_type"),
        completed: 0,
    });
    Ok(json!({ "upload_url": format!("http://{address}/upload/v1/{id}"), "file_id": id }))
}

/// The third step, after <https://docs.slack.dev/reference/methods/files.completeUploadExternal>.
pub(super) fn complete(state: &mut State, args: &mut Args) -> Answer {
    let Some(files) = args.structure("files") else { return Err("invalid_arguments") };
    let (channel, thread) = (args.text("channel_id"), args.text("thread_ts"));
    let comment = args.text("initial_comment").unwrap_or_default();
    let Some(channel) = channel.and_then(|id| state.channels.get(&id).cloned()) else {
        return Err("channel_not_found");
    };
    if channel.archived {
        return Err("is_archived");
    }
    let mut objects = Vec::new();
    for file in files.as_array().into_iter().flatten() {
        let id = file["id"].as_str().unwrap_or_default();
        let Some(upload) = state.uploads.iter_mut().find(|upload| upload.id == id) else {
            return Err("file_not_found");
        };
        if upload.received != Some(upload.announced) {
            return Err("file_not_found");
        }
        upload.completed += 1;
        let title = file["title"].as_str().unwrap_or(&upload.name);
        objects
            .push(json!({ "id": id, "name": upload.name, "title": title, "mode": "hosted", "size": upload.announced }));
    }
    let mut fields = events::own_fields();
    fields.insert("text".to_owned(), json!(comment));
    fields.insert("subtype".to_owned(), json!("file_share"));
    fields.insert("files".to_owned(), json!(objects));
    let message = state.add_message(&channel.id, thread.as_deref(), None, fields);
    state.announce(&channel.id, &message);
    if let Some(thread) = &thread {
        state.standing.remove(&(channel.id.clone(), thread.clone()));
    }
    let listed: Vec<_> = objects.iter().map(|file| json!({ "id": file["id"], "title": file["title"] })).collect();
    Ok(json!({ "files": listed }))
}

/// Serves what is no method: files, and the second step of an upload.
pub(super) async fn serve(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let token = header("authorization");
    if let Some(id) = path.strip_prefix("/upload/v1/").map(str::to_owned) {
        let trouble = shared.state.change(|state| {
            let at = state.faults.iter().position(|fault| fault.method == "upload")?;
            Some(state.faults.remove(at).trouble)
        });
        let done = !matches!(trouble, Some(Trouble::Hang | Trouble::Status(_) | Trouble::Drop));
        let answer = if done { take(shared, &id, token.is_some(), request).await } else { Err(Dropped) };
        shared.state.change(|state| state.count_upload(&format!("{trouble:?}")));
        return match &trouble {
            Some(trouble) => web_api::fail(trouble, stop).await,
            None => answer,
        };
    }
    let id = path.split('/').nth(2).and_then(|name| name.rsplit('-').next()).unwrap_or_default().to_owned();
    let (stored, may_read) = shared.state.change(|state| {
        state.downloads += 1;
        (state.files.get(&id).cloned(), state.scopes.iter().any(|scope| scope == "files:read"))
    });
    let Some(stored) = stored else { return Ok(response(StatusCode::NOT_FOUND, "text/html", full("not found"))) };
    let trusted = token.as_deref() == Some(&format!("Bearer {BOT_TOKEN}"));
    if path.starts_with("/elsewhere/") {
        if token.is_some() {
            shared.state.change(|state| state.violation("the token went to another host"));
        }
    } else if !trusted || !may_read {
        if token.as_deref() == Some(&format!("Bearer {APP_TOKEN}")) {
            shared.state.change(|state| state.violation("the token of the socket was sent for a file"));
        }
        return Ok(response(StatusCode::OK, "text/html; charset=utf-8", full(SIGN_IN)));
    }
    let kind = stored.object["mimetype"].as_str().unwrap_or("application/octet-stream").to_owned();
    let length = stored.content.len();
    let body = match stored.content {
        Content::Elsewhere(_) if !path.starts_with("/elsewhere/") => {
            // `localhost` and 127.0.0.1 are one machine and two origins.
            let to = format!("http://localhost:{}/elsewhere/x-{id}/file", shared.address().port());
            let mut found = response(StatusCode::FOUND, "text/html", full(""));
            found.headers_mut().insert("location", to.parse().expect("an address"));
            return Ok(found);
        }
        Content::Bytes(bytes) | Content::Elsewhere(bytes) => full(bytes),
        Content::Broken(bytes) => made_of(vec![Ok(Bytes::from(bytes)), Err(io::ErrorKind::ConnectionReset.into())]),
        Content::Many(count) => many(count),
    };
    let mut answer = response(StatusCode::OK, &kind, body);
    answer.headers_mut().insert("content-length", length.into());
    Ok(answer)
}

fn made_of(frames: Vec<io::Result<Bytes>>) -> Body {
    let (sender, receiver) = mpsc::channel(frames.len().max(1));
    for frame in frames {
        sender.try_send(frame).expect("there is room");
    }
    pieces(receiver)
}

fn many(count: u64) -> Body {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        let mut left = count;
        while left > 0 {
            let size = left.min(piece.len() as u64);
            left -= size;
            if sender.send(Ok(piece.slice(..usize::try_from(size).unwrap_or(0)))).await.is_err() {
                return;
            }
        }
    });
    pieces(receiver)
}

/// The second step: the bytes, without a token.
async fn take(
    shared: &Arc<Shared>,
    id: &str,
    with_token: bool,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    if with_token {
        shared.state.change(|state| state.violation("the token went to the address of an upload"));
    }
    if request.method() != Method::POST {
        shared.state.change(|state| state.violation("an upload that is no POST"));
    }
    let mut body = request.into_body();
    let (mut received, mut summed, mut kept) = (0, EMPTY_SUM, Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Dropped) };
        let Some(data) = frame.data_ref() else { continue };
        received += data.len() as u64;
        summed = sum(summed, data);
        if received <= 64 * 1024 {
            kept.extend_from_slice(data);
        }
    }
    let known = shared.state.change(|state| {
        let Some(upload) = state.uploads.iter_mut().find(|upload| upload.id == id) else { return false };
        upload.received = Some(received);
        upload.bytes = kept;
        upload.sum = summed;
        if upload.announced != received {
            let what = format!("{} bytes were announced and {received} came", upload.announced);
            state.violation(what);
        }
        true
    });
    if !known {
        return Ok(response(StatusCode::NOT_FOUND, "text/plain", full("no such upload")));
    }
    Ok(response(StatusCode::OK, "text/plain", full(format!("OK - {received}"))))
}

/// The ids of the files of a message.
pub(super) fn ids(fields: &Map<String, Value>) -> Vec<String> {
    let files = fields.get("files").and_then(Value::as_array).into_iter().flatten();
    files.filter_map(|file| file["id"].as_str().map(str::to_owned)).collect()
}
