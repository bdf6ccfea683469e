//! How many envelopes a second the store takes, and how long each caller waits.
//!
//! Method: a fresh database in a folder of its own below the first argument (default: the system's folder for temporary
//! files; what is measured is the disk below it, so name one on the disk that counts). Each caller accepts one envelope of
//! 1,200 bytes, waits until it is durable, and begins again, for three seconds; first one caller alone, then 64 at once. A
//! row counts when its answer came within that time. p50 and p99 are of single calls, from the call to the answer. The last
//! line is the ceiling of this machine and build: 256 envelopes in each call, which share a commit whatever the store does.
//!
//! Run it with `cargo run --release -p broker-store --example commit_bench -- <folder>`.
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::RawEnvelope;
use broker_core::clock::Timestamp;
use broker_core::store::{StateStore, StoreError};
use broker_store::{DataRoot, SqliteStore};
use tokio::time::Instant;

/// How long each round goes.
const ROUND: Duration = Duration::from_secs(3);

fn envelope(key: String) -> RawEnvelope {
    RawEnvelope {
        key,
        kind: "events_api".to_owned(),
        retry_attempt: 0,
        received_at: Timestamp::from_millis(0),
        raw: vec![b'x'; 1200],
    }
}

/// Accepts one batch after the other until the round is over; returns how long each took.
async fn call(
    store: Arc<SqliteStore>,
    caller: String,
    batch: usize,
    end: Instant,
) -> Result<Vec<Duration>, StoreError> {
    let mut waits = Vec::new();
    loop {
        let envelopes = (0..batch).map(|n| envelope(format!("{caller}:{}:{n}", waits.len()))).collect();
        let begun = Instant::now();
        store.accept(envelopes).await?;
        if Instant::now() > end {
            return Ok(waits);
        }
        waits.push(begun.elapsed());
    }
}

async fn round(callers: usize, batch: usize, below: &PathBuf) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(below)?;
    let root = DataRoot::take(folder.path())?;
    let store = SqliteStore::open(&root)?;
    let end = Instant::now() + ROUND;
    let tasks: Vec<_> =
        (0..callers).map(|n| tokio::spawn(call(Arc::clone(&store), n.to_string(), batch, end))).collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await??);
    }
    waits.sort();
    let at = |percent: usize| waits.get(waits.len() * percent / 100).copied().unwrap_or_default();
    let rows = waits.len() * batch;
    println!(
        "{callers:>2} callers, {batch:>3} rows a call: {:>6.0} rows/s, p50 {:>6.2} ms, p99 {:>6.2} ms",
        rows as f64 / ROUND.as_secs_f64(),
        at(50).as_secs_f64() * 1e3,
        at(99).as_secs_f64() * 1e3,
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let below = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    println!("{build} build, below {}", below.display());
    for (callers, batch) in [(1, 1), (64, 1), (1, 256)] {
        round(callers, batch, &below).await?;
    }
    Ok(())
}
