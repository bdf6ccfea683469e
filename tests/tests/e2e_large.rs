#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! Files of 500 MB through the whole broker, with the real Codex: what they cost in memory.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{ALICE, CHANNEL, Content, EMPTY_SUM, SharedFile, State, sum};
use broker_tests::world::{ANSWER, World};
use serde_json::json;

const BYTES: u64 = 500_000_000;
/// What either way may cost.
const MOST_KIB: u64 = 20 * 1000 * 1000 / 1024;

/// Writes a file of random bytes, the same for the same seed; returns their sum.
fn fill(path: &Path, bytes: u64) -> u64 {
    let (mut file, mut random) = (File::create(path).expect("a file"), fastrand::Rng::with_seed(1));
    let (mut left, mut summed, mut piece) = (bytes, EMPTY_SUM, vec![0; 1 << 20]);
    while left > 0 {
        let size = left.min(piece.len() as u64);
        let piece = &mut piece[..usize::try_from(size).expect("it fits")];
        random.fill(piece);
        summed = sum(summed, piece);
        file.write_all(piece).expect("room on the disk");
        left -= size;
    }
    summed
}

/// How many bytes a file has, and how many of them are another than this.
fn others(path: &Path, byte: u8) -> (usize, usize) {
    let (mut file, mut piece) = (File::open(path).expect("the file"), vec![0; 1 << 20]);
    let (mut size, mut others) = (0, 0);
    loop {
        let count = file.read(&mut piece).expect("it can be read");
        if count == 0 {
            return (size, others);
        }
        size += count;
        others += piece[..count].iter().filter(|one| **one != byte).count();
    }
}

/// Lets the agent post a file of its workspace; returns when it stands in the thread.
async fn up(world: &World, root: &str, name: &str) {
    let arguments = json!({ "path": name, "kind": "final" });
    let script = world.model.script([
        Step::Tool("broker".to_owned(), json!({ "action": "file", "arguments": arguments })),
        Step::Text("over".to_owned()),
    ]);
    world.reply(root, &format!("post it {script}"));
    let posted = |state: &State| {
        let upload = state.uploads().iter().find(|upload| upload.name == name && upload.completed == 1);
        upload.map(|_| ())
    };
    world.slack.wait_for("posted file", ANSWER * 4, posted).await;
}

/// Somebody shares a file in a thread; returns when the agent has seen it.
async fn down(world: &World, root: &str, name: &str, bytes: u64) {
    let shared = SharedFile { content: Content::Many(bytes), ..SharedFile::new(name, "application/x-any", "") };
    world.slack.share(CHANNEL, Some(root), ALICE, &format!("look scenario:text:seen {name}"), &[shared]);
    let answer =
        world.slack.wait_for_answer(CHANNEL, root, name, ANSWER * 4, |text| text.contains(&format!("seen {name}")));
    answer.await;
}

/// Small ones go before: what a first file costs is no matter of its size.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs 1.5 GB of disk; see docs/performance.md"]
async fn half_a_gigabyte_up_and_half_a_gigabyte_down_cost_little_memory() {
    let limit = (2 * BYTES).to_string();
    let Some(world) = World::with("large", &[("SLACK_FILE_MAX_BYTES", &limit)]).await else { return };
    let root = world.mention("begin scenario:shell:touch here");
    let workspace = world.file_of_agent("here").await.parent().expect("a folder").to_owned();
    world.answer(&root, "tool said").await;
    fill(&workspace.join("small.bin"), 1000);
    up(&world, &root, "small.bin").await;
    down(&world, &root, "small.txt", 1000).await;

    let summed = fill(&workspace.join("large.bin"), BYTES);
    let (before, clock) = (world.broker.peak_kib(), tokio::time::Instant::now());
    up(&world, &root, "large.bin").await;
    let grown = world.broker.peak_kib() - before;
    println!("up: {grown} KiB over {before} KiB, {:.1} s", clock.elapsed().as_secs_f64());
    let came = world.slack.look(|state| state.uploads().last().map(|upload| (upload.received, upload.sum)));
    assert_eq!(came, Some((Some(BYTES), summed)));
    assert!(grown < MOST_KIB, "{grown} KiB");

    let (before, clock) = (world.broker.peak_kib(), tokio::time::Instant::now());
    down(&world, &root, "large.txt", BYTES).await;
    let grown = world.broker.peak_kib() - before;
    println!("down: {grown} KiB over {before} KiB, {:.1} s", clock.elapsed().as_secs_f64());
    let folders = std::fs::read_dir(workspace.join(".slack-attachments")).expect("its folder").flatten();
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).expect("a folder").flatten());
    let large = files.map(|file| file.path()).find(|path| path.to_string_lossy().ends_with("large.txt"));
    assert_eq!(others(&large.expect("the file"), b'x'), (usize::try_from(BYTES).expect("it fits"), 0));
    assert!(grown < MOST_KIB, "{grown} KiB");
    world.finish().await;
}
