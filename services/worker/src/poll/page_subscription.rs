//! The Page subscription: the webhook fields of one Page to which the app is subscribed.
//!
//! Invariant: a field that is subscribed stays subscribed, because another product may use the same
//! app. At Facebook each new list of fields replaces the former list, so it includes all subscribed
//! fields. Source: "Page subscribed apps".

use std::collections::BTreeSet;
use std::time::Duration;

use common::graph::error::{ErrorKind, GraphError};
use common::records::page_subscription::{self, MAX_RESUBSCRIPTIONS, PageSubscription};
use common::records::{commit_one, load_if_decodable, load_record, missed_webhooks};
use common::retry;
use common::sealing::Token;
use common::store::{CommitOutcome, RecordWrite, StoreError, StoredPage, Versioned, load_page};
use model::announcements::NOTIFICATION_GRACE;
use model::id::{PageId, Subject};
use model::job::Claim;
use model::queue_name::QueueName;
use model::time::HostTime;

use super::commits::{remove_due_commit, save_outcome, update_commit};
use super::page_tokens::{
    Candidate, NoToken, TokenError, TriedTokens, is_token_specific, request_new_token,
};
use super::{app_subscription, rate_limits};
use crate::context::Context;

/// If the last check that succeeded is older than this, the count of resubscriptions starts again.
const RESUBSCRIPTION_PERIOD: Duration = Duration::from_secs(7 * 24 * 3600);

/// Checks the subscription of a Page if that is due. Fails if the store does not answer; an error of Graph is recorded in the subscription.
pub(super) async fn poll(
    context: &Context,
    page: &PageId,
    claim: &Claim,
) -> Result<(), StoreError> {
    let key = page_subscription::key(page);
    let subject = Subject::PageSubscription(page.clone());
    let stored = load_record::<PageSubscription>(&*context.store, &key).await?;
    let Some(Versioned { mut value, .. }) = stored else {
        commit_one(&*context.store, remove_due_commit(subject, key)).await?;
        return Ok(());
    };
    // The later time is used, so that the attempt also answers a request made by a host whose clock
    // is ahead of this host's clock.
    let now = context.clock.now().max(claim.due_at);
    value.polling.lower_impossible_times(now);
    let check = if value.polling.is_due(now, claim.due_at) {
        let check = check_with_any_token(context, page, &value, claim.queue).await?;
        Some((value, check))
    } else {
        None
    };
    let polling = |value: &PageSubscription| value.polling.clone();
    save_outcome(
        context,
        &key,
        &subject,
        polling,
        |value: &mut PageSubscription| {
            // The stored state may be newer than the start of the attempt.
            let lower_to = context.clock.now().max(now);
            value.polling.lower_impossible_times(lower_to);
            if let Some((known, check)) = &check {
                apply_check(value, known, check, now);
            }
        },
    )
    .await?;
    let remote = check.and_then(|(_, check)| check.remote);
    if remote.is_some_and(|remote| !remote.changed) && is_silent(context, page, now).await? {
        tracing::warn!(page.id = %page, "no webhook announces the changes of a Page although the app is subscribed");
        app_subscription::request_check_if_stale(context).await?;
    }
    Ok(())
}

/// Makes the Page subscription due after [`NOTIFICATION_GRACE`], within which the notification of a
/// change may still arrive. Does nothing if a check is requested already, or if the app was
/// resubscribed too often. Fails if the store does not answer.
async fn schedule_check(context: &Context, page: &PageId) -> Result<(), StoreError> {
    let key = page_subscription::key(page);
    loop {
        let stored = load_if_decodable::<PageSubscription>(&*context.store, &key).await?;
        let Some(Versioned { version, mut value }) = stored else {
            return Ok(());
        };
        if value.polling.has_open_notification_or_request()
            || value.resubscriptions >= MAX_RESUBSCRIPTIONS
        {
            return Ok(());
        }
        value
            .polling
            .request_read(context.clock.now().plus(NOTIFICATION_GRACE));
        let subject = Subject::PageSubscription(page.clone());
        let commit = update_commit(key.clone(), &value, version, subject, &value.polling);
        if commit_one(&*context.store, commit).await? == CommitOutcome::Applied {
            return Ok(());
        }
    }
}

/// Counts the findings in the records of a commit that was applied.
pub(crate) fn count_findings(context: &Context, committed: &[RecordWrite]) {
    for (name, n) in missed_webhooks::finding_labels(committed) {
        context.metrics.change_findings.add(name, n);
    }
}

/// Schedules a check of the Page subscription if `records` contain a new unannounced change. It is
/// called before `records` are committed; if the commit fails, the extra check is harmless.
pub(super) async fn schedule_check_if_unannounced(
    context: &Context,
    page: &PageId,
    records: &[RecordWrite],
) -> Result<(), StoreError> {
    if missed_webhooks::finding_labels(records).any(|(name, _)| name == "unannounced") {
        schedule_check(context, page).await?;
    }
    Ok(())
}

/// Returns whether a Page is silent: it missed a change, and no webhook of it has arrived since.
async fn is_silent(context: &Context, page: &PageId, now: HostTime) -> Result<bool, StoreError> {
    let stored = load_page(&*context.store, page).await?;
    Ok(matches!(stored.value, StoredPage::Page(page) if page.is_silent(now)))
}

/// The outcome of a check, from all tokens that it tried.
#[derive(Default)]
struct CheckOutcome {
    /// The subscription at Facebook, if a token could check it.
    remote: Option<RemoteSubscription>,
    /// The error of the check. If `remote` is also set, the error is temporary: Facebook may
    /// accept the refused fields with a token that could not be used.
    error: Option<AttemptError>,
}

/// The reason why a check failed.
enum AttemptError {
    /// No token can be used.
    NoToken(NoToken),
    /// A rate limit forbids calls until this time, on this host's clock.
    Deferred(HostTime),
    /// Graph did not do what was requested.
    Failed(GraphError),
    /// The store did not answer. This error ends the job and is not recorded.
    Store(StoreError),
}

impl From<StoreError> for AttemptError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The subscription at Facebook after a check.
struct RemoteSubscription {
    /// The fields that were subscribed before the check.
    found: BTreeSet<String>,
    /// The fields that are subscribed.
    fields: BTreeSet<String>,
    /// The fields that Facebook refused.
    refused: BTreeSet<String>,
    /// Whether the check changed the subscription.
    changed: bool,
    /// Whether fields that had been subscribed were missing and were subscribed again.
    restored_fields: bool,
}

/// Checks the subscription with the best token. Tries the next token if Facebook refuses the token,
/// its person, or a field that is not yet recorded as refused.
async fn check_with_any_token(
    context: &Context,
    page: &PageId,
    known: &PageSubscription,
    queue_name: QueueName,
) -> Result<CheckOutcome, StoreError> {
    let mut check = CheckOutcome::default();
    let mut tried = TriedTokens::default();
    let mut expects_new_token = false;
    loop {
        let candidate = match tried.next(context, page).await {
            Ok(candidate) => candidate,
            Err(TokenError::Store(error)) => return Err(error),
            Err(TokenError::NoToken(_)) if check.remote.is_some() => {
                // All tokens were tried. A refused token is an error only if a poll may replace it.
                check.error = check.error.filter(|_| expects_new_token);
                return Ok(check);
            }
            Err(TokenError::NoToken(reason)) => {
                check.error.get_or_insert(AttemptError::NoToken(reason));
                return Ok(check);
            }
        };
        match check_with_token(context, page, &candidate, known, queue_name).await {
            Ok(remote) => {
                let remote = remote.combine(check.remote.take());
                let is_final = remote.refused.is_subset(&known.refused);
                check.remote = Some(remote);
                if is_final {
                    check.error = None;
                    return Ok(check);
                }
            }
            Err(AttemptError::Failed(error)) if is_token_specific(&error) => {
                expects_new_token |= request_new_token(context, page, &candidate, &error).await?;
                check.error.get_or_insert(AttemptError::Failed(error));
            }
            Err(AttemptError::Store(error)) => return Err(error),
            Err(error) => {
                check.error = Some(error);
                return Ok(check);
            }
        }
        tried.add(candidate);
    }
}

/// Checks the subscription with the token of `candidate`.
async fn check_with_token(
    context: &Context,
    page: &PageId,
    candidate: &Candidate,
    known: &PageSubscription,
    queue_name: QueueName,
) -> Result<RemoteSubscription, AttemptError> {
    let call_scope = rate_limits::CallScope {
        user: Some(&candidate.user),
        page: Some(page),
    };
    if let Some(until) = rate_limits::blocked_until(context, call_scope, queue_name).await? {
        return Err(AttemptError::Deferred(until));
    }
    let result = reconcile(context, page, &candidate.token, known).await;
    let blocked_until =
        rate_limits::record_reply(context, call_scope, result.as_ref().err()).await?;
    match blocked_until {
        Some(until) => Err(AttemptError::Deferred(until)),
        None => result.map_err(AttemptError::Failed),
    }
}

impl RemoteSubscription {
    /// Combines this result with the result of an earlier token. A field counts as refused only if
    /// Facebook refused it with both tokens.
    fn combine(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let both = before.refused.intersection(&self.refused);
        Self {
            found: before.found,
            refused: both.cloned().collect(),
            changed: before.changed || self.changed,
            restored_fields: before.restored_fields || self.restored_fields,
            ..self
        }
    }
}

/// Records a check in `value`. `known` is the subscription as it was before the check.
fn apply_check(
    value: &mut PageSubscription,
    known: &PageSubscription,
    check: &CheckOutcome,
    now: HostTime,
) {
    if let Some(remote) = &check.remote {
        value.found.get_or_insert_with(|| remote.found.clone());
        (value.fields, value.confirmed_at) = (remote.fields.clone(), Some(now));
    }
    if value.logins != known.logins {
        // A login has brought a token that was not tried, so the check stays due.
        return;
    }
    if let Some(remote) = &check.remote {
        value.attempted_at = Some(now);
        if remote.restored_fields {
            let is_recent = known
                .confirmed_at
                .is_some_and(|confirmed_at| confirmed_at.plus(RESUBSCRIPTION_PERIOD) > now);
            value.resubscriptions = if is_recent {
                value.resubscriptions + 1
            } else {
                1
            };
        }
    }
    match (&check.error, &check.remote) {
        (None, None) | (Some(AttemptError::Store(_)), _) => {}
        (None, Some(remote)) => {
            let names: Vec<&str> = remote.refused.iter().map(String::as_str).collect();
            let problem = format!("Facebook refuses the webhook fields {}", names.join(", "));
            value.problem = (!names.is_empty()).then_some(problem);
            if value.resubscriptions >= MAX_RESUBSCRIPTIONS {
                value.problem = Some(format!(
                    "the app was removed from this Page {MAX_RESUBSCRIPTIONS} times; it is subscribed again after the next login"
                ));
            }
            value.refused.clone_from(&remote.refused);
            value.polling.complete_attempt(now);
        }
        (Some(AttemptError::Deferred(until)), _) => value.polling.defer_until(*until),
        (Some(AttemptError::NoToken(reason)), _) => {
            value.problem = Some(reason.to_string());
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

/// Returns whether Facebook refused a list of fields as invalid and named none of them.
fn is_unnamed_refusal(error: &GraphError) -> bool {
    let code = error.reported.as_ref().and_then(|reported| reported.code);
    code == Some(100) && matches!(error.kind, ErrorKind::Configuration(_))
}

/// Returns those of the fields `missing` that Facebook refuses beside the subscribed fields `remote`, by
/// trying one half after the other. The accepted ones are subscribed.
async fn find_refused(
    context: &Context,
    page: &PageId,
    token: &Token,
    remote: &BTreeSet<String>,
    missing: Vec<String>,
) -> Result<BTreeSet<String>, GraphError> {
    let (mut accepted, mut refused) = (remote.clone(), BTreeSet::new());
    let mut parts = vec![missing];
    while let Some(mut part) = parts.pop() {
        let all: Vec<String> = accepted.iter().chain(&part).cloned().collect();
        match context.graph.subscribe_page(token, page, &all).await {
            Ok(()) => accepted.extend(part),
            Err(error) if !is_unnamed_refusal(&error) => return Err(error),
            Err(_) if part.len() == 1 => refused.extend(part),
            Err(_) => {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
            }
        }
    }
    Ok(refused)
}

/// Returns the error for a list that Facebook refuses because of fields of another program. Facebook
/// replaces the whole list, so pagesync subscribes nothing rather than drop these fields.
fn refusal_of_others(
    mut error: GraphError,
    named: &BTreeSet<String>,
    remote: &BTreeSet<String>,
) -> GraphError {
    let of_others: Vec<&str> = named.intersection(remote).map(String::as_str).collect();
    if let (ErrorKind::Permission(_), false) = (&error.kind, of_others.is_empty()) {
        let permission = if of_others.iter().any(|name| name.starts_with("messag")) {
            "pages_messaging"
        } else {
            "the permission that they need"
        };
        error.kind = ErrorKind::Permission(format!(
            "{permission}, without which Facebook does not let pagesync keep {}, which another program with this app has subscribed; add it to PAGESYNC_SCOPES, and ask the person to log in at the address of `pagesync connection invite --rerequest`",
            of_others.join(", ")
        ));
    }
    error
}

/// Subscribes the Page to the required fields that are missing at Facebook. Fields that Facebook
/// refuses by name are left out.
async fn reconcile(
    context: &Context,
    page: &PageId,
    token: &Token,
    known: &PageSubscription,
) -> Result<RemoteSubscription, GraphError> {
    let remote = context.graph.page_subscription(token, page).await?;
    let remote: BTreeSet<String> = remote.unwrap_or_default().into_iter().collect();
    let was_missing = !known.fields.is_subset(&remote);
    let required = context.webhook_fields.iter().cloned();
    let mut required: BTreeSet<String> = required
        .filter(|name| !known.refused.contains(name))
        .collect();
    let mut refused = known.refused.clone();
    while !required.is_subset(&remote) {
        let all: Vec<String> = remote.union(&required).cloned().collect();
        match context.graph.subscribe_page(token, page, &all).await {
            Err(error) if is_unnamed_refusal(&error) && all.len() > remote.len() + 1 => {
                // The error names no field, so the fields are tried by halves.
                let missing = required.difference(&remote).cloned().collect();
                let found = find_refused(context, page, token, &remote, missing).await?;
                required.retain(|name| !found.contains(name));
                refused.extend(found);
            }
            Ok(()) => {
                return Ok(RemoteSubscription {
                    found: remote,
                    fields: all.into_iter().collect(),
                    refused,
                    changed: true,
                    restored_fields: was_missing,
                });
            }
            Err(error) => {
                // The error names the refused fields; Facebook may accept the others.
                let named: BTreeSet<String> = match &error.kind {
                    ErrorKind::Permission(names) => {
                        names.split(',').map(ToOwned::to_owned).collect()
                    }
                    _ => return Err(error),
                };
                if named.is_disjoint(&required) {
                    return Err(refusal_of_others(error, &named, &remote));
                }
                required.retain(|name| !named.contains(name));
                refused.extend(named);
            }
        }
    }
    Ok(RemoteSubscription {
        found: remote.clone(),
        fields: remote,
        refused,
        changed: false,
        restored_fields: false,
    })
}
