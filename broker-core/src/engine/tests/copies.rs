//! Files on their way out: how many and how large, and what is left of them.

use super::*;
use crate::engine::{copies as making, sender};
use crate::session::MAX_OPEN_PARTS;
use crate::store::{PartRow, PartState, PostKind};
use crate::thread_tools::{FileSource, FileWish, ToolAnswer, ToolCommand};

impl House {
    /// A file of the shared clones.
    fn file(&self, name: &str) -> FileWish {
        let path = self.settings.repos_root.join(name);
        std::fs::create_dir_all(&self.settings.repos_root).unwrap();
        std::fs::write(&path, "all is well").unwrap();
        FileWish {
            source: FileSource::Path(path.to_str().unwrap().to_owned()),
            name: None,
            content_type: None,
            title: None,
            comment: None,
            alt_text: None,
            snippet_type: None,
            kind: PostKind::Progress,
            reason: None,
        }
    }

    /// Asks for something and does not wait.
    fn ask(&self, thread: &ThreadKey, command: ToolCommand) -> tokio::task::JoinHandle<ToolAnswer> {
        let (door, thread) = (self.broker().door(), thread.clone());
        tokio::spawn(async move { door.call(&thread, command, None).await.unwrap() })
    }

    fn copies(&self) -> usize {
        std::fs::read_dir(self.settings.sessions_root.join(".outgoing")).map_or(0, Iterator::count)
    }

    /// A thread whose turn goes on, and whose posts wait for Slack.
    async fn waiting(&self) -> ThreadKey {
        let thread = self.chat.say("C1", None, "U1", "@broker go on");
        self.until("the turn runs", |house| !house.agent.given().is_empty()).await;
        self.chat.fail_next(Fault::Fail(DeliverError::Temporary {
            reason: "ratelimited".to_owned(),
            retry_after: Some(Duration::from_secs(3600)),
        }));
        thread
    }
}

fn code(answer: &ToolAnswer) -> &'static str {
    if let ToolAnswer::Refused { code, .. } = answer { code } else { "" }
}

#[tokio::test]
async fn what_a_stop_drops_leaves_no_copy_behind() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.waiting().await;
    house.ask(&thread, ToolCommand::File(house.file("report.txt")));
    house.until("it is copied", |house| house.counts().parts_open == 1).await;
    assert_eq!(house.copies(), 1);
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    house.until("the copy is removed", |house| house.copies() == 0).await;
}

#[tokio::test]
async fn what_a_refusal_drops_leaves_no_copy_behind() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker go on");
    house.until("the turn runs", |house| !house.agent.given().is_empty()).await;
    house.chat.fail_next(Fault::Fail(DeliverError::Refused { code: "is_archived".to_owned() }));
    // Words that do not fit beside the file go first, and are refused.
    let comment = Some(format!("{}\n\n{}", "a".repeat(3_000), "b".repeat(3_000)));
    let answer = house.ask(&thread, ToolCommand::File(FileWish { comment, ..house.file("report.txt") }));
    assert!(matches!(answer.await.unwrap(), ToolAnswer::Undelivered { arrived: 0, .. }));
    house.until("the copy is removed", |house| house.copies() == 0).await;
}

#[tokio::test]
async fn a_thread_takes_only_so_many_posts_that_wait() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.waiting().await;
    let post = |n: usize| ToolCommand::Post { text: format!("post {n}"), kind: PostKind::Progress, reason: None };
    for n in 0..MAX_OPEN_PARTS {
        house.ask(&thread, post(n));
    }
    house.until("all wait", |house| house.counts().parts_open == MAX_OPEN_PARTS as u64).await;
    assert_eq!(code(&house.ask(&thread, post(MAX_OPEN_PARTS)).await.unwrap()), "too_many_open_posts");
    let file = ToolCommand::File(house.file("report.txt"));
    assert_eq!(code(&house.ask(&thread, file).await.unwrap()), "too_many_open_posts");
    assert_eq!((house.counts().parts_open, house.copies()), (MAX_OPEN_PARTS as u64, 0));
    // The next broker knows how many wait.
    let mut house = house;
    house.restart().await;
    let file = ToolCommand::File(house.file("report.txt"));
    assert_eq!(code(&house.ask(&thread, file).await.unwrap()), "too_many_open_posts");
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    house.until("they are dropped", |house| house.counts().parts_open <= 1).await;
    let taken = async { while !code(&house.ask(&thread, post(0)).await.unwrap()).is_empty() {} };
    tokio::time::timeout(LIMIT * 3, taken).await.expect("there is room again");
}

#[tokio::test]
async fn more_folders_may_be_opened_and_nothing_beside_them() {
    let mut house = House::new(|_| vec![Act::Pause]).await;
    let extra = house.settings.repos_root.with_file_name("extra");
    for folder in [&extra, &extra.with_file_name("extra-not")] {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("report.txt"), "all is well").unwrap();
    }
    house.settings.file_roots = vec![extra.clone()];
    house.restart().await;
    let thread = house.chat.say("C1", None, "U1", "@broker go on");
    house.until("the turn runs", |house| !house.agent.given().is_empty()).await;
    let ask = async |path: PathBuf| {
        let source = FileSource::Path(path.to_str().unwrap().to_owned());
        house.ask(&thread, ToolCommand::File(FileWish { source, ..house.file("x") })).await.unwrap()
    };
    assert!(matches!(ask(extra.join("report.txt")).await, ToolAnswer::Posted { .. }));
    for beside in ["../extra-not/report.txt", "..", "../missing"] {
        assert_eq!(code(&ask(extra.join(beside)).await), "not_allowed", "{beside}");
    }
    house.until("no copy is left", |house| house.copies() == 0).await;
}

#[tokio::test]
async fn what_nobody_knows_goes_at_the_start() {
    let mut house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.waiting().await;
    house.ask(&thread, ToolCommand::File(house.file("report.txt")));
    house.until("it is copied", |house| house.counts().parts_open == 1).await;
    // What a crash leaves of a copy, and of a file that came with a request.
    for name in ["half", "half.received"] {
        std::fs::write(house.settings.sessions_root.join(".outgoing").join(name), "half").unwrap();
    }
    house.restart().await;
    assert_eq!(house.copies(), 1, "the one that is still to be posted");
}

#[tokio::test]
async fn a_copy_that_takes_too_long_is_given_up_and_leaves_nothing_behind() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker go on");
    house.until("the turn runs", |house| !house.agent.given().is_empty()).await;
    let wish = house.file("large.bin");
    let path = house.settings.repos_root.join("large.bin");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(crate::outgoing::MAX_BYTES).unwrap();
    let (shared, here) = (Arc::clone(&house.broker().shared), making::places());
    let (workspace, roots) = (house.settings.repos_root.clone(), vec![house.settings.repos_root.clone()]);
    let (making, result) = making::make(&shared, &here, &thread, (wish, house.clock.now()), workspace, roots).await;
    assert_eq!(result.unwrap_err().code, "busy");
    drop(making);
    house.until("its place is free", |_| here.available_permits() == 2).await;
    house.until("nothing is left of it", |house| house.copies() == 0).await;
    assert!(shared.copies.is_empty(), "nor are its bytes counted");
}

#[tokio::test]
async fn a_stop_waits_for_no_upload() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.chat.say("C1", None, "U1", "@broker go on");
    house.until("the turn runs", |house| !house.agent.given().is_empty()).await;
    house.chat.fail_next(Fault::Hang);
    house.ask(&thread, ToolCommand::File(house.file("large.bin")));
    house.until("it is planned", |house| house.counts().parts_open == 1).await;
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    assert_eq!(house.posts(&thread, 1).await, ["Stopped the current run."]);
    house.until("the copy is removed", |house| house.copies() == 0).await;
}

#[tokio::test]
async fn what_was_stopped_is_not_told_as_refused() {
    let house = House::new(|_| vec![Act::Pause]).await;
    let thread = house.waiting().await;
    house.ask(&thread, ToolCommand::File(house.file("report.txt")));
    house.until("it is planned", |house| house.counts().parts_open == 1).await;
    let part = house.store.open_parts(&thread, 1).await.unwrap().remove(0);
    house.chat.say("C1", Some(&thread.root), "U1", "-stop");
    assert_eq!(house.posts(&thread, 1).await, ["Stopped the current run."]);
    // The platform's answer came at the same moment.
    let refused = PartRow { state: PartState::Refused, error: Some("upload_http_403".to_owned()), ..part.clone() };
    sender::conclude(&house.broker().shared, part.state, refused).await.unwrap();
    house.until("nothing is open", |house| house.counts().parts_open == 0).await;
    assert_eq!(house.chat.posts(&thread), ["Stopped the current run."]);
}
