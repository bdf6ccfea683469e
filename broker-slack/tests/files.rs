//! Files, streamed: what goes where, and what that costs in memory.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io;
use std::path::Path;

use broker_core::chat::{ChatOp, ChatTransport, FileRef, OpKey, OutContent, OutFile};
use broker_core::clock::SystemClock;
use broker_slack::{Slack, SlackConfig};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, io::Error>;

/// So many bytes go each way.
const BYTES: u64 = 500 * 1000 * 1000;
/// What a server in the same process may cost, and buffers; what is measured is the sum of both sides.
const ROOM_KIB: u64 = 20 * 1024;

fn json(text: String) -> Response<Body> {
    Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync())
}

async fn answer(request: Request<Incoming>, address: std::net::SocketAddr) -> io::Result<Response<Body>> {
    let authorized = request.headers().contains_key("authorization");
    Ok(match request.uri().path() {
        "/api/auth.test" => json(
            r#"{"ok":true,"team_id":"T0000001","user_id":"UBOT","bot_id":"B0000001","url":"https://x.slack.com/"}"#
                .to_owned(),
        ),
        "/api/files.getUploadURLExternal" => {
            json(format!(r#"{{"ok":true,"upload_url":"http://{address}/upload/v1/x","file_id":"F1"}}"#))
        }
        "/upload/v1/x" => {
            assert!(!authorized, "the token stays here");
            let (mut body, mut bytes) = (request.into_body(), 0);
            while let Some(frame) = body.frame().await {
                bytes += frame.map_err(io::Error::other)?.data_ref().map_or(0, |data| data.len() as u64);
            }
            assert_eq!(bytes, BYTES);
            json("OK".to_owned())
        }
        "/files-pri/T1-F1/big" => {
            assert!(authorized);
            let piece = Bytes::from(vec![b'x'; 50_000]);
            let pieces = (0..BYTES / 50_000).map(move |_| Ok(Frame::data(piece.clone())));
            Response::new(StreamBody::new(futures_util::stream::iter(pieces)).boxed_unsync())
        }
        other => panic!("{other}"),
    })
}

async fn serve() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| answer(request, address));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// The most memory that this process has had at a time, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn down(slack: &Slack, address: std::net::SocketAddr, to: &Path) {
    let url = Some(format!("http://{address}/files-pri/T1-F1/big"));
    let file = FileRef { id: "F1".to_owned(), url, ..FileRef::default() };
    let mut sink = tokio::fs::File::create(to).await.unwrap();
    let fetched = slack.fetch(&file, BYTES, &mut sink).await.unwrap();
    assert_eq!(fetched.bytes, BYTES);
    assert_eq!(to.metadata().unwrap().len(), BYTES);
}

async fn up(slack: &Slack, from: &Path) {
    let file = OutFile {
        name: "big".to_owned(),
        title: None,
        alt_text: None,
        snippet_type: None,
        content_type: None,
        comment: String::new(),
        bytes: BYTES,
        content: OutContent::Copy { path: from.to_owned() },
        uploaded: None,
    };
    let receipt = slack.perform(&OpKey::new("k"), &ChatOp::Upload { file }).await.unwrap();
    assert_eq!(receipt.file.as_deref(), Some("F1"));
}

/// Run alone: `cargo test -p broker-slack --test files -- --ignored --nocapture`. It needs 500 MB of disk.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a gigabyte each way, measured in a process of its own"]
async fn half_a_gigabyte_each_way_costs_little_memory() {
    let address = serve().await;
    let mut config = SlackConfig::new("xapp-test".into(), "xoxb-test".into());
    config.api_base = format!("http://{address}/api");
    let slack = Slack::connect(config, std::sync::Arc::new(SystemClock::new())).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big");
    let before = peak();
    down(&slack, address, &path).await;
    let after_down = peak();
    up(&slack, &path).await;
    let after_up = peak();
    println!(
        "peak of resident memory: {before} KiB before, {after_down} after 500 MB down, {after_up} after 500 MB up"
    );
    assert!(after_up - before < ROOM_KIB, "{} KiB more", after_up - before);
}
