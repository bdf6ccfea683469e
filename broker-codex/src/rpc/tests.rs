//! The conversation, against an app-server that is written out longhand.

use tokio::io::{AsyncBufReadExt, DuplexStream, Lines, ReadHalf, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;

/// What came in beside answers.
#[derive(Debug, PartialEq)]
enum Heard {
    Note(String),
    Question(Value, String),
}

struct Ear(UnboundedSender<Heard>);

#[async_trait]
impl Inbound for Ear {
    async fn notification(&self, method: &str, _params: &RawValue) {
        let _ = self.0.send(Heard::Note(method.to_owned()));
    }

    async fn request(&self, id: Value, method: &str, _params: &RawValue) {
        let _ = self.0.send(Heard::Question(id, method.to_owned()));
    }

    fn answered(&self) {}
}

/// The other side: reads what was asked and writes whatever the test says.
struct Server {
    lines: Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
}

impl Server {
    async fn asked(&mut self) -> Value {
        let line = self.lines.next_line().await.expect("readable").expect("a line");
        serde_json::from_str(&line).expect("a message")
    }

    async fn say(&mut self, line: &str) {
        self.writer.write_all(line.as_bytes()).await.expect("writable");
        self.writer.write_all(b"\n").await.expect("writable");
    }
}

fn connect(buffer: usize) -> (Rpc, Server, UnboundedReceiver<Heard>) {
    let (ours, theirs) = tokio::io::duplex(buffer);
    let (reader, writer) = tokio::io::split(ours);
    let (rpc, ends) = Rpc::new(reader, writer);
    let (sender, heard) = unbounded_channel();
    tokio::spawn(ends.run(Arc::new(Ear(sender))));
    let (reader, writer) = tokio::io::split(theirs);
    (rpc, Server { lines: BufReader::new(reader).lines(), writer }, heard)
}

const LIMIT: Duration = Duration::from_secs(30);

async fn call(rpc: &Rpc, method: &'static str) -> Result<Value, CallError> {
    rpc.call(method, json!({}), LIMIT).await
}

#[tokio::test(start_paused = true)]
async fn requests_go_out_in_order_and_answers_find_their_callers() {
    let (rpc, mut server, _heard) = connect(1 << 16);
    let talk = async {
        let first = server.asked().await;
        assert_eq!(first, json!({"id": 1, "method": "a", "params": {}}));
        assert_eq!(server.asked().await["method"], "b");
        assert_eq!(server.asked().await["method"], "c");
        server.say(r#"{"id":3,"result":"third"}"#).await;
        server.say(r#"{"id":1,"result":"first"}"#).await;
        server.say(r#"{"id":2,"error":{"code":-32600,"message":"thread not found: x"}}"#).await;
    };
    let (a, b, c, ()) = tokio::join!(call(&rpc, "a"), call(&rpc, "b"), call(&rpc, "c"), talk);
    assert_eq!(a.expect("an answer"), "first");
    assert_eq!(c.expect("an answer"), "third");
    let Err(CallError::Refused(error)) = b else { panic!("refused") };
    assert!(error.says("Thread not found"));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_limit_and_raises_suspicion() {
    let (rpc, mut server, _heard) = connect(1 << 16);
    let (answer, _) = tokio::join!(call(&rpc, "turn/start"), server.asked());
    assert!(matches!(answer, Err(CallError::Unanswered { written: true, limit: LIMIT })));
    tokio::time::timeout(Duration::from_secs(1), rpc.suspicion()).await.expect("suspicion");
    // An answer that comes after all is nobody's, and does no harm.
    server.say(r#"{"id":1,"result":{}}"#).await;
    let talk = async {
        assert_eq!(server.asked().await["id"], 2);
        server.say(r#"{"id":2,"result":2}"#).await;
    };
    let (answer, ()) = tokio::join!(call(&rpc, "x"), talk);
    assert_eq!(answer.expect("an answer"), 2);
    assert!(rpc.inner.waiting().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_never_written_surely_had_no_effect() {
    // The other side reads nothing: the first request fills the pipe, the second stays behind it.
    let (rpc, mut server, _heard) = connect(8);
    let (first, second) = tokio::join!(call(&rpc, "a"), call(&rpc, "b"));
    assert!(matches!(first, Err(CallError::Unanswered { written: true, .. })));
    assert!(matches!(second, Err(CallError::Unanswered { written: false, .. })));
    // And it is not written later: its caller was told so.
    let talk = async {
        assert_eq!(server.asked().await["method"], "a");
        assert_eq!(server.asked().await["method"], "c");
        server.say(r#"{"id":3,"result":null}"#).await;
    };
    let (third, ()) = tokio::join!(call(&rpc, "c"), talk);
    assert!(third.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_end_in_the_middle_fails_everything_that_waits() {
    let (rpc, mut server, _heard) = connect(1 << 16);
    let end = async {
        server.asked().await;
        drop(server);
    };
    let (answer, ()) = tokio::join!(call(&rpc, "a"), end);
    let Err(CallError::Gone { written, reason }) = answer else { panic!("gone, not {answer:?}") };
    assert!(written);
    assert_eq!(reason, "its stdout ended");
    assert!(matches!(call(&rpc, "b").await, Err(CallError::Gone { written: false, .. })));
    assert!(rpc.send(&json!({"method": "initialized"})).await.is_err());
    assert_eq!(rpc.closed().await, "its stdout ended");
}

#[tokio::test(start_paused = true)]
async fn malformed_lines_cost_nothing() {
    let (rpc, mut server, mut heard) = connect(1 << 20);
    let talk = async {
        server.asked().await;
        for line in ["", "hello", "[1,2]", "{\"id\":\"x\",\"result\":1}", "{\"id\":99,\"result\":1}", "\u{0}", "{"] {
            server.say(line).await;
        }
        server.say(&format!("{{\"method\":\"big\",\"params\":{{\"x\":\"{}\"}}}}", "y".repeat(1 << 21))).await;
        server.say(r#"{"method":"turn/started","emittedAtMs":1}"#).await;
        server.say(r#"{"method":"item/tool/call","id":0,"params":{}}"#).await;
        server.say(r#"{"id":1,"result":true}"#).await;
    };
    let (answer, ()) = tokio::join!(call(&rpc, "a"), talk);
    assert_eq!(answer.expect("an answer"), true);
    assert_eq!(heard.recv().await, Some(Heard::Note("big".to_owned())));
    assert_eq!(heard.recv().await, Some(Heard::Note("turn/started".to_owned())));
    assert_eq!(heard.recv().await, Some(Heard::Question(json!(0), "item/tool/call".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_held_back_and_all_of_it_is_answered() {
    let (rpc, mut server, _heard) = connect(1 << 12);
    let answering = tokio::spawn(async move {
        let (mut open, mut most) = (Vec::new(), 0);
        loop {
            // Answers only when nothing more comes, so that the most at once is seen.
            match tokio::time::timeout(Duration::from_millis(10), server.asked()).await {
                Ok(asked) => open.push(asked["id"].as_u64().expect("an id")),
                Err(_) if open.is_empty() => return most,
                Err(_) => {
                    most = most.max(open.len());
                    for id in open.drain(..) {
                        server.say(&format!("{{\"id\":{id},\"result\":{id}}}")).await;
                    }
                }
            }
        }
    });
    let calls = (0..1000).map(|_| call(&rpc, "x"));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(answering.await.expect("it counted"), MAX_IN_FLIGHT);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_nothing_behind() {
    let (rpc, mut server, _heard) = connect(1 << 16);
    {
        let left = call(&rpc, "a");
        tokio::pin!(left);
        tokio::select! {
            _ = &mut left => panic!("nobody answered"),
            _ = server.asked() => {}
        }
    }
    assert!(rpc.inner.waiting().is_empty());
    assert_eq!(rpc.inner.in_flight.available_permits(), MAX_IN_FLIGHT);
}
