//! Trying the sandbox: one small command under the agent's own rules.

use std::path::PathBuf;
use std::time::Duration;

use broker_core::health::PartHealth;

use crate::config::SandboxMode;
use crate::process::{Launch, private_folder};
use crate::profile::{NAME, Profile, WORKSPACE};
use crate::wire::clip;

/// How long the trial may take; measured: 0.05 to 0.07 s.
const LIMIT: Duration = Duration::from_secs(10);

/// What the command says when it could read what it must not.
const LEAK: &str = "the-sandbox-leaks";

const MEND: &str = "allow unprivileged user namespaces (in a container: --security-opt seccomp=unconfined or a profile \
                    that permits them; on Debian: sysctl kernel.unprivileged_userns_clone=1; on Ubuntu: sysctl \
                    kernel.apparmor_restrict_unprivileged_userns=0), install bubblewrap, or set \
                    CODEX_SANDBOX=danger-full-access where the machine itself is the fence";

/// Whether commands are confined as configured.
pub(crate) async fn run(profile: &Profile, program: PathBuf) -> PartHealth {
    if profile.mode == SandboxMode::DangerFullAccess {
        return PartHealth::well()
            .remark("off: CODEX_SANDBOX=danger-full-access, so file rules and tokens protect nothing")
            .with("mode", profile.mode.as_str());
    }
    let health = match attempt(profile, program).await {
        Ok(()) => PartHealth::well(),
        Err(reason) => PartHealth::ill(format!("an agent's commands cannot run as configured ({reason}); {MEND}")),
    };
    health.with("mode", profile.mode.as_str())
}

async fn attempt(profile: &Profile, program: PathBuf) -> Result<(), String> {
    let (launch, hidden) = prepare(profile.clone(), program).await?;
    let output = launch.run(LIMIT).await.map_err(|error| error.to_string())?;
    if String::from_utf8_lossy(&output.stdout).contains(LEAK) {
        return Err(format!("a command could read {}, which is denied", hidden.display()));
    }
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(clip(last.trim()))
}

/// The command: in a workspace of its own below the state folder, it looks whether it can see a file beside that.
async fn prepare(profile: Profile, program: PathBuf) -> Result<(Launch, PathBuf), String> {
    let work = move || {
        let folder = profile.data_root.join("state/sandbox-trial");
        let (workspace, hidden) = (folder.join("session").join(WORKSPACE), folder.join("hidden"));
        private_folder(&workspace.join(".tmp"))?;
        std::fs::write(&hidden, "not for agents\n")?;
        let mut arguments = vec!["sandbox".into()];
        arguments.extend(profile.flags());
        arguments.extend(["-P".into(), NAME.into(), "-C".into()]);
        arguments.push(workspace.clone().into_os_string());
        let script = format!("if cat \"$1\" >/dev/null 2>&1; then echo {LEAK}; fi");
        arguments.extend(["--".into(), "/bin/sh".into(), "-c".into(), script.into(), "sh".into()]);
        arguments.push(hidden.clone().into_os_string());
        let env = profile.codex_env().clone();
        Ok((Launch { program, arguments, env, cwd: workspace }, hidden))
    };
    let prepared: std::io::Result<_> = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    prepared.map_err(|error| format!("the trial's folder cannot be made: {error}"))
}
