//! What those beside the agent ask for.

use super::rig::around;
use super::*;
use crate::outgoing::{Pinned, Refusal};
use crate::session::{CallId, Caller, NamedPost, Pin, PostFate};
use crate::store::{Fingerprint, PostId};
use crate::thread_tools::{FileSource, FileWish, ToolAnswer, ToolCommand};

fn post(text: &str, kind: PostKind) -> ToolCommand {
    ToolCommand::Post { text: text.to_owned(), kind, reason: None }
}

fn ask(rig: &mut Rig, call: u64, command: ToolCommand) -> Vec<Effect> {
    rig.step(SessionInput::Asked { call: CallId(call), command, post: None })
}

fn replies(effects: &[Effect]) -> Vec<(u64, ToolAnswer)> {
    let all = effects.iter().filter_map(|effect| match effect {
        Effect::Reply { call, answer } => Some((call.0, answer.clone())),
        _ => None,
    });
    all.collect()
}

fn settle(rig: &mut Rig, post: &str, error: Option<&str>) -> Vec<Effect> {
    rig.step(SessionInput::PostSettled(PostOutcome {
        post: PostId::new(post),
        kind: PostKind::Progress,
        arrived: u32::from(error.is_none()),
        of: 1,
        error: error.map(str::to_owned),
    }))
}

fn print(asked: &str) -> Fingerprint {
    Fingerprint::of(&[asked.as_bytes()])
}

fn codes(effects: &[Effect]) -> Vec<&'static str> {
    let code = |answer: &ToolAnswer| match answer {
        ToolAnswer::Refused { code, .. } => *code,
        _ => "",
    };
    replies(effects).iter().map(|(_, answer)| code(answer)).collect()
}

#[test]
fn a_post_is_planned_first_and_answered_when_it_stands() {
    let mut rig = Rig::running();
    let effects = ask(&mut rig, 7, post("built", PostKind::Progress));
    assert_eq!((replies(&effects), effects.contains(&Effect::Flush)), (Vec::new(), true));
    assert_eq!(rig.posted(), [(PostKind::Progress, "built".to_owned())]);
    let id = rig.parts[0].post.clone();
    assert_eq!(rig.parts[0].turn, Some(TurnId::new("t1")), "the turn's own command asked");
    let effects = settle(&mut rig, id.as_str(), None);
    assert_eq!(replies(&effects), [(7, ToolAnswer::Posted { post: id, messages: 1 })]);
}

#[test]
fn a_final_of_a_command_closes_the_turn() {
    let mut rig = Rig::running();
    ask(&mut rig, 1, post("all done", PostKind::Final));
    rig.finish("t1", Some("all done"));
    assert_eq!(rig.posted(), [(PostKind::Final, "all done".to_owned())], "its final text is not posted again");
}

#[test]
fn whoever_waits_is_told_after_twenty_seconds_also_when_the_turn_is_over() {
    let mut rig = Rig::running();
    ask(&mut rig, 1, post("slow", PostKind::Progress));
    rig.finish("t1", Some("the end"));
    let id = rig.parts[0].post.clone();
    let effects = rig.pass(TOOL_ANSWER_LIMIT);
    assert_eq!(replies(&effects), [(1, ToolAnswer::Queued { post: id.clone() })]);
    assert_eq!(replies(&settle(&mut rig, id.as_str(), None)), [], "once");
}

#[test]
fn a_call_of_somebody_beside_the_agent_does_not_keep_a_silent_turn_alive() {
    let mut rig = Rig::running();
    rig.pass(Duration::from_secs(899));
    ask(&mut rig, 1, post("still building", PostKind::Progress));
    let effects = rig.pass(Duration::from_secs(1));
    assert!(has_interrupt(&effects), "a hung turn ends all the same");
}

#[test]
fn without_a_turn_a_post_is_made_and_a_state_is_not() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("the end"));
    ask(&mut rig, 1, post("a job is over", PostKind::Progress));
    assert_eq!(rig.parts.last().map(|part| part.turn.clone()), Some(None));
    let effects = ask(&mut rig, 2, ToolCommand::State { kind: PostKind::Final, reason: None });
    assert_eq!(codes(&effects), ["no_turn"]);
}

#[test]
fn after_a_stop_nothing_more_is_said() {
    let mut rig = Rig::running();
    ask(&mut rig, 1, post("one", PostKind::Progress));
    let effects = rig.stop(200);
    assert_eq!(codes(&effects), ["stopped"]);
    assert_eq!(codes(&ask(&mut rig, 2, post("two", PostKind::Progress))), ["stopped"]);
    assert!(!rig.posted().iter().any(|(_, text)| text == "two"));
}

#[test]
fn what_has_a_name_is_made_once() {
    let mut rig = Rig::running();
    let id = PostId::named(&SessionId::new("s"), "build 7");
    let mut named = |call, known: Option<PostFate>| {
        let post_of = Some(NamedPost { id: id.clone(), fingerprint: print("the first"), known });
        rig.step(SessionInput::Asked { call: CallId(call), command: post("built", PostKind::Progress), post: post_of })
    };
    assert_eq!(replies(&named(1, None)), []);
    let open = PostFate { arrived: 0, of: 1, open: true, error: None, fingerprint: Some(print("the first")) };
    assert_eq!(replies(&named(2, Some(open.clone()))), []);
    assert_eq!(rig.parts.len(), 1);
    assert_eq!(rig.parts[0].post, id);
    let told: Vec<u64> = replies(&settle(&mut rig, id.as_str(), None)).into_iter().map(|(call, _)| call).collect();
    assert_eq!(told, [1, 2], "both are told");

    let mut again = |fate| {
        let post_of = Some(NamedPost { id: id.clone(), fingerprint: print("the first"), known: Some(fate) });
        let command = post("built", PostKind::Progress);
        replies(&rig.step(SessionInput::Asked { call: CallId(3), command, post: post_of }))
    };
    let sent = PostFate { arrived: 1, of: 1, open: false, error: None, fingerprint: None };
    assert_eq!(again(sent.clone()), [(3, ToolAnswer::Posted { post: id.clone(), messages: 1 })]);
    let refused = PostFate { arrived: 0, error: Some("is_archived".to_owned()), ..sent };
    let code = "is_archived".to_owned();
    assert_eq!(again(refused), [(3, ToolAnswer::Undelivered { post: id.clone(), arrived: 0, of: 1, code })]);
    assert_eq!(rig.parts.len(), 1);
}

#[test]
fn a_name_stands_for_one_request() {
    let mut rig = with_files();
    let id = PostId::named(&SessionId::new("s"), "build 7");
    let asked = |rig: &mut Rig, asked: &str, known: Option<PostFate>, command: ToolCommand| {
        let post = Some(NamedPost { id: id.clone(), fingerprint: print(asked), known });
        rig.step(SessionInput::Asked { call: CallId(1), command, post })
    };
    let file = || ToolCommand::File(file_wish(PostKind::Progress));
    let pin = pin_of(&asked(&mut rig, "the file", None, file()));
    let text = || post("built", PostKind::Progress);
    assert_eq!(codes(&asked(&mut rig, "the text", None, text())), ["idempotency_key_reused"], "while it is copied");
    rig.step(SessionInput::Pinned { pin, result: copied() });
    let known = PostFate::of(&rig.parts);
    assert!(known.as_ref().is_some_and(|fate| fate.fingerprint == Some(print("the file"))));
    assert_eq!(codes(&asked(&mut rig, "the text", known.clone(), text())), ["idempotency_key_reused"]);
    assert_eq!(codes(&asked(&mut rig, "the file", known, file())), [""; 0], "it waits for the first one's end");
    assert_eq!(rig.parts.len(), 1);
}

#[test]
fn whoever_waits_for_a_planned_post_is_known() {
    let mut rig = Rig::running();
    ask(&mut rig, 7, post("built", PostKind::Progress));
    rig.tool("r1", "post", serde_json::json!({"text": "the agent's own"}));
    let id = rig.parts[0].post.clone();
    assert_eq!(rig.machine.waiting_beside(), [(CallId(7), id)]);
}

#[test]
fn a_reaction_is_asked_of_the_platform() {
    let mut rig = Rig::running();
    let effects = ask(&mut rig, 1, ToolCommand::React { name: "eyes".to_owned(), on: true });
    let caller = Caller::Beside(CallId(1));
    assert_eq!(effects, [Effect::React { caller, name: "eyes".to_owned(), on: true }]);
    let effects = rig.tool("r1", "broker", serde_json::json!({"action": "react", "arguments": {"name": ":eyes:"}}));
    assert!(matches!(&effects[..], [Effect::React { caller: Caller::Agent(_), name, on: true }] if name == "eyes"));
}

#[test]
fn a_revoked_token_is_another_generation() {
    let mut rig = Rig::running();
    assert_eq!(rig.record.as_ref().map(|record| record.token_generation), Some(1));
    rig.step(SessionInput::RevokeToken);
    assert_eq!(rig.record.as_ref().map(|record| record.token_generation), Some(2));
}

fn file_wish(kind: PostKind) -> FileWish {
    FileWish {
        source: FileSource::Path("report.txt".to_owned()),
        name: None,
        content_type: None,
        title: None,
        comment: None,
        alt_text: None,
        snippet_type: None,
        kind,
        reason: None,
    }
}

fn with_files() -> Rig {
    let mut rig = Rig::running();
    let mut around = Arc::into_inner(around()).expect("the only one");
    around.sends_files = Arc::new(|| true);
    rig.machine.around = Arc::new(around);
    rig
}

fn pin_of(effects: &[Effect]) -> Pin {
    let mut pins = effects.iter().filter_map(|effect| match effect {
        Effect::Pin { pin, .. } => Some(pin.clone()),
        _ => None,
    });
    pins.next_back().expect("a file is to be copied")
}

fn copied() -> Result<Pinned, Refusal> {
    Ok(Pinned { name: "report.txt".to_owned(), bytes: 5, copy: "/copies/1".into() })
}

#[test]
fn a_named_file_that_is_asked_for_twice_is_posted_once() {
    let mut rig = with_files();
    let id = PostId::named(&SessionId::new("s"), "report 7");
    let mut named = |call| {
        let post = Some(NamedPost { id: id.clone(), fingerprint: print("the first"), known: None });
        let command = ToolCommand::File(file_wish(PostKind::Progress));
        rig.step(SessionInput::Asked { call: CallId(call), command, post })
    };
    let pin = pin_of(&named(1));
    // The store knows nothing of it while it is copied.
    assert_eq!(named(2), []);
    assert_eq!(replies(&rig.step(SessionInput::Pinned { pin, result: copied() })), []);
    assert_eq!(rig.parts.len(), 1);
    let told: Vec<u64> = replies(&settle(&mut rig, id.as_str(), None)).into_iter().map(|(call, _)| call).collect();
    assert_eq!(told, [1, 2], "both are told");
}

#[test]
fn a_file_that_may_not_go_out_is_told_to_all_who_asked() {
    let mut rig = with_files();
    let id = PostId::named(&SessionId::new("s"), "report 7");
    let mut named = |call| {
        let post = Some(NamedPost { id: id.clone(), fingerprint: print("the first"), known: None });
        let command = ToolCommand::File(file_wish(PostKind::Progress));
        rig.step(SessionInput::Asked { call: CallId(call), command, post })
    };
    let pin = pin_of(&named(1));
    named(2);
    let refusal = Refusal { code: "secret", message: "it looks like a secret".to_owned() };
    let effects = rig.step(SessionInput::Pinned { pin, result: Err(refusal) });
    assert_eq!(codes(&effects), ["secret", "secret"]);
    // The name is free again.
    let post = Some(NamedPost { id, fingerprint: print("the first"), known: None });
    let command = ToolCommand::File(file_wish(PostKind::Progress));
    pin_of(&rig.step(SessionInput::Asked { call: CallId(3), command, post }));
    assert!(rig.parts.is_empty());
}

#[test]
fn a_file_counts_as_posted_in_its_turn_or_not_at_all() {
    let mut rig = with_files();
    let pin = pin_of(&ask(&mut rig, 1, ToolCommand::File(file_wish(PostKind::Final))));
    rig.finish("t1", Some("the end"));
    let before = rig.parts.len();
    let effects = rig.step(SessionInput::Pinned { pin, result: copied() });
    assert_eq!(codes(&effects), ["turn_over"]);
    assert!(effects.contains(&Effect::DropCopy { copy: "/copies/1".into() }), "the copy goes at once");
    assert_eq!(rig.parts.len(), before);

    // Without a turn it is posted, and the session is not put away before that.
    let pin = pin_of(&ask(&mut rig, 2, ToolCommand::File(file_wish(PostKind::Progress))));
    assert!(!rig.machine.is_quiet());
    rig.step(SessionInput::Pinned { pin, result: copied() });
    assert_eq!(rig.parts.last().map(|part| part.turn.clone()), Some(None));
}

#[test]
fn what_was_copied_after_a_stop_is_not_posted() {
    let mut rig = with_files();
    let pin = pin_of(&ask(&mut rig, 1, ToolCommand::File(file_wish(PostKind::Final))));
    rig.stop(200);
    assert_eq!(codes(&rig.step(SessionInput::Pinned { pin, result: copied() })), ["stopped"]);
}

#[test]
fn the_time_of_the_copy_counts_for_whoever_waits() {
    let mut rig = with_files();
    let pin = pin_of(&ask(&mut rig, 1, ToolCommand::File(file_wish(PostKind::Progress))));
    rig.pass(TOOL_ANSWER_LIMIT);
    assert_eq!(replies(&rig.step(SessionInput::Pinned { pin, result: copied() })), []);
    let told = replies(&rig.step(SessionInput::Tick));
    assert!(matches!(told.as_slice(), [(1, ToolAnswer::Queued { .. })]), "{told:?}");
}

#[test]
fn a_refusal_is_known_before_the_store_says_so() {
    let mut rig = Rig::running();
    let id = PostId::named(&SessionId::new("s"), "build 7");
    let named = |rig: &mut Rig, call, known| {
        let post = Some(NamedPost { id: id.clone(), fingerprint: print("the first"), known });
        rig.step(SessionInput::Asked { call: CallId(call), command: self::post("built", PostKind::Progress), post })
    };
    named(&mut rig, 1, None);
    settle(&mut rig, id.as_str(), Some("is_archived"));
    let open = PostFate { arrived: 0, of: 1, open: true, error: None, fingerprint: Some(print("the first")) };
    let told = replies(&named(&mut rig, 2, Some(open)));
    assert!(matches!(told.as_slice(), [(2, ToolAnswer::Undelivered { .. })]), "{told:?}");
}

#[test]
fn parts_that_wait_are_counted_anew_long_before_they_are_too_many() {
    let mut rig = Rig::running();
    let counts = |effects: &[Effect]| effects.iter().filter(|effect| **effect == Effect::CountParts).count();
    let mut asked = 0;
    for call in 0..MAX_OPEN_PARTS as u64 / 2 + 3 {
        asked += counts(&ask(&mut rig, call, post("waits", PostKind::Progress)));
    }
    assert_eq!(asked, 1, "half as many wait, and nobody has told the count yet");
    // Some were there before this machine was. What was planned since they were counted is added.
    rig.step(SessionInput::PartsCounted(Some(MAX_OPEN_PARTS - 4)));
    let effects = ask(&mut rig, 500, post("the last", PostKind::Progress));
    assert_eq!((codes(&effects), counts(&effects)), (Vec::new(), 1));
    let effects = ask(&mut rig, 501, post("too many", PostKind::Progress));
    assert_eq!((codes(&effects), counts(&effects)), (vec!["too_many_open_posts"], 0));
    // A count that fails is asked for again.
    rig.step(SessionInput::PartsCounted(None));
    assert_eq!(counts(&ask(&mut rig, 502, post("too many", PostKind::Progress))), 1);
}

#[test]
fn without_files_a_long_text_is_many_messages() {
    for sends_files in [false, true] {
        let mut rig = with_files();
        let mut around = rig.machine.around.as_ref().clone();
        around.sends_files = Arc::new(move || sends_files);
        rig.machine.around = Arc::new(around);
        ask(&mut rig, 1, post(&vec!["part"; MAX_TEXT_PARTS + 5].join("|"), PostKind::Progress));
        let files = rig.parts.iter().filter(|part| matches!(part.body, crate::chat::PartBody::File { .. })).count();
        let expected = if sends_files { (MAX_TEXT_PARTS, 1) } else { (MAX_TEXT_PARTS + 5, 0) };
        assert_eq!((rig.parts.len(), files), expected);
    }
}
