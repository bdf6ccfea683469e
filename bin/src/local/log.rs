//! What was said, kept in a file: one JSON object a line, each on the disk before anybody acts upon it.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

/// Messages that are kept from one start to the next; of more, the older half goes.
const MAX_KEPT: usize = 10_000;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// When it was written, in microseconds since the Unix epoch; its id too.
    pub(super) at: u64,
    /// The conversation.
    pub(super) conversation: String,
    /// The first message of its thread, unless it is that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) root: Option<u64>,
    /// The key of a post of the broker; absent for what a person wrote.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) key: Option<String>,
    /// What kind of post it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) kind: Option<String>,
    /// The text.
    pub(super) text: String,
}

impl Entry {
    /// The first message of its thread.
    pub(super) fn thread(&self) -> u64 {
        self.root.unwrap_or(self.at)
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
}

impl Log {
    /// Opens the file, and reads what stands in it. A line that cannot be read was not finished when a process was killed:
    /// nobody had acted upon it.
    pub(super) async fn open(path: PathBuf) -> io::Result<(Self, Vec<Entry>)> {
        let text = match tokio::fs::read(&path).await {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let mut entries: Vec<Entry> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if entries.len() > MAX_KEPT {
            entries.drain(..entries.len() - MAX_KEPT / 2);
            rewrite(&path, &entries).await?;
        } else if !text.is_empty() && !text.ends_with('\n') {
            rewrite(&path, &entries).await?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path).await?;
        Ok((Self { file }, entries))
    }

    /// Appends a message; it is on the disk when this returns.
    pub(super) async fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let line = line(entry)?;
        let before = self.file.metadata().await?.len();
        let written = async {
            self.file.write_all(&line).await?;
            self.file.flush().await?;
            self.file.sync_data().await
        };
        let written = written.await;
        if written.is_err() {
            // A part of a line, or one that was told to have failed, must not stand before the next.
            let _ = self.file.set_len(before).await;
        }
        written
    }
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

/// Writes the file anew beside the old one, and puts it in its place.
async fn rewrite(path: &Path, entries: &[Entry]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(line(entry)?);
    }
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new).await?;
    file.write_all(&bytes).await?;
    file.sync_all().await?;
    tokio::fs::rename(&new, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: u64) -> Entry {
        let text = format!("message {at}\nwith \"quotes\"");
        Entry { at, conversation: "terminal".to_owned(), root: Some(1), key: None, kind: None, text }
    }

    #[tokio::test]
    async fn what_was_said_is_there_again_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        let (mut log, entries) = Log::open(path.clone()).await.unwrap();
        assert_eq!(entries, []);
        log.append(&entry(1)).await.unwrap();
        log.append(&entry(2)).await.unwrap();
        drop(log);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(br#"{"at":3,"conv"#);
        std::fs::write(&path, bytes).unwrap();
        let (mut log, entries) = Log::open(path.clone()).await.unwrap();
        assert_eq!(entries, [entry(1), entry(2)]);
        log.append(&entry(4)).await.unwrap();
        let (_, entries) = Log::open(path).await.unwrap();
        assert_eq!(entries, [entry(1), entry(2), entry(4)]);
    }

    #[tokio::test]
    async fn the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chat.jsonl");
        let many: Vec<u8> = (0..10_001).flat_map(|at| line(&entry(at)).unwrap()).collect();
        std::fs::write(&path, many).unwrap();
        let (_, entries) = Log::open(path.clone()).await.unwrap();
        assert_eq!((entries.len(), entries[0].at), (5_000, 5_001));
        assert_eq!(Log::open(path).await.unwrap().1.len(), 5_000);
    }
}
