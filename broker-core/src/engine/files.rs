//! The files of messages, on their way into the session's folder.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::effects::reply;
use super::registry::Letter;
use crate::agent::InputId;
use crate::attachments::{self, Folder};
use crate::chat::{FetchError, FileRef, Kept, MessageId};
use crate::outgoing;
use crate::picture::{self, PictureError};
use crate::session::SessionInput;
use crate::workspace;

/// The message goes to the agent without the files that are not there by then.
const LIMIT: Duration = Duration::from_secs(180);
/// So much longer it waits for images to be scaled: those that are not by then are given by their path alone.
const PICTURES_LIMIT: Duration = Duration::from_secs(60);
/// So large a file is taken to be whose size is not told, in bytes.
const UNKNOWN_SIZE: u64 = 100 * 1024 * 1024;
/// Scaled images are kept for so long: the agent has seen them long before. One that is gone when a message is given after all
/// is given by the path of its original.
const IMAGES_KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Files that are fetched at once, over all sessions.
const AT_ONCE: usize = 32;
/// Files of one session that are fetched at once.
const AT_ONCE_HERE: usize = 3;
/// Files of earlier messages of one session that are fetched, or wait for that.
const MAX_EARLIER: usize = 64;
/// What is said of a file that takes longer than an answer.
const STILL: &str = "it is still being fetched; ask again in a moment";
/// A file that could not be fetched for now is tried this often.
const TRIES: u32 = 3;
/// The wait before another try; twice as long before the third.
const PAUSE: Duration = Duration::from_millis(500);

/// What limits the work on files, over all sessions.
pub(crate) struct Files {
    downloads: Semaphore,
    /// A decoded image takes up to [`picture::MAX_DECODED`] and half as much again.
    pictures: Arc<Semaphore>,
    /// The unique names of what is being written.
    in_use: Mutex<HashSet<String>>,
    /// How many bytes those that are being fetched may yet write.
    coming: AtomicU64,
}

impl Default for Files {
    fn default() -> Self {
        let pictures = Arc::new(Semaphore::new(1));
        Self { downloads: Semaphore::new(AT_ONCE), pictures, in_use: Mutex::default(), coming: AtomicU64::new(0) }
    }
}

impl Files {
    fn in_use(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for a file, where a disk with so much left has it beside all that is coming already.
    pub(super) fn reserve(&self, bytes: u64, free: u64) -> Option<Coming<'_>> {
        let before = self.coming.fetch_add(bytes, Ordering::Relaxed);
        let coming = Coming(self, bytes);
        (free >= before.saturating_add(bytes).saturating_add(outgoing::MIN_FREE)).then_some(coming)
    }
}

/// Room on the disk for a file that is being fetched.
pub(super) struct Coming<'a>(&'a Files, u64);

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.0.coming.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// The fetching of one session.
#[derive(Clone)]
pub(super) struct SessionFiles {
    here: Arc<Semaphore>,
    /// The files of earlier messages that are being fetched, or wait for their turn: at most [`MAX_EARLIER`].
    earlier: Arc<Mutex<BTreeSet<(MessageId, String)>>>,
}

impl Default for SessionFiles {
    fn default() -> Self {
        Self { here: Arc::new(Semaphore::new(AT_ONCE_HERE)), earlier: Arc::default() }
    }
}

/// A file of an earlier message that is being fetched, for as long as it is.
struct Earlier {
    all: Arc<Mutex<BTreeSet<(MessageId, String)>>>,
    file: (MessageId, String),
}

impl Drop for Earlier {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.file);
    }
}

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
        let (here, letters, task) = (Arc::clone(&self.here), letters.clone(), Arc::clone(shared));
        async move {
            let fetching =
                Fetching { shared: &task, here: &here, workspace: &workspace, until: Instant::now() + LIMIT };
            let kept = files.into_iter().map(|(message, file)| async {
                let file = fetching.keep(&message, file).await;
                (message, file)
            });
            tokio::select! {
                biased;
                // The next broker fetches them, or finds them.
                () = task.ending.cancelled() => {}
                // A session that has ended waits for nothing.
                () = letters.closed() => {}
                files = join_all(kept) => reply(&letters, SessionInput::Fetched { row, files }).await,
            }
        }
    }
}

impl SessionFiles {
    /// Leaves no place to anybody.
    #[cfg(test)]
    pub(super) async fn take_all(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.here.acquire_many(AT_ONCE_HERE as u32).await.expect("it is never closed")
    }

    /// Fetches files of earlier messages for somebody who waits for them until then; no image among them is scaled. What comes
    /// back says what became of each. What takes longer goes on, and is found by the next look.
    pub(super) async fn fetch_earlier(
        &self,
        shared: &Arc<Shared>,
        workspace: &Path,
        files: Vec<(MessageId, FileRef)>,
        until: Instant,
    ) -> Vec<(MessageId, FileRef)> {
        let kept = files.into_iter().map(|(message, file)| {
            let begun = self.begin_earlier(shared, workspace, &message, &file);
            async move {
                let fetched = match begun {
                    Ok(fetched) => timeout_at(until, fetched).await.map(|told| told.unwrap_or_else(|_| still())),
                    Err(reason) => Ok(Err(reason.to_owned())),
                };
                let (file, kept) = match fetched.unwrap_or_else(|_| still()) {
                    Ok(file) => {
                        let path = attachments::path(message.as_str(), &file);
                        (file, Kept::Here { path, image: None, remark: None })
                    }
                    Err(reason) => (file, Kept::Missing { reason }),
                };
                (message, FileRef { kept: Some(kept), ..file })
            }
        });
        join_all(kept).await
    }

    /// Begins to fetch a file, unless that was begun already.
    fn begin_earlier(
        &self,
        shared: &Arc<Shared>,
        workspace: &Path,
        message: &MessageId,
        file: &FileRef,
    ) -> Result<oneshot::Receiver<Result<FileRef, String>>, &'static str> {
        let under_way = {
            let mut all = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (message.clone(), file.id.clone());
            if all.contains(&key) {
                return Err(STILL);
            }
            if all.len() == MAX_EARLIER {
                return Err("too many files are being fetched; ask again in a moment");
            }
            all.insert(key.clone());
            Earlier { all: Arc::clone(&self.earlier), file: key }
        };
        let (tell, told) = oneshot::channel();
        let (task, here, workspace) = (Arc::clone(shared), Arc::clone(&self.here), workspace.to_owned());
        let (message, file) = (message.clone(), file.clone());
        shared.tasks.spawn(async move {
            let _under_way = under_way;
            let fetching =
                Fetching { shared: &task, here: &here, workspace: &workspace, until: Instant::now() + LIMIT };
            let fetched = tokio::select! {
                biased;
                // What was begun is removed, and asked for again.
                () = task.ending.cancelled() => return,
                fetched = timeout_at(fetching.until, fetching.fetched(&message, &file)) => fetched,
            };
            // Whoever waited may have been answered.
            let _ = tell.send(fetched.unwrap_or_else(|_| Err(late())).map(|(file, _)| file));
        });
        Ok(told)
    }
}

fn still<T>() -> Result<T, String> {
    Err(STILL.to_owned())
}

fn late() -> String {
    format!("it was not there within {} s", LIMIT.as_secs())
}

/// The fetching of one message's files.
struct Fetching<'a> {
    shared: &'a Arc<Shared>,
    here: &'a Semaphore,
    workspace: &'a Path,
    until: Instant,
}

impl Fetching<'_> {
    /// Fetches a file, and scales it if it is an image. What comes back says what became of it.
    async fn keep(&self, message: &MessageId, file: FileRef) -> FileRef {
        let fetched = timeout_at(self.until, self.fetched(message, &file)).await;
        let (file, kept) = match fetched.unwrap_or_else(|_| Err(late())) {
            Err(reason) => {
                tracing::warn!(%message, file = file.id, reason, "a file of a message could not be fetched");
                (file, Kept::Missing { reason })
            }
            Ok((file, found)) => {
                let shown = timeout_at(self.until + PICTURES_LIMIT, self.shown(message, &file, found)).await;
                let (image, remark) =
                    shown.unwrap_or_else(|_| (None, Some("there was no time to show it as an image".to_owned())));
                let path = attachments::path(message.as_str(), &file);
                (file, Kept::Here { path, image, remark })
            }
        };
        FileRef { kept: Some(kept), ..file }
    }

    /// The file, fetched, or found as an earlier broker left it; with all that is known of it now.
    async fn fetched(&self, message: &MessageId, file: &FileRef) -> Result<(FileRef, File), String> {
        let shared = self.shared;
        let closed = |error: tokio::sync::AcquireError| error.to_string();
        // In this order: what waits for its session holds nobody else up.
        let _here = self.here.acquire().await.map_err(closed)?;
        workspace::prepare(self.workspace).await.map_err(|error| not_written(&error))?;
        let (task, place, id, wanted) = (Arc::clone(shared), self.workspace.to_owned(), message.clone(), file.clone());
        let open = move || {
            let folder = Folder::open(&place, id.as_str())?;
            folder.clean(|unique| task.files.in_use().contains(unique))?;
            let wanted = folder.by_id(&wanted).unwrap_or(wanted);
            let found = folder.complete(&wanted).map(|found| (wanted, found));
            let free = outgoing::free_bytes(&place).unwrap_or(u64::MAX);
            Ok((Arc::new(folder), found, free))
        };
        let (folder, found, free) = blocking(open).await.map_err(|error| not_written(&error))?;
        if let Some(found) = found {
            return Ok(found);
        }
        // More than that is not written of any file; one that says that it is larger is refused for that.
        let most = shared.settings.file_max_bytes;
        let bytes = file.size.unwrap_or(UNKNOWN_SIZE).min(most);
        let Some(_coming) = shared.files.reserve(bytes, free) else {
            return Err("the broker's disk has no room for it; tell a person".to_owned());
        };
        let mut attempt = 1;
        loop {
            let failure = {
                let _download = shared.files.downloads.acquire().await.map_err(closed)?;
                match self.attempt(&folder, file).await? {
                    Ok(fetched) => return Ok(fetched),
                    Err(failure) => failure,
                }
            };
            if attempt >= TRIES || matches!(failure, FetchError::Refused { .. }) {
                return Err(failure.reason().to_owned());
            }
            shared.parts.clock.sleep_until(shared.parts.clock.now().plus(PAUSE * attempt)).await;
            attempt += 1;
        }
    }

    /// Fetches a file once. The outer error is no reason to try again.
    async fn attempt(
        &self,
        folder: &Arc<Folder>,
        file: &FileRef,
    ) -> Result<Result<(FileRef, File), FetchError>, String> {
        let transport = &self.shared.parts.transport;
        let (mut writing, mut sink) = Writing::begin(self.shared, folder).await.map_err(|error| not_written(&error))?;
        let fetched = match transport.fetch(file, self.shared.settings.file_max_bytes, &mut sink).await {
            Ok(fetched) => fetched,
            Err(failure) => return Ok(Err(failure)),
        };
        // Of a stub the platform tells more once it is asked for the file.
        let known = FileRef {
            name: file.name.clone().or(fetched.name),
            media_type: file.media_type.clone().or(fetched.media_type),
            size: file.size.or(Some(fetched.bytes)),
            ..file.clone()
        };
        let written = writing.finish(sink.into_std().await, &known).await.map_err(|error| not_written(&error))?;
        Ok(Ok((known, written)))
    }

    /// The scaled copy of an image, or why there is none; neither for what is no image.
    async fn shown(&self, message: &MessageId, file: &FileRef, mut found: File) -> (Option<String>, Option<String>) {
        // Looked at first: what is no image waits for none.
        let looked_at = blocking(move || Ok((picture::format(&mut found)?, found))).await;
        let (format, found) = match looked_at {
            Ok((Some(format), found)) => (format, found),
            Ok((None, _)) => return (None, None),
            Err(error) => return not_scaled(&error),
        };
        let folder = attachments::images(self.workspace);
        let stem = attachments::image_stem(message.as_str(), file);
        let Ok(alone) = Arc::clone(&self.shared.files.pictures).acquire_owned().await else { return (None, None) };
        let scaled = blocking(move || {
            // Held by the thread: one whose caller gave up goes on.
            let _alone = alone;
            make_private(&folder)?;
            Ok(picture::scale(found, format, &folder.join(&stem)).map(|ending| format!("{stem}.{ending}")))
        });
        match scaled.await {
            Ok(Ok(name)) => (Some(name), None),
            Ok(Err(error @ (PictureError::TooLarge | PictureError::Unreadable))) => (None, Some(error.to_string())),
            Ok(Err(PictureError::Io(error))) | Err(error) => not_scaled(&error),
        }
    }
}

fn not_scaled(error: &std::io::Error) -> (Option<String>, Option<String>) {
    tracing::warn!(%error, "an image could not be scaled");
    (None, Some("it could not be scaled, so it is not shown as an image".to_owned()))
}

fn not_written(error: &std::io::Error) -> String {
    format!("it could not be written: {error}")
}

/// A file that is being written: gone again unless it is finished, however its fetching ends.
struct Writing {
    shared: Arc<Shared>,
    folder: Arc<Folder>,
    unique: String,
    finished: bool,
}

impl Writing {
    async fn begin(shared: &Arc<Shared>, folder: &Arc<Folder>) -> std::io::Result<(Self, tokio::fs::File)> {
        let unique = shared.parts.ids.next();
        shared.files.in_use().insert(unique.clone());
        let writing =
            Self { shared: Arc::clone(shared), folder: Arc::clone(folder), unique: unique.clone(), finished: false };
        let folder = Arc::clone(folder);
        let made = blocking(move || folder.begin(&unique)).await?;
        Ok((writing, tokio::fs::File::from_std(made)))
    }

    async fn finish(&mut self, written: File, file: &FileRef) -> std::io::Result<File> {
        let (folder, unique, file) = (Arc::clone(&self.folder), self.unique.clone(), file.clone());
        let written = blocking(move || folder.finish(&written, &unique, &file).map(|()| written)).await?;
        self.finished = true;
        Ok(written)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let (shared, folder) = (Arc::clone(&self.shared), Arc::clone(&self.folder));
        let (unique, finished) = (std::mem::take(&mut self.unique), self.finished);
        let end = move || {
            if !finished && let Err(error) = folder.give_up(&unique) {
                tracing::warn!(%error, "a file that was not fetched as a whole could not be removed");
            }
            shared.files.in_use().remove(&unique);
        };
        // Unlinking may wait for a disk. Where nothing runs any more the next broker does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(end);
        }
    }
}

/// Removes scaled images that nobody is going to be shown any more.
pub(super) async fn sweep(shared: &Shared) {
    let root = shared.settings.sessions_root.clone();
    if let Err(error) = blocking(move || attachments::clean_images(&root, IMAGES_KEPT)).await {
        tracing::warn!(%error, "old scaled images could not be looked for");
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
