//! Reading a thread's history back: which inputs stand in it.

use std::collections::HashSet;
use std::time::Duration;

use broker_core::agent::{AgentThreadId, Fate, InputId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::rpc::{CallError, Rpc};

/// Items on one page. An item may hold a command's output of up to 1 MiB, and a page is one line.
const PAGE: u32 = 32;

/// Pages that are read at most: 5,120 items. What has not been found by then stays undecided.
const MAX_PAGES: usize = 160;

/// The time limit of one page.
const PAGE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    data: Vec<Entry>,
    #[serde(default)]
    next_cursor: Option<Value>,
}

#[derive(Deserialize)]
struct Entry {
    item: Item,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    client_id: Option<String>,
}

/// Looks inputs up, newest first, until all are found or the history ends.
pub(crate) async fn fates(
    rpc: &Rpc,
    thread: &AgentThreadId,
    ids: &[InputId],
) -> Result<Vec<(InputId, Fate)>, CallError> {
    let mut missing: HashSet<&str> = ids.iter().map(InputId::as_str).collect();
    let mut cursor = None;
    let mut rest = Fate::Undecided;
    for _ in 0..MAX_PAGES {
        if missing.is_empty() {
            break;
        }
        let page = match page(rpc, thread, cursor.as_ref()).await {
            Ok(page) => page,
            // What a thread says that has no item yet: a thread without a history has recorded nothing.
            Err(CallError::Refused(error)) if error.code == -32601 && error.says("not supported yet") => Page::none(),
            Err(error) => return Err(error),
        };
        for entry in &page.data {
            if let (true, Some(id)) = (entry.item.kind == "userMessage", &entry.item.client_id) {
                missing.remove(id.as_str());
            }
        }
        match page.next_cursor {
            Some(next) if !next.is_null() => cursor = Some(next),
            _ => {
                rest = Fate::Absent;
                break;
            }
        }
    }
    let fate = |id: &InputId| if missing.contains(id.as_str()) { rest } else { Fate::Recorded };
    Ok(ids.iter().map(|id| (id.clone(), fate(id))).collect())
}

impl Page {
    fn none() -> Self {
        Self { data: Vec::new(), next_cursor: None }
    }
}

async fn page(rpc: &Rpc, thread: &AgentThreadId, cursor: Option<&Value>) -> Result<Page, CallError> {
    let params = json!({"threadId": thread.as_str(), "sortDirection": "desc", "limit": PAGE, "cursor": cursor});
    rpc.call("thread/items/list", params, PAGE_LIMIT).await
}
