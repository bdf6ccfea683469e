//! The file `.env`: what it says fills what the environment lacks. The environment itself is never written.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// What is wrong with the file.
#[derive(Debug)]
pub(crate) struct EnvFileError {
    path: PathBuf,
    /// The line, from 1; absent when the file as a whole cannot be read.
    line: Option<usize>,
    /// A line itself is never shown: it may hold a secret.
    what: String,
}

impl fmt::Display for EnvFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for EnvFileError {}

/// What the file says, as far as it can be read, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct EnvFile {
    /// Values by name; the last line of a name wins.
    pub(crate) variables: BTreeMap<String, String>,
    /// What is wrong.
    pub(crate) errors: Vec<EnvFileError>,
}

impl EnvFile {
    /// Reads the file; none is as good as an empty one.
    pub(crate) fn read(path: &Path) -> Self {
        match text(path) {
            Ok(text) => Self::parse(&text, path),
            Err(what) => {
                let error = EnvFileError { path: path.to_owned(), line: None, what };
                Self { variables: BTreeMap::new(), errors: vec![error] }
            }
        }
    }

    fn parse(text: &str, path: &Path) -> Self {
        let mut file = Self::default();
        // Where the next malformed line is looked for, so that the same line twice is told twice.
        let mut from = 0;
        for item in dotenvy::from_read_iter(text.as_bytes()) {
            let (line, what) = match item {
                Ok((name, value)) => {
                    file.variables.insert(name, value);
                    continue;
                }
                Err(dotenvy::Error::LineParse(line, _)) => {
                    let number = place(text, from, &line);
                    from = number.unwrap_or(from);
                    (number, "it is not NAME=value; quote a value that holds spaces, quotes, # or $".to_owned())
                }
                Err(error) => (None, error.to_string()),
            };
            file.errors.push(EnvFileError { path: path.to_owned(), line, what });
        }
        file
    }
}

fn text(path: &Path) -> Result<String, String> {
    let length = match std::fs::metadata(path) {
        Ok(about) if about.is_dir() => return Err("it is a folder; it has to be a file, or not to be there".to_owned()),
        Ok(about) => about.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(format!("it cannot be read ({error})")),
    };
    if length > MAX_BYTES {
        return Err(format!("it is longer than {MAX_BYTES} bytes; that is no file of variables"));
    }
    match std::fs::read_to_string(path) {
        // A last line without an end would be read differently from the others.
        Ok(text) => Ok(format!("{}\n", text.strip_prefix('\u{feff}').unwrap_or(&text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("it is not UTF-8 text".to_owned()),
        Err(error) => Err(format!("it cannot be read ({error})")),
    }
}

/// The number of a line, from 1, looked for after line `from`. The parser tells a line's text, or its value alone, and not
/// its number.
fn place(text: &str, from: usize, line: &str) -> Option<usize> {
    let first = line.lines().next().unwrap_or_default().trim();
    let mut later = text.lines().enumerate().skip(from);
    let found = later.find(|(_, candidate)| !first.is_empty() && candidate.contains(first));
    found.map(|(index, _)| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(".env");
        let none = EnvFile::read(&path);
        assert!(none.variables.is_empty() && none.errors.is_empty());
        let text = "\u{feff}# a comment\n\nA=1\nexport B = two\nC='a b # $c'\nD=\"x\\ny\"\nA=3\nE=\n";
        std::fs::write(&path, text).expect("written");
        let read = EnvFile::read(&path);
        assert!(read.errors.is_empty());
        let expected = [("A", "3"), ("B", "two"), ("C", "a b # $c"), ("D", "x\ny"), ("E", "")];
        assert_eq!(read.variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn every_malformed_line_is_named_and_none_is_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(".env");
        std::fs::write(&path, "A=1\nxoxb-secret\n\nB=a b\nxoxb-secret\n").expect("written");
        let EnvFile { variables, errors } = EnvFile::read(&path);
        assert_eq!(variables["A"], "1");
        let lines: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [Some(2), Some(4), Some(5)]);
        assert!(errors.iter().all(|error| !error.to_string().contains("secret")));
    }

    #[test]
    fn what_is_no_file_of_variables_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = |path: &Path| EnvFile::read(path).errors.remove(0).to_string();
        assert!(told(folder.path()).contains("a folder"));
        let path = folder.path().join(".env");
        std::fs::write(&path, [b'A', b'=', 0xff]).expect("written");
        assert!(told(&path).contains("UTF-8"));
        std::fs::write(&path, "A='open\nB=2\n").expect("written");
        assert_eq!(told(&path), format!("{}, line 1: {}", path.display(), EnvFile::read(&path).errors[0].what));
    }
}
