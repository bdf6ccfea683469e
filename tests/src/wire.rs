//! An HTTP server on the loopback that can also misbehave: hang, drop a connection, break off in the middle.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The body of a response.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The connection is closed without an answer.
#[derive(Debug)]
pub(crate) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fake dropped the connection")
    }
}

impl std::error::Error for Dropped {}

/// A server; ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    _guard: DropGuard,
}

/// Serves `handler` on a free port of the loopback. Connections are as many as come: the tests are the only clients.
pub(crate) async fn serve<H, F>(handler: H) -> Server
where
    H: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Dropped>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of the loopback");
    let address = listener.local_addr().expect("the address of the port");
    let stop = CancellationToken::new();
    let handler = Arc::new(handler);
    let stopped = stop.clone();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stopped.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            // Small answers at once: the tests measure latency.
            let _ = stream.set_nodelay(true);
            let handler = Arc::clone(&handler);
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| handler(request));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = stopped.cancelled() => {}
                    // A client that hangs up is not an error of the fake.
                    _ = connection.with_upgrades() => {}
                }
            });
        }
    });
    Server { address, stop: stop.clone(), _guard: stop.drop_guard() }
}

/// A whole body.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// A body in pieces: each `Ok` is written at once, an `Err` breaks the connection off.
pub(crate) fn pieces(from: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let frames = stream::unfold(from, |mut from| async move { Some((from.recv().await?.map(Frame::data), from)) });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// A response with a content type.
pub(crate) fn response(status: StatusCode, content_type: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert("content-type", value);
    }
    response
}
