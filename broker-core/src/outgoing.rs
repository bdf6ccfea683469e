//! Files that an agent wants to post: which of them may go out, and the copy that does.
//!
//! Whatever asks is not trusted: an agent can be talked into anything by what it reads. So a path is opened first, and what the
//! descriptor says is checked, not what the path said: a regular file, with one name, inside one of the session's folders, not
//! looking like a secret. What was checked is then copied to a place that no agent reaches, and the copy is what is uploaded,
//! however often and however late: a file that is changed or deleted after the post was promised changes nothing.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

mod secret;
#[cfg(test)]
mod tests;

use secret::{no_secret_content, no_secret_name};

/// The largest file that is posted, in bytes: what Slack takes.
pub const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// How much of a file is copied before it is asked whether to go on, in bytes.
const STEP: u64 = 16 * 1024 * 1024;
/// The folder of the copies, below the sessions root. No session's folder begins with a dot.
const COPIES: &str = ".outgoing";

/// Why a file is not posted: for the agent, with what mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind of refusal: `not_found`, `not_allowed`, `not_a_file`, `secret`, `empty`, `too_large`, `busy`, `no_room` or
    /// `failed`.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}

fn refuse<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// A file that may go out, copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// Its name, as people see it.
    pub name: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// Where the copy stands.
    pub copy: PathBuf,
}

/// Where the copies stand.
pub fn folder(sessions_root: &Path) -> PathBuf {
    sessions_root.join(COPIES)
}

/// A file that may go out, before it is copied.
#[derive(Debug)]
pub struct Checked {
    file: File,
    name: String,
    bytes: u64,
    from: Source,
}

/// What a file is copied from.
#[derive(Debug)]
enum Source {
    /// Somewhere that agents reach: as it stood when it was checked.
    Reached(Standing),
    /// What came with a request: it stands there, and is moved.
    Received(PathBuf),
}

/// How a file stood at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    device: u64,
    inode: u64,
    names: u64,
    /// In seconds and nanoseconds: any new name, and any change, makes it another.
    changed: (i64, i64),
}

impl Standing {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            names: metadata.nlink(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the open file still stands so, under the name that it has now. At one look alone a name can be the file's while it
    /// is taken away again: the count of names falls before the name goes.
    fn holds(&self, file: &File) -> io::Result<bool> {
        let named = std::fs::symlink_metadata(place(file)?)?;
        Ok(Self::of(&named) == *self && Self::of(&file.metadata()?) == *self && self.names == 1)
    }
}

impl Checked {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes of the disk its copy takes that are not taken yet.
    pub fn needs(&self) -> u64 {
        match self.from {
            Source::Reached(_) => self.bytes,
            Source::Received(_) => 0,
        }
    }

    /// Copies it, for as long as `goes_on` says so. Nothing is left behind where that fails. Blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be copied, changes meanwhile, or is given up.
    pub fn copy(mut self, copy: &Path, goes_on: impl Fn() -> bool) -> Result<Pinned, Refusal> {
        let failed = |error: io::Error| Refusal {
            code: "failed",
            message: format!("the file could not be copied: {}", error.kind()),
        };
        let copied = match &self.from {
            Source::Received(received) => std::fs::rename(received, copy).map(|()| Some(self.bytes)),
            Source::Reached(seen) => copied(&mut self.file, self.bytes, copy, goes_on)
                .and_then(|copied| Ok(seen.holds(&self.file)?.then_some(copied))),
        };
        // The name has to be there after a power cut too: what was promised is posted from it.
        let copied = copied.and_then(|copied| {
            copy.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            Ok(copied)
        });
        match copied {
            Ok(Some(copied)) if copied == self.bytes => {
                Ok(Pinned { name: self.name, bytes: copied, copy: copy.to_owned() })
            }
            other => {
                // What is left behind is removed at the next start.
                let _ = std::fs::remove_file(copy);
                match other {
                    Ok(_) => refuse("failed", "the file changed while it was copied; try again when it is complete"),
                    Err(error) => Err(failed(error)),
                }
            }
        }
    }
}

/// Copies a file of so many bytes; of one that has more by now a byte more, and not all that a program goes on writing.
fn copied(file: &mut File, bytes: u64, copy: &Path, goes_on: impl Fn() -> bool) -> io::Result<u64> {
    let target = make(copy)?;
    let mut copied = 0;
    while goes_on() {
        let left = bytes.saturating_add(1).saturating_sub(copied);
        // Shared with the original where the file system can do that, until one of them changes.
        match io::copy(&mut file.take(left.min(STEP)), &mut &target)? {
            0 => {
                target.sync_data()?;
                return Ok(copied);
            }
            step => copied += step,
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Checks whether the file at a path may be posted. A relative path is one within `workspace`. Blocks.
///
/// # Errors
///
/// When it may not.
pub fn check(path: &str, workspace: &Path, roots: &[PathBuf]) -> Result<Checked, Refusal> {
    checked(&workspace.join(path), roots)
}

/// Checks whether a [received](Received) file may be posted as `name`. Its copy is made by moving it. Blocks.
///
/// # Errors
///
/// When it may not, or is gone.
pub fn check_received(received: &Path, name: &str) -> Result<Checked, Refusal> {
    no_secret_name(Path::new(name))?;
    let failed = |error: io::Error| Refusal {
        code: "failed",
        message: format!("what came with the request cannot be read: {}", error.kind()),
    };
    let mut file = File::open(received).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes == 0 {
        return refuse("empty", "the file is empty, which Slack does not take");
    }
    no_secret_content(&mut file).map_err(|error| error.unwrap_or_else(|| failed(io::ErrorKind::Other.into())))?;
    Ok(Checked { file, name: name.to_owned(), bytes, from: Source::Received(received.to_owned()) })
}

/// What has to be left on the disk once a file is written to it, in bytes: the store needs some.
pub const MIN_FREE: u64 = 256 * 1024 * 1024;

/// How many bytes the disk of a folder has left for the broker.
///
/// # Errors
///
/// When it cannot be told.
pub fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// A file that comes with a request, until the request is answered: then it is removed, unless it became the
/// copy that is posted.
#[derive(Debug)]
pub struct Received {
    path: PathBuf,
}

impl Received {
    /// Makes an empty one, for its content to be written into. Blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn make(sessions_root: &Path, id: &str) -> io::Result<(Self, File)> {
        let path = folder(sessions_root).join(format!("{id}.received"));
        let file = make(&path)?;
        Ok((Self { path }, file))
    }

    /// Where it stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the disk has room for more than it holds already. Blocks.
    pub fn has_room(&self) -> bool {
        let free = self.path.parent().map(free_bytes);
        !matches!(free, Some(Ok(free)) if free < MIN_FREE)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // It is somewhere else by now where it was taken. What cannot be removed is at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn make(copy: &Path) -> io::Result<File> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(folder) = copy.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(copy)
}

/// Opens a file and checks what was opened.
fn checked(asked: &Path, roots: &[PathBuf]) -> Result<Checked, Refusal> {
    // By the words alone: of what lies elsewhere nobody is told whether it exists.
    let plain = plain(asked);
    let within = |root: &&PathBuf| {
        // A root may be behind a link, and tools print where that leads.
        plain.starts_with(root) || root.canonicalize().is_ok_and(|real| plain.starts_with(real))
    };
    let Some(root) = roots.iter().find(within) else { return elsewhere() };
    // Before it is opened: opening a device may already do something.
    let first = match asked.canonicalize() {
        Ok(first) => first,
        // A link may lead elsewhere, where nobody is told what there is.
        Err(_) if has_link(root, asked) => return elsewhere(),
        Err(error) => return Err(not_opened(asked, &error)),
    };
    no_secret_name(&inside(&first, roots)?)?;
    no_secret_name(Path::new(asked.file_name().unwrap_or_default()))?;
    let metadata = std::fs::metadata(&first).map_err(|error| not_opened(asked, &error))?;
    if !metadata.is_file() {
        return refuse("not_a_file", "only regular files can be posted; make an archive of a folder first");
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&first)
        .map_err(|error| not_opened(asked, &error))?;
    // From here on only the descriptor counts: between two looks at a path it can become another file's.
    let metadata = file.metadata().map_err(|error| not_opened(asked, &error))?;
    if !metadata.is_file() {
        return refuse("not_a_file", "only regular files can be posted");
    }
    let real = place(&file).map_err(|error| not_opened(asked, &error))?;
    no_secret_name(&inside(&real, roots)?)?;
    if metadata.nlink() != 1 {
        return refuse(
            "not_allowed",
            "the file has several names (hard links), and one of them may lie elsewhere; copy it (`cp`) and post the copy",
        );
    }
    let bytes = metadata.len();
    if bytes == 0 {
        return refuse("empty", "the file is empty, which Slack does not take");
    }
    if bytes > MAX_BYTES {
        return refuse("too_large", "the file is larger than 1 GiB, which is the most");
    }
    no_secret_content(&mut file).map_err(|error| {
        error.unwrap_or_else(|| Refusal { code: "failed", message: "the file cannot be read".to_owned() })
    })?;
    let name = asked.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "file".to_owned());
    Ok(Checked { file, name, bytes, from: Source::Reached(Standing::of(&metadata)) })
}

/// A path without `.` and `..`, by its words alone.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

/// Whether a path goes over a link anywhere below a root.
fn has_link(root: &Path, path: &Path) -> bool {
    let below = path.ancestors().filter(|part| *part != root && !root.starts_with(part));
    below.into_iter().any(|part| part.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()))
}

fn not_opened(asked: &Path, error: &io::Error) -> Refusal {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    // What cannot be a file's name (a NUL in it, too long, below a file) is none, however often it is asked for.
    let none = matches!(error.kind(), NotFound | InvalidInput | InvalidFilename | NotADirectory);
    let code = if none { "not_found" } else { "failed" };
    Refusal { code, message: format!("`{}` cannot be opened: {}", asked.display(), error.kind()) }
}

/// Where an open file stands.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn place(file: &File) -> io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Where an open file stands.
#[cfg(target_vendor = "apple")]
fn place(file: &File) -> io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let path = rustix::fs::getpath(file)?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes())))
}

/// Where an open file stands: it cannot be told here, so none may go out.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn place(_file: &File) -> io::Result<PathBuf> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The path within the root that it is in.
fn inside(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, Refusal> {
    let within = |root: &PathBuf| path.strip_prefix(root.canonicalize().ok()?).ok().map(Path::to_owned);
    match roots.iter().find_map(within) {
        Some(within) => Ok(within),
        None => elsewhere(),
    }
}

fn elsewhere<T>() -> Result<T, Refusal> {
    refuse(
        "not_allowed",
        "only files of your workspace, of the shared repositories and images that you generated can be posted; copy the file \
         into your workspace first",
    )
}

/// Removes the copies that no post needs any more and that are older than this. Blocks.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn clean(sessions_root: &Path, needed: &[PathBuf], older: Duration) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder(sessions_root)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten().filter(|entry| !needed.contains(&entry.path())) {
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age < older) {
            continue;
        }
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, "a copy of a posted file could not be removed");
        }
    }
    Ok(())
}
