//! The real Codex program, the native one of its npm package.
//!
//! `CODEX_BIN_FOR_TESTS` names it; otherwise the package is installed below the target folder, once. Without npm the tests
//! fail, unless `BROKER_TEST_NO_CODEX=1` says that one knows: then they say that they are skipped, and pass.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::OnceCell;

/// The version that the broker is built for.
pub const VERSION: &str = "0.169.0";
/// A download of some hundred megabytes on a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

static PATH: OnceCell<Option<PathBuf>> = OnceCell::const_new();

/// The program; `None` when the tests are to be skipped.
///
/// # Panics
///
/// When it is not there and cannot be installed.
pub async fn path() -> Option<PathBuf> {
    PATH.get_or_init(find).await.clone()
}

async fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CODEX_BIN_FOR_TESTS") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "CODEX_BIN_FOR_TESTS names {}, which is no file", named.display());
        return Some(named);
    }
    if std::env::var_os("BROKER_TEST_NO_CODEX").is_some_and(|value| value == "1") {
        return None;
    }
    let folder = target_folder().join(format!("codex-{VERSION}"));
    fs::create_dir_all(&folder).expect("a folder below target/");
    // Test programs may run beside each other; one installs, the others wait. Dropping the file gives the lock up.
    let lock = folder.join(".lock");
    let _lock = tokio::task::spawn_blocking(move || {
        let file = File::create(lock).expect("a lock file below target/");
        file.lock().expect("a lock below target/");
        file
    })
    .await
    .expect("the lock");
    if let Some(native) = native(&folder) {
        return Some(native);
    }
    install(&folder).await;
    let native = native(&folder);
    assert!(
        native.is_some(),
        "npm installed @openai/codex {VERSION}, and no native program is in it for this platform"
    );
    native
}

async fn install(folder: &Path) {
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error", "--prefix"])
        .arg(folder)
        .arg(format!("@openai/codex@{VERSION}"))
        .kill_on_drop(true);
    let hint = "install Node with npm, name the program in CODEX_BIN_FOR_TESTS, or leave these tests out with \
                BROKER_TEST_NO_CODEX=1";
    match tokio::time::timeout(INSTALL_LIMIT, npm.output()).await {
        Ok(Ok(output)) if output.status.success() => {}
        Ok(Ok(output)) => {
            panic!("npm could not install @openai/codex {VERSION}: {}; {hint}", String::from_utf8_lossy(&output.stderr))
        }
        Ok(Err(error)) => {
            panic!("the end-to-end tests need @openai/codex {VERSION}, and npm does not run ({error}); {hint}")
        }
        Err(_) => panic!("npm did not install @openai/codex {VERSION} within {INSTALL_LIMIT:?}; {hint}"),
    }
}

/// `node_modules/@openai/codex-<platform>/vendor/<triple>/bin/codex`.
fn native(folder: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(folder.join("node_modules/@openai")).ok()?;
    let vendors = packages.flatten().filter_map(|package| fs::read_dir(package.path().join("vendor")).ok());
    vendors.flatten().flatten().map(|triple| triple.path().join("bin/codex")).find(|path| path.is_file())
}

/// The target folder that this test program was built in.
///
/// # Panics
///
/// When the program was copied elsewhere.
pub fn target_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let tagged = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    tagged.expect("a test program below cargo's target folder").to_owned()
}
