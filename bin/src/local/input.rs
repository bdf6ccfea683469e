//! What people type.

use std::io::{BufRead, Read};

use tokio::sync::mpsc;

use super::plain;

/// The longest line, in bytes. A longer one is cut there, and the rest is the next line.
const LONGEST_LINE: u64 = 256 * 1024;
/// Lines that wait; beyond that, reading waits.
const QUEUE: usize = 64;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// A message for the agent.
    Say(String),
    /// The next message begins a new thread.
    New,
    /// Show the threads.
    Threads,
    /// Go on with a thread, by its number.
    Thread(usize),
    /// Show what can be typed.
    Help,
    /// End, once everything is answered.
    Quit,
    /// A command that is none, and why.
    Wrong(String),
    /// Nothing.
    Empty,
}

/// What can be typed.
pub(super) const HELP: &str = "\
Every line is a message to the agent; one that comes while the agent works joins the running turn.
  -stop       stop what is running; -help names the other commands
  /new        begin a new thread with the next message
  /threads    list the threads
  /thread N   go on with thread N
  /quit       end, once everything is answered (so does the end of input)
  //text      a message that begins with a slash";

impl Input {
    /// Reads a line.
    pub(super) fn parse(line: &str) -> Self {
        let line = line.trim();
        if line.is_empty() {
            return Self::Empty;
        }
        if let Some(text) = line.strip_prefix("//") {
            return Self::Say(format!("/{text}"));
        }
        let Some(command) = line.strip_prefix('/') else { return Self::Say(line.to_owned()) };
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (word, rest.trim()) {
            ("new", "") => Self::New,
            ("threads", "") => Self::Threads,
            ("thread", number) => match number.parse() {
                Ok(number) => Self::Thread(number),
                Err(_) => Self::Wrong("/thread takes a number; /threads lists them".to_owned()),
            },
            ("help", "") => Self::Help,
            ("quit" | "exit", "") => Self::Quit,
            _ => {
                let word = plain::one_line(word, 50);
                Self::Wrong(format!("there is no command /{word}; /help lists them, //{word} sends it as a message"))
            }
        }
    }

    /// Whether it is meant for the turn that runs: it stops it.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Self::Say(text) if text == "-stop")
    }
}

/// Reads lines on a thread of its own until the input ends; what is not UTF-8 is replaced.
pub(super) fn lines(mut from: impl BufRead + Send + 'static) -> std::io::Result<mpsc::Receiver<String>> {
    let (lines, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        loop {
            let mut line = Vec::new();
            match from.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if lines.blocking_send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_messages_and_commands() {
        let say = |text: &str| Input::Say(text.to_owned());
        for (line, expected) in [
            ("hello\n", say("hello")),
            ("  what / can\r\n", say("what / can")),
            ("-stop", say("-stop")),
            ("//etc/hosts", say("/etc/hosts")),
            ("", Input::Empty),
            (" \t\n", Input::Empty),
            ("/new", Input::New),
            ("/threads ", Input::Threads),
            ("/thread 3", Input::Thread(3)),
            ("/help", Input::Help),
            ("/quit", Input::Quit),
        ] {
            assert_eq!(Input::parse(line), expected, "{line:?}");
        }
        assert_eq!(
            Input::parse("/\u{1b}[31mred"),
            Input::Wrong("there is no command /red; /help lists them, //red sends it as a message".to_owned()),
            "no control sequence comes back"
        );
        for line in ["/thread", "/thread x", "/new now", "/tmp/file", "/"] {
            assert!(matches!(Input::parse(line), Input::Wrong(_)), "{line:?}");
        }
        assert!(say("-stop").is_urgent() && !Input::Threads.is_urgent() && !say("x").is_urgent());
    }

    #[tokio::test]
    async fn input_ends_with_its_last_line_even_without_a_break() {
        let mut lines = lines(&b"one\n\xff two"[..]).unwrap();
        assert_eq!(lines.recv().await.unwrap(), "one\n");
        assert_eq!(lines.recv().await.unwrap(), "\u{fffd} two");
        assert_eq!(lines.recv().await, None);
        let long = "x".repeat(300 * 1024);
        let mut lines = super::lines(std::io::Cursor::new(long)).unwrap();
        assert_eq!(lines.recv().await.unwrap().len(), 256 * 1024);
        assert_eq!(lines.recv().await.unwrap().len(), 44 * 1024);
    }
}
