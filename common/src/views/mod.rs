//! The JSON that commands print, one type per object.
//!
//! Invariant: the same thing has the same name in every object, and every instant is RFC 3339 in
//! UTC. `docs/json.md` describes each object. A test compares it with the output of the commands.

pub mod alert;
pub mod api_key;
pub mod audit;
pub mod check;
pub mod connection;
pub mod dead_letter;
pub mod destination;
pub mod explain;
pub mod failure;
pub mod invitation;
pub mod missed;
pub mod page;
pub mod schedule;
