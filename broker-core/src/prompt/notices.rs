//! What the broker says for itself: to people in short plain English, to the agent in full.

use crate::agent::FailureCause;
use crate::store::PostId;

use super::block;

/// The answer to a `-stop` that stopped something.
pub const STOPPED: &str = "Stopped the current run.";
/// The answer to a `-stop` of a whole conversation, of which some thread could not be told yet.
pub fn stopped_in_part(any: bool) -> String {
    let stopped = if any { format!("{STOPPED} ") } else { String::new() };
    format!("{stopped}A thread of this conversation cannot be reached right now; it is stopped as soon as it can be.")
}
/// The answer to a `-stop` that found nothing to stop.
pub const NOTHING_TO_STOP: &str = "No active run to stop.";
/// The answer to a `-stop` that came when the agent was already at work on newer messages.
pub const STOP_CAME_LATE: &str = "This `-stop` came late: the agent is at work on messages that were written after it. \
                                  Send `-stop` again to stop that.";
/// The answer to a tool call of a run that a person has stopped.
pub const STOPPED_BY_PERSON: &str =
    "A person stopped this run with `-stop`; nothing was done. End the turn now, without further tool calls.";
/// The answer to whoever waits for a post of a run that a person has stopped.
pub fn stopped_while_posting(post: &PostId) -> String {
    format!(
        "A person stopped this run while the post {post} was on its way: what of it was not sent yet is not sent any more. End \
         the turn now, without further tool calls."
    )
}
/// The answer to a command that asked for something in a turn, when that turn is over.
pub const TURN_OVER: &str = "the turn in which this was asked for is over; nothing was posted";
/// The answer to a post that would be one more of very many that wait.
pub fn too_many_open(waiting: usize) -> String {
    format!(
        "{waiting} messages of this thread wait for Slack already; nothing was posted. Say less, or all of it in one file, and \
         try again later."
    )
}
/// The answer to a `wait` that has nothing to wait for.
pub const NO_JOB_TO_WAIT_FOR: &str = "`wait` needs a background job of this session that is still running, and there is \
                                      none; nothing was recorded. Use `final` when you are done, or `block` with a reason \
                                      when you need a person.";

/// The name of the file with the whole of a text that was too long.
pub const WHOLE_TEXT_NAME: &str = "answer.md";
/// What stands beside it; plain words, which are the same in every markup.
pub const WHOLE_TEXT: &str = "It is too long for messages: this file holds the whole of it.";
/// What to do after a reaction of which it is not known whether it was made.
pub const REACT_AGAIN: &str = "it may have been done; ask again, which does no harm";
/// Something is asked for under the name of something else.
pub const KEY_REUSED: &str = "another request has this `idempotency-key` already, and this one is not the same; nothing was posted. \
                              Send it with a key of its own";
/// Somebody says how the turn ends, and none runs.
pub const NO_TURN_TO_END: &str = "no turn runs in this thread, so there is none to end; nothing was recorded";

/// How much of a post the agent is reminded of, in characters.
const BEGINNING: usize = 200;
/// How much of a reason is told, in characters.
const MAX_REASON: usize = 300;

/// What the agent is told when its turn ended without a word to anybody.
pub fn wake_up() -> &'static str {
    "Your last turn ended without a final message: nothing was posted with kind `final`, `block` or `wait`, and there was \
     no final text. The people in the thread cannot see what became of their request.\n\n\
     End it properly now: post the result with the `post` tool and kind `final`; or, when you cannot go on without a \
     person, with kind `block` and the reason; or go on working and post the result then. When everything has been said \
     already, record that with the `broker` tool: action `state`, kind `final`. This reminder is sent once."
}

/// What the agent is told when its turn was cut by a crash. `posts` are the beginnings of what it had posted in that turn
/// and what did appear in the thread.
pub fn continuation(posts: &[String]) -> String {
    let mut text = String::from(
        "Your last turn was cut: the broker or the agent runtime crashed or was restarted while you worked. Commands that \
         were running are gone; what they had done by then is done.\n\n",
    );
    if posts.is_empty() {
        text.push_str("None of your posts of that turn appeared in the thread.\n\n");
    } else {
        let beginnings: Vec<String> =
            posts.iter().map(|post| post.chars().take(BEGINNING).collect::<String>()).collect();
        text.push_str(
            "These posts of that turn did appear in the thread (the beginning of each); do not repeat them:\n",
        );
        text.push_str(&block::fenced(&beginnings));
        text.push_str("\n\n");
    }
    text.push_str(
        "Before you repeat anything with an effect (a post, a commit, a push, a deployment, a request to another system), \
         check whether it has already happened. Then go on with the task and end the turn as usual.",
    );
    text
}

/// A turn failed.
pub fn failed(cause: FailureCause, message: &str) -> String {
    let (what, mend) = match cause {
        FailureCause::UsageLimit => (
            "The run failed: the usage limit of the agent's account is reached.",
            "What you wrote is kept. Write again once the limit is renewed, or ask an operator for another account.",
        ),
        FailureCause::Auth => (
            "The run failed: the agent's account is not signed in or not allowed.",
            "What you wrote is kept. An operator has to sign it in again; then write here again.",
        ),
        FailureCause::ContextWindow => (
            "The run failed: this conversation no longer fits into the model's context.",
            "Please start a new thread with a short summary of where things stand.",
        ),
        FailureCause::Overloaded => (
            "The run failed: the model's service is overloaded.",
            "What you wrote is kept. Write again in a few minutes.",
        ),
        FailureCause::Unreachable => (
            "The run failed: the model's service could not be reached or broke off.",
            "What you wrote is kept. Write again in a few minutes; if it goes on, tell an operator.",
        ),
        FailureCause::Policy => {
            ("The run failed: the model's service refused the content.", "Please put the request differently.")
        }
        FailureCause::Other => (
            "The run failed.",
            "What you wrote is kept. Write again to have it try once more; if it goes on, tell an operator.",
        ),
    };
    let said = reason(message);
    let said = if said.is_empty() { String::new() } else { format!("\n\nThe agent runtime said: {said}") };
    format!("{what} {mend}{said}")
}

/// A turn was cut by a crash for the second time.
pub fn cut_again() -> String {
    "The run was cut by a crash or a restart, was taken up again, and was cut once more. It is not taken up again by \
     itself: please check what was done, and write here to go on."
        .to_owned()
}

/// The end of a final text that was too long: `messages` messages of it are not posted.
pub fn cut_answer(messages: usize) -> String {
    let (s, are) = if messages == 1 { ("", "is") } else { ("s", "are") };
    format!(
        "The answer is too long for Slack: {messages} further message{s} of it {are} left out. Ask for the rest, or for a file."
    )
}

/// A turn was interrupted, and nobody had asked for that.
pub fn interrupted() -> String {
    "The run was interrupted before it was finished. Write here to go on.".to_owned()
}

/// The agent's own history of the thread is gone.
pub fn history_lost() -> String {
    "The agent's memory of this thread is lost. It starts anew with the messages that Slack holds; what it did or read \
     before and did not write here, it no longer knows."
        .to_owned()
}

/// Messages cannot be given to the agent for now.
pub fn runtime_unavailable(why: &str) -> String {
    format!(
        "The agent cannot be reached right now ({}). Your message is kept and given to it as soon as it answers.",
        reason(why)
    )
}

/// A run does not hear that it shall stop.
pub fn not_interrupted(why: &str) -> String {
    format!(
        "The run could not be stopped yet ({}). That is tried again; what is written meanwhile waits for its end.",
        reason(why)
    )
}

/// A message could not be given to the agent.
pub fn parked(attempts: u32, why: &str) -> String {
    format!(
        "A message could not be given to the agent in {attempts} attempts ({}). It is put aside and tried once more when \
         somebody writes here again; please tell an operator if that fails too.",
        reason(why)
    )
}

/// Part of a post was refused for good, or could not be handed over for long.
pub fn parts_lost(arrived: u32, of: u32, code: &str) -> String {
    format!("Only {arrived} of {of} messages of a post arrived; the rest could not be posted ({}).", reason(code))
}

/// A turn was silent for too long and was interrupted.
pub fn idle(minutes: u64) -> String {
    let s = if minutes == 1 { "" } else { "s" };
    format!("The run gave no sign of life for {minutes} minute{s} and was interrupted. Write here to go on.")
}

/// The agent ended without a word, and again after it was reminded.
pub fn silent_end() -> String {
    "The run ended without an answer, also after a reminder. Write here to ask what became of it.".to_owned()
}

/// Somebody may not instruct the broker. Plain text, seen only by them.
pub fn denied(why: &str) -> String {
    format!("I cannot take this message: {}. An operator of this app can allow it.", reason(why))
}

/// A reason from elsewhere, fit to stand in a sentence: one line, not too long.
pub(super) fn reason(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
