#![forbid(unsafe_code)]
//! Fetching files, with all that stands between an address and a file: redirects, sign-in pages, answers that are cut.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use broker_core::chat::{ChatTransport, FetchError, Fetched, FileRef};
use broker_core::clock::SystemClock;
use broker_slack::{Slack, SlackConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came: its first line's path, its token.
type Seen = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A server that answers each path with these bytes and closes the connection: answers are written out as they go over the
/// wire.
struct Server {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    seen: Seen,
}

impl Server {
    async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener: Arc::new(listener), seen: Seen::default() }
    }

    fn serve(&self, answers: Vec<(&'static str, String)>) {
        let (listener, answers, log) = (Arc::clone(&self.listener), Arc::new(answers), Arc::clone(&self.seen));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&answers), Arc::clone(&log)));
            }
        });
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn tokens(&self, path: &str) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(at, _)| at == path).map(|(_, token)| token.clone()).collect()
    }
}

async fn answer(mut stream: TcpStream, answers: Arc<Vec<(&'static str, String)>>, seen: Seen) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let route = path.split('?').next().unwrap_or_default();
    let known = answers.iter().find(|(at, _)| *at == route);
    let auth = r#"{"ok":true,"team_id":"T0000001","user_id":"UBOT","bot_id":"B0000001","url":"https://x.slack.com/"}"#;
    let text = match known {
        Some((_, text)) => text.clone(),
        None if route == "/api/auth.test" => json(auth),
        None => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
    };
    seen.lock().unwrap().push((path, header("authorization")));
    // Whoever asked may have gone.
    let _ = stream.write_all(text.as_bytes()).await;
}

fn json(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

/// An answer that ends with its connection.
fn open_ended(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {kind}\r\n\r\n{body}")
}

fn whole(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn to(place: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n")
}

async fn connect(server: &Server) -> Arc<Slack> {
    let mut config = SlackConfig::new("xapp-test".into(), "xoxb-test".into());
    config.api_base = format!("http://{}/api", server.address);
    Slack::connect(config, Arc::new(SystemClock::new())).await.unwrap()
}

fn file(server: &Server, path: &str, kind: &str, size: u64) -> FileRef {
    FileRef {
        id: "F1".to_owned(),
        url: Some(server.url(path)),
        media_type: Some(kind.to_owned()),
        size: Some(size),
        ..FileRef::default()
    }
}

async fn fetch(slack: &Slack, file: &FileRef) -> (Result<Fetched, FetchError>, String) {
    let mut sink = std::io::Cursor::new(Vec::new());
    let result = slack.fetch(file, 1000, &mut sink).await;
    (result, String::from_utf8(sink.into_inner()).unwrap())
}

#[tokio::test]
async fn a_page_is_a_file_only_where_a_page_was_shared() {
    let page = "<html>sign in</html>";
    let server = Server::bind().await;
    server.serve(vec![
        ("/page", whole("Text/HTML; charset=utf-8", page)),
        ("/leads", to("/?redir=%2Ffiles-pri%2FT1-F1%2Fa.png")),
        ("/", whole("text/html", page)),
        ("/moved", to("/page")),
    ]);
    let slack = connect(&server).await;
    let size = page.len() as u64;
    for (path, kind, size, expected) in [
        ("/page", "text/html", size, "ok"),
        ("/page", "TEXT/HTML", size, "ok"),
        ("/moved", "text/html", size, "ok"),
        // A canvas has another size as a page.
        ("/page", "application/vnd.slack-docs", 5, "ok"),
        ("/page", "application/vnd.slack-docs.canvas", 5, "ok"),
        ("/moved", "application/vnd.slack-docs", 5, "a web page"),
        ("/page", "text/html", 5, "a web page"),
        ("/page", "image/png", size, "a web page"),
        ("/moved", "image/png", size, "a web page"),
        // The address itself says what is missing.
        ("/leads", "image/png", size, "lacks the scope files:read"),
        ("/leads", "text/html", size, "lacks the scope files:read"),
    ] {
        let (result, bytes) = fetch(&slack, &file(&server, path, kind, size)).await;
        match result {
            Ok(_) => assert_eq!((expected, bytes.as_str()), ("ok", page), "{path} {kind}"),
            Err(FetchError::Refused { reason }) => assert!(reason.contains(expected), "{path} {kind}: {reason}"),
            Err(other) => panic!("{path} {kind}: {other}"),
        }
    }
}

#[tokio::test]
async fn a_file_that_was_cut_is_not_taken_for_a_whole_one() {
    let server = Server::bind().await;
    server.serve(vec![
        ("/open", open_ended("text/plain", "hello")),
        ("/short", "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\nhello".to_owned()),
        (
            "/chunked",
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
                .to_owned(),
        ),
        ("/whole", whole("text/plain", "hello")),
    ]);
    let slack = connect(&server).await;
    for (path, size, expected) in [
        ("/open", 5, "hello"),
        ("/open", 9, "did not come as a whole"),
        ("/short", 5, "the connection broke"),
        ("/chunked", 5, "the connection broke"),
        // How long it is was said twice, and the answer's own word counts.
        ("/whole", 9, "hello"),
    ] {
        let (result, bytes) = fetch(&slack, &file(&server, path, "text/plain", size)).await;
        match result {
            Ok(fetched) => assert_eq!((bytes.as_str(), fetched.bytes), (expected, 5), "{path}"),
            Err(FetchError::Unavailable { reason }) => assert!(reason.contains(expected), "{path}: {reason}"),
            Err(other) => panic!("{path}: {other}"),
        }
    }
}

/// Slack leads to another host, and that host back to Slack's: from there on whoever is there decides what is asked.
#[tokio::test]
async fn the_token_stays_with_slack_and_does_not_come_back() {
    let (server, other) = (Server::bind().await, Server::bind().await);
    other.serve(vec![("/far", whole("text/plain", "hello")), ("/back", to(&server.url("/files/whole")))]);
    server.serve(vec![
        ("/files/far", to(&other.url("/far"))),
        ("/files/back", to(&other.url("/back"))),
        ("/files/within", to("/files/whole")),
        ("/files/whole", whole("text/plain", "hello")),
        ("/files/round", to("/files/round")),
        ("/files/local", to("file:///etc/passwd")),
    ]);
    let slack = connect(&server).await;
    let get = async |path: &str| fetch(&slack, &file(&server, path, "text/plain", 5)).await;

    assert_eq!(get("/files/far").await.1, "hello");
    assert_eq!(other.tokens("/far"), [None]);
    assert_eq!(get("/files/within").await.1, "hello");
    assert_eq!(server.tokens("/files/whole"), [Some("Bearer xoxb-test".to_owned())]);
    assert_eq!(get("/files/back").await.1, "hello");
    assert_eq!(other.tokens("/back"), [None]);
    assert_eq!(server.tokens("/files/whole"), [Some("Bearer xoxb-test".to_owned()), None]);
    for path in ["/files/round", "/files/local"] {
        assert!(matches!(get(path).await.0, Err(FetchError::Refused { .. })), "{path}");
    }
}

/// A stub names its id alone: the rest is told by `files.info`, the address too, which is not trusted for that.
#[tokio::test]
async fn a_stub_gets_its_name_and_type() {
    let (server, other) = (Server::bind().await, Server::bind().await);
    let info = |id: &str, url: String| {
        let file = format!(r#""id":"{id}","name":"of others.txt","mimetype":"text/x-notes","size":5"#);
        json(&format!(r#"{{"ok":true,"file":{{{file},"url_private":"{url}"}}}}"#))
    };
    server.serve(vec![
        ("/api/files.info", info("F1", server.url("/files/whole"))),
        ("/files/whole", whole("text/plain", "hello")),
    ]);
    let stub = FileRef { id: "F1".to_owned(), ..FileRef::default() };
    let (result, bytes) = fetch(&*connect(&server).await, &stub).await;
    let (name, media_type) = (Some("of others.txt".to_owned()), Some("text/x-notes".to_owned()));
    assert_eq!((result.unwrap(), bytes.as_str()), (Fetched { bytes: 5, name, media_type }, "hello"));

    let elsewhere = Server::bind().await;
    elsewhere.serve(vec![("/api/files.info", info("F1", other.url("/files/whole")))]);
    other.serve(vec![("/files/whole", whole("text/plain", "hello"))]);
    let (result, _) = fetch(&*connect(&elsewhere).await, &stub).await;
    assert!(matches!(result, Err(FetchError::Refused { .. })), "{result:?}");
    assert!(other.tokens("/files/whole").is_empty());
}
