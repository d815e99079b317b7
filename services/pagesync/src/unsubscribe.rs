//! The removal of the app from Pages that a command disconnects or erases.
//!
//! Invariant: it begins before the records are deleted and never fails or delays the command by more
//! than the time limit of all attempts.

use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::store::{Store, StoreError};
use common::unsubscribe::{Unsubscribed, Unsubscription};
use model::id::{PageId, UserId};
use tokio::task::JoinHandle;

use crate::keys::private_keys;

/// The Pages whose subscriptions a command ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// The Pages to which only this person gives access.
    Person(&'a UserId),
    /// These Pages, whoever gives access to them.
    Pages(&'a [PageId]),
}

/// A removal that is under way; `None` if there is nothing to remove.
pub(crate) type Removal = Option<JoinHandle<Unsubscribed>>;

/// Begins to remove the app from Pages. Fails if the store does not answer.
pub(crate) async fn begin(
    config: &Config,
    store: &dyn Store,
    scope: Scope<'_>,
) -> Result<Removal, StoreError> {
    let has_app = !config.app_id.is_empty() && !config.app_secrets.is_empty();
    let keys = private_keys(config).ok().flatten().filter(|_| has_app);
    let pages = match scope {
        Scope::Person(user) => Unsubscription::of_person(store, keys.as_ref(), user).await?,
        Scope::Pages(ids) => Unsubscription::collect(store, keys.as_ref(), ids, &[]).await?,
    };
    let graph = Graph::new(config, Clock::system());
    let Some(graph) = graph.ok().filter(|_| !pages.is_empty()) else {
        return Ok(None);
    };
    let required = config.webhook_fields();
    Ok(Some(tokio::spawn(pages.execute(graph, required))))
}

/// Waits until a removal has ended. Returns its result in words, or `None` if there was nothing to
/// remove.
pub(crate) async fn finish(removal: Removal) -> Option<String> {
    let Unsubscribed {
        done,
        failed,
        without_token,
    } = removal?.await.ok()?;
    let pages = |count: usize| match count {
        1 => "1 Page".to_owned(),
        count => format!("{count} Pages"),
    };
    let mut parts = vec![format!(
        "removed the webhook fields of pagesync from {} at Facebook",
        pages(done)
    )];
    if failed > 0 {
        parts.push(format!("Facebook did not do so for {}", pages(failed)));
    }
    if without_token > 0 {
        parts.push(format!(
            "the tokens of {} cannot be opened here: run the command where the worker runs, with FACEBOOK_APP_ID and FACEBOOK_APP_SECRET set",
            pages(without_token)
        ));
    }
    if failed + without_token > 0 {
        parts.push(
            "the webhooks of these Pages may go on and are stored: `pagesync erase page` ends that"
                .to_owned(),
        );
    }
    Some(parts.join("; "))
}
