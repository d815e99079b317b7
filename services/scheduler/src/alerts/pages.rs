//! Finds the Pages that have a problem.
//!
//! Invariant: the indexes of the store name these Pages, so that no Page without a problem is loaded. At most
//! [`MAX_PAGES`] Pages of each kind have an alert of their own. A Page that has one keeps it until its problem
//! is resolved, however many others there are.

use std::collections::BTreeSet;
use std::time::Duration;

use common::records::alert::{Alert, AlertKind, Finding};
use common::records::missed_webhooks;
use common::store::{PageIndex, StoreError, StoredPage, Versioned};
use model::id::PageId;
use model::page::{Page, Status};
use model::time::HostTime;
use serde_json::Value as Json;

use super::context::AlertContext;

/// How many Pages of each kind of problem have an alert of their own. The others share one.
const MAX_PAGES: usize = 200;
/// How many days of missed changes show whether a Page is silent.
const SILENCE_DAYS: Duration = Duration::from_secs(7 * 24 * 3600);

/// A kind of problem that an index of the store shows.
struct Search {
    kind: AlertKind,
    index: PageIndex,
    /// The cause if the Page has no failure.
    cause: &'static str,
}

fn searches() -> [Search; 4] {
    let by_status = |kind, status, cause| Search {
        kind,
        index: PageIndex::Status(status),
        cause,
    };
    [
        by_status(
            AlertKind::PermissionLost,
            Status::NeedsPermission,
            "a permission is missing",
        ),
        by_status(
            AlertKind::PageLost,
            Status::Unreachable,
            "Facebook reports that the Page does not exist",
        ),
        by_status(
            AlertKind::PageLost,
            Status::NoToken,
            "nobody who has logged in gives access to the Page",
        ),
        Search {
            kind: AlertKind::PageUnpublished,
            index: PageIndex::Unpublished,
            cause: "visitors do not see the Page",
        },
    ]
}

/// Returns the problems of single Pages. Fails if the store does not answer.
pub(super) async fn find(
    context: &AlertContext,
    known: &[Versioned<Alert>],
    now: HostTime,
) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for search in searches() {
        search.run(context, known, &mut findings).await?;
    }
    let schedule = &context.config.daily_schedule;
    let from = schedule.local_day(now.minus(SILENCE_DAYS));
    let silent = missed_webhooks::silent_pages(&*context.store, &from, now).await?;
    let count = silent.len();
    let silent = &silent[..count.min(MAX_PAGES)];
    let loaded = context.store.load_pages(silent).await?;
    let cause = "a change was missed, and no webhook was sent for the Page since";
    for (id, stored) in silent.iter().zip(loaded) {
        if let StoredPage::Page(page) = stored.value {
            findings.push(Finding {
                client: page.client,
                ..Finding::new(AlertKind::PageSilent, id.as_str(), cause)
            });
        }
    }
    if count > MAX_PAGES {
        let further = (count - MAX_PAGES) as u64;
        findings.push(others(AlertKind::PageSilent, "silent", Some(further)));
    }
    Ok(findings)
}

/// Returns the finding of the Pages that have no alert of their own. `index` names them.
fn others(kind: AlertKind, index: &str, count: Option<u64>) -> Finding {
    let cause = match count {
        Some(count) => format!("{count} further Pages have this problem"),
        None => "further Pages have this problem".to_owned(),
    };
    Finding::new(kind, format!("others_{index}"), cause)
}

impl Search {
    /// Appends the Pages of the index.
    async fn run(
        &self,
        context: &AlertContext,
        known: &[Versioned<Alert>],
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let store = &*context.store;
        let listed = store.list_pages(&self.index, None, MAX_PAGES + 1).await?;
        let is_full = listed.len() > MAX_PAGES;
        let mut seen = BTreeSet::new();
        for (id, stored) in listed.into_iter().take(MAX_PAGES) {
            // During an upgrade, an earlier version may leave an index wrong for a day.
            if let StoredPage::Page(page) = stored.value
                && self.has_problem(&page)
            {
                findings.push(self.finding(&id, *page));
            }
            seen.insert(id);
        }
        if !is_full {
            return Ok(());
        }
        // A Page that has an alert may come after the first ones.
        let open = known.iter().map(|stored| &stored.value);
        let open = open.filter(|alert| alert.kind == self.kind && alert.resolved_at.is_none());
        let ids: Vec<PageId> = open
            .filter_map(|alert| PageId::parse(&alert.subject).ok())
            .filter(|id| !seen.contains(id))
            .collect();
        for (id, stored) in ids.iter().zip(store.load_pages(&ids).await?) {
            if let StoredPage::Page(page) = stored.value
                && self.has_problem(&page)
            {
                findings.push(self.finding(id, *page));
            }
        }
        findings.push(match &self.index {
            PageIndex::Status(status) => {
                let total = store.count_pages().await?.get(status).copied();
                let further = total.map(|total| total.saturating_sub(MAX_PAGES as u64));
                others(self.kind, status.as_str(), further)
            }
            _ => others(self.kind, "unpublished", None),
        });
        Ok(())
    }

    fn has_problem(&self, page: &Page) -> bool {
        match &self.index {
            PageIndex::Status(status) => page.status == *status,
            _ => value(page, "is_published") == Some(Json::Bool(false)),
        }
    }

    fn finding(&self, id: &PageId, page: Page) -> Finding {
        let failure = page.last_failure.map(|failure| failure.reason);
        let cause = match &self.index {
            PageIndex::Status(_) => failure.unwrap_or_else(|| self.cause.to_owned()),
            _ => self.cause.to_owned(),
        };
        Finding {
            client: page.client,
            ..Finding::new(self.kind, id.as_str(), cause)
        }
    }
}

/// Returns the value of a field of a Page.
pub(super) fn value(page: &Page, field: &str) -> Option<Json> {
    let mut registers = page.registers.iter();
    let (_, register) = registers.find(|(name, _)| name.as_str() == field)?;
    Some(register.value.as_ref()?.to_json())
}
