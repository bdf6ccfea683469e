//! The real binary, from outside: what it says, and how it ends.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "a test stops where an expectation fails")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A broker in a folder of its own, with nothing of this process's environment.
fn broker(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker"));
    command.current_dir(folder).env_clear().stdin(Stdio::null());
    command
}

/// With tokens that are well-formed, and a Slack that nobody answers for.
fn configured(folder: &Path) -> Command {
    let mut command = broker(folder);
    command.env("SLACK_APP_TOKEN", "xapp-1-secret-a").env("SLACK_BOT_TOKEN", "xoxb-1-secret-b");
    command.env("SLACK_API_BASE_URL", "http://127.0.0.1:1/api").env("PORT", "0").env("CODEX_BIN", "/nonexistent/codex");
    command
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// A broker that runs, and the lines that it logs. Killed when dropped.
struct Running {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    seen: Vec<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        let lines = BufReader::new(child.stderr.take().expect("its stderr")).lines();
        Self { child, lines, seen: Vec::new() }
    }

    /// The next line with this message; the process ends otherwise, so this does not wait for ever.
    fn wait_for(&mut self, message: &str) -> Value {
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            self.seen.push(line.clone());
            match serde_json::from_str::<Value>(&line) {
                Ok(event) if event["message"] == message => return event,
                _ => {}
            }
        }
        panic!("it ended without `{message}`: {:#?}", self.seen);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signalled");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_names_every_variable_with_its_default() {
    let folder = tempfile::tempdir().expect("a folder");
    let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.env.example")).expect("read");
    let variables = example.lines().filter_map(|line| line.trim_start_matches("# ").split_once('='));
    for arguments in [&["--help"][..], &["-h"], &["help"], &["serve", "--help"]] {
        let output = broker(folder.path()).args(arguments).output().expect("run");
        let (help, complaints) = text(&output);
        assert!(output.status.success() && complaints.is_empty(), "{arguments:?}: {complaints}");
        let mut count = 0;
        for (name, default) in
            variables.clone().filter(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
        {
            let expected =
                if default.is_empty() { format!("\n  {name} [") } else { format!("\n  {name} [{default}]\n") };
            assert!(arguments == ["help"] || help.contains(&expected), "{arguments:?} lacks {expected}:\n{help}");
            count += 1;
        }
        assert!(count > 25, "{count}");
        assert!(help.contains("77   Slack refuses the tokens"), "{help}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0, "nothing is opened for help");
}

#[test]
fn version_is_the_packages() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = broker(folder.path()).arg("--version").output().expect("run");
    assert_eq!(text(&output).0, format!("broker {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_configuration_ends_with_64_before_anything_is_opened() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = broker(folder.path()).env("SLACK_BOT_TOKEN", "xapp-swapped").env("PORT", "x").output().expect("run");
    let (_, complaints) = text(&output);
    assert_eq!(output.status.code(), Some(64));
    for expected in ["SLACK_APP_TOKEN is not set", "SLACK_BOT_TOKEN is something else", "PORT is `x`", "--help"] {
        assert!(complaints.contains(expected), "{complaints}");
    }
    assert!(!complaints.contains("swapped"), "{complaints}");
    assert_eq!(fs::read_dir(folder.path()).expect("read").count(), 0);

    fs::write(folder.path().join(".env"), "SLACK_APP_TOKEN=xapp-1\nnonsense here\n").expect("written");
    let output = broker(folder.path()).output().expect("run");
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).1.contains(".env, line 2"), "{}", text(&output).1);

    for arguments in [&["srve"][..], &["--port", "1"], &["serve", "now"]] {
        let output = broker(folder.path()).args(arguments).output().expect("run");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}

#[test]
fn a_second_broker_on_the_same_data_ends_with_75_and_names_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Running::start(configured(folder.path()));
    first.wait_for("listening");
    let output = configured(folder.path()).output().expect("run");
    let (_, complaints) = text(&output);
    assert_eq!(output.status.code(), Some(75), "{complaints}");
    assert!(complaints.contains(&first.child.id().to_string()), "{complaints}");
}

#[test]
fn a_port_in_use_ends_with_69_and_says_how_to_mend_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let output = configured(folder.path()).env("PORT", &port).output().expect("run");
    let (_, complaints) = text(&output);
    assert_eq!(output.status.code(), Some(69), "{complaints}");
    assert!(complaints.contains("set PORT to a free port"), "{complaints}");
}

#[test]
fn a_database_of_a_newer_broker_ends_with_65_and_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = Running::start(configured(folder.path()));
    first.wait_for("listening");
    first.signal(rustix::process::Signal::INT);
    first.wait_for("ended");
    drop(first);

    // The user version stands at offset 60 of an SQLite file, most significant byte first (sqlite.org/fileformat.html).
    let database = folder.path().join(".data/state/broker.sqlite");
    let mut bytes = fs::read(&database).expect("read");
    bytes[60..64].copy_from_slice(&9_999_u32.to_be_bytes());
    fs::write(&database, &bytes).expect("written");

    let output = configured(folder.path()).output().expect("run");
    let (_, complaints) = text(&output);
    assert_eq!(output.status.code(), Some(65), "{complaints}");
    assert!(complaints.contains("9999") && complaints.contains("newer"), "{complaints}");
    assert!(fs::read(&database).expect("read") == bytes, "the database was changed");
}

#[test]
fn tokens_that_slack_refuses_end_with_77_and_what_mends_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let slack = TcpListener::bind("127.0.0.1:0").expect("a port");
    let base = format!("http://{}/api", slack.local_addr().expect("an address"));
    std::thread::spawn(move || {
        // The answer of a workspace that does not know the token (docs.slack.dev/reference/methods/auth.test).
        let body = r#"{"ok":false,"error":"invalid_auth"}"#;
        for stream in slack.incoming() {
            let Ok(mut stream) = stream else { return };
            // The head alone has to be read before the answer; the rest does not matter to this fake.
            let _ = stream.read(&mut [0; 4096]);
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
        }
    });
    let output = configured(folder.path()).env("SLACK_API_BASE_URL", base).output().expect("run");
    let (_, complaints) = text(&output);
    assert_eq!(output.status.code(), Some(77), "{complaints}");
    assert!(complaints.contains("invalid_auth") && complaints.contains("SLACK_BOT_TOKEN"), "{complaints}");
    assert!(!complaints.contains("secret-"), "{complaints}");
}

#[test]
fn a_signal_ends_it_in_order_while_slack_does_not_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = configured(folder.path());
    command.env("LOG_DIR", "logs").env("LOG_LEVEL", "debug");
    let mut running = Running::start(command);
    let listening = running.wait_for("listening");
    let address = listening["address"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    running.wait_for("Slack does not answer; trying again");

    let body = readyz(&address);
    assert_eq!(body["ok"], false);
    assert!(body["parts"]["socket"]["reason"].as_str().is_some_and(|r| r.contains("connecting to Slack")), "{body}");
    assert_eq!(body["parts"]["store"]["ok"], true, "{body}");

    running.signal(rustix::process::Signal::TERM);
    running.wait_for("stopping");
    running.wait_for("ended");
    assert_eq!(running.child.wait().expect("ended").code(), Some(0));

    let logs: Vec<_> = fs::read_dir(folder.path().join("logs/broker")).expect("logs").collect();
    assert!(!logs.is_empty());
    for log in logs {
        let log = fs::read_to_string(log.expect("an entry").path()).expect("read");
        assert!(log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{log}");
        assert!(!log.contains("secret-"), "{log}");
    }
    assert!(running.seen.iter().all(|line| !line.contains("secret-")), "{:#?}", running.seen);
}

/// The body of `/readyz`, over a plain connection.
fn readyz(address: &str) -> Value {
    let mut stream = std::net::TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a limit");
    write!(stream, "GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn without_tokens_the_port_may_be_opened_to_this_machine_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    for host in ["0.0.0.0", "::", "192.0.2.1", "broker.example"] {
        let mut command = configured(folder.path());
        command.env("BROKER_API_AUTH", "off").env("WORKER_BIND_HOST", host);
        let output = command.output().expect("run");
        let (_, complaints) = text(&output);
        assert_eq!(output.status.code(), Some(64), "{host}: {complaints}");
        assert!(complaints.contains("BROKER_API_AUTH is `off`; other machines would reach it"), "{host}: {complaints}");
    }
    let mut command = configured(folder.path());
    command.env("BROKER_API_AUTH", "off");
    let mut broker = Running::start(command);
    broker.wait_for("listening");
    assert!(broker.seen.iter().any(|line| line.contains("BROKER_API_AUTH=off")), "{:#?}", broker.seen);
}

#[test]
fn an_install_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    Running::start(configured(folder.path())).wait_for("listening");
    let key = folder.path().join(".data/state/install.key");
    assert_eq!(fs::metadata(&key).expect("the key").permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("changed");
    let output = configured(folder.path()).output().expect("run");
    let (_, complaints) = text(&output);
    assert_eq!(output.status.code(), Some(73), "{complaints}");
    assert!(complaints.contains("chmod 600"), "{complaints}");
}

#[test]
fn a_token_of_nothing_is_not_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = |key: &str| {
        let output = broker(folder.path()).args(["token", key]).output().expect("run");
        let (printed, complaints) = text(&output);
        assert_eq!(printed, "");
        (output.status.code(), complaints)
    };
    let (code, complaints) = token("nonsense");
    assert!(code == Some(64) && complaints.contains("C012AB3CD:1700000000.000100"), "{complaints}");
    let (code, complaints) = token("C1:1.2");
    assert!(code == Some(74) && complaints.contains("no broker has run"), "{complaints}");
    assert!(!folder.path().join(".data").exists(), "nothing is made for it");
    Running::start(configured(folder.path())).wait_for("listening");
    let (code, complaints) = token("C1:1.2");
    assert!(code == Some(64) && complaints.contains("there is no session C1:1.2"), "{complaints}");
}
