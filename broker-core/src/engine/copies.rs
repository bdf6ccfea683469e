//! The copies of files that wait to be posted: how many and how large they may be, and their end.
//!
//! A copy is made before its post is promised, by whoever asks, and stands until the post is settled: an agent that asks
//! without end must not fill the disk that every session's messages are written to. Each copy stands in a ledger from the
//! moment before it is made. It is *kept* once a part is committed that names it; what is kept and named by no open part any
//! more is removed, and so is a copy whose post was not made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use crate::chat::{OutContent, PartBody, ThreadKey};
use crate::clock::Timestamp;
use crate::outgoing::{self, Pinned, Refusal};
use crate::store::{PartRow, StoreError};
use crate::thread_tools::{FileSource, FileWish};

/// Copies that are made at once, over all sessions.
const AT_ONCE: usize = 4;
/// Copies of one session that are made at once.
const AT_ONCE_HERE: usize = 2;
/// How many bytes the copies of one session may have: two of the largest files.
const MAX_BYTES_HERE: u64 = 2 * outgoing::MAX_BYTES;
/// How many bytes all copies may have.
const MAX_BYTES: u64 = 8 * outgoing::MAX_BYTES;
/// A file that nobody knows is removed after so long.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);

/// A copy.
#[derive(Debug)]
struct Copy {
    thread: ThreadKey,
    bytes: u64,
    /// How many of them the disk did not hold when the copy was written down.
    coming: u64,
    /// Whether a part was committed that names it.
    kept: bool,
    since: Instant,
}

/// All copies of a broker.
#[derive(Debug)]
pub(crate) struct Copies {
    places: Semaphore,
    ledger: Mutex<HashMap<PathBuf, Copy>>,
}

impl Default for Copies {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE), ledger: Mutex::default() }
    }
}

/// The places of one session.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE_HERE))
}

impl Copies {
    fn ledger(&self) -> MutexGuard<'_, HashMap<PathBuf, Copy>> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.ledger().is_empty()
    }

    /// Writes a copy down before it is made: how large it is, and how much of that the disk does not hold yet.
    fn reserve(&self, thread: &ThreadKey, copy: &Path, (bytes, needs): (u64, u64), free: u64) -> Result<(), Refusal> {
        let mut ledger = self.ledger();
        let of = |copies: &mut dyn Iterator<Item = &Copy>| copies.map(|copy| copy.bytes).sum::<u64>();
        let here = of(&mut ledger.values().filter(|copy| copy.thread == *thread));
        // What is being copied takes its room as well.
        let coming: u64 = ledger.values().filter(|copy| !copy.kept).map(|copy| copy.coming).sum();
        let refuse = |code, message: &str| Err(Refusal { code, message: message.to_owned() });
        if here.saturating_add(bytes) > MAX_BYTES_HERE {
            return refuse("busy", "files of 2 GiB of this thread wait to be posted already; try again later");
        }
        if of(&mut ledger.values()).saturating_add(bytes) > MAX_BYTES {
            return refuse("busy", "too many files wait to be posted; try again later");
        }
        if free < needs.saturating_add(coming).saturating_add(outgoing::MIN_FREE) {
            return refuse("no_room", "the broker's disk has no room for a copy of the file; tell a person");
        }
        let (thread, since) = (thread.clone(), Instant::now());
        ledger.insert(copy.to_owned(), Copy { thread, bytes, coming: needs, kept: false, since });
        Ok(())
    }

    /// A part was committed that names the copy.
    pub(super) fn keep(&self, parts: &[PartRow]) {
        for (part, path) in parts.iter().filter_map(|part| Some((part, path_of(&part.body)?))) {
            let bytes = if let PartBody::File { file } = &part.body { file.bytes } else { 0 };
            let copy = Copy { thread: part.thread.clone(), bytes, coming: 0, kept: true, since: Instant::now() };
            self.ledger().insert(path.clone(), copy);
        }
    }

    /// Removes a copy.
    pub(super) async fn remove(&self, path: &Path) {
        self.ledger().remove(path);
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the copy of a posted file could not be removed");
            }
            _ => {}
        }
    }

    /// Removes what a part stands for that needs it no longer.
    pub(super) async fn drop_of(&self, body: &PartBody) {
        if let Some(path) = path_of(body) {
            self.remove(path).await;
        }
    }
}

fn path_of(body: &PartBody) -> Option<&PathBuf> {
    match body {
        PartBody::File { file } => match &file.content {
            OutContent::Copy { path } => Some(path),
            OutContent::Text { .. } => None,
        },
        PartBody::Text { .. } => None,
    }
}

/// A copy on its way: what was written down of it is taken back unless it is handed over.
pub(super) struct Making {
    shared: Arc<Shared>,
    path: Option<PathBuf>,
}

impl Making {
    /// From here on the session's steps say what becomes of the copy.
    pub(super) fn handed_over(mut self) {
        self.path = None;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        let Some(path) = self.path.take() else { return };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move { shared.copies.remove(&path).await });
    }
}

/// Tells whoever copies that nobody waits for the copy any more.
struct GivesUp(Arc<AtomicBool>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks a file and copies it, before `until`: whoever asked is answered then.
pub(super) async fn make(
    shared: &Arc<Shared>,
    here: &Arc<Semaphore>,
    thread: &ThreadKey,
    (wish, until): (FileWish, Timestamp),
    workspace: PathBuf,
    roots: Vec<PathBuf>,
) -> (Making, Result<Pinned, Refusal>) {
    let root = shared.settings.sessions_root.clone();
    let copy = outgoing::folder(&root).join(shared.parts.ids.next());
    let making = Making { shared: Arc::clone(shared), path: Some(copy.clone()) };
    let until = Instant::now() + until.since(shared.parts.clock.now());
    let places = async { (Arc::clone(here).acquire_owned().await, shared.copies.places.acquire().await) };
    let Ok((place, _place_of_all)) = timeout_at(until, places).await else {
        let message = "too many files are being copied; nothing was posted, try again".to_owned();
        return (making, Err(Refusal { code: "busy", message }));
    };
    let (task, thread, given_up) = (Arc::clone(shared), thread.clone(), Arc::new(AtomicBool::new(false)));
    let _gives_up = GivesUp(Arc::clone(&given_up));
    let copied = tokio::task::spawn_blocking(move || {
        // A disk that does not answer keeps the places of the session that asked it, and nobody else's.
        let _place = place;
        let checked = match &wish.source {
            FileSource::Path(path) => outgoing::check(path, &workspace, &roots)?,
            FileSource::Received(path) => outgoing::check_received(path, wish.name.as_deref().unwrap_or_default())?,
        };
        let free = outgoing::free_bytes(&root).unwrap_or(u64::MAX);
        task.copies.reserve(&thread, &copy, (checked.bytes(), checked.needs()), free)?;
        let pinned = checked.copy(&copy, || !given_up.load(Ordering::Relaxed));
        if given_up.load(Ordering::Relaxed) {
            // What was written down of it may have been taken back before.
            task.copies.ledger().remove(&copy);
            let _ = std::fs::remove_file(&copy);
        }
        let pinned = pinned?;
        Ok(Pinned { name: wish.name.unwrap_or(pinned.name), ..pinned })
    });
    let failed = |error: tokio::task::JoinError| {
        Err(Refusal { code: "failed", message: format!("the file could not be copied: {error}") })
    };
    let late = || Refusal {
        code: "busy",
        message: "the file could not be copied in time; nothing was posted, try again or post a smaller one".to_owned(),
    };
    let copied = timeout_at(until, copied).await.map(|copied| copied.unwrap_or_else(failed));
    (making, copied.unwrap_or_else(|_| Err(late())))
}

/// How many parts of a thread are not yet sent. Removes the copies of those that were dropped.
pub(super) async fn count(shared: &Shared, thread: &ThreadKey) -> Result<usize, StoreError> {
    // Before the store is asked: what is kept from now on is not looked for.
    let kept: Vec<PathBuf> = {
        let ledger = shared.copies.ledger();
        ledger.iter().filter(|(_, copy)| copy.kept && copy.thread == *thread).map(|(path, _)| path.clone()).collect()
    };
    let open = shared.parts.store.open_parts(thread, usize::MAX >> 1).await?;
    let needed: Vec<&PathBuf> = open.iter().filter_map(|part| path_of(&part.body)).collect();
    for path in kept.iter().filter(|path| !needed.contains(path)) {
        shared.copies.remove(path).await;
    }
    Ok(open.len())
}

/// At the start: what open parts name is kept, everything else is removed.
pub(super) async fn begin(shared: &Shared) -> Result<(), StoreError> {
    for thread in shared.parts.store.threads_with_parts().await? {
        shared.copies.keep(&shared.parts.store.open_parts(&thread, usize::MAX >> 1).await?);
    }
    clean(shared, Duration::ZERO).await;
    Ok(())
}

/// Now and then: removes what is kept and needed no longer, and what nobody knows.
pub(super) async fn sweep(shared: &Shared) {
    let mut threads: Vec<ThreadKey> = shared.copies.ledger().values().map(|copy| copy.thread.clone()).collect();
    threads.sort();
    threads.dedup();
    for thread in threads {
        if let Err(error) = count(shared, &thread).await {
            tracing::warn!(%error, "copies of posted files could not be looked for");
        }
    }
    // Its session lost its rows to somebody else between the copy and the commit.
    shared.copies.ledger().retain(|_, copy| copy.kept || copy.since.elapsed() < FORGOTTEN);
    clean(shared, FORGOTTEN).await;
}

async fn clean(shared: &Shared, older: Duration) {
    let known: Vec<PathBuf> = shared.copies.ledger().keys().cloned().collect();
    let root = shared.settings.sessions_root.clone();
    let cleaned = tokio::task::spawn_blocking(move || outgoing::clean(&root, &known, older)).await;
    if let Ok(Err(error)) = cleaned {
        tracing::warn!(%error, "copies of posted files could not be looked for");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = outgoing::MAX_BYTES;

    fn thread(name: &str) -> ThreadKey {
        format!("T1/{name}:1.1").parse().unwrap()
    }

    #[test]
    fn copies_are_bounded_in_bytes_for_a_session_and_for_all() {
        let copies = Copies::default();
        let reserve = |name: &str, n: usize, bytes| {
            copies
                .reserve(&thread(name), Path::new(&format!("/copies/{name}-{n}")), (bytes, bytes), u64::MAX)
                .map_err(|e| e.code)
        };
        assert_eq!((reserve("a", 1, GIB), reserve("a", 2, GIB)), (Ok(()), Ok(())));
        assert_eq!(reserve("a", 3, 1), Err("busy"));
        for name in ["b", "c", "d"] {
            assert_eq!((reserve(name, 1, GIB), reserve(name, 2, GIB)), (Ok(()), Ok(())));
        }
        assert_eq!(reserve("e", 1, 1), Err("busy"), "eight GiB are all there is");
        copies.ledger().remove(Path::new("/copies/a-1"));
        assert_eq!(reserve("e", 2, GIB), Ok(()));
    }

    #[test]
    fn room_is_left_on_the_disk() {
        let copies = Copies::default();
        let reserve = |n: usize, bytes, free| {
            copies.reserve(&thread("a"), Path::new(&format!("/copies/{n}")), bytes, free).map_err(|e| e.code)
        };
        assert_eq!(reserve(1, (100, 100), outgoing::MIN_FREE + 99), Err("no_room"));
        // What came with a request is there already.
        assert_eq!(reserve(2, (100, 0), outgoing::MIN_FREE), Ok(()));
        assert_eq!(reserve(3, (100, 100), outgoing::MIN_FREE + 100), Ok(()));
        // What is being copied has not taken its room yet.
        assert_eq!(reserve(4, (1, 1), outgoing::MIN_FREE + 100), Err("no_room"));
    }
}
