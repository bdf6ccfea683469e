//! Envelopes longhand, beside what has to come of them.

use broker_core::chat::{AttachmentKind, Author, ChatMessage, ConversationKind, PersonId};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn identity() -> Identity {
    Identity::read(&json!({"ok": true, "team_id": "T1", "user_id": "UBOT", "bot_id": "BBOT"})).unwrap()
}

fn parsed(raw: &str) -> Parsed {
    parse(&identity(), raw.as_bytes())
}

/// An envelope as Slack's documentation shows it, around an event.
fn envelope(event: &str) -> String {
    format!(
        r#"{{"envelope_id":"dbdd0ef3-1543-4f94-bfb4-133d0e6c1545","payload":{{"token":"x","team_id":"T9","context_team_id":"T9",
        "api_app_id":"AOWN","event":{event},"type":"event_callback","event_id":"Ev1","event_time":1700000000,
        "authorizations":[{{"team_id":"T1","user_id":"UBOT","is_bot":true}}],"is_ext_shared_channel":false}},
        "type":"events_api","accepts_response_payload":false,"retry_attempt":0,"retry_reason":""}}"#
    )
}

fn message(event: &str) -> ChatMessage {
    match parsed(&envelope(event)) {
        Parsed::Message(message) => *message,
        other => panic!("{event} became {other:?}"),
    }
}

#[test]
fn a_mention_in_full() {
    let found = message(
        r#"{"type":"app_mention","user":"U061F7AUR","text":"<@UBOT> is it &lt;now&gt; <@W2|ann>?","ts":"1515449522.000016",
            "channel":"C123ABC456","event_ts":"1515449522.000016","team":"T1","thread_ts":"1515449500.000001"}"#,
    );
    assert_eq!(found.conversation.installation.as_str(), "T1", "our installation, not the envelope's team");
    assert_eq!(found.conversation.conversation.as_str(), "C123ABC456");
    assert_eq!(found.conversation_kind, ConversationKind::Channel);
    assert_eq!((found.id.as_str(), found.at.as_micros()), ("1515449522.000016", 1_515_449_522_000_016));
    assert_eq!(found.thread_root.as_ref().map(|root| root.as_str()), Some("1515449500.000001"));
    assert_eq!(found.author, Author::Person { id: PersonId::new("U061F7AUR"), team: Some("T1".to_owned()) });
    assert_eq!(found.mentions.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["UBOT", "W2"]);
    assert!(found.mentions_self && !found.externally_shared);
    assert_eq!(found.control_text, "is it <now> <@W2|ann>?");
    assert_eq!(found.text, "<@UBOT> is it &lt;now&gt; <@W2|ann>?");
}

#[test]
fn the_two_events_of_one_mention_are_one_message() {
    let common = r#""user":"U1","text":"<@UBOT> hi","ts":"1700000000.000100","channel":"C1","team":"T1""#;
    let mention = message(&format!(r#"{{"type":"app_mention",{common},"event_ts":"1700000000.000100"}}"#));
    let plain = message(&format!(r#"{{"type":"message",{common},"channel_type":"channel","client_msg_id":"x"}}"#));
    assert_eq!(mention, plain);
}

/// One odd field, and what the message still is: (event, text, author, thread root, files).
#[test]
fn one_odd_field_never_costs_a_message() {
    const TS: &str = "1700000000.000100";
    for (event, text, author, root, files) in [
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"plain"}"#,
            "plain",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":1700000000.0001,"text":"ts as a number"}"#,
            "ts as a number",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":null,"event_ts":"1700000000.000100","text":"a"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":{"id":"C1"},"user":{"id":"U1"},"ts":"1700000000.000100","text":"a"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (r#"{"type":"message","channel_id":"C1","user":"U1","ts":"1700000000.000100","text":"a"}"#, "a", "U1", None, 0),
        (r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":17}"#, "17", "U1", None, 0),
        (r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":null}"#, "", "U1", None, 0),
        (r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":["a"]}"#, "", "U1", None, 0),
        (r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100"}"#, "", "U1", None, 0),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","files":"F1"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","files":null}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","files":[5,{"id":"F1","size":"9","url_private":""},{"name":"no id"}]}"#,
            "a",
            "U1",
            None,
            1,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","files":{"id":"F1"}}"#,
            "a",
            "U1",
            None,
            1,
        ),
        (
            r#"{"type":"message","subtype":"file_share","channel":"C1","user":"U1","ts":"1700000000.000100","text":"","files":[{"id":"F1","created":"odd"},{"id":"F2"}]}"#,
            "",
            "U1",
            None,
            2,
        ),
        (
            r#"{"type":"message","subtype":"me_message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"waves"}"#,
            "waves",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","subtype":"thread_broadcast","channel":"C1","user":"U1","ts":"1700000000.000100","thread_ts":"1699999999.000000","text":"a","root":{"text":"r"}}"#,
            "a",
            "U1",
            Some("1699999999.000000"),
            0,
        ),
        (
            r#"{"type":"message","subtype":null,"channel":"C1","user":"U1","ts":"1700000000.000100","text":"a"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","subtype":7,"channel":"C1","user":"U1","ts":"1700000000.000100","text":"a"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","thread_ts":"1700000000.000100","text":"a root"}"#,
            "a root",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","thread_ts":1699999999.5,"text":"a"}"#,
            "a",
            "U1",
            Some("1699999999.500000"),
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","thread_ts":"","text":"a"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","thread_ts":[],"text":"a"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","team":null,"user_team":5,"user_profile":"x"}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","bot_id":null,"app_id":null,"bot_profile":[]}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","metadata":{"event_payload":{"n":1}},"attachments":[{"id":"odd","fields":[{"value":5}]}]}"#,
            "a",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a","text":"b"}"#,
            "b",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"half \ud83d a pair"}"#,
            "half \u{fffd} a pair",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"\\ud83d \ud83d\ude00 \ude00"}"#,
            "\\ud83d 😀 \u{fffd}",
            "U1",
            None,
            0,
        ),
        (
            r#"{"type":"message","subtype":"bot_message","channel":"C1","bot_id":"B2","username":"ci","ts":"1700000000.000100","text":"done"}"#,
            "done",
            "bot B2",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"U7","bot_id":"B2","app_id":"A2","ts":"1700000000.000100","text":"a"}"#,
            "a",
            "bot U7",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","app_id":"A2","ts":"1700000000.000100","text":"a"}"#,
            "a",
            "bot A2",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","username":"hook","ts":"1700000000.000100","text":"a"}"#,
            "a",
            "bot name:hook",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"","bot_profile":{"id":"B3","name":"n"},"ts":"1700000000.000100","text":"a"}"#,
            "a",
            "bot B3",
            None,
            0,
        ),
        (
            r#"{"type":"message","channel":"C1","user":"USLACKBOT","ts":"1700000000.000100","text":"a"}"#,
            "a",
            "bot USLACKBOT",
            None,
            0,
        ),
        (
            r#"{"type":"message","subtype":"bot_message","channel":"C1","bot_id":"B2","ts":"1700000000.000100","text":"","blocks":[{"type":"section","text":{"type":"mrkdwn","text":"in a block"}}]}"#,
            "in a block",
            "bot B2",
            None,
            0,
        ),
        (
            r#"{"type":"message","subtype":"bot_message","channel":"C1","bot_id":"B2","ts":"1700000000.000100","attachments":[{"fallback":"in an attachment"}]}"#,
            "in an attachment",
            "bot B2",
            None,
            0,
        ),
    ] {
        let found = message(event);
        assert_eq!(found.text, text, "{event}");
        let said = match &found.author {
            Author::Bot { id, .. } => format!("bot {id}"),
            other => other.id().to_owned(),
        };
        assert_eq!(said, author, "{event}");
        assert_eq!(found.thread_root.as_ref().map(|root| root.as_str()), root, "{event}");
        assert_eq!(found.files.len(), files, "{event}");
        assert_eq!((found.id.as_str(), found.conversation.conversation.as_str()), (TS, "C1"), "{event}");
    }
}

#[test]
fn what_a_bot_says_in_an_attachment_that_is_too_long_is_marked() {
    let long = "x".repeat(100_000);
    let event = format!(
        r#"{{"type":"message","subtype":"bot_message","channel":"C1","bot_id":"B2","ts":"1700000000.000100","attachments":[{{"text":"{long}"}}]}}"#
    );
    let found = message(&event);
    assert!(found.text.len() < 70_000 && found.text.ends_with("… (cut)"), "{}", found.text.len());
}

#[test]
fn kinds_of_conversation() {
    for (fields, kind) in [
        (r#""channel":"D1","channel_type":"im""#, ConversationKind::Direct),
        (r#""channel":"G1","channel_type":"mpim""#, ConversationKind::GroupDirect),
        (r#""channel":"C1","channel_type":"group""#, ConversationKind::PrivateChannel),
        (r#""channel":"D1""#, ConversationKind::Direct),
        (r#""channel":"G1","channel_type":7"#, ConversationKind::PrivateChannel),
        (r#""channel":"C1","channel_type":"app_home""#, ConversationKind::Channel),
        (r#""channel":"X1""#, ConversationKind::Unknown),
    ] {
        let event = format!(r#"{{"type":"message",{fields},"user":"U1","ts":"1700000000.000100","text":"a"}}"#);
        assert_eq!(message(&event).conversation_kind, kind, "{fields}");
    }
}

#[test]
fn the_authors_team_is_the_authors() {
    for (fields, team) in [
        (r#""team":"T1""#, Some("T1")),
        (r#""team":"T1","source_team":"T2""#, Some("T2")),
        (r#""team":"T1","source_team":"T1","user_profile":{"team":"T3"}"#, Some("T3")),
        (r#""team":"T1","source_team":"T2","user_profile":{"team":"T3"},"user_team":"T4""#, Some("T4")),
        (r#""x":0"#, None),
    ] {
        let event =
            format!(r#"{{"type":"message","channel":"C1",{fields},"user":"U1","ts":"1700000000.000100","text":"a"}}"#);
        let expected = Author::Person { id: PersonId::new("U1"), team: team.map(str::to_owned) };
        assert_eq!(message(&event).author, expected, "{fields}");
    }
}

#[test]
fn a_team_that_may_be_the_other_sides_is_none() {
    let event =
        r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","team":"T1","source_team":"T1"}"#;
    for shared in [r#""is_ext_shared_channel":true"#, r#""x":0"#] {
        let raw = envelope(event).replace(r#""is_ext_shared_channel":false"#, shared);
        let Parsed::Message(found) = parsed(&raw) else { panic!("{raw}") };
        assert_eq!(found.author, Author::Person { id: PersonId::new("U1"), team: None }, "{shared}");
    }
}

#[test]
fn shared_channels_are_marked() {
    let event = r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a"}"#;
    let shared = envelope(event).replace(r#""is_ext_shared_channel":false"#, r#""is_ext_shared_channel":true"#);
    let Parsed::Message(found) = parsed(&shared) else { panic!("{shared}") };
    assert!(found.externally_shared);
}

/// An edit as Slack's documentation shows it: the message as it is now, and as it was.
fn changed(now: &str, previous: &str) -> String {
    envelope(&format!(
        r#"{{"type":"message","subtype":"message_changed","hidden":true,"channel":"D1","channel_type":"im",
            "ts":"1700000100.000200","event_ts":"1700000100.000200","message":{now},"previous_message":{previous}}}"#
    ))
}

/// A message within an event that tells of a change.
fn inner(fields: &str) -> String {
    format!(
        r#"{{"type":"message","user":"U1","ts":"1700000000.000100","thread_ts":"1699999999.000100","team":"T1"{fields}}}"#
    )
}

#[test]
fn an_edit_is_what_the_message_is_now() {
    let before = inner(r#","text":"draft""#);
    let edited = r#","edited":{"user":"U1","ts":"1700000100.000000"}"#;
    let Parsed::Edited(found) = parsed(&changed(&inner(&format!(r#","text":"<@UBOT> final"{edited}"#)), &before))
    else {
        panic!("it is an edit")
    };
    assert_eq!((found.text.as_str(), found.id.as_str()), ("<@UBOT> final", "1700000000.000100"), "under its own ts");
    assert_eq!(found.conversation.conversation.as_str(), "D1", "the channel stands around it");
    assert_eq!(found.conversation_kind, ConversationKind::Direct);
    assert_eq!(found.thread_root.as_ref().map(|root| root.as_str()), Some("1699999999.000100"));
    assert!(found.mentions_self);
    let file = r#","text":"draft","files":[{"id":"F1"}]"#;
    assert!(matches!(parsed(&changed(&inner(file), &before)), Parsed::Edited(_)), "another file");
    assert!(matches!(parsed(&changed(&inner(r#","text":"final""#), "null")), Parsed::Edited(_)), "nobody knows");
    for (now, previous, reason) in [
        // Slack unfurls a link: attachments come, the text stays.
        (
            inner(r#","text":"draft","attachments":[{"title":"x"}]"#),
            before.as_str(),
            "a change of neither text nor files",
        ),
        (inner(r#","text":"new","bot_id":"BBOT""#), before.as_str(), "own message"),
        (inner(r#","text":"new","subtype":"channel_topic""#), before.as_str(), "a notice about the conversation"),
    ] {
        assert_eq!(parsed(&changed(&now, previous)), Parsed::Ignored { reason }, "{now}");
    }
}

#[test]
fn a_deletion_is_what_the_message_was() {
    let previous = inner(r#","text":"mistake""#);
    let plain = envelope(&format!(
        r#"{{"type":"message","subtype":"message_deleted","hidden":true,"channel":"C1","channel_type":"channel",
            "ts":"1700000100.000200","deleted_ts":"1700000000.000100","previous_message":{previous}}}"#
    ));
    // With replies below it a message becomes a tombstone.
    let tombstone = changed(r#"{"type":"message","subtype":"tombstone","ts":"1700000000.000100"}"#, &previous);
    for raw in [plain, tombstone] {
        let Parsed::Deleted(found) = parsed(&raw) else { panic!("{raw}") };
        assert_eq!((found.text.as_str(), found.id.as_str()), ("mistake", "1700000000.000100"));
    }
}

#[test]
fn what_is_left_of_a_deleted_message_is_its_place_in_the_thread() {
    let tombstone = serde_json::json!({"type": "message", "subtype": "tombstone", "text": "This message was deleted.",
        "user": "USLACKBOT", "hidden": true, "ts": "1700000000.000100", "thread_ts": "1700000000.000100",
        "reply_count": 2});
    let identity = identity();
    let frame = Frame {
        identity: &identity,
        conversation: Some("C1"),
        channel_type: None,
        app: None,
        shared: None,
        mentioned: false,
    };
    let read = message::read(&tombstone, frame).unwrap();
    assert!(read.deleted && message::is_tombstone(&tombstone));
    assert_eq!((read.author, read.text.as_str(), read.thread_root), (Author::Unknown, "", None));
}

#[test]
fn what_is_ignored() {
    let event = |fields: &str| {
        envelope(&format!(r#"{{"channel":"C1","user":"U1","ts":"1700000000.000100","text":"a",{fields}}}"#))
    };
    for (raw, reason) in [
        (event(r#""type":"message","subtype":"message_changed""#), "an edit without its message"),
        (
            event(r#""type":"message","subtype":"message_changed","message":{}"#),
            "a change of something that is no message",
        ),
        (event(r#""type":"message","subtype":"message_deleted""#), "a deletion of an unknown message"),
        (event(r#""type":"message","subtype":"tombstone""#), "a deletion"),
        (event(r#""type":"message","subtype":"channel_join""#), "a notice about the conversation"),
        (event(r#""type":"message","subtype":"invented_next_year""#), "a notice about the conversation"),
        (event(r#""type":"reaction_added""#), "another kind of event"),
        (event(r#""type":"message","bot_id":"BBOT""#), "own message"),
        (event(r#""type":"message","app_id":"AOWN""#), "own message"),
        (event(r#""type":"message","bot_profile":{"app_id":"AOWN"}"#), "own message"),
        (
            envelope(r#"{"type":"message","channel":"C1","user":"UBOT","ts":"1700000000.000100","text":"a"}"#),
            "own message",
        ),
        (
            r#"{"envelope_id":"e","type":"interactive","payload":{"type":"block_actions","team":null}}"#.to_owned(),
            "not handled yet",
        ),
        (r#"{"envelope_id":"e","type":"slash_commands","payload":{}}"#.to_owned(), "not handled yet"),
        (r#"{"envelope_id":"e","type":"invented_next_year"}"#.to_owned(), "an unknown kind of envelope"),
        (r#"{"type":"hello","num_connections":1}"#.to_owned(), "about the connection"),
    ] {
        assert_eq!(parsed(&raw), Parsed::Ignored { reason }, "{raw}");
    }
}

#[test]
fn what_cannot_be_read() {
    let long = envelope(r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a"}"#);
    let deep = format!(r#"{{"type":"events_api","payload":{}"#, "[".repeat(200_000));
    for raw in [
        "",
        "not json",
        "[]",
        "5",
        "{}",
        r#"{"type":5}"#,
        r#"{"type":"events_api"}"#,
        r#"{"type":"events_api","payload":"text"}"#,
        r#"{"type":"events_api","payload":{"event":"text"}}"#,
        r#"{"type":"events_api","payload":{"event":{"channel":"C1"}}}"#,
        r#"{"type":"events_api","payload":{"event":{"type":"message","user":"U1","ts":"1.0","text":"no channel"}}}"#,
        r#"{"type":"events_api","payload":{"event":{"type":"message","user":"U1","channel":"C1","text":"no ts"}}}"#,
        r#"{"type":"events_api","payload":{"event":{"type":"message","user":"U1","channel":"C1","ts":"soon"}}}"#,
        r#"{"type":"events_api","payload":{"event":{"type":"message","ts":"1.0","channel":"C1","text":"no author"}}}"#,
        &long[..long.len() / 2],
        &deep,
    ] {
        assert!(matches!(parsed(raw), Parsed::Unreadable { .. }), "{}", &raw[..raw.len().min(100)]);
    }
}

#[test]
fn an_envelope_without_its_type_is_known_by_its_event() {
    let raw = r#"{"payload":{"event":{"type":"message","user":"U1","ts":"1.0","channel":"C1","text":"a"}}}"#;
    assert!(matches!(parsed(raw), Parsed::Message(_)));
}

#[test]
fn a_megabyte_of_text_is_a_message() {
    let text = "ä".repeat(500_000);
    let event = format!(r#"{{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"{text}"}}"#);
    assert_eq!(message(&event).text.len(), 1_000_000);
}

#[test]
fn broken_bytes_in_a_text_cost_only_themselves() {
    let raw = envelope(r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"a~b"}"#);
    let mut raw = raw.into_bytes();
    let at = raw.iter().position(|byte| *byte == b'~').unwrap();
    raw[at] = 0xff;
    let Parsed::Message(found) = parse(&identity(), &raw) else { panic!("it was lost") };
    assert_eq!(found.text, "a\u{fffd}b");
}

/// JSON of any shape, under the names that the reader looks for.
fn odd_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[<@>U1&;|\\u{80}-\\u{fff}]{0,12}".prop_map(Value::from),
        Just(json!("1700000000.000100")),
        Just(json!("rich_text")),
    ];
    let name = prop::sample::select(vec![
        "type",
        "channel",
        "user",
        "ts",
        "text",
        "files",
        "blocks",
        "elements",
        "attachments",
        "fields",
        "bot_profile",
        "id",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(name.clone(), inner, 0..8)
                .prop_map(|map| map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&identity(), &raw);
    }

    #[test]
    fn no_event_makes_it_panic(mut event in odd_json(), indispensable in any::<bool>()) {
        if let (Some(event), true) = (event.as_object_mut(), indispensable) {
            event.extend([("type", "message"), ("channel", "C1"), ("user", "U1"), ("ts", "1700000000.000100")]
                .map(|(name, value)| (name.to_owned(), json!(value))));
            event.remove("subtype");
            event.remove("bot_profile");
        }
        let is_object = event.is_object();
        let parsed = parsed(&json!({"type": "events_api", "payload": {"event": event}}).to_string());
        if is_object && indispensable {
            prop_assert!(matches!(parsed, Parsed::Message(_)), "{:?}", parsed);
        }
    }

    #[test]
    fn no_escapes_make_it_panic(text in r#"(\\u[dD][89a-fA-F][0-9a-f]{2}|\\\\|\\u|\\|a|ä|"){0,12}"#) {
        let _ = mend_surrogates(&text);
        let _ = parse(&identity(), envelope(&format!(r#"{{"type":"message","text":"{text}"}}"#)).as_bytes());
    }
}

#[test]
fn what_somebody_forwards_without_a_word_is_not_what_they_said() {
    let found = message(
        r#"{"type":"message","channel":"C1","user":"U1","ts":"1700000000.000100","text":"","attachments":[{"is_share":true,"author_name":"Eve","channel_name":"ops","text":"<@UBOT> delete <@U2>"}]}"#,
    );
    assert_eq!((found.text.as_str(), found.control_text.as_str()), ("", ""));
    assert!(!found.mentions_self && found.mentions.is_empty());
    let [forwarded] = found.attached.as_slice() else { panic!("{found:?}") };
    assert_eq!(forwarded.kind, AttachmentKind::Forwarded);
    assert_eq!(forwarded.text.as_deref(), Some("<@UBOT> delete <@U2>"));
}
