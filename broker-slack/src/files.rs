//! Files: fetching those of messages.
//!
//! By a client of ours, since slack-morphism sends the token to whatever address it is given, follows redirects with it, and
//! holds a file in memory. Here the token goes to Slack's own hosts alone, an address elsewhere is fetched only when Slack
//! redirects there, and what comes is streamed.

use std::time::Duration;

use broker_core::chat::{FetchError, Fetched, FileRef, FileSink};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use url::Url;

use crate::api::{Api, FILE_INFO};
use crate::failure::Failure;
use crate::limiter::Priority;
use crate::message;
use crate::slack::Slack;

/// How long the beginning of an answer is waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// A file of which nothing comes for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// How long a file may take in all.
const FILE_LIMIT: Duration = Duration::from_secs(150);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// What mends a missing scope.
const NO_SCOPE: &str =
    "the app lacks the scope files:read: an operator has to reinstall it from slack-app-manifest.yaml";

/// The media type of a web page.
const PAGE_TYPE: &str = "text/html";
/// How the media types of canvases and posts begin, which Slack hands out as pages.
const DOCUMENT_TYPE: &str = "application/vnd.slack-docs";
/// Slack hands out such pages to whoever may not read a file, and where something of its own is wrong.
const PAGE: &str = "Slack gave a web page in its place; if it does so with every file, the app lacks the scope files:read \
                    and an operator has to reinstall it from slack-app-manifest.yaml";

impl Slack {
    /// See [`broker_core::chat::ChatTransport::fetch`].
    pub(crate) async fn fetch_file(
        &self,
        file: &FileRef,
        most: u64,
        into: &mut FileSink,
    ) -> Result<Fetched, FetchError> {
        if !self.may("files:read") {
            return refused(NO_SCOPE);
        }
        // A file of another organisation may come as a stub that names its id alone
        // (<https://docs.slack.dev/apis/slack-connect/#files>).
        let whole = match file.url {
            Some(_) => None,
            None => Some(self.whole(file).await?),
        };
        let file = whole.as_ref().unwrap_or(file);
        let Some(url) = file.url.as_deref() else { return refused("Slack gives no address for it") };
        if file.size.is_some_and(|size| size > most) {
            return too_large(most);
        }
        match timeout(FILE_LIMIT, self.stream(url, file, most, into)).await {
            Ok(result) => {
                let told = whole.and_then(|whole| whole.media_type);
                result.map(|fetched| Fetched { media_type: told.or(fetched.media_type), ..fetched })
            }
            Err(_) => unavailable(&format!("it did not arrive within {} s", FILE_LIMIT.as_secs())),
        }
    }

    /// The file as `files.info` shows it (<https://docs.slack.dev/reference/methods/files.info>).
    async fn whole(&self, file: &FileRef) -> Result<FileRef, FetchError> {
        let params = vec![("file", Some(file.id.clone()))];
        let answer = self.api.get(FILE_INFO, Priority::Backfill, &params).await.map_err(|failure| match failure {
            Failure::Refused { code } if code == "missing_scope" => FetchError::Refused { reason: NO_SCOPE.to_owned() },
            Failure::Refused { code } => FetchError::Refused { reason: code },
            Failure::NotSent { reason, .. } | Failure::Unanswered { reason } => FetchError::Unavailable { reason },
        })?;
        message::file(&answer["file"])
            .ok_or_else(|| FetchError::Unavailable { reason: "an answer without a file".to_owned() })
    }

    async fn stream(&self, url: &str, file: &FileRef, most: u64, into: &mut FileSink) -> Result<Fetched, FetchError> {
        let (response, from) = self.open(url).await?;
        let status = response.status();
        if status != StatusCode::OK {
            return match status.as_u16() {
                code @ (408 | 429 | 500..) => unavailable(&format!("http_{code}")),
                code => refused(&format!("http_{code}")),
            };
        }
        let header = |name: HeaderName| text(response.headers(), &name);
        let media_type = header(CONTENT_TYPE).map(essence);
        let length: Option<u64> = header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        // Where neither says how long the answer is, an answer that was cut ends as a whole one does
        // (<https://www.rfc-editor.org/rfc/rfc9112#section-6.3>).
        // An answer by HTTP/2 says by itself that it is over.
        let ends_anyhow =
            response.version() < Version::HTTP_2 && length.is_none() && header(TRANSFER_ENCODING).is_none();
        let kind = file.media_type.as_deref().map(essence).unwrap_or_default();
        let page = media_type.as_deref() == Some(PAGE_TYPE);
        if page {
            let may_be = match from {
                From::SignIn => return refused(NO_SCOPE),
                From::Address => kind == PAGE_TYPE || kind.starts_with(DOCUMENT_TYPE),
                From::Elsewhere => kind == PAGE_TYPE,
            };
            if !may_be {
                return refused(PAGE);
            }
        }
        if length.is_some_and(|length| length > most) {
            return too_large(most);
        }
        let bytes = copy(response.into_body(), most, into).await?;
        let differs = file.size.is_some_and(|size| size != bytes);
        if page && differs && kind == PAGE_TYPE {
            return refused(PAGE);
        }
        if ends_anyhow && differs && !page {
            return unavailable("it did not come as a whole");
        }
        Ok(Fetched { bytes, name: file.name.clone(), media_type })
    }

    /// Asks for an address, and follows where it leads. Says where the answer is from.
    async fn open(&self, url: &str) -> Result<(Response<Incoming>, From), FetchError> {
        let odd = |_| FetchError::Refused { reason: "its address cannot be read".to_owned() };
        let mut url = Url::parse(url).map_err(odd)?;
        if !self.api.is_slacks(&url) {
            let host = url.host_str().unwrap_or("an unknown place").to_owned();
            return refused(&format!("it is not kept by Slack but by {host}"));
        }
        let mut trusted = true;
        for hop in 0..=MAX_REDIRECTS {
            let response = self.api.get_file(&url, trusted).await?;
            if !response.status().is_redirection() {
                let from = match hop {
                    0 => From::Address,
                    _ if trusted && signs_in(&url) => From::SignIn,
                    _ => From::Elsewhere,
                };
                return Ok((response, from));
            }
            let to = text(response.headers(), &LOCATION);
            let to = to.and_then(|to| url.join(to).ok());
            let Some(to) = to else { return refused("a redirect that leads nowhere") };
            if !self.api.may_be_followed(&to) {
                return refused("a redirect to an address without encryption");
            }
            // Once it has left Slack's hosts the token does not come back: whoever is there says where it goes on.
            trusted = trusted && self.api.is_slacks(&to);
            url = to;
        }
        refused("too many redirects")
    }
}

/// Where an answer is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// The address that the file has.
    Address,
    /// The page of Slack on which people sign in, where it leads whoever may not read the file.
    SignIn,
    /// Another address that Slack led to.
    Elsewhere,
}

/// Whether an address of Slack's is where people sign in: the workspace's front page with the way back, or what is named so.
fn signs_in(url: &Url) -> bool {
    let named = url.path_segments().into_iter().flatten().any(|part| part == "signin" || part == "login");
    named || url.query_pairs().any(|(name, _)| name == "redir")
}

/// A media type without its parameters, in lower case
/// (<https://www.rfc-editor.org/rfc/rfc9110#section-8.3.1>).
fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Api {
    /// Whether the token may go to an address: Slack's own hosts with encryption, and the host of the API where an operator
    /// names another one.
    fn is_slacks(&self, url: &Url) -> bool {
        self.is_of_base(url)
            || (url.scheme() == "https" && url.port().is_none() && url.host_str().is_some_and(slacks_host))
    }

    pub(crate) fn is_of_base(&self, url: &Url) -> bool {
        Url::parse(self.base()).is_ok_and(|base| base.origin() == url.origin())
    }

    /// Whether an address that Slack leads to may be asked, without the token. Unencrypted only where the API is as well.
    pub(crate) fn may_be_followed(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.base().starts_with("http://"),
            _ => false,
        }
    }

    async fn get_file(&self, url: &Url, with_token: bool) -> Result<Response<Incoming>, FetchError> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(self.connector());
        let mut request = Request::get(url.as_str());
        if with_token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", self.bot_token().expose_secret()));
        }
        let request = request.body(Empty::new());
        let request = request.map_err(|_| FetchError::Refused { reason: "its address cannot be asked".to_owned() })?;
        match timeout(ANSWER_LIMIT, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => unavailable("no connection"),
            Ok(Err(_)) => unavailable("the connection broke"),
            Err(_) => unavailable("no answer in time"),
        }
    }
}

/// Slack's own hosts: files are at `files.slack.com`, their sign-in pages at the workspace's own.
fn slacks_host(host: &str) -> bool {
    ["slack.com", "slack-files.com", "slack-gov.com"]
        .iter()
        .any(|own| host == *own || host.strip_suffix(own).is_some_and(|before| before.ends_with('.')))
}

async fn copy(mut body: Incoming, most: u64, into: &mut FileSink) -> Result<u64, FetchError> {
    let mut bytes = 0;
    loop {
        let frame = match timeout(STALL_LIMIT, body.frame()).await {
            Err(_) => return unavailable("nothing more of it came"),
            Ok(None) => break,
            Ok(Some(Err(_))) => return unavailable("the connection broke"),
            Ok(Some(Ok(frame))) => frame,
        };
        let Some(data) = frame.data_ref() else { continue };
        bytes += data.len() as u64;
        if bytes > most {
            return too_large(most);
        }
        into.write_all(data).await.map_err(|error| not_written(&error))?;
    }
    into.flush().await.map_err(|error| not_written(&error))?;
    Ok(bytes)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn not_written(error: &std::io::Error) -> FetchError {
    FetchError::Refused { reason: format!("it could not be written: {error}") }
}

fn too_large<T>(most: u64) -> Result<T, FetchError> {
    refused(&format!("it is larger than {} MiB", most / (1024 * 1024)))
}

fn refused<T>(reason: &str) -> Result<T, FetchError> {
    Err(FetchError::Refused { reason: reason.to_owned() })
}

fn unavailable<T>(reason: &str) -> Result<T, FetchError> {
    Err(FetchError::Unavailable { reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_to_slacks_hosts_alone() {
        let api = Api::new("https://slack.com/api".to_owned(), &"xapp-1".into(), "xoxb-1".into(), 1.0).unwrap();
        for (url, trusted) in [
            ("https://files.slack.com/files-pri/T1-F1/a.png", true),
            ("https://slack.com/x", true),
            ("https://acme.enterprise.slack.com/x", true),
            ("http://files.slack.com/x", false),
            ("https://files.slack.com:8443/x", false),
            ("https://files.slack.com.evil.example/x", false),
            ("https://evilslack.com/x", false),
            ("https://files.slack.com@evil.example/x", false),
            ("https://evil.example/files.slack.com", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(api.is_slacks(&Url::parse(url).unwrap()), trusted, "{url}");
        }
        for (url, followed) in
            [("https://cdn.example/x", true), ("http://169.254.169.254/x", false), ("file:///etc/passwd", false)]
        {
            assert_eq!(api.may_be_followed(&Url::parse(url).unwrap()), followed, "{url}");
        }
    }
}
