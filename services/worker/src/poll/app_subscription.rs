//! The app subscription: the address to which Facebook posts the webhooks of an app, and their
//! fields. Facebook sends only fields that are subscribed both here and on the Page. Source:
//! "Subscriptions edge" of Graph API webhooks.
//!
//! Invariant: fields that are already subscribed stay subscribed, and another address is replaced
//! only if the settings allow it.

use std::collections::BTreeSet;
use std::time::Duration;

use common::graph::calls::AppSubscription;
use common::graph::error::GraphError;
use common::records::app::{self, App, StoreBindingError};
use common::records::{commit_one, load_all, load_if_decodable, load_record, token};
use common::retry;
use common::sealing::SealedToken;
use common::store::{Commit, RecordKind, StoreError, Versioned};
use model::id::Subject;
use model::time::HostTime;
use model::webhook_field::unhandled_fields;
use secrecy::ExposeSecret as _;

use super::commits::{save_outcome, update_commit};
use super::{maintenance, rate_limits};
use crate::context::Context;

/// The minimum time from a check that succeeded to one that is requested because a Page is silent.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Claims the store for the configured app, and requests a check of the app subscription. Fails if
/// the store belongs to another app or does not answer.
pub(crate) async fn bind_store_to_app(context: &Context) -> Result<(), StoreBindingError> {
    app::bind_store_to_app(&*context.store, context.graph.app_id()).await?;
    warn_about_unopenable_tokens(context).await?;
    let mut commit = Commit::default();
    request_check(context, &mut commit).await?;
    commit_one(&*context.store, commit).await?;
    Ok(())
}

/// Logs an error if connections have a token that is sealed to a key which this worker does not
/// have: the key file was lost, or other keys were configured. Fails if the store does not answer.
async fn warn_about_unopenable_tokens(context: &Context) -> Result<(), StoreError> {
    let Ok(keys) = context.keyring.keys() else {
        return Ok(());
    };
    let stored = load_all::<token::StoredToken>(&*context.store, RecordKind::UserToken, "").await?;
    let is_unopenable = |sealed: &SealedToken| !keys.contains(&sealed.key_id);
    let unopenable = stored
        .iter()
        .filter(|(_, stored)| stored.value.sealed.as_ref().is_some_and(is_unopenable));
    let unopenable = unopenable.count();
    if unopenable > 0 {
        tracing::error!(
            connections = unopenable,
            "stored tokens are sealed to keys that this worker does not have: restore the old keys (token.keys, PAGESYNC_TOKEN_PRIVATE_KEYS) or let people log in again"
        );
    }
    Ok(())
}

/// Adds to a commit a request to check the app subscription now. Each start of a worker and each
/// login makes such a request, because no webhook arrives without the app subscription.
pub(super) async fn request_check(
    context: &Context,
    commit: &mut Commit,
) -> Result<(), StoreError> {
    // A record that this build cannot decode must not fail the login that makes the request.
    let Some(Versioned { version, mut value }) =
        load_if_decodable::<App>(&*context.store, &app::key()).await?
    else {
        return Ok(());
    };
    value.polling.request_login_read(context.clock.now());
    let polling = value.polling.clone();
    let update = update_commit(app::key(), &value, version, Subject::App, &polling);
    commit.records.extend(update.records);
    commit.due.extend(update.due);
    Ok(())
}

/// Requests a check of the app subscription. Does nothing if a check has succeeded within
/// [`CHECK_INTERVAL`], or if a problem is recorded, because a retry is then due anyway. Fails if
/// the store does not answer.
pub(super) async fn request_check_if_stale(context: &Context) -> Result<(), StoreError> {
    let stored = load_if_decodable::<App>(&*context.store, &app::key()).await?;
    let now = context.clock.now();
    let is_long_ago = |app: &App| {
        app.confirmed_at
            .is_none_or(|confirmed_at| confirmed_at.plus(CHECK_INTERVAL) <= now)
    };
    if stored.is_some_and(|stored| stored.value.problem.is_none() && is_long_ago(&stored.value)) {
        let mut commit = Commit::default();
        request_check(context, &mut commit).await?;
        // If the commit is stale, another job has written the record and checks it.
        commit_one(&*context.store, commit).await?;
    }
    Ok(())
}

/// If a check of the app subscription is due, makes it and runs the maintenance. `claimed` is the
/// due time in the claim. Fails if the store does not answer; an error of Graph is recorded as the
/// app's problem.
pub(super) async fn poll(context: &Context, claimed: HostTime) -> Result<(), StoreError> {
    let (key, subject) = (app::key(), Subject::App);
    let Some(stored) = load_record::<App>(&*context.store, &key).await? else {
        return Ok(());
    };
    let now = context.clock.now();
    // The scheduler's clock may be ahead of this host's clock.
    let claimed_at = now.max(claimed);
    let mut polling = stored.value.polling.clone();
    polling.lower_impossible_times(claimed_at);
    let result = if polling.is_due(now, claimed) {
        let result = reconcile(context, &stored.value).await;
        rate_limits::record_reply(
            context,
            rate_limits::CallScope::default(),
            result.as_ref().err(),
        )
        .await?;
        maintenance::maintain(context).await?;
        if let Err(error) = &result {
            tracing::error!(error = %error, "the app subscription could not be checked or set");
        }
        Some(result)
    } else {
        None
    };
    let polling = |app: &App| app.polling.clone();
    save_outcome(context, &key, &subject, polling, |app: &mut App| {
        let lower_to = context.clock.now().max(claimed_at);
        app.polling.lower_impossible_times(lower_to);
        match &result {
            None => {}
            Some(Ok(callback)) => {
                app.callback = callback.clone().or(app.callback.take());
                app.confirmed_at = Some(now);
                app.problem = None;
                app.polling.complete_attempt(now);
                app.polling.daily_slot =
                    Some(context.daily_schedule.next_slot(&subject, claimed_at));
            }
            Some(Err(error)) => {
                let delay = retry::APP_SUBSCRIPTION.delay(app.polling.failures);
                app.problem = Some(error.to_string());
                app.polling.fail_attempt(now.plus(delay));
            }
        }
    })
    .await
}

/// Checks the subscription of an app whose webhooks another program passes on. Fails if it lacks a
/// required field.
fn check_passed_on(remote: Option<AppSubscription>, required: &[String]) -> Result<(), GraphError> {
    let remote = remote.filter(|remote| remote.active);
    let Some(remote) = remote else {
        let reason = "the app has no active subscription, although another program is to receive its webhooks and pass them on (PAGESYNC_WEBHOOKS_PASSED_ON)";
        return Err(GraphError::configuration(reason));
    };
    let is_missing = |name: &&String| !remote.fields.contains(name);
    let missing: Vec<&str> = required
        .iter()
        .filter(is_missing)
        .map(String::as_str)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(GraphError::configuration(format!(
        "the app is not subscribed to {}: subscribe these fields in the app's dashboard, with values included",
        missing.join(", ")
    )))
}

/// Returns why the callback of another program is not replaced, or `None` if it may be.
fn refusal_to_replace(context: &Context, foreign: &AppSubscription) -> Option<String> {
    let may_replace = context.callback.replace;
    let mut unhandled = unhandled_fields(&foreign.fields);
    if context.forward.is_some() {
        // The program gets them from pagesync.
        unhandled.clear();
    }
    if unhandled.is_empty() && may_replace {
        return None;
    }
    let other =
        "Facebook posts this app's webhooks to another address than FACEBOOK_WEBHOOK_ADDRESS";
    if unhandled.is_empty() {
        return Some(format!(
            "{other}: give this deployment an app of its own, or set PAGESYNC_REPLACE_CALLBACK=true"
        ));
    }
    Some(format!(
        "{other}, and the program there receives {}, which pagesync does not handle: set PAGESYNC_FORWARD_URL to its address, let it pass the webhooks on, or give this deployment an app of its own (docs/how-to/facebook-app.md, section 7)",
        unhandled.join(", ")
    ))
}

/// Sets the app subscription at Facebook unless it is complete. Returns its address, or `None` if
/// another program passes the webhooks on. Fails if it has another address at Facebook and may not be
/// replaced.
async fn reconcile(context: &Context, known: &App) -> Result<Option<String>, GraphError> {
    let address = &context.callback.address;
    let required = &context.webhook_fields;
    let remote = context.graph.app_subscription().await?;
    if context.callback.is_passed_on {
        return check_passed_on(remote, required).map(|()| None);
    }
    // This deployment may replace an address that it has set itself, for example that of a tunnel.
    let is_foreign = |remote: &&AppSubscription| {
        remote.active
            && remote.callback != *address
            && known.callback.as_ref() != Some(&remote.callback)
    };
    if let Some(foreign) = remote.as_ref().filter(is_foreign) {
        let reason = refusal_to_replace(context, foreign);
        if let Some(reason) = reason {
            return Err(GraphError::configuration(reason));
        }
    }
    let fields: BTreeSet<String> = remote
        .iter()
        .flat_map(|remote| remote.fields.iter().cloned())
        .chain(required.iter().cloned())
        .collect();
    let is_complete = remote.as_ref().is_some_and(|remote| {
        remote.active && remote.callback == *address && fields.len() == remote.fields.len()
    });
    // Facebook does not return `include_values`, so it is certain to be set only if this store has
    // recorded the address. The subscription is therefore set once for each address.
    if !is_complete || known.callback.as_ref() != Some(address) {
        let fields: Vec<String> = fields.into_iter().collect();
        let verify_token = context.callback.verify_token.expose_secret();
        context
            .graph
            .subscribe_app(address, verify_token, &fields)
            .await?;
        tracing::info!(fields = fields.len(), "the app subscription was set");
    }
    Ok(Some(address.clone()))
}
