//! Maintenance of a person's token. After a connection poll that succeeded, but at most once in 20
//! hours, the token is inspected, and it is exchanged if it expires soon.
//!
//! Invariant: a new token is stored only after Facebook has confirmed that it is valid and belongs
//! to the same person.
//!
//! Source: "Get Long-Lived Tokens": a valid long-lived token can be exchanged once a day for one
//! that expires later; Facebook may return a token with the same expiry.

use std::time::Duration;

use common::graph::calls::TokenInfo;
use common::graph::error::GraphError;
use common::records::token;
use common::sealing::Token;
use common::store::{RecordWrite, StoreError};
use model::time::HostTime;

use super::connection_poll::ConnectionPoll;
use super::connection_update::{DueUpdate, update_connection};
use super::rate_limits;

/// The minimum time between two inspections of a token.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(20 * 3600);
/// A token that expires within this time is exchanged.
const RENEW_BEFORE_EXPIRY: Duration = Duration::from_secs(45 * 24 * 3600);

/// The result of an inspection.
struct InspectedToken {
    /// The properties of the inspected token.
    info: TokenInfo,
    /// The new token if the token was exchanged, and when it expires, which is `None` if it never
    /// expires.
    renewed: Option<(Token, Option<HostTime>)>,
}

impl ConnectionPoll<'_> {
    /// Inspects the token if its last inspection is long ago, and exchanges it if it expires soon.
    /// Fails if the store does not answer; an error of Graph is logged.
    pub(super) async fn maintain_token(
        &self,
        inspected_at: Option<HostTime>,
        expires_at: Option<HostTime>,
    ) -> Result<(), StoreError> {
        let now = self.context.clock.now();
        if inspected_at.is_some_and(|at| at <= now && now < at.plus(INSPECTION_INTERVAL)) {
            return Ok(());
        }
        let expires_soon =
            expires_at.is_some_and(|expires_at| now.until(expires_at) < RENEW_BEFORE_EXPIRY);
        let inspection = self.inspect_and_renew(expires_soon, now).await;
        let call_scope = rate_limits::CallScope {
            user: Some(self.user),
            page: None,
        };
        rate_limits::record_reply(self.context, call_scope, inspection.as_ref().err()).await?;
        match inspection {
            Ok(inspection) => self.save_inspection(&inspection).await,
            Err(error) => {
                // The connection poll succeeded. If the token is invalid, the next poll reports it.
                tracing::warn!(connection = %self.user, error = %error, "a token could not be inspected or renewed");
                Ok(())
            }
        }
    }

    /// Exchanges the token if it expires soon, then inspects the new token, or the old one if there
    /// was no exchange. Fails if the inspected token is invalid or belongs to another person.
    async fn inspect_and_renew(
        &self,
        expires_soon: bool,
        now: HostTime,
    ) -> Result<InspectedToken, GraphError> {
        let graph = &self.context.graph;
        let granted = if expires_soon {
            Some(graph.exchange_for_long_lived(&self.token).await?)
        } else {
            None
        };
        let token = granted
            .as_ref()
            .map_or(&self.token, |granted| &granted.token);
        let info = graph.debug_token(token).await?;
        if !info.is_valid || info.user.as_ref().is_some_and(|user| user != self.user) {
            let reason = "the inspected token is not valid or belongs to another person";
            return Err(GraphError::unexpected(reason));
        }
        let token = granted.map(|granted| {
            let expires_at = info
                .expires_at
                .or(granted.expires_in.map(|lifetime| now.plus(lifetime)));
            (granted.token, expires_at)
        });
        Ok(InspectedToken {
            info,
            renewed: token,
        })
    }

    /// Stores the result of an inspection, unless a login has replaced the token since the poll
    /// began.
    async fn save_inspection(&self, inspection: &InspectedToken) -> Result<(), StoreError> {
        let context = self.context;
        let sealed: Option<RecordWrite> = match &inspection.renewed {
            None => None,
            Some((token, _)) => {
                let keys = context.keyring.keys();
                let key = token::user_key(self.user);
                let sealed = keys.and_then(|keys| {
                    token::seal_write(key, Some(token), keys.current(), context.clock.now())
                });
                Some(sealed.map_err(|error| StoreError::Unexpected(error.to_string()))?)
            }
        };
        let saved = update_connection(
            context,
            self.user,
            Some(&self.guard),
            DueUpdate::Unchanged,
            |connection, commit, now| {
                if connection.connected_at > self.began_at {
                    // A login has replaced the token.
                    return false;
                }
                commit.records.extend(sealed.clone());
                connection.permissions.clone_from(&inspection.info.scopes);
                connection.data_access_expires_at = inspection.info.data_access_expires_at;
                connection.token_expires_at = match &inspection.renewed {
                    Some((_, expires_at)) => *expires_at,
                    None => inspection.info.expires_at.or(connection.token_expires_at),
                };
                connection.token_inspected_at = Some(now);
                let days_left = common::records::expiry::days_left(connection, now);
                // The expiry is further away than any alert, so the alerts start again.
                if days_left
                    .is_none_or(|days_left| days_left > common::records::expiry::ALERT_DAYS[0])
                {
                    connection.last_expiry_alert = None;
                }
                true
            },
        )
        .await?;
        if saved.is_some() && inspection.renewed.is_some() {
            tracing::info!(connection = %self.user, "a long-lived token was renewed");
        }
        Ok(())
    }
}
