//! The kinds of records beside Pages: one file, one kind and its verbs over `&dyn Store`. Commands
//! and services are skins on these functions.

pub mod dead_letter;
