//! The folders of sessions.
//!
//! A session's workspace is `<sessions root>/<folder>/workspace`;
//! messages that were too long for the prompt stand beside it.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;

use crate::chat::{InstallationId, ThreadKey};
use crate::prompt::Overflow;

/// Where workspaces are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workspaces {
    /// Below the sessions root.
    #[default]
    OnDisk,
    /// Nowhere: nothing is made or written. For a simulation, whose agents need none and whose order of events must not
    /// depend on the threads that file systems are asked on.
    Imagined,
}

/// The folder name of a thread's session. Different threads never share one: what is not a letter, a digit, `.`, `-` or
/// `_` is written as `%XX`, and so is `-` within an id.
pub fn folder(key: &ThreadKey, home: Option<&InstallationId>) -> String {
    let mut name = String::new();
    if home.is_some_and(|home| *home != key.installation) {
        name.push_str(&escape(key.installation.as_str()));
        name.push('-');
    }
    name.push_str(&escape(key.conversation.as_str()));
    name.push('-');
    name.push_str(&escape(key.root.as_str()));
    name
}

fn escape(id: &str) -> String {
    let mut text = String::with_capacity(id.len());
    for (index, byte) in id.bytes().enumerate() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'_' => text.push(char::from(byte)),
            // Not at the beginning, so that no folder is hidden or leads upwards.
            b'.' if index > 0 => text.push('.'),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}

/// The workspace of a session.
pub fn path(sessions_root: &Path, folder: &str) -> PathBuf {
    sessions_root.join(folder).join("workspace")
}

/// Makes the workspace, readable by nobody else.
///
/// # Errors
///
/// When a folder cannot be made.
pub async fn prepare(workspace: &Path) -> io::Result<()> {
    let mut builder = tokio::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(workspace).await
}

/// Writes a message that was too long for the prompt.
///
/// The agent can write in its workspace and the broker is not confined, so nothing there may lead the broker elsewhere: the
/// file stands at the top of the workspace, which the agent cannot replace, whatever has its name is unlinked, and it is
/// made anew, which follows no link.
///
/// # Errors
///
/// When the name is not a plain file name, or the file cannot be written.
pub async fn write_overflow(workspace: &Path, overflow: &Overflow) -> io::Result<()> {
    let name = Path::new(&overflow.file_name);
    if name.file_name() != Some(name.as_os_str()) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file name"));
    }
    let path = workspace.join(name);
    match tokio::fs::remove_file(&path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&path).await?;
    file.write_all(overflow.content.as_bytes()).await?;
    file.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{ConversationId, MessageId};

    fn key(conversation: &str, root: &str) -> ThreadKey {
        ThreadKey {
            installation: InstallationId::new("T1"),
            conversation: ConversationId::new(conversation),
            root: MessageId::new(root),
        }
    }

    #[test]
    fn folders_are_told_apart_and_never_lead_out() {
        assert_eq!(folder(&key("C1", "1700000000.000100"), None), "C1-1700000000.000100");
        assert_eq!(folder(&key("C1", "1.1"), Some(&InstallationId::new("T2"))), "T1-C1-1.1");
        assert_eq!(folder(&key("..", "/etc"), None), "%2E.-%2Fetc");
        assert_ne!(folder(&key("C-1", "1"), None), folder(&key("C", "1-1"), None));
    }

    #[tokio::test]
    async fn a_long_message_is_never_written_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let (workspace, secret) = (root.path().join("workspace"), root.path().join("secret"));
        prepare(&workspace).await.unwrap();
        std::fs::write(&secret, "untouched").unwrap();
        std::os::unix::fs::symlink(&secret, workspace.join("m.json")).unwrap();
        let overflow = |name: &str| Overflow { file_name: name.to_owned(), content: "long".to_owned() };
        write_overflow(&workspace, &overflow("m.json")).await.unwrap();
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "untouched");
        assert_eq!(std::fs::read_to_string(workspace.join("m.json")).unwrap(), "long");
        for name in ["../secret", "a/b", "..", "/etc/x", ""] {
            assert!(write_overflow(&workspace, &overflow(name)).await.is_err(), "{name}");
        }
    }
}
