//! What an agent's commands can reach, in Codex's words.
//!
//! The permission profile `broker` is defined on the command line of the app-server and named in every start and resume
//! of a thread. Measured with Codex 0.169.0 on Linux, where commands run in bubblewrap:
//!
//! * `sandbox` beside `permissions` silently drops the profile, so it is never sent with it;
//! * a resume under a process that does not define the profile comes back with *full access* and no error, so the
//!   answer's `activePermissionProfile` is checked each time;
//! * defining profiles without `default_permissions` keeps the app-server from starting;
//! * below a denied folder only what is writable is opened again. What shall be read-only there has to lie in something
//!   writable. Therefore the agent's HOME is `runtime-home/home`, read-only, in `runtime-home`, which is writable (and
//!   of no use to anybody); and a read-only workspace lies in a writable session folder;
//! * `TMPDIR` of the app-server may not lie in a denied folder, or its sandbox helpers fail; `/tmp` "deny" breaks the
//!   sandbox when Codex itself lies there, "read" does not;
//! * denied paths need not exist, but nothing may be denied a second time below what is denied already.
//!
//! HOME is read-only for the agent on purpose: the sessions share it, and Codex itself, outside the sandbox, reads
//! `.gitconfig` and skills from it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use broker_core::access::SessionApi;
use serde_json::{Map, Value, json};

use crate::config::{CodexConfig, SandboxMode, StartError};
use crate::environment::{self, MARK, Places};

/// The name of our profile.
pub(crate) const NAME: &str = "broker";

/// What the folder of a workspace is called; in a read-only session the profile has to name it.
pub(crate) const WORKSPACE: &str = "workspace";

/// Where people keep keys, below their home folder.
const KEYS: [&str; 6] = [".ssh", ".aws", ".gnupg", ".config/gh", ".netrc", ".codex"];

/// Folders of the data root that are denied in read-only mode even before they exist.
const ROOMS: [&str; 4] = ["state", "codex-home", "sessions", "logs"];

/// Settings of every process, whatever the operator's config.toml says.
const SETTINGS: [&str; 16] = [
    // Code of our own choosing only: no plugin market, no apps, no update check, nothing sent anywhere.
    "features.plugins=false",
    "features.remote_plugin=false",
    "features.apps=false",
    "features.tool_suggest=false",
    "check_for_update_on_startup=false",
    "analytics.enabled=false",
    "feedback.enabled=false",
    // One agent per thread; sub-agents would have threads that no session knows.
    "agents.enabled=false",
    // What one thread's agent notes, another thread's people must not find.
    "features.memories=false",
    // The bundled skills lie in CODEX_HOME, which the agent cannot read.
    "skills.bundled.enabled=false",
    // A login shell would run the profile of the account that the broker runs under.
    "allow_login_shell=false",
    "features.shell_snapshot=false",
    // With a connection that is refused, a turn would otherwise be retried for ever.
    "features.unbounded_connection_retries=false",
    // The keyring of a desktop is neither there nor ours.
    "cli_auth_credentials_store=\"file\"",
    "shell_environment_policy.inherit=\"core\"",
    // Without it `bash -c` takes itself for a login from afar and reads ~/.bashrc.
    "shell_environment_policy.set.SHLVL=\"1\"",
];

/// The configuration, with its folders resolved: sandbox rules are about real paths.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) mode: SandboxMode,
    pub(crate) data_root: PathBuf,
    pub(crate) codex_home: PathBuf,
    /// HOME of Codex and of the agent's commands.
    pub(crate) home: PathBuf,
    /// TMPDIR of Codex.
    pub(crate) tmp: PathBuf,
    runtime_home: PathBuf,
    sessions_root: PathBuf,
    repos_root: PathBuf,
    denied: Vec<PathBuf>,
    network: bool,
    approval: &'static str,
    /// Variables of the agent's commands, beside ours.
    agent_env: BTreeMap<String, String>,
    codex_env: BTreeMap<String, String>,
}

impl Profile {
    /// Makes the folders and reads the configuration into a profile. Blocks on the disk.
    pub(crate) fn prepare(config: &CodexConfig) -> Result<Self, StartError> {
        let data_root = folder(&config.data_root)?;
        folder(&config.data_root.join("state"))?;
        let runtime_home = folder(&config.runtime_home)?;
        let home = folder(&runtime_home.join("home"))?;
        let tmp = folder(&runtime_home.join("tmp"))?;
        let codex_home = folder(&config.codex_home)?;
        let operator = config.operator_home.iter().flat_map(|home| KEYS.iter().map(|key| home.join(key)));
        let sockets = doors(config);
        let denied = config.denied.iter().cloned().chain(operator).chain(sockets).map(|path| real(&path)).collect();
        let places = Places { data_root: &data_root, codex_home: &codex_home, home: &home, tmp: &tmp };
        let patterns: Vec<_> = config.pass_env.iter().chain(&config.agent_pass_env).cloned().collect();
        let codex_env = environment::of_codex(&config.env, &patterns, &places);
        let profile = Self {
            mode: config.sandbox,
            network: config.network,
            approval: config.approval_policy.as_str(),
            agent_env: environment::named(&config.env, &config.agent_pass_env),
            sessions_root: given(&config.sessions_root)?,
            repos_root: given(&config.repos_root)?,
            data_root,
            codex_home,
            home,
            tmp,
            runtime_home,
            denied,
            codex_env,
        };
        profile.check_paths()?;
        Ok(profile)
    }

    fn check_paths(&self) -> Result<(), StartError> {
        let ours = [&self.data_root, &self.codex_home, &self.runtime_home, &self.sessions_root, &self.repos_root];
        match ours.into_iter().chain(&self.denied).find(|path| path.to_str().is_none()) {
            Some(path) => Err(StartError::Path { path: path.clone() }),
            None => Ok(()),
        }
    }

    /// The environment of the app-server.
    pub(crate) fn codex_env(&self) -> &BTreeMap<String, String> {
        &self.codex_env
    }

    /// The `-c` flags, the same for the app-server and for `codex sandbox`. Blocks on the disk.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let mut settings: Vec<String> = SETTINGS.iter().map(|setting| (*setting).to_owned()).collect();
        if self.mode != SandboxMode::DangerFullAccess {
            settings.push(format!("default_permissions={}", quote(NAME)));
            settings.push(format!("permissions.{NAME}={}", self.definition()));
        }
        settings.into_iter().flat_map(|setting| [OsString::from("-c"), OsString::from(setting)]).collect()
    }

    /// The profile as a TOML inline table.
    fn definition(&self) -> String {
        let mut rules: BTreeMap<PathBuf, &str> = BTreeMap::new();
        // Outside the data root by choice of the operator, or inside it: denied either way.
        for path in [&self.codex_home, &self.sessions_root].into_iter().chain(&self.denied) {
            rules.insert(path.clone(), "deny");
        }
        let (kind, roots, special) = if self.mode == SandboxMode::ReadOnly {
            rules.extend(self.rooms().into_iter().map(|path| (path, "deny")));
            let own = format!(r#"":workspace_roots"={{"."="write","{WORKSPACE}"="read","{WORKSPACE}/.tmp"="write"}}"#);
            (":read-only", String::new(), format!(r#"":slash_tmp"="read",{own}"#))
        } else {
            rules.insert(self.data_root.clone(), "deny");
            rules.insert(self.runtime_home.clone(), "write");
            rules.insert(self.home.clone(), "read");
            rules.insert(self.tmp.clone(), "read");
            let roots = format!("workspace_roots={{{}=true}},", path_key(&self.repos_root));
            (":workspace", roots, r#"":slash_tmp"="read""#.to_owned())
        };
        let mut text = format!("{{extends={},{roots}filesystem={{", quote(kind));
        for (path, access) in rules.iter().filter(|(path, _)| !self.is_covered(path, &rules)) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}={},", path_key(path), quote(access));
        }
        let _ = write!(text, "{special}}},network={{enabled={}}}}}", self.network);
        text
    }

    /// Whether a rule denies what a folder above already denies, with nothing opened in between. The sandbox cannot be
    /// set up with such a rule: it would have to make a folder in one that it has just closed.
    fn is_covered(&self, path: &Path, rules: &BTreeMap<PathBuf, &str>) -> bool {
        if rules.get(path) != Some(&"deny") {
            return false;
        }
        let next = path.ancestors().skip(1).find_map(|above| {
            let opened = *above == *self.repos_root && self.mode != SandboxMode::ReadOnly;
            if opened { Some("write") } else { rules.get(above).copied() }
        });
        next == Some("deny")
    }

    /// What lies in the data root, one by one, without what a read-only agent may read. The data root as a whole cannot
    /// be denied there: a read-only folder below it could not be opened again.
    fn rooms(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.data_root).into_iter().flatten().flatten().map(|entry| entry.path());
        let known = ROOMS.iter().map(|room| self.data_root.join(room));
        let open = [&self.repos_root, &self.runtime_home];
        entries.chain(known).filter(|path| !open.iter().any(|open| open.starts_with(path))).collect()
    }

    /// What names the profile (or the lack of one) in a start or resume of a thread.
    pub(crate) fn thread_params(&self, workspace: &Path) -> Map<String, Value> {
        let mut params = Map::new();
        params.insert("cwd".to_owned(), json!(workspace));
        params.insert("approvalPolicy".to_owned(), json!(self.approval));
        match self.mode {
            SandboxMode::DangerFullAccess => {
                params.insert("sandbox".to_owned(), json!("danger-full-access"));
            }
            SandboxMode::WorkspaceWrite => {
                params.insert("permissions".to_owned(), json!(NAME));
            }
            SandboxMode::ReadOnly => {
                params.insert("permissions".to_owned(), json!(NAME));
                params.insert("runtimeWorkspaceRoots".to_owned(), json!([workspace.parent().unwrap_or(workspace)]));
            }
        }
        params
    }

    /// The configuration of one thread. It is not kept by Codex, so it goes with every start and resume.
    pub(crate) fn thread_config(&self, workspace: &Path, mcp_servers: &[String], api: Option<&SessionApi>) -> Value {
        let tmp = workspace.join(".tmp");
        let mut set: Map<String, Value> =
            self.agent_env.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        // Programs that keep downloads in HOME find it read-only; each session has a cache of its own instead.
        for (name, folder) in [("XDG_CACHE_HOME", "cache"), ("CARGO_HOME", "cargo"), ("npm_config_cache", "npm")] {
            set.entry(name).or_insert_with(|| json!(tmp.join(folder)));
        }
        set.insert("SHLVL".to_owned(), json!("1"));
        set.insert("HOME".to_owned(), json!(self.home));
        set.insert("TMPDIR".to_owned(), json!(tmp));
        set.insert(MARK.to_owned(), json!(self.data_root));
        if let Some(SessionApi { base, token }) = api.filter(|_| self.reaches_network()) {
            set.insert("BROKER_API_BASE".to_owned(), json!(base));
            set.insert("BROKER_TOKEN".to_owned(), json!(token.expose()));
        }
        let off = mcp_servers.iter().map(|name| (name.clone(), json!({"enabled": false}))).collect::<Map<_, _>>();
        let mut config = json!({
            // Else a repository's own .codex/config.toml is read, and the programs that it names are started.
            "projects": {workspace.to_string_lossy(): {"trust_level": "untrusted"}},
            "allow_login_shell": false,
            "shell_environment_policy": {"inherit": "core", "set": set},
        });
        if !off.is_empty() {
            config["mcp_servers"] = Value::Object(off);
        }
        config
    }

    /// Whether the agent's commands reach anything beside their files.
    fn reaches_network(&self) -> bool {
        self.network || self.mode == SandboxMode::DangerFullAccess
    }

    /// Whether a thread that was opened is confined as configured; what is wrong otherwise.
    pub(crate) fn check(&self, active: Option<&str>) -> Result<(), String> {
        match (self.mode, active) {
            (SandboxMode::DangerFullAccess, _) => Ok(()),
            (_, Some(NAME)) => Ok(()),
            (_, other) => Err(format!(
                "Codex opened the thread under the permissions `{}` and not under ours; nothing was given to it. Look \
                 for `permissions` and requirements in its configuration, and at its version",
                other.unwrap_or("none")
            )),
        }
    }
}

/// Where sockets lie through which a command could have something done outside of the sandbox, or with the operator's keys.
///
/// With the network on, the sandbox lets a command connect to any Unix socket that it can see (measured with 0.169.0); of
/// these paths it sees nothing. Abstract sockets have no path and stay reachable.
fn doors(config: &CodexConfig) -> Vec<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let mut doors = vec![PathBuf::from(format!("/run/user/{uid}"))];
    doors.extend(["/run/docker.sock", "/run/podman", "/run/containerd", "/run/dbus"].map(PathBuf::from));
    let folders = ["XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"].into_iter().filter_map(|name| {
        // What the operator passes on to the agent is meant to be used by it.
        let passed = config.agent_pass_env.iter().any(|pattern| pattern.matches(name));
        let path = PathBuf::from(config.env.get(name).filter(|path| !path.is_empty() && !passed)?);
        if name == "SSH_AUTH_SOCK" { path.parent().map(Path::to_path_buf) } else { Some(path) }
    });
    // A socket right in a shared folder does not close the whole folder.
    let shared = ["/", "/tmp", "/run", "/var/run", "/var/tmp", "/home"].map(Path::new);
    doors.extend(folders.filter(|path| path.is_absolute() && !shared.contains(&path.as_path())));
    doors
}

/// A folder that is ours: made when missing, and closed to everybody else.
fn folder(path: &Path) -> Result<PathBuf, StartError> {
    let failed = |source| StartError::Folder { path: path.to_path_buf(), source };
    crate::process::private_folder(path).and_then(|()| path.canonicalize()).map_err(failed)
}

/// A folder that may be the operator's: made when missing, and left alone when it is there.
fn given(path: &Path) -> Result<PathBuf, StartError> {
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        _ => folder(path),
    }
}

/// The real path of something that need not exist: as much of it as does.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    for top in absolute.ancestors() {
        if let (Ok(real), Ok(rest)) = (top.canonicalize(), absolute.strip_prefix(top)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    absolute
}

fn path_key(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(char);
            }
            char if char.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use broker_core::access::{InstallKey, KEY_BYTES};
    use broker_core::store::SessionId;

    use super::*;

    fn profile(mode: SandboxMode) -> Profile {
        let root = PathBuf::from("/data");
        Profile {
            mode,
            network: true,
            approval: "never",
            codex_home: root.join("codex-home"),
            home: root.join("runtime-home/home"),
            tmp: root.join("runtime-home/tmp"),
            runtime_home: root.join("runtime-home"),
            sessions_root: root.join("sessions"),
            repos_root: root.join("repos"),
            denied: vec![PathBuf::from("/srv/.env"), PathBuf::from("/home/op/.ssh")],
            agent_env: BTreeMap::from([("GH_TOKEN".to_owned(), "t".to_owned())]),
            codex_env: BTreeMap::new(),
            data_root: root,
        }
    }

    #[test]
    fn the_profile_denies_the_data_root_and_opens_what_is_the_agents() {
        let expected = concat!(
            r#"{extends=":workspace",workspace_roots={"/data/repos"=true},filesystem={"/data"="deny","#,
            r#""/data/runtime-home"="write","/data/runtime-home/home"="read","/data/runtime-home/tmp"="read","#,
            r#""/home/op/.ssh"="deny","/srv/.env"="deny",":slash_tmp"="read"},network={enabled=true}}"#
        );
        assert_eq!(profile(SandboxMode::WorkspaceWrite).definition(), expected);
    }

    #[test]
    fn what_a_denied_folder_covers_is_not_denied_again_and_what_lies_elsewhere_is() {
        let mut profile = profile(SandboxMode::WorkspaceWrite);
        profile.codex_home = PathBuf::from("/srv/codex");
        profile.sessions_root = PathBuf::from("/srv/sessions");
        profile.denied = ["/data/x/.env", "/data/repos/private", "/srv/sessions/y"].map(PathBuf::from).into();
        let text = profile.definition();
        for rule in ["\"/srv/codex\"", "\"/srv/sessions\"", "\"/data/repos/private\""] {
            assert!(text.contains(&format!("{rule}=\"deny\"")), "{rule} in {text}");
        }
        assert!(!text.contains("/data/x/.env") && !text.contains("/srv/sessions/y"), "{text}");
    }

    #[test]
    fn the_read_only_profile_denies_room_by_room() {
        let expected = concat!(
            r#"{extends=":read-only",filesystem={"/data/codex-home"="deny","/data/logs"="deny","#,
            r#""/data/sessions"="deny","/data/state"="deny","/home/op/.ssh"="deny","/srv/.env"="deny","#,
            r#"":slash_tmp"="read",":workspace_roots"={"."="write","workspace"="read","workspace/.tmp"="write"}},"#,
            r#"network={enabled=true}}"#
        );
        assert_eq!(profile(SandboxMode::ReadOnly).definition(), expected);
    }

    #[test]
    fn every_thread_names_the_profile_and_never_a_sandbox_beside_it() {
        let workspace = Path::new("/data/sessions/a/workspace");
        let params = profile(SandboxMode::WorkspaceWrite).thread_params(workspace);
        assert_eq!(
            Value::Object(params),
            json!({"cwd": workspace, "approvalPolicy": "never", "permissions": "broker"})
        );
        let params = profile(SandboxMode::ReadOnly).thread_params(workspace);
        assert_eq!(params["runtimeWorkspaceRoots"], json!(["/data/sessions/a"]));
        assert!(!params.contains_key("sandbox"));
        let danger = profile(SandboxMode::DangerFullAccess);
        let params = danger.thread_params(workspace);
        assert_eq!(params["sandbox"], "danger-full-access");
        assert!(!params.contains_key("permissions"));
        assert!(!danger.flags().iter().any(|flag| flag.to_string_lossy().contains("permissions")));
    }

    #[test]
    fn a_thread_is_untrusted_has_its_own_places_and_no_mcp_server() {
        let workspace = Path::new("/data/sessions/a/workspace");
        let config = profile(SandboxMode::WorkspaceWrite).thread_config(
            workspace,
            &["odd.na me".to_owned(), "b".to_owned()],
            None,
        );
        let expected = json!({
            "projects": {"/data/sessions/a/workspace": {"trust_level": "untrusted"}},
            "allow_login_shell": false,
            "mcp_servers": {"odd.na me": {"enabled": false}, "b": {"enabled": false}},
            "shell_environment_policy": {"inherit": "core", "set": {
                "GH_TOKEN": "t",
                "SHLVL": "1",
                "HOME": "/data/runtime-home/home",
                "TMPDIR": "/data/sessions/a/workspace/.tmp",
                "XDG_CACHE_HOME": "/data/sessions/a/workspace/.tmp/cache",
                "CARGO_HOME": "/data/sessions/a/workspace/.tmp/cargo",
                "npm_config_cache": "/data/sessions/a/workspace/.tmp/npm",
                "SCB_RUNTIME": "/data",
            }},
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn commands_that_reach_the_network_are_told_how_to_reach_the_broker() {
        let token = InstallKey::new([7; KEY_BYTES]).token(&"T1/C1:1.1".parse().unwrap(), &SessionId::new("s-1"), 1);
        let api = SessionApi { base: "http://127.0.0.1:3000".to_owned(), token: token.clone() };
        let workspace = Path::new("/data/sessions/a/workspace");
        let set = |profile: &Profile| {
            profile.thread_config(workspace, &[], Some(&api))["shell_environment_policy"]["set"].clone()
        };
        let open = profile(SandboxMode::WorkspaceWrite);
        assert_eq!(set(&open)["BROKER_API_BASE"], "http://127.0.0.1:3000");
        assert_eq!(set(&open)["BROKER_TOKEN"], token.expose());
        let closed = Profile { network: false, ..profile(SandboxMode::WorkspaceWrite) };
        assert_eq!((&set(&closed)["BROKER_API_BASE"], &set(&closed)["BROKER_TOKEN"]), (&Value::Null, &Value::Null));
        let danger = Profile { network: false, ..profile(SandboxMode::DangerFullAccess) };
        assert!(set(&danger)["BROKER_TOKEN"].is_string(), "nothing is closed there");
    }

    #[test]
    fn a_thread_under_other_permissions_is_refused() {
        let ours = profile(SandboxMode::WorkspaceWrite);
        assert!(ours.check(Some("broker")).is_ok());
        assert!(ours.check(Some(":workspace")).is_err());
        assert!(ours.check(None).is_err());
        assert!(profile(SandboxMode::DangerFullAccess).check(None).is_ok());
    }

    #[test]
    fn odd_paths_are_quoted() {
        assert_eq!(quote("/a \"b\"\\c\n"), r#""/a \"b\"\\c\u000A""#);
    }
}
