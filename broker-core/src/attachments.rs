//! The files of messages in the folder of a session.
//!
//! A file stands at `<workspace>/.slack-attachments/<ts>/<file id>-<name>`, where the agent can read it. The agent can write
//! there too and the broker is not confined, so nothing in the workspace may lead the broker elsewhere: every step goes by a
//! descriptor of the folder before it and follows no link, and what stands in the way under the name of a folder or of a file
//! that is being written is unlinked.
//!
//! Scaled copies of images stand at `<sessions root>/.images/<session>/`, where no profile of the agent's commands opens
//! anything: the broker writes them and the agent runtime reads them by their path, unconfined, and neither must be led
//! elsewhere. The session's own folder would not do: a read-only agent may write beside its workspace.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::chat::FileRef;

/// The folder within the workspace.
pub const FOLDER: &str = ".slack-attachments";
/// The folder of scaled images, beside the workspace.
const IMAGES: &str = ".images";
/// How the name of a file ends that is not complete.
const PART: &str = ".part";
/// The longest part of a path that is made of something's name, in bytes.
const MAX_SEGMENT: usize = 180;

/// The folder of one message's files, held open.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// Entries of a folder that are looked at for what a broker left: an agent may have filled it.
const MAX_LOOKED_AT: usize = 4096;

/// Where a file of a message stands, within the workspace.
pub fn path(message: &str, file: &FileRef) -> String {
    format!("{FOLDER}/{}/{}", segment(message), name(file))
}

/// Where the scaled images of a session stand, by its workspace.
pub fn images(workspace: &Path) -> PathBuf {
    let session = workspace.parent().unwrap_or(workspace);
    let sessions = session.parent().unwrap_or(session);
    sessions.join(IMAGES).join(session.file_name().unwrap_or_default())
}

/// Removes scaled images, and what a killed broker left of some, that are older than this. Blocks.
///
/// # Errors
///
/// When the folder cannot be read.
pub fn clean_images(sessions_root: &Path, older: Duration) -> io::Result<()> {
    let sessions = match std::fs::read_dir(sessions_root.join(IMAGES)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        sessions => sessions?,
    };
    // What is none of ours stays, and one entry that cannot be removed keeps no other.
    for session in sessions.flatten() {
        let images = std::fs::read_dir(session.path()).into_iter().flatten().flatten();
        for image in images {
            let age = image.metadata().and_then(|image| image.modified()).map(|at| at.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age >= older)
                && let Err(error) = std::fs::remove_file(image.path())
            {
                tracing::warn!(%error, "a scaled image could not be removed");
            }
        }
        // One that is not empty stays.
        let _ = std::fs::remove_dir(session.path());
    }
    Ok(())
}

/// The name of a file's scaled image, without its ending.
pub fn image_stem(message: &str, file: &FileRef) -> String {
    format!("{}-{}", segment(message), segment(&file.id))
}

/// The name under which a file is kept.
pub fn name(file: &FileRef) -> String {
    let name = file.name.as_deref().map(str::trim).filter(|name| !name.is_empty()).unwrap_or("file");
    format!("{}-{}", id_segment(file), segment(name))
}

/// What the name begins with. The id is short with every platform; a long one must not push the name out.
fn id_segment(file: &FileRef) -> String {
    let mut id = segment(&file.id);
    id.truncate(id.floor_char_boundary(64));
    id
}

/// The name of what is not complete: no complete file's begins with a dot.
fn part(unique: &str) -> String {
    format!(".{}{PART}", segment(unique))
}

/// A name that is one segment of a path, hidden from nobody and not too long; its ending is kept.
fn segment(text: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let mut name: String = text.chars().map(safe).collect();
    if name.starts_with('.') {
        name.replace_range(..1, "_");
    }
    if name.len() > MAX_SEGMENT {
        let ending = name.rfind('.').map(|dot| name[dot..].to_owned()).filter(|ending| ending.len() <= 20);
        let ending = ending.unwrap_or_default();
        name.truncate(name.floor_char_boundary(MAX_SEGMENT - ending.len()));
        name.push_str(&ending);
    }
    if name.is_empty() { "_".to_owned() } else { name }
}

impl Folder {
    /// Opens the folder of a message's files; makes it, readable by nobody else, where it is not there. Blocks.
    ///
    /// # Errors
    ///
    /// When it can be neither opened nor made.
    pub fn open(workspace: &Path, message: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let workspace = rustix::fs::openat(CWD, workspace, flags, Mode::empty())?;
        let attachments = folder_in(&workspace, FOLDER)?;
        Ok(Self(folder_in(&attachments, &segment(message))?))
    }

    /// Opens the folder of a message's files where it is there; makes nothing. Blocks.
    ///
    /// # Errors
    ///
    /// When it is not there, or cannot be opened.
    pub fn find(workspace: &Path, message: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let workspace = rustix::fs::openat(CWD, workspace, flags, Mode::empty())?;
        let attachments = rustix::fs::openat(&workspace, FOLDER, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let folder = rustix::fs::openat(&attachments, segment(message), flags | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Self(folder))
    }

    /// A file that is there as a whole, as far as its size tells.
    pub fn complete(&self, file: &FileRef) -> Option<File> {
        let size = file.size?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let found = File::from(rustix::fs::openat(&self.0, name(file), flags, Mode::empty()).ok()?);
        let metadata = found.metadata().ok()?;
        (metadata.is_file() && metadata.len() == size).then_some(found)
    }

    /// What is known of a file that the platform shows by its id alone, when it stands here: what is not complete has no such name.
    pub fn by_id(&self, file: &FileRef) -> Option<FileRef> {
        if file.size.is_some() {
            return None;
        }
        let prefix = format!("{}-", id_segment(file));
        let entries = rustix::fs::Dir::read_from(&self.0).ok()?.take(MAX_LOOKED_AT).flatten();
        let mut names =
            entries.filter_map(|entry| Some(entry.file_name().to_str().ok()?.strip_prefix(&prefix)?.to_owned()));
        let found = names.next()?;
        let stat = rustix::fs::statat(&self.0, format!("{prefix}{found}"), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let size = is_file.then_some(u64::try_from(stat.st_size).ok()).flatten()?;
        Some(FileRef { name: Some(found), size: Some(size), ..file.clone() })
    }

    /// Begins to write a file, readable by nobody else, under a name that is made of `unique` and that no complete file has.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    pub fn begin(&self, unique: &str) -> io::Result<File> {
        let part = part(unique);
        self.remove(&part)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, &part, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Gives what was begun as `unique`, and written as a whole, the name of its file, durably.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn finish(&self, written: &File, unique: &str, file: &FileRef) -> io::Result<()> {
        // A name must not outlive a crash that its content does not.
        written.sync_data()?;
        let (part, name) = (part(unique), name(file));
        match rustix::fs::renameat(&self.0, &part, &self.0, &name) {
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
                self.remove(&name)?;
                rustix::fs::renameat(&self.0, &part, &self.0, &name)?;
            }
            result => result?,
        }
        // The session's row is going to name it.
        Ok(rustix::fs::fsync(&self.0)?)
    }

    /// Takes away what was begun as `unique` and is worth nothing.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn give_up(&self, unique: &str) -> io::Result<()> {
        self.remove(&part(unique))
    }

    /// Removes what an earlier broker began and did not finish: all that is not in use.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn clean(&self, in_use: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in rustix::fs::Dir::read_from(&self.0)?.take(MAX_LOOKED_AT) {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let unique = name.strip_prefix('.').and_then(|name| name.strip_suffix(PART));
            if unique.is_some_and(|unique| !in_use(unique)) {
                // A folder that an agent put there and filled stays.
                let _ = self.remove(name);
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?),
            Err(error) => Err(error.into()),
        }
    }
}

/// Opens a folder within another; makes it where it is not there, also in the place of something that is no folder.
fn folder_in(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The agent may be at it at the same time: a few tries, and then it is an error.
    for _ in 0..4 {
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(folder) => return Ok(folder),
            Err(Errno::NOENT) => match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            },
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("what stands in the place of a folder cannot be taken away"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn file(id: &str, name: &str, size: u64) -> FileRef {
        FileRef { id: id.to_owned(), name: Some(name.to_owned()), size: Some(size), ..FileRef::default() }
    }

    fn write(folder: &Folder, file: &FileRef, bytes: &[u8]) {
        let mut made = folder.begin("1").unwrap();
        made.write_all(bytes).unwrap();
        folder.finish(&made, "1", file).unwrap();
    }

    #[test]
    fn names_lead_nowhere_and_fit() {
        for (id, given, expected) in [
            ("F1", "report 2.pdf", "F1-report_2.pdf"),
            ("F1", "../../etc/passwd", "F1-_._.._etc_passwd"),
            ("../F1", "a\0b\nc", "_._F1-a_b_c"),
            ("F1", ".env", "F1-_env"),
            ("F1", "über\u{202e}fdp.exe", "F1-über_fdp.exe"),
            ("F1", " ", "F1-file"),
        ] {
            assert_eq!(name(&file(id, given, 0)), expected);
        }
        let long = name(&file("F1", &format!("{}.tar.gz", "ä".repeat(500)), 0));
        assert!(long.len() < 200 && long.ends_with(".gz"), "{long}");
        assert_eq!(path("1700000000.000100", &file("F1", "a", 0)), ".slack-attachments/1700000000.000100/F1-a");
        assert!(path("../..", &file("F1", "a", 0)).starts_with(".slack-attachments/_"));
    }

    #[test]
    fn a_file_has_its_name_once_it_is_complete_and_nobody_else_reads_it() {
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (Folder::open(root.path(), "1.1").unwrap(), file("F1", "a.txt", 5));
        let at = root.path().join(path("1.1", &file));
        let mut made = folder.begin("0").unwrap();
        made.write_all(b"he").unwrap();
        assert!(!at.exists() && folder.complete(&file).is_none());
        // A crash left the beginning; the next broker removes it, not what is in use and not what is only named so.
        drop(made);
        let in_use = folder.begin("in-use").unwrap();
        let named_so = FileRef { name: Some(".0.part".to_owned()), ..file.clone() };
        write(&folder, &named_so, b"whole");
        folder.clean(|unique| unique == "in-use").unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(at.parent().unwrap()).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".in-use.part", "F1-_0.part"]);
        drop(in_use);
        folder.clean(|_| false).unwrap();
        std::fs::remove_file(at.with_file_name("F1-_0.part")).unwrap();
        write(&folder, &file, b"hello");
        assert_eq!(std::fs::read(&at).unwrap(), b"hello");
        assert_eq!(at.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(folder.complete(&file).is_some());
        assert!(folder.complete(&FileRef { size: Some(6), ..file.clone() }).is_none());
        assert!(folder.complete(&FileRef { size: None, ..file }).is_none());
        assert_eq!(std::fs::read_dir(at.parent().unwrap()).unwrap().count(), 1, "no `.part` stays");
    }

    #[test]
    fn a_file_that_is_known_by_its_id_alone_is_found() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path(), "1.1").unwrap();
        let stub = |id: &str| FileRef { id: id.to_owned(), ..FileRef::default() };
        let whole = file("F1", "the plan.txt", 4);
        drop(folder.begin("F1-half").unwrap());
        assert_eq!(folder.by_id(&stub("F1")), None, "what is not complete");
        write(&folder, &whole, b"plan");
        let found = folder.by_id(&stub("F1")).expect("it is there");
        assert_eq!((path("1.1", &found), found.size), (path("1.1", &whole), Some(4)));
        assert!(folder.complete(&found).is_some());
        assert_eq!((folder.by_id(&stub("F")), folder.by_id(&whole)), (None, None));
        symlink("/etc/passwd", root.path().join(path("1.1", &file("F2", "a", 0)))).unwrap();
        assert_eq!(folder.by_id(&stub("F2")), None, "a link is none");
    }

    #[test]
    fn scaled_images_do_not_stay_for_ever() {
        let root = tempfile::tempdir().unwrap();
        clean_images(root.path(), Duration::ZERO).unwrap();
        let [old, both] = ["old", "both"].map(|session| images(&root.path().join(session).join("workspace")));
        for folder in [&old, &both] {
            std::fs::create_dir_all(folder).unwrap();
        }
        // Something that is nobody's image, beside the folders and in one.
        std::fs::create_dir(both.join("folder")).unwrap();
        std::fs::write(old.with_file_name("stray"), "x").unwrap();
        for path in [old.join("1.png"), old.join("2.part"), both.join("1.png"), both.join("new.png")] {
            let file = File::create(&path).unwrap();
            if !path.ends_with("new.png") {
                file.set_modified(file.metadata().unwrap().modified().unwrap() - Duration::from_secs(100)).unwrap();
            }
        }
        clean_images(root.path(), Duration::from_secs(50)).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(&both).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!((old.exists(), left), (false, vec!["folder".into(), "new.png".into()]));
    }

    #[test]
    fn nothing_that_an_agent_puts_in_the_way_leads_out() {
        let root = tempfile::tempdir().unwrap();
        let (workspace, outside) = (root.path().join("workspace"), root.path().join("outside"));
        std::fs::create_dir_all(&workspace).unwrap();
        std::fs::create_dir_all(outside.join("1.1")).unwrap();
        std::fs::write(outside.join("secret"), "untouched").unwrap();
        let file = file("F1", "a", 2);
        let at = workspace.join(path("1.1", &file));

        // The folder of all attachments is a link.
        symlink(&outside, workspace.join(FOLDER)).unwrap();
        write(&Folder::open(&workspace, "1.1").unwrap(), &file, b"hi");
        assert_eq!(std::fs::read(&at).unwrap(), b"hi");

        // The folder of the message is one, or a file.
        std::fs::remove_dir_all(at.parent().unwrap()).unwrap();
        symlink(&outside, at.parent().unwrap()).unwrap();
        write(&Folder::open(&workspace, "1.1").unwrap(), &file, b"hi");
        std::fs::remove_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at.parent().unwrap(), "x").unwrap();
        let folder = Folder::open(&workspace, "1.1").unwrap();

        // The file and its beginning are links, or folders.
        let part = at.with_file_name(".1.part");
        for way in [&at, &part] {
            symlink(outside.join("secret"), way).unwrap();
        }
        assert!(folder.complete(&file).is_none());
        write(&folder, &file, b"hi");
        std::fs::remove_file(&at).unwrap();
        for way in [&at, &part] {
            std::fs::create_dir(way).unwrap();
        }
        write(&folder, &file, b"hi");
        assert_eq!(std::fs::read(&at).unwrap(), b"hi");
        assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "untouched");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(outside.join("1.1")).unwrap().count(), 0);
    }
}
