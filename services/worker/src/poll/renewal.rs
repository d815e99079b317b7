//! Looking after a person's token once a day, after a walk that worked: what it may do, when it ends,
//! and a new one while the old one lives.
//!
//! Source: "Get Long-Lived Tokens": a live long-lived token can be exchanged once a day for one that
//! ends later; Facebook may give the same end again.

use std::time::Duration;

use common::custody::Token;
use common::graph::calls::TokenInfo;
use common::graph::error::GraphError;
use common::records::token;
use common::store::{RecordWrite, StoreError};
use model::time::Millis;

use super::change::{Due, update};
use super::limits;
use super::walk::Job;

/// Between two looks.
const DAILY: Duration = Duration::from_secs(20 * 3600);
/// A token that ends within this is exchanged.
const RENEW: Duration = Duration::from_secs(45 * 24 * 3600);

/// What Facebook said.
struct Renewed {
    info: TokenInfo,
    /// The new token and when it ends.
    token: Option<(Token, Option<Millis>)>,
}

impl Job<'_> {
    /// Looks after the token, if that is due.
    pub(super) async fn look_after_token(
        &self,
        inspected: Option<Millis>,
        expires: Option<Millis>,
    ) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        if inspected.is_some_and(|inspected| now < inspected.plus(DAILY)) {
            return Ok(());
        }
        let ends_soon = expires.is_some_and(|end| now.until(end) < RENEW);
        let renewed = self.renew(ends_soon, now).await;
        let whose = limits::Whose {
            user: Some(self.user),
            page: None,
        };
        limits::note(self.parts, whose, renewed.as_ref().err()).await?;
        match renewed {
            Ok(renewed) => self.keep(&renewed).await,
            Err(error) => {
                // The walk worked; the next one finds out whether the token does.
                tracing::warn!(connection = %self.user, error = %error, "a token could not be looked after");
                Ok(())
            }
        }
    }

    async fn renew(&self, ends_soon: bool, now: Millis) -> Result<Renewed, GraphError> {
        let graph = &self.parts.graph;
        let granted = if ends_soon {
            Some(graph.extend(&self.token).await?)
        } else {
            None
        };
        let token = granted
            .as_ref()
            .map_or(&self.token, |granted| &granted.token);
        let info = graph.debug_token(token).await?;
        if !info.is_valid || info.user.as_ref().is_some_and(|user| user != self.user) {
            let what = "a renewed token is not valid, or another person's";
            return Err(GraphError::Odd(what.to_owned()));
        }
        let token = granted.map(|granted| {
            let end = info.expires.or(granted.lives.map(|lives| now.plus(lives)));
            (granted.token, end)
        });
        Ok(Renewed { info, token })
    }

    async fn keep(&self, renewed: &Renewed) -> Result<(), StoreError> {
        let parts = self.parts;
        let sealed: Option<RecordWrite> = match &renewed.token {
            None => None,
            Some((new, _)) => {
                let keys = parts.keyring.keys();
                let key = token::of_user(self.user);
                let kept = keys.and_then(|keys| {
                    token::keep(key, Some(new), keys.current(), parts.clock.now())
                });
                Some(kept.map_err(|error| StoreError::Unexpected(error.to_string()))?)
            }
        };
        let kept = update(
            parts,
            self.user,
            Some(&self.guard),
            Due::Leave,
            |connection, extra, now| {
                if connection.connected > self.begun {
                    // A login came first, with a token of its own.
                    return false;
                }
                extra.records.extend(sealed.clone());
                connection.scopes.clone_from(&renewed.info.scopes);
                connection.data_access_expires = renewed.info.data_access_expires;
                connection.expires = match &renewed.token {
                    Some((_, end)) => *end,
                    None => renewed.info.expires.or(connection.expires),
                };
                connection.inspected = Some(now);
                let left = common::records::forecast::days_left(connection, now);
                // Later than any alert: the next time it counts anew.
                if left.is_none_or(|left| left > common::records::forecast::ALERTS[0]) {
                    connection.alerted = None;
                }
                true
            },
        )
        .await?;
        if kept.is_some() && renewed.token.is_some() {
            tracing::info!(connection = %self.user, "a long-lived token was renewed");
        }
        Ok(())
    }
}
