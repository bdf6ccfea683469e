//! `broker mrkdwn`: Markdown on standard input, what Slack gets on standard output.

use std::io::{self, Read, Write};

use broker_core::chat::{Mentionable, PersonId};
use broker_core::mrkdwn;

use crate::exit::{Exit, Failure};

/// The most that is read, in bytes.
const MAX_INPUT: u64 = 16 * 1024 * 1024;
/// Wider than any text that is read.
const WHOLE: usize = usize::MAX / 4;

/// What is chosen on the command line.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Choices {
    /// Write the messages that Slack would get, each after a line `--- part N of M ---`.
    #[arg(long)]
    split: bool,
    /// The longest message, in characters of finished mrkdwn.
    #[arg(long, value_name = "CHARS", requires = "split", default_value_t = 3_500,
          value_parser = clap::value_parser!(u64).range(mrkdwn::MIN_WIDTH as u64..=40_000))]
    width: u64,
    /// Somebody whom the text may mention: a user id and the name that stands for it. May be repeated.
    #[arg(long, value_name = "ID=NAME", value_parser = mentionable)]
    mention: Vec<Mentionable>,
}

fn mentionable(text: &str) -> Result<Mentionable, String> {
    let (id, name) = text.split_once('=').ok_or("it has to be an id and a name, as U0123=Ada Lovelace")?;
    let plain = id.len() > 1 && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if !plain || !id.starts_with(['U', 'W']) || name.trim().is_empty() {
        return Err("it has to be a user id, which begins with U or W, and a name".to_owned());
    }
    Ok(Mentionable { id: PersonId::new(id), names: vec![name.trim().to_owned()] })
}

/// Reads, renders, writes.
pub(crate) fn run(choices: &Choices) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    let read = io::stdin().lock().take(MAX_INPUT + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(Exit::Io, format!("standard input cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        let what = format!("the text is longer than {} MiB; nothing was rendered", MAX_INPUT / 1024 / 1024);
        return Err(Failure::new(Exit::Usage, what));
    }
    let text = String::from_utf8_lossy(&bytes);
    let width = if choices.split { usize::try_from(choices.width).unwrap_or(WHOLE) } else { WHOLE };
    let parts = mrkdwn::render(&text, width, &choices.mention);
    match write(&parts, choices.split) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Io, format!("standard output cannot be written: {error}"))),
        Ok(()) => Ok(()),
    }
}

fn write(parts: &[String], split: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (number, part) in (1..).zip(parts) {
        if split {
            writeln!(out, "--- part {number} of {} ---", parts.len())?;
        }
        writeln!(out, "{part}")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_named_by_id_and_name() {
        let ada = mentionable("U0123=Ada Lovelace").unwrap();
        assert_eq!((ada.id.as_str(), &ada.names[..]), ("U0123", &["Ada Lovelace".to_owned()][..]));
        for wrong in ["Ada", "=Ada", "U0123=", "u1=Ada", "C1=general", "U=x", "!here=x"] {
            assert!(mentionable(wrong).is_err(), "{wrong}");
        }
    }
}
