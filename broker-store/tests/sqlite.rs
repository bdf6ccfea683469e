//! The SQLite store is a store, on threads and inline, and keeps what it answered for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::RawEnvelope;
use broker_core::clock::Timestamp;
use broker_core::store::StateStore;
use broker_core::testing::store_suite;
use broker_store::{DataRoot, SqliteStore};

fn envelope(key: String) -> RawEnvelope {
    RawEnvelope {
        key,
        kind: "events_api".to_owned(),
        retry_attempt: 0,
        received_at: Timestamp::from_millis(0),
        raw: vec![b'x'; 1200],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_threads_it_is_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let (mut number, mut roots) = (0, Vec::new());
    store_suite::all(|| {
        number += 1;
        let root = DataRoot::take(&folder.path().join(number.to_string())).unwrap();
        let store = SqliteStore::open(&root).unwrap();
        roots.push(root);
        store
    })
    .await;
}

#[tokio::test]
async fn inline_it_is_a_store() {
    store_suite::all(|| SqliteStore::inline(Path::new(":memory:")).unwrap()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut number = 0;
    store_suite::all(|| {
        number += 1;
        SqliteStore::inline(&folder.path().join(number.to_string())).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_callers_share_commits_and_nothing_is_lost_when_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    let callers: Vec<_> = (0..1000)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.accept(vec![envelope(format!("event:{n}"))]).await.unwrap()[0] })
        })
        .collect();
    let mut ids = Vec::new();
    for caller in callers {
        let accepted = caller.await.unwrap();
        assert!(accepted.fresh);
        ids.push(accepted.id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1000);
    assert!(store.health().borrow().ok);
    // Dropped without a word, as a crash would do it.
    drop(store);
    let store = SqliteStore::open(&root).unwrap();
    assert_eq!(store.counts().await.unwrap().journal_unread, 1000);
    Arc::into_inner(store).unwrap().close();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_costs_the_change_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = DataRoot::take(folder.path()).unwrap();
    let store = SqliteStore::open(&root).unwrap();
    store.accept(vec![envelope("before".to_owned())]).await.unwrap();
    // The writer's own connection is told that the database may not grow.
    store.limit_pages(40).await.unwrap();
    let mut failed = 0;
    for n in 0..200 {
        failed += u32::from(store.accept(vec![envelope(format!("event:{n}"))]).await.is_err());
    }
    assert!(failed > 0, "the limit is felt");
    assert!(!store.health().borrow().ok);
    store.limit_pages(1_000_000).await.unwrap();
    store.accept(vec![envelope("after".to_owned())]).await.unwrap();
    assert!(store.health().borrow().ok);
    let unread = store.unread(None, 1000).await.unwrap();
    assert_eq!(unread.len(), usize::try_from(202 - failed).unwrap(), "what was answered is there, and nothing else");
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, store.accept(vec![envelope("once more".to_owned())])).await.unwrap().unwrap();
}
