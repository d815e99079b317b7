//! The app's own subscription: Facebook posts the webhooks of an app to one address, and only fields
//! subscribed here as well as on a Page are sent. Source: "Subscriptions edge" of Graph API webhooks.

use std::collections::BTreeSet;
use std::time::Duration;

use common::graph::calls::AppSubscription;
use common::graph::error::GraphError;
use common::records::app::{self, App, ClaimError};
use common::records::{commit_one, load_all, load_record, token};
use common::retry;
use common::sealing::SealedToken;
use common::store::{Commit, RecordKind, StoreError, Versioned};
use model::id::Subject;
use model::time::HostTime;
use model::webhook_field::webhook_fields;
use secrecy::ExposeSecret as _;

use super::commits::{save_commit, save_outcome};
use super::{maintenance, rate_limits};
use crate::context::Context;

/// A check of the app subscription that is younger than this is not repeated.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Claims the store for the configured app, and makes the app subscription due.
pub(crate) async fn claim_store(context: &Context) -> Result<(), ClaimError> {
    app::claim_store(&*context.store, context.graph.app_id()).await?;
    warn_about_unopenable_tokens(context).await?;
    let mut next = Commit::default();
    request_check(context, &mut next).await?;
    commit_one(&*context.store, next).await?;
    Ok(())
}

/// Tokens that nobody here can open mean that the key file was lost or the wrong keys were given.
async fn warn_about_unopenable_tokens(context: &Context) -> Result<(), StoreError> {
    let Ok(keys) = context.keyring.keys() else {
        return Ok(());
    };
    let stored = load_all::<token::StoredToken>(&*context.store, RecordKind::UserToken, "").await?;
    let is_lost = |sealed: &SealedToken| !keys.contains(&sealed.key);
    let lost = stored
        .iter()
        .filter(|(_, stored)| stored.value.sealed.as_ref().is_some_and(is_lost));
    let lost = lost.count();
    if lost > 0 {
        tracing::error!(
            connections = lost,
            "stored tokens are sealed to keys that are not here: give the old keys back (token.keys, PAGESYNC_TOKEN_PRIVATE_KEYS) or let people log in again"
        );
    }
    Ok(())
}

/// Adds to a commit that the subscription is due: at each start and each login somebody looks whether
/// webhooks can come at all.
pub(super) async fn request_check(context: &Context, next: &mut Commit) -> Result<(), StoreError> {
    let Some(Versioned { version, mut value }) =
        load_record::<App>(&*context.store, &app::key()).await?
    else {
        return Ok(());
    };
    value.polling.request_read(context.clock.now());
    (value.polling.not_before, value.polling.failures) = (None, 0);
    let polling = value.polling.clone();
    let more = save_commit(app::key(), &value, version, Subject::App, &polling);
    next.records.extend(more.records);
    next.due.extend(more.due);
    Ok(())
}

/// Changes are not announced: unless somebody looked within the hour, they look now.
pub(super) async fn request_check_if_stale(context: &Context) -> Result<(), StoreError> {
    let stored = load_record::<App>(&*context.store, &app::key()).await?;
    let now = context.clock.now();
    let is_long_ago = |app: &App| {
        app.confirmed_at
            .is_none_or(|seen| seen.plus(CHECK_INTERVAL) <= now)
    };
    if stored.is_some_and(|stored| stored.value.problem.is_none() && is_long_ago(&stored.value)) {
        let mut next = Commit::default();
        request_check(context, &mut next).await?;
        // Was it written meanwhile, somebody looked.
        commit_one(&*context.store, next).await?;
    }
    Ok(())
}

pub(super) async fn poll(context: &Context, claimed: HostTime) -> Result<(), StoreError> {
    let (key, subject) = (app::key(), Subject::App);
    let Some(stored) = load_record::<App>(&*context.store, &key).await? else {
        return Ok(());
    };
    let now = context.clock.now();
    let found = if stored.value.polling.is_due(now, claimed) {
        let found = reconcile(context, &stored.value).await;
        rate_limits::record_reply(
            context,
            rate_limits::CallBudget::default(),
            found.as_ref().err(),
        )
        .await?;
        maintenance::maintain(context).await?;
        if let Err(error) = &found {
            tracing::error!(error = %error, "the app's subscription is not as it should be");
        }
        Some(found)
    } else {
        None
    };
    let polling = |app: &App| app.polling.clone();
    save_outcome(
        context,
        &key,
        &subject,
        polling,
        |app: &mut App| match &found {
            None => {}
            Some(Ok(callback)) => {
                app.callback = Some(callback.clone());
                app.confirmed_at = Some(now);
                app.problem = None;
                app.polling.complete_attempt(now);
                app.polling.daily_slot = Some(context.daily_schedule.next_slot(&subject, now));
            }
            Some(Err(error)) => {
                let pause = retry::APP_SUBSCRIPTION.delay(app.polling.failures);
                app.problem = Some(error.to_string());
                app.polling.fail_attempt(now.plus(pause));
            }
        },
    )
    .await
}

/// Makes Facebook's side what it should be; answers with the callback it has.
async fn reconcile(context: &Context, known: &App) -> Result<String, GraphError> {
    let ours = &context.callback.address;
    let wanted = webhook_fields(&context.tracked_fields);
    let there = context.graph.app_subscription().await?;
    let foreign = |there: &AppSubscription| there.active && there.callback != *ours;
    if there.as_ref().is_some_and(foreign) && !context.callback.replace {
        let what = "Facebook posts this app's webhooks to another address than FACEBOOK_WEBHOOK_ADDRESS: give this deployment an app of its own, or set PAGESYNC_REPLACE_CALLBACK=true";
        return Err(GraphError::Configuration(what.to_owned()));
    }
    let fields: BTreeSet<String> = there
        .iter()
        .flat_map(|there| there.fields.iter().cloned())
        .chain(wanted.iter().map(|name| (*name).to_owned()))
        .collect();
    let complete = there.as_ref().is_some_and(|there| {
        there.active && there.callback == *ours && fields.len() == there.fields.len()
    });
    // `include_values` cannot be read back: it is set once by us, so that we know it is.
    if !complete || known.callback.as_ref() != Some(ours) {
        let fields: Vec<String> = fields.into_iter().collect();
        let verify_token = context.callback.verify_token.expose_secret();
        context
            .graph
            .subscribe_app(ours, verify_token, &fields)
            .await?;
        tracing::info!(fields = fields.len(), "the app's subscription was set");
    }
    Ok(ours.clone())
}
