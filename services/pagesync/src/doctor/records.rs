//! Checks of what the store contains: connections, Pages, Page subscriptions, missed webhooks, and
//! the rate limit.

use std::time::Duration;

use common::backends::open_store;
use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::records::connection::{self, Connection, Status};
use common::records::page_subscription::PageSubscription;
use common::records::{
    decode, dropped, excluded_field, expiry, load_chunk, load_record, missed_webhooks, rate_limit,
    token,
};
use common::store::{PageIndex, RecordKey, RecordKind, Store, StoreError, StoredPage};
use common::timestamp::rfc3339;
use common::views::failure::failure_text;
use model::id::PageId;
use model::page;
use model::queue_name::QueueName;
use model::time::HostTime;

use super::local::SEE_STORE;
use crate::keys::private_keys;
use common::views::check::{Check, State};

/// The largest number of names in one line.
const MAX_NAMED: usize = 5;
/// The largest number of Page subscriptions that are read from Facebook.
const MAX_SUBSCRIPTION_READS: usize = 5;
/// The ratio of announced changes below which the check warns.
const MIN_RATIO: f64 = 0.9;
/// The largest number of entries of the due index of a queue that are checked. Unknown subjects are
/// among the first ones, because their claims end after minutes.
const MAX_DUE_ENTRIES: usize = 2000;
/// How many days of announced and missed changes are checked.
const DAYS: u64 = 7;

/// Appends the results of the checks to `checks`.
pub(super) async fn run_checks(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let Ok(store) = open_store(config, clock.clone()) else {
        return;
    };
    let now = clock.now();
    let checked = async {
        let all = connection::list(&*store).await?;
        checks.push(stored_data(&*store).await?);
        checks.push(connections(&all));
        checks.push(permissions(config, &all));
        checks.push(connection_expiry(&all, now));
        checks.push(fields(&*store).await?);
        checks.push(pages(&*store).await?);
        checks.push(page_subscriptions(config, clock, &*store).await?);
        checks.push(webhooks(config, &*store, now).await?);
        checks.push(dropped_webhooks(config, &*store, now).await?);
        checks.push(rate_limits(&*store, now).await?);
        Ok::<(), StoreError>(())
    };
    if let Err(error) = checked.await {
        checks.push(Check::problem(
            "records",
            State::Failed,
            error.to_string(),
            SEE_STORE,
        ));
    }
}

/// Returns the first names as a list, and how many more there are.
fn list_names(names: &[String]) -> String {
    let first = names[..names.len().min(MAX_NAMED)].join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Checks whether this version can decode every record and every subject of the due index.
async fn stored_data(store: &dyn Store) -> Result<Check, StoreError> {
    let (records, mut count) = decode::find_unreadable(store, MAX_NAMED).await?;
    let mut names: Vec<String> = records
        .iter()
        .map(|record| {
            let RecordKey { kind, id } = &record.key;
            format!("{} {id} ({})", kind.name(), record.reason)
        })
        .collect();
    for queue in QueueName::POLLS {
        let due = store.next_due(queue, MAX_DUE_ENTRIES).await?;
        for entry in due.iter().filter(|entry| entry.subject.is_none()) {
            count += 1;
            names.push(format!("subject {} (unknown kind)", entry.text));
        }
    }
    let name = "stored data";
    if count == 0 {
        return Ok(Check::ok(name, "this version can read all of it"));
    }
    names.truncate(MAX_NAMED);
    let detail = format!(
        "this version cannot read {count} entries: {}",
        names.join(", ")
    );
    let fix = "start the version of pagesync that wrote them, or a newer one; webhooks and erasures that need them are in `pagesync dead-letter list`, and are retried every 15 minutes";
    Ok(Check::problem(name, State::Failed, detail, fix))
}

fn connections(connections: &[Connection]) -> Check {
    let name = "connections";
    if connections.is_empty() {
        let fix = "open the address that `pagesync connection invite` prints, and log in";
        return Check::problem(name, State::Warning, "there is none", fix);
    }
    let with_problem = |connection: &Connection| {
        let failure = connection.last_failure.as_ref().map(failure_text);
        let problem = failure.or_else(|| connection.problem.clone());
        let is_active = connection.status == Status::Active;
        match problem {
            None if is_active => None,
            None => Some(format!("{} ({})", connection.user, connection.status)),
            Some(problem) => Some(format!(
                "{} ({}): {problem}",
                connection.user, connection.status
            )),
        }
    };
    let problems: Vec<String> = connections.iter().filter_map(with_problem).collect();
    if problems.is_empty() {
        return Check::ok(name, format!("{} active", connections.len()));
    }
    let fix =
        "do what is named for each connection; the stored values and the history of its Pages stay";
    let detail = format!(
        "{} of {} have a problem: {}",
        problems.len(),
        connections.len(),
        list_names(&problems)
    );
    Check::problem(name, State::Failed, detail, fix)
}

/// Checks whether Facebook refuses fields. They are not read, and their last values are kept.
async fn fields(store: &dyn Store) -> Result<Check, StoreError> {
    let excluded = excluded_field::excluded_names(store).await?;
    if excluded.is_empty() {
        return Ok(Check::ok("fields", "Facebook refuses none of them"));
    }
    let detail = format!(
        "Facebook refuses {}, which are not read for a week; their last values are kept",
        list_names(&excluded)
    );
    let fix = "if the names are wrong or the fields have ended, take them out of PAGESYNC_FIELDS";
    Ok(Check::problem("fields", State::Warning, detail, fix))
}

fn permissions(config: &Config, connections: &[Connection]) -> Check {
    let missing = connections.iter().flat_map(|connection| {
        let missing = connection.missing_permissions(&config.scopes);
        missing.into_iter().map(move |missing| {
            format!(
                "{} lacks {}: {}",
                connection.user, missing.permission, missing.consequence
            )
        })
    });
    let missing: Vec<String> = missing.collect();
    if missing.is_empty() {
        return Check::ok("permissions", "none is missing");
    }
    let fix = "ask these people to log in again at the address of `pagesync connection invite --rerequest` and to allow everything; people without a role on the app can give the permission only if the app has Advanced Access";
    Check::problem("permissions", State::Warning, list_names(&missing), fix)
}

fn connection_expiry(connections: &[Connection], now: HostTime) -> Check {
    let name = "connection expiry";
    let days_left = |connection: &Connection| expiry::days_left(connection, now);
    let ending: Vec<String> = connections
        .iter()
        .filter_map(|connection| Some((connection, days_left(connection)?)))
        .filter(|(_, days)| *days <= expiry::ALERT_DAYS[0])
        .map(|(connection, days)| format!("{} ends in {days} days", connection.user))
        .collect();
    if ending.is_empty() {
        let first = connections.iter().filter_map(days_left).min();
        let detail = first.map_or("no connection expires".to_owned(), |days| {
            format!("the first connection expires in {days} days")
        });
        return Check::ok(name, detail);
    }
    let is_urgent = connections
        .iter()
        .filter_map(days_left)
        .any(|days| days <= 1);
    let state = if is_urgent {
        State::Failed
    } else {
        State::Warning
    };
    let fix = "ask these people to log in again before their connections expire; `pagesync connection list --expiring 14d` counts the Pages that would be lost";
    Check::problem(name, state, list_names(&ending), fix)
}

async fn pages(store: &dyn Store) -> Result<Check, StoreError> {
    let name = "Pages";
    let (mut count, mut failed, mut outdated, mut after) = (0, Vec::new(), Vec::new(), None);
    loop {
        let chunk = store
            .list_pages(&PageIndex::All, after.as_ref(), 500)
            .await?;
        let Some((last, _)) = chunk.last() else { break };
        after = Some(last.clone());
        for (id, stored) in &chunk {
            let status = match &stored.value {
                StoredPage::Page(page) => page.status,
                StoredPage::Unknown | StoredPage::Corrupt(_) => page::Status::Corrupt,
            };
            count += 1;
            let failure = match &stored.value {
                StoredPage::Page(page) => page.last_failure.as_ref(),
                StoredPage::Unknown | StoredPage::Corrupt(_) => None,
            };
            if let Some(failure) = failure {
                failed.push(format!("{id} ({status}): {}", failure_text(failure)));
            } else if !matches!(status, page::Status::Active | page::Status::Erased) {
                outdated.push(format!("{id} ({status})"));
            }
        }
    }
    if !failed.is_empty() {
        let detail = format!(
            "the last read of {} of {count} failed: {}",
            failed.len(),
            list_names(&failed)
        );
        let fix =
            "do what is named for each Page; `pagesync page explain <id>` shows one Page in full";
        return Ok(Check::problem(name, State::Failed, detail, fix));
    }
    if outdated.is_empty() {
        return Ok(Check::ok(
            name,
            format!("{count} stored, all active or erased"),
        ));
    }
    let detail = format!(
        "{} of {count} are not active: {}",
        outdated.len(),
        list_names(&outdated)
    );
    let fix = "`pagesync page explain <id>` shows the reason; Pages without a token need a login: `pagesync connection invite` prints the address";
    Ok(Check::problem(name, State::Warning, detail, fix))
}

/// Checks the records of all Page subscriptions, and compares the first ones with those at
/// Facebook.
async fn page_subscriptions(
    config: &Config,
    clock: &Clock,
    store: &dyn Store,
) -> Result<Check, StoreError> {
    let name = "Page subscriptions";
    let (mut count, mut reads, mut problems, mut after) = (0, 0, Vec::new(), None);
    while let Some(chunk) =
        load_chunk::<PageSubscription>(store, RecordKind::PageSubscription, "", &mut after).await?
    {
        count += chunk.len();
        for (id, stored) in chunk {
            if let Some(problem) = stored.value.problem {
                problems.push(format!("{id}: {problem}"));
            } else if reads < MAX_SUBSCRIPTION_READS
                && let Some(fields) = fields_at_facebook(config, clock, store, &id).await?
            {
                reads += 1;
                if !stored
                    .value
                    .fields
                    .iter()
                    .all(|field| fields.contains(field))
                {
                    problems.push(format!("{id}: fields are missing at Facebook"));
                }
            }
        }
    }
    if problems.is_empty() {
        let detail = format!("none of {count} has a problem; {reads} were compared with Facebook");
        return Ok(Check::ok(name, detail));
    }
    let detail = format!(
        "{} of {count} have a problem: {}",
        problems.len(),
        list_names(&problems)
    );
    let fix = "the next daily poll, or `pagesync connection poll <id>` now, restores missing fields; refused fields need a login with every permission";
    Ok(Check::problem(name, State::Warning, detail, fix))
}

/// Returns the fields of the app's subscription on a Page at Facebook, or `None` if they cannot be
/// read on this host.
async fn fields_at_facebook(
    config: &Config,
    clock: &Clock,
    store: &dyn Store,
    id: &str,
) -> Result<Option<Vec<String>>, StoreError> {
    let (Ok(Some(keys)), Ok(graph)) = (private_keys(config), Graph::new(config, clock.clone()))
    else {
        return Ok(None);
    };
    let Ok(id) = PageId::parse(id) else {
        return Ok(None);
    };
    for connection in connection::list(store).await? {
        let key = token::page_key(&connection.user, &id);
        let stored = load_record::<token::StoredToken>(store, &key).await?;
        let opened =
            stored.and_then(|stored| token::open_token(&key, &stored.value, &keys).ok().flatten());
        if let Some(opened) = opened {
            let fields = graph.page_subscription(&opened, &id).await;
            return Ok(fields.ok().map(Option::unwrap_or_default));
        }
    }
    Ok(None)
}

/// Checks the ratio of changes that webhooks announced, and whether Pages are silent.
async fn webhooks(config: &Config, store: &dyn Store, now: HostTime) -> Result<Check, StoreError> {
    let name = "webhooks";
    let first = first_instant(now);
    let report =
        missed_webhooks::report(store, &config.daily_schedule.local_day(first), now).await?;
    let Some(ratio) = report.all.ratio else {
        return Ok(Check::ok(name, "no changes yet"));
    };
    let counts = format!(
        "{:.1} % of the changes of the last {DAYS} days were announced by webhooks, and {} changes were missed",
        ratio * 100.0,
        report.all.missed
    );
    if report.silent_pages.is_empty() && ratio >= MIN_RATIO {
        return Ok(Check::ok(name, counts));
    }
    let silent: Vec<String> = report.silent_pages.iter().map(PageId::to_string).collect();
    let detail = if silent.is_empty() {
        counts
    } else {
        format!("{counts}; silent Pages: {}", list_names(&silent))
    };
    let fix = "check that the app is in Live mode and has Advanced Access; pagesync checks the subscriptions of silent Pages automatically; `pagesync missed` shows the changes";
    Ok(Check::problem(name, State::Warning, detail, fix))
}

/// Names the parts of webhooks that were received and dropped.
async fn dropped_webhooks(
    config: &Config,
    store: &dyn Store,
    now: HostTime,
) -> Result<Check, StoreError> {
    let name = "dropped webhooks";
    let counts =
        dropped::since(store, &config.daily_schedule.local_day(first_instant(now))).await?;
    if counts.is_empty() {
        return Ok(Check::ok(name, "none was dropped"));
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let names: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{n} x {name}"))
        .collect();
    let detail = format!(
        "received in the last {DAYS} days and dropped, because they are not about the profile of a Page: {}",
        list_names(&names)
    );
    if config.webhooks_passed_on {
        return Ok(Check::ok(name, detail));
    }
    let fix = "if another program needs them, let it keep the callback and pass the webhooks on to pagesync (docs/how-to/facebook-app.md, section 7); otherwise unsubscribe these fields";
    Ok(Check::problem(name, State::Warning, detail, fix))
}

/// Returns the first instant of the checked days.
fn first_instant(now: HostTime) -> HostTime {
    let back = Duration::from_secs(DAYS * 24 * 3600);
    HostTime(
        now.0
            .saturating_sub(u64::try_from(back.as_millis()).unwrap_or(u64::MAX)),
    )
}

async fn rate_limits(store: &dyn Store, now: HostTime) -> Result<Check, StoreError> {
    let stored = rate_limit::find(store, rate_limit::APP_BUCKET, now).await?;
    if stored.blocked_until <= now {
        return Ok(Check::ok("rate limits", "calls are possible"));
    }
    let detail = format!(
        "Facebook refuses calls of the app until {}",
        rfc3339(stored.blocked_until)
    );
    let fix = "wait; nothing is lost, and further calls would extend the limit";
    Ok(Check::problem("rate limits", State::Warning, detail, fix))
}
