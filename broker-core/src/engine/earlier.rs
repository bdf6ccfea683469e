//! What becomes of the files of earlier messages when somebody looks at them: where each stands, or why it does not.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::files::SessionFiles;
use crate::attachments::{self, Folder};
use crate::chat::{ChatMessage, FileRef, Kept, MessageId};
use crate::session::TOOL_ANSWER_LIMIT;
use crate::store::ContextMessage;
use crate::workspace::Workspaces;

/// Files of one look that are looked for in the workspace; the newest.
const MAX_LOOKED_FOR: usize = 1000;
/// Files of one look that are fetched; the newest.
const MAX_FETCHED: usize = 20;
/// How long after the question the answer waits for them: it has to come within [`TOOL_ANSWER_LIMIT`].
const PATIENCE: Duration = TOOL_ANSWER_LIMIT.saturating_sub(Duration::from_secs(2));

/// Files that are not in the workspace, each with the message that it hangs on.
type Absent = Vec<(MessageId, FileRef)>;

/// Looks for the files of messages in the workspace. Nothing is fetched: whoever asks is told how to get at them.
pub(super) async fn look_for_files(shared: &Shared, workspace: &Path, messages: &mut [ContextMessage]) {
    let reason = "not in the workspace; the `broker` tool's action `history` fetches it";
    for (message, file) in absent(shared, workspace, messages).await {
        settle(messages, &message, FileRef { kept: Some(Kept::Missing { reason: reason.to_owned() }), ..file });
    }
}

/// Does the same, and fetches the newest of those that are not there.
pub(super) async fn fetch_files(
    shared: &Arc<Shared>,
    files: &SessionFiles,
    workspace: &Path,
    messages: &mut [ContextMessage],
    asked: Instant,
) {
    let mut wanted = absent(shared, workspace, messages).await;
    let others = wanted.split_off(wanted.len().min(MAX_FETCHED));
    let reason = format!("not fetched: the newest {MAX_FETCHED} files of one answer are; read fewer messages at once");
    let others = others
        .into_iter()
        .map(|(message, file)| (message, FileRef { kept: Some(Kept::Missing { reason: reason.clone() }), ..file }));
    let fetched = files.fetch_earlier(shared, workspace, wanted, asked + PATIENCE).await;
    for (message, file) in fetched.into_iter().chain(others) {
        settle(messages, &message, file);
    }
}

/// The files that are not in the workspace, the newest first. Those that are get their paths.
async fn absent(shared: &Shared, workspace: &Path, messages: &mut [ContextMessage]) -> Absent {
    let files = messages.iter().rev().flat_map(|known| {
        let id = &known.message.id;
        known.message.all_files().map(move |file| (id.clone(), file.clone()))
    });
    let wanted: Absent = files.collect();
    if wanted.is_empty() || shared.settings.workspaces == Workspaces::Imagined {
        return Vec::new();
    }
    let workspace = workspace.to_owned();
    let look = move || {
        let standing = |message: &MessageId, file: &FileRef| {
            let folder = Folder::find(&workspace, message.as_str()).ok()?;
            let file = folder.by_id(file).unwrap_or_else(|| file.clone());
            folder.complete(&file).map(|_| file)
        };
        let (mut there, mut absent) = (Vec::new(), Vec::new());
        for (n, (message, file)) in wanted.into_iter().enumerate() {
            match (n < MAX_LOOKED_FOR).then(|| standing(&message, &file)).flatten() {
                Some(file) => there.push((message, file)),
                None => absent.push((message, file)),
            }
        }
        (there, absent)
    };
    let (there, absent) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
    for (message, file) in there {
        let path = attachments::path(message.as_str(), &file);
        let kept = Some(Kept::Here { path, image: None, remark: None });
        settle(messages, &message, FileRef { kept, ..file });
    }
    absent
}

/// Notes what became of a file.
fn settle(messages: &mut [ContextMessage], message: &MessageId, file: FileRef) {
    let of_message = messages.iter_mut().filter(|known| known.message.id == *message);
    let mut files = of_message.flat_map(|known| ChatMessage::all_files_mut(&mut known.message));
    if let Some(known) = files.find(|known| known.id == file.id && known.kept.is_none()) {
        *known = file;
    }
}
