//! The app's subscription on one Page. The list that is set replaces the one before, so what is
//! there is kept: another product may use the same app. Source: "Page subscribed apps".

use std::collections::BTreeSet;
use std::time::Duration;

use common::custody::Token;
use common::graph::error::GraphError;
use common::records::subscription::{self, HEALINGS, Subscription};
use common::records::{commit, drift, get};
use common::store::{Outcome, RecordWrite, StoreError, Stored, Versioned};
use common::telemetry::Label;
use model::drift::GRACE;
use model::id::{PageId, Subject};
use model::lane::Lane;
use model::time::Millis;

use super::commits::{forget_due, save, settle};
use super::pace::{A_DAY, is_due, resume};
use super::tokens::{NoToken, another_may_do, candidates, refused};
use super::{app, limits};
use crate::Parts;

/// Losses further apart than this have nothing to do with each other.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) async fn poll(parts: &Parts, page: &PageId, claimed: Millis) -> Result<(), StoreError> {
    let key = subscription::key(page);
    let subject = Subject::Subscription(page.clone());
    let held = get::<Subscription>(&*parts.store, &key).await?;
    let Some(Versioned { value, .. }) = held else {
        commit(&*parts.store, forget_due(subject, key)).await?;
        return Ok(());
    };
    // The later of two clocks: what was asked for by one is answered on the other.
    let now = parts.clock.now().max(claimed);
    let attempt = if is_due(&value.polling, now, claimed) {
        Some(attempt(parts, page, &value).await?)
    } else {
        None
    };
    let polling = |value: &Subscription| value.polling.clone();
    settle(parts, (&key, &subject), polling, |value| {
        if let Some(attempt) = &attempt {
            take(value, attempt, now);
        }
    })
    .await?;
    let in_place = matches!(&attempt, Some(Attempt::Done(Ok(done))) if !done.written);
    if in_place && is_deaf(parts, page, now).await? {
        tracing::warn!(page.id = %page, "changes of a Page are not announced although the app is on it");
        app::suspect(parts).await?;
    }
    Ok(())
}

/// A read found a change that nothing had announced. If its notice does not come within the grace,
/// somebody looks whether the app is still on the Page: once in the grace at most.
async fn suspect(parts: &Parts, page: &PageId) -> Result<(), StoreError> {
    let key = subscription::key(page);
    loop {
        let held = get::<Subscription>(&*parts.store, &key).await?;
        let Some(Versioned { version, mut value }) = held else {
            return Ok(());
        };
        if value.polling.wanted() || value.healed >= HEALINGS {
            return Ok(());
        }
        value.polling.ask(parts.clock.now().plus(GRACE));
        let subject = Subject::Subscription(page.clone());
        let next = save(key.clone(), &value, version, subject, &value.polling);
        if commit(&*parts.store, next).await? == Outcome::Applied {
            return Ok(());
        }
    }
}

/// Counts what the meter found in a commit that stands.
pub(crate) fn count_drift(parts: &Parts, committed: &[RecordWrite]) {
    for (name, n) in drift::names(committed) {
        parts.metrics.drift.get_or_create(&Label { name }).inc_by(n);
    }
}

/// Before a commit with a new gap: somebody looks after the grace whether the app is still on the Page.
/// Should the commit not come about, they look in vain.
pub(super) async fn expect_announcement(
    parts: &Parts,
    page: &PageId,
    records: &[RecordWrite],
) -> Result<(), StoreError> {
    if drift::names(records).any(|(name, _)| name == "opened") {
        suspect(parts, page).await?;
    }
    Ok(())
}

async fn is_deaf(parts: &Parts, page: &PageId, now: Millis) -> Result<bool, StoreError> {
    let held = parts.store.load(std::slice::from_ref(page)).await?.pop();
    Ok(held.is_some_and(|held| matches!(held.value, Stored::Page(page) if page.is_deaf(now))))
}

/// What an attempt came to.
enum Attempt {
    Deferred(Millis),
    NoToken(NoToken),
    Done(Done),
}

/// With the best token; with the next one where a token or its person is the trouble, or may not have
/// every field.
async fn attempt(
    parts: &Parts,
    page: &PageId,
    known: &Subscription,
) -> Result<Attempt, StoreError> {
    let candidates = match candidates(parts, page).await? {
        Ok(candidates) => candidates,
        Err(why) => return Ok(Attempt::NoToken(why)),
    };
    let mut best = Attempt::NoToken(NoToken::None);
    for candidate in candidates {
        let whose = limits::Whose {
            user: Some(&candidate.user),
            page: Some(page),
        };
        if let Some(until) = limits::closed(parts, whose, Lane::PollsNow).await? {
            return Ok(better(best, Attempt::Deferred(until)));
        }
        let done = reconcile(parts, page, &candidate.token, known).await;
        if let Some(until) = limits::note(parts, whose, done.as_ref().err()).await? {
            return Ok(better(best, Attempt::Deferred(until)));
        }
        let go_on = match &done {
            Ok(there) => !there.refused.is_empty(),
            Err(error) => {
                refused(parts, page, &candidate, error).await?;
                another_may_do(error)
            }
        };
        best = better(best, Attempt::Done(done));
        if !go_on {
            break;
        }
    }
    Ok(best)
}

/// What two attempts in a row came to.
fn better(first: Attempt, second: Attempt) -> Attempt {
    match (first, second) {
        (Attempt::Done(Ok(first)), Attempt::Done(Ok(second))) => Attempt::Done(Ok(There {
            // The second looked at what the first had put back.
            lost: first.lost,
            written: first.written || second.written,
            ..second
        })),
        (first @ Attempt::Done(Ok(_)), _)
        | (first @ Attempt::Done(Err(_)), Attempt::Done(Err(_))) => first,
        (_, second) => second,
    }
}

/// What an attempt came to.
struct There {
    /// What Facebook has now.
    fields: BTreeSet<String>,
    refused: BTreeSet<String>,
    written: bool,
    /// Something had been there, and was put back.
    lost: bool,
}

type Done = Result<There, GraphError>;

fn take(value: &mut Subscription, attempt: &Attempt, now: Millis) {
    if matches!(attempt, Attempt::Done(_)) {
        value.tried = Some(now);
    }
    match attempt {
        Attempt::Deferred(until) => value.polling.defer(*until),
        Attempt::NoToken(why) => {
            value.problem = Some(why.text().to_owned());
            value.polling.fail(now.plus(A_DAY));
        }
        Attempt::Done(Ok(there)) => {
            let names: Vec<&str> = there.refused.iter().map(String::as_str).collect();
            let problem = format!("Facebook refuses {}", names.join(", "));
            value.problem = (!names.is_empty()).then_some(problem);
            if there.lost {
                let lately = value.seen.is_some_and(|seen| seen.plus(A_WEEK) > now);
                value.healed = if lately { value.healed + 1 } else { 1 };
            }
            if value.healed >= HEALINGS {
                value.problem = Some(format!(
                    "the app was taken off this Page {HEALINGS} times and put back; from now on it stays off until somebody logs in"
                ));
            }
            (value.fields, value.refused) = (there.fields.clone(), there.refused.clone());
            value.seen = Some(now);
            value.polling.done(now);
        }
        Attempt::Done(Err(error)) => {
            value.problem = Some(error.to_string());
            let at = resume(error, value.polling.failures, now);
            value.polling.fail(at);
        }
    }
}

/// Makes Facebook's side what it should be.
async fn reconcile(parts: &Parts, page: &PageId, token: &Token, known: &Subscription) -> Done {
    let there = parts.graph.page_subscription(token, page).await?;
    let there: BTreeSet<String> = there.unwrap_or_default().into_iter().collect();
    let lost = !known.fields.is_subset(&there);
    let wanted = parts
        .tracked
        .webhook_fields()
        .into_iter()
        .map(ToOwned::to_owned);
    let mut wanted: BTreeSet<String> = wanted
        .filter(|name| !known.refused.contains(name))
        .collect();
    let mut refused = known.refused.clone();
    while !wanted.is_subset(&there) {
        let all: Vec<String> = there.union(&wanted).cloned().collect();
        match parts.graph.subscribe_page(token, page, &all).await {
            Ok(()) => {
                return Ok(There {
                    fields: all.into_iter().collect(),
                    refused,
                    written: true,
                    lost,
                });
            }
            Err(GraphError::Permission(names)) => {
                // It names what it refuses; the rest may be taken.
                let named: BTreeSet<String> = names.split(',').map(ToOwned::to_owned).collect();
                if named.is_disjoint(&wanted) {
                    return Err(GraphError::Permission(names));
                }
                wanted.retain(|name| !named.contains(name));
                refused.extend(named);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(There {
        fields: there,
        refused,
        written: false,
        lost: false,
    })
}
