//! Tests of the executable as a user runs it: a login in a browser, the order of system calls, the
//! compose file, and the commands of the README.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests print which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "scenarios are easier to read in one piece"
)]

mod alert_email;
mod browser;
mod compose;
mod examples;
mod mtls;
mod readme;
mod sdk;
mod standard_webhooks;
mod strace;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod support;
mod terminal;
