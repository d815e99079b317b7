//! Looking after a person's token once a day, after a walk that worked: what it may do, when it ends,
//! and a new one while the old one lives.
//!
//! Source: "Get Long-Lived Tokens": a live long-lived token can be exchanged once a day for one that
//! ends later; Facebook may give the same end again.

use std::time::Duration;

use common::graph::calls::TokenInfo;
use common::graph::error::GraphError;
use common::records::token;
use common::sealing::Token;
use common::store::{RecordWrite, StoreError};
use model::time::HostTime;

use super::connection_poll::ConnectionPoll;
use super::connection_update::{Due, update};
use super::rate_limits;

/// Between two looks.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(20 * 3600);
/// A token that ends within this is exchanged.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(45 * 24 * 3600);

/// What Facebook said.
struct InspectedToken {
    info: TokenInfo,
    /// The new token and when it ends.
    token: Option<(Token, Option<HostTime>)>,
}

impl ConnectionPoll<'_> {
    /// Looks after the token, if that is due.
    pub(super) async fn maintain_token(
        &self,
        inspected: Option<HostTime>,
        expires: Option<HostTime>,
    ) -> Result<(), StoreError> {
        let now = self.context.clock.now();
        if inspected.is_some_and(|inspected| now < inspected.plus(INSPECTION_INTERVAL)) {
            return Ok(());
        }
        let ends_soon = expires.is_some_and(|end| now.until(end) < RENEW_BEFORE_EXPIRY);
        let renewed = self.inspect_and_renew(ends_soon, now).await;
        let whose = rate_limits::CallBudget {
            user: Some(self.user),
            page: None,
        };
        rate_limits::record_reply(self.context, whose, renewed.as_ref().err()).await?;
        match renewed {
            Ok(renewed) => self.save_inspection(&renewed).await,
            Err(error) => {
                // The walk worked; the next one finds out whether the token does.
                tracing::warn!(connection = %self.user, error = %error, "a token could not be looked after");
                Ok(())
            }
        }
    }

    async fn inspect_and_renew(
        &self,
        ends_soon: bool,
        now: HostTime,
    ) -> Result<InspectedToken, GraphError> {
        let graph = &self.context.graph;
        let granted = if ends_soon {
            Some(graph.exchange_for_long_lived(&self.token).await?)
        } else {
            None
        };
        let token = granted
            .as_ref()
            .map_or(&self.token, |granted| &granted.token);
        let info = graph.debug_token(token).await?;
        if !info.is_valid || info.user.as_ref().is_some_and(|user| user != self.user) {
            let what = "a renewed token is not valid, or another person's";
            return Err(GraphError::UnexpectedReply(what.to_owned()));
        }
        let token = granted.map(|granted| {
            let end = info
                .expires
                .or(granted.expires_in.map(|lives| now.plus(lives)));
            (granted.token, end)
        });
        Ok(InspectedToken { info, token })
    }

    async fn save_inspection(&self, renewed: &InspectedToken) -> Result<(), StoreError> {
        let context = self.context;
        let sealed: Option<RecordWrite> = match &renewed.token {
            None => None,
            Some((new, _)) => {
                let keys = context.keyring.keys();
                let key = token::user_key(self.user);
                let kept = keys.and_then(|keys| {
                    token::seal_write(key, Some(new), keys.current(), context.clock.now())
                });
                Some(kept.map_err(|error| StoreError::Unexpected(error.to_string()))?)
            }
        };
        let kept = update(
            context,
            self.user,
            Some(&self.guard),
            Due::Keep,
            |connection, extra, now| {
                if connection.connected_at > self.began_at {
                    // A login came first, with a token of its own.
                    return false;
                }
                extra.records.extend(sealed.clone());
                connection.scopes.clone_from(&renewed.info.scopes);
                connection.data_access_expires_at = renewed.info.data_access_expires;
                connection.token_expires_at = match &renewed.token {
                    Some((_, end)) => *end,
                    None => renewed.info.expires.or(connection.token_expires_at),
                };
                connection.token_inspected_at = Some(now);
                let left = common::records::expiry::days_left(connection, now);
                // Later than any alert: the next time it counts anew.
                if left.is_none_or(|left| left > common::records::expiry::ALERT_DAYS[0]) {
                    connection.last_expiry_alert = None;
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
