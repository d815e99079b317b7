//! A simulated Facebook that runs on one machine.
//!
//! It serves the login dialog and the Graph API, with one app, people, Pages, and both layers of
//! subscriptions. A change of a Page causes a webhook in Facebook's exact bytes. On request, it
//! also simulates faults: deliveries that are lost, duplicated, reordered, batched or retried, and
//! calls that fail. `README.md` lists the source of each simulated behaviour.
//!
//! Invariant: the simulator shares no type with pagesync, so a wrong field name in one of them
//! cannot hide the same mistake in the other.
//!
//! # Reading order
//!
//! 1. [`Simulator`] and [`Options`] (`simulator.rs`): the handle that programs and tests use.
//! 2. [`facebook`], [`people`], [`token`], [`pages`] and [`conversation`]: the state of the simulated Facebook.
//! 3. [`webhook_fields`], [`delivery`], [`delivery_counts`] and `sender`: the deliveries that
//!    changes cause.
//! 4. `graph` and `dialog`: the answers to the app and to browsers. [`errors`], [`graph_faults`]
//!    and [`scripted_reply`] make the answers of Graph fail.
//! 5. `control` (the calls under `/_sim`), [`scenario`] and [`signed_request`]: the actions of an
//!    operator.
//! 6. `server`: the router of the whole simulator.
//! 7. [`browser`]: a client that completes one login.

pub mod browser;
pub mod bytes;
pub mod conversation;
pub mod delivery;
pub mod delivery_counts;
pub mod errors;
pub mod facebook;
pub mod graph_faults;
pub mod pages;
pub mod people;
pub mod scenario;
pub mod scripted_reply;
pub mod signed_request;
pub mod simulator_error;
pub mod token;
pub mod webhook_fields;

mod clock;
mod control;
mod dialog;
mod edge_names;
mod graph;
mod page_fields;
mod sender;
mod server;
mod simulator;
mod tls;

pub use self::server::{router, serve};
pub use self::simulator::{Options, Simulator};
