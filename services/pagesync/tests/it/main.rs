//! Runs the scenarios on the embedded backend. `tests/distributed` runs them on RabbitMQ and Redis.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests print which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "scenarios and tables are easier to read in one piece"
)]

mod access;
mod alerts;
mod api;
mod api_actions;
mod api_changes;
mod api_reference;
mod change_posts;
mod cli;
mod cli_connection;
mod clients;
mod clocks;
mod corpus;
mod daily_polls;
mod dead_letter_limits;
mod dead_letters;
mod dead_tokens;
mod doctor;
mod erasure;
mod example_bot;
mod examples;
mod facebook_says;
mod failures;
mod fields;
mod forwarding;
mod forwarding_erasure;
mod graph_errors;
mod http_input;
mod import_cycles;
mod interleavings;
mod json_reference;
mod large_connections;
mod large_connections_scenario;
mod login_flow;
mod login_limits;
mod login_links;
mod login_under_load;
mod logins;
mod missed_webhooks;
mod page_batches;
mod page_polls;
mod page_token_listener;
mod platform_rules;
mod portfolios;
mod queue;
#[path = "scheduler.rs"]
mod scheduler_alone;
mod shared_app;
mod store;
mod store_feed;
mod store_indexes;
mod subscriptions;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod support;
mod tidy;
mod token_sealing;
mod tokens;
mod unreadable_data;
mod unsubscribe;
mod webhook_input;
mod webhook_input_table;
mod worker;

use support::TestBackend;

/// The backend of the scenarios in this test binary.
const BACKEND: TestBackend = TestBackend::Embedded;
