//! The pure core of pagesync: what a Page is, how observations of it merge, what a webhook says,
//! when a Page is due for a read, and how a job travels.
//!
//! Invariant: everything here is a function of its arguments. Nothing waits, reads a clock, or
//! touches a network or a disk; a test (`tests/it/tidy.rs` of the executable) checks that.
//!
//! Reading order: [`time`], [`id`], [`value`], [`field`], [`page`], [`read`], [`drift`], [`queue`],
//! [`due`], [`webhook`], [`job`].

pub mod announcements;
pub mod field;
pub mod hex;
pub mod id;
pub mod job;
pub mod missed_webhooks;
pub mod page;
pub mod polling;
#[cfg(test)]
mod properties;
pub mod queue_name;
#[cfg(test)]
mod race;
pub mod read;
pub mod time;
pub mod value;
pub mod webhook;
pub mod webhook_field;
