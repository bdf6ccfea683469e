//! Files that are posted, in Slack's three steps (<https://docs.slack.dev/messaging/working-with-files#uploading_files>).
//!
//! An address and an id are asked for, the bytes go to that address, and the upload is completed into a thread. Until the third
//! step nobody sees anything, and what is not completed is thrown away: the first two are one operation that may be repeated.
//! The bytes are streamed by a client of ours, which sends no token along: the address is a ticket of its own.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use broker_core::chat::{DeliverError, OutContent, OutFile, Receipt, ThreadKey};
use futures_util::{TryFutureExt, stream};
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
/// The slowest upload that is waited for, in bytes a second. A sink that takes a piece a minute would hold a thread for days.
const SLOWEST: u64 = 100_000;
/// An upload that is refused for what it is begins anew at another address so often: the first one may have run out.
const ADDRESSES: u32 = 3;
/// How much of a file is in memory at a time.
const PIECE: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl Slack {
    /// Asks for an address and sends the bytes there.
    pub(crate) async fn upload(&self, file: &OutFile) -> Result<Receipt, DeliverError> {
        let mut refused = 0;
        loop {
            match self.upload_once(file).await? {
                Ok(receipt) => return Ok(receipt),
                Err(status) => {
                    refused += 1;
                    if refused == ADDRESSES {
                        return Err(DeliverError::Refused { code: format!("upload_http_{status}") });
                    }
                    tracing::warn!(status, "the upload of a file was refused; it is tried at another address");
                }
            }
        }
    }

    /// One address. The status is one of those that say that the same request will be refused again.
    async fn upload_once(&self, file: &OutFile) -> Result<Result<Receipt, u16>, DeliverError> {
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
            .header(CONTENT_TYPE, file.content_type.as_deref().unwrap_or("application/octet-stream"))
            .header(CONTENT_LENGTH, file.bytes)
            .body(body);
        let Ok(request) = request else { return again("an address that cannot be used") };
        let client: Client<_, Body> = Client::builder(TokioExecutor::new()).build(self.api.connector());
        let call = client.request(request).map_err(|error| match error.is_connect() {
            true => "no connection",
            false => "the connection broke",
        });
        let response = match whole(call, &sent, file.bytes).await {
            Ok(response) => response,
            Err(reason) => return again(reason),
        };
        match response.status().as_u16() {
            200 => Ok(Ok(Receipt { message: None, file: Some(id.to_owned()) })),
            // Too slow, and too often: both pass.
            code @ (408 | 429) => again(&format!("http_{code}")),
            code if (400..500).contains(&code) => Ok(Err(code)),
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

/// The answer to an upload of so many bytes, as long as some of them are taken now and then, and enough of them in all.
async fn whole<T>(
    call: impl Future<Output = Result<T, &'static str>>,
    sent: &AtomicU64,
    bytes: u64,
) -> Result<T, &'static str> {
    let limit = STALL_LIMIT + Duration::from_secs(bytes / SLOWEST);
    let unstalled = async {
        let mut call = pin!(call);
        let mut before = 0;
        loop {
            if let Ok(answer) = timeout(STALL_LIMIT, &mut call).await {
                return answer;
            }
            let now = sent.load(Ordering::Relaxed);
            if now == before {
                return Err("nothing more of the file was taken");
            }
            before = now;
        }
    };
    timeout(limit, unstalled).await.unwrap_or(Err("it took too long"))
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_upload_of_which_nothing_is_taken_ends() {
        let (begun, sent) = (Instant::now(), AtomicU64::new(0));
        let told = whole(pending::<Result<(), _>>(), &sent, 1 << 30).await;
        assert_eq!((told, begun.elapsed()), (Err("nothing more of the file was taken"), STALL_LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_drips_ends() {
        let (begun, sent) = (Instant::now(), AtomicU64::new(0));
        let drip = async {
            loop {
                tokio::time::sleep(STALL_LIMIT / 2).await;
                sent.fetch_add(PIECE as u64, Ordering::Relaxed);
            }
        };
        let told = tokio::select! {
            told = whole(pending::<Result<(), _>>(), &sent, 100 * SLOWEST) => told,
            () = drip => Ok(()),
        };
        assert_eq!(told, Err("it took too long"));
        assert_eq!(begun.elapsed(), STALL_LIMIT + Duration::from_secs(100));
    }
}
