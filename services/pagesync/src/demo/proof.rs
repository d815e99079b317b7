//! The second act: Facebook loses three webhooks in ten, a password is changed, a person logs in again,
//! and the drift meter names exactly what was lost.

use std::time::Duration;

use anyhow::Context as _;
use common::clock::Clock;
use common::records::missed_webhooks::Report;
use common::records::{connection, expiry, missed_webhooks as meter};
use common::views::missed::missed_view;
use model::announcements::NOTIFICATION_GRACE;
use serde_json::json;
use simulator::delivery::DeliveryFaults;
use simulator::token::TokenInvalidation;
use tokio::time::Instant;

use super::{PATIENCE, Stage};
use crate::demo_pages::DEMO_PAGES;
use crate::{missed, output};

/// Fields that have a webhook, and that the first act left alone, each changed once on every Page:
/// several changes between two reads would be one.
const FIELDS: [&str; 5] = ["category", "description", "emails", "location", "website"];

/// How many changes of these fields were announced, and how many only found.
fn found(report: &Report) -> (u64, u64) {
    let of = FIELDS.iter().filter_map(|field| report.fields.get(*field));
    of.fold((0, 0), |(announced, open), counts| {
        (
            announced + counts.captured + counts.late,
            open + counts.open,
        )
    })
}

impl Stage {
    /// Plays it.
    pub(super) async fn prove(&self, public: &str) -> anyhow::Result<()> {
        let lost = self.lose().await?;
        // Facebook's clock has whole seconds: what follows is a later one.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.end_of_tokens().await?;
        self.say("the person logs in again")?;
        self.connect(public).await?;
        let begun = Instant::now();
        let changes = (DEMO_PAGES.len() * FIELDS.len()) as u64;
        let open = loop {
            let report = meter::report(self.store(), "", Clock::system().now()).await?;
            let (announced, open) = found(&report);
            if announced + open >= changes {
                break open;
            }
            anyhow::ensure!(
                begun.elapsed() < PATIENCE,
                "of {changes} changes only {announced} were captured and {open} found"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        anyhow::ensure!(
            open == lost,
            "Facebook lost {lost} webhooks, and the meter found {open}"
        );
        self.say(&format!(
            "the walk of the login read every Page: {open} changes had not been announced, as many as were lost"
        ))?;
        let later = Clock::system().now().plus(NOTIFICATION_GRACE);
        let report = meter::report(self.store(), "", later).await?;
        output::print("\n`pagesync missed`, as it will be in an hour, when the grace is over:\n")?;
        output::print(&missed::text(&missed_view(&report, later)))
    }

    fn store(&self) -> &dyn common::store::Store {
        &*self.backends.store
    }

    /// Changes everything once while three webhooks in ten are lost. Answers with how many were.
    async fn lose(&self) -> anyhow::Result<u64> {
        self.simulator.set_delivery_faults(DeliveryFaults {
            loss: 0.3,
            ..self.simulator.delivery_faults()
        });
        for cast in DEMO_PAGES {
            for field in FIELDS {
                let text = format!("{field} of the second act");
                let value = match field {
                    "emails" => json!({ field: ["second@example.org"] }),
                    "location" => json!({ field: {"city": text} }),
                    _ => json!({ field: text }),
                };
                let fields = value.as_object().cloned().unwrap_or_default();
                let changed = self.simulator.change(cast.id, fields);
                changed.map_err(anyhow::Error::msg)?;
            }
        }
        self.simulator.delivery_counts().all_finished().await;
        let lost = self.simulator.delivery_counts().lost();
        self.say(&format!(
            "{} changes while Facebook loses three webhooks in ten: {lost} are lost",
            DEMO_PAGES.len() * FIELDS.len()
        ))?;
        self.simulator
            .set_delivery_faults(DeliveryFaults::default());
        Ok(lost)
    }

    /// A password is changed, and with it every token ends.
    async fn end_of_tokens(&self) -> anyhow::Result<()> {
        let invalidation = TokenInvalidation {
            user: None,
            page: None,
            subcode: 460,
        };
        self.simulator.facebook().invalidate_tokens(&invalidation);
        let now = Clock::system().now();
        let people = connection::list(self.store()).await?;
        let person = people.first().context("nobody is connected")?;
        connection::request_poll(self.store(), &person.user, now).await?;
        let begun = Instant::now();
        loop {
            let forecasts = expiry::list(self.store(), now).await?;
            let forecast = forecasts.first().context("nobody is connected")?;
            if forecast.status == connection::Status::NeedsLogin {
                let name = forecast.name.as_deref().unwrap_or("the person");
                return self.say(&format!(
                    "{name} changes the password at Facebook, every token ends: {}, and {} Pages go with it; webhooks are still kept",
                    forecast.status, forecast.pages_lost_count
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
