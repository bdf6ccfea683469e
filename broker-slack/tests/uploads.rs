//! Uploads whose host says no.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use broker_core::chat::{ChatOp, ChatTransport, DeliverError, OpKey, OutContent, OutFile, Receipt};
use broker_core::clock::SystemClock;
use broker_slack::{Slack, SlackConfig};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What the host of the uploads answers, one status after another, and what it was sent.
#[derive(Default)]
struct Host {
    statuses: Vec<u16>,
    addresses: usize,
    types: Vec<String>,
}

async fn answer(
    request: Request<Incoming>,
    host: Arc<Mutex<Host>>,
    own: String,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let kind = request.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let _ = request.into_body().collect().await;
    let mut host = host.lock().unwrap();
    let (status, text) = match path.as_str() {
        "/api/auth.test" => {
            (200, r#"{"ok":true,"team_id":"T1","user_id":"U1","bot_id":"B1","url":"https://x.slack.com/"}"#.to_owned())
        }
        "/api/files.getUploadURLExternal" => {
            host.addresses += 1;
            let n = host.addresses;
            (200, format!(r#"{{"ok":true,"upload_url":"http://{own}/upload/{n}","file_id":"F{n}"}}"#))
        }
        _ => {
            host.types.extend(kind);
            (host.statuses.remove(0), "told".to_owned())
        }
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::from(text)).unwrap())
}

/// Uploads a file to a host that answers so; returns what became of it, how many addresses it took and as what it was sent.
async fn upload(statuses: &[u16], content_type: Option<&str>) -> (Result<Receipt, DeliverError>, usize, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().to_string();
    let host = Arc::new(Mutex::new(Host { statuses: statuses.to_vec(), ..Host::default() }));
    let (task, address) = (Arc::clone(&host), own.clone());
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (host, own) = (Arc::clone(&task), address.clone());
            let service = service_fn(move |request| answer(request, Arc::clone(&host), own.clone()));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let mut config = SlackConfig::new("xapp-test".into(), "xoxb-test".into());
    config.api_base = format!("http://{own}/api");
    let slack = Slack::connect(config, Arc::new(SystemClock::new())).await.unwrap();
    let file = OutFile {
        name: "a.txt".to_owned(),
        title: None,
        alt_text: None,
        snippet_type: None,
        content_type: content_type.map(str::to_owned),
        comment: String::new(),
        bytes: 3,
        content: OutContent::Text { text: "abc".to_owned() },
        uploaded: None,
    };
    let told = slack.perform(&OpKey::new("k"), &ChatOp::Upload { file }).await;
    server.abort();
    let host = host.lock().unwrap();
    (told, host.addresses, host.types.clone())
}

#[tokio::test]
async fn a_host_that_refuses_for_good_is_asked_at_three_addresses() {
    let (told, addresses, _) = upload(&[403, 403, 403], None).await;
    assert_eq!(told, Err(DeliverError::Refused { code: "upload_http_403".to_owned() }));
    assert_eq!(addresses, 3);
    // The first address may just have run out.
    let (told, addresses, _) = upload(&[410, 200], None).await;
    assert_eq!((told.unwrap().file.as_deref(), addresses), (Some("F2"), 2));
}

#[tokio::test]
async fn a_host_that_is_ill_or_busy_is_asked_again_later() {
    for status in [408, 429, 500, 503] {
        let (told, addresses, _) = upload(&[status], None).await;
        assert!(matches!(told, Err(DeliverError::Temporary { .. })), "{status}: {told:?}");
        assert_eq!(addresses, 1);
    }
}

#[tokio::test]
async fn a_file_is_sent_as_what_its_maker_says() {
    assert_eq!(upload(&[200], None).await.2, ["application/octet-stream"]);
    assert_eq!(upload(&[200], Some("text/csv")).await.2, ["text/csv"]);
}
