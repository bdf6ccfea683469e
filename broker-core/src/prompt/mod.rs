//! What the agent is told, and the short notices that people read. Pure text, snapshot-tested.
//!
//! | file | what it says |
//! | --- | --- |
//! | `instructions` | the developer instructions of an agent thread |
//! | `message` | a person's message, with what goes along, as the agent gets it |
//! | `block` | messages as JSON inside a fence that no text can close |
//! | `attached` | what hangs on a message beside its text |
//! | `mentions` | a text as people see it |
//! | `commands` | what the broker answers to commands of people |
//! | `notices` | what the broker says for itself, to people and to the agent |

mod attached;
mod block;
mod commands;
mod instructions;
mod mentions;
mod message;
mod notices;
#[cfg(test)]
mod tests;

pub use commands::{
    NEW_CAME_LATE, NO_SESSION, NOTHING_TO_RENEW, NOTHING_TO_RETRY, Reach, Run, Standing, begun_anew, help, retried,
    status, status_of_conversation,
};
pub use instructions::{Coordinates, instructions};
pub use message::{Composed, MAX_PROMPT, Overflow, history, message};
pub use notices::{
    KEY_REUSED, NO_JOB_TO_WAIT_FOR, NO_TURN_TO_END, NOTHING_TO_STOP, REACT_AGAIN, STOP_CAME_LATE, STOPPED,
    STOPPED_BY_PERSON, TURN_OVER, WHOLE_TEXT, WHOLE_TEXT_NAME, continuation, cut_again, cut_answer, denied, failed,
    history_lost, idle, interrupted, not_interrupted, parked, parts_lost, runtime_unavailable, silent_end,
    stopped_in_part, stopped_while_posting, too_many_open, wake_up,
};
