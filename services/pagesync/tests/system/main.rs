//! The executable as a user runs it: a login in a browser, the order of its system calls, the
//! compose file, and the commands of the README.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests print which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "a scenario of a whole system reads best whole"
)]

mod browser;
mod compose;
mod readme;
mod strace;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for the other test binaries")]
mod support;
