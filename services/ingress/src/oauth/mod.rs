//! Logins: a person allows the app to see their Pages, and comes back with a code.
//!
//! Invariants: a state works once, for ten minutes, in the browser that began; a code is exchanged
//! only for such a state; the token that comes of it is sealed before it is stored and never answered.
//! Must not: open a token, log a query, echo input unescaped.

pub mod answer;
pub mod callback;
pub mod context;
mod cookie;
pub mod login;
pub mod probe;
mod progress;
