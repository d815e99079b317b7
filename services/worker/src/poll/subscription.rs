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
use super::tokens::{Candidate, NoToken, TriedTokens, another_may_do, ask_anew};
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
        let attempt = attempt(parts, page, &value).await?;
        Some((value, attempt))
    } else {
        None
    };
    let polling = |value: &Subscription| value.polling.clone();
    settle(parts, (&key, &subject), polling, |value| {
        if let Some((known, attempt)) = &attempt {
            take(value, known, attempt, now);
        }
    })
    .await?;
    let there = attempt.and_then(|(_, attempt)| attempt.there);
    if there.is_some_and(|there| !there.written) && is_deaf(parts, page, now).await? {
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

/// What an attempt came to, with all logins together.
#[derive(Default)]
struct Attempt {
    there: Option<There>,
    /// Beside `there`: it passes, and stood in the way of finding out whether a refusal is the last word.
    trouble: Option<Trouble>,
}

/// Why an attempt came to nothing.
enum Trouble {
    NoToken(NoToken),
    Deferred(Millis),
    Failed(GraphError),
}

/// What is there now.
struct There {
    /// What Facebook has.
    fields: BTreeSet<String>,
    refused: BTreeSet<String>,
    written: bool,
    /// Something had been there, and was put back.
    lost: bool,
}

/// With the best token; with the next one where a token or its person is the trouble, or where what
/// this one may not have is news.
async fn attempt(
    parts: &Parts,
    page: &PageId,
    known: &Subscription,
) -> Result<Attempt, StoreError> {
    let mut so_far = Attempt::default();
    let mut tried = TriedTokens::default();
    let mut comes_back = false;
    loop {
        let candidate = match tried.next(parts, page).await? {
            Ok(candidate) => candidate,
            Err(_) if so_far.there.is_some() => {
                // Everybody was asked, unless somebody's next token is still to come.
                so_far.trouble = so_far.trouble.filter(|_| comes_back);
                return Ok(so_far);
            }
            Err(why) => {
                so_far.trouble.get_or_insert(Trouble::NoToken(why));
                return Ok(so_far);
            }
        };
        match attempt_with(parts, page, &candidate, known).await? {
            Ok(there) => {
                let there = there.and(so_far.there.take());
                let is_settled = there.refused.is_subset(&known.refused);
                so_far.there = Some(there);
                if is_settled {
                    so_far.trouble = None;
                    return Ok(so_far);
                }
            }
            Err(Trouble::Failed(error)) if another_may_do(&error) => {
                comes_back |= ask_anew(parts, page, &candidate, &error).await?;
                so_far.trouble.get_or_insert(Trouble::Failed(error));
            }
            Err(passing) => {
                so_far.trouble = Some(passing);
                return Ok(so_far);
            }
        }
        tried.add(candidate);
    }
}

async fn attempt_with(
    parts: &Parts,
    page: &PageId,
    candidate: &Candidate,
    known: &Subscription,
) -> Result<Result<There, Trouble>, StoreError> {
    let whose = limits::Whose {
        user: Some(&candidate.user),
        page: Some(page),
    };
    if let Some(until) = limits::closed(parts, whose, Lane::PollsNow).await? {
        return Ok(Err(Trouble::Deferred(until)));
    }
    let done = reconcile(parts, page, &candidate.token, known).await;
    let throttled = limits::note(parts, whose, done.as_ref().err()).await?;
    Ok(match throttled {
        Some(until) => Err(Trouble::Deferred(until)),
        None => done.map_err(Trouble::Failed),
    })
}

impl There {
    /// Seen with this login after `before` was seen with another: what either was given is there.
    fn and(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let both = before.refused.intersection(&self.refused);
        Self {
            refused: both.cloned().collect(),
            written: before.written || self.written,
            lost: before.lost || self.lost,
            ..self
        }
    }
}

fn take(value: &mut Subscription, known: &Subscription, attempt: &Attempt, now: Millis) {
    if let Some(there) = &attempt.there {
        (value.fields, value.seen) = (there.fields.clone(), Some(now));
    }
    if value.renewals != known.renewals {
        // A login came since: what its token may have is still to be asked.
        return;
    }
    if let Some(there) = &attempt.there {
        value.tried = Some(now);
        if there.lost {
            let lately = known.seen.is_some_and(|seen| seen.plus(A_WEEK) > now);
            value.healed = if lately { value.healed + 1 } else { 1 };
        }
    }
    match (&attempt.trouble, &attempt.there) {
        (None, None) => {}
        (None, Some(there)) => {
            let names: Vec<&str> = there.refused.iter().map(String::as_str).collect();
            let problem = format!("Facebook refuses {}", names.join(", "));
            value.problem = (!names.is_empty()).then_some(problem);
            if value.healed >= HEALINGS {
                value.problem = Some(format!(
                    "the app was taken off this Page {HEALINGS} times and put back; from now on it stays off until somebody logs in"
                ));
            }
            value.refused.clone_from(&there.refused);
            value.polling.done(now);
        }
        (Some(Trouble::Deferred(until)), _) => value.polling.defer(*until),
        (Some(Trouble::NoToken(why)), _) => {
            value.problem = Some(why.text().to_owned());
            value.polling.fail(now.plus(A_DAY));
        }
        (Some(Trouble::Failed(error)), _) => {
            value.tried = Some(now);
            value.problem = Some(error.to_string());
            let at = resume(error, value.polling.failures, now);
            value.polling.fail(at);
        }
    }
}

/// Makes Facebook's side what it should be.
async fn reconcile(
    parts: &Parts,
    page: &PageId,
    token: &Token,
    known: &Subscription,
) -> Result<There, GraphError> {
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
