//! The SQLite store is a store, on threads and inline, and keeps what it answered for.
#![expect(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_core::chat::RawEnvelope;
use broker_core::clock::Timestamp;
use broker_core::store::{JournalFate, Old, StateStore};
use broker_core::testing::store_suite::{self, Reopened};
use broker_store::{DataRoot, SqliteStore};
use tempfile::TempDir;

/// Hands out empty folders.
struct Folders {
    folder: TempDir,
    handed_out: Cell<u32>,
}

impl Folders {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), handed_out: Cell::new(0) }
    }

    fn next(&self) -> PathBuf {
        let number = self.handed_out.replace(self.handed_out.get() + 1);
        let path = self.folder.path().join(number.to_string());
        fs::create_dir(&path).unwrap();
        path
    }
}

fn envelope(key: impl Into<String>) -> RawEnvelope {
    RawEnvelope {
        key: key.into(),
        kind: "events_api".to_owned(),
        retry_attempt: 0,
        received_at: Timestamp::from_millis(0),
        raw: vec![b'x'; 1200],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_threads_it_is_a_store() {
    let folders = Folders::new();
    let roots = RefCell::new(Vec::new());
    store_suite::all(async || {
        let root = DataRoot::take(&folders.next()).unwrap();
        let store = SqliteStore::open(&root).unwrap();
        roots.borrow_mut().push(root);
        store as Arc<dyn StateStore>
    })
    .await;
}

#[tokio::test]
async fn inline_it_is_a_store() {
    let folders = Folders::new();
    store_suite::all(async || SqliteStore::inline(Path::new(":memory:")).unwrap() as Arc<dyn StateStore>).await;
    store_suite::all(async || SqliteStore::inline(&folders.next().join("db")).unwrap() as Arc<dyn StateStore>).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_store_that_keeps_nothing_in_memory_alone() {
    let folders = Folders::new();
    store_suite::all(async || {
        let root = DataRoot::take(&folders.next()).unwrap();
        Arc::new(Reopened::new(move || SqliteStore::open(&root).unwrap())) as Arc<dyn StateStore>
    })
    .await;
    store_suite::all(async || {
        let path = folders.next().join("db");
        Arc::new(Reopened::new(move || SqliteStore::inline(&path).unwrap())) as Arc<dyn StateStore>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_at_once_get_a_row_each() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    let accept = |n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.accept(vec![envelope(format!("event:{n}"))]).await.unwrap()[0] })
    };
    let callers: Vec<_> = (0..1000).map(accept).collect();
    let mut ids = Vec::new();
    for caller in callers {
        let accepted = caller.await.unwrap();
        assert!(accepted.fresh);
        ids.push(accepted.id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    let health = store.health().borrow().clone();
    assert!(
        health.ok && health.detail.contains_key("last_commit_ms") && health.detail.contains_key("last_commit_took_us")
    );
    Arc::into_inner(store).unwrap().close();
    let log = fs::metadata(root.database().with_extension("sqlite-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "who closes it carries the write-ahead log over");
    let store = SqliteStore::open(&root).unwrap();
    assert_eq!(store.counts().await.unwrap().journal_unread, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_a_store_that_is_never_closed() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    store.accept(vec![envelope("a"), envelope("b")]).await.unwrap();
    // Copied as they lie on the disk: what a crash would leave.
    let crashed = tempfile::tempdir().unwrap();
    let after = DataRoot::take(crashed.path()).unwrap();
    for end in ["sqlite", "sqlite-wal"] {
        fs::copy(root.database().with_extension(end), after.database().with_extension(end)).unwrap();
    }
    std::mem::forget(store);
    let store = SqliteStore::open(&after).unwrap();
    assert_eq!(store.unread(None, 9).await.unwrap().len(), 2);
    assert!(!store.accept(vec![envelope("a")]).await.unwrap()[0].fresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_does_not_undo_its_change() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    let mut call = Box::pin(store.accept(vec![envelope("a")]));
    // Once polled it stands in the queue.
    let _ = futures_util::poll!(&mut call);
    drop(call);
    assert!(!store.accept(vec![envelope("a")]).await.unwrap()[0].fresh);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_great_cleaning_goes_in_steps_and_counts_all() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    let accepted = store.accept((0..2500).map(|n| envelope(n.to_string())).collect()).await.unwrap();
    store.settle(accepted.iter().map(|row| row.id).collect(), JournalFate::Done).await.unwrap();
    let old = Old { journal: Timestamp::from_millis(1), closed: Timestamp::from_millis(1) };
    assert_eq!(store.prune(old).await.unwrap(), 2500);
}

#[tokio::test]
async fn the_database_and_its_log_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    fs::write(root.database(), "").unwrap();
    fs::set_permissions(root.database(), fs::Permissions::from_mode(0o644)).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    store.accept(vec![envelope("a")]).await.unwrap();
    for end in ["sqlite", "sqlite-wal", "sqlite-shm"] {
        let mode = fs::metadata(root.database().with_extension(end)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_dropped_ends_its_threads() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    store.accept(vec![envelope("a")]).await.unwrap();
    let mut health = store.health();
    drop(store);
    // The writer holds the sender, and lets go of it when it ends.
    let ended = async { while health.changed().await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), ended).await.unwrap();
}
