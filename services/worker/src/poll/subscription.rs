//! The app's subscription on one Page. The list that is set replaces the one before, so what is
//! there is kept: another product may use the same app. Source: "Page subscribed apps".

use std::collections::BTreeSet;

use common::custody::Token;
use common::graph::error::GraphError;
use common::records::subscription::{self, Subscription};
use common::records::{commit, get};
use common::store::{StoreError, Versioned};
use model::id::{PageId, Subject};
use model::lane::Lane;
use model::time::Millis;

use super::commits::{forget_due, settle};
use super::limits;
use super::pace::{A_DAY, is_due, resume};
use super::tokens::{Candidate, NoToken, candidates};
use crate::Parts;

pub(super) async fn poll(parts: &Parts, page: &PageId, claimed: Millis) -> Result<(), StoreError> {
    let key = subscription::key(page);
    let subject = Subject::Subscription(page.clone());
    let held = get::<Subscription>(&*parts.store, &key).await?;
    let Some(Versioned { value, .. }) = held else {
        commit(&*parts.store, forget_due(subject, key)).await?;
        return Ok(());
    };
    let now = parts.clock.now();
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
    .await
}

/// What an attempt came to.
enum Attempt {
    Deferred(Millis),
    NoToken(NoToken),
    Done(Done),
}

async fn attempt(
    parts: &Parts,
    page: &PageId,
    known: &Subscription,
) -> Result<Attempt, StoreError> {
    let mut candidates = match candidates(parts, page).await? {
        Ok(candidates) => candidates,
        Err(why) => return Ok(Attempt::NoToken(why)),
    };
    let Candidate { token, user, .. } = candidates.swap_remove(0);
    let whose = limits::Whose {
        user: Some(&user),
        page: Some(page),
    };
    if let Some(until) = limits::closed(parts, whose, Lane::PollsNow).await? {
        return Ok(Attempt::Deferred(until));
    }
    let done = reconcile(parts, page, &token, known).await;
    let throttled = limits::note(parts, whose, done.as_ref().err()).await?;
    Ok(throttled.map_or(Attempt::Done(done), Attempt::Deferred))
}

/// What Facebook has after an attempt, and what it refused.
type Done = Result<(BTreeSet<String>, BTreeSet<String>), GraphError>;

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
        Attempt::Done(Ok((fields, refused))) => {
            let names: Vec<&str> = refused.iter().map(String::as_str).collect();
            let problem = format!("Facebook refuses {}", names.join(", "));
            value.problem = (!names.is_empty()).then_some(problem);
            (value.fields, value.refused) = (fields.clone(), refused.clone());
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
            Ok(()) => return Ok((all.into_iter().collect(), refused)),
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
    Ok((there, refused))
}
