//! The client of Facebook's Graph API, limited to the calls that pagesync makes.
//!
//! Invariants:
//!
//! - The token of the caller is sent in the `Authorization` header, never in the address.
//! - No address from a reply is requested: `paging.next` contains a token, and a redirect could
//!   lead to any host.
//! - A reply has a deadline and a size limit. A reply that is not successful becomes a typed error.
//! - No address, body or token is logged.

pub mod calls;
pub mod client;
pub mod error;
mod parse;
pub mod reply;
pub mod versions;
