//! The scenarios of `tests/it` on real RabbitMQ and Redis, and what only servers can do to us.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests say which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "a scenario, a table and a walk read best whole"
)]

mod broken;
mod broker;
#[path = "../it/connect.rs"]
mod connect;
#[path = "../it/corpus.rs"]
mod corpus;
#[path = "../it/custody.rs"]
mod custody;
#[path = "../it/daily.rs"]
mod daily;
#[path = "../it/defects.rs"]
mod defects;
#[path = "../it/doctor.rs"]
mod doctor;
#[path = "../it/drift.rs"]
mod drift;
#[path = "../it/erasure.rs"]
mod erasure;
#[path = "../it/errors.rs"]
mod errors;
#[path = "../it/input.rs"]
mod input;
#[path = "../it/input_table.rs"]
mod input_table;
#[path = "../it/interleavings.rs"]
mod interleavings;
#[path = "../it/limits.rs"]
mod limits;
#[path = "../it/logins.rs"]
mod logins;
#[path = "../it/poll.rs"]
mod poll;
#[path = "../it/queue.rs"]
mod queue;
mod redis;
#[path = "../it/scheduler.rs"]
mod scheduler_alone;
#[path = "../it/store.rs"]
mod store;
#[path = "../it/store_index.rs"]
mod store_index;
#[path = "../it/subscriptions.rs"]
mod subscriptions;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for the other test binaries")]
mod support;
#[path = "../it/tokens.rs"]
mod tokens;
#[path = "../it/walks.rs"]
mod walks;
#[path = "../it/worker.rs"]
mod worker;

use support::TestBackend;

const BACKEND: TestBackend = TestBackend::Distributed;
