//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::output::Format;

/// Keep a current copy of the Facebook Pages that an app manages.
#[derive(Debug, Parser)]
#[command(name = "pagesync", version, propagate_version = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
    /// The format of the output.
    #[arg(long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run pagesync for a minute on a simulated Facebook, without RabbitMQ and Redis.
    Demo {
        /// For how many seconds the Pages change.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
        seconds: u64,
    },
    /// Run all roles in one process, on one database file.
    Up,
    /// Run ingress: receive webhooks and logins (distributed backend).
    Ingress,
    /// Run a worker: execute jobs and call Facebook (distributed backend).
    Worker,
    /// Run the scheduler: publish due polls (distributed backend).
    Scheduler,
    /// Serve the HTTP API on the private listener (distributed backend; `up` serves it, too).
    Api,
    /// Run the Facebook simulator (login dialog, Graph API, control API).
    Simulator {
        /// A scenario file to play; services/simulator/scenarios has examples.
        #[arg(long)]
        scenario: Option<PathBuf>,
    },
    /// Check whether the running process is ready, for health checks.
    Health,
    /// Write .env from the answers to five questions; with --secrets, write the secrets of a
    /// compose deployment instead.
    Init {
        /// The directory for the secrets of all services. Existing secrets stay, unless the
        /// environment contains others.
        #[arg(long, requires = "worker_secrets")]
        secrets: Option<PathBuf>,
        /// The directory for the secrets that only the worker may read.
        #[arg(long, requires = "secrets")]
        worker_secrets: Option<PathBuf>,
    },
    /// List, show, poll or disconnect connections, or invite people to connect.
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// List or revoke invitations.
    #[command(subcommand)]
    Invitation(InvitationCommand),
    /// Show the next due polls and the results of the daily polls.
    Schedule,
    /// Show how many changes webhooks announced, and which changes were missed.
    Missed {
        /// How many local days to include, ending today.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=90))]
        days: u32,
    },
    /// Show the last changes of all Pages, the newest last.
    Changes {
        /// Show the changes after this cursor, the oldest first, instead of the newest ones.
        #[arg(long)]
        after: Option<String>,
        /// The largest number of entries to show.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        limit: u16,
        /// Go on, and show each change when it is stored, until a signal.
        #[arg(long)]
        follow: bool,
    },
    /// Create, list or revoke keys of the HTTP API.
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// List, test, pause, resume or replay the destinations to which changes are posted.
    #[command(subcommand)]
    Destination(DestinationCommand),
    /// List, test or snooze the problems of which the operator is told.
    #[command(subcommand)]
    Alert(AlertCommand),
    /// Show who did what with the HTTP API, the newest first.
    Audit {
        /// The largest number of actions to show.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
        limit: u16,
    },
    /// Print the description of the HTTP API (OpenAPI 3.1).
    Openapi,
    /// Erase Pages or people, also from the disk.
    #[command(subcommand)]
    Erase(EraseCommand),
    /// Check the deployment, and print problems and their fixes.
    Doctor,
    /// Generate or rotate the keys that seal tokens.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Register, list, show, explain or poll Pages.
    #[command(subcommand)]
    Page(PageCommand),
    /// List, show, replay or discard jobs that failed for good.
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
}

/// Commands on the keys of the HTTP API.
#[derive(Debug, Subcommand)]
pub enum ApiKeyCommand {
    /// Create a key and print it. It is not stored and cannot be shown again.
    Create {
        /// A name by which you recognize the key.
        #[arg(long)]
        name: String,
        /// What the key allows.
        #[arg(long, value_enum)]
        scope: KeyScope,
        /// Let the key see only this Page; can be repeated.
        #[arg(long = "page")]
        pages: Vec<String>,
        /// Let the key see only the Pages and connections of this client.
        #[arg(long)]
        client: Option<String>,
        /// After how many days the key ends; without it, the key does not end.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3650))]
        days: Option<u64>,
    },
    /// List the keys, also those that have ended or were revoked.
    List,
    /// Revoke a key. It works for at most five more seconds.
    Revoke {
        /// The id of the key, from the list.
        id: String,
    },
}

/// Commands on the destinations of changes.
#[derive(Debug, Subcommand)]
pub enum DestinationCommand {
    /// List the destinations that are configured on this host.
    List,
    /// Post a test message to a destination.
    Test {
        /// The name of the destination.
        #[arg(default_value = "default")]
        name: String,
    },
    /// Pause a destination. Its changes wait in the feed.
    Pause {
        /// The name of the destination.
        #[arg(default_value = "default")]
        name: String,
    },
    /// Resume a destination that was paused or that is failing.
    Resume {
        /// The name of the destination.
        #[arg(default_value = "default")]
        name: String,
    },
    /// Post the changes after a cursor again.
    Replay {
        /// The name of the destination.
        #[arg(default_value = "default")]
        name: String,
        /// The cursor, from `changes` or from an earlier post.
        #[arg(long)]
        after: String,
    },
}

/// Commands on the problems of which the operator is told.
#[derive(Debug, Subcommand)]
pub enum AlertCommand {
    /// List the open problems, and those that were resolved within the last hour.
    List,
    /// Send a test message to each channel that is configured on this host, and call the heartbeat.
    Test,
    /// Send no reminders of a problem for a time.
    Snooze {
        /// The id of the problem, from the list.
        id: String,
        /// For how many hours.
        #[arg(long, default_value_t = 168, value_parser = clap::value_parser!(u16).range(1..=8760))]
        hours: u16,
    },
}

/// What a key of the HTTP API allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyScope {
    /// Reading.
    Read,
    /// Reading and actions.
    Operate,
    /// The tokens of Pages, from the listener `PAGESYNC_TOKEN_LISTEN` of the worker, and nothing else.
    Token,
}

/// Commands on the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every setting, its value (secrets are hidden) and its origin.
    Show,
    /// Print the text of .env.example.
    Example,
}

/// Commands on connections.
#[derive(Debug, Subcommand)]
pub enum ConnectionCommand {
    /// List the connections.
    List {
        /// List only connections that end within this many days, as in `14d`, with the number of
        /// Pages that would be lost.
        #[arg(long, value_parser = parse_days)]
        expiring: Option<u64>,
        /// List only connections of this client.
        #[arg(long)]
        client: Option<String>,
    },
    /// Show the permissions, Pages, polls and problems of a connection.
    Show {
        /// The id of the person, from the list.
        id: String,
    },
    /// Request a read of all Pages of a connection now.
    Poll {
        /// The id of the person, from the list.
        id: String,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a connection and its tokens, and remove the app from the Pages to which nobody else gives
    /// access, if the tokens can be opened here. The stored values of the Pages stay.
    Disconnect {
        /// The id of the person, from the list.
        id: String,
        /// Also revoke the permissions that the person gave the app at Facebook. This also ends the
        /// access of a bot that uses the same app.
        #[arg(long)]
        revoke: bool,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the address where one person connects their Pages.
    Invite {
        /// For how many days the invitation is valid (with `PAGESYNC_LOGIN=invited` or a client).
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=90))]
        days: u64,
        /// Ask again for permissions that the person declined before.
        #[arg(long)]
        rerequest: bool,
        /// The client whose Pages the person connects. It is kept with the connection and its Pages.
        #[arg(long)]
        client: Option<String>,
        /// The address that the person sees as a link when the login is complete (https).
        #[arg(long)]
        return_to: Option<String>,
    },
    /// Connect the owner of an access token, such as a system user, and wait for the result. The token
    /// is read from standard input, or from a file, and never from an argument.
    Import {
        /// The file that contains the token.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Log in at a simulated Facebook and allow everything, for demos.
    #[command(hide = true)]
    SimulateLogin {
        /// The address at which this host reaches the public listener.
        #[arg(long)]
        ingress: String,
    },
}

/// Commands on invitations.
#[derive(Debug, Subcommand)]
pub enum InvitationCommand {
    /// List the invitations, also those that were used, revoked, or have expired.
    List {
        /// List only invitations of this client.
        #[arg(long)]
        client: Option<String>,
    },
    /// Revoke an invitation, so that nobody can use it any more.
    Revoke {
        /// The id of the invitation, from the list.
        id: String,
    },
}

/// Parses a number of days, as in `14d`.
fn parse_days(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('d').and_then(|days| days.parse().ok());
    number.ok_or_else(|| "not a number of days such as 14d".to_owned())
}

/// Commands on the keys that seal tokens.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Print a new key pair: the public key for ingress, the private key for the worker.
    Generate,
    /// Seal every token to the newest key, while other processes run; create the key in a key file.
    Rotate {
        /// Do not create a new key. Delete the older keys of the key file if no token needs them.
        #[arg(long)]
        drop_old: bool,
    },
}

/// Commands that erase.
#[derive(Debug, Subcommand)]
pub enum EraseCommand {
    /// Erase Pages. A later login or `page add` registers them again, without the erased values.
    Page {
        /// The ids of the Pages.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Erase a person: their connection, their tokens, and every Page to which no other connection
    /// gives access.
    Connection {
        /// The id of the person, from `connection list`.
        id: String,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Commands on Pages.
#[derive(Debug, Subcommand)]
pub enum PageCommand {
    /// Register Pages, so that their webhooks are applied.
    Add {
        /// The ids of the Pages.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// List every Page.
    List {
        /// List only Pages of this client.
        #[arg(long)]
        client: Option<String>,
    },
    /// Show every field of a Page.
    Show {
        /// The id of the Page.
        id: String,
    },
    /// Explain in sentences where each value comes from and when the Page is read next.
    Explain {
        /// The id of the Page.
        id: String,
    },
    /// Request a read of Pages now.
    Poll {
        /// The ids of the Pages.
        #[arg(required = true)]
        ids: Vec<String>,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the last changes of a Page.
    History {
        /// The id of the Page.
        id: String,
    },
}

/// Commands on dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List the dead letters.
    List,
    /// Show a dead letter and the job that failed.
    Show {
        /// The id of the dead letter.
        id: String,
    },
    /// Publish the jobs of dead letters again.
    Replay {
        /// The ids of the dead letters.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// Replay every dead letter.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Also replay deliveries that were too old to be forwarded. A bot may answer them.
        #[arg(long)]
        deliveries: bool,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete dead letters.
    Discard {
        /// The ids of the dead letters.
        #[arg(required_unless_present = "all")]
        ids: Vec<String>,
        /// Delete every dead letter, and the counts of the jobs that were only counted.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        /// Only print what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}
