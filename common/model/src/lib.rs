//! The pure core of pagesync: Pages and how observations of them merge, webhooks, due times, and
//! the wire form of jobs.
//!
//! Invariant: every result is a function of the arguments. Nothing waits, reads a clock, or touches
//! a network or a disk. A test in `services/pagesync/tests/it/tidy.rs` checks this.
//!
//! Reading order: [`time`], [`id`], [`value`], [`field`], [`webhook_field`], [`page`], [`read`],
//! [`announcements`], [`missed_webhooks`], [`queue_name`], [`polling`], [`webhook`], [`forward`],
//! [`job`].

pub mod announcements;
pub mod failure;
pub mod field;
pub mod forward;
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
