//! `pagesync alert ...`: lists, tests and snoozes the problems of which the operator is told.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::config::Config;
use common::records::alert;
use common::store::Store;
use common::timestamp::rfc3339;
use common::views::alert::alert_view;
use scheduler::alerts::{Channels, Message};
use serde_json::Value as Json;

use crate::cli::AlertCommand;
use crate::output::{self, Format, Row, cell, print_listing};

/// Runs one of the commands that use the store.
pub async fn run(store: &dyn Store, command: AlertCommand, format: Format) -> anyhow::Result<()> {
    match command {
        AlertCommand::List => list(store, format).await,
        AlertCommand::Test => bail!("this command does not use the store"),
        AlertCommand::Snooze { id, hours } => snooze(store, &id, hours).await,
    }
}

async fn list(store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for stored in alert::list(store).await? {
        let view = alert_view(&stored.value);
        let optional = |text: Option<&str>| cell(&Json::from(text), 30);
        let cells = vec![
            view.id.clone(),
            view.state.name().to_owned(),
            view.opened_at.clone(),
            optional(view.client.as_deref()),
            optional(view.snoozed_until.as_deref()),
            cell(&Json::from(view.cause.as_str()), 60),
        ];
        rows.push(Row::new(cells, &view));
    }
    let header = ["id", "state", "since", "client", "snoozed until", "cause"];
    print_listing(format, &header, &rows)
}

/// Sends a test message to each channel. Fails if one does not accept it.
pub async fn test(config: &Config) -> anyhow::Result<()> {
    if config.alert.is_empty() {
        bail!(
            "no channel is configured on this host: set PAGESYNC_ALERT_URL, or PAGESYNC_ALERT_EMAIL and PAGESYNC_SMTP_URL"
        );
    }
    let channels = Channels::new(&config.alert)?;
    let message = Message::test(config.deployment_name.as_deref());
    let mut failed = 0;
    for channel in channels.list() {
        match channels.send(channel, &message).await {
            Ok(()) => output::print(&format!("{}: accepted a test message", channel.name()))?,
            Err(error) => {
                failed += 1;
                output::print_error(&format!("{}: {error}", channel.name()));
            }
        }
    }
    if config.alert.heartbeat_url.is_some() {
        match channels.heartbeat().await {
            Ok(()) => output::print("heartbeat: accepted a call")?,
            Err(error) => {
                failed += 1;
                output::print_error(&format!("heartbeat: {error}"));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of the configured addresses did not accept a test");
    }
    Ok(())
}

async fn snooze(store: &dyn Store, id: &str, hours: u16) -> anyhow::Result<()> {
    let until = Clock::system()
        .now()
        .plus(Duration::from_secs(u64::from(hours) * 3600));
    let changed = alert::change(store, id, |alert| alert.snoozed_until = Some(until)).await?;
    let alert = changed.context("no problem has this id: `pagesync alert list` shows the ids")?;
    output::print(&format!(
        "no reminders of {} until {}; you still get a message when it is resolved",
        alert.id(),
        rfc3339(until)
    ))
}
