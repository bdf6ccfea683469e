use super::*;

fn post(text: &str, kind: PostKind, reason: Option<&str>) -> ToolCommand {
    ToolCommand::Post { text: text.into(), kind, reason: reason.map(Into::into) }
}

fn state(kind: PostKind, reason: Option<&str>) -> ToolCommand {
    ToolCommand::State { kind, reason: reason.map(Into::into) }
}

fn react(name: &str, on: bool) -> ToolCommand {
    ToolCommand::React { name: name.into(), on }
}

fn history(before: Option<&str>, limit: Option<usize>) -> ToolCommand {
    ToolCommand::History { before: before.map(MessageId::new), limit }
}

#[test]
fn good_calls() {
    let broker = |action: &str, arguments: Value| json!({"action": action, "arguments": arguments});
    let cases = [
        ("post", json!({"text": "a"}), post("a", PostKind::Progress, None)),
        ("post", json!({"text": "a", "kind": null, "reason": null}), post("a", PostKind::Progress, None)),
        ("post", json!({"text": " a\n", "kind": " Final "}), post(" a\n", PostKind::Final, None)),
        ("post", json!({"text": "a", "kind": "block", "reason": "b"}), post("a", PostKind::Block, Some("b"))),
        ("post", json!({"text": "a", "kind": "wait", "reason": "b"}), post("a", PostKind::Wait, Some("b"))),
        ("post", json!({"text": "a", "reason": " "}), post("a", PostKind::Progress, None)),
        ("post", json!("{\"text\": \"a\"}"), post("a", PostKind::Progress, None)),
        ("broker", json!({"action": "help"}), ToolCommand::Help),
        ("broker", json!({"action": " HELP ", "arguments": null}), ToolCommand::Help),
        ("broker", json!({"action": "help", "arguments": ""}), ToolCommand::Help),
        ("broker", broker("state", json!({"kind": "final"})), state(PostKind::Final, None)),
        ("broker", broker("state", json!({"kind": "wait", "reason": "x"})), state(PostKind::Wait, Some("x"))),
        ("broker", broker("state", json!("{\"kind\":\"final\"}")), state(PostKind::Final, None)),
        ("broker", broker("react", json!({"name": ":tada:"})), react("tada", true)),
        ("broker", broker("react", json!({"name": "eyes", "remove": "True"})), react("eyes", false)),
        ("broker", json!({"action": "history"}), history(None, None)),
        ("broker", broker("history", json!({"before": "1.2", "limit": 5})), history(Some("1.2"), Some(5))),
        ("broker", broker("history", json!({"before": "", "limit": "5"})), history(None, Some(5))),
        ("broker", broker("history", json!({"limit": 5.0})), history(None, Some(5))),
        ("broker", broker("file", json!({"path": "a.csv"})), file("a.csv", PostKind::Progress)),
        ("broker", broker("file", json!({"path": "/x", "kind": "final", "title": " "})), file("/x", PostKind::Final)),
    ];
    for (tool, arguments, expected) in cases {
        assert_eq!(parse(tool, &arguments).as_ref(), Ok(&expected), "{tool} {arguments}");
    }
}

fn file(path: &str, kind: PostKind) -> ToolCommand {
    let (name, content_type, title, comment, alt_text, snippet_type, reason) =
        (None, None, None, None, None, None, None);
    let source = FileSource::Path(path.to_owned());
    ToolCommand::File(FileWish { source, name, content_type, title, comment, alt_text, snippet_type, kind, reason })
}

#[test]
fn bad_calls() {
    let broker = |action: &str, arguments: Value| json!({"action": action, "arguments": arguments});
    let cases = [
        ("say", json!({}), "unknown_tool", "`post` and `broker`".to_owned()),
        ("post", json!([]), "wrong_type", "have to be a JSON object; it takes `text`".into()),
        ("post", json!("text"), "wrong_type", "JSON object".into()),
        ("post", json!({}), "missing_argument", "needs the argument `text`".into()),
        ("post", Value::Null, "missing_argument", "needs the argument `text`".into()),
        ("post", json!({"text": 5}), "wrong_type", "`text` has to be a string, and is 5".into()),
        ("post", json!({"text": " \n"}), "empty", "`text` has to be a string, and is empty".into()),
        ("post", json!({"text": "a", "kind": "notice"}), "not_allowed", "one of progress, final".into()),
        ("post", json!({"text": "a", "kind": 1}), "wrong_type", "one of progress, final".into()),
        ("post", json!({"text": "a", "kind": "block"}), "missing_argument", "kind `block` needs `reason`".into()),
        (
            "post",
            json!({"text": "a", "kind": "wait", "reason": " "}),
            "missing_argument",
            "kind `wait` needs `reason`".into(),
        ),
        ("post", json!({"text": "a", "channel": "C1"}), "unknown_argument", "no argument `channel`".into()),
        ("post", json!({"text": "a".repeat(MAX_TEXT + 1)}), "too_long", "100000 are the most".into()),
        ("broker", json!({}), "missing_argument", "needs the argument `action`".into()),
        ("broker", broker("file", json!({})), "missing_argument", "needs the argument `path`".into()),
        ("broker", broker("file", json!({"path": "a", "kind": "block"})), "missing_argument", "needs `reason`".into()),
        ("broker", json!({"action": "fly"}), "unknown_action", "`help`, `file`, `state`, `react`, `history`".into()),
        ("broker", json!({"action": "history", "limit": 5}), "unknown_argument", "`arguments`".into()),
        ("broker", broker("help", json!({"x": 1})), "unknown_argument", "it takes none".into()),
        ("broker", broker("help", json!(5)), "wrong_type", "a JSON object, and is 5".into()),
        ("broker", broker("state", json!({})), "missing_argument", "`kind`".into()),
        ("broker", broker("state", json!({"kind": "progress"})), "not_allowed", "final, block, wait".into()),
        ("broker", broker("state", json!({"kind": "block"})), "missing_argument", "`reason`".into()),
        ("broker", broker("history", json!({"before": 1.5})), "wrong_type", "a string".into()),
        ("broker", broker("history", json!({"limit": 0})), "not_allowed", "from 1 to 1000".into()),
        ("broker", broker("history", json!({"limit": 2.5})), "wrong_type", "a whole number".into()),
        ("broker", broker("history", json!({"limit": -1})), "wrong_type", "a whole number".into()),
        ("broker", broker("history", json!({"limit": true})), "wrong_type", "and is true".into()),
    ];
    for (tool, arguments, code, part) in cases {
        let refusal = parse(tool, &arguments).expect_err(&format!("{tool} {arguments}"));
        assert_eq!(refusal.code, code, "{tool} {arguments}: {}", refusal.message);
        assert!(refusal.message.contains(&part), "{tool} {arguments}: {}", refusal.message);
    }
}

/// A value that a schema allows.
fn example(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") if schema["pattern"].is_string() => json!("text/plain"),
        Some("string") => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("help")),
        Some("integer") => schema.get("maximum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(true),
        _ => json!({}),
    }
}

#[test]
fn schema_and_check_say_the_same() {
    for form in [&POST, &BROKER].into_iter().chain(ACTIONS).chain(routes().iter().map(|route| &route.form)) {
        let schema = form.schema();
        let properties = schema["properties"].as_object().unwrap();
        let full: serde_json::Map<String, Value> =
            // What is kept apart while a request is read is never there.
            properties.iter().filter(|(_, schema)| schema["contentEncoding"].is_null())
                .map(|(name, schema)| (name.clone(), example(schema))).collect();
        form.run(&Value::Object(full.clone())).unwrap_or_else(|refusal| panic!("{}: {refusal}", form.name));
        assert_eq!(schema["additionalProperties"], false);
        let required = schema["required"].as_array().unwrap();
        for name in properties.keys() {
            let mut less = full.clone();
            less.remove(name);
            let refused = form.run(&Value::Object(less)).is_err();
            let needed = form.fields.iter().any(|field| {
                field.name == name
                    && matches!(field.need, Need::ForKind(kinds) if kinds.iter().any(|kind| full["kind"] == *kind))
            });
            // One of two, and the other is not there.
            let source = name == "file_path";
            assert_eq!(refused, needed || source || required.contains(&json!(name)), "{} without {name}", form.name);
            for word in properties[name]["enum"].as_array().into_iter().flatten() {
                let mut other = full.clone();
                other.insert(name.clone(), word.clone());
                assert!(form.run(&Value::Object(other)).is_ok(), "{} with {name} {word}", form.name);
            }
        }
        let mut more = full.clone();
        more.insert("surplus".into(), json!(1));
        assert!(form.run(&Value::Object(more)).is_err(), "{} takes a surplus argument", form.name);
    }
}

#[test]
fn help_names_every_action_with_its_schema() {
    let help = help();
    for action in ACTIONS {
        assert!(help.contains(&format!("`{}`: {}", action.name, action.about)));
        assert!(action.fields.is_empty() || help.contains(&action.schema().to_string()));
    }
    assert!(POST.fields[0].about.contains("100,000") && MAX_TEXT == 100_000);
}

#[test]
fn the_tools_are_two() {
    let names: Vec<_> = specs().iter().map(|spec| spec.name).collect();
    assert_eq!(names, ["post", "broker"]);
}
