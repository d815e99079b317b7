//! The ground every service of pagesync stands on, and the only crate that names a driver.
//!
//! Reading order: [`queue`] and [`store`] are the two traits, each with two backends;
//! [`pages`] and [`records`] are the verbs on what is kept; [`graph`] asks Facebook, [`custody`] keeps
//! its tokens; [`slots`] knows local days; [`backends`] picks a backend;
//! the rest is what a process needs to live: [`config`], [`clock`], [`lifecycle`], [`http`],
//! [`telemetry`], [`tls`], [`database`].

pub mod backends;
pub mod clock;
pub mod config;
pub mod daily_schedule;
pub mod database;
pub mod graph;
pub mod http;
pub mod invitation;
pub mod lifecycle;
pub mod pages;
pub mod queue;
pub mod records;
pub mod retry;
pub mod sealing;
pub mod store;
pub mod telemetry;
pub mod timestamp;
pub mod tls;
pub mod views;
