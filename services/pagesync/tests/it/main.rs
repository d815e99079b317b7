//! The scenarios on the embedded backend; `tests/distributed` runs the same on RabbitMQ and Redis.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests say which servers they use")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests look at the machine they run on"
)]

mod cli;
mod corpus;
mod input;
mod queue;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod tidy;
mod worker;

use support::TestBackend;

const BACKEND: TestBackend = TestBackend::Embedded;
