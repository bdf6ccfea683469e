//! Commands that people give to the broker itself, beside what they say to the agent.

use crate::chat::ChatMessage;

/// What a person may ask of the broker. A message that is one of these words and nothing else is no word to the agent;
/// every other word with a dash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// `-stop`: what runs and what waits is taken back.
    Stop,
    /// `-help`: what the broker does, and the commands.
    Help,
    /// `-status`: how the thread stands.
    Status,
    /// `-new`: the agent begins a fresh conversation in the same workspace.
    New,
    /// `-retry`: what was put aside or waits for another try is tried now.
    Retry,
}

impl Command {
    /// All of them, in the order in which people are told of them.
    pub const ALL: [Self; 5] = [Self::Help, Self::Status, Self::Stop, Self::New, Self::Retry];

    /// The word, without its dash.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Help => "help",
            Self::Status => "status",
            Self::New => "new",
            Self::Retry => "retry",
        }
    }

    /// What it does, in a line for people. Markdown.
    pub const fn does(self) -> &'static str {
        match self {
            Self::Stop => "ends the current run and takes back what waits",
            Self::Help => "shows this",
            Self::Status => "shows what runs, what waits, the model and how full its context is",
            Self::New => {
                "begins a fresh conversation with the agent: the files of this thread stay, and its messages go along"
            }
            Self::Retry => "tries again now what could not be given to the agent",
        }
    }

    /// The command that a message is. One that comes with files is meant for the agent.
    pub fn read(message: &ChatMessage) -> Option<Self> {
        if message.files.is_empty() { Self::named(&message.control_text) } else { None }
    }

    /// The command that a text names: its word alone, in any case, behind one dash. Keyboards make longer dashes of two
    /// hyphens and capitals of first letters, so those are taken too.
    fn named(text: &str) -> Option<Self> {
        let text = text.trim();
        let word = text.strip_prefix("--").or_else(|| text.strip_prefix(['-', '‐', '‑', '–', '—', '−']))?;
        Self::ALL.into_iter().find(|command| command.word().eq_ignore_ascii_case(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_its_word_and_nothing_else() {
        for command in Command::ALL {
            let word = command.word();
            assert_eq!(Command::named(&format!("-{word}")), Some(command));
            assert_eq!(Command::named(&format!(" -{}\n", word.to_uppercase())), Some(command));
            for text in [word.to_owned(), format!("- {word}"), format!("-{word} now"), format!("-{word}s")] {
                assert_eq!(Command::named(&text), None, "{text}");
            }
        }
    }

    #[test]
    fn dashes_that_a_keyboard_makes_of_hyphens_are_dashes() {
        for text in ["-stop", "--stop", "–stop", "—stop", "−Stop"] {
            assert_eq!(Command::named(text), Some(Command::Stop), "{text}");
        }
        for text in ["", "-", "—", "---stop", "-–stop", "-foo", "-v", "/stop", "-stöp"] {
            assert_eq!(Command::named(text), None, "{text}");
        }
    }
}
