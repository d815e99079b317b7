//! The simulated Graph API.
//!
//! [`handler`] receives every request and builds its response. [`dispatch`] passes the call in it
//! to an edge: [`oauth`], [`accounts`], [`objects`], [`messages`] or [`subscriptions`].

mod accounts;
mod answer_fault;
mod authentication;
mod batch;
mod call;
mod dispatch;
mod fields;
mod handler;
mod lists;
mod messages;
mod oauth;
mod objects;
mod page_object;
mod parameters;
mod refusal;
mod response;
mod subscriptions;
mod version;

pub(crate) use handler::handle;
