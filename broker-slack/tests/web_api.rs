//! The Web API against a local server: what is sent, and what each way of failing turns into.

#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use broker_core::chat::{
    ChatOp, ChatTime, ChatTransport, ConversationId, ConversationKind, DeliverError, InstallationId, Intake,
    LookupError, MessageId, OpKey, PartBody, PersonId, RawEnvelope, Standing, ThreadKey,
};
use broker_core::clock::SystemClock;
use broker_core::health::PartHealth;
use broker_core::history::{HistoryError, HistoryProvider, Urgency};
use broker_core::store::{Accepted, StoreError};
use broker_slack::{ConnectError, Slack};
use serde_json::json;
use support::{Call, LIMIT, Reply, Server, auth_test, config, connect};
use tokio_util::sync::CancellationToken;

fn thread() -> ThreadKey {
    ThreadKey {
        installation: InstallationId::new("T0000001"),
        conversation: ConversationId::new("C1"),
        root: MessageId::new("1700000000.000100"),
    }
}

fn post() -> ChatOp {
    ChatOp::Post { thread: thread(), body: PartBody::Text { markup: "a *b* &amp; c".to_owned() } }
}

async fn server(reply: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |call| if call.method == "auth.test" { auth_test() } else { reply(call) }).await
}

#[tokio::test]
async fn what_is_posted() {
    let server = server(|_| Reply::Json(json!({"ok": true, "channel": "C1", "ts": "1700000001.000200"}))).await;
    let slack = connect(&server.base).await.unwrap();
    let receipt = slack.perform(&OpKey::new("k-1"), &post()).await.unwrap();
    assert_eq!(receipt.message, Some(MessageId::new("1700000001.000200")));
    let whisper = ChatOp::Ephemeral { thread: thread(), person: PersonId::new("U1"), text: "<!here> & you".to_owned() };
    assert_eq!(slack.perform(&OpKey::new("k-2"), &whisper).await.unwrap().message, None);

    let [call] = server.calls("chat.postMessage").try_into().unwrap();
    assert_eq!(call.authorization, "Bearer xoxb-test");
    let expected = json!({
        "channel": "C1", "thread_ts": "1700000000.000100", "text": "a *b* &amp; c", "mrkdwn": true, "link_names": false,
        "unfurl_links": false, "unfurl_media": false,
        "metadata": {"event_type": "broker_part", "event_payload": {"key": "k-1"}}
    });
    assert_eq!(call.body, expected);
    let [call] = server.calls("chat.postEphemeral").try_into().unwrap();
    let expected = json!({"channel": "C1", "thread_ts": "1700000000.000100", "user": "U1",
                          "text": "&lt;!here&gt; &amp; you", "link_names": false});
    assert_eq!(call.body, expected);
}

#[tokio::test]
async fn every_failure_says_whether_it_may_have_had_an_effect() {
    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");
    const HTML: (&str, &str) = ("content-type", "text/html");
    let cases = [
        (Reply::Raw(429, vec![("retry-after", "0"), JSON], r#"{"ok":false,"error":"ratelimited"}"#), "temporary"),
        (Reply::Raw(429, vec![("retry-after", "0"), HTML], "<html>"), "temporary"),
        // slack-morphism does not tell that this one was a 429; the doubt costs a look, and nothing else.
        (Reply::Raw(429, vec![JSON], ""), "unknown"),
        (Reply::Raw(500, vec![JSON], r#"{"ok":false,"error":"fatal_error"}"#), "unknown"),
        (Reply::Raw(503, vec![HTML], "<html>"), "unknown"),
        (Reply::Raw(200, vec![HTML], "<html>please log in</html>"), "unknown"),
        (Reply::Raw(200, vec![JSON], "{"), "unknown"),
        (Reply::Raw(200, vec![JSON], r#"{"ts":"1700000001.000200"}"#), "unknown"),
        (Reply::Raw(200, vec![JSON], r#"{"ok":false}"#), "unknown"),
        (Reply::Raw(200, vec![JSON], r#"{"ok":"yes","ts":"1700000001.000200"}"#), "unknown"),
        (Reply::Raw(200, vec![JSON], r#"{"ok":true}"#), "unknown"),
        (Reply::Json(json!({"ok": false, "error": "internal_error"})), "unknown"),
        (Reply::Json(json!({"ok": false, "error": "service_unavailable"})), "unknown"),
        (Reply::Break, "unknown"),
        (Reply::Json(json!({"ok": false, "error": "is_archived"})), "refused"),
        (Reply::Json(json!({"ok": false, "error": "missing_scope", "needed": "chat:write"})), "account"),
        (Reply::Json(json!({"ok": false, "error": "token_revoked"})), "account"),
        // Slack did it, and its answer holds something odd.
        (Reply::Json(json!({"ok": true, "ts": "1700000001.000200", "message": {"metadata": 5, "user": []}})), "sent"),
    ];
    let replies: Vec<Reply> = cases.iter().map(|(reply, _)| reply.clone()).collect();
    let next = AtomicUsize::new(0);
    let server = server(move |_| replies[next.fetch_add(1, Ordering::SeqCst)].clone()).await;
    let slack = connect(&server.base).await.unwrap();
    for (reply, expected) in &cases {
        let outcome = slack.perform(&OpKey::new("k"), &post()).await;
        let said = match &outcome {
            Ok(_) => "sent",
            Err(DeliverError::Temporary { .. }) => "temporary",
            Err(DeliverError::Unknown { .. }) => "unknown",
            Err(DeliverError::Refused { .. }) => "refused",
            Err(DeliverError::Account { .. }) => "account",
        };
        assert_eq!(said, *expected, "{reply:?} became {outcome:?}");
        assert!(!format!("{outcome:?}").contains("log in"), "no body is passed on");
    }
    assert_eq!(server.calls("chat.postMessage").len(), cases.len(), "each was sent once");
}

#[tokio::test]
async fn what_stands_beside_a_thread() {
    // Slack's word for a reaction that is there already, one that is not there any more, and for a scope that is missing.
    let error = |code: &str| Reply::Json(json!({"ok": false, "error": code}));
    let server = server(move |call| match (call.method.as_str(), call.body["name"].as_str(), &call.body["status"]) {
        ("reactions.add", Some("eyes"), _) => error("already_reacted"),
        ("reactions.remove", Some("eyes"), _) => error("no_reaction"),
        ("reactions.remove", Some("gone"), _) => error("message_not_found"),
        ("assistant.threads.setStatus", _, status) if status == "is refused" => error("missing_scope"),
        ("assistant.threads.setStatus", _, status) if status == "is revoked" => error("token_revoked"),
        ("assistant.threads.setStatus", ..) => Reply::Json(json!({"ok": true})),
        _ => error("missing_scope"),
    })
    .await;
    let slack = connect(&server.base).await.unwrap();
    let status = |text: Option<&str>| ChatOp::Status { thread: thread(), text: text.map(str::to_owned) };
    let react = |name: &str, on| ChatOp::React { thread: thread(), name: name.to_owned(), on };
    for op in
        [status(Some("is thinking…")), status(None), react("eyes", true), react("eyes", false), react("gone", false)]
    {
        assert_eq!(slack.perform(&OpKey::new("k"), &op).await.unwrap().message, None, "{op:?}");
    }
    for op in [status(Some("is refused")), react("other", true)] {
        let outcome = slack.perform(&OpKey::new("k"), &op).await;
        // Answers go on without that scope, so the account is well.
        assert_eq!(outcome, Err(DeliverError::Refused { code: "missing_scope".to_owned() }));
    }
    let outcome = slack.perform(&OpKey::new("k"), &status(Some("is revoked"))).await;
    assert_eq!(outcome, Err(DeliverError::Account { code: "token_revoked".to_owned() }));

    let calls = server.calls("assistant.threads.setStatus");
    let place = |text: &str| json!({"channel_id": "C1", "thread_ts": "1700000000.000100", "status": text});
    assert_eq!((&calls[0].body, &calls[1].body), (&place("is thinking…"), &place("")));
    let [call, ..] = &server.calls("reactions.add")[..] else { panic!("no reaction") };
    assert_eq!(call.body, json!({"channel": "C1", "timestamp": "1700000000.000100", "name": "eyes"}));
}

#[tokio::test]
async fn without_a_connection_nothing_was_sent() {
    let server = server(|_| Reply::Hang).await;
    let slack = connect(&server.base).await.unwrap();
    // A port that was free a moment ago, and refuses.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = connect(&format!("http://{closed}/api")).await.unwrap_err();
    assert_eq!(refused, ConnectError::Unavailable { reason: "no connection".to_owned() });
    let no_name = connect("http://slack.invalid/api").await.unwrap_err();
    assert_eq!(no_name, ConnectError::Unavailable { reason: "no connection".to_owned() });
    drop(slack);
}

#[tokio::test]
async fn a_429_holds_the_next_call_back() {
    let next = AtomicUsize::new(0);
    let server = server(move |_| match next.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::Raw(429, vec![("retry-after", "1"), ("content-type", "text/html")], ""),
        _ => Reply::Json(json!({"ok": true, "ts": "1700000001.000200"})),
    })
    .await;
    let slack = connect(&server.base).await.unwrap();
    let started = tokio::time::Instant::now();
    let limited = slack.perform(&OpKey::new("k"), &post()).await.unwrap_err();
    let second = std::time::Duration::from_secs(1);
    assert_eq!(limited, DeliverError::Temporary { reason: "ratelimited".to_owned(), retry_after: Some(second) });
    slack.perform(&OpKey::new("k"), &post()).await.unwrap();
    assert!(started.elapsed() >= second);
}

#[tokio::test]
async fn refused_tokens_say_what_mends_them() {
    for code in ["invalid_auth", "token_revoked", "account_inactive", "not_allowed_token_type"] {
        let server = Server::start(move |_| Reply::Json(json!({"ok": false, "error": code}))).await;
        match connect(&server.base).await.unwrap_err() {
            ConnectError::Refused { code: said, mend } => {
                assert_eq!(said, code);
                assert!(mend.starts_with("SLACK_BOT_TOKEN: "), "{mend}");
            }
            other => panic!("{code} became {other:?}"),
        }
    }
    let server = Server::start(|_| Reply::Raw(503, vec![], "")).await;
    assert_eq!(connect(&server.base).await.unwrap_err(), ConnectError::Unavailable { reason: "http_503".to_owned() });
    let user_token = Server::start(|_| Reply::Json(json!({"ok": true, "team_id": "T1", "user_id": "U1"}))).await;
    assert!(matches!(connect(&user_token.base).await, Err(ConnectError::Refused { code, .. }) if code == "no_bot_id"));
}

#[tokio::test]
async fn scopes_come_from_the_header() {
    let reply = r#"{"ok":true,"team_id":"T1","user_id":"U1","bot_id":"B1"}"#;
    let server =
        Server::start(move |_| Reply::Raw(200, vec![("x-oauth-scopes", "chat:write,im:history")], reply)).await;
    let slack = connect(&server.base).await.unwrap();
    let scopes = slack.health().borrow().scopes.clone();
    let reason = scopes.reason.unwrap();
    assert!(!scopes.ok && reason.contains("users:read") && reason.contains("slack-app-manifest.yaml"), "{reason}");
    // None of the scopes that listing needs is there.
    assert_eq!(slack.conversations().await, Err(HistoryError::Refused { code: "missing_scope".to_owned() }));
    assert!(server.calls("users.conversations").is_empty());
}

/// Private channels and group messages have ids that begin with a `C` as well.
#[tokio::test]
async fn what_kind_a_conversation_is_the_listing_tells() {
    let server = Server::start(|call| match call.method.as_str() {
        "auth.test" => auth_test(),
        "users.conversations" => Reply::Json(json!({"ok": true, "channels": [
            {"id": "C1", "is_channel": true, "is_private": true}, {"id": "C2", "is_mpim": true, "is_private": true}]})),
        _ => {
            Reply::Json(json!({"ok": true, "messages": [{"type": "message", "user": "U1", "ts": "1700000000.000100"}]}))
        }
    })
    .await;
    let slack = connect(&server.base).await.unwrap();
    let conversations = slack.conversations().await.unwrap();
    let mut kinds = Vec::new();
    for conversation in &conversations {
        let heads = slack.heads(conversation, ChatTime::ZERO, None).await.unwrap().heads;
        kinds.push(heads[0].root.conversation_kind);
    }
    assert_eq!(kinds, [ConversationKind::PrivateChannel, ConversationKind::GroupDirect]);
}

/// Takes nothing: no link ever stands.
struct Nobody;

#[async_trait]
impl Intake for Nobody {
    async fn accept(&self, _envelope: RawEnvelope) -> Result<Accepted, StoreError> {
        Err(StoreError::new("nobody is here"))
    }
}

/// An operator reinstalls the app, or takes it away, while the broker runs.
#[tokio::test]
async fn scopes_that_change_are_noticed() {
    const REPLY: &str = r#"{"ok":true,"team_id":"T1","user_id":"U1","bot_id":"B1"}"#;
    const ALL: &str = "app_mentions:read,channels:history,chat:write,im:history,users:read,channels:read,files:read,files:write,\
                       groups:history,groups:read,im:read,mpim:history,mpim:read,reactions:write,users:read.email";
    let state = Arc::new(AtomicUsize::new(0));
    let now = Arc::clone(&state);
    let server = Server::start(move |call| match (call.method.as_str(), now.load(Ordering::SeqCst)) {
        ("auth.test", 0) => Reply::Raw(200, vec![("x-oauth-scopes", "chat:write")], REPLY),
        ("auth.test", 1) => Reply::Raw(200, vec![("x-oauth-scopes", ALL)], REPLY),
        ("auth.test", 2) => Reply::Json(json!({"ok": false, "error": "token_revoked"})),
        ("auth.test", _) => Reply::Raw(503, vec![], ""),
        ("users.conversations", _) => Reply::Json(json!({"ok": true, "channels": []})),
        _ => Reply::Json(json!({"ok": false, "error": "invalid_auth"})),
    })
    .await;
    let mut config = config(&server.base);
    config.scopes_every = Duration::from_millis(10);
    let slack = Slack::connect(config, Arc::new(SystemClock::new())).await.unwrap();
    let mut health = slack.health();
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (slack, stop) = (Arc::clone(&slack), stop.clone());
        async move { slack.run(Arc::new(Nobody), stop).await }
    });
    let mut until = async |what: &str, holds: &dyn Fn(&PartHealth) -> bool| {
        let wait = health.wait_for(|health| holds(&health.scopes));
        assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "{what}");
    };
    until("it lacks most", &|scopes| !scopes.ok).await;
    assert!(slack.conversations().await.is_err());
    assert!(!slack.capabilities().files, "a long text stays text");
    state.store(1, Ordering::SeqCst);
    until("it has all", &|scopes| *scopes == PartHealth::well()).await;
    assert!(slack.capabilities().files);
    slack.conversations().await.unwrap();
    state.store(2, Ordering::SeqCst);
    let says = |scopes: &PartHealth, word: &str| scopes.reason.as_deref().is_some_and(|reason| reason.contains(word));
    until("it is revoked", &|scopes| !scopes.ok && says(scopes, "token_revoked") && says(scopes, "SLACK_BOT_TOKEN"))
        .await;
    // That nobody answers says nothing.
    state.store(3, Ordering::SeqCst);
    let asked = server.calls("auth.test").len();
    tokio::time::timeout(LIMIT, async {
        while server.calls("auth.test").len() < asked + 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    assert!(says(&slack.health().borrow().scopes, "token_revoked"));
    stop.cancel();
    tokio::time::timeout(LIMIT, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn people_are_looked_up() {
    let server = server(|call| match call.params.get("user").map(String::as_str) {
        Some("U1") => Reply::Json(json!({"ok": true, "user": {"id": "U1", "team_id": "T0000001", "name": "ann",
            "deleted": false, "is_bot": false, "profile": {"display_name": "Ann", "email": "ann@example.com"},
            "updated": "odd"}})),
        Some("U2") => Reply::Json(json!({"ok": false, "error": "user_not_found"})),
        _ => Reply::Json(json!({"ok": false, "error": "missing_scope"})),
    })
    .await;
    let slack = connect(&server.base).await.unwrap();
    let ann = slack.person(&PersonId::new("U1")).await.unwrap();
    assert_eq!((ann.standing, ann.email.as_deref()), (Standing::Member, Some("ann@example.com")));
    assert_eq!(slack.person(&PersonId::new("U2")).await, Err(LookupError::NotFound));
    let forbidden = LookupError::Forbidden { code: "missing_scope".to_owned() };
    assert_eq!(slack.person(&PersonId::new("U3")).await, Err(forbidden));
}

#[tokio::test]
async fn a_read_back_that_is_not_complete_is_none() {
    let endless = server(|_| {
        Reply::Json(json!({"ok": true, "messages": [], "has_more": true, "response_metadata": {"next_cursor": "c"}}))
    })
    .await;
    let slack = connect(&endless.base).await.unwrap();
    let outcome = slack.find(&thread(), &[OpKey::new("k")], ChatTime::ZERO).await;
    assert!(matches!(outcome, Err(HistoryError::Refused { .. })), "no later look will decide it: {outcome:?}");
    assert_eq!(endless.calls("conversations.replies").len(), 10);

    let cut = server(|_| Reply::Json(json!({"ok": true, "messages": [], "has_more": true}))).await;
    let slack = connect(&cut.base).await.unwrap();
    assert!(slack.find(&thread(), &[OpKey::new("k")], ChatTime::ZERO).await.is_err());
}

#[tokio::test]
async fn metadata_counts_only_on_messages_of_our_own() {
    let server = server(|_| {
        let metadata = json!({"event_type": "broker_part", "event_payload": {"key": "k"}});
        Reply::Json(json!({"ok": true, "messages": [
            {"ts": "1700000000.000100", "user": "U1", "text": "root", "metadata": metadata},
            {"ts": "1700000002.000000", "bot_id": "BOTHER", "text": "forged", "metadata": metadata},
            {"ts": "1700000003.000000", "bot_id": "BBROKER", "text": "other", "metadata": {"event_type": "x",
             "event_payload": {"key": "k"}}},
            {"ts": "1700000004.000000", "user": "UBROKER", "text": "ours", "metadata": metadata}
        ]}))
    })
    .await;
    let slack = connect(&server.base).await.unwrap();
    let since = ChatTime::from_micros(1_700_000_001_000_000);
    let found = slack.find(&thread(), &[OpKey::new("k")], since).await.unwrap();
    assert_eq!(found.iter().map(|found| found.message.as_str()).collect::<Vec<_>>(), ["1700000004.000000"]);
    let [call] = server.calls("conversations.replies").try_into().unwrap();
    assert_eq!(call.params["oldest"], "1700000000.999999");
    assert_eq!(call.params["include_all_metadata"], "true");
}

#[tokio::test]
async fn odd_messages_of_a_page_cost_only_themselves() {
    let server = server(|_| {
        Reply::Json(json!({"ok": true, "has_more": false, "messages": [
            {"ts": "1700000000.000100", "thread_ts": "1700000000.000100", "user": "U1", "text": "root", "files": "none"},
            "odd", {"ts": 5}, {"user": "U1", "text": "no ts"},
            {"ts": "1700000001.000000", "subtype": "channel_join", "user": "U1"},
            {"ts": "1700000002.000000", "thread_ts": "1700000000.000100", "user": "UBROKER", "text": "ours"},
            {"ts": "1700000009.000000", "thread_ts": "1700000000.000100", "user": "U1", "text": "out of range"}
        ]}))
    })
    .await;
    let slack = connect(&server.base).await.unwrap();
    let range = ChatTime::from_micros(1_700_000_000_000_000)..ChatTime::from_micros(1_700_000_009_000_000);
    let page = slack.page(&thread(), range, 1000, None, Urgency::Awaited).await.unwrap();
    assert_eq!(page.messages.iter().map(|it| it.text.as_str()).collect::<Vec<_>>(), ["root", "ours"]);
    assert_eq!(page.messages[0].thread_root, None);
    let [call] = server.calls("conversations.replies").try_into().unwrap();
    assert_eq!((call.params["limit"].as_str(), call.params["latest"].as_str()), ("200", "1700000009.000000"));
}
