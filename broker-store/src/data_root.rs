//! The folder that everything lives in, held by one broker at a time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The file whose lock says that a broker holds the data root. It names the holder's pid.
const LOCK: &str = "broker.lock";

/// A data root that this process holds. The operating system gives it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DataRoot {
    path: PathBuf,
    _lock: File,
}

/// Why a data root cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum DataRootError {
    /// Another broker holds it.
    #[error("the data root {path} is held by another broker{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held {
        /// The data root.
        path: PathBuf,
        /// The holder, when its lock file names it.
        pid: Option<u32>,
    },
    /// A folder or the lock file cannot be made.
    #[error("the data root {path} cannot be used: {source}; check that it exists and who owns it")]
    Unusable {
        /// What cannot be made or opened.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl DataRoot {
    /// Makes the folder and `state` below it when they are missing, closes them to everybody else, and takes the lock.
    ///
    /// # Errors
    ///
    /// [`DataRootError::Held`] when another broker has it.
    pub fn take(path: &Path) -> Result<Self, DataRootError> {
        for folder in [path, &path.join("state")] {
            private_folder(folder).map_err(|source| unusable(folder, source))?;
        }
        let lock_path = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(&lock_path).map_err(|source| unusable(&lock_path, source))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let pid = lock.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(DataRootError::Held { path: path.to_owned(), pid });
            }
            Err(errno) => return Err(unusable(&lock_path, errno.into())),
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .and_then(|()| lock.sync_all())
            .map_err(|source| unusable(&lock_path, source))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.path.join("state").join("broker.sqlite")
    }
}

fn unusable(path: &Path, source: io::Error) -> DataRootError {
    DataRootError::Unusable { path: path.to_owned(), source }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // It may have been there before, open to others.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_learns_who_is_the_first_and_folders_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let held = DataRoot::take(&path).unwrap();
        match DataRoot::take(&path) {
            Err(DataRootError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        for (what, mode) in [("", 0o700), ("state", 0o700), (LOCK, 0o600)] {
            let found = fs::metadata(path.join(what)).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{what}");
        }
        drop(held);
        DataRoot::take(&path).unwrap();
    }
}
