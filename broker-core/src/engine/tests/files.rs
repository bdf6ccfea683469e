//! Files on their way in: who waits for whom, and what stands in the workspace after that.

use std::path::PathBuf;

use super::*;
use crate::chat::FileRef;
use crate::testing::memory_chat::MemoryFile;

fn file(id: &str, name: &str, bytes: &[u8]) -> MemoryFile {
    let size = Some(bytes.len() as u64);
    let shown = FileRef { id: id.to_owned(), name: Some(name.to_owned()), size, ..FileRef::default() };
    MemoryFile { shown, bytes: bytes.to_vec(), ..MemoryFile::default() }
}

fn hanging(id: &str) -> MemoryFile {
    MemoryFile { hangs: true, ..file(id, "hangs.bin", b"the beginning") }
}

/// A PNG of this size.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::DynamicImage::new_rgb8(width, height);
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

impl House {
    /// The names of what stands in the folder of a thread's first message.
    fn attachments(&self, thread: &ThreadKey) -> Vec<String> {
        if self.record(thread).is_none() {
            return Vec::new();
        }
        let folder = self.attachment(thread, "");
        let found = std::fs::read_dir(folder).into_iter().flatten();
        let mut names: Vec<_> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn attachment(&self, thread: &ThreadKey, name: &str) -> PathBuf {
        let record = self.record(thread).expect("a session");
        let workspace = self.settings.sessions_root.join(&record.folder).join("workspace");
        workspace.join(".slack-attachments").join(thread.root.as_str()).join(name)
    }
}

#[tokio::test]
async fn slow_files_of_some_threads_hold_up_no_other() {
    let house = House::new(|_| finish("seen")).await;
    let slow: Vec<_> = (0..8)
        .map(|thread| {
            let files: Vec<_> = (0..9).map(|file| hanging(&format!("F{thread}-{file}"))).collect();
            house.chat.share("C1", None, "U1", "@broker wait", &files)
        })
        .collect();
    house
        .until("they are being fetched", |house| slow.iter().all(|thread| !house.attachments(thread).is_empty()))
        .await;
    let quick = house.chat.share("C1", None, "U1", "@broker look", &[file("F", "plan.txt", b"plan")]);
    assert_eq!(house.posts(&quick, 1).await, ["seen"]);
    assert_eq!(house.attachments(&quick), ["F-plan.txt"]);
    // Three of a session's at once.
    assert!(slow.iter().all(|thread| house.attachments(thread).len() <= 3));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_hangs_is_named_in_time_and_leaves_nothing_behind() {
    let house = House::new(|_| finish("seen")).await;
    let files = [hanging("F1"), file("F2", "shot.png", &png(3000, 20)), file("F3", "plan.txt", b"plan")];
    let thread = house.chat.share("C1", None, "U1", "@broker look", &files);
    // Another message's files hang as well, and cost no more time.
    house.until("it is there", |house| house.record(&thread).is_some()).await;
    house.chat.share("C1", Some(&thread.root), "U1", "and here", &[hanging("F4"), hanging("F5")]);
    let start = house.clock.now();
    while house.times_given("and here") == 0 {
        house.clock.sleep_until(house.clock.now().plus(Duration::from_secs(1))).await;
    }
    let waited = house.clock.now().since(start);
    assert!(waited < Duration::from_secs(200), "{waited:?}");
    let given = house.agent.given();
    let input = &given[0];
    assert!(input.text.contains("it was not there within 180 s"), "{}", input.text);
    assert_eq!(input.images.len(), 1, "the image is shown");
    house.until("nothing is left of it", |house| house.attachments(&thread) == ["F2-shot.png", "F3-plan.txt"]).await;
}

#[tokio::test]
async fn of_a_stub_the_agent_learns_what_the_platform_told_later() {
    let house = House::new(|_| finish("seen")).await;
    let stub = MemoryFile {
        shown: FileRef { id: "F1".to_owned(), ..FileRef::default() },
        name: Some("of others.pdf".to_owned()),
        media_type: Some("application/pdf".to_owned()),
        bytes: b"%PDF-1.7".to_vec(),
        hangs: false,
    };
    let thread = house.chat.share("C1", None, "U1", "@broker look", &[stub]);
    house.posts(&thread, 1).await;
    assert_eq!(house.attachments(&thread), ["F1-of_others.pdf"]);
    let text = &house.agent.given()[0].text;
    for known in
        [r#""name": "of others.pdf""#, r#""media_type": "application/pdf""#, r#""size": 8"#, "F1-of_others.pdf"]
    {
        assert!(text.contains(known), "{known}: {text}");
    }
}

/// What an earlier broker began it could not end: it is gone, and the file is there as a whole.
#[tokio::test]
async fn what_a_killed_broker_began_does_not_stay() {
    let mut house = House::new(|_| finish("seen")).await;
    let thread = house.chat.share("C1", None, "U1", "@broker look", &[hanging("F1")]);
    house.until("it is begun", |house| house.record(&thread).is_some() && !house.attachments(&thread).is_empty()).await;
    let left = house.attachment(&thread, ".of-a-killed-one.part");
    std::fs::write(left, "the beginning").unwrap();
    house.chat.unhang();
    house.restart().await;
    assert_eq!(house.posts(&thread, 1).await, ["seen"]);
    house.until("only the file is there", |house| house.attachments(&thread) == ["F1-hangs.bin"]).await;
}

#[tokio::test]
async fn what_is_too_large_is_not_said_to_have_no_room() {
    let house = House::new(|_| finish("seen")).await;
    let mut huge = file("F1", "huge.bin", b"x");
    huge.shown.size = Some(1 << 50);
    let thread = house.chat.share("C1", None, "U1", "@broker look", &[huge]);
    house.posts(&thread, 1).await;
    let given = house.agent.given();
    assert!(!given[0].text.contains("no room"), "how large it may be is for the transport to say: {}", given[0].text);
}

#[test]
fn what_is_coming_counts() {
    use crate::engine::files::Files;
    use crate::outgoing::MIN_FREE;
    let files = Files::default();
    let first = files.reserve(100, MIN_FREE + 150).expect("there is room");
    assert!(files.reserve(100, MIN_FREE + 150).is_none(), "the first has not taken its room yet");
    drop(first);
    assert!(files.reserve(100, MIN_FREE + 150).is_some());
}
