//! The routes, one file per room.

mod sessions;
