//! The routes, one file per room.

mod abilities;
mod house;
mod sessions;
