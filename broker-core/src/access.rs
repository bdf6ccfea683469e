//! Who may act on a session from outside of its turns: the install key, and the tokens that are made from it.
//!
//! A token is HMAC-SHA256 over the session's id and its generation, under a key that each installation makes once. So it is
//! recomputed wherever it is needed and kept nowhere; it opens one session and no other; and raising the generation, or
//! deleting the session, makes every copy of it worthless.
//!
//! A token names its thread beside that, so that whoever is shown one can look at the one session that it may open before
//! reading anything else. The name is no secret and proves nothing: a token that names another thread opens nothing.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::chat::ThreadKey;
use crate::store::SessionId;

/// How many bytes an install key has.
pub const KEY_BYTES: usize = 32;
/// What a token begins with, so that people and secret scanners know it for one.
const PREFIX: &str = "bst_";
/// What is signed begins so: the key may sign other things one day.
const PURPOSE: &[u8] = b"session token\0";

/// The key that an installation's tokens are made from. Its `Debug` shows nothing.
pub struct InstallKey(SecretBox<[u8; KEY_BYTES]>);

impl fmt::Debug for InstallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InstallKey")
    }
}

impl InstallKey {
    /// The key of these bytes, which have to be random.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(SecretBox::new(Box::new(bytes)))
    }

    /// The token that opens the session of a thread, by its id and
    /// [generation](crate::store::SessionRecord::token_generation).
    pub fn token(&self, thread: &ThreadKey, id: &SessionId, generation: u64) -> SessionToken {
        let mac = self.mac(id, generation).finalize().into_bytes();
        SessionToken(SecretString::from(format!("{PREFIX}{}.{}", hex(thread.to_string().as_bytes()), hex(&mac))))
    }

    /// Whether `presented` is the token that opens a session. Takes as long for a wrong one as for the right one, and as
    /// long where there is no session.
    pub fn opens(&self, session: Option<(&SessionId, u64)>, presented: &str) -> bool {
        let nobody = SessionId::new("");
        let (id, generation) = session.unwrap_or((&nobody, 0));
        let presented = parts(presented).and_then(|(_, mac)| bytes(mac)).unwrap_or_default();
        self.mac(id, generation).verify_slice(&presented).is_ok() && session.is_some()
    }

    fn mac(&self, id: &SessionId, generation: u64) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).expect("a key");
        mac.update(PURPOSE);
        // Of a fixed length and before the id, so that no two pairs are signed as the same bytes.
        mac.update(&generation.to_be_bytes());
        mac.update(id.as_str().as_bytes());
        mac
    }
}

/// The thread whose session a token says that it opens. [`InstallKey::opens`] says whether it does.
pub fn thread_of(token: &str) -> Option<ThreadKey> {
    let (thread, _) = parts(token)?;
    String::from_utf8(bytes(thread)?).ok()?.parse().ok()
}

/// A token's name of its thread, and its signature.
fn parts(token: &str) -> Option<(&str, &str)> {
    token.strip_prefix(PREFIX)?.split_once('.')
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that a text of hexadecimal digits stands for.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = hex.chars().map(|char| Some(u8::try_from(char.to_digit(16)?).unwrap_or(0))).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// What opens one session. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct SessionToken(SecretString);

impl SessionToken {
    /// The token itself, for whoever it is meant for: the environment of the session's commands, an operator's terminal.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken")
    }
}

impl PartialEq for SessionToken {
    fn eq(&self, other: &Self) -> bool {
        self.expose().as_bytes().ct_eq(other.expose().as_bytes()).into()
    }
}

/// How a session's commands reach the broker's local API.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionApi {
    /// Where it is: `http://<host>:<port>`.
    pub base: String,
    /// What opens the session there.
    pub token: SessionToken,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> InstallKey {
        InstallKey::new([7; KEY_BYTES])
    }

    fn thread() -> ThreadKey {
        "T1/C1:1.1".parse().unwrap()
    }

    fn token(id: &str, generation: u64) -> String {
        key().token(&thread(), &SessionId::new(id), generation).expose().to_owned()
    }

    fn opens(key: &InstallKey, id: &str, generation: u64, token: &str) -> bool {
        key.opens(Some((&SessionId::new(id), generation)), token)
    }

    #[test]
    fn a_token_is_the_hmac_of_purpose_generation_and_id() {
        // printf 'session token\0\0\0\0\0\0\0\0\001s-1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707… (32 times)
        let mac = "8af9d06931334cd001e89ccea8edb2a33827e60549f4a6a47250529a60229d84";
        assert_eq!(token("s-1", 1), format!("bst_54312f43313a312e31.{mac}"));
    }

    #[test]
    fn a_token_says_whose_it_is() {
        assert_eq!(thread_of(&token("s-1", 1)), Some(thread()));
        for wrong in ["", "bst_", "bst_.", "bst_54.00", "bst_5.00", "bst_zz.00", "54312f43313a312e31.00", "bst_ff.00"] {
            assert_eq!(thread_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_opens_its_session_in_its_generation_and_nothing_else() {
        let token = token("s-1", 1);
        assert!(opens(&key(), "s-1", 1, &token));
        assert!(!opens(&key(), "s-2", 1, &token), "another session");
        assert!(!opens(&key(), "s-1", 2, &token), "it was revoked");
        assert!(!opens(&InstallKey::new([8; KEY_BYTES]), "s-1", 1, &token), "another key");
        assert!(!key().opens(None, &token), "no session");
    }

    #[test]
    fn where_there_is_no_session_nothing_opens_it() {
        assert!(!key().opens(None, &token("", 0)), "not even what is signed for nobody");
    }

    #[test]
    fn what_is_no_token_opens_nothing() {
        let right = token("s-1", 1);
        let wrong = [
            String::new(),
            "bst_".to_owned(),
            right.trim_start_matches("bst_").to_owned(),
            right[..right.len() - 1].to_owned(),
            right[..right.len() - 2].to_owned(),
            format!("{right}0"),
            format!("{right}00"),
            format!(" {right}"),
            format!("bst_54312f43313a312e31.{}", "0".repeat(64)),
            format!("bst_54312f43313a312e31.{}", "é".repeat(32)),
            "x".repeat(10_000),
        ];
        for token in wrong {
            assert!(!opens(&key(), "s-1", 1, &token), "{token}");
        }
    }

    #[test]
    fn neither_key_nor_token_can_be_printed() {
        let token = key().token(&thread(), &SessionId::new("s-1"), 1);
        let shown = format!("{:?} {:?}", key(), SessionApi { base: "http://localhost:1".to_owned(), token });
        assert_eq!(shown, "InstallKey SessionApi { base: \"http://localhost:1\", token: SessionToken }");
    }
}
