//! Removes the app from Pages to which nobody gives access any more, so that Facebook stops delivering
//! their webhooks.
//!
//! Invariants: the tokens are opened before the records are deleted, and each Page gets one attempt.
//! Fields that somebody else subscribed with the same app are kept. The removal never fails or delays
//! what it accompanies.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use model::id::{PageId, UserId};

use crate::graph::client::Graph;
use crate::graph::error::GraphError;
use crate::pages::COMMIT_BATCH;
use crate::records::page_subscription::{self, PageSubscription};
use crate::records::{connection, load_if_decodable, token};
use crate::sealing::{PrivateKeys, Token};
use crate::store::{Store, StoreError, StoredPage};

/// How long all attempts together may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many Pages are unsubscribed at the same time.
const CONCURRENCY: usize = 16;

/// A Page that is unsubscribed.
#[derive(Debug)]
struct Target {
    id: PageId,
    token: Token,
    /// The fields that were subscribed before pagesync subscribed the Page.
    found: BTreeSet<String>,
}

/// The Pages that are unsubscribed, with their tokens.
#[derive(Debug, Default)]
pub struct Unsubscription {
    targets: Vec<Target>,
    without_token: usize,
}

/// How many Pages were unsubscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The Pages from which the app was removed, or whose subscription was reduced.
    pub done: usize,
    /// The Pages for which this failed.
    pub failed: usize,
    /// The Pages for which no token can be opened here.
    pub without_token: usize,
}

impl Unsubscription {
    /// Collects those of the Pages `ids` to which nobody but the people in `users` gives access, with
    /// the tokens of these people. With `users` empty, whoever gives access to them. `keys` is `None` if
    /// no token can be opened here. Fails if the store does not answer.
    pub async fn collect(
        store: &dyn Store,
        keys: Option<&PrivateKeys>,
        ids: &[PageId],
        users: &[&UserId],
    ) -> Result<Self, StoreError> {
        let mut collected = Self::default();
        for batch in ids.chunks(COMMIT_BATCH) {
            for (id, stored) in batch.iter().zip(store.load_pages(batch).await?) {
                let StoredPage::Page(page) = stored.value else {
                    continue;
                };
                let is_kept = |user: &UserId| !users.is_empty() && !users.contains(&user);
                if page.connections.is_empty() || page.connections.iter().any(is_kept) {
                    continue;
                }
                collected.add(store, keys, id, &page.connections).await?;
            }
        }
        Ok(collected)
    }

    /// Collects the Pages to which only `user` gives access, as [`Self::collect`] does.
    pub async fn of_person(
        store: &dyn Store,
        keys: Option<&PrivateKeys>,
        user: &UserId,
    ) -> Result<Self, StoreError> {
        let ids = connection::page_ids(store, user).await?;
        Self::collect(store, keys, &ids, &[user]).await
    }

    /// Adds a Page with the first token that can be opened.
    async fn add(
        &mut self,
        store: &dyn Store,
        keys: Option<&PrivateKeys>,
        id: &PageId,
        users: &BTreeSet<UserId>,
    ) -> Result<(), StoreError> {
        let key = page_subscription::key(id);
        let subscription = load_if_decodable::<PageSubscription>(store, &key).await?;
        let Some(subscription) = subscription.filter(|stored| !stored.value.fields.is_empty())
        else {
            // pagesync has not subscribed the Page.
            return Ok(());
        };
        for user in users {
            let key = token::page_key(user, id);
            let stored = load_if_decodable::<token::StoredToken>(store, &key).await?;
            let (Some(stored), Some(keys)) = (stored, keys) else {
                continue;
            };
            if let Ok(Some(token)) = token::open_token(&key, &stored.value, keys) {
                self.targets.push(Target {
                    id: id.clone(),
                    token,
                    found: subscription.value.found.unwrap_or_default(),
                });
                return Ok(());
            }
        }
        self.without_token += 1;
        Ok(())
    }

    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.without_token == 0
    }

    /// Removes the fields `required` from the subscription of each Page, or the app if no other field
    /// remains. Each Page gets one attempt, and all of them together 10 seconds.
    pub async fn execute(self, graph: Graph, required: Vec<String>) -> Unsubscribed {
        let (total, without_token) = (self.targets.len(), self.without_token);
        let done = AtomicUsize::new(0);
        let (graph, required) = (&graph, &required);
        let count = |result: &Result<(), GraphError>| match result {
            Ok(()) => {
                done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(error = %error, "the app could not be removed from a Page, and Facebook may go on delivering its webhooks");
            }
        };
        let attempts = futures_util::stream::iter(self.targets)
            .map(|target| async move { reduce(graph, &target, required).await })
            .buffer_unordered(CONCURRENCY)
            .for_each(|result| {
                count(&result);
                std::future::ready(())
            });
        // Attempts that take longer are given up.
        let _ = tokio::time::timeout(TIMEOUT, attempts).await;
        let done = done.into_inner();
        Unsubscribed {
            done,
            failed: total - done,
            without_token,
        }
    }
}

/// Removes the required fields from the subscription of a Page, except those that were found there.
async fn reduce(graph: &Graph, target: &Target, required: &[String]) -> Result<(), GraphError> {
    let (token, id) = (&target.token, &target.id);
    let Some(subscribed) = graph.page_subscription(token, id).await? else {
        return Ok(());
    };
    let is_kept = |name: &String| target.found.contains(name) || !required.contains(name);
    let kept: Vec<String> = subscribed
        .iter()
        .filter(|name| is_kept(name))
        .cloned()
        .collect();
    if kept.is_empty() {
        graph.unsubscribe_page(token, id).await
    } else if kept.len() < subscribed.len() {
        graph.subscribe_page(token, id, &kept).await
    } else {
        Ok(())
    }
}
