//! `pagesync destination ...`: lists, tests, pauses, resumes and replays the destinations of changes.

use anyhow::{Context as _, bail};
use api::push::{Message, Poster};
use common::clock::Clock;
use common::config::Config;
use common::config::destination::DestinationConfig;
use common::records::destination::{self, Destination};
use common::store::{Changes, Cursor, Store};
use common::views::destination::destination_view;
use model::time::HostTime;
use serde_json::Value as Json;

use crate::cli::DestinationCommand;
use crate::output::{self, Format, Row, cell, print_listing};

/// Runs one of the commands.
pub async fn run(
    config: &Config,
    store: &dyn Store,
    command: DestinationCommand,
    format: Format,
) -> anyhow::Result<()> {
    match command {
        DestinationCommand::List => list(config, store, format).await,
        DestinationCommand::Test { name } => test(configured(config, &name)?).await,
        DestinationCommand::Pause { name } => {
            let name = &configured(config, &name)?.name;
            destination::change(store, name, |state| state.is_paused = true).await?;
            output::print(&format!(
                "paused {name}: changes wait in the feed, which stores the last 100,000"
            ))
        }
        DestinationCommand::Resume { name } => {
            let name = &configured(config, &name)?.name;
            destination::change(store, name, resume).await?;
            output::print(&format!(
                "resumed {name}: the waiting changes are posted now"
            ))
        }
        DestinationCommand::Replay { name, after } => {
            let name = &configured(config, &name)?.name;
            replay(store, name, &after).await
        }
    }
}

/// Lets the next attempt be made at once.
fn resume(state: &mut Destination) {
    (state.is_paused, state.retry_at) = (false, HostTime(0));
}

fn configured<'a>(config: &'a Config, name: &str) -> anyhow::Result<&'a DestinationConfig> {
    let mut all = config.destinations.iter();
    all.find(|destination| destination.name == name).context(
        "there is no such destination here: PAGESYNC_CHANGES_URL sets the destination `default`, and PAGESYNC_DESTINATIONS further ones",
    )
}

async fn list(config: &Config, store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let now = store.now().await?;
    let mut rows = Vec::new();
    for DestinationConfig { name, .. } in &config.destinations {
        let view = destination_view(name, &destination::find(store, name).await?.value, now);
        let optional = |text: Option<&str>| cell(&Json::from(text), 60);
        let cells = vec![
            view.name.clone(),
            view.state.name().to_owned(),
            view.delivered.to_string(),
            optional(view.last_delivered_at.as_deref()),
            view.failures.to_string(),
            optional(view.last_failure.as_deref()),
            optional(view.retry_at.as_deref()),
        ];
        rows.push(Row::new(cells, &view));
    }
    let header = [
        "destination",
        "state",
        "delivered",
        "last at",
        "failures",
        "last failure",
        "next attempt",
    ];
    print_listing(format, &header, &rows)
}

/// Posts a test message. Fails if it is not accepted.
async fn test(destination: &DestinationConfig) -> anyhow::Result<()> {
    let clock = Clock::system();
    let message = Message::of_test(clock.now().0);
    Poster::new(destination, clock)?.post(&message).await?;
    output::print(&format!("{} accepted a test message", destination.name))
}

/// Moves the cursor of a destination back, so that the changes after it are posted again.
async fn replay(store: &dyn Store, name: &str, after: &str) -> anyhow::Result<()> {
    let cursor = Cursor::parse(after).context("a cursor has the form <epoch>.<number>")?;
    if let Changes::Trimmed(newest) = store.changes_after(Some(&cursor), 1).await? {
        bail!("the changes after this cursor are no longer stored; the newest cursor is {newest}");
    }
    destination::change(store, name, |state| {
        state.cursor = Some(cursor.to_string());
        resume(state);
    })
    .await?;
    output::print(&format!(
        "the changes after {cursor} are posted to {name} again"
    ))
}
