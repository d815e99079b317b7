//! Checks whether this build can decode stored records.
//!
//! Invariant: a description of an error contains names of fields and types, and no stored value,
//! because a record may contain text of a person.

use serde::de::DeserializeOwned;
use serde_json::{Error, Value as Json};

use super::{
    alert, api_key, app, audit, connection, daily_poll, dead_letter, destination, erasure,
    excluded_field, forwarding, invitation, lease, load_chunk, login, missed_webhooks,
    page_subscription, probe, rate_limit, token, token_exchange, token_inspection, trial,
    waiting_delivery,
};
use crate::store::codec::describe_error;
use crate::store::{RecordKey, RecordKind, Store, StoreError};

/// A record that this build cannot decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// The key of the record.
    pub key: RecordKey,
    /// The reason, without a stored value.
    pub reason: String,
}

/// Returns up to `limit` records that this build cannot decode, and how many there are. Reads every
/// record.
pub async fn find_unreadable(
    store: &dyn Store,
    limit: usize,
) -> Result<(Vec<UnreadableRecord>, u64), StoreError> {
    let (mut found, mut count) = (Vec::new(), 0);
    for kind in RecordKind::ALL {
        let mut after = None;
        while let Some(chunk) = load_chunk::<Json>(store, kind, "", &mut after).await? {
            for (id, stored) in chunk {
                let Err(error) = check(kind, stored.value) else {
                    continue;
                };
                count += 1;
                if found.len() < limit {
                    let reason = describe_error(&error);
                    let key = RecordKey { kind, id };
                    found.push(UnreadableRecord { key, reason });
                }
            }
        }
    }
    Ok((found, count))
}

/// Decodes the body of a record of any kind.
fn check(kind: RecordKind, body: Json) -> Result<(), Error> {
    match kind {
        RecordKind::DeadLetter => is::<dead_letter::DeadLetter>(body),
        RecordKind::DeadLetterRetry | RecordKind::WebhookHour => is::<bool>(body),
        RecordKind::DeadLetterCount | RecordKind::DroppedCount => is::<i64>(body),
        RecordKind::Login => is::<login::Login>(body),
        RecordKind::TokenExchange => is::<token_exchange::TokenExchange>(body),
        RecordKind::Connection => is::<connection::Connection>(body),
        RecordKind::Invitation => is::<invitation::InvitationRecord>(body),
        RecordKind::ConnectionEpoch => is::<erasure::ErasedEpoch>(body),
        RecordKind::UserToken | RecordKind::PageToken => is::<token::StoredToken>(body),
        RecordKind::TokenInspection => is::<token_inspection::TokenInspection>(body),
        RecordKind::PageSubscription => is::<page_subscription::PageSubscription>(body),
        RecordKind::App => is::<app::App>(body),
        RecordKind::RateLimit => is::<rate_limit::RateLimit>(body),
        RecordKind::ExcludedField => is::<excluded_field::ExcludedField>(body),
        RecordKind::DailyPoll => is::<daily_poll::DailyPoll>(body),
        RecordKind::Check | RecordKind::ChangeCount => is::<u64>(body),
        RecordKind::UnannouncedChange => is::<missed_webhooks::UnannouncedRecord>(body),
        RecordKind::ErasureReceipt => is::<erasure::ErasureReceipt>(body),
        RecordKind::Probe => is::<probe::Probe>(body),
        RecordKind::WebhookTest => is::<probe::WebhookTest>(body),
        RecordKind::ApiKey => is::<api_key::ApiKey>(body),
        RecordKind::Destination => is::<destination::Destination>(body),
        RecordKind::Forwarding => is::<forwarding::Forwarding>(body),
        RecordKind::WaitingDelivery => is::<waiting_delivery::WaitingDelivery>(body),
        RecordKind::Alert => is::<alert::Alert>(body),
        RecordKind::AlertLease => is::<lease::Lease>(body),
        RecordKind::Audit => is::<audit::AuditRecord>(body),
        RecordKind::Trial => is::<trial::Trials>(body),
    }
}

fn is<T: DeserializeOwned>(body: Json) -> Result<(), Error> {
    serde_json::from_value::<T>(body).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_description_names_the_shape_and_no_value() {
        let describe_as = |kind, body| describe_error(&check(kind, body).unwrap_err());
        let connection =
            |status: Json| json!({"user": "7", "connected_at": 0, "status": status, "polling": {}});
        for secret in [
            "a secret",
            "`, expected secret",
            "\", expected secret",
            "a `secret` \"x\"",
        ] {
            for body in [
                connection(json!(secret)),
                connection(json!({ secret: secret })),
                json!({"user": secret, "connected_at": secret}),
                json!(secret),
                json!([secret]),
            ] {
                let text = describe_as(RecordKind::Connection, body.clone());
                assert!(!text.contains("secret"), "{body}: {text}");
                assert!(!text.is_empty(), "{body}");
            }
        }
        let text = describe_as(RecordKind::Connection, connection(json!("suspended")));
        assert!(
            text.starts_with("unknown variant, expected one of"),
            "{text}"
        );
        let text = describe_as(RecordKind::Connection, json!({"user": "7"}));
        assert_eq!(text, "missing field `connected_at`");
    }
}
