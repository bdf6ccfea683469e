#![forbid(unsafe_code)]
//! Small programs that embed the broker core; each is a file beside this crate's manifest.
