//! The code that the services of pagesync share.
//!
//! Invariant: this crate is the only one that uses the drivers of RabbitMQ, Redis and SQLite.
//!
//! | modules | contents |
//! |---|---|
//! | [`queue`], [`store`] | the two traits, each with two backends; [`backends`] selects one |
//! | [`database`] | the SQLite file of the embedded backends |
//! | [`pages`], [`records`] | operations on stored Pages and records |
//! | [`graph`] | the client of the Graph API |
//! | [`sealing`], [`key_file`], [`sealer`], [`delivery_sealing`] | encrypted tokens and forwarded deliveries |
//! | [`signing`], [`invitation`] | HMAC-SHA256, signed login links |
//! | [`daily_schedule`], [`retry`] | the local time of daily polls, retry delays |
//! | [`views`], [`timestamp`] | the JSON of commands and of the API, instants as text |
//! | [`escape`], [`csv_lines`] | text for terminals and spreadsheets |
//! | [`config`], [`clock`], [`lifecycle`], [`telemetry`] | parts of every process |
//! | [`http`], [`tls`], [`posting`] | the HTTP server, the TLS provider of HTTP clients, posts to the operator |
//! | [`authentication`], [`problem`] | the keys and the errors of the HTTP API |

pub mod authentication;
pub mod backends;
pub mod clock;
pub mod config;
pub mod csv_lines;
pub mod daily_schedule;
pub mod database;
pub mod delivery_sealing;
pub mod escape;
pub mod graph;
pub mod http;
pub mod invitation;
pub mod key_file;
pub mod lifecycle;
pub mod log_limit;
pub mod pages;
pub mod posting;
pub mod problem;
pub mod queue;
pub mod records;
pub mod retry;
pub mod sealer;
pub mod sealing;
pub mod signing;
#[cfg(test)]
mod statement_costs;
pub mod store;
pub mod store_clock;
pub mod telemetry;
pub mod timestamp;
pub mod tls;
pub mod unsubscribe;
pub mod views;
