//! The second part of the demo: Facebook loses three webhooks in ten, every token becomes invalid,
//! the person logs in again, and the report of missed webhooks contains exactly the lost ones.

use std::time::Duration;

use anyhow::Context as _;
use common::clock::Clock;
use common::records::missed_webhooks::{self, Report};
use common::records::{connection, expiry};
use common::views::missed::missed_view;
use model::announcements::NOTIFICATION_GRACE;
use serde_json::json;
use simulator::delivery::DeliveryFaults;
use simulator::token::TokenInvalidation;
use tokio::time::Instant;

use super::{Demo, TIMEOUT};
use crate::demo_pages::DEMO_PAGES;
use crate::{missed, output};

/// Fields that have a webhook and that the first part does not change. The second part changes each
/// of them once on every Page, because several changes between two reads count as one.
const FIELDS: [&str; 5] = ["category", "description", "emails", "location", "website"];

/// Returns how many changes of [`FIELDS`] were announced, and how many a read found unannounced.
fn count_changes(report: &Report) -> (u64, u64) {
    let counts = FIELDS.iter().filter_map(|field| report.fields.get(*field));
    counts.fold((0, 0), |(announced, unannounced), counts| {
        (
            announced + counts.captured + counts.late,
            unannounced + counts.open,
        )
    })
}

impl Demo {
    /// Plays the second part. Fails if the report does not contain exactly the lost webhooks.
    pub(super) async fn show_lost_webhooks(&self, public: &str) -> anyhow::Result<()> {
        let lost = self.change_fields_with_losses().await?;
        // Facebook's clock counts whole seconds, and the stamps of the reads below must be later
        // than the changes.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.invalidate_tokens().await?;
        self.print_line("the person logs in again")?;
        self.connect(public).await?;
        let began = Instant::now();
        let changes = (DEMO_PAGES.len() * FIELDS.len()) as u64;
        let unannounced = loop {
            let report = missed_webhooks::report(self.store(), "", Clock::system().now()).await?;
            let (announced, unannounced) = count_changes(&report);
            if announced + unannounced >= changes {
                break unannounced;
            }
            anyhow::ensure!(
                began.elapsed() < TIMEOUT,
                "of {changes} changes, webhooks announced {announced} and reads found {unannounced}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        anyhow::ensure!(
            unannounced == lost,
            "Facebook lost {lost} webhooks, but the reads found {unannounced} unannounced changes"
        );
        self.print_line(&format!(
            "the connection poll read every Page and found {unannounced} unannounced changes, as many as were lost"
        ))?;
        let later = Clock::system().now().plus(NOTIFICATION_GRACE);
        let report = missed_webhooks::report(self.store(), "", later).await?;
        output::print(
            "\nThe output of `pagesync missed` in an hour, when the unannounced changes count as missed:\n",
        )?;
        output::print(&missed::text(&missed_view(&report, later)))
    }

    fn store(&self) -> &dyn common::store::Store {
        &*self.backends.store
    }

    /// Changes every field of [`FIELDS`] on every Page while Facebook loses three webhooks in ten.
    /// Returns how many were lost.
    async fn change_fields_with_losses(&self) -> anyhow::Result<u64> {
        self.simulator.set_delivery_faults(DeliveryFaults {
            loss: 0.3,
            ..self.simulator.delivery_faults()
        });
        for page in DEMO_PAGES {
            for field in FIELDS {
                let text = format!("a new {field}");
                let value = match field {
                    "emails" => json!({ field: ["second@example.org"] }),
                    "location" => json!({ field: {"city": text} }),
                    _ => json!({ field: text }),
                };
                let fields = value.as_object().cloned().unwrap_or_default();
                let changed = self.simulator.change(page.id, fields);
                changed.map_err(anyhow::Error::msg)?;
            }
        }
        self.simulator.delivery_counts().all_finished().await;
        let lost = self.simulator.delivery_counts().lost();
        self.print_line(&format!(
            "{} changes while Facebook loses three webhooks in ten: {lost} are lost",
            DEMO_PAGES.len() * FIELDS.len()
        ))?;
        self.simulator
            .set_delivery_faults(DeliveryFaults::default());
        Ok(lost)
    }

    /// Makes every token invalid, as a changed password does, and waits until the connection has
    /// the status `needs_login`.
    async fn invalidate_tokens(&self) -> anyhow::Result<()> {
        let invalidation = TokenInvalidation {
            user: None,
            page: None,
            subcode: 460,
        };
        self.simulator.facebook().invalidate_tokens(&invalidation);
        let now = Clock::system().now();
        let connections = connection::list(self.store()).await?;
        let person = connections.first().context("there is no connection")?;
        connection::request_poll(self.store(), &person.user, now).await?;
        let began = Instant::now();
        loop {
            let connections = expiry::list(self.store(), now).await?;
            let connection = connections.first().context("there is no connection")?;
            if connection.status == connection::Status::NeedsLogin {
                let name = connection.name.as_deref().unwrap_or("the person");
                return self.print_line(&format!(
                    "{name} changes their password at Facebook, which makes every token invalid: status {}, {} Pages have no other connection; their webhooks are still applied",
                    connection.status, connection.pages_lost_count
                ));
            }
            anyhow::ensure!(
                began.elapsed() < TIMEOUT,
                "the connection did not get the status needs_login"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
