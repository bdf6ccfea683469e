#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking")]
//! The fakes themselves, spoken to by raw HTTP and raw websockets.

use std::time::Duration;

use broker_tests::fake_model::{FakeModel, Step};
use broker_tests::fake_slack::{
    ALICE, APP_TOKEN, BOT_TOKEN, CHANNEL, Channel, ChannelKind, FakeSlack, GUEST, Redelivery, Trouble,
};
use broker_tests::http_client::{self, Answer};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const LIMIT: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn raw_call(slack: &FakeSlack, method: &str, token: &str, content_type: &str, body: String) -> Answer {
    let url = format!("{}/{method}", slack.api_base());
    let token = format!("Bearer {token}");
    let headers = [("authorization", token.as_str()), ("content-type", content_type)];
    http_client::post(&url, &headers, body.into_bytes(), LIMIT).await.unwrap()
}

async fn call(slack: &FakeSlack, method: &str, args: Value) -> Value {
    let json = "application/json; charset=utf-8";
    raw_call(slack, method, BOT_TOKEN, json, args.to_string()).await.json()
}

async fn open(slack: &FakeSlack) -> String {
    let form = "application/x-www-form-urlencoded";
    let answer = raw_call(slack, "apps.connections.open", APP_TOKEN, form, String::new()).await.json();
    assert_eq!(answer["ok"], true, "{answer}");
    answer["url"].as_str().unwrap().to_owned()
}

/// Connects and reads the `hello`.
async fn connect(slack: &FakeSlack) -> (Socket, Value) {
    let (mut socket, _) = connect_async(open(slack).await).await.unwrap();
    let hello = next(&mut socket).await;
    assert_eq!(hello["type"], "hello");
    (socket, hello)
}

/// The next text frame.
async fn next(socket: &mut Socket) -> Value {
    let frame = async {
        loop {
            match socket.next().await.unwrap().unwrap() {
                Frame::Text(text) => return serde_json::from_str(text.as_str()).unwrap(),
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("an unexpected frame: {other:?}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, frame).await.unwrap()
}

async fn ack(socket: &mut Socket, envelope: &Value) {
    let ack = json!({ "envelope_id": envelope["envelope_id"] });
    socket.send(Frame::text(ack.to_string())).await.unwrap();
}

async fn all_acked(slack: &FakeSlack) {
    let all = |state: &broker_tests::fake_slack::State| {
        state.envelopes().iter().all(|envelope| envelope.acked.is_some()).then_some(())
    };
    slack.wait_for("ack of everything", LIMIT, all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_socket() {
    let slack = FakeSlack::start().await;
    let url = open(&slack).await;
    let (mut socket, _) = connect_async(url.clone()).await.unwrap();
    let hello = next(&mut socket).await;
    assert_eq!(hello["num_connections"], 1);
    assert_eq!(hello["connection_info"]["app_id"], "A0BROKER");
    assert!(hello["debug_info"]["approximate_connection_time"].is_u64());
    assert!(connect_async(url).await.is_err(), "a ticket is used once");
    assert_eq!(slack.violations().len(), 1);
    let (_second, hello) = connect(&slack).await;
    assert_eq!(hello["num_connections"], 2);
    assert_eq!(slack.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mention_comes_as_two_events_and_is_acknowledged() {
    let slack = FakeSlack::start().await;
    let (mut socket, _) = connect(&slack).await;
    let ts = slack.mention(CHANNEL, ALICE, "hello");
    let (first, second) = (next(&mut socket).await, next(&mut socket).await);
    let types = [&first, &second].map(|envelope| envelope["payload"]["event"]["type"].as_str().unwrap().to_owned());
    assert_eq!(types, ["app_mention", "message"]);
    assert_ne!(first["payload"]["event_id"], second["payload"]["event_id"]);
    for envelope in [&first, &second] {
        assert_eq!(envelope["type"], "events_api");
        assert_eq!(envelope["retry_attempt"], 0);
        assert_eq!(envelope["accepts_response_payload"], false);
        let payload = &envelope["payload"];
        assert_eq!((&payload["type"], &payload["team_id"]), (&json!("event_callback"), &json!("T0TEAM")));
        assert_eq!(payload["event"]["ts"], json!(ts));
        assert_eq!(payload["event"]["text"], "<@U0BROKER> hello");
        ack(&mut socket, envelope).await;
    }
    all_acked(&slack).await;
    assert!(slack.acked(first["envelope_id"].as_str().unwrap()));
    assert!(slack.acked(second["payload"]["event_id"].as_str().unwrap()));
    assert_eq!(slack.violations(), Vec::<String>::new());

    // A direct message has no `app_mention`.
    let (channel, ts) = slack.dm(ALICE, "<@U0BROKER> psst");
    let dm = next(&mut socket).await;
    let event = &dm["payload"]["event"];
    assert_eq!((event["channel"].as_str(), event["channel_type"].as_str()), (Some(channel.as_str()), Some("im")));
    assert_eq!(event["ts"], json!(ts));
    ack(&mut socket, &dm).await;
    all_acked(&slack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acknowledged_comes_again() {
    let slack = FakeSlack::start().await;
    slack.set_redelivery(Redelivery { after: Duration::from_millis(50), times: 2, fresh_id: true });
    let (mut socket, _) = connect(&slack).await;
    slack.say(CHANNEL, ALICE, "one");
    let mut ids = Vec::new();
    for attempt in 0..3 {
        let envelope = next(&mut socket).await;
        assert_eq!(envelope["retry_attempt"], attempt);
        ids.push((envelope["envelope_id"].clone(), envelope["payload"]["event_id"].clone()));
    }
    assert!(ids[0].0 != ids[1].0 && ids[0].1 == ids[2].1, "{ids:?}");
    slack.wait_for("giving up", LIMIT, |state| state.envelopes()[0].given_up.then_some(())).await;

    // On a connection that ends it comes at once on the next one.
    slack.set_redelivery(Redelivery { after: Duration::from_secs(3600), times: 3, fresh_id: false });
    slack.say(CHANNEL, ALICE, "two");
    let first = next(&mut socket).await;
    slack.drop_sockets();
    slack.wait_for("the end of the connection", LIMIT, |state| (state.open_connections() == 0).then_some(())).await;
    let (mut socket, _) = connect(&slack).await;
    let again = next(&mut socket).await;
    assert_eq!((&again["envelope_id"], &again["retry_attempt"]), (&first["envelope_id"], &json!(1)));
    ack(&mut socket, &again).await;
    slack.wait_for("ack", LIMIT, |state| state.envelopes()[1].acked).await;
    assert_eq!(slack.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_is_announced_and_new_events_go_elsewhere() {
    for reason in ["warning", "refresh_requested", "link_disabled"] {
        let slack = FakeSlack::start().await;
        let (mut old, _) = connect(&slack).await;
        slack.disconnect(reason, Duration::from_millis(100));
        let frame = next(&mut old).await;
        assert_eq!((&frame["type"], &frame["reason"]), (&json!("disconnect"), &json!(reason)));
        let (mut new, _) = connect(&slack).await;
        slack.say(CHANNEL, ALICE, "hello");
        let envelope = next(&mut new).await;
        ack(&mut new, &envelope).await;
        all_acked(&slack).await;
        let closed = tokio::time::timeout(LIMIT, old.next()).await.unwrap();
        assert!(matches!(closed, Some(Ok(Frame::Close(_))) | None), "{closed:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_frames_go_out_as_they_are_and_wrong_frames_are_noticed() {
    let slack = FakeSlack::start().await;
    let (mut socket, _) = connect(&slack).await;
    assert!(slack.send_raw_frame(Frame::text("{\"envelope_id\":\"odd-1\",\"type\":7}")));
    assert_eq!(next(&mut socket).await["type"], 7);
    socket.send(Frame::text("{\"envelope_id\":\"odd-1\"}")).await.unwrap();
    slack.wait_for("ack of the raw frame", LIMIT, |state| state.raw_acks("odd-1").first().copied()).await;
    assert!(slack.acked("odd-1"));
    assert!(slack.send_raw_frame(Frame::binary(vec![0_u8, 159])));
    for wrong in ["hello", "[]", "{}", "{\"envelope_id\":\"never\"}", "{\"envelope_id\":\"odd-1\",\"extra\":1}"] {
        let before = slack.violations().len();
        socket.send(Frame::text(wrong)).await.unwrap();
        slack.wait_for(wrong, LIMIT, |state| (state.violations().len() > before).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_paged_as_documented() {
    let slack = FakeSlack::start().await;
    let root = slack.seed_root(CHANNEL, ALICE, "root", Duration::from_secs(86_400));
    let replies = slack.seed_history(CHANNEL, &root, 450);
    let of = async |more: Value| {
        let mut args = json!({ "channel": CHANNEL, "ts": root });
        args.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        call(&slack, "conversations.replies", args).await
    };
    let texts = |answer: &Value| -> Vec<String> {
        let messages = answer["messages"].as_array().unwrap();
        messages.iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
    };

    let mut seen = Vec::new();
    let mut cursor = String::new();
    let mut pages = 0;
    loop {
        let page = of(json!({ "limit": 200, "cursor": cursor })).await;
        let page_texts = texts(&page);
        assert_eq!(page_texts[0], "root", "the root leads every page");
        seen.extend(page_texts.into_iter().skip(usize::from(pages > 0)));
        pages += 1;
        if page["has_more"] == false {
            break;
        }
        cursor = page["response_metadata"]["next_cursor"].as_str().unwrap().to_owned();
    }
    let expected: Vec<_> = std::iter::once("root".to_owned()).chain((1..=450).map(|n| format!("reply {n}"))).collect();
    assert_eq!((seen, pages), (expected, 3));

    let (low, high) = (&replies[9], &replies[12]);
    for (case, args, expected) in [
        ("both left out", json!({ "oldest": low, "latest": high }), vec!["root", "reply 11", "reply 12"]),
        (
            "both in",
            json!({ "oldest": low, "latest": high, "inclusive": true }),
            vec!["root", "reply 10", "reply 11", "reply 12", "reply 13"],
        ),
        ("from the oldest on", json!({ "oldest": low, "limit": 2 }), vec!["root", "reply 11", "reply 12"]),
        (
            "as a form writes it",
            json!({ "oldest": &replies[448], "inclusive": "1" }),
            vec!["root", "reply 449", "reply 450"],
        ),
    ] {
        assert_eq!(texts(&of(args).await), expected, "{case}");
    }
    let alone = call(&slack, "conversations.replies", json!({ "channel": CHANNEL, "ts": replies[3] })).await;
    assert_eq!(texts(&alone), ["reply 4"]);
    let nowhere = call(&slack, "conversations.replies", json!({ "channel": CHANNEL, "ts": "1.000001" })).await;
    assert_eq!(nowhere, json!({ "ok": false, "error": "thread_not_found" }));

    let later = slack.seed_root(CHANNEL, ALICE, "another", Duration::from_secs(60));
    let history = call(&slack, "conversations.history", json!({ "channel": CHANNEL })).await;
    let heads = history["messages"].as_array().unwrap();
    assert_eq!((heads.len(), &heads[0]["ts"]), (2, &json!(later)));
    assert!(heads[0].get("latest_reply").is_none());
    assert_eq!((&heads[1]["latest_reply"], &heads[1]["reply_count"]), (&json!(replies[449]), &json!(450)));
    assert_eq!(slack.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_appears_echoes_and_can_be_found_by_its_metadata() {
    let slack = FakeSlack::start().await;
    let (mut socket, _) = connect(&slack).await;
    let root = slack.say(CHANNEL, ALICE, "root");
    let envelope = next(&mut socket).await;
    ack(&mut socket, &envelope).await;

    let metadata = json!({ "event_type": "broker_part", "event_payload": { "key": "k1" } });
    let posted = call(
        &slack,
        "chat.postMessage",
        json!({ "channel": CHANNEL, "thread_ts": root, "text": "hi", "metadata": metadata }),
    )
    .await;
    assert_eq!(posted["ok"], true, "{posted}");
    let echo = next(&mut socket).await;
    let event = &echo["payload"]["event"];
    assert_eq!((&event["bot_id"], &event["user"]), (&json!("B0BROKER"), &json!("U0BROKER")));
    assert_eq!((&event["ts"], &event["thread_ts"]), (&posted["ts"], &json!(root)));
    ack(&mut socket, &echo).await;

    // The same as a form; metadata travels as the text of JSON there.
    let form: String = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("channel", CHANNEL),
            ("thread_ts", &root),
            ("text", "a & b"),
            ("metadata", &metadata.to_string()),
        ])
        .finish();
    let kind = "application/x-www-form-urlencoded";
    let posted = raw_call(&slack, "chat.postMessage", BOT_TOKEN, kind, form).await;
    assert!(posted.headers["x-oauth-scopes"].to_str().unwrap().contains("chat:write"));
    assert_eq!(posted.json()["message"]["text"], "a & b");

    for (all, found) in [(true, 2), (false, 0)] {
        let url = format!(
            "{}/conversations.replies?channel={CHANNEL}&ts={root}&include_all_metadata={all}",
            slack.api_base()
        );
        let token = format!("Bearer {BOT_TOKEN}");
        let answer = http_client::get(&url, &[("authorization", &token)], LIMIT).await.unwrap().json();
        let with = answer["messages"].as_array().unwrap().iter().filter(|m| m["metadata"] == metadata).count();
        assert_eq!(with, found, "{answer}");
    }
    assert_eq!(slack.answers(CHANNEL, &root), ["hi", "a & b"]);
    assert_eq!(slack.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_slack_would_refuse_is_refused() {
    let slack = FakeSlack::start().await;
    slack.add_channel(Channel { member: false, ..Channel::new("C0ELSEWHERE", "elsewhere", ChannelKind::Public) });
    let root = slack.say(CHANNEL, ALICE, "root");
    let long = "x".repeat(40_001);
    for (method, args, error) in [
        ("chat.postMessage", json!({ "channel": "C0NOWHERE", "text": "a" }), "channel_not_found"),
        ("chat.postMessage", json!({ "channel": "C0ELSEWHERE", "text": "a" }), "not_in_channel"),
        ("chat.postMessage", json!({ "channel": CHANNEL }), "no_text"),
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": long }), "msg_too_long"),
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": "a", "thread_ts": "1.000001" }), "thread_not_found"),
        ("chat.postEphemeral", json!({ "channel": CHANNEL, "text": "a", "user": "U0NOBODY" }), "user_not_in_channel"),
        ("chat.update", json!({ "channel": CHANNEL, "text": "a", "ts": root }), "cant_update_message"),
        ("conversations.info", json!({ "channel": "C0NOWHERE" }), "channel_not_found"),
        ("users.info", json!({ "user": "U0NOBODY" }), "user_not_found"),
        ("reactions.remove", json!({ "channel": CHANNEL, "timestamp": root, "name": "eyes" }), "no_reaction"),
        ("files.remoteAdd", json!({}), "unknown_method"),
    ] {
        assert_eq!(call(&slack, method, args).await, json!({ "ok": false, "error": error }), "{method}");
    }
    assert_eq!(slack.violations(), Vec::<String>::new());

    for (method, args) in [
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": "x".repeat(4_041) })),
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": "<!channel> look" })),
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": "a", "metadata": { "event_type": "" } })),
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": "a", "thread_ts": 1.5 })),
        ("chat.postMessage", json!({ "channel": CHANNEL, "text": "a", "txet": "b" })),
        ("users.info", json!({ "user": ALICE, "token": BOT_TOKEN })),
    ] {
        let before = slack.violations().len();
        call(&slack, method, args.clone()).await;
        assert_eq!(slack.violations().len(), before + 1, "{method} {args}: {:?}", slack.violations());
    }
    let json = "application/json";
    let other = raw_call(&slack, "auth.test", APP_TOKEN, json, "{}".to_owned()).await.json();
    assert_eq!(other["error"], "not_allowed_token_type");
    let nobody = raw_call(&slack, "auth.test", "xoxb-nobody", json, "{}".to_owned()).await.json();
    assert_eq!(nobody["error"], "invalid_auth");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_channels_are_told_apart() {
    let slack = FakeSlack::start().await;
    slack.add_channel(Channel::new("C0SECRET", "secret", ChannelKind::Private));
    let guest = call(&slack, "users.info", json!({ "user": GUEST })).await;
    assert_eq!((&guest["user"]["is_restricted"], &guest["user"]["is_ultra_restricted"]), (&json!(true), &json!(false)));
    let info = call(&slack, "conversations.info", json!({ "channel": CHANNEL })).await;
    assert_eq!((&info["channel"]["name"], &info["channel"]["is_channel"]), (&json!("general"), &json!(true)));
    let mine =
        call(&slack, "users.conversations", json!({ "types": "public_channel,private_channel", "limit": 1 })).await;
    let cursor = mine["response_metadata"]["next_cursor"].as_str().unwrap();
    let args = json!({ "types": "public_channel,private_channel", "limit": 1, "cursor": cursor });
    let rest = call(&slack, "users.conversations", args).await;
    assert_eq!((&mine["channels"][0]["id"], &rest["channels"][0]["id"]), (&json!(CHANNEL), &json!("C0SECRET")));
    let test = call(&slack, "auth.test", json!({})).await;
    assert_eq!((&test["user_id"], &test["bot_id"]), (&json!("U0BROKER"), &json!("B0BROKER")));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trouble_is_what_it_says() {
    let slack = FakeSlack::start().await;
    let (method, url) = ("chat.postMessage", format!("{}/chat.postMessage", slack.api_base()));
    let post = async |text: &str, limit| {
        let token = format!("Bearer {BOT_TOKEN}");
        let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
        let body = json!({ "channel": CHANNEL, "text": text }).to_string();
        http_client::post(&url, &headers, body.into_bytes(), limit).await
    };
    let there = |text: &str| slack.look(|state| state.messages_of(CHANNEL).iter().any(|message| message.text == text));
    for (name, trouble, status, done) in [
        ("status", Trouble::Status(503), Some(503), false),
        ("done then status", Trouble::DoneThenStatus(500), Some(500), true),
        ("rate limited", Trouble::RateLimited(7), Some(429), false),
        ("not json", Trouble::NotJson, Some(200), false),
        ("error", Trouble::Error("fatal_error"), Some(200), false),
        ("done then error", Trouble::DoneThenError("internal_error"), Some(200), true),
        ("lost answer", Trouble::LoseAnswer, None, true),
        ("dropped", Trouble::Drop, None, false),
        ("delayed", Trouble::Delay(Duration::from_millis(30)), Some(200), true),
    ] {
        slack.trouble(method, trouble, 1);
        let answer = post(name, LIMIT).await;
        assert_eq!(answer.as_ref().ok().map(|answer| answer.status.as_u16()), status, "{name}");
        assert_eq!(there(name), done, "{name}");
        if name == "rate limited" {
            assert_eq!(answer.unwrap().headers["retry-after"], "7");
        }
    }
    slack.trouble(method, Trouble::Hang, 1);
    assert!(post("hang", Duration::from_millis(200)).await.is_err() && !there("hang"));
    slack.trouble_when(method, "special", Trouble::Error("fatal_error"), 1);
    assert_eq!(post("plain", LIMIT).await.unwrap().json()["ok"], true);
    assert_eq!(post("special", LIMIT).await.unwrap().json()["ok"], false);
    assert_eq!(post("special", LIMIT).await.unwrap().json()["ok"], true);
}

/// A user message as Codex sends it.
fn user(text: &str) -> Value {
    json!({ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": text }] })
}

async fn ask(model: &FakeModel, input: Vec<Value>) -> Result<Answer, http_client::Failure> {
    let body = json!({
        "model": "gpt-5.5",
        "stream": true,
        "prompt_cache_key": "thread-1",
        "tools": [{ "type": "function", "name": "exec_command" }, { "type": "function", "name": "post" }],
        "input": input
    });
    let url = format!("{}/responses", model.base_url());
    http_client::post(&url, &[("content-type", "application/json")], body.to_string().into_bytes(), LIMIT).await
}

/// The events of an answer.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

/// The finished items of an answer.
fn items(answer: &Answer) -> Vec<Value> {
    let events = events(answer);
    assert_eq!(events.first().unwrap()["type"], "response.created");
    assert_eq!(events.last().unwrap()["type"], "response.completed");
    let done = events.into_iter().filter(|event| event["type"] == "response.output_item.done");
    done.map(|event| event["item"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_follows_the_script_of_the_last_message_that_has_one() {
    let model = FakeModel::start().await;
    let script =
        model.script([Step::Shell("ls | wc".to_owned()), Step::post("progress", "half"), Step::Text("end".to_owned())]);
    let context = user("<environment_context>scenario-free</environment_context>");
    let first = user(&format!("```json\n{}\n```", json!({ "text": format!("please {script}") })));
    let mut input = vec![context, first];

    let items_of = items(&ask(&model, input.clone()).await.unwrap());
    assert_eq!((&items_of[0]["type"], &items_of[0]["name"]), (&json!("function_call"), &json!("exec_command")));
    assert!(items_of[0]["arguments"].as_str().unwrap().contains("\"ls | wc\""));
    input.push(items_of[0].clone());
    input.push(json!({ "type": "function_call_output", "call_id": items_of[0]["call_id"], "output": "3" }));
    // A message that joined in the meantime and holds no script changes nothing.
    input.push(user("and hurry"));
    let items_of = items(&ask(&model, input.clone()).await.unwrap());
    assert_eq!((&items_of[0]["name"], items_of.len()), (&json!("post"), 1));
    let items_of = items(&ask(&model, input.clone()).await.unwrap());
    assert_eq!(items_of[0]["content"][0]["text"], "end");
    // After the script: the last word.
    let items_of = items(&ask(&model, input.clone()).await.unwrap());
    assert_eq!(items_of[0]["content"][0]["text"], "ok: and hurry");
    input.push(
        json!({ "type": "function_call_output", "call_id": "x", "output": [{ "type": "input_text", "text": "42" }] }),
    );
    let items_of = items(&ask(&model, input).await.unwrap());
    assert_eq!(items_of[0]["content"][0]["text"], "tool said: 42");

    let requests = model.requests();
    assert_eq!((requests.len(), requests[0].thread.as_str()), (5, "thread-1"));
    assert_eq!(requests[4].tool_outputs(), ["3", "42"]);
    assert_eq!(requests[0].tools(), ["exec_command", "post"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_model_fails_in_every_way() {
    let model = FakeModel::start().await;
    let one = async |text: &str| ask(&model, vec![user(text)]).await;
    let limit = one("scenario:usage_limit").await.unwrap();
    assert_eq!((limit.status.as_u16(), &limit.json()["error"]["type"]), (429, &json!("usage_limit_reached")));
    let error = one("scenario:error:503:9").await.unwrap();
    assert_eq!((error.status.as_u16(), &error.headers["retry-after"]), (503, &"9".parse().unwrap()));
    let failed = events(&one("scenario:failed:context_length_exceeded:too long").await.unwrap());
    assert_eq!(failed.last().unwrap()["response"]["error"]["code"], "context_length_exceeded");
    assert!(one("scenario:cutoff").await.is_err());
    assert!(one("scenario:refuse").await.is_err());
    assert!(one("scenario:malformed").await.unwrap().text().contains("{not json"));
    let commentary = items(&one("scenario:commentary:hm").await.unwrap());
    assert_eq!(
        commentary.iter().map(|item| item["phase"].as_str().unwrap()).collect::<Vec<_>>(),
        ["commentary", "final_answer"]
    );
    let both = items(&one("scenario:say_and_shell:wait|ls").await.unwrap());
    assert_eq!((&both[0]["type"], &both[1]["type"]), (&json!("message"), &json!("function_call")));
    let two = items(&one("scenario:mtool:post:{\"a\":1};;broker:{\"b\":2}").await.unwrap());
    assert_eq!((two.len(), &two[1]["arguments"]), (2, &json!("{\"b\":2}")));
    let big = items(&one("scenario:bigtext:64").await.unwrap());
    assert_eq!(big[0]["content"][0]["text"].as_str().unwrap().len(), 65_536);
    model.handle(|request| request.says("handled").then(|| Step::Text("by hand".to_owned())));
    assert_eq!(items(&one("handled").await.unwrap())[0]["content"][0]["text"], "by hand");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_answer_ends_when_the_client_hangs_up() {
    let model = FakeModel::start().await;
    let asked = ask(&model, vec![user("scenario:hang")]);
    let asked = tokio::time::timeout(Duration::from_millis(300), asked).await;
    assert!(asked.is_err(), "it hangs");
    model.wait_for_request("the request", LIMIT, |request| request.says("hang")).await;
    model.wait_until_idle(LIMIT).await;
}
