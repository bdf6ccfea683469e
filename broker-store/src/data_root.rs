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
    #[error(
        "the data root {path} is held by another broker{}: end that one first, or give this one a data root of its own",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Held {
        /// The data root.
        path: PathBuf,
        /// The holder, when its lock file names it.
        pid: Option<u32>,
    },
    /// A folder or the lock file cannot be made.
    #[error("the data root is not usable, {path}: {source}; the broker's user has to own it")]
    Unusable {
        /// What cannot be made or opened.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl DataRoot {
    /// Makes the folder and `state` below it when they are missing, closes them to everybody else, and takes the lock.
    /// Children of this process do not inherit it.
    ///
    /// # Errors
    ///
    /// [`DataRootError::Held`] when another broker has it, [`DataRootError::Unusable`] when a folder or the lock file cannot
    /// be made or is not ours.
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
                return Err(DataRootError::Held { path: path.to_owned(), pid: holder(&mut lock) });
            }
            Err(errno) => return Err(unusable(&lock_path, errno.into())),
        }
        name_holder(&mut lock).map_err(|source| unusable(&lock_path, source))?;
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

/// Writes our pid. The file is cut only after that, so that a second broker never finds it empty.
fn name_holder(lock: &mut File) -> io::Result<()> {
    let line = format!("{}\n", std::process::id());
    lock.write_all(line.as_bytes())?;
    lock.set_len(u64::try_from(line.len()).unwrap_or(u64::MAX))
}

/// The pid that the holder wrote.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.read_to_string(&mut text).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn unusable(path: &Path, source: io::Error) -> DataRootError {
    DataRootError::Unusable { path: path.to_owned(), source }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // It may have been there before, open to others.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    // What is committed below it must not be lost with the folder itself. Where the folder above may not be read, or its file
    // system cannot do this, there is nothing more to be had.
    let above = path.parent().filter(|above| *above != Path::new("")).unwrap_or(Path::new("."));
    let _ = File::open(above).and_then(|above| above.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_second_holder_learns_who_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let held = DataRoot::take(&path).unwrap();
        match DataRoot::take(&path) {
            Err(DataRootError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        let lock = path.join(LOCK);
        assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
        drop(held);
        // A pid that an earlier holder left, longer than ours.
        fs::write(&lock, "4000000000\nand more\n").unwrap();
        let _held = DataRoot::take(&path).unwrap();
        assert_eq!(fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
    }

    #[test]
    fn folders_are_private_also_those_that_were_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/data");
        fs::create_dir_all(path.join("state")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let root = DataRoot::take(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("state")), 0o700);
        assert_eq!(mode(&path.join(LOCK)), 0o600);
        assert_eq!((root.path(), root.database()), (path.as_path(), path.join("state/broker.sqlite")));
    }

    #[test]
    fn a_place_that_cannot_be_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let error = DataRoot::take(&path).unwrap_err();
        assert!(matches!(error, DataRootError::Unusable { .. }), "{error}");
    }
}
