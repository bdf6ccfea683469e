//! Files that are posted, in Slack's three steps (<https://docs.slack.dev/messaging/working-with-files#uploading_files>).
//!
//! An address and an id are asked for, the bytes go to that address, and the upload is completed into a thread. Until the third
//! step nobody sees anything, and what is not completed is thrown away: the first two are one operation that may be repeated.
//! The bytes are streamed by a client of ours, which sends no token along: the address is a ticket of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::chat::{DeliverError, OutContent, OutFile, Receipt, ThreadKey};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Request;
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use url::Url;

use crate::api::{COMPLETE_UPLOAD, UPLOAD_URL};
use crate::failure::Failure;
use crate::lenient;
use crate::limiter::Priority;
use crate::slack::Slack;

/// An upload of which nothing is taken for so long is given up, and so is one whose answer takes so long.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How much of a file is in memory at a time.
const PIECE: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl Slack {
    /// Asks for an address and sends the bytes there.
    pub(crate) async fn upload(&self, file: &OutFile) -> Result<Receipt, DeliverError> {
        let params = vec![
            ("filename", Some(file.name.clone())),
            ("length", Some(file.bytes.to_string())),
            ("alt_txt", file.alt_text.clone()),
            ("snippet_type", file.snippet_type.clone()),
        ];
        let answer = self.api.get(UPLOAD_URL, Priority::Answer, &params).await.map_err(harmless)?;
        let (url, id) = (lenient::text(&answer, "upload_url"), lenient::text(&answer, "file_id"));
        let (Some(url), Some(id)) = (url, id) else { return again("an answer without an address") };
        let url = Url::parse(url).ok().filter(|url| self.api.is_of_base(url) || self.api.may_be_followed(url));
        let Some(url) = url else { return again("an address that cannot be used") };
        let sent = Arc::new(AtomicU64::new(0));
        let body = match &file.content {
            OutContent::Text { text } => Full::from(text.clone()).map_err(|never| match never {}).boxed_unsync(),
            OutContent::Copy { path } => match tokio::fs::File::open(path).await {
                Ok(copy) => streamed(copy, Arc::clone(&sent)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(DeliverError::Refused { code: "the_copy_is_gone".to_owned() });
                }
                Err(_) => return again("the copy cannot be read"),
            },
        };
        let request = Request::post(url.as_str())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, file.bytes)
            .body(body);
        let Ok(request) = request else { return again("an address that cannot be used") };
        let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build(self.api.connector());
        let mut call = client.request(request);
        let mut before = 0;
        let response = loop {
            match timeout(STALL_LIMIT, &mut call).await {
                Ok(Ok(response)) => break response,
                Ok(Err(error)) if error.is_connect() => return again("no connection"),
                Ok(Err(_)) => return again("the connection broke"),
                Err(_) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == before {
                        return again("nothing more of the file was taken");
                    }
                    before = now;
                }
            }
        };
        match response.status().as_u16() {
            200 => Ok(Receipt { message: None, file: Some(id.to_owned()) }),
            code => again(&format!("http_{code}")),
        }
    }

    /// Shows an uploaded file in a thread.
    pub(crate) async fn post_file(&self, thread: &ThreadKey, file: &OutFile) -> Result<Receipt, DeliverError> {
        let Some(id) = &file.uploaded else { return Err(DeliverError::Refused { code: "not_uploaded".to_owned() }) };
        let mut request = json!({
            "files": [{ "id": id, "title": file.title.as_ref().unwrap_or(&file.name) }],
            "channel_id": thread.conversation.as_str(),
            "thread_ts": thread.root.as_str(),
        });
        if !file.comment.is_empty() {
            request["initial_comment"] = json!(file.comment);
        }
        self.api.post(COMPLETE_UPLOAD, Priority::Answer, &request).await?;
        // Slack shares the file a moment later, and does not say as which message.
        Ok(Receipt { message: None, file: Some(id.clone()) })
    }
}

/// A failure of the steps that nobody sees: none of them leaves anything behind. A scope that is missing for files is no fault of
/// the account.
fn harmless(failure: Failure) -> DeliverError {
    match failure.of_extra() {
        DeliverError::Unknown { reason } => DeliverError::Temporary { reason, retry_after: None },
        other => other,
    }
}

fn again<T>(reason: &str) -> Result<T, DeliverError> {
    Err(DeliverError::Temporary { reason: reason.to_owned(), retry_after: None })
}

fn streamed(file: tokio::fs::File, sent: Arc<AtomicU64>) -> Body {
    let pieces = stream::unfold(Some((file, sent)), |state| async move {
        let (mut file, sent) = state?;
        let mut piece = Vec::with_capacity(PIECE);
        match (&mut file).take(PIECE as u64).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(count) => {
                sent.fetch_add(count as u64, Ordering::Relaxed);
                Some((Ok(Frame::data(Bytes::from(piece))), Some((file, sent))))
            }
            Err(error) => Some((Err(error), None)),
        }
    });
    StreamBody::new(pieces).boxed_unsync()
}
