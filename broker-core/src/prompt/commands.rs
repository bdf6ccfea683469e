//! What the broker answers to commands of people. Markdown, in short plain English.

use std::fmt::Write as _;
use std::time::Duration;

use super::notices::reason;
use crate::agent::{AgentAccount, TokenUsage};
use crate::command::Command;

/// The answer to a `-new` behind which so many messages wait for the agent, or were put aside: the next conversation gets them.
pub fn begun_anew(waiting: usize) -> String {
    let first = match waiting {
        0 => "The next message begins a fresh conversation with the agent.".to_owned(),
        1 => "A fresh conversation with the agent begins with the message that waits for it.".to_owned(),
        _ => format!("A fresh conversation with the agent begins with the {waiting} messages that wait for it."),
    };
    format!(
        "{first} The files in the workspace of this thread stay, and the earlier messages of the thread go along as context."
    )
}
/// The answer to a `-new` that comes when the agent has begun nothing yet.
pub const NOTHING_TO_RENEW: &str =
    "There is no conversation with the agent in this thread to begin anew: the next message begins one.";
/// The answer to a `-new` behind which the agent is at work on what was written after it.
pub const NEW_CAME_LATE: &str = "This `-new` came late: the agent is at work on messages that were written after it. \
                                 Nothing was changed; write `-new` again to begin anew all the same.";
/// The answer to a `-retry` that found nothing.
pub const NOTHING_TO_RETRY: &str = "There is nothing to retry.";
/// The answer to a `-status` in a thread without a session.
pub const NO_SESSION: &str = "There is no conversation with the agent in this thread yet. Mention me with what you want \
                              to begin one, or write `-help`.";

/// The answer to a `-help`.
pub fn help() -> String {
    let mut text = String::from(
        "I hand what is written to me to a coding agent with a workspace of its own for each thread, and post what it \
         answers. Mention me, or write in a direct message, to begin; every reply in the thread goes to the agent, also \
         while it is at work.\n\nA message that is nothing but one of these words is for me:\n\n",
    );
    for command in Command::ALL {
        let _ = writeln!(text, "- `-{}` {}", command.word(), command.does());
    }
    text
}

/// The answer to a `-retry` that tries so many messages again.
pub fn retried(messages: usize) -> String {
    let (s, is) = if messages == 1 { ("", "is") } else { ("s", "are") };
    format!("{messages} message{s} {is} tried again now.")
}

/// What runs in a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Nothing.
    None,
    /// A turn, for so long, and what it does.
    Turn(Duration, &'static str),
    /// A turn that is being stopped.
    Stopping,
    /// Something was given to the agent and has not begun.
    Begins,
    /// It waits until fewer turns run.
    WaitsForOthers(Duration),
}

/// How it stands with the way to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// It is open.
    Open,
    /// It is opened when there is something to give.
    AtRest,
    /// It is being opened.
    Opening,
    /// So many tries failed; the next is made in this time.
    Failing(u32, Duration),
}

/// How a thread stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What runs.
    pub run: Run,
    /// Messages that the agent does not have yet.
    pub waiting: usize,
    /// Messages that were put aside.
    pub parked: usize,
    /// Files that are being fetched or copied.
    pub files: usize,
    /// The way to the agent.
    pub reach: Reach,
    /// Why the agent's runtime does not answer, when it does not.
    pub ill: Option<String>,
    /// The model, when known.
    pub model: Option<String>,
    /// The tokens, when known.
    pub usage: Option<TokenUsage>,
    /// The account, when known.
    pub account: Option<AgentAccount>,
    /// The name of the thread's workspace.
    pub folder: String,
}

/// The answer to a `-status`.
pub fn status(standing: &Standing) -> String {
    let run = match &standing.run {
        Run::None => "nothing runs".to_owned(),
        Run::Turn(since, doing) => format!("running for {}; the agent {}", span(*since), doing.trim_end_matches('…')),
        Run::Stopping => "being stopped".to_owned(),
        Run::Begins => "about to begin".to_owned(),
        Run::WaitsForOthers(since) => format!("waiting for other threads to finish, for {}", span(*since)),
    };
    let mut messages = format!("{} waiting", standing.waiting);
    if standing.parked > 0 {
        let _ = write!(messages, ", {} put aside (`-retry` takes them up again)", standing.parked);
    }
    if standing.files > 0 {
        let _ = write!(messages, "; {} with files on their way", standing.files);
    }
    let agent = match (&standing.ill, &standing.reach) {
        (Some(why), _) => format!("the agent does not answer ({})", reason(why)),
        (None, Reach::Open) => "connected".to_owned(),
        (None, Reach::AtRest) => "at rest until the next message".to_owned(),
        (None, Reach::Opening) => "being connected".to_owned(),
        (None, Reach::Failing(failures, wait)) => {
            let s = if *failures == 1 { "" } else { "s" };
            format!("cannot be reached ({failures} failed attempt{s}); tried again in {}", span(*wait))
        }
    };
    let mut text = format!("**Status**\n\n- Run: {run}\n- Messages: {messages}\n- Agent: {agent}\n");
    let _ = writeln!(text, "- Model: {}", standing.model.as_deref().map_or("not known yet".to_owned(), code));
    let _ = writeln!(text, "- Tokens: {}", standing.usage.as_ref().map_or("not known yet".to_owned(), tokens));
    if let Some(AgentAccount { kind, plan }) = &standing.account {
        let plan = plan.as_ref().map(|plan| format!(", plan {}", code(plan))).unwrap_or_default();
        let _ = writeln!(text, "- Account: {}{plan}", code(kind));
    }
    let _ = write!(text, "- Workspace: {}", code(&standing.folder));
    text
}

/// The answer to a `-status` at the top level of a direct message, where every message is a thread of its own.
pub fn status_of_conversation(busy: usize) -> String {
    let what = match busy {
        0 => "Nothing runs in this conversation.".to_owned(),
        1 => "The agent is at work in one thread of this conversation.".to_owned(),
        busy => format!("The agent is at work in {busy} threads of this conversation."),
    };
    format!("{what} Write `-status` in a thread to see how it stands there.")
}

fn tokens(usage: &TokenUsage) -> String {
    let TokenUsage { last, total, window } = *usage;
    let share = window.filter(|window| *window > 0).map(|window| {
        let percent = last.saturating_mul(100).div_ceil(window).min(100);
        format!(" ({percent} % of its {})", grouped(window))
    });
    format!(
        "{} in the context{}, {} in this conversation in all",
        grouped(last),
        share.unwrap_or_default(),
        grouped(total)
    )
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A name from elsewhere, as it is.
fn code(name: &str) -> String {
    format!("`{}`", reason(&name.replace('`', "'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing() -> Standing {
        Standing {
            run: Run::None,
            waiting: 0,
            parked: 0,
            files: 0,
            reach: Reach::AtRest,
            ill: None,
            model: None,
            usage: None,
            account: None,
            folder: "C1-100".to_owned(),
        }
    }

    #[test]
    fn a_status_says_what_is_known_and_what_is_not() {
        let quiet = "**Status**\n\n- Run: nothing runs\n- Messages: 0 waiting\n- Agent: at rest until the next message\n\
                     - Model: not known yet\n- Tokens: not known yet\n- Workspace: `C1-100`";
        assert_eq!(status(&standing()), quiet);
        let busy = Standing {
            run: Run::Turn(Duration::from_secs(3700), "is running a command…"),
            waiting: 2,
            parked: 1,
            reach: Reach::Open,
            model: Some("a`model".to_owned()),
            usage: Some(TokenUsage { last: 12_345, total: 1_234_567, window: Some(258_400) }),
            account: Some(AgentAccount { kind: "chatgpt".to_owned(), plan: Some("plus".to_owned()) }),
            ..standing()
        };
        assert_eq!(
            status(&busy),
            "**Status**\n\n- Run: running for 1 h 1 min; the agent is running a command\n\
             - Messages: 2 waiting, 1 put aside (`-retry` takes them up again)\n- Agent: connected\n\
             - Model: `a'model`\n\
             - Tokens: 12,345 in the context (5 % of its 258,400), 1,234,567 in this conversation in all\n\
             - Account: `chatgpt`, plan `plus`\n- Workspace: `C1-100`"
        );
    }

    #[test]
    fn a_status_says_why_the_agent_does_not_answer() {
        let failing = Standing { reach: Reach::Failing(3, Duration::from_secs(12)), ..standing() };
        assert!(status(&failing).contains("cannot be reached (3 failed attempts); tried again in 12 s"));
        let ill = Standing { ill: Some("Codex\nis starting".to_owned()), ..failing };
        assert!(status(&ill).contains("Agent: the agent does not answer (Codex is starting)"));
    }

    #[test]
    fn the_help_names_every_command() {
        let help = help();
        assert!(Command::ALL.iter().all(|command| help.contains(&format!("- `-{}` ", command.word()))), "{help}");
    }
}
