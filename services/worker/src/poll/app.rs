//! The app's own subscription: Facebook posts the webhooks of an app to one address, and only fields
//! subscribed here as well as on a Page are sent. Source: "Subscriptions edge" of Graph API webhooks.

use std::collections::BTreeSet;
use std::time::Duration;

use common::custody::Sealed;
use common::graph::calls::AppSubscription;
use common::graph::error::GraphError;
use common::records::app::{self, App};
use common::records::{all, commit, get, token};
use common::store::{Commit, Kind, StoreError, Versioned};
use model::id::Subject;
use model::time::Millis;
use secrecy::ExposeSecret as _;

use super::commits::{save, settle};
use super::pace::{doubled, is_due};
use super::{care, limits};
use crate::Parts;

/// The handshake needs ingress to be up: at the first start it may be a moment later than we are.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Claims the store for our app, and makes its subscription due. The inner error says that the store belongs to another app.
pub(crate) async fn prepare(parts: &Parts) -> Result<Result<(), String>, StoreError> {
    if let Err(theirs) = app::claim(&*parts.store, parts.graph.app_id()).await? {
        return Ok(Err(format!(
            "this store belongs to the Facebook app {theirs}, not to FACEBOOK_APP_ID: one store serves one app"
        )));
    }
    warn_of_lost_keys(parts).await?;
    let mut next = Commit::default();
    ask(parts, &mut next).await?;
    commit(&*parts.store, next).await?;
    Ok(Ok(()))
}

/// Tokens that nobody here can open mean that the key file was lost or the wrong keys were given.
async fn warn_of_lost_keys(parts: &Parts) -> Result<(), StoreError> {
    let Ok(keys) = parts.keyring.keys() else {
        return Ok(());
    };
    let held = all::<token::Held>(&*parts.store, Kind::UserToken, "").await?;
    let is_lost = |sealed: &Sealed| !keys.hold(&sealed.key);
    let lost = held
        .iter()
        .filter(|(_, held)| held.value.sealed.as_ref().is_some_and(is_lost));
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
pub(super) async fn ask(parts: &Parts, next: &mut Commit) -> Result<(), StoreError> {
    let Some(Versioned { version, mut value }) = get::<App>(&*parts.store, &app::key()).await?
    else {
        return Ok(());
    };
    value.polling.ask(parts.clock.now());
    (value.polling.not_before, value.polling.failures) = (None, 0);
    let polling = value.polling.clone();
    let more = save(app::key(), &value, version, Subject::App, &polling);
    next.records.extend(more.records);
    next.due.extend(more.due);
    Ok(())
}

/// Changes are not announced: unless somebody looked within the hour, they look now.
pub(super) async fn suspect(parts: &Parts) -> Result<(), StoreError> {
    let held = get::<App>(&*parts.store, &app::key()).await?;
    let now = parts.clock.now();
    let is_long_ago = |app: &App| app.seen.is_none_or(|seen| seen.plus(LONGEST_PAUSE) <= now);
    if held.is_some_and(|held| held.value.problem.is_none() && is_long_ago(&held.value)) {
        let mut next = Commit::default();
        ask(parts, &mut next).await?;
        // Was it written meanwhile, somebody looked.
        commit(&*parts.store, next).await?;
    }
    Ok(())
}

pub(super) async fn poll(parts: &Parts, claimed: Millis) -> Result<(), StoreError> {
    let (key, subject) = (app::key(), Subject::App);
    let Some(held) = get::<App>(&*parts.store, &key).await? else {
        return Ok(());
    };
    let now = parts.clock.now();
    let found = if is_due(&held.value.polling, now, claimed) {
        let found = reconcile(parts, &held.value).await;
        limits::note(parts, limits::Whose::default(), found.as_ref().err()).await?;
        care::care(parts).await?;
        if let Err(error) = &found {
            tracing::error!(error = %error, "the app's subscription is not as it should be");
        }
        Some(found)
    } else {
        None
    };
    let polling = |app: &App| app.polling.clone();
    settle(
        parts,
        (&key, &subject),
        polling,
        |app: &mut App| match &found {
            None => {}
            Some(Ok(callback)) => {
                app.callback = Some(callback.clone());
                app.seen = Some(now);
                app.problem = None;
                app.polling.done(now);
                app.polling.slot = Some(parts.days.next_slot(&subject, now));
            }
            Some(Err(error)) => {
                let pause = doubled(FIRST_PAUSE, LONGEST_PAUSE, app.polling.failures);
                app.problem = Some(error.to_string());
                app.polling.fail(now.plus(pause));
            }
        },
    )
    .await
}

/// Makes Facebook's side what it should be; answers with the callback it has.
async fn reconcile(parts: &Parts, known: &App) -> Result<String, GraphError> {
    let ours = &parts.callback.address;
    let wanted = parts.tracked.webhook_fields();
    let there = parts.graph.app_subscription().await?;
    let foreign = |there: &AppSubscription| there.active && there.callback != *ours;
    if there.as_ref().is_some_and(foreign) && !parts.callback.take_over {
        let what = "Facebook posts this app's webhooks to another address than FACEBOOK_WEBHOOK_ADDRESS: give this deployment an app of its own, or set PAGESYNC_TAKE_OVER_CALLBACK=true";
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
        let verify_token = parts.callback.verify_token.expose_secret();
        parts
            .graph
            .subscribe_app(ours, verify_token, &fields)
            .await?;
        tracing::info!(fields = fields.len(), "the app's subscription was set");
    }
    Ok(ours.clone())
}
