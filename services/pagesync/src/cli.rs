//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::output::Format;

/// Keeps an exact, explained copy of the Facebook Pages an app manages.
#[derive(Debug, Parser)]
#[command(name = "pagesync", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on a simulated Facebook, with no server and nothing left behind.
    Demo {
        /// How long to play.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
        seconds: u64,
    },
    /// Run everything in this process, on the embedded database.
    Up,
    /// Take webhooks and logins (distributed backend).
    Ingress,
    /// Apply what the queue holds, ask Facebook (distributed backend).
    Worker,
    /// Publish the polls that are due (distributed backend).
    Scheduler,
    /// Be Facebook: dialog, Graph, and /_sim to change things; webhooks follow.
    Simulator {
        /// What goes wrong, and when; services/simulator/scenarios has some.
        #[arg(long)]
        scenario: Option<PathBuf>,
    },
    /// Ask the process on the private listener whether it is ready; for health checks.
    Health,
    /// Ask four questions and write .env; or, with --secrets, write the secrets of a compose
    /// deployment into directories, keeping what is there.
    Init {
        /// Where the secrets of all services go.
        #[arg(long, requires = "worker_secrets")]
        secrets: Option<PathBuf>,
        /// Where the secrets of the worker alone go.
        #[arg(long, requires = "secrets")]
        worker_secrets: Option<PathBuf>,
    },
    /// Work with logins.
    #[command(subcommand)]
    Connect(ConnectCommand),
    /// What is due next, and how the daily polls went.
    Schedule,
    /// How many changes webhooks announced, and which they did not.
    Drift {
        /// How many local days, today included.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=90))]
        days: u32,
    },
    /// Work with the tokens people gave.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Erase what is known of Pages or people, on the disk, too.
    #[command(subcommand)]
    Purge(PurgeCommand),
    /// Check everything: configuration, keys, broker, store, clock, tokens, subscriptions, address.
    Doctor,
    /// Work with the keys that tokens are sealed with.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Work with Pages.
    #[command(subcommand)]
    Page(PageCommand),
    /// Work with jobs that could not be done.
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
}

/// Look at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Every setting, its value (secrets hidden) and where it is from.
    Show,
    /// The text of .env.example.
    Example,
}

/// Work with logins.
#[derive(Debug, Subcommand)]
pub enum ConnectCommand {
    /// The address where people connect their Pages; an invitation where logins need one.
    Url {
        /// How many days an invitation is good.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
    },
    /// Everybody who connected.
    List,
    /// One connection: permissions, Pages, last walk, problems.
    Show {
        /// Id of the person, from the list.
        id: String,
    },
    /// Read all Pages of a connection now.
    Poll {
        /// Id of the person, from the list.
        id: String,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Forget the tokens of a connection. Its Pages stay with what is known of them.
    Disconnect {
        /// Id of the person, from the list.
        id: String,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Log in at a simulated Facebook and allow everything; for demos.
    #[command(hide = true)]
    Simulated {
        /// Our public listener, as this machine reaches it.
        #[arg(long)]
        ingress: String,
    },
}

/// Work with the keys that tokens are sealed with.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Print a new pair for .env: the public key for ingress, the private key for the worker.
    Generate,
    /// Seal every token to the current key. Safe to repeat; the running processes go on.
    Rotate {
        /// Afterwards forget the older keys of the embedded key file, if nothing needs them.
        #[arg(long)]
        drop_old: bool,
    },
}

/// Work with the tokens people gave.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// When each login ends, and which Pages go with it.
    Forecast,
}

/// Erase what is known of Pages or people, on the disk, too.
#[derive(Debug, Subcommand)]
pub enum PurgeCommand {
    /// Erase Pages. They stay away until somebody who manages them logs in again, or `page add`.
    Page {
        /// Page ids.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Erase a person: tokens, connection, and the Pages nobody else covers.
    #[command(visible_alias = "user")]
    Connection {
        /// Id of the person, from `connect list`.
        id: String,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Work with Pages.
#[derive(Debug, Subcommand)]
pub enum PageCommand {
    /// Register Pages, so that their webhooks are kept.
    Add {
        /// Page ids.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Every Page.
    List,
    /// What is known of a Page, field by field.
    Show {
        /// Page id.
        id: String,
    },
    /// Why each field has its value, and when the Page is read next.
    Explain {
        /// Page id.
        id: String,
    },
    /// Read Pages at Facebook now.
    Poll {
        /// Page ids.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// The last changes of a Page.
    History {
        /// Page id.
        id: String,
    },
}

/// Work with jobs that could not be done.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// Every dead letter.
    List,
    /// One dead letter with what came over the wire.
    Show {
        /// Its id.
        id: String,
    },
    /// Put jobs into the queue again.
    Replay {
        /// Ids of dead letters.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// Every dead letter there is now.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove dead letters for good.
    Discard {
        /// Ids of dead letters.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}
