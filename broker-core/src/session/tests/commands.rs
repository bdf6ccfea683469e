//! Commands of people.

use super::*;
use crate::agent::{AgentAccount, TokenUsage};
use crate::chat::ChatTime;
use crate::store::Backfill;

fn command(rig: &mut Rig, second: u64, command: Command) -> Vec<Effect> {
    let text = format!("-{}", command.word());
    rig.step(SessionInput::Command { arrival: arrival(second, &text, Some("100")), command })
}

fn opens(effects: &[Effect]) -> Vec<Option<AgentThreadId>> {
    let known = effects.iter().filter_map(|effect| match effect {
        Effect::Open { known } => Some(known.clone()),
        _ => None,
    });
    known.collect()
}

fn leaves(effects: &[Effect]) -> bool {
    effects.contains(&Effect::Leave { thread: AgentThreadId::new("th") })
}

fn last_notice(rig: &Rig) -> String {
    let posted = rig.posted();
    let (kind, text) = posted.last().expect("a post");
    assert_eq!(*kind, PostKind::Notice);
    text.clone()
}

/// The agent's thread is open under another name.
fn open_another(rig: &mut Rig, epoch: u64) -> Vec<Effect> {
    let thread = AgentThreadId::new("th2");
    rig.step(SessionInput::Opened(Ok(Opened { thread, epoch: Epoch(epoch), running: None, model: None })))
}

/// The row that waits.
fn waiting(rig: &Rig) -> String {
    rig.machine.rows().inbox[0].id.to_string()
}

fn backfilled(rig: &mut Rig, row: &str) -> Vec<Effect> {
    rig.step(SessionInput::Backfilled { row: InputId::new(row), result: Ok((Vec::new(), false)) })
}

#[test]
fn a_command_leaves_a_row_is_answered_and_is_no_word_to_the_agent() {
    for which in [Command::Help, Command::Status, Command::Retry] {
        let mut rig = Rig::running();
        let effects = command(&mut rig, 110, which);
        assert!(given(&effects).is_empty() && !has_interrupt(&effects), "{which:?} leaves the turn alone");
        assert_eq!(rig.state("s-i2"), InboxState::Delivered);
        assert_eq!(rig.inbox[&InputId::new("s-i2")].kind, InboxKind::Command);
        assert_eq!(rig.posted().len(), 1);
        rig.crash();
        rig.open(2);
        assert_eq!(rig.posted().len(), 1, "{which:?} is done once");
        assert!(rig.machine.is_running() || rig.inbox.len() > 2, "the turn is what it was");
    }
}

#[test]
fn a_status_says_what_runs_and_what_is_known_of_the_model() {
    let mut rig = Rig::running();
    command(&mut rig, 110, Command::Status);
    let text = last_notice(&rig);
    assert!(text.contains("Run: running for 0 s; the agent is thinking"), "{text}");
    assert!(text.contains("Model: not known yet") && text.contains("Tokens: not known yet"), "{text}");

    let thread = AgentThreadId::new("th");
    let usage = TokenUsage { last: 500, total: 900, window: Some(1000) };
    let revision = rig.revision;
    rig.step(SessionInput::Agent(AgentEvent::Usage { thread, usage }));
    let account = Some(AgentAccount { kind: "chatgpt".to_owned(), plan: None });
    rig.step(SessionInput::Seen(Seen { ill: Some("it hangs".to_owned()), account }));
    assert_eq!(rig.revision, revision, "neither is committed");
    let other = AgentThreadId::new("other");
    let usage = TokenUsage { last: 1, total: 1, window: None };
    rig.step(SessionInput::Agent(AgentEvent::Usage { thread: other, usage }));
    rig.now = rig.now.plus(Duration::from_secs(125));
    command(&mut rig, 111, Command::Status);
    let text = last_notice(&rig);
    for part in
        ["running for 2 min", "does not answer (it hangs)", "500 in the context (50 % of its 1,000)", "`chatgpt`"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_status_counts_what_waits_and_says_when_the_agent_is_tried_again() {
    let mut rig = Rig::begun();
    rig.say(105, "another");
    for _ in 0..2 {
        rig.step(SessionInput::Opened(Err(OpenError::Unavailable { reason: "gone".to_owned() })));
        rig.pass(Duration::from_secs(1));
    }
    rig.step(SessionInput::Opened(Err(OpenError::Unavailable { reason: "gone".to_owned() })));
    command(&mut rig, 110, Command::Status);
    let text = last_notice(&rig);
    assert!(text.contains("2 waiting") && text.contains("cannot be reached (3 failed attempts)"), "{text}");
}

#[test]
fn a_retry_takes_up_what_was_put_aside_and_says_how_much() {
    let mut rig = Rig::begun();
    rig.open(1);
    for _ in 0..MAX_ATTEMPTS {
        let result = Err(SubmitError::Refused { reason: "no".to_owned() });
        rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result });
        rig.pass(Duration::from_secs(60));
    }
    assert_eq!(rig.state("s-i1"), InboxState::Parked);
    command(&mut rig, 110, Command::Status);
    assert!(last_notice(&rig).contains("1 put aside"), "{}", last_notice(&rig));
    command(&mut rig, 111, Command::Retry);
    assert_eq!(last_notice(&rig), prompt::retried(1));
    assert_eq!(given(&rig.step(SessionInput::Fates(Ok(vec![(InputId::new("s-i1"), Fate::Absent)])))), ["s-i1"]);
    rig.accept("s-i1", "t1");
    rig.record("s-i1", "t1");
    command(&mut rig, 112, Command::Retry);
    assert_eq!(last_notice(&rig), prompt::NOTHING_TO_RETRY);
}

#[test]
fn a_retry_tries_an_agent_again_that_could_not_be_reached() {
    let mut rig = Rig::begun();
    let refused = Err(OpenError::Refused { reason: "no".to_owned() });
    assert!(opens(&rig.step(SessionInput::Opened(refused))).is_empty());
    assert_eq!(opens(&command(&mut rig, 110, Command::Retry)), [None]);
    assert_eq!(last_notice(&rig), prompt::retried(1));
}

#[test]
fn a_new_conversation_begins_with_the_next_message_and_what_was_said_before() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    let effects = command(&mut rig, 110, Command::New);
    assert!(leaves(&effects) && opens(&effects).is_empty(), "{effects:?}");
    assert_eq!(last_notice(&rig), prompt::begun_anew(0));
    assert_eq!(rig.posted().len(), 2, "what the turn had said is still said");
    assert_eq!(rig.machine.record().agent_thread, None);

    let effects = rig.say(120, "go on");
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Backfill { own: true, .. })), "{effects:?}");
    let row = waiting(&rig);
    assert_eq!(opens(&backfilled(&mut rig, &row)), [None]);
    assert_eq!(given(&open_another(&mut rig, 1)), [row]);
    assert_eq!(rig.machine.record().agent_thread, Some(AgentThreadId::new("th2")));
}

#[test]
fn a_new_conversation_ends_the_run_first_and_what_it_says_late_means_nothing() {
    let mut rig = Rig::running();
    let effects = command(&mut rig, 110, Command::New);
    assert!(has_interrupt(&effects) && !leaves(&effects), "{effects:?}");
    assert!(last_notice(&rig).starts_with(prompt::STOPPED));
    // What is written meanwhile waits for the next conversation.
    let effects = rig.say(111, "go on");
    assert!(given(&effects).is_empty() && opens(&effects).is_empty(), "{effects:?}");
    let effects = rig.end("t1", TurnOutcome::Interrupted);
    assert!(leaves(&effects));
    let row = waiting(&rig);
    assert_eq!(opens(&backfilled(&mut rig, &row)), [None]);
    // A call of the conversation that was left is refused, and a turn that begins in it is ended.
    let effects = rig.tool("q", "post", json!({"text": "late", "kind": "final"}));
    assert_eq!(answers(&effects).len(), 1);
    assert!(!answers(&effects)[0].0);
    let (thread, turn) = (AgentThreadId::new("th"), TurnId::new("t9"));
    let effects = rig.step(SessionInput::Agent(AgentEvent::TurnStarted { thread, turn }));
    assert!(has_interrupt(&effects) && !rig.machine.is_running());
    // As often as it shows that it goes on.
    rig.record("s-i1", "t9");
    assert!(has_interrupt(&rig.effects) && !rig.machine.is_running());
    rig.finish("t9", Some("a late word"));
    assert_eq!(rig.posted().len(), 1, "{:?}", rig.posted());
    assert_eq!(given(&open_another(&mut rig, 1)), [row]);
}

/// Whatever was on its way to the agent may begin a turn although it was taken back.
#[test]
fn a_new_conversation_waits_for_the_word_on_what_was_taken_back() {
    let answers: [(Result<Submitted, SubmitError>, bool); 3] = [
        (Ok(Submitted { turn: TurnId::new("t1") }), true),
        (Err(SubmitError::Unknown { limit: Duration::from_secs(30) }), false),
        (Err(SubmitError::Refused { reason: "no".to_owned() }), false),
    ];
    for (result, begins) in answers {
        let mut rig = Rig::begun();
        rig.open(1);
        let effects = command(&mut rig, 110, Command::New);
        assert_eq!((rig.state("s-i1"), leaves(&effects)), (InboxState::Cancelled, false));
        assert!(!leaves(&rig.pass(STOP_WINDOW * 2)), "nobody knows yet");
        let effects = rig.step(SessionInput::Submitted { row: InputId::new("s-i1"), result: result.clone() });
        assert_eq!((rig.machine.is_running(), leaves(&effects)), (begins, !begins), "{result:?}");
        if begins {
            rig.record("s-i1", "t1");
            assert!(has_interrupt(&rig.effects), "there is nothing else in it");
            assert!(leaves(&rig.end("t1", TurnOutcome::Interrupted)));
        }
    }
}

/// What the agent does not have yet was written to whoever answers in this thread.
#[test]
fn a_new_conversation_takes_over_what_waits_and_what_was_put_aside() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: String::new() }));
    rig.say(105, "one");
    rig.say(106, "two");
    let first = waiting(&rig);
    command(&mut rig, 110, Command::New);
    assert_eq!(last_notice(&rig), prompt::begun_anew(2));
    assert!(last_notice(&rig).contains("the 2 messages that wait"));
    assert_eq!(rig.machine.record().stopped_at, ChatTime::ZERO, "what is found later was not taken back");
    // Also by a broker that comes after this one.
    assert_eq!(opens(&rig.crash()), [None]);
    backfilled(&mut rig, &first);
    let both: Vec<String> = rig.machine.rows().inbox.iter().map(|row| row.id.to_string()).collect();
    assert_eq!(both.len(), 2);
    assert_eq!(given(&open_another(&mut rig, 2)), both);
}

#[test]
fn what_was_put_aside_is_for_the_conversation_that_a_retry_finds() {
    let mut rig = super::parked::parked();
    assert!(leaves(&command(&mut rig, 600, Command::New)));
    assert_eq!(last_notice(&rig), prompt::begun_anew(1));
    assert_eq!((rig.machine.rows().parked.len(), rig.state("s-i1")), (1, InboxState::Parked));
    // It was given to the conversation before, if at all: there is nothing to look up.
    command(&mut rig, 610, Command::Retry);
    assert_eq!(given(&open_another(&mut rig, 2)), ["s-i1"]);
}

#[test]
fn a_new_conversation_is_begun_once_whenever_the_broker_ends() {
    let mut rig = Rig::running();
    command(&mut rig, 110, Command::New);
    rig.say(111, "go on");
    let effects = rig.crash();
    assert_eq!(opens(&effects), [None], "the old conversation is not resumed");
    open_another(&mut rig, 2);
    assert!(!rig.machine.is_running(), "the turn of the old one is over");
    let row = waiting(&rig);
    assert_eq!(given(&backfilled(&mut rig, &row)), [row]);
    assert_eq!(rig.posted().len(), 1, "nothing is continued: {:?}", rig.posted());
}

#[test]
fn a_conversation_that_is_being_opened_is_left_as_soon_as_it_is_open() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: String::new() }));
    let effects = rig.say(105, "more");
    assert_eq!(opens(&effects), [Some(AgentThreadId::new("th"))]);
    let effects = command(&mut rig, 110, Command::New);
    assert!(!leaves(&effects) && opens(&effects).is_empty());
    let effects = rig.open(2);
    assert!(leaves(&effects), "{effects:?}");
    assert_eq!(rig.machine.record().agent_thread, None);
    // What was not given yet is for the next one, and so is what comes.
    let row = waiting(&rig);
    assert_eq!(opens(&backfilled(&mut rig, &row)), [None]);
    rig.say(120, "go on");
    assert_eq!(given(&open_another(&mut rig, 3)).len(), 2);
}

#[test]
fn a_new_conversation_is_not_begun_behind_what_was_written_since() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.say(120, "later");
    let row = waiting(&rig);
    rig.accept(&row, "t2");
    rig.record(&row, "t2");
    let effects = command(&mut rig, 110, Command::New);
    assert!(!has_interrupt(&effects) && !leaves(&effects));
    assert_eq!(last_notice(&rig), prompt::NEW_CAME_LATE);
    assert_eq!(rig.machine.record().agent_thread, Some(AgentThreadId::new("th")));
    rig.finish("t2", Some("done too"));
    assert!(leaves(&command(&mut rig, 130, Command::New)));
    command(&mut rig, 131, Command::New);
    assert_eq!(last_notice(&rig), prompt::NOTHING_TO_RENEW);
}

#[test]
fn a_message_that_becomes_a_command_is_one_and_a_command_that_changes_is_done() {
    for (text, answer) in
        [("-help", "-retry"), ("-status", "Status"), ("-new", "no conversation"), ("-retry", "nothing to retry")]
    {
        let mut rig = Rig::begun();
        rig.say(105, "what is up");
        let known =
            KnownMessage { kind: InboxKind::Message, state: InboxState::Queued, withdrawn: false, given_to: None };
        rig.step(SessionInput::Edited { arrival: arrival(105, text, Some("100")), known });
        assert_eq!(rig.state("s-i2"), InboxState::Cancelled, "{text}");
        assert!(last_notice(&rig).contains(answer), "{text}: {}", last_notice(&rig));
        let posts = rig.posted().len();
        let known =
            KnownMessage { kind: InboxKind::Command, state: InboxState::Delivered, withdrawn: false, given_to: None };
        for text in ["-status", "-new", "text"] {
            rig.step(SessionInput::Edited { arrival: arrival(105, text, Some("100")), known: known.clone() });
        }
        assert_eq!(rig.posted().len(), posts);
        assert_eq!(rig.machine.record().stopped_at, ChatTime::ZERO);
        assert!(rig.machine.rows().inbox.iter().all(|row| row.backfill == Backfill::None));
    }
}

#[test]
fn what_was_made_a_command_is_not_given_to_the_next_conversation() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: String::new() }));
    rig.say(105, "delete the old branch");
    let known = KnownMessage { kind: InboxKind::Message, state: InboxState::Queued, withdrawn: false, given_to: None };
    rig.step(SessionInput::Edited { arrival: arrival(105, "-new", Some("100")), known });
    assert_eq!(last_notice(&rig), prompt::begun_anew(0));
    assert!(rig.machine.rows().inbox.is_empty(), "{:?}", rig.machine.rows().inbox);
}

#[test]
fn a_new_conversation_takes_no_post_back_that_nothing_made_while_it_ran() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    let post = crate::thread_tools::parse("post", &json!({"text": "report", "kind": "progress"})).unwrap();
    rig.step(SessionInput::Asked { call: CallId(7), command: post, post: None });
    let effects = command(&mut rig, 110, Command::New);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Reply { .. })), "{effects:?}");
    assert!(rig.posted().iter().any(|(_, text)| text == "report"));
}

#[test]
fn a_stop_of_a_direct_message_that_comes_again_takes_nothing_back_again() {
    let mut rig = Rig::running();
    rig.finish("t1", Some("done"));
    let at = ChatTime::from_micros(110 * 1_000_000);
    rig.step(SessionInput::StopElsewhere { at });
    command(&mut rig, 120, Command::Status);
    rig.step(SessionInput::StopElsewhere { at });
    assert!(last_notice(&rig).contains("Status"));
}

#[test]
fn what_is_looked_up_after_a_retry_is_kept_for_the_next_conversation() {
    for is_being_read in [false, true] {
        let mut rig = super::parked::parked();
        if !is_being_read {
            rig.step(SessionInput::Agent(AgentEvent::Down { epoch: Epoch(1), reason: String::new() }));
        }
        command(&mut rig, 600, Command::Retry);
        assert_eq!(rig.state("s-i1"), InboxState::Given, "it is looked up");
        command(&mut rig, 610, Command::New);
        assert_eq!(rig.state("s-i1"), InboxState::Queued);
        assert_eq!(last_notice(&rig), prompt::begun_anew(1), "nothing ran");
        if is_being_read {
            rig.step(super::fates(&[("s-i1", Fate::Absent)]));
        } else {
            rig.open(2);
        }
        assert_eq!(given(&open_another(&mut rig, 3)), ["s-i1"]);
    }
}
