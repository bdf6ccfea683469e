//! The files of messages, on their way into the session's folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::effects::reply;
use super::registry::Letter;
use crate::agent::InputId;
use crate::attachments::{self, Folder};
use crate::chat::{FetchError, FileRef, Kept, MessageId};
use crate::picture::{self, PictureError};
use crate::session::SessionInput;
use crate::workspace;

/// The message goes to the agent without the files that are not there by then.
const LIMIT: Duration = Duration::from_secs(180);
/// Files that are fetched at once, over all sessions.
const AT_ONCE: usize = 6;
/// Files of one session that are fetched at once.
const AT_ONCE_HERE: usize = 3;
/// A file that could not be fetched for now is tried this often.
const TRIES: u32 = 3;
/// The wait before another try; twice as long before the third.
const PAUSE: Duration = Duration::from_millis(500);

/// What limits the work on files, over all sessions.
pub(crate) struct Files {
    downloads: Semaphore,
    /// A decoded image takes up to 250 MB of memory.
    pictures: Arc<Semaphore>,
}

impl Default for Files {
    fn default() -> Self {
        Self { downloads: Semaphore::new(AT_ONCE), pictures: Arc::new(Semaphore::new(1)) }
    }
}

/// The fetching of one session: one message's files after another's, so that nobody else writes the same file.
#[derive(Default)]
pub(super) struct SessionFiles(Arc<Mutex<()>>);

impl SessionFiles {
    /// Fetches files; the answer comes back as an input.
    pub(super) fn fetch(
        &self,
        shared: &Arc<Shared>,
        letters: &mpsc::Sender<Letter>,
        workspace: PathBuf,
        row: InputId,
        files: Vec<(MessageId, FileRef)>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (alone, letters, task) = (Arc::clone(&self.0), letters.clone(), Arc::clone(shared));
        async move {
            let fetched = async {
                let _alone = alone.lock().await;
                let deadline = Instant::now() + LIMIT;
                let all = files.into_iter().map(|(message, file)| {
                    let (shared, workspace) = (&task, &workspace);
                    async move {
                        let kept = timeout_at(deadline, keep(shared, workspace, &message, &file)).await;
                        let late = || format!("it was not there within {} s", LIMIT.as_secs());
                        let kept = kept.unwrap_or_else(|_| Kept::Missing { reason: late() });
                        report(&row_of(&message, &file), &kept);
                        (message, file.id, kept)
                    }
                });
                futures_util::stream::iter(all).buffered(AT_ONCE_HERE).collect::<Vec<_>>().await
            };
            tokio::select! {
                biased;
                // The next broker fetches them, or finds them.
                () = task.ending.cancelled() => {}
                // A session that has ended waits for nothing.
                () = letters.closed() => {}
                files = fetched => reply(&letters, SessionInput::Fetched { row, files }).await,
            }
        }
    }
}

fn row_of(message: &MessageId, file: &FileRef) -> String {
    format!("{message}/{}", file.id)
}

fn report(file: &str, kept: &Kept) {
    match kept {
        Kept::Here { .. } => tracing::debug!(file, "a file of a message is kept"),
        Kept::Missing { reason } => tracing::warn!(file, reason, "a file of a message could not be fetched"),
    }
}

async fn keep(shared: &Shared, workspace: &Path, message: &MessageId, file: &FileRef) -> Kept {
    match fetched(shared, workspace, message, file).await {
        Err(reason) => Kept::Missing { reason },
        Ok(found) => {
            let (image, remark) = shown(shared, workspace, message, file, found).await;
            Kept::Here { path: attachments::path(message.as_str(), file), image, remark }
        }
    }
}

/// The file, fetched, or found as an earlier broker left it.
async fn fetched(shared: &Shared, workspace: &Path, message: &MessageId, file: &FileRef) -> Result<File, String> {
    let not_written = |error: std::io::Error| format!("it could not be written: {error}");
    workspace::prepare(workspace).await.map_err(not_written)?;
    let (place, id, looked_for) = (workspace.to_owned(), message.clone(), file.clone());
    let open = move || {
        let folder = Folder::open(&place, id.as_str())?;
        let found = folder.complete(&looked_for);
        Ok((folder, found))
    };
    let (folder, found) = blocking(open).await.map_err(not_written)?;
    if let Some(found) = found {
        return Ok(found);
    }
    let folder = Arc::new(folder);
    let _download = shared.files.downloads.acquire().await.map_err(|error| error.to_string())?;
    let mut attempt = 1;
    loop {
        let (at, wanted) = (Arc::clone(&folder), file.clone());
        let (made, unfinished) = blocking(move || at.begin(&wanted)).await.map_err(not_written)?;
        let mut sink = tokio::fs::File::from_std(made);
        let result = shared.parts.transport.fetch(file, shared.settings.file_max_bytes, &mut sink).await;
        let made = sink.into_std().await;
        let at = Arc::clone(&folder);
        let failure = match result {
            Ok(_) => {
                let finish = move || at.finish(&made, &unfinished).map(|()| made);
                return blocking(finish).await.map_err(not_written);
            }
            Err(failure) => failure,
        };
        // Unlinking may wait for a disk too. What stays is written over by the next try.
        let _ = blocking(move || at.give_up(&unfinished)).await;
        if attempt >= TRIES || matches!(failure, FetchError::Refused { .. }) {
            return Err(failure.reason().to_owned());
        }
        shared.parts.clock.sleep_until(shared.parts.clock.now().plus(PAUSE * attempt)).await;
        attempt += 1;
    }
}

/// The scaled copy of an image, or why there is none; neither for what is no image.
async fn shown(
    shared: &Shared,
    workspace: &Path,
    message: &MessageId,
    file: &FileRef,
    mut found: File,
) -> (Option<String>, Option<String>) {
    let folder = attachments::images(workspace);
    let stem = attachments::image_stem(message.as_str(), file);
    let Ok(alone) = Arc::clone(&shared.files.pictures).acquire_owned().await else { return (None, None) };
    let scaled = blocking(move || {
        // Held by the thread: one whose caller gave up goes on.
        let _alone = alone;
        let Some(format) = picture::format(&mut found)? else { return Ok(None) };
        make_private(&folder)?;
        Ok(Some(picture::scale(found, format, &folder.join(&stem)).map(|ending| format!("{stem}.{ending}"))))
    });
    match scaled.await {
        Ok(None) => (None, None),
        Ok(Some(Ok(name))) => (Some(name), None),
        Ok(Some(Err(error @ (PictureError::TooLarge | PictureError::Unreadable)))) => (None, Some(error.to_string())),
        Ok(Some(Err(PictureError::Io(error)))) | Err(error) => {
            tracing::warn!(%error, "an image could not be scaled");
            (None, Some("it could not be scaled, so it is not shown as an image".to_owned()))
        }
    }
}

fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
