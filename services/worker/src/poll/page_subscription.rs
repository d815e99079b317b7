//! The app's subscription on one Page. The list that is set replaces the one before, so what is
//! there is kept: another product may use the same app. Source: "Page subscribed apps".

use std::collections::BTreeSet;
use std::time::Duration;

use common::graph::error::GraphError;
use common::records::subscription::{self, MAX_RESUBSCRIPTIONS, Subscription};
use common::records::{commit_one, load_record, missed_webhooks};
use common::retry;
use common::sealing::Token;
use common::store::{CommitOutcome, RecordWrite, StoreError, StoredPage, Versioned, load_page};
use model::announcements::NOTIFICATION_GRACE;
use model::id::{PageId, Subject};
use model::queue_name::QueueName;
use model::time::HostTime;
use model::webhook_field::webhook_fields;

use super::commits::{remove_due_commit, save_commit, save_outcome};
use super::page_tokens::{
    Candidate, NoToken, TokenError, TriedTokens, is_token_specific, request_new_token,
};
use super::{app_subscription, rate_limits};
use crate::context::Context;

/// Losses further apart than this have nothing to do with each other.
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

pub(super) async fn poll(
    context: &Context,
    page: &PageId,
    claimed: HostTime,
) -> Result<(), StoreError> {
    let key = subscription::key(page);
    let subject = Subject::Subscription(page.clone());
    let stored = load_record::<Subscription>(&*context.store, &key).await?;
    let Some(Versioned { value, .. }) = stored else {
        commit_one(&*context.store, remove_due_commit(subject, key)).await?;
        return Ok(());
    };
    // The later of two clocks: what was asked for by one is answered on the other.
    let now = context.clock.now().max(claimed);
    let attempt = if value.polling.is_due(now, claimed) {
        let attempt = attempt_with_any(context, page, &value).await?;
        Some((value, attempt))
    } else {
        None
    };
    let polling = |value: &Subscription| value.polling.clone();
    save_outcome(context, &key, &subject, polling, |value| {
        if let Some((known, attempt)) = &attempt {
            apply_attempt(value, known, attempt, now);
        }
    })
    .await?;
    let there = attempt.and_then(|(_, attempt)| attempt.remote);
    if there.is_some_and(|there| !there.changed) && is_silent(context, page, now).await? {
        tracing::warn!(page.id = %page, "changes of a Page are not announced although the app is on it");
        app_subscription::request_check_if_stale(context).await?;
    }
    Ok(())
}

/// A read found a change that nothing had announced. If its notice does not come within the grace,
/// somebody looks whether the app is still on the Page: once in the grace at most.
async fn schedule_check(context: &Context, page: &PageId) -> Result<(), StoreError> {
    let key = subscription::key(page);
    loop {
        let stored = load_record::<Subscription>(&*context.store, &key).await?;
        let Some(Versioned { version, mut value }) = stored else {
            return Ok(());
        };
        if value.polling.is_read_requested() || value.resubscriptions >= MAX_RESUBSCRIPTIONS {
            return Ok(());
        }
        value
            .polling
            .request_read(context.clock.now().plus(NOTIFICATION_GRACE));
        let subject = Subject::Subscription(page.clone());
        let next = save_commit(key.clone(), &value, version, subject, &value.polling);
        if commit_one(&*context.store, next).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}

/// Counts what the meter found in a commit that stands.
pub(crate) fn count_findings(context: &Context, committed: &[RecordWrite]) {
    for (name, n) in missed_webhooks::finding_labels(committed) {
        context.metrics.change_findings.add(name, n);
    }
}

/// Before a commit with a new gap: somebody looks after the grace whether the app is still on the Page.
/// Should the commit not come about, they look in vain.
pub(super) async fn schedule_check_of_unannounced(
    context: &Context,
    page: &PageId,
    records: &[RecordWrite],
) -> Result<(), StoreError> {
    if missed_webhooks::finding_labels(records).any(|(name, _)| name == "unannounced") {
        schedule_check(context, page).await?;
    }
    Ok(())
}

async fn is_silent(context: &Context, page: &PageId, now: HostTime) -> Result<bool, StoreError> {
    let stored = load_page(&*context.store, page).await?;
    Ok(matches!(stored.value, StoredPage::Page(page) if page.is_silent(now)))
}

/// What an attempt came to, with all logins together.
#[derive(Default)]
struct Attempt {
    remote: Option<RemoteSubscription>,
    /// Beside `there`: it passes, and stood in the way of finding out whether a refusal is the last word.
    error: Option<AttemptError>,
}

/// Why an attempt came to nothing.
enum AttemptError {
    NoToken(NoToken),
    Deferred(HostTime),
    Failed(GraphError),
    /// The store did not answer. It ends the job and is recorded nowhere.
    Store(StoreError),
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What is there now.
struct RemoteSubscription {
    /// What Facebook has.
    fields: BTreeSet<String>,
    refused: BTreeSet<String>,
    changed: bool,
    /// Something had been there, and was put back.
    was_missing: bool,
}

/// With the best token; with the next one where a token or its person is the trouble, or where what
/// this one may not have is news.
async fn attempt_with_any(
    context: &Context,
    page: &PageId,
    known: &Subscription,
) -> Result<Attempt, StoreError> {
    let mut so_far = Attempt::default();
    let mut tried = TriedTokens::default();
    let mut comes_back = false;
    loop {
        let candidate = match tried.next(context, page).await {
            Ok(candidate) => candidate,
            Err(TokenError::Store(error)) => return Err(error),
            Err(TokenError::NoToken(_)) if so_far.remote.is_some() => {
                // Everybody was asked, unless somebody's next token is still to come.
                so_far.error = so_far.error.filter(|_| comes_back);
                return Ok(so_far);
            }
            Err(TokenError::NoToken(why)) => {
                so_far.error.get_or_insert(AttemptError::NoToken(why));
                return Ok(so_far);
            }
        };
        match attempt_with(context, page, &candidate, known).await {
            Ok(there) => {
                let there = there.combine(so_far.remote.take());
                let is_settled = there.refused.is_subset(&known.refused);
                so_far.remote = Some(there);
                if is_settled {
                    so_far.error = None;
                    return Ok(so_far);
                }
            }
            Err(AttemptError::Failed(error)) if is_token_specific(&error) => {
                comes_back |= request_new_token(context, page, &candidate, &error).await?;
                so_far.error.get_or_insert(AttemptError::Failed(error));
            }
            Err(AttemptError::Store(error)) => return Err(error),
            Err(passing) => {
                so_far.error = Some(passing);
                return Ok(so_far);
            }
        }
        tried.add(candidate);
    }
}

async fn attempt_with(
    context: &Context,
    page: &PageId,
    candidate: &Candidate,
    known: &Subscription,
) -> Result<RemoteSubscription, AttemptError> {
    let whose = rate_limits::CallBudget {
        user: Some(&candidate.user),
        page: Some(page),
    };
    if let Some(until) = rate_limits::blocked_until(context, whose, QueueName::PollsNow).await? {
        return Err(AttemptError::Deferred(until));
    }
    let done = reconcile(context, page, &candidate.token, known).await;
    let throttled = rate_limits::record_reply(context, whose, done.as_ref().err()).await?;
    match throttled {
        Some(until) => Err(AttemptError::Deferred(until)),
        None => done.map_err(AttemptError::Failed),
    }
}

impl RemoteSubscription {
    /// Seen with this login after `before` was seen with another: what either was given is there.
    fn combine(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let both = before.refused.intersection(&self.refused);
        Self {
            refused: both.cloned().collect(),
            changed: before.changed || self.changed,
            was_missing: before.was_missing || self.was_missing,
            ..self
        }
    }
}

fn apply_attempt(value: &mut Subscription, known: &Subscription, attempt: &Attempt, now: HostTime) {
    if let Some(there) = &attempt.remote {
        (value.fields, value.confirmed_at) = (there.fields.clone(), Some(now));
    }
    if value.logins != known.logins {
        // A login came since: what its token may have is still to be asked.
        return;
    }
    if let Some(there) = &attempt.remote {
        value.attempted_at = Some(now);
        if there.was_missing {
            let lately = known
                .confirmed_at
                .is_some_and(|seen| seen.plus(A_WEEK) > now);
            value.resubscriptions = if lately { value.resubscriptions + 1 } else { 1 };
        }
    }
    match (&attempt.error, &attempt.remote) {
        (None, None) | (Some(AttemptError::Store(_)), _) => {}
        (None, Some(there)) => {
            let names: Vec<&str> = there.refused.iter().map(String::as_str).collect();
            let problem = format!("Facebook refuses {}", names.join(", "));
            value.problem = (!names.is_empty()).then_some(problem);
            if value.resubscriptions >= MAX_RESUBSCRIPTIONS {
                value.problem = Some(format!(
                    "the app was taken off this Page {MAX_RESUBSCRIPTIONS} times and put back; from now on it stays off until somebody logs in"
                ));
            }
            value.refused.clone_from(&there.refused);
            value.polling.complete_attempt(now);
        }
        (Some(AttemptError::Deferred(until)), _) => value.polling.defer_until(*until),
        (Some(AttemptError::NoToken(why)), _) => {
            value.problem = Some(why.to_string());
            value.polling.fail_attempt(now.plus(retry::ONE_DAY));
        }
        (Some(AttemptError::Failed(error)), _) => {
            value.attempted_at = Some(now);
            value.problem = Some(error.to_string());
            let at = now.plus(retry::delay_after(error, value.polling.failures));
            value.polling.fail_attempt(at);
        }
    }
}

/// Makes Facebook's side what it should be.
async fn reconcile(
    context: &Context,
    page: &PageId,
    token: &Token,
    known: &Subscription,
) -> Result<RemoteSubscription, GraphError> {
    let there = context.graph.page_subscription(token, page).await?;
    let there: BTreeSet<String> = there.unwrap_or_default().into_iter().collect();
    let lost = !known.fields.is_subset(&there);
    let wanted = webhook_fields(&context.tracked_fields)
        .into_iter()
        .map(ToOwned::to_owned);
    let mut wanted: BTreeSet<String> = wanted
        .filter(|name| !known.refused.contains(name))
        .collect();
    let mut refused = known.refused.clone();
    while !wanted.is_subset(&there) {
        let all: Vec<String> = there.union(&wanted).cloned().collect();
        match context.graph.subscribe_page(token, page, &all).await {
            Ok(()) => {
                return Ok(RemoteSubscription {
                    fields: all.into_iter().collect(),
                    refused,
                    changed: true,
                    was_missing: lost,
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
    Ok(RemoteSubscription {
        fields: there,
        refused,
        changed: false,
        was_missing: false,
    })
}
