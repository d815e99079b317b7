//! Logins: in Facebook's dialog a person allows the app to read their Pages, and the browser
//! returns with a code.
//!
//! Invariants: a state is valid once, for ten minutes, in the browser in which the login began. A
//! code is exchanged only for such a state. The token is sealed before it is stored, is never
//! opened here, and is in no answer. No query is logged.

pub mod answer;
pub mod callback;
pub mod context;
mod cookie;
pub mod html_page;
pub mod login;
mod probe;
mod progress;
mod result_html;
mod state;
