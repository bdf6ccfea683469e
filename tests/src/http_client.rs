//! A small HTTP client for tests: one request, one connection, a limit.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `GET`s a `http://` URL.
///
/// # Errors
///
/// When the server cannot be reached, breaks off, or takes longer than the limit.
pub async fn get(url: &str, headers: &[(&str, &str)], limit: Duration) -> Result<Answer, Failure> {
    send("GET", url, headers, Vec::new(), limit).await
}

/// `POST`s a body to a `http://` URL.
///
/// # Errors
///
/// As for [`get`].
pub async fn post(url: &str, headers: &[(&str, &str)], body: Vec<u8>, limit: Duration) -> Result<Answer, Failure> {
    send("POST", url, headers, body, limit).await
}

async fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
    limit: Duration,
) -> Result<Answer, Failure> {
    let url = url::Url::parse(url)?;
    let host = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let mut request = Request::builder().method(method).uri(target).header("host", &host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::time::timeout(limit, exchange).await?
}
