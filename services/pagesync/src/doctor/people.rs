//! What hangs on people: their logins, permissions, Pages, what webhooks announced, limits.

use std::time::Duration;

use common::backends::open_store;
use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::records::connection::{self, Connection, Status};
use common::records::subscription::Subscription;
use common::records::{expiry, load_chunk, load_record, missed_webhooks, rate_limit, token};
use common::store::{RecordKind, Store, StoreError, StoredPage};
use common::timestamp::rfc3339;
use model::id::PageId;
use model::page;
use model::time::HostTime;

use super::check::{Check, State};
use super::local::held_keys;

/// Named in a line.
const NAMED: usize = 5;
/// Fewer announced changes than this are worth a word.
const ENOUGH: f64 = 0.9;
/// Days of the drift meter that are looked at.
const DAYS: u64 = 7;

pub(super) async fn look(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let Ok(store) = open_store(config, clock.clone()) else {
        return;
    };
    let now = clock.now();
    let looked = async {
        let people = connection::list(&*store).await?;
        checks.push(logins(&people));
        checks.push(permissions(config, &people));
        checks.push(ends(&people, now));
        checks.push(pages(&*store).await?);
        checks.push(subscriptions(config, clock, &*store).await?);
        checks.push(announced(config, &*store, now).await?);
        checks.push(limits(&*store, now).await?);
        Ok::<(), StoreError>(())
    };
    if let Err(error) = looked.await {
        let fix = "see the check of the store";
        checks.push(Check::bad("records", State::Failed, error.to_string(), fix));
    }
}

/// The first of them, by name.
fn named<'a>(found: impl Iterator<Item = &'a str>) -> String {
    let found: Vec<&str> = found.collect();
    let more = found.len().saturating_sub(NAMED);
    let names = found
        .iter()
        .take(NAMED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    match more {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn logins(people: &[Connection]) -> Check {
    let name = "logins";
    if people.is_empty() {
        let fix = "open the address of `pagesync connection invite` and log in";
        return Check::bad(name, State::Warning, "nobody is connected", fix);
    }
    let dead = people.iter().filter(|one| one.status != Status::Active);
    let dead: Vec<String> = dead
        .map(|one| format!("{} ({})", one.user, one.status))
        .collect();
    if dead.is_empty() {
        return Check::ok(name, format!("{} work", people.len()));
    }
    let fix = "they log in again at the address of `pagesync connection invite`: Pages, values and history stay";
    let what = format!("do not work: {}", named(dead.iter().map(String::as_str)));
    Check::bad(name, State::Failed, what, fix)
}

fn permissions(config: &Config, people: &[Connection]) -> Check {
    let lacking = people.iter().flat_map(|one| {
        let missing = one.missing_permissions(&config.scopes);
        missing.into_iter().map(move |missing| {
            format!(
                "{} lacks {}: {}",
                one.user, missing.permission, missing.consequence
            )
        })
    });
    let lacking: Vec<String> = lacking.collect();
    if lacking.is_empty() {
        return Check::ok("permissions", "all that were asked for");
    }
    let fix = "they log in again and allow everything; for people without a role on the app the permission needs Advanced Access";
    Check::bad(
        "permissions",
        State::Warning,
        named(lacking.iter().map(String::as_str)),
        fix,
    )
}

fn ends(people: &[Connection], now: HostTime) -> Check {
    let left = |one: &Connection| expiry::days_left(one, now);
    let soon: Vec<String> = people
        .iter()
        .filter_map(|one| Some((one, left(one)?)))
        .filter(|(_, left)| *left <= expiry::ALERT_DAYS[0])
        .map(|(one, left)| format!("{} in {left} days", one.user))
        .collect();
    if soon.is_empty() {
        let first = people.iter().filter_map(left).min();
        let said = first.map_or("none has an end".to_owned(), |days| {
            format!("the first in {days} days")
        });
        return Check::ok("ends of logins", said);
    }
    let urgent = people.iter().filter_map(left).any(|left| left <= 1);
    let state = if urgent {
        State::Failed
    } else {
        State::Warning
    };
    let fix = "they log in again before; `pagesync connection list --expiring 14d` says which Pages go with whom";
    Check::bad(
        "ends of logins",
        state,
        named(soon.iter().map(String::as_str)),
        fix,
    )
}

async fn pages(store: &dyn Store) -> Result<Check, StoreError> {
    let name = "Pages";
    let (mut all, mut bad, mut after) = (0, Vec::new(), None);
    loop {
        let some = store.list_pages(after.as_ref(), 500).await?;
        let Some((last, _)) = some.last() else { break };
        after = Some(last.clone());
        for (id, stored) in &some {
            let status = match &stored.value {
                StoredPage::Page(page) => page.status,
                StoredPage::Unknown | StoredPage::Corrupt(_) => page::Status::Corrupt,
            };
            all += 1;
            if !matches!(status, page::Status::Active | page::Status::Erased) {
                bad.push(format!("{id} ({status})"));
            }
        }
    }
    if bad.is_empty() {
        return Ok(Check::ok(name, format!("{all} kept up to date")));
    }
    let what = format!(
        "{} of {all} are not kept up to date: {}",
        bad.len(),
        named(bad.iter().map(String::as_str))
    );
    let fix = "`pagesync page explain <id>` says why; for most a login mends it: `pagesync connection invite`";
    Ok(Check::bad(name, State::Warning, what, fix))
}

/// What we know of every Page's subscription, and what Facebook says of the first few.
async fn subscriptions(
    config: &Config,
    clock: &Clock,
    store: &dyn Store,
) -> Result<Check, StoreError> {
    let name = "Page subscriptions";
    let (mut all, mut asked, mut bad, mut after) = (0, 0, Vec::new(), None);
    while let Some(some) =
        load_chunk::<Subscription>(store, RecordKind::Subscription, "", &mut after).await?
    {
        all += some.len();
        for (id, stored) in some {
            if let Some(problem) = stored.value.problem {
                bad.push(format!("{id}: {problem}"));
            } else if asked < NAMED
                && let Some(fields) = at_facebook(config, clock, store, &id).await?
            {
                asked += 1;
                if !stored
                    .value
                    .fields
                    .iter()
                    .all(|field| fields.contains(field))
                {
                    bad.push(format!("{id}: Facebook does not have what we set"));
                }
            }
        }
    }
    if bad.is_empty() {
        let said = format!("{all} as they should be, {asked} of them looked at at Facebook");
        return Ok(Check::ok(name, said));
    }
    let what = format!(
        "{} of {all}: {}",
        bad.len(),
        named(bad.iter().map(String::as_str))
    );
    let fix = "the next daily walk puts back what is gone, `pagesync connection poll <id>` at once; what was refused needs a login with every permission";
    Ok(Check::bad(name, State::Warning, what, fix))
}

/// The fields Facebook has for the app on a Page. `None`: it cannot be asked from here.
async fn at_facebook(
    config: &Config,
    clock: &Clock,
    store: &dyn Store,
    id: &str,
) -> Result<Option<Vec<String>>, StoreError> {
    let (Ok(Some(keys)), Ok(graph)) = (held_keys(config), Graph::new(config, clock.clone())) else {
        return Ok(None);
    };
    let Ok(id) = PageId::parse(id) else {
        return Ok(None);
    };
    for login in connection::list(store).await? {
        let key = token::page_key(&login.user, &id);
        let stored = load_record::<token::StoredToken>(store, &key).await?;
        let opened =
            stored.and_then(|stored| token::open_token(&key, &stored.value, &keys).ok().flatten());
        if let Some(opened) = opened {
            let there = graph.page_subscription(&opened, &id).await;
            return Ok(there.ok().map(Option::unwrap_or_default));
        }
    }
    Ok(None)
}

async fn announced(config: &Config, store: &dyn Store, now: HostTime) -> Result<Check, StoreError> {
    let name = "webhooks";
    let back = Duration::from_secs(DAYS * 24 * 3600);
    let back = u64::try_from(back.as_millis()).unwrap_or(u64::MAX);
    let first = HostTime(now.0.saturating_sub(back));
    let report =
        missed_webhooks::report(store, &config.daily_schedule.local_day(first), now).await?;
    let Some(ratio) = report.all.ratio else {
        return Ok(Check::ok(name, "no change to judge them by yet"));
    };
    let said = format!(
        "{:.1} % of the changes of {DAYS} days were announced, {} missed",
        ratio * 100.0,
        report.all.missed
    );
    if report.silent_pages.is_empty() && ratio >= ENOUGH {
        return Ok(Check::ok(name, said));
    }
    let deaf = named(report.silent_pages.iter().map(PageId::as_str));
    let what = if deaf.is_empty() {
        said
    } else {
        format!("{said}; silent since: {deaf}")
    };
    let fix = "their subscriptions are being looked at; is the app in Live mode, with Advanced Access? `pagesync missed`";
    Ok(Check::bad(name, State::Warning, what, fix))
}

async fn limits(store: &dyn Store, now: HostTime) -> Result<Check, StoreError> {
    let stored = rate_limit::find(store, rate_limit::APP_BUCKET).await?;
    if stored.blocked_until <= now {
        return Ok(Check::ok("limits", "calls are possible"));
    }
    let what = format!(
        "Facebook refuses calls of the app until {}",
        rfc3339(stored.blocked_until)
    );
    let fix = "wait; nothing is lost, and calling makes it longer";
    Ok(Check::bad("limits", State::Warning, what, fix))
}
