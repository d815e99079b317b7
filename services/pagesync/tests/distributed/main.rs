//! Runs the scenarios of `tests/it` on RabbitMQ and Redis, and further scenarios that need these
//! servers.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests print which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "scenarios and tables are easier to read in one piece"
)]

#[path = "../it/access.rs"]
mod access;
#[path = "../it/alerts.rs"]
mod alerts;
#[path = "../it/api.rs"]
mod api;
#[path = "../it/api_actions.rs"]
mod api_actions;
#[path = "../it/api_changes.rs"]
mod api_changes;
mod broker;
#[path = "../it/change_posts.rs"]
mod change_posts;
#[path = "../it/clients.rs"]
mod clients;
#[path = "../it/clocks.rs"]
mod clocks;
#[path = "../it/corpus.rs"]
mod corpus;
#[path = "../it/daily_polls.rs"]
mod daily_polls;
#[path = "../it/dead_letter_limits.rs"]
mod dead_letter_limits;
#[path = "../it/dead_letters.rs"]
mod dead_letters;
#[path = "../it/dead_tokens.rs"]
mod dead_tokens;
#[path = "../it/doctor.rs"]
mod doctor;
#[path = "../it/erasure.rs"]
mod erasure;
#[path = "../it/example_bot.rs"]
mod example_bot;
#[path = "../it/facebook_says.rs"]
mod facebook_says;
#[path = "../it/failures.rs"]
mod failures;
#[path = "../it/fields.rs"]
mod fields;
#[path = "../it/forwarding.rs"]
mod forwarding;
#[path = "../it/forwarding_erasure.rs"]
mod forwarding_erasure;
#[path = "../it/graph_errors.rs"]
mod graph_errors;
#[path = "../it/http_input.rs"]
mod http_input;
#[path = "../it/interleavings.rs"]
mod interleavings;
#[path = "../it/large_connections.rs"]
mod large_connections;
#[path = "../it/large_connections_scenario.rs"]
mod large_connections_scenario;
#[path = "../it/login_flow.rs"]
mod login_flow;
#[path = "../it/login_limits.rs"]
mod login_limits;
#[path = "../it/login_links.rs"]
mod login_links;
#[path = "../it/login_under_load.rs"]
mod login_under_load;
mod login_without_worker;
#[path = "../it/logins.rs"]
mod logins;
#[path = "../it/missed_webhooks.rs"]
mod missed_webhooks;
#[path = "../it/page_batches.rs"]
mod page_batches;
#[path = "../it/page_polls.rs"]
mod page_polls;
#[path = "../it/page_token_listener.rs"]
mod page_token_listener;
#[path = "../it/platform_rules.rs"]
mod platform_rules;
#[path = "../it/portfolios.rs"]
mod portfolios;
#[path = "../it/queue.rs"]
mod queue;
mod redis;
mod redis_crash;
#[path = "../it/scheduler.rs"]
mod scheduler_alone;
#[path = "../it/shared_app.rs"]
mod shared_app;
#[path = "../it/store.rs"]
mod store;
#[path = "../it/store_feed.rs"]
mod store_feed;
#[path = "../it/store_indexes.rs"]
mod store_indexes;
#[path = "../it/subscriptions.rs"]
mod subscriptions;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod support;
#[path = "../it/token_sealing.rs"]
mod token_sealing;
#[path = "../it/tokens.rs"]
mod tokens;
mod two_apis;
#[path = "../it/unreadable_data.rs"]
mod unreadable_data;
#[path = "../it/unsubscribe.rs"]
mod unsubscribe;
#[path = "../it/webhook_input.rs"]
mod webhook_input;
#[path = "../it/webhook_input_table.rs"]
mod webhook_input_table;
#[path = "../it/worker.rs"]
mod worker;

use support::TestBackend;

const BACKEND: TestBackend = TestBackend::Distributed;
