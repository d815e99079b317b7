//! The second act: Facebook loses three webhooks in ten, a password is changed, a person logs in again,
//! and the drift meter names exactly what was lost.

use std::time::Duration;

use anyhow::Context as _;
use common::clock::Clock;
use common::records::{connection, drift as meter, forecast};
use model::drift::GRACE;
use serde_json::json;
use simulator::delivery::Faults;
use simulator::facebook::kill;
use simulator::scenario::Death;
use tokio::time::Instant;

use super::{PATIENCE, Stage};
use crate::cast::CAST;
use crate::{drift, output};

/// Fields that have a webhook, each changed once on every Page.
const FIELDS: [&str; 5] = ["name", "phone", "website", "description", "hours"];

impl Stage {
    /// Plays it.
    pub(super) async fn prove(&self, public: &str) -> anyhow::Result<()> {
        let before = meter::report(self.store(), "", Clock::system().now())
            .await?
            .all;
        let lost = self.lose().await?;
        // Facebook's clock has whole seconds: what follows is a later one.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.end_of_tokens().await?;
        self.say("the person logs in again")?;
        self.connect(public).await?;
        let begun = Instant::now();
        let report = loop {
            let report = meter::report(self.store(), "", Clock::system().now()).await?;
            let all = &report.all;
            let found = all.captured + all.late + all.open - before.captured - before.late;
            if found >= (CAST.len() * FIELDS.len()) as u64 {
                break report;
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "not every change was found: {all:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        anyhow::ensure!(
            report.all.open == lost,
            "Facebook lost {lost} webhooks, and the meter found {}",
            report.all.open
        );
        self.say(&format!(
            "the walk of the login read every Page: {lost} changes had not been announced, as many as were lost"
        ))?;
        let later = Clock::system().now().plus(GRACE);
        let report = meter::report(self.store(), "", later).await?;
        output::print("\n`pagesync drift`, as it will be in an hour, when the grace is over:\n")?;
        output::print(&drift::table(&report, later))
    }

    fn store(&self) -> &dyn common::store::Store {
        &*self.backends.store
    }

    /// Changes everything once while three webhooks in ten are lost. Answers with how many were.
    async fn lose(&self) -> anyhow::Result<u64> {
        self.simulator.set_faults(Faults {
            loss: 0.3,
            ..self.simulator.faults()
        });
        for cast in CAST {
            for field in FIELDS {
                let value = json!({ field: format!("{field} of the second act") });
                let fields = value.as_object().cloned().unwrap_or_default();
                let changed = self.simulator.change(cast.id, fields);
                changed.map_err(anyhow::Error::msg)?;
            }
        }
        self.simulator.tally().settled().await;
        let lost = self.simulator.tally().lost();
        self.say(&format!(
            "{} changes while Facebook loses three webhooks in ten: {lost} are lost",
            CAST.len() * FIELDS.len()
        ))?;
        self.simulator.set_faults(Faults::default());
        Ok(lost)
    }

    /// A password is changed, and with it every token ends.
    async fn end_of_tokens(&self) -> anyhow::Result<()> {
        let death = Death {
            user: None,
            page: None,
            subcode: 460,
        };
        kill(&mut self.simulator.facebook(), &death);
        let now = Clock::system().now();
        let people = connection::list(self.store()).await?;
        let person = people.first().context("nobody is connected")?;
        connection::ask(self.store(), &person.user, now).await?;
        let begun = Instant::now();
        loop {
            let forecasts = forecast::all(self.store(), now).await?;
            let forecast = forecasts.first().context("nobody is connected")?;
            if forecast.status == connection::Status::NeedsLogin {
                let name = forecast.name.as_deref().unwrap_or("the person");
                return self.say(&format!(
                    "{name} changes the password at Facebook, every token ends: {}, and {} Pages go with it; webhooks are still kept",
                    forecast.status, forecast.takes_down_count
                ));
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "the end of the tokens was not noticed"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
