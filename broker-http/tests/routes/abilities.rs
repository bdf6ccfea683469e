//! What the agent's tools can do, by HTTP: good, bad and hostile requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::{DeliverError, FileRef, ThreadKey};
use broker_core::testing::memory_chat::{Fault, MemoryFile};
use broker_http::{Access, Limits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::house::{House, JSON, LONG, bearer, body, key, parse};
use crate::wire::PATIENCE;

#[tokio::test]
async fn a_message_is_posted_into_its_own_thread() {
    let house = House::closed().await;
    let (status, answer) = house.mine("/slack/post-message", json!({"text": "**done**"})).await;
    assert_eq!((status, &answer["ok"], &answer["state"]), (200, &json!(true), &json!("sent")), "{answer}");
    assert_eq!(answer["messages"].as_array().map(Vec::len), Some(1), "{answer}");
    let posts = house.chat.posts(&house.ours);
    assert!(posts.last().is_some_and(|text| text.contains("done")), "{posts:?}");
    let id = answer["post_id"].as_str().expect("an id").to_owned();
    let (status, told) = house.read(&format!("posts/{id}")).await;
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!((status, &told["state"], &told["arrived"]), (200, &json!("sent"), &json!(1)), "{told}");
    assert_eq!(told["parts"][0]["ts"], answer["messages"][0]);

    let theirs = bearer(&house.token(&house.theirs).await);
    for path in [format!("/slack/posts/{id}"), "/slack/posts/unknown".to_owned()] {
        let (status, _, body) = house.server.ask("GET", &path, "localhost", &theirs).await;
        assert!(status == 403 && body.contains("forbidden"), "{path}: {body}");
    }
}

#[tokio::test]
async fn another_thread_is_out_of_reach_of_every_ability() {
    let house = House::closed().await;
    let before = house.chat.posts(&house.theirs).len();
    let token = bearer(&house.token(&house.ours).await);
    for (path, more) in [
        ("/slack/post-message", json!({"text": "hello"})),
        ("/slack/post-file", json!({"file_path": "report.txt"})),
        ("/slack/post-state", json!({"kind": "final"})),
        ("/slack/react", json!({"name": "eyes"})),
    ] {
        let headers = format!("{JSON}{token}");
        for thread in [&house.theirs, &ThreadKey { root: house.theirs.root.clone(), ..house.ours.clone() }] {
            let (status, answer) = house.post(path, &headers, &body(thread, more.clone())).await;
            assert_eq!((status, &answer["error"]), (403, &json!("forbidden")), "{path}");
        }
        let (status, answer) = house.post(path, JSON, &body(&house.ours, more)).await;
        assert_eq!((status, &answer["error"]), (401, &json!("token_missing")), "{path}");
    }
    let theirs = format!("thread-history?channel_id={}&thread_ts={}", house.theirs.conversation, house.theirs.root);
    assert_eq!(house.read(&theirs).await.0, 403);
    assert_eq!(house.chat.posts(&house.theirs).len(), before);
    assert!(house.chat.reactions(&house.theirs).is_empty());
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named_by_the_codes_that_clients_know() {
    let house = House::closed().await;
    let token = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let needed = json!(["channel_id", "thread_ts", "text"]);
    let (status, answer) = house.post("/slack/post-message", &token, "{}").await;
    assert_eq!((status, &answer["error"], &answer["required"]), (400, &json!("missing_required_body"), &needed));
    for (path, more, code) in [
        ("/slack/post-message", json!({"text": "  "}), "missing_required_body"),
        ("/slack/post-message", json!({"text": 7}), "invalid_text"),
        ("/slack/post-message", json!({"text": "x", "kind": "shout"}), "invalid_kind"),
        ("/slack/post-message", json!({"text": "x", "kind": "block"}), "missing_reason"),
        ("/slack/post-message", json!({"text": "x", "channel": "C2"}), "unknown_argument"),
        ("/slack/post-message", json!({"text": "x".repeat(100_001)}), "too_long"),
        ("/slack/post-message", json!({"text": "<!-- nothing -->"}), "empty"),
        ("/slack/post-message", json!({"text": "x", "channel_id": "C1/../C2"}), "invalid_channel_id"),
        ("/slack/post-message", json!({"text": "x", "thread_ts": "1.1:2"}), "invalid_thread_ts"),
        ("/slack/post-file", json!({}), "missing_required_body"),
        ("/slack/post-file", json!({"file_path": "x", "kind": "wait"}), "invalid_kind"),
        ("/slack/post-file", json!({"file_path": "missing.txt"}), "not_found"),
        ("/slack/post-file", json!({"file_path": "/etc/passwd"}), "not_allowed"),
        ("/slack/post-state", json!({}), "missing_required_body"),
        ("/slack/post-state", json!({"kind": "progress"}), "invalid_kind"),
        ("/slack/post-state", json!({"kind": "wait"}), "missing_reason"),
        ("/slack/react", json!({"name": "a b"}), "invalid_name"),
        ("/slack/react", json!({"name": "eyes", "remove": "perhaps"}), "invalid_remove"),
    ] {
        let (status, answer) = house.mine(path, more.clone()).await;
        assert_eq!((status, &answer["error"]), (400, &json!(code)), "{path} {more}: {answer}");
    }
    let (_, answer) = house.mine("/slack/post-state", json!({"kind": "shout"})).await;
    assert_eq!(answer["allowed"], json!(["final", "block", "wait"]));
    for (path, more, code) in [
        ("/slack/post-message", json!({"text": "x", "kind": "wait", "stop_reason": "a job"}), "no_job"),
        ("/slack/post-state", json!({"kind": "final"}), "no_turn"),
    ] {
        let (status, answer) = house.mine(path, more).await;
        assert_eq!((status, &answer["error"]), (409, &json!(code)), "{path}: {answer}");
    }
    let place = house.place();
    for (query, code) in [
        ("thread-history".to_owned(), "missing_required_query"),
        (format!("thread-history?{place}&limit=many"), "invalid_limit"),
        (format!("thread-history?{place}&limit=0"), "invalid_limit"),
        (format!("thread-history?{place}&format=xml"), "invalid_format"),
        (format!("thread-history?{place}&before_ts=yesterday"), "invalid_before_ts"),
        (format!("thread-history?{place}&limit=1&limit=2"), "repeated_query"),
        (format!("thread-history?{place}&more=1"), "unknown_argument"),
    ] {
        let (status, answer) = house.read(&query).await;
        assert!(status == 400 && answer.contains(code), "{query}: {answer}");
    }
}

#[tokio::test]
async fn the_history_is_the_latest_before_the_bound_oldest_first() {
    let house = House::closed().await;
    for n in 1..=60 {
        house.chat.seed_reply(&house.ours, "U-ada", &format!("reply {n}"));
    }
    let place = house.place();
    let (status, answer) = house.read(&format!("thread-history?{place}&limit=3")).await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let texts = |answer: &Value| -> Vec<String> {
        let messages = answer["messages"].as_array().expect("messages");
        messages.iter().map(|message| message["text"].as_str().expect("a text").to_owned()).collect()
    };
    assert_eq!((status, texts(&answer)), (200, ["reply 58", "reply 59", "reply 60"].map(str::to_owned).to_vec()));
    assert_eq!((&answer["hasMore"], &answer["returnedCount"]), (&json!(true), &json!(3)));
    assert_eq!(
        (&answer["messages"][0]["senderKind"], &answer["messages"][0]["userId"]),
        (&json!("user"), &json!("U-ada"))
    );
    let bound = answer["messages"][0]["messageTs"].as_str().expect("a ts");
    let (_, earlier) = house.read(&format!("thread-history?{place}&limit=2&before_ts={bound}")).await;
    let earlier: Value = serde_json::from_str(&earlier).expect("JSON");
    assert_eq!(texts(&earlier), ["reply 56", "reply 57"]);
    let (_, usual) = house.read(&format!("thread-history?{place}")).await;
    let usual: Value = serde_json::from_str(&usual).expect("JSON");
    assert_eq!((&usual["returnedCount"], &usual["maxLimit"]), (&json!(8), &json!(50)));
    let (_, most) = house.read(&format!("thread-history?{place}&limit=999999999")).await;
    let most: Value = serde_json::from_str(&most).expect("JSON");
    assert_eq!((&most["returnedCount"], &most["maxLimit"]), (&json!(50), &json!(50)));
    // What is blank is as good as left out.
    let (status, blank) = house.read(&format!("thread-history?{place}&limit=&format=&before_ts=&channel_type=")).await;
    assert_eq!((status, serde_json::from_str::<Value>(&blank).expect("JSON")["hasMore"].as_bool()), (200, Some(true)));
    let (status, text) = house.read(&format!("thread-history?{place}&limit=1&format=text&channel_type=channel")).await;
    assert!(status == 200 && text.starts_with("Messages of this thread") && text.contains("reply 60"), "{text}");
}

#[tokio::test]
async fn one_session_keeps_no_other_out() {
    let limits = Limits { requests: 8, session_requests: 4, ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let theirs = format!("{JSON}{}", bearer(&house.token(&house.theirs).await));
    let mut slow = Vec::new();
    for n in 0..40 {
        let mut stream = house.server.connect().await;
        // Whoever has no token is turned away before a byte of the body is waited for.
        let token = if n < 20 { format!("{JSON}{}", bearer("x")) } else { head.clone() };
        let start =
            format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\n{token}content-length: 100\r\n\r\n{{");
        stream.write_all(start.as_bytes()).await.expect("sent");
        slow.push(stream);
    }
    let full = async {
        loop {
            let (status, answer) = house.mine("/slack/post-message", json!({"text": "one more"})).await;
            if status != 200 {
                break (status, answer);
            }
        }
    };
    let (status, answer) = timeout(PATIENCE, full).await.expect("in time");
    assert_eq!((status, &answer["error"]), (429, &json!("too_many_requests")));
    let text = body(&house.theirs, json!({"text": "ours"}));
    let (status, answer) = house.post("/slack/post-message", &theirs, &text).await;
    assert_eq!(status, 200, "{answer}");
    drop(slow);
    let free = async { while house.mine("/slack/post-message", json!({"text": "at last"})).await.0 != 200 {} };
    timeout(PATIENCE, free).await.expect("what was held is given back");
}

#[tokio::test]
async fn an_answer_that_is_lost_is_no_invitation_to_ask_again() {
    let limits = Limits { request: Duration::from_millis(200), ..Limits::default() };
    let house = House::new(Access::Tokens(Arc::new(key())), limits).await;
    house.hold_up(LONG);
    let (status, answer) = house.mine("/slack/post-message", json!({"text": "perhaps"})).await;
    assert_eq!((status, &answer["error"]), (500, &json!("outcome_unknown")), "{answer}");
}

#[tokio::test]
async fn a_post_that_the_platform_refuses_is_told() {
    let house = House::closed().await;
    house.chat.fail_next(Fault::Fail(DeliverError::Refused { code: "is_archived".to_owned() }));
    let (status, answer) = house.mine("/slack/post-message", json!({"text": "hello"})).await;
    assert_eq!(
        (status, &answer["error"], &answer["code"]),
        (502, &json!("not_delivered"), &json!("is_archived")),
        "{answer}"
    );
    assert_eq!((&answer["arrived"], &answer["of"]), (&json!(0), &json!(1)));
    let (_, told) = house.read(&format!("posts/{}", answer["post_id"].as_str().expect("an id"))).await;
    assert!(told.contains("\"refused\""), "{told}");
}

#[tokio::test]
async fn a_reaction_is_put_and_taken_away() {
    let house = House::closed().await;
    assert_eq!(house.mine("/slack/react", json!({"name": ":tada:"})).await, (200, json!({"ok": true})));
    assert_eq!(house.chat.reactions(&house.ours), ["tada"]);
    assert_eq!(house.mine("/slack/react", json!({"name": "tada", "remove": true})).await.0, 200);
    assert!(house.chat.reactions(&house.ours).is_empty());
}

#[tokio::test]
async fn thirty_two_clients_post_at_once_and_none_is_lost() {
    let house = House::closed().await;
    let posts = (0..32).map(|n| {
        let house = &house;
        async move { house.mine("/slack/post-message", json!({"text": format!("client {n} says")})).await }
    });
    for (status, answer) in futures_util::future::join_all(posts).await {
        assert_eq!((status, &answer["state"]), (200, &json!("sent")), "{answer}");
    }
    let posts = house.chat.posts(&house.ours);
    for n in 0..32 {
        assert_eq!(posts.iter().filter(|text| text.contains(&format!("client {n} says"))).count(), 1, "{n}");
    }
}

#[tokio::test]
async fn a_thousand_half_open_connections_keep_nobody_out() {
    let house = House::closed().await;
    let mut half_open = Vec::new();
    for n in 0..1000 {
        let stream = timeout(PATIENCE, tokio::net::TcpStream::connect(house.server.address)).await.expect("in time");
        let mut stream = stream.expect("a connection");
        if n % 2 == 0 {
            // It may have been let go already.
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"POST /slack/post-message HTTP/1.1\r\nhost: ").await;
        }
        half_open.push(stream);
    }
    let posted =
        timeout(Duration::from_secs(5), house.mine("/slack/post-message", json!({"text": "still here"}))).await;
    assert_eq!(posted.expect("long before their limits").0, 200);
    drop(half_open);
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    let head = format!("{JSON}{token}");
    let large = " ".repeat(100 * 1024 * 1024);
    let answer = timeout(PATIENCE, house.post("/slack/post-message", &head, &large)).await.expect("in time");
    assert_eq!((answer.0, &answer.1["error"]), (413, &json!("body_too_large")));
    assert_eq!(house.mine("/slack/post-message", json!({"text": "still here"})).await.0, 200);
}

#[tokio::test]
async fn every_route_has_its_schema_and_its_documentation() {
    let house = House::closed().await;
    let (status, _, document) = house.server.ask("GET", "/openapi.json", "localhost", "").await;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let text = include_str!("../../../docs/http-api.md");
    let documented: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).map(str::to_owned).collect();
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let method = method.to_uppercase();
            described.insert(format!("{method} {path}"));
            let chapter = text.split(&format!("### `{method} {path}`\n")).nth(1).unwrap_or_default();
            let chapter = chapter.split("\n### ").next().unwrap_or_default();
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
            let queries = operation["parameters"].as_array().into_iter().flatten();
            let queries =
                queries.filter(|query| query["in"] == "query").map(|query| query["name"].as_str().expect("a name"));
            for name in fields.chain(queries.map(str::to_owned)) {
                assert!(chapter.contains(&format!("`{name}`")), "{method} {path} lacks `{name}` in docs/http-api.md");
            }
            // It is served: whatever it answers, it is not that there is nothing.
            let path = path.replace("{key}", "C1:1.1").replace("{id}", "x");
            let headers = if method == "POST" { "content-length: 0\r\n" } else { "" };
            let (status, _, body) = house.server.ask(&method, &path, "localhost", headers).await;
            assert!(status != 404 && status != 405, "{method} {path}: {body}");
        }
    }
    assert_eq!(described, documented, "routes that are served, and chapters of docs/http-api.md");
}

/// Something of another type than a schema wants.
fn wrong(schema: &Value) -> Value {
    if schema["type"] == "string" { json!(7) } else { json!("neither number nor flag") }
}

#[tokio::test]
async fn the_schemas_say_what_is_taken() {
    let house = House::closed().await;
    let (_, _, document) = house.server.ask("GET", "/openapi.json", "localhost", "").await;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    let mut fields = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let schema = &methods["post"]["requestBody"]["content"]["application/json"]["schema"];
        let Some(properties) = schema["properties"].as_object() else { continue };
        for (name, field) in properties {
            fields += 1;
            // A word that is not one of the few, a text that is too long, and what is no text at all.
            let mut bad = vec![wrong(field)];
            if field["enum"].is_array() {
                bad.push(json!("none of these"));
            }
            if let Some(most) = field["maxLength"].as_u64() {
                bad.push(json!("x".repeat(most as usize + 1)));
            }
            for value in bad {
                // An alias counts where the name itself is not given.
                let (status, answer) = house.mine(path, json!({name: value})).await;
                assert_eq!(status, 400, "{path} {name}: {answer}");
            }
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.map(|name| name.as_str().expect("a name")) {
            let (channel, root) = (&house.ours.conversation, &house.ours.root);
            let mut without =
                json!({"channel_id": channel, "thread_ts": root, "text": "x", "kind": "final", "name": "x"});
            without
                .as_object_mut()
                .expect("an object")
                .retain(|given, _| properties.contains_key(given) && given != name);
            let (status, answer) = house.post(path, &head, &without.to_string()).await;
            assert_eq!((status, &answer["error"]), (400, &json!("missing_required_body")), "{path} without {name}");
            assert!(answer["required"].as_array().is_some_and(|all| all.contains(&json!(name))), "{answer}");
        }
        for condition in
            schema["allOf"].as_array().into_iter().flatten().filter(|condition| condition["if"].is_object())
        {
            for kind in condition["if"]["properties"]["kind"]["enum"].as_array().expect("kinds") {
                let (_, answer) = house.mine(path, json!({"text": "x", "file_path": "x", "kind": kind})).await;
                let possible = [json!("missing_reason"), json!("unknown_argument"), json!("invalid_kind")];
                assert!(possible.contains(&answer["error"]), "{path} {kind}: {answer}");
            }
        }
    }
    assert!(fields > 20, "{fields} fields were looked at");
    // Of another thread nobody is told what else is wrong.
    let nothing = json!({"channel_id": house.theirs.conversation, "thread_ts": house.theirs.root, "nobody": "knows"});
    for path in ["post-message", "post-file", "post-state", "react"] {
        let (status, answer) = house.post(&format!("/slack/{path}"), &head, &nothing.to_string()).await;
        assert_eq!((status, &answer["error"]), (403, &json!("forbidden")), "{path}");
    }
}

#[tokio::test]
async fn a_client_that_waits_hears_that_its_post_is_queued() {
    let house = House::closed().await;
    let token = bearer(&house.token(&house.ours).await);
    // Slack wants us to wait for longer than a client does.
    house.hold_up(LONG);
    let text = body(&house.ours, json!({"text": "later"}));
    let more = format!("{JSON}{token}content-length: {}\r\n\r\n{text}", text.len());
    let request = format!("POST /slack/post-message HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
    let mut stream = house.server.connect().await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE * 2, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    let (status, answer) = parse(&answer);
    assert_eq!((status, &answer["state"]), (202, &json!("queued")), "{answer}");
    let (_, told) = house.read(&format!("posts/{}", answer["post_id"].as_str().expect("an id"))).await;
    assert!(told.contains("\"queued\""), "{told}");
}

/// What a value has that its schema does not allow: types, words, missing and surplus fields, all the way down.
fn objections(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let is = |kind: &str| match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: {other} is no type that this reads"),
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    if !kinds.is_empty() && !kinds.into_iter().any(is) {
        found.push(format!("{at}: {value} is not of {}", schema["type"]));
    }
    if schema.get("const").is_some_and(|only| only != value) {
        found.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    for item in value.as_array().into_iter().flatten() {
        objections(&schema["items"], item, &format!("{at}[]"), found);
    }
    let Some(fields) = value.as_object() else { return };
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(known) => objections(known, field, &format!("{at}.{name}"), found),
            None if schema["additionalProperties"] == false => found.push(format!("{at}: {name} is not described")),
            None => {}
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
}

#[tokio::test]
async fn answers_are_what_the_schemas_say() {
    let house = House::closed().await;
    let (_, _, document) = house.server.ask("GET", "/openapi.json", "localhost", "").await;
    let document: Value = serde_json::from_str(&document).expect("JSON");
    let conforms = |method: &str, path: &str, (status, answer): &(u16, Value)| {
        let responses = &document["paths"][path][method]["responses"];
        let response = responses.get(status.to_string()).unwrap_or(&responses["default"]);
        let mut schema = &response["content"]["application/json"]["schema"];
        if let Some(named) = schema["$ref"].as_str() {
            schema = document.pointer(&named[1..]).expect("a schema");
        }
        assert!(schema["properties"].is_object(), "{method} {path} {status} is not described");
        let mut found = Vec::new();
        objections(schema, answer, "answer", &mut found);
        assert!(found.is_empty(), "{method} {path} {status}: {found:#?}\n{answer}");
    };
    let sent = house.mine("/slack/post-message", json!({"text": "one"})).await;
    conforms("post", "/slack/post-message", &sent);
    let file = house.mine("/slack/post-file", json!({"filename": "a.txt", "content_base64": "YQ=="})).await;
    assert!(file.1["file"].is_object(), "{}", file.1);
    conforms("post", "/slack/post-file", &file);
    conforms("post", "/slack/react", &house.mine("/slack/react", json!({"name": "eyes"})).await);
    conforms("post", "/slack/post-state", &house.mine("/slack/post-state", json!({"kind": "final"})).await);
    let retry = House::retry(&house.ours);
    let head = format!("{JSON}{}", bearer(&house.token(&house.ours).await));
    conforms("post", "/sessions/{key}/retry", &house.post(&retry, &head, "{}").await);
    house.chat.fail_next(Fault::Fail(DeliverError::Refused { code: "is_archived".to_owned() }));
    let refused = house.mine("/slack/post-message", json!({"text": "two"})).await;
    conforms("post", "/slack/post-message", &refused);
    for post in [&sent, &file, &refused] {
        let id = post.1["post_id"].as_str().expect("an id");
        let (status, stands) = house.read(&format!("posts/{id}")).await;
        conforms("get", "/slack/posts/{id}", &(status, serde_json::from_str(&stands).expect("JSON")));
    }
    let plan = FileRef { id: "F1".to_owned(), name: Some("plan.txt".to_owned()), size: Some(4), ..FileRef::default() };
    let plan = MemoryFile { shown: plan, bytes: b"plan".to_vec(), ..MemoryFile::default() };
    house.chat.share("C1", Some(&house.ours.root), "U-ada", "@U-bob see this", &[plan]);
    let (status, history) = house.read(&format!("thread-history?{}", house.place())).await;
    assert!(history.contains("plan.txt"), "{history}");
    conforms("get", "/slack/thread-history", &(status, serde_json::from_str(&history).expect("JSON")));
}
