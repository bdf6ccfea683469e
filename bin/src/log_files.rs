//! Log files: one an hour, bounded in size, in number and in all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The most bytes of one hour. What comes after that is on stderr alone.
const HOUR_BYTES: u64 = 64 * 1024 * 1024;
/// The most bytes of all files.
const ALL_BYTES: u64 = 1024 * 1024 * 1024;
/// The most files: a month of hours.
const FILES: usize = 31 * 24;
/// The line with which a full file ends.
const FULL: &[u8] =
    b"{\"level\":\"WARN\",\"message\":\"this file is full; the rest of the hour is on stderr alone\"}\n";

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    hour_bytes: u64,
    all_bytes: u64,
    files: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { hour_bytes: HOUR_BYTES, all_bytes: ALL_BYTES, files: FILES }
    }
}

/// The file of the present hour.
#[derive(Debug)]
struct Current {
    /// Hours since the epoch.
    hour: u64,
    file: File,
    bytes: u64,
    full: bool,
}

/// `<folder>/<yyyy-mm-dd-hh>.jsonl`, by UTC. Every call blocks: it belongs to the log's own thread.
#[derive(Debug)]
pub(crate) struct HourlyFiles {
    folder: PathBuf,
    bounds: Bounds,
    current: Option<Current>,
}

impl HourlyFiles {
    /// Makes the folder, readable by nobody else.
    pub(crate) fn open(folder: &Path, bounds: Bounds) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder)?;
        Ok(Self { folder: folder.to_owned(), bounds, current: None })
    }

    /// Appends a line that was written `seconds` after the epoch.
    pub(crate) fn write(&mut self, line: &[u8], seconds: u64) -> io::Result<()> {
        let hour = seconds / HOUR;
        if self.current.as_ref().is_none_or(|current| current.hour != hour) {
            self.current = None;
            self.prune()?;
            self.current = Some(self.file_of(hour)?);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if current.bytes.saturating_add(length) <= self.bounds.hour_bytes {
            current.file.write_all(line)?;
            current.bytes += length;
        } else if !current.full {
            current.full = true;
            current.file.write_all(FULL)?;
        }
        Ok(())
    }

    fn file_of(&self, hour: u64) -> io::Result<Current> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(self.folder.join(format!("{}.jsonl", name(hour * HOUR))))?;
        let bytes = file.metadata()?.len();
        Ok(Current { hour, file, bytes, full: bytes >= self.bounds.hour_bytes })
    }

    /// Deletes the oldest files until there is room for one more. Only files that are named like ours are ours.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_ours(&name) {
                files.push((name, entry.metadata()?.len()));
            }
        }
        files.sort_unstable();
        let room = self.bounds.all_bytes.saturating_sub(self.bounds.hour_bytes);
        let (mut kept, mut bytes) = (0, 0_u64);
        for (name, length) in files.iter().rev() {
            bytes = bytes.saturating_add(*length);
            kept += 1;
            if bytes > room || kept >= self.bounds.files {
                fs::remove_file(self.folder.join(name))?;
            }
        }
        Ok(())
    }
}

fn is_ours(name: &str) -> bool {
    name.strip_suffix(".jsonl").is_some_and(|stem| {
        stem.len() == "yyyy-mm-dd-hh".len()
            && stem.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 | 10 => byte == b'-',
                _ => byte.is_ascii_digit(),
            })
    })
}

/// `yyyy-mm-dd-hh` of a moment, by UTC.
fn name(seconds: u64) -> String {
    let is_leap = |year: u64| (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    // No clock shows the year 10000; a broken one must not make this loop long.
    let (mut day, hour) = ((seconds / DAY).min(2_932_896), seconds % DAY / HOUR);
    let mut year = 1970;
    loop {
        let days = if is_leap(year) { 366 } else { 365 };
        if day < days {
            break;
        }
        day -= days;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}-{hour:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn hours_are_named_by_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01-00"),
            (951_782_399, "2000-02-28-23"),
            (951_782_400, "2000-02-29-00"),
            (1_709_251_199, "2024-02-29-23"),
            (1_735_689_599, "2024-12-31-23"),
            (4_107_542_400, "2100-03-01-00"),
            (u64::MAX, "9999-12-31-07"),
        ] {
            assert_eq!(name(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn a_full_hour_ends_with_a_remark_and_the_next_one_is_new() {
        let folder = tempfile::tempdir().expect("a folder");
        let bounds = Bounds { hour_bytes: 10, ..Bounds::default() };
        let mut files = HourlyFiles::open(&folder.path().join("broker"), bounds).expect("opened");
        for line in ["12345\n", "123\n", "1234\n", "5\n"] {
            files.write(line.as_bytes(), 0).expect("written");
        }
        files.write(b"6\n", HOUR).expect("written");
        let folder = folder.path().join("broker");
        let first = fs::read(folder.join("1970-01-01-00.jsonl")).expect("read");
        assert_eq!(first, [b"12345\n123\n".as_slice(), FULL].concat());
        assert_eq!(fs::read(folder.join("1970-01-01-01.jsonl")).expect("read"), b"6\n");

        // Another process goes on in the file of the hour.
        let mut again = HourlyFiles::open(&folder, Bounds::default()).expect("opened");
        again.write(b"7\n", HOUR).expect("written");
        assert_eq!(fs::read(folder.join("1970-01-01-01.jsonl")).expect("read"), b"6\n7\n");
    }

    #[test]
    fn old_hours_make_room_and_foreign_files_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("notes.jsonl"), vec![b'x'; 100]).expect("written");
        let by_bytes = Bounds { hour_bytes: 10, all_bytes: 30, files: 100 };
        let mut files = HourlyFiles::open(folder.path(), by_bytes).expect("opened");
        for hour in 0..6 {
            files.write(b"123456789\n", hour * HOUR).expect("written");
        }
        let kept = ["1970-01-01-03.jsonl", "1970-01-01-04.jsonl", "1970-01-01-05.jsonl", "notes.jsonl"];
        assert_eq!(names(folder.path()), kept);

        let by_number = Bounds { files: 2, ..Bounds::default() };
        let mut files = HourlyFiles::open(folder.path(), by_number).expect("opened");
        files.write(b"1\n", 6 * HOUR).expect("written");
        assert_eq!(names(folder.path()), ["1970-01-01-05.jsonl", "1970-01-01-06.jsonl", "notes.jsonl"]);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_reads_them() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("logs/broker");
        HourlyFiles::open(&path, Bounds::default()).expect("opened").write(b"1\n", 0).expect("written");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&path.join("1970-01-01-00.jsonl"))), (0o700, 0o600));
    }
}
