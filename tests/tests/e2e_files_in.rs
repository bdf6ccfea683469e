#![forbid(unsafe_code)]
//! Files that people share, end to end: fetched, kept in the workspace, shown to the model.

#![expect(clippy::expect_used, reason = "a test may fail where it stands")]

use std::path::PathBuf;
use std::time::Duration;

use broker_tests::fake_slack::{ALICE, CHANNEL, Content, SharedFile};
use broker_tests::world::World;
use serde_json::Value;

/// A PNG of this size.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 9]));
    image::DynamicImage::ImageRgb8(picture).write_to(&mut bytes, image::ImageFormat::Png).expect("an image");
    bytes.into_inner()
}

/// The images that the model was shown in its last request: their sizes.
fn images(world: &World) -> Vec<(u32, u32)> {
    let requests = world.model.requests();
    let Some(last) = requests.last() else { return Vec::new() };
    let parts = last.input().iter().filter_map(|item| item["content"].as_array()).flatten();
    let urls = parts.filter(|part| part["type"] == "input_image").filter_map(|part| part["image_url"].as_str());
    urls.map(|url| {
        let (_, data) = url.split_once(";base64,").expect("a data URL");
        let bytes = base64(data);
        let picture = image::load_from_memory(&bytes).expect("an image");
        (picture.width(), picture.height())
    })
    .collect()
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b'=').map(value).collect();
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0_u32, |bits, digit| (bits << 6) | u32::from(*digit)) << (6 * (4 - group.len()));
        bits.to_be_bytes()[1..group.len()].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// What the model was last told of the files of the message that it was given.
fn files(world: &World) -> Vec<Value> {
    let text = world.model.requests().last().expect("a request").last_user_text();
    let start = text.rfind("```json\n").expect("a block") + "```json\n".len();
    let end = text[start..].find("\n```").expect("its end") + start;
    let block: Value = serde_json::from_str(&text[start..end]).expect("JSON");
    block["files"].as_array().cloned().unwrap_or_default()
}

fn path(file: &Value) -> PathBuf {
    PathBuf::from(file["path"].as_str().unwrap_or_else(|| panic!("no path: {file}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_seen_scaled_and_a_pdf_is_there_by_its_path() {
    let Some(world) = World::start("files-in").await else { return };
    let picture = png(3000, 1500);
    let shared = [
        SharedFile::new("screen shot.png", "image/png", picture.clone()),
        SharedFile::new("report.pdf", "application/pdf", &b"%PDF-1.7 of a test"[..]),
        SharedFile {
            content: Content::Elsewhere(b"from elsewhere".to_vec()),
            ..SharedFile::new("far.txt", "text/plain", "")
        },
        SharedFile { stub: true, ..SharedFile::new("of-others.txt", "text/plain", &b"of another organisation"[..]) },
    ];
    let text = "<@U0BROKER> look scenario:text:seen";
    let root = world.slack.share(CHANNEL, None, ALICE, text, &shared);
    world.answer(&root, "seen").await;
    assert_eq!(images(&world), [(2048, 1024)]);
    let files = files(&world);
    let contents: Vec<_> = files.iter().map(|file| std::fs::read(path(file)).expect("the file")).collect();
    let expected =
        [picture, b"%PDF-1.7 of a test".to_vec(), b"from elsewhere".to_vec(), b"of another organisation".to_vec()];
    assert_eq!(contents, expected);
    assert!(path(&files[0]).ends_with(format!(
        ".slack-attachments/{root}/F0FILE{}-screen_shot.png",
        &files[0]["id"].as_str().unwrap()[6..]
    )));
    assert!(files[0]["shown_as_image"].is_string() && files[1]["shown_as_image"].is_null());

    // The agent's own commands read what it was given.
    let shown = path(&files[1]).display().to_string();
    let script = world.model.script([
        broker_tests::fake_model::Step::Shell(format!("cat {shown} > copy-of-report")),
        broker_tests::fake_model::Step::Text("copied".to_owned()),
    ]);
    world.reply(&root, &format!("copy it {script}"));
    world.answer(&root, "copied").await;
    let copy = world.file_of_agent("copy-of-report").await;
    assert_eq!(std::fs::read(copy).expect("the copy"), b"%PDF-1.7 of a test");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_named_and_the_message_is_given() {
    let Some(world) = World::with("files-not", &[("SLACK_FILE_MAX_BYTES", "2000")]).await else { return };
    // Half an image is kept by its path, and not shown: it would stay in the agent's history and spoil every later turn.
    let damaged = png(20, 20);
    let shared = [
        SharedFile { content: Content::Many(3000), ..SharedFile::new("large.bin", "application/octet-stream", "") },
        SharedFile {
            content: Content::Broken(b"half".to_vec()),
            stub: true,
            ..SharedFile::new("half.txt", "text/plain", "")
        },
        SharedFile::new("damaged.png", "image/png", &damaged[..damaged.len() / 2]),
    ];
    let root = world.slack.share(CHANNEL, None, ALICE, "<@U0BROKER> look scenario:text:well", &shared);
    world.answer(&root, "well").await;
    let files = files(&world);
    assert!(files[0]["not_available"].as_str().is_some_and(|why| why.contains("larger")), "{files:?}");
    assert!(files[1]["not_available"].as_str().is_some_and(|why| why.contains("broke")), "{files:?}");
    assert!(files[2]["remark"].as_str().is_some_and(|why| why.contains("cannot be read")), "{files:?}");
    assert_eq!(images(&world), []);
    assert!(path(&files[2]).is_file());
    let folder = path(&files[2]);
    assert_eq!(std::fs::read_dir(folder.parent().expect("its folder")).expect("the folder").count(), 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_missing_scope_is_said() {
    let Some(world) = World::start("files-scope").await else { return };
    // Slack answers with its sign-in page; the broker learned of its scopes while it had them all.
    world.slack.set_scopes(&["app_mentions:read", "channels:history", "chat:write", "users:read"]);
    let shared = [SharedFile::new("a.txt", "text/plain", "a")];
    let root = world.slack.share(CHANNEL, None, ALICE, "<@U0BROKER> look scenario:text:well", &shared);
    world.answer(&root, "well").await;
    let files = files(&world);
    assert!(files[0]["not_available"].as_str().is_some_and(|why| why.contains("files:read")), "{files:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_earlier_messages_go_along_and_a_kill_costs_none() {
    let Some(mut world) = World::start("files-kill").await else { return };
    let root =
        world.slack.seed_file(CHANNEL, None, ALICE, "the plan", &SharedFile::new("plan.txt", "text/plain", "plan"));
    let slow = SharedFile { content: Content::Many(40 << 20), ..SharedFile::new("big.bin", "application/x-any", "") };
    let text = "<@U0BROKER> see above scenario:text:seen";
    world.slack.share(CHANNEL, Some(&root), ALICE, text, &[slow]);
    world
        .slack
        .wait_for("first download", Duration::from_secs(30), |state| (state.downloads() > 0).then_some(()))
        .await;
    world.broker.sigkill().await;
    world.broker.start_again().await;
    world.broker.ready().await;
    world.answer(&root, "seen").await;
    let files = files(&world);
    assert_eq!(std::fs::metadata(path(&files[0])).expect("the file").len(), 40 << 20);
    let whole = world.model.requests().last().expect("a request").last_user_text();
    let earlier = whole.split("\"path\": \"").nth(1).and_then(|rest| rest.split('"').next()).expect("a path");
    assert_eq!(std::fs::read_to_string(earlier).expect("the earlier file"), "plan");
    assert_eq!(world.answers_with(&root, "seen"), 1);
    world.finish().await;
}
