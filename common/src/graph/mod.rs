//! Facebook's Graph API, as far as pagesync needs it: one concrete client.
//!
//! Invariants: a token travels in the `Authorization` header only; no address out of an answer is
//! ever requested (`paging.next` carries a token, and a redirect could lead anywhere); an answer has
//! a deadline and a size limit; what is not an answer of Graph is a typed error. Must not: log an
//! address, a body or a token.

pub mod calls;
pub mod client;
pub mod error;
pub mod reply;
pub mod versions;
