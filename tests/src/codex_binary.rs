//! The real Codex program, the native one of its npm package.
//!
//! `CODEX_BIN_FOR_TESTS` names it; otherwise the package is installed below the target folder, once. Without npm the tests
//! fail, unless `BROKER_TEST_NO_CODEX=1` says that one knows: then they say that they are skipped, and pass.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::sync::OnceCell;

use crate::npm::Package;

/// The version that the broker is built for.
pub const VERSION: &str = "0.169.0";

const PACKAGE: Package = Package {
    name: "@openai/codex",
    version: VERSION,
    find: native,
    hint: "install Node with npm, name the program in CODEX_BIN_FOR_TESTS, or leave these tests out with \
           BROKER_TEST_NO_CODEX=1",
};

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
    Some(PACKAGE.installed().await)
}

/// `node_modules/@openai/codex-<platform>/vendor/<triple>/bin/codex`.
fn native(folder: &Path) -> Option<PathBuf> {
    let packages = fs::read_dir(folder.join("node_modules/@openai")).ok()?;
    let vendors = packages.flatten().filter_map(|package| fs::read_dir(package.path().join("vendor")).ok());
    vendors.flatten().flatten().map(|triple| triple.path().join("bin/codex")).find(|path| path.is_file())
}
