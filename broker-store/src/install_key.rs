//! The key that the tokens of sessions are made from: a file in the data root, readable by the broker's user alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use broker_core::access::{InstallKey, KEY_BYTES};

use crate::data_root::DataRoot;

/// The file, below `state`, which no agent can read.
const FILE: &str = "install.key";
/// It is written under this name first, so that it is there whole or not at all.
const UNFINISHED: &str = "install.key.part";
/// What others may not do to it.
const OTHERS: u32 = 0o077;

/// Why there is no install key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No broker has run on this data root yet.
    #[error("there is no install key {path}: a broker makes it when it starts on this data root")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it, and so may have made tokens.
    #[error(
        "others may read or change the install key {path} (mode {mode:04o}): `chmod 600` it, or delete it when somebody may \
         have read it; the broker then makes another at its start, and tokens that were given out open nothing"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is no key.
    #[error(
        "{path} is not an install key ({what}): delete it; the broker then makes another at its start, and tokens that were \
         given out open nothing"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It cannot be made or read.
    #[error("the install key {path} cannot be made or read ({source}): check the disk, and who owns the file")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl DataRoot {
    /// The install key of this data root, which is made when there is none. Blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be made or read, is no key, or is open to others.
    pub fn install_key(&self) -> Result<InstallKey, KeyError> {
        let state = self.path().join("state");
        match read(&state) {
            Err(KeyError::Missing { path }) => {
                make(&state).map_err(|source| KeyError::Unusable { path, source })?;
                read(&state)
            }
            read => read,
        }
    }
}

/// The install key of a data root that another process may hold. Blocks.
///
/// # Errors
///
/// When there is none, it cannot be read, is no key, or is open to others.
pub fn read_install_key(data_root: &Path) -> Result<InstallKey, KeyError> {
    read(&data_root.join("state"))
}

fn read(state: &Path) -> Result<InstallKey, KeyError> {
    let path = state.join(FILE);
    let mut options = OpenOptions::new();
    // A link would be somebody else's doing, and opening a pipe would wait for its writer.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.read(true).custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    let unusable = |source: io::Error| match source.kind() {
        ErrorKind::NotFound => KeyError::Missing { path: path.clone() },
        _ => KeyError::Unusable { path: path.clone(), source },
    };
    let file = options.open(&path).map_err(unusable)?;
    // Of what was opened, not of what has the name by now.
    let found = file.metadata().map_err(unusable)?;
    if !found.is_file() {
        return Err(KeyError::Malformed { path, what: "it is no file" });
    }
    if found.mode() & OTHERS != 0 {
        return Err(KeyError::Open { path, mode: found.mode() & 0o7777 });
    }
    let mut bytes = Vec::with_capacity(KEY_BYTES + 1);
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unusable)?;
    match <[u8; KEY_BYTES]>::try_from(bytes) {
        Ok(key) => Ok(InstallKey::new(key)),
        Err(_) => Err(KeyError::Malformed { path, what: "it has to have 32 bytes" }),
    }
}

/// Makes the key. Whoever holds the data root is alone here; what a crash left unfinished is made anew.
fn make(state: &Path) -> io::Result<()> {
    let unfinished = state.join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&unfinished, state.join(FILE))?;
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use broker_core::store::SessionId;

    use super::*;

    fn root() -> (tempfile::TempDir, DataRoot) {
        let folder = tempfile::tempdir().unwrap();
        let root = DataRoot::take(&folder.path().join("data")).unwrap();
        (folder, root)
    }

    fn token(key: &InstallKey) -> String {
        key.token(&"T1/C1:1.1".parse().unwrap(), &SessionId::new("s-1"), 1).expose().to_owned()
    }

    #[test]
    fn it_is_made_once_and_closed_to_others() {
        let (_folder, root) = root();
        assert!(matches!(read_install_key(root.path()), Err(KeyError::Missing { .. })));
        // What a crash left.
        fs::write(root.path().join("state").join(UNFINISHED), "half").unwrap();
        let first = token(&root.install_key().unwrap());
        assert_eq!(token(&root.install_key().unwrap()), first);
        assert_eq!(token(&read_install_key(root.path()).unwrap()), first);
        let path = root.path().join("state").join(FILE);
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.len()), (0o600, 32));
        assert!(!root.path().join("state").join(UNFINISHED).exists());

        fs::remove_file(&path).unwrap();
        assert_ne!(token(&root.install_key().unwrap()), first, "another installation has another key");
    }

    #[test]
    fn one_that_others_may_read_is_refused_with_what_mends_it() {
        let (_folder, root) = root();
        root.install_key().unwrap();
        let path = root.path().join("state").join(FILE);
        for mode in [0o640, 0o604, 0o620, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = root.install_key().unwrap_err();
            assert!(matches!(error, KeyError::Open { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
            assert!(matches!(read_install_key(root.path()), Err(KeyError::Open { .. })));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_left_alone() {
        let (folder, root) = root();
        let path = root.path().join("state").join(FILE);
        for bytes in [&b""[..], &[1; 31], &[1; 33]] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(root.install_key(), Err(KeyError::Malformed { .. })));
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::remove_file(&path).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::write(&elsewhere, [1; 32]).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(matches!(root.install_key(), Err(KeyError::Unusable { .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(root.install_key(), Err(KeyError::Malformed { .. })));
    }
}
