//! What the app-server asks: tool calls are handed on, everything else is refused at once.

use std::collections::HashMap;

use broker_core::agent::{AgentAnswer, AgentThreadId, TurnId};
use serde::Deserialize;
use serde_json::{Value, json};

/// Tool calls that wait for an answer; more are refused. A model makes a few at a time, in at most some hundred threads.
const MAX_OPEN: usize = 1024;

/// A tool call, as the app-server asks it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ToolCall {
    pub(crate) thread_id: String,
    pub(crate) turn_id: String,
    pub(crate) tool: String,
    #[serde(default)]
    pub(crate) arguments: Value,
}

#[derive(Debug)]
struct Open {
    /// As it has to be repeated in the answer.
    id: Value,
    thread: AgentThreadId,
    turn: TurnId,
}

/// The tool calls that wait for an answer. Dropped with the process.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: HashMap<String, Open>,
}

impl Questions {
    /// Takes a call in; `None` when too many wait already.
    pub(crate) fn add(&mut self, id: &Value, call: &ToolCall) -> Option<String> {
        if self.open.len() >= MAX_OPEN {
            return None;
        }
        let key = id.to_string();
        let open = Open {
            id: id.clone(),
            thread: AgentThreadId::new(call.thread_id.clone()),
            turn: TurnId::new(call.turn_id.clone()),
        };
        self.open.insert(key.clone(), open);
        Some(key)
    }

    /// Takes a call out; the message that answers it.
    pub(crate) fn answer(&mut self, key: &str, answer: &AgentAnswer) -> Option<Value> {
        let open = self.open.remove(key)?;
        Some(match answer {
            AgentAnswer::Tool { success, text } => json!({
                "id": open.id,
                "result": {"contentItems": [{"type": "inputText", "text": text}], "success": success},
            }),
            _ => error(&open.id, "the broker has no such answer"),
        })
    }

    /// The app-server no longer waits for this one.
    pub(crate) fn resolved(&mut self, id: &Value) {
        self.open.remove(&id.to_string());
    }

    /// A turn is over, and its calls with it: an interrupt resolves none of them.
    pub(crate) fn turn_ended(&mut self, turn: &TurnId) {
        self.open.retain(|_, open| open.turn != *turn);
    }

    /// Events of a thread no longer come.
    pub(crate) fn forget_thread(&mut self, thread: &AgentThreadId) {
        self.open.retain(|_, open| open.thread != *thread);
    }
}

/// A JSON-RPC error for an answer.
pub(crate) fn error(id: &Value, message: &str) -> Value {
    json!({"id": id, "error": {"code": -32601, "message": message}})
}

/// The answer to a question that nobody can be asked: no, in the shape that the method has for it.
pub(crate) fn refusal(id: &Value, method: &str) -> Value {
    let result = match method {
        "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => json!({"decision": "decline"}),
        // The two of the older protocol have words of their own.
        "execCommandApproval" | "applyPatchApproval" => {
            json!({"decision": {"denied": {"rejection": "nobody can be asked"}}})
        }
        "mcpServer/elicitation/request" => json!({"action": "decline", "content": null}),
        "item/tool/requestUserInput" => json!({"answers": {}}),
        _ => return error(id, "the broker does not answer this"),
    };
    json!({"id": id, "result": result})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(turn: &str) -> ToolCall {
        ToolCall { thread_id: "th".into(), turn_id: turn.into(), tool: "post".into(), arguments: json!({}) }
    }

    fn yes() -> AgentAnswer {
        AgentAnswer::Tool { success: true, text: "posted".to_owned() }
    }

    #[test]
    fn a_call_is_answered_once_in_the_words_of_the_protocol() {
        let mut questions = Questions::default();
        let key = questions.add(&json!(0), &call("tu")).expect("room");
        let expected = json!({"id":0,"result":{"contentItems":[{"type":"inputText","text":"posted"}],"success":true}});
        assert_eq!(questions.answer(&key, &yes()), Some(expected));
        assert_eq!(questions.answer(&key, &yes()), None);
    }

    #[test]
    fn calls_end_with_their_turn_and_are_bounded() {
        let mut questions = Questions::default();
        let first = questions.add(&json!(1), &call("a")).expect("room");
        let second = questions.add(&json!("x"), &call("b")).expect("room");
        questions.turn_ended(&TurnId::new("a"));
        assert!(questions.answer(&first, &yes()).is_none());
        questions.resolved(&json!("x"));
        assert!(questions.answer(&second, &yes()).is_none());
        for id in 0..MAX_OPEN {
            assert!(questions.add(&json!(id), &call("c")).is_some());
        }
        assert!(questions.add(&json!("more"), &call("c")).is_none());
        questions.forget_thread(&AgentThreadId::new("th"));
        assert!(questions.add(&json!("more"), &call("c")).is_some());
    }

    #[test]
    fn every_other_question_is_refused() {
        assert_eq!(
            refusal(&json!(7), "item/fileChange/requestApproval"),
            json!({"id":7,"result":{"decision":"decline"}})
        );
        assert_eq!(
            refusal(&json!(7), "execCommandApproval")["result"]["decision"]["denied"]["rejection"],
            "nobody can be asked"
        );
        assert_eq!(refusal(&json!(7), "mcpServer/elicitation/request")["result"]["action"], "decline");
        for method in ["account/chatgptAuthTokens/refresh", "attestation/generate", "currentTime/read", "new/thing"] {
            assert_eq!(refusal(&json!(7), method)["error"]["code"], -32601, "{method}");
        }
    }
}
