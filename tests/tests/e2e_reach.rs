#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "the helpers of a test fail by panicking")]
//! What an agent's commands can reach, end to end, in the real sandbox.

use std::path::Path;
use std::process::Command;

use broker_tests::fake_model::Step;
use broker_tests::fake_slack::{APP_TOKEN, BOT_TOKEN};
use broker_tests::processes;
use broker_tests::world::World;

/// Stands in what no command may read.
const CANARY: &str = "canary-9f2c";

/// Runs git outside of the sandbox, as the operator.
fn git(folder: &Path, args: &[&str]) {
    let output = Command::new("git")
        .args(["-c", "user.name=op", "-c", "user.email=op@example.com", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(folder)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Lets the agent run a command in a new thread; returns what the command printed.
async fn run(world: &World, command: &str) -> String {
    let script = world.model.script([Step::Shell(command.to_owned()), Step::Text("ran it".to_owned())]);
    let root = world.mention(&format!("please {script}"));
    world.answer(&root, "ran it").await;
    let requests = world.model.requests();
    let last = requests.iter().rfind(|request| request.last_user_text().contains(&format!("{script}\"")));
    last.and_then(|request| request.tool_outputs().pop()).expect("the command's output")
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_other_sessions_are_out_of_reach() {
    let key = format!("sk-{CANARY}-key");
    let Some(world) = World::with("reach", &[("OPENAI_API_KEY", &key)]).await else { return };
    let auth = world.data().join("codex-home/auth.json");
    let known = std::fs::read_to_string(&auth).unwrap_or_default();
    assert!(known.contains(&key), "Codex is logged in with the key: {known}");

    // Another session, with a file in its workspace.
    run(&world, &format!("echo {CANARY} > secret-of-another; touch marker-of-another")).await;
    let other = world.file_of_agent("marker-of-another").await.with_file_name("secret-of-another");
    assert!(other.is_file());

    let data = world.data();
    for (what, path) in [
        ("Codex's login", auth),
        ("the store", data.join("state/broker.sqlite")),
        ("the write-ahead log of the store", data.join("state/broker.sqlite-wal")),
        ("the .env", world.folder.path().join("cwd/.env")),
        ("another session's file", other),
    ] {
        assert!(path.exists(), "{what} is where the test looks: {}", path.display());
        let told = run(&world, &format!("cat {0} && echo it-was-read || echo it-was-not", path.display())).await;
        assert!(told.contains("it-was-not") && !told.contains("it-was-read"), "{what}: {told}");
        assert!(!told.contains(CANARY) && !told.contains("canary-env-file"), "{what}: {told}");
        let told =
            run(&world, &format!("echo x >> {} && echo it-was-written || echo it-was-not", path.display())).await;
        assert!(!told.contains("it-was-written"), "{what}: {told}");
    }
    let told =
        run(&world, &format!("ls {} && echo listed; ls {}/../.. >/dev/null; true", data.display(), data.display()))
            .await;
    assert!(!told.contains("codex-home"), "the data root: {told}");

    // Nor in the environment, of the command or of what it can see of other processes.
    let told =
        run(&world, "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; cat /proc/*/cmdline | tr '\\0' ' '").await;
    for secret in [APP_TOKEN, BOT_TOKEN, key.as_str(), "SLACK_", "OPENAI_API_KEY"] {
        assert!(!told.contains(secret), "{secret}: {told}");
    }
    let all = world.model.requests().iter().map(|request| request.body.to_string()).collect::<String>();
    let log = world.broker.last_lines(usize::MAX);
    for secret in [APP_TOKEN, BOT_TOKEN, key.as_str()] {
        assert!(!all.contains(secret), "the model was told {secret}");
        assert!(!log.contains(secret), "the log holds {secret}");
    }
    for process in processes::family(world.broker.pid()) {
        assert!(!process.command.contains("xoxb-") && !process.command.contains(CANARY), "{}", process.command);
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_works_in_repositories_and_reaches_the_network() {
    let Some(world) = World::start("work").await else { return };
    let repos = world.data().join("repos");
    std::fs::create_dir_all(repos.join("demo")).expect("a repository");
    git(&repos.join("demo"), &["init", "-q"]);
    std::fs::write(repos.join("demo/README"), "demo\n").expect("a file");
    git(&repos.join("demo"), &["add", "README"]);
    git(&repos.join("demo"), &["commit", "-q", "-m", "first"]);

    let me = "git -c user.name=agent -c user.email=agent@example.com";
    let demo = repos.join("demo");
    let demo = demo.display();
    for (what, command) in [
        ("clone", format!("git clone -q {demo} clone && cat clone/README && echo it-worked")),
        (
            "worktree",
            format!(
                "git -C {demo} worktree add -q \"$PWD/tree\" -b topic && cd tree && echo more >> README && {me} commit -qam \
                 second && git log --oneline | wc -l && echo it-worked"
            ),
        ),
        (
            "a new clone among the shared ones",
            format!("git clone -q {demo} {}/second && echo it-worked", repos.display()),
        ),
        ("temporary files", "mktemp && f=$(mktemp) && echo x > $f && echo it-worked".to_owned()),
        ("home", "cd && pwd && echo it-worked".to_owned()),
    ] {
        let told = run(&world, &command).await;
        assert!(told.contains("it-worked"), "{what}: {told}");
    }
    git(&repos.join("demo"), &["rev-parse", "topic"]);

    let address = world.model.base_url();
    let address = address.trim_start_matches("http://").trim_end_matches("/v1").replace(':', "/");
    let request = "printf 'GET /from-the-agent HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3";
    let told = run(&world, &format!("exec 3<>/dev/tcp/{address} && {request}")).await;
    assert!(told.contains("404"), "{told}");
    assert_eq!(world.model.other_requests(), ["GET /from-the-agent"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_can_be_closed() {
    let Some(world) = World::with("closed", &[("CODEX_NETWORK", "off")]).await else { return };
    let address = world.model.base_url();
    let address = address.trim_start_matches("http://").trim_end_matches("/v1").replace(':', "/");
    let told = run(&world, &format!("exec 3<>/dev/tcp/{address} && echo it-opened || echo it-did-not")).await;
    assert!(told.contains("it-did-not") && !told.contains("it-opened"), "{told}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_cannot_start_programs_of_its_own() {
    let Some(mut world) = World::start("mcp").await else { return };
    let started = world.folder.path().join("mcp-was-started");
    let root = world.mention("begin scenario:shell:touch here");
    let workspace = world.file_of_agent("here").await;
    let workspace = workspace.parent().expect("a folder").to_owned();
    world.answer(&root, "tool said").await;

    // Whoever wrote it there: the workspace itself is made a repository with a configuration of Codex.
    git(&workspace, &["init", "-q"]);
    std::fs::create_dir_all(workspace.join(".codex")).expect("a folder");
    let touch = format!("[mcp_servers.evil]\ncommand = \"touch\"\nargs = [\"{}\"]\n", started.display());
    std::fs::write(workspace.join(".codex/config.toml"), touch).expect("a file");
    world.broker.restart().await;
    world.reply(&root, "go on scenario:shell:echo in the repository");
    world.answer(&root, "in the repository").await;
    assert!(!started.exists(), "the command of the repository was started");
    let config = std::fs::read_to_string(world.data().join("codex-home/config.toml")).expect("the configuration");
    assert!(!config.contains("trusted"), "the operator's configuration was written: {config}");
    world.finish().await;
}
