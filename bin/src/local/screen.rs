//! What is shown. Everything goes through one thread, so that a reader who is slow, or gone, holds nobody up.

use std::io::{self, IsTerminal, Write};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::plain::plain;

/// What waits to be shown; beyond that, whoever has something to show waits.
const QUEUE: usize = 1024;

/// Something to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Show {
    /// Words of the program itself, ready to be shown.
    Note(String),
    /// A message with a line above it that says whose it is.
    Message {
        /// Who, and what kind of message.
        from: String,
        /// The text, as it came.
        text: String,
    },
    /// What the agent is doing; absent for nothing.
    Status(Option<String>),
    /// It is for a person to type.
    Prompt,
}

/// The way to the screen.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    queue: mpsc::Sender<Show>,
    terminal: bool,
}

impl Screen {
    /// Opens the screen. `gone` is cancelled when nobody reads any more.
    pub(super) fn open(gone: CancellationToken) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (screen, mut orders) = Self::new(terminal);
        let thread = std::thread::Builder::new().name("screen".to_owned()).spawn(move || {
            let mut painter = Painter { out: io::stdout(), terminal, colour, status: None, prompted: false };
            while let Some(show) = orders.blocking_recv() {
                if painter.paint(&show).is_err() {
                    gone.cancel();
                    return;
                }
            }
            let _ = painter.leave();
        })?;
        Ok((screen, thread))
    }

    /// A screen whose orders are read by somebody else.
    pub(super) fn new(terminal: bool) -> (Self, mpsc::Receiver<Show>) {
        let (queue, orders) = mpsc::channel(QUEUE);
        (Self { queue, terminal }, orders)
    }

    /// Whether a person looks at it.
    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Shows something. Nothing happens when nobody looks any more.
    pub(super) async fn show(&self, show: Show) {
        let _ = self.queue.send(show).await;
    }

    /// Shows words of the program itself.
    pub(super) async fn note(&self, text: impl Into<String>) {
        self.show(Show::Note(text.into())).await;
    }
}

struct Painter<W> {
    out: W,
    terminal: bool,
    colour: bool,
    /// The status that stands on the last line.
    status: Option<String>,
    /// Whether the prompt stands on the last line.
    prompted: bool,
}

impl<W: Write> Painter<W> {
    fn paint(&mut self, show: &Show) -> io::Result<()> {
        match show {
            Show::Note(text) => {
                self.clear_line()?;
                writeln!(self.out, "{}", self.painted(text, "2"))?;
            }
            Show::Message { from, text } => {
                self.clear_line()?;
                writeln!(self.out, "{}", self.painted(&plain(from), "1;36"))?;
                for line in plain(text).trim_end().split('\n') {
                    let indent = if line.is_empty() { "" } else { "  " };
                    writeln!(self.out, "{indent}{line}")?;
                }
            }
            Show::Status(status) => self.change_status(status.as_deref())?,
            Show::Prompt => self.clear_line()?,
        }
        if self.status.is_none() {
            self.prompt()?;
        }
        self.out.flush()
    }

    /// Whatever was shown, it is for a person to type again.
    fn prompt(&mut self) -> io::Result<()> {
        if self.terminal && !self.prompted {
            write!(self.out, "{}", self.painted("you> ", "1"))?;
            self.prompted = true;
        }
        Ok(())
    }

    /// On a terminal the status stands on the last line, and goes when it ends. Elsewhere a line says when it begins.
    fn change_status(&mut self, status: Option<&str>) -> io::Result<()> {
        let status = status.map(plain);
        if status == self.status {
            return Ok(());
        }
        if self.terminal {
            self.clear_line()?;
            if let Some(status) = &status {
                write!(self.out, "{}", self.painted(&format!("agent {status} "), "2"))?;
            }
        } else if let (None, Some(status)) = (&self.status, &status) {
            writeln!(self.out, "agent {status}")?;
        }
        self.status = status;
        Ok(())
    }

    fn clear_line(&mut self) -> io::Result<()> {
        if self.terminal && (self.status.is_some() || self.prompted) {
            write!(self.out, "\r\u{1b}[2K")?;
            self.status = None;
            self.prompted = false;
        }
        Ok(())
    }

    fn leave(&mut self) -> io::Result<()> {
        self.clear_line()?;
        self.out.flush()
    }

    fn painted(&self, text: &str, style: &str) -> String {
        if self.colour { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn painted(terminal: bool, shows: &[Show]) -> String {
        let mut painter = Painter { out: Vec::new(), terminal, colour: false, status: None, prompted: false };
        for show in shows {
            painter.paint(show).unwrap();
        }
        String::from_utf8(painter.out).unwrap()
    }

    fn shows() -> Vec<Show> {
        let status = |text: &str| Show::Status(Some(text.to_owned()));
        let text = "one\u{1b}]0;title\u{7}\n\ntwo\n".to_owned();
        vec![
            Show::Prompt,
            status("is thinking…"),
            status("is thinking…"),
            Show::Message { from: "agent · final\u{1b}[2J".to_owned(), text },
            Show::Status(None),
        ]
    }

    #[test]
    fn a_pipe_gets_lines_and_nothing_else() {
        let expected = "agent is thinking…\nagent · final\n  one\n\n  two\n";
        assert_eq!(painted(false, &shows()), expected);
    }

    #[test]
    fn on_a_terminal_the_last_line_makes_room() {
        let clear = "\r\u{1b}[2K";
        let expected = format!("you> {clear}agent is thinking… {clear}agent · final\n  one\n\n  two\nyou> ");
        assert_eq!(painted(true, &shows()), expected);
    }
}
