//! The core inside another service: a release desk with an agent of its own, beside whatever else the service does.
//!
//! Run it with `cargo run -p broker-examples --example embed`.

mod release_desk;

use std::sync::Arc;
use std::time::Duration;

use broker_core::chat::ThreadKey;
use broker_core::clock::SystemClock;
use broker_core::engine::{Broker, Parts, Settings};
use broker_core::ids::RandomIds;
use broker_core::testing::{MemoryChat, MemoryStore};
use tokio::sync::{oneshot, watch};

use release_desk::ReleaseDesk;

/// The rest of the service: here, a build that takes its time and says when it is green.
async fn builds(waited_for: oneshot::Receiver<()>, green: watch::Sender<bool>) {
    if waited_for.await.is_ok() {
        green.send_replace(true);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (begin, waited_for) = oneshot::channel();
    let (sender, mut green) = watch::channel(false);
    let rest_of_the_service = tokio::spawn(builds(waited_for, sender));

    let chat = MemoryChat::new();
    let folder = std::env::temp_dir().join(format!("broker-embed-{}", std::process::id()));
    let parts = Parts {
        transport: Arc::new(chat.clone()),
        history: Arc::new(chat.clone()),
        runtime: Arc::new(ReleaseDesk::new()),
        store: Arc::new(MemoryStore::new()),
        clock: Arc::new(SystemClock::new()),
        ids: Arc::new(RandomIds),
    };
    let broker = Broker::start(parts, Settings::new(folder.join("sessions"), folder.join("repos"))).await?;

    // The desk waits for CI within its turn; what is said meanwhile joins the turn.
    let thread = chat.say("C-releases", None, "U-ada", "@broker ship 1.4");
    let _ = begin.send(());
    green.wait_for(|green| *green).await?;
    chat.say("C-releases", Some(&thread.root), "U-ada", "CI is green");
    wait_for(&chat, &thread, 1).await?;

    chat.say("C-releases", Some(&thread.root), "U-ben", "announce it, please");
    let posts = wait_for(&chat, &thread, 3).await?;
    posts.iter().for_each(|post| println!("{post}"));

    broker.drain(Duration::from_secs(5)).await;
    rest_of_the_service.await?;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

async fn wait_for(chat: &MemoryChat, thread: &ThreadKey, count: usize) -> Result<Vec<String>, String> {
    let posts = chat.wait_for_posts(thread, count, Duration::from_secs(5)).await;
    posts.map_err(|posts| format!("no answer in time, only {posts:?}"))
}
