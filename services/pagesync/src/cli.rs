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
    /// Take webhooks (distributed backend).
    Ingress,
    /// Apply what the queue holds (distributed backend).
    Worker,
    /// Be Facebook: /_sim/pages changes Pages, webhooks follow.
    Simulator,
    /// Ask the process on the private listener whether it is ready; for health checks.
    Health,
    /// Write the secrets of a compose deployment into a directory. Keeps what is there.
    Init {
        /// Where.
        #[arg(long)]
        secrets: PathBuf,
    },
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
