//! Files that an agent wants to post: which of them may go out, and the copy that does.
//!
//! Whatever asks is not trusted: an agent can be talked into anything by what it reads. So a path is opened first, and what the
//! descriptor says is checked, not what the path said: a regular file, with one name, inside one of the session's folders, not
//! looking like a secret. What was checked is then copied to a place that no agent reaches, and the copy is what is uploaded,
//! however often and however late: a file that is changed or deleted after the post was promised changes nothing.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

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
    /// Where it stands, when it need not be copied but may be moved.
    received: Option<PathBuf>,
}

impl Checked {
    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes of the disk its copy takes that are not taken yet.
    pub fn needs(&self) -> u64 {
        if self.received.is_some() { 0 } else { self.bytes }
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
        let copied = match &self.received {
            Some(received) => std::fs::rename(received, copy).map(|()| self.bytes),
            None => copied(&mut self.file, copy, goes_on),
        };
        // The name has to be there after a power cut too: what was promised is posted from it.
        let copied = copied.and_then(|copied| {
            copy.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
            Ok(copied)
        });
        match copied {
            Ok(copied) if copied == self.bytes => Ok(Pinned { name: self.name, bytes: copied, copy: copy.to_owned() }),
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

fn copied(file: &mut File, copy: &Path, goes_on: impl Fn() -> bool) -> io::Result<u64> {
    let target = make(copy)?;
    let mut copied = 0;
    while goes_on() {
        // Shared with the original where the file system can do that, until one of them changes.
        match io::copy(&mut file.take(STEP), &mut &target)? {
            0 => {
                target.sync_data()?;
                return Ok(copied);
            }
            step => copied += step,
        }
        if copied > MAX_BYTES {
            return Ok(copied);
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
    let (file, name, bytes) = checked(&workspace.join(path), roots)?;
    Ok(Checked { file, name, bytes, received: None })
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
    Ok(Checked { file, name: name.to_owned(), bytes, received: Some(received.to_owned()) })
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
fn checked(asked: &Path, roots: &[PathBuf]) -> Result<(File, String, u64), Refusal> {
    // By the words alone: of what lies elsewhere nobody is told whether it exists.
    let plain = plain(asked);
    let Some(root) = roots.iter().find(|root| plain.starts_with(root)) else { return elsewhere() };
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
    Ok((file, name, bytes))
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

/// Names within a root that say what is behind them. Examples and templates of such files are none.
fn no_secret_name(path: &Path) -> Result<(), Refusal> {
    const FOLDERS: [&str; 7] = [".ssh", ".aws", ".gnupg", ".codex", ".kube", ".docker", "gcloud"];
    // These hold addresses with tokens in them, and tokens.
    const PATHS: [&str; 2] = [".git/config", "gh/hosts.yml"];
    const COPIES: [&str; 7] = ["~", ".bak", ".backup", ".old", ".orig", ".save", ".swp"];
    const NAMES: [&str; 20] = [
        "auth.json",
        ".netrc",
        "_netrc",
        ".git-credentials",
        ".npmrc",
        ".pypirc",
        ".pgpass",
        "credentials",
        "credentials.json",
        ".credentials.json",
        "id_rsa",
        "id_dsa",
        "kubeconfig",
        ".dockercfg",
        ".envrc",
        ".my.cnf",
        ".vault-token",
        ".htpasswd",
        "credentials.toml",
        "application_default_credentials.json",
    ];
    const BEGINNINGS: [&str; 4] = ["id_ed25519", "id_ecdsa", "id_rsa", "ssh_host_"];
    const ENDINGS: [&str; 10] =
        [".pem", ".key", ".p12", ".pfx", ".keystore", ".kdbx", ".jks", ".ppk", ".kubeconfig", ".tfstate"];
    const HARMLESS: [&str; 5] = [".example", ".sample", ".template", ".dist", ".pub"];
    let lower = |name: &std::ffi::OsStr| name.to_string_lossy().to_lowercase();
    let whole = path.file_name().map(lower).unwrap_or_default();
    let mut name = whole.as_str();
    // A copy of it is as secret, and a copy of a copy.
    while let Some(of) = COPIES.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = of;
    }
    let in_folder = path
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .any(|part| FOLDERS.contains(&lower(part.as_os_str()).as_str()));
    let env = name == ".env" || name.starts_with(".env.") || name.ends_with(".env");
    let looks = env
        || NAMES.contains(&name)
        || PATHS.iter().any(|secret| path.ends_with(secret))
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDINGS.iter().any(|ending| name.ends_with(ending));
    if in_folder || (looks && !HARMLESS.iter().any(|ending| name.ends_with(ending))) {
        return secret(&whole);
    }
    Ok(())
}

/// A private key under whatever name. `None` is an error of reading.
fn no_secret_content(file: &mut File) -> Result<(), Option<Refusal>> {
    let mut head = Vec::new();
    file.take(4096).read_to_end(&mut head).map_err(|_| None)?;
    file.seek(SeekFrom::Start(0)).map_err(|_| None)?;
    let text = String::from_utf8_lossy(&head);
    let key =
        text.lines().take(40).any(|line| line.trim_start().starts_with("-----BEGIN ") && line.contains("PRIVATE KEY"));
    if key { secret("a private key").map_err(Some) } else { Ok(()) }
}

fn secret<T>(what: &str) -> Result<T, Refusal> {
    refuse("secret", format!("the file looks like a secret ({what}) and is not posted; never post secrets into Slack"))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Place {
        root: tempfile::TempDir,
        count: std::cell::Cell<u32>,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for name in ["workspace/sub", "repos", "outside/workspace"] {
                std::fs::create_dir_all(root.path().join(name)).unwrap();
            }
            Self { root, count: std::cell::Cell::new(0) }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.at(name), text).unwrap();
        }

        fn pin(&self, path: &str) -> Result<Pinned, Refusal> {
            self.count.set(self.count.get() + 1);
            let copy = folder(self.root.path()).join(self.count.get().to_string());
            check(path, &self.at("workspace"), &[self.at("workspace"), self.at("repos")])?.copy(&copy, || true)
        }

        #[track_caller]
        fn refused(&self, path: &str, code: &str) {
            let refusal = self.pin(path).unwrap_err();
            assert_eq!(refusal.code, code, "{path}: {refusal}");
        }
    }

    #[test]
    fn what_may_go_out_is_copied_and_a_later_change_changes_nothing() {
        let place = Place::new();
        place.write("workspace/sub/a.txt", "first");
        place.write("repos/b.txt", "b");
        let pinned = place.pin("sub/a.txt").unwrap();
        place.write("workspace/sub/a.txt", "second");
        assert_eq!((pinned.name.as_str(), pinned.bytes), ("a.txt", 5));
        assert_eq!(std::fs::read_to_string(&pinned.copy).unwrap(), "first");
        assert_eq!(pinned.copy.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(place.pin(place.at("repos/b.txt").to_str().unwrap()).is_ok());
        // A link that stays inside is as good as what it leads to.
        symlink(place.at("repos/b.txt"), place.at("workspace/link.txt")).unwrap();
        assert_eq!(place.pin("link.txt").unwrap().name, "link.txt");

        clean(place.root.path(), std::slice::from_ref(&pinned.copy), Duration::ZERO).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder(place.root.path())).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [pinned.copy]);
    }

    #[test]
    fn nothing_else_goes_out() {
        let place = Place::new();
        for name in ["outside/x", "outside/workspace/x", "workspace/x", "workspace/several"] {
            place.write(name, "x");
        }
        place.write("workspace/empty", "");
        symlink(place.at("outside/x"), place.at("workspace/link")).unwrap();
        symlink(place.at("outside"), place.at("workspace/linked")).unwrap();
        symlink("/dev/zero", place.at("workspace/zero")).unwrap();
        symlink(place.at("outside/missing"), place.at("workspace/dangling")).unwrap();
        symlink(place.at("workspace/loop"), place.at("workspace/loop")).unwrap();
        std::fs::hard_link(place.at("workspace/several"), place.at("outside/several")).unwrap();
        let fifo = place.at("workspace/fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let outside = place.at("outside/x");
        let long = "x".repeat(300);
        for (path, code) in [
            (outside.to_str().unwrap(), "not_allowed"),
            ("../outside/x", "not_allowed"),
            ("sub/../../outside/workspace/x", "not_allowed"),
            ("/etc/passwd", "not_allowed"),
            ("link", "not_allowed"),
            ("linked/x", "not_allowed"),
            ("zero", "not_allowed"),
            ("/dev/zero", "not_allowed"),
            ("/proc/self/environ", "not_allowed"),
            ("several", "not_allowed"),
            ("sub", "not_a_file"),
            ("fifo", "not_a_file"),
            ("empty", "empty"),
            ("missing", "not_found"),
            ("sub/missing/too", "not_found"),
            ("sub/../missing", "not_found"),
            // Of what lies elsewhere nobody is told whether it is there.
            ("../outside/missing", "not_allowed"),
            ("/etc/missing", "not_allowed"),
            ("dangling", "not_allowed"),
            ("linked/missing", "not_allowed"),
            ("linked/../missing", "not_allowed"),
            ("loop", "not_allowed"),
            ("x\0y", "not_found"),
            ("x/y", "not_found"),
            (long.as_str(), "not_found"),
        ] {
            place.refused(path, code);
        }
        let large = File::create(place.at("workspace/large")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        place.refused("large", "too_large");
    }

    #[test]
    fn what_came_with_a_request_is_moved_and_never_left_behind() {
        let place = Place::new();
        let copy = folder(place.root.path()).join("copy");
        let receive = |content: &str| {
            let (received, mut file) = Received::make(place.root.path(), "1").unwrap();
            std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
            received
        };
        for (name, content, code) in
            [("a.txt", "", "empty"), (".env", "x", "secret"), ("a", "-----BEGIN RSA PRIVATE KEY-----", "secret")]
        {
            let received = receive(content);
            assert_eq!(check_received(received.path(), name).unwrap_err().code, code, "{name}");
            drop(received);
        }
        let received = receive("abc");
        let pinned = check_received(received.path(), "a.txt").unwrap().copy(&copy, || true).unwrap();
        assert_eq!((pinned.name.as_str(), pinned.bytes), ("a.txt", 3));
        assert_eq!(check_received(received.path(), "a.txt").unwrap_err().code, "failed", "it is gone");
        drop(received);
        let left: Vec<_> = std::fs::read_dir(folder(place.root.path())).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, [copy]);
    }

    #[test]
    fn what_looks_like_a_secret_stays() {
        let place = Place::new();
        for folder in [".ssh", ".docker", ".git", "gh"] {
            std::fs::create_dir_all(place.at(&format!("workspace/{folder}"))).unwrap();
        }
        for name in [
            ".env.bak",
            "id_rsa~",
            "server.pem.old.bak",
            "kubeconfig",
            "prod.kubeconfig",
            ".envrc",
            "release.jks",
            "terraform.tfstate.backup",
            ".docker/config.json",
            ".git/config",
            "gh/hosts.yml",
            ".env",
            ".env.production",
            "prod.env",
            "server.pem",
            "SERVER.PEM",
            "tls.key",
            "auth.json",
            "id_rsa",
            "id_ed25519",
            ".netrc",
            ".ssh/config",
        ] {
            place.write(&format!("workspace/{name}"), "x");
            place.refused(name, "secret");
        }
        place.write("workspace/notes.txt", "  key: |\n    -----BEGIN OPENSSH PRIVATE KEY-----\n    abc\n");
        place.refused("notes.txt", "secret");
        // Under another name it is the same file.
        symlink(place.at("workspace/.env"), place.at("workspace/harmless.txt")).unwrap();
        place.refused("harmless.txt", "secret");
        for name in [".env.example", "id_ed25519.pub", "environment.txt", "keynote.txt", "notes.bak", "hosts.yml", "~"]
        {
            place.write(&format!("workspace/{name}"), "x");
            assert!(place.pin(name).is_ok(), "{name}");
        }
    }
}
