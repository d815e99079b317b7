//! The scenarios on the embedded backend; `tests/distributed` runs the same on RabbitMQ and Redis.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests say which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "a scenario, a table and a walk read best whole"
)]

mod cli;
mod cli_connect;
mod connect;
mod corpus;
mod custody;
mod daily;
mod defects;
mod doctor;
mod drift;
mod erasure;
mod errors;
mod input;
mod input_table;
mod interleavings;
mod limits;
mod logins;
mod poll;
mod queue;
#[path = "scheduler.rs"]
mod scheduler_alone;
mod store;
mod store_index;
mod subscriptions;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for the other test binaries")]
mod support;
mod tidy;
mod tokens;
mod walks;
mod worker;

use support::TestBackend;

const BACKEND: TestBackend = TestBackend::Embedded;
