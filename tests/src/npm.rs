//! Packages of npm that tests need, installed once below the target folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

/// A download of some hundred megabytes on a slow line.
const INSTALL_LIMIT: Duration = Duration::from_secs(600);

/// A package in the version that the tests are written for.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Its name, with its scope.
    pub name: &'static str,
    /// The exact version.
    pub version: &'static str,
    /// The file of it that is wanted, in the folder that npm was given as its prefix; none when it is not installed.
    pub find: fn(&Path) -> Option<PathBuf>,
    /// What to do on a machine without npm.
    pub hint: &'static str,
}

impl Package {
    /// The wanted file, installed when it is not there yet.
    ///
    /// # Panics
    ///
    /// When it cannot be installed.
    pub async fn installed(&self) -> PathBuf {
        let short = self.name.rsplit('/').next().unwrap_or(self.name);
        let folder = target_folder().join(format!("{short}-{}", self.version));
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
        if let Some(found) = (self.find)(&folder) {
            return found;
        }
        self.install(&folder).await;
        let found = (self.find)(&folder);
        found.unwrap_or_else(|| panic!("npm installed {self}, and what is wanted is not in it; {}", self.hint))
    }

    async fn install(&self, folder: &Path) {
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error", "--prefix"])
            .arg(folder)
            .arg(self.to_string())
            .kill_on_drop(true);
        let hint = self.hint;
        match tokio::time::timeout(INSTALL_LIMIT, npm.output()).await {
            Ok(Ok(output)) if output.status.success() => {}
            Ok(Ok(output)) => {
                panic!("npm could not install {self}: {}; {hint}", String::from_utf8_lossy(&output.stderr))
            }
            Ok(Err(error)) => panic!("these tests need {self}, and npm does not run ({error}); {hint}"),
            Err(_) => panic!("npm did not install {self} within {INSTALL_LIMIT:?}; {hint}"),
        }
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
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
