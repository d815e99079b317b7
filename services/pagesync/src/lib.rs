//! The library of the executable: the command line, the roles, the commands and the demo.
//!
//! Commands only read their arguments, call an operation of `common`, and print the result.

pub mod alert;
pub mod api_key;
pub mod audit;
pub mod changes;
pub mod cli;
pub mod connection;
pub mod dead_letter;
pub mod demo;
pub mod demo_pages;
pub mod destination;
pub mod doctor;
pub mod environment;
pub mod erase;
pub mod health;
pub mod import;
pub mod init;
pub mod init_secrets;
pub mod invitation;
pub mod keys;
pub mod missed;
pub mod output;
pub mod page;
pub mod roles;
pub mod schedule;
pub mod unsubscribe;

use std::sync::Arc;

use anyhow::Context as _;
use common::backends::{Backends, open_store};
use common::clock::Clock;
use common::config::settings::{self, Environment};
use common::config::shown;
use common::config::{Config, LoginPolicy, Role};
use common::database::Access;
use common::store::Store;
use common::telemetry::init_logs;

use cli::{AlertCommand, Cli, Command, ConfigCommand, ConnectionCommand, KeysCommand};
use environment::Snapshot;
use output::Format;

/// Runs the command that `cli` contains.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    common::tls::install_provider();
    let snapshot = environment::snapshot()?;
    let environment = &snapshot.environment;
    let config = |role| Config::read(environment, role);
    match cli.command {
        Command::Up => roles::run(&config(Role::Up)?, Role::Up).await,
        Command::Ingress => roles::run(&config(Role::Ingress)?, Role::Ingress).await,
        Command::Worker => roles::run(&config(Role::Worker)?, Role::Worker).await,
        Command::Scheduler => roles::run(&config(Role::Scheduler)?, Role::Scheduler).await,
        Command::Api => roles::run(&config(Role::Api)?, Role::Api).await,
        Command::Openapi => output::print(&api::description()),
        Command::Simulator { scenario } => {
            roles::simulator(&config(Role::Simulator)?, scenario.as_deref()).await
        }
        Command::Health => health::check(&config(Role::Command)?).await,
        Command::Demo { seconds } => demo::run(seconds, cli.output).await,
        Command::Init {
            secrets: Some(secrets),
            worker_secrets: Some(worker),
        } => init_secrets::run(&secrets, &worker, environment),
        Command::Init { .. } => init::run(),
        Command::Keys(KeysCommand::Generate) => keys::generate(),
        Command::Connection(command) => run_connection(environment, command, cli.output).await,
        Command::Alert(AlertCommand::Test) => alert::test(&config(Role::Command)?).await,
        Command::Doctor => doctor::run(environment, cli.output).await,
        Command::Config(ConfigCommand::Show) => show_config(&snapshot, cli.output),
        Command::Config(ConfigCommand::Example) => output::print(&settings::env_example()),
        Command::DeadLetter(command) => {
            let config = config(Role::Command)?;
            init_logs("error", config.log_format);
            let opened = Backends::open(&config, "command", Access::Shared, Clock::system()).await;
            let backends = opened.context("cannot open queue and store")?;
            dead_letter::run(&backends, command, cli.output).await
        }
        command => run_on_store(environment, command, cli.output).await,
    }
}

/// Runs a command that needs only the store.
async fn run_on_store(
    environment: &Environment,
    command: Command,
    format: Format,
) -> anyhow::Result<()> {
    let (config, store) = config_and_store(environment)?;
    let store = &*store;
    match command {
        Command::Keys(KeysCommand::Rotate { drop_old }) => {
            keys::rotate(&config, store, drop_old).await
        }
        Command::Invitation(command) => invitation::run(store, command, format).await,
        Command::Schedule => schedule::run(&config, store, format).await,
        Command::Erase(command) => erase::run(&config, store, command, format).await,
        Command::Missed { days } => missed::run(&config, store, days, format).await,
        Command::Changes {
            after,
            limit,
            follow,
        } => {
            let limit = usize::from(limit);
            changes::run(store, after.as_deref(), limit, follow, format).await
        }
        Command::Destination(command) => destination::run(&config, store, command, format).await,
        Command::Alert(command) => alert::run(store, command, format).await,
        Command::ApiKey(command) => api_key::run(store, command, format).await,
        Command::Audit { limit } => audit::run(store, usize::from(limit), format).await,
        Command::Page(command) => page::run(store, command, format).await,
        _ => anyhow::bail!("this command does not use the store"),
    }
}

/// Runs a command on connections. Opens the store only if the command needs it.
async fn run_connection(
    environment: &Environment,
    command: ConnectionCommand,
    format: Format,
) -> anyhow::Result<()> {
    let config = Config::read(environment, Role::Command)?;
    let is_open = config.login_policy == LoginPolicy::Open;
    let needs_store = match &command {
        ConnectionCommand::SimulateLogin { .. } => false,
        // An open login without a client needs no invitation.
        ConnectionCommand::Invite {
            client: None,
            return_to: None,
            ..
        } => !is_open,
        _ => true,
    };
    let store = if needs_store {
        Some(config_and_store(environment)?.1)
    } else {
        None
    };
    connection::run(&config, store.as_deref(), command, format).await
}

/// Prints every setting. Fails if the configuration of a command is invalid.
fn show_config(snapshot: &Snapshot, format: Format) -> anyhow::Result<()> {
    Config::read(&snapshot.environment, Role::Command)?;
    let rows = shown::shown(&snapshot.environment, &snapshot.dotenv_keys);
    output::print(&output::settings(format, &rows))
}

/// Returns the configuration and the store for a command. Other processes may use the store at the
/// same time.
fn config_and_store(environment: &Environment) -> anyhow::Result<(Config, Arc<dyn Store>)> {
    let config = Config::read(environment, Role::Command)?;
    init_logs("error", config.log_format);
    let store = open_store(&config, Clock::system()).context("cannot open the store")?;
    Ok((config, store))
}
