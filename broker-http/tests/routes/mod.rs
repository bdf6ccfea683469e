//! The routes, one file per room.

mod abilities;
mod content;
mod house;
mod once;
mod sessions;
