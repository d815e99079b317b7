//! The executable on a whole system: the order of its system calls, the compose file, the commands
//! of the README.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(clippy::print_stdout, reason = "tests say which servers they use")]
#![expect(
    clippy::too_many_lines,
    reason = "a walk through a whole system reads best whole"
)]

mod browser;
mod compose;
mod readme;
mod strace;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "some of it is for the other test binaries")]
mod support;
