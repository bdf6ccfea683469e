//! A chat in the terminal, from outside: the real binary with pipes, and the demo agent.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a test stops where an expectation fails")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long the next line may take on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A broker in a folder of its own, with nothing of this process's environment and no Codex.
fn broker(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
    command.current_dir(folder).env_clear().env("CODEX_BIN", "/nonexistent/codex");
    command
}

/// Runs a broker with this input to its end.
fn run(mut command: Command, input: &str) -> (i32, String, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("its stdin");
    // A program that ends before it has read everything is no fault here.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

fn chat(folder: &Path, input: &str) -> String {
    let (code, out, err) = run(broker(folder), input);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    out
}

/// The places of some texts in another, which have to follow each other.
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("`{part}` is not there, or not in this place: {text}"));
        rest = &rest[at + part.len()..];
    }
}

/// A chat that goes on: lines go in, and what comes out is waited for.
struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Talk {
    fn start(folder: &Path) -> Self {
        let mut command = broker(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("its stdout"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let stdin = child.stdin.take();
        Self { child, stdin, lines, seen: Vec::new() }
    }

    fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the input is open");
        writeln!(stdin, "{line}").expect("it reads");
    }

    fn wait_for(&mut self, part: &str) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.seen.push(line);
            if self.seen.last().is_some_and(|line| line.contains(part)) {
                return;
            }
        }
        panic!("no `{part}` in {:#?}", self.seen);
    }

    fn end(&mut self) -> Option<i32> {
        self.stdin = None;
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn two_lines_get_two_answers_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = chat(folder.path(), "hello\nwhat can you do?\n");
    let parts = ["demo", "you\n  hello", "agent · final\n  Hello! I am a scripted demo", "you\n  what can you do?"];
    in_order(&out, &parts);
    in_order(&out, &["what can you do?\n", "agent · final\n  Each of these shows"]);
    assert!(out.contains("agent is thinking…"), "{out}");
}

#[test]
fn what_was_said_is_kept_from_one_run_to_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    chat(folder.path(), "hello\n");
    let out = chat(folder.path(), "history\n/new\nanother thing\n/threads\n/thread 1\n/thread 7\n");
    in_order(&out, &["history", "The broker gave me the 2 messages that you have written"]);
    in_order(&out, &["The next message begins a new thread.", "another thing", "You said: “another thing”"]);
    in_order(&out, &["1  hello  (", "messages, just now)", "* ", "2  another thing  (2 messages, just now)"]);
    in_order(&out, &["2  another thing  (2 messages", "you\n  hello", "agent · final\n  Hello!"]);
    in_order(&out, &["there is no thread 7"]);
}

#[test]
fn a_stop_ends_a_turn_that_runs_and_the_end_of_input_waits_for_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut talk = Talk::start(folder.path());
    talk.say("work");
    talk.wait_for("Step 1 of 3 begins.");
    talk.say("-stop");
    talk.wait_for("Stopped the current run.");
    talk.say("work");
    talk.wait_for("Step 1 of 3 begins.");
    assert_eq!(talk.end(), Some(0));
    talk.wait_for("All three steps are done.");
}

#[test]
fn a_crash_loses_nothing_and_doubles_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut talk = Talk::start(folder.path());
    talk.say("hello");
    talk.wait_for("what can you do?");
    talk.say("work");
    talk.wait_for("Step 2 of 3 begins.");
    talk.child.kill().expect("killed");
    drop(talk);
    let out = chat(folder.path(), "history\n");
    in_order(&out, &["I was interrupted, and the broker woke me up"]);
    let out = chat(folder.path(), "/thread 1\n");
    let text = |text: &str| out.matches(text).count();
    assert_eq!((text("I was interrupted"), text("Step 2 of 3 begins.")), (1, 1), "{out}");
    let kept = std::fs::read_to_string(folder.path().join(".data/local/chat.jsonl")).expect("the chat's file");
    for once in ["\"text\":\"hello\"", "\"text\":\"work\"", "Step 1 of 3", "Step 2 of 3", "I was interrupted"] {
        assert_eq!(kept.matches(once).count(), 1, "{once} in {kept}");
    }
}

#[test]
fn nothing_that_a_terminal_obeys_comes_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = chat(folder.path(), "echo \u{1b}]52;c;ZXZpbA==\u{7}this \u{9b}2J\u{1b}[31mplease\n/threads\n");
    assert!(out.chars().all(|c| c == '\n' || !c.is_control()), "{out:?}");
    in_order(&out, &["You said: “echo this please”", "1  echo this please"]);
}

#[test]
fn without_anybody_who_types_it_is_a_broker_that_lacks_its_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let code = |mut command: Command| {
        let output = command.output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let with = |stdin: Stdio, arguments: &[&str], tokens: &[(&str, &str)]| {
        let mut command = broker(folder.path());
        command.stdin(stdin).args(arguments).envs(tokens.iter().copied());
        code(command)
    };
    let pipe = || Stdio::from(std::io::pipe().expect("a pipe").0);
    let app = [("SLACK_APP_TOKEN", "xapp-1-a")];
    let bot = [("SLACK_BOT_TOKEN", "xoxb-1-a")];
    for (name, (code, err)) in [
        ("nobody types", with(Stdio::null(), &[], &[])),
        ("a broker is asked for", with(pipe(), &["serve"], &[])),
        ("the app's token alone", with(pipe(), &[], &app)),
        ("the bot's token alone", with(pipe(), &[], &bot)),
    ] {
        assert_eq!(code, Some(64), "{name}: {err}");
        assert!(err.contains("SLACK_APP_TOKEN") && err.contains("SLACK_BOT_TOKEN"), "{name}: {err}");
    }
    std::fs::write(folder.path().join("words"), "hello\n").expect("written");
    let file = File::open(folder.path().join("words")).expect("opened");
    assert_eq!(with(file.into(), &[], &[]).0, Some(0), "a file is as good as a pipe");
}

#[test]
fn a_second_chat_is_told_who_has_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Talk::start(folder.path());
    first.say("hello");
    first.wait_for("what can you do?");
    let (code, _, err) = run(broker(folder.path()), "hello\n");
    assert_eq!(code, 75, "{err}");
    assert!(err.contains(&first.child.id().to_string()), "{err}");
    assert_eq!(first.end(), Some(0));
}

#[test]
fn a_reader_who_has_seen_enough_ends_it_quietly() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = broker(folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut out = BufReader::new(child.stdout.take().expect("its stdout"));
    out.read_line(&mut String::new()).expect("a line");
    drop(out);
    // Its input stays open: it ends because nobody reads what it says.
    let mut stdin = child.stdin.take().expect("its stdin");
    writeln!(stdin, "hello").expect("it reads");
    let mut err = String::new();
    child.stderr.take().expect("its stderr").read_to_string(&mut err).expect("UTF-8");
    assert_eq!((child.wait().expect("it ends").code(), err.as_str()), (Some(0), ""));
    drop(stdin);
}

#[test]
fn a_signal_ends_it_when_its_reader_stalls() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = broker(folder.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let mut stdin = child.stdin.take().expect("its stdin");
    let long = "x".repeat(60_000);
    for _ in 0..3 {
        // More than a pipe holds: what it says of them stays with it, and nobody reads it.
        let _ = writeln!(stdin, "{long}");
    }
    let log = folder.path().join(".data/local/logs/broker");
    wait("the chat has begun", || log.read_dir().is_ok_and(|mut files| files.next().is_some()));
    let pid = rustix::process::Pid::from_child(&child);
    let mut ended = None;
    wait("it ends", || {
        // A second signal ends it at once, whatever it waits for.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        ended = child.try_wait().expect("its state");
        ended.is_some()
    });
    drop((stdin, child.stdout.take()));
}

/// Lines of a pipe are answered one after the other, whatever their answers are shown on.
#[test]
fn lines_of_a_pipe_wait_for_each_other_on_a_terminal_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let words = folder.path().join("words");
    std::fs::write(&words, "hello\nwhat can you do?\n").expect("written");
    let broker = format!("cat {} | {}", words.display(), env!("CARGO_BIN_EXE_broker"));
    // `script` of util-linux gives its command a terminal.
    let mut command = Command::new("script");
    command.args(["-qec", &broker, "/dev/null"]).current_dir(folder.path());
    command.env("CODEX_BIN", "/nonexistent/codex").env_remove("SLACK_APP_TOKEN").env_remove("SLACK_BOT_TOKEN");
    let output = command.stdin(Stdio::null()).output().expect("util-linux's `script`, which this test needs");
    let out = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    in_order(&out, &["hello", "Hello! I am a scripted demo", "what can you do?", "Each of these shows"]);
}

/// Waits for a condition.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let (_keep, never) = channel::<()>();
    for _ in 0..LIMIT.as_millis() / 20 {
        if holds() {
            return;
        }
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
    panic!("{what}: not in time");
}

#[test]
fn markdown_becomes_what_slack_gets() {
    let folder = tempfile::tempdir().expect("a folder");
    let mrkdwn = |arguments: &[&str], input: &str| {
        let mut command = broker(folder.path());
        command.arg("mrkdwn").args(arguments);
        run(command, input)
    };
    let whole = mrkdwn(&[], "# Title\n\n**bold** <!here> @Ada & @Eve\n");
    assert_eq!((whole.0, whole.1.as_str()), (0, "*Title*\n\n*bold* &lt;!here&gt; @Ada &amp; @Eve\n"), "{}", whole.2);
    let (code, out, _) = mrkdwn(&["--mention", "U1=Ada"], "@Ada & @Eve");
    assert_eq!((code, out.as_str()), (0, "<@U1> &amp; @Eve\n"));
    let long = format!("{}\n\n{}", "a ".repeat(60), "b ".repeat(60));
    let (code, out, _) = mrkdwn(&["--split", "--width", "200"], &long);
    let expected =
        format!("--- part 1 of 2 ---\n{}\n--- part 2 of 2 ---\n{}\n", "a ".repeat(60).trim(), "b ".repeat(60).trim());
    assert_eq!((code, out), (0, expected));
    assert_eq!(mrkdwn(&[], ""), (0, String::new(), String::new()));
    for wrong in [&["--width", "100"][..], &["--split", "--width", "3"], &["--mention", "Ada"], &["file.md"]] {
        let (code, _, err) = mrkdwn(wrong, "");
        assert!(code == 64 && !err.is_empty(), "{wrong:?}: {code} {err}");
    }
    let (code, _, err) = mrkdwn(&[], &"x".repeat(17 * 1024 * 1024));
    assert!(code == 64 && err.contains("16 MiB"), "{code} {err}");
}
