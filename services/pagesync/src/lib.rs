//! The executable's library: command line, roles, operator commands, demo.
//!
//! Commands are skins: the verbs are in `common`, beside their nouns.

pub mod cast;
pub mod cli;
pub mod dead_letter;
pub mod demo;
pub mod environment;
pub mod init;
pub mod output;
pub mod page;
pub mod roles;

use anyhow::Context as _;
use common::backends::{Backends, open_store};
use common::clock::Clock;
use common::config::{Config, Role, settings};
use common::database::Access;
use common::telemetry::init_logs;

use cli::{Cli, Command, ConfigCommand};
use output::Format;

/// Does what the command line asks for.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let environment = environment::snapshot()?;
    let config = |role| Config::read(&environment, role);
    match cli.command {
        Command::Up => roles::run(&config(Role::Up)?, Role::Up).await,
        Command::Ingress => roles::run(&config(Role::Ingress)?, Role::Ingress).await,
        Command::Worker => roles::run(&config(Role::Worker)?, Role::Worker).await,
        Command::Simulator => roles::simulator(&config(Role::Simulator)?).await,
        Command::Health => roles::health(&config(Role::Command)?).await,
        Command::Demo { seconds } => demo::run(seconds, cli.output).await,
        Command::Init { secrets } => init::run(&secrets, &environment),
        Command::Config(ConfigCommand::Show) => {
            config(Role::Command)?;
            let rows = settings::shown(&environment);
            output::print(&output::settings(cli.output, &rows))
        }
        Command::Config(ConfigCommand::Example) => output::print(&settings::env_example()),
        Command::Page(command) => {
            let config = config(Role::Command)?;
            init_logs("error", config.log_format);
            let store = open_store(&config, Clock::system()).context("cannot open the store")?;
            page::run(&*store, command, cli.output).await
        }
        Command::DeadLetter(command) => {
            let config = config(Role::Command)?;
            init_logs("error", config.log_format);
            let opened = Backends::open(&config, "command", Access::Guest, Clock::system()).await;
            let backends = opened.context("cannot open queue and store")?;
            dead_letter::run(&backends, command, cli.output).await
        }
    }
}

/// How many rows a listing command asks for at once.
const LISTING: usize = 500;

/// Prints rows in the format asked for.
fn listing(
    format: Format,
    header: &[&str],
    rows: &[(Vec<String>, serde_json::Value)],
) -> anyhow::Result<()> {
    output::print(&output::listing(format, header, rows))
}
