//! A whole broker on in-memory parts: somebody mentions it, the agent answers, the answer stands in the thread.
//!
//! Run it with `cargo run -p broker-examples --example in_memory`.

use std::sync::Arc;
use std::time::Duration;

use broker_core::clock::SystemClock;
use broker_core::engine::{Broker, Parts, Settings};
use broker_core::ids::RandomIds;
use broker_core::testing::{MemoryChat, MemoryStore, ScriptedAgent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chat = MemoryChat::new();
    let folder = std::env::temp_dir().join(format!("broker-in-memory-{}", std::process::id()));
    let broker = Broker::start(
        Parts {
            transport: Arc::new(chat.clone()),
            history: Arc::new(chat.clone()),
            runtime: Arc::new(ScriptedAgent::echo()),
            store: Arc::new(MemoryStore::new()),
            clock: Arc::new(SystemClock::new()),
            ids: Arc::new(RandomIds),
        },
        Settings::new(folder.join("sessions"), folder.join("repos")),
    )
    .await?;

    let thread = chat.say("C-general", None, "U-ada", "@broker what is the time?");
    let posts = chat.wait_for_posts(&thread, 1, Duration::from_secs(5)).await;
    for post in posts.map_err(|posts| format!("no answer in time, only {posts:?}"))? {
        println!("{post}");
    }

    broker.drain(Duration::from_secs(1)).await;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
