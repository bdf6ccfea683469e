//! What is taken for right, and what is said about the rest.

use super::*;
use secrecy::ExposeSecret;

const TOKENS: [(&str, &str); 2] = [("SLACK_APP_TOKEN", "xapp-1-a"), ("SLACK_BOT_TOKEN", "xoxb-1-b")];

fn read(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let folder = tempfile::tempdir().expect("a folder");
    read_in(folder.path(), more)
}

fn read_in(folder: &Path, more: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = TOKENS.iter().chain(more).map(|(name, value)| ((*name).to_owned(), OsString::from(value)));
    Config::read(variables.collect(), folder, true)
}

fn told(more: &[(&str, &str)]) -> String {
    match read(more) {
        Ok(_) => panic!("{more:?} is taken for right"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn two_tokens_are_enough() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = read_in(folder.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
    let at = |name: &str| folder.path().join(name);
    assert_eq!(
        config.folders,
        Folders {
            data_root: at(".data"),
            sessions_root: at(".data/sessions"),
            repos_root: at(".data/repos"),
            codex_home: at(".data/codex-home"),
            log_dir: None,
            env_file: at(".env"),
        }
    );
    assert_eq!(config.slack.api_base, "https://slack.com/api");
    assert_eq!(config.slack.app_token.expose_secret(), "xapp-1-a");
    assert_eq!((config.initial_history, config.history_limit), (8, 50));
    let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
    assert_eq!((config.recovery_window, config.missed_lookback), (hours(14 * 24), hours(24)));
    assert_eq!(config.slack.connections, 2);
    assert_eq!((config.port, config.bind_host.as_str()), (3000, "127.0.0.1"));
    assert_eq!(config.codex.bin, Path::new("codex"));
    assert_eq!(config.codex.sandbox, SandboxMode::WorkspaceWrite);
    assert_eq!(config.codex.approval, ApprovalPolicy::Never);
    assert!(config.codex.network);
    assert!(config.codex.api_key.is_none() && config.codex.auth_json.is_none());
    assert_eq!(config.codex.turn_idle, Duration::from_secs(900));
    assert_eq!((config.codex.max_active_turns, config.codex.idle_end), (32, Duration::from_secs(1800)));
    assert!(config.deliver_edits);
    assert_eq!(config.grace, Duration::from_secs(10));
    assert_eq!(config.log_level, Level::INFO);
    assert_eq!(config.policy, Policy::default());
    assert!((config.slack.post_rate - 1.0).abs() < f64::EPSILON);
    assert_eq!(config.slack.connections, 2);
}

#[test]
fn what_is_chosen_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = read_in(
        folder.path(),
        &[
            ("SLACK_API_BASE_URL", "http://127.0.0.1:9/api/"),
            ("SLACK_POST_RATE", "0.5"),
            ("SLACK_SOCKET_CONNECTIONS", "4"),
            ("SLACK_ALLOWED_USERS", " U1, W2 ,,"),
            ("SLACK_ALLOWED_CHANNELS", "C1,G2"),
            ("SLACK_ALLOWED_TEAMS", "T1,E2"),
            ("SLACK_ALLOW_BOTS", "*"),
            ("DATA_ROOT", "../data/./x"),
            ("SESSIONS_ROOT", "/srv/sessions"),
            ("CODEX_BIN", "bin/codex"),
            ("CODEX_SANDBOX", "read-only"),
            ("CODEX_NETWORK", "off"),
            ("CODEX_PASS_ENV", "HTTPS_PROXY, OTEL_*"),
            ("WORKER_BIND_HOST", "[::1]"),
            ("LOG_LEVEL", "debug"),
            ("LOG_DIR", ""),
            ("PORT", "0"),
        ],
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.slack.api_base, "http://127.0.0.1:9/api");
    assert!((config.slack.post_rate - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.slack.connections, 4);
    assert_eq!(config.policy.users, [PersonId::new("U1"), PersonId::new("W2")].into());
    assert_eq!(config.policy.teams, ["T1".to_owned(), "E2".to_owned()].into());
    assert_eq!(config.policy.bots, ["*".to_owned()].into());
    assert_eq!(config.folders.data_root, folder.path().parent().expect("a parent").join("data/x"));
    assert_eq!(config.folders.sessions_root, Path::new("/srv/sessions"));
    assert_eq!(config.codex.bin, folder.path().join("bin/codex"));
    assert_eq!(config.codex.pass_env.len(), 2);
    assert_eq!((config.bind_host.as_str(), config.port), ("::1", 0));
    assert_eq!(config.folders.log_dir, None);
}

#[test]
fn each_wrong_value_is_named_with_what_would_be_right() {
    let cases = [
        ("SLACK_API_BASE_URL", "slack.com", "https://slack.com/api"),
        ("SLACK_API_BASE_URL", "ftp://slack.com/api", "http or https"),
        ("SLACK_POST_RATE", "fast", "a number from 0 to 100"),
        ("SLACK_POST_RATE", "NaN", "a number from 0 to 100"),
        ("SLACK_POST_RATE", "-1", "a number from 0 to 100"),
        ("SLACK_SOCKET_CONNECTIONS", "0", "a number from 1 to 4"),
        ("SLACK_SOCKET_CONNECTIONS", "5", "a number from 1 to 4"),
        ("SLACK_INITIAL_THREAD_HISTORY_COUNT", "8.5", "from 0 to 1000"),
        ("SLACK_HISTORY_API_MAX_LIMIT", "0", "from 1 to 1000"),
        ("SLACK_ALLOWED_USERS", "U1,@ann", "`@ann`"),
        ("SLACK_ALLOWED_CHANNELS", "#general", "a channel id"),
        ("SLACK_ALLOWED_TEAMS", "acme", "a team id"),
        ("SLACK_ALLOW_BOTS", "*,B1", "* alone"),
        ("DATA_ROOT", "~/data", "write the whole path"),
        ("CODEX_SANDBOX", "none", "workspace-write, read-only, danger-full-access"),
        ("CODEX_NETWORK", "yes", "one of on, off"),
        ("CODEX_APPROVAL_POLICY", "always", "never, on-request, untrusted"),
        ("CODEX_PASS_ENV", "SLACK_*", "SLACK_"),
        ("AGENT_PASS_ENV", "OPENAI_API_KEY", "OPENAI_API_KEY"),
        ("CODEX_TURN_IDLE_MS", "15m", "in milliseconds"),
        ("PORT", "65536", "from 0 to 65535"),
        ("WORKER_BIND_HOST", "127.0.0.1:3000", "without a port"),
        ("LOG_LEVEL", "verbose", "error, warn, info, debug, trace"),
        ("SHUTDOWN_GRACE_MS", "-5", "from 0 to 600000"),
    ];
    for (name, value, right) in cases {
        let told = told(&[(name, value)]);
        assert!(told.contains(&format!("\n  {name} is `")) && told.contains(right), "{name}={value}: {told}");
    }
}

#[test]
fn everything_is_told_at_once_and_no_secret_with_it() {
    let told = told(&[
        ("SLACK_APP_TOKEN", "xoxb-swapped-1"),
        ("SLACK_BOT_TOKEN", ""),
        ("PORT", "http"),
        ("LOG_LEVEL", "loud"),
    ]);
    assert_eq!(told.lines().count(), 6, "{told}");
    assert!(told.contains("SLACK_APP_TOKEN and SLACK_BOT_TOKEN have to be set both"), "{told}");
    assert!(told.contains("SLACK_APP_TOKEN is something else") && !told.contains("swapped"), "{told}");
    assert!(told.contains("SLACK_BOT_TOKEN is not set; it has to be"), "{told}");
}

#[test]
fn a_long_or_odd_value_is_shown_on_one_short_line() {
    let told = told(&[("PORT", &format!("1\n\u{1b}[2J{}", "9".repeat(500)))]);
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(told.len() < 300 && !told.contains('\u{1b}'), "{told}");
}

#[cfg(unix)]
#[test]
fn a_value_that_is_no_text_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let folder = tempfile::tempdir().expect("a folder");
    let mut variables: Variables =
        TOKENS.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    variables.insert("SLACK_BOT_TOKEN".to_owned(), OsString::from_vec(vec![b'x', 0xff]));
    let told = Config::read(variables, folder.path(), true).map(drop).expect_err("not text").to_string();
    assert!(told.contains("SLACK_BOT_TOKEN is not UTF-8 text"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn folders_of_the_broker_do_not_lie_where_agents_write() {
    for (name, value) in [
        ("CODEX_HOME", "/srv/d/sessions/home"),
        ("LOG_DIR", "/srv/d/repos/x/../logs"),
        ("REPOS_ROOT", "/srv/d"),
        ("SESSIONS_ROOT", "/srv"),
        ("SESSIONS_ROOT", "/srv/d/repos/sessions"),
    ] {
        let told = told(&[("DATA_ROOT", "/srv/d"), (name, value)]);
        assert!(told.contains("put it elsewhere") && told.contains(name), "{name}={value}: {told}");
    }
}

#[test]
fn agents_are_not_let_post_what_is_the_brokers() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    for name in ["d/state", "reports", "app"] {
        std::fs::create_dir_all(at(name)).expect("a folder");
    }
    std::fs::write(at("app/.env"), "PORT=0\n").expect("a file");
    std::os::unix::fs::symlink(at("d"), at("link")).expect("a link");
    let read = |roots: &str| {
        let variables = [("DATA_ROOT", &*at("d")), ("LOG_DIR", &*at("logs")), ("BROKER_FILE_ROOTS", roots)];
        read_in(&folder.path().join("app"), &variables).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(read(&format!("{},{}", at("reports"), at("not-there-yet"))), Ok(()));
    for (root, what) in [
        (at("d"), "DATA_ROOT"),
        (at("d/state"), "DATA_ROOT"),
        (at("d/sessions/x"), "DATA_ROOT"),
        (at("link"), "DATA_ROOT"),
        (at("link/state"), "DATA_ROOT"),
        (at("logs"), "LOG_DIR"),
        (at("app"), ".env"),
        ("/".to_owned(), "DATA_ROOT"),
    ] {
        let told = read(&format!("{},{root}", at("reports"))).expect_err("refused");
        assert!(told.contains("BROKER_FILE_ROOTS opens ") && told.contains(what), "{root}: {told}");
        assert!(!told.contains("reports to every agent"), "{root}: {told}");
    }
}

#[test]
fn the_file_fills_what_the_environment_lacks() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "SLACK_BOT_TOKEN=xoxb-file\nPORT=4000\nLOG_LEVEL=warn\nGH_TOKEN=g\n";
    std::fs::write(folder.path().join(".env"), text).expect("written");
    let config = read_in(folder.path(), &[("PORT", "5000"), ("LOG_LEVEL", "")]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((config.port, config.log_level), (5000, Level::WARN));
    assert_eq!(config.slack.bot_token.expose_secret(), "xoxb-1-b");
    // What the agent may be given comes from both, and never one of the broker's own.
    assert_eq!(config.codex.env.get("GH_TOKEN").map(String::as_str), Some("g"));
    assert!(!config.codex.env.contains_key("SLACK_BOT_TOKEN"));

    std::fs::write(folder.path().join(".env"), "PORT=4000\nthis is wrong\n").expect("written");
    let told = read_in(folder.path(), &[("LOG_LEVEL", "loud")]).map(drop).expect_err("malformed").to_string();
    assert!(told.contains(".env, line 2: ") && told.contains("LOG_LEVEL is `loud`"), "{told}");
}

#[test]
fn the_codex_of_whoever_starts_the_broker_is_never_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("home/.codex");
    std::fs::create_dir_all(&own).expect("made");
    std::os::unix::fs::symlink(&own, folder.path().join("link")).expect("linked");
    let home = folder.path().join("home");
    let home = home.to_str().expect("UTF-8");
    for place in ["home/.codex", "link", "home/x/../.codex/"] {
        let error = read_in(folder.path(), &[("HOME", home), ("CODEX_HOME", place)]).err().expect("it is refused");
        let text = error.to_string();
        assert!(text.contains("CODEX_HOME") && text.contains("CODEX_AUTH_JSON_PATH"), "{text}");
    }
    read_in(folder.path(), &[("HOME", home), ("CODEX_HOME", "home/codex")]).expect("another folder");
}
