//! How the process ends. The numbers are those of BSD's `sysexits.h`, so that a supervisor can tell "try again" from
//! "somebody has to mend this".

use std::fmt;

/// The exit code of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A variable or an argument is missing or wrong.
    Usage = 64,
    /// The database is of a newer broker.
    NewerData = 65,
    /// The HTTP port cannot be had.
    Unavailable = 69,
    /// The broker's own fault.
    Internal = 70,
    /// A folder or file cannot be made.
    CannotCreate = 73,
    /// The store cannot be read or written.
    Io = 74,
    /// Another broker holds the data root: when that ends, a new try succeeds.
    Held = 75,
    /// Slack refuses the tokens.
    Refused = 77,
}

/// Why the broker ended, in words for an operator.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    /// A failure.
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The chapter of `--help` on exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0    ended by a signal, in order, or with the input of a chat
  64   an argument or a variable is missing or wrong
  65   the database is of a newer broker
  69   the HTTP port cannot be had
  70   a fault of the broker itself
  73   a folder or a file cannot be made
  74   the store cannot be read or written
  75   another broker holds DATA_ROOT; try again when it has ended
  77   Slack refuses the tokens
  130, 143   ended at once by a second SIGINT or SIGTERM";
