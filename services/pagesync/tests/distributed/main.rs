//! The scenarios of `tests/it` on real RabbitMQ and Redis, and what only servers can do to us.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests say which servers they use")]
#![expect(
    clippy::disallowed_methods,
    reason = "tests look at the machine they run on"
)]

mod broker;
#[path = "../it/corpus.rs"]
mod corpus;
#[path = "../it/input.rs"]
mod input;
#[path = "../it/queue.rs"]
mod queue;
mod redis;
#[path = "../it/store.rs"]
mod store;
#[path = "../support/mod.rs"]
mod support;
#[path = "../it/worker.rs"]
mod worker;

use support::TestBackend;

const BACKEND: TestBackend = TestBackend::Distributed;
