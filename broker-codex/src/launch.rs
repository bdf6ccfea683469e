//! Finding the Codex program.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Why there is no program to start, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("there is no `{0}` on the PATH; install Codex (npm install -g @openai/codex) or set CODEX_BIN")]
    NotOnPath(String),
    #[error("{path} cannot be read ({reason}); set CODEX_BIN to the native codex program")]
    Unreadable { path: PathBuf, reason: String },
    #[error(
        "{0} is the npm wrapper and the native program that belongs to it was not found; install @openai/codex again \
         or set CODEX_BIN to the native codex program"
    )]
    NoNative(PathBuf),
}

/// The native program behind `bin`: a path, or a name on the search path `path`.
///
/// The wrapper of the npm package is a Node script that starts the native program as its child, and leaves it behind
/// when it is killed. So the native one is started instead. Blocks on the disk.
pub(crate) fn find(bin: &Path, path: Option<&str>) -> Result<PathBuf, LaunchError> {
    let found = on_path(bin, path)?;
    let wrong = |error: std::io::Error| LaunchError::Unreadable { path: found.clone(), reason: error.to_string() };
    if found.is_dir() {
        return Err(wrong(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
    }
    let mut head = Vec::new();
    std::fs::File::open(&found).and_then(|file| file.take(4096).read_to_end(&mut head)).map_err(wrong)?;
    if !is_node_script(&found, &head) {
        return Ok(found);
    }
    native_of(&found).ok_or(LaunchError::NoNative(found))
}

fn on_path(bin: &Path, path: Option<&str>) -> Result<PathBuf, LaunchError> {
    if bin.components().count() > 1 || bin.is_absolute() {
        return Ok(bin.to_path_buf());
    }
    let folders = std::env::split_paths(path.unwrap_or("/usr/local/bin:/usr/bin:/bin"));
    let mut candidates = folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(bin));
    candidates
        .find(|candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file())
        .ok_or_else(|| LaunchError::NotOnPath(bin.display().to_string()))
}

/// npm links to the script itself; pnpm and yarn put a shell script before it that calls node.
fn is_node_script(path: &Path, head: &[u8]) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if matches!(real.extension().and_then(OsStr::to_str), Some("js" | "cjs" | "mjs")) {
        return true;
    }
    let text = String::from_utf8_lossy(head);
    text.starts_with("#!")
        && (text.lines().next().is_some_and(|line| line.contains("node")) || text.contains("@openai/codex"))
}

/// The native program in the npm packages around a wrapper. The package of the platform lies below the main one or
/// beside it.
fn native_of(wrapper: &Path) -> Option<PathBuf> {
    let real = wrapper.canonicalize().ok()?;
    let own_package = real.parent().and_then(Path::parent).map(Path::to_path_buf);
    // `node_modules/.bin/codex` of a package manager that writes a script there instead of a link.
    let linked = wrapper.parent().and_then(Path::parent).map(|modules| modules.join("@openai/codex"));
    let packages = own_package.into_iter().chain(linked.and_then(|path| path.canonicalize().ok()));
    packages.flat_map(|package| beside(&package)).find_map(|place| in_vendor(&place))
}

fn beside(package: &Path) -> Vec<PathBuf> {
    let mut places = vec![package.to_path_buf()];
    for folder in [Some(package.join("node_modules/@openai")), package.parent().map(Path::to_path_buf)] {
        let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
        let of_codex = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("codex-"));
        places.extend(of_codex.map(|entry| entry.path()));
    }
    places
}

/// `vendor/<target triple>/bin/codex`, for this machine's architecture.
fn in_vendor(package: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(package.join("vendor")).ok()?.flatten();
    let ours = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with(std::env::consts::ARCH)
            && name.contains(if cfg!(target_os = "macos") { "apple" } else { "linux" })
    });
    ours.flat_map(|entry| [entry.path().join("bin/codex"), entry.path().join("codex/codex")])
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(path, text).expect("file");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }

    fn triple() -> String {
        let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-musl" };
        format!("{}-{system}", std::env::consts::ARCH)
    }

    #[test]
    fn the_wrapper_stands_for_the_native_program() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path().canonicalize().expect("a path");
        let script = root.join("node_modules/@openai/codex/bin/codex.js");
        write(&script, "#!/usr/bin/env node\n");
        std::fs::create_dir_all(root.join("node_modules/.bin")).expect("folder");
        let link = root.join("node_modules/.bin/codex");
        std::os::unix::fs::symlink(&script, &link).expect("link");
        assert_eq!(find(&link, None), Err(LaunchError::NoNative(link.clone())));

        let native = root.join(format!("node_modules/@openai/codex-x/vendor/{}/bin/codex", triple()));
        write(&native, "\x7fELF");
        assert_eq!(find(&link, None), Ok(native.clone()));
        let bin = root.join("node_modules/.bin").display().to_string();
        assert_eq!(find(Path::new("codex"), Some(&bin)), Ok(native.clone()));
        assert_eq!(find(&native, None), Ok(native.clone()));

        std::fs::remove_file(&link).expect("unlinked");
        write(&link, "#!/bin/sh\nexec node \"$basedir/../@openai/codex/bin/codex.js\" \"$@\"\n");
        assert_eq!(find(&link, None), Ok(native));
    }

    #[test]
    fn what_is_missing_is_named_with_its_mend() {
        let error = find(Path::new("codex"), Some("/nowhere")).expect_err("not there");
        assert!(error.to_string().contains("CODEX_BIN"));
        let error = find(Path::new("/nowhere/codex"), None).expect_err("not there");
        assert!(error.to_string().contains("CODEX_BIN"));
        assert!(find(Path::new("/tmp"), None).is_err());
    }

    #[test]
    fn a_shell_script_of_the_operator_is_taken_as_it_is() {
        let root = tempfile::tempdir().expect("a folder");
        let script = root.path().join("codex");
        write(&script, "#!/bin/sh\nexec /opt/codex \"$@\"\n");
        assert_eq!(find(&script, None), Ok(script.clone()));
    }
}
