//! The JSON of API keys. It does not contain the text of a key.

use model::id::PageId;
use model::time::HostTime;
use serde::Serialize;

use crate::records::api_key::{ApiKey, Scope};
use crate::timestamp::rfc3339;

/// An API key in a list.
#[derive(Debug, Clone, Serialize)]
pub struct ApiKeyView {
    /// The id of the key.
    pub id: String,
    /// The name of the key.
    pub name: String,
    /// What the key allows.
    pub scope: Scope,
    /// The only Pages that the key may see; null for all.
    pub pages: Option<Vec<PageId>>,
    /// The only client that the key may see; null for all.
    pub client: Option<String>,
    /// The state of the key.
    pub state: &'static str,
    /// When the key was made.
    pub created_at: String,
    /// When the key ends; null if it does not end.
    pub expires_at: Option<String>,
}

/// Returns a key as it is at `now`.
pub fn api_key_view(id: &str, record: &ApiKey, now: HostTime) -> ApiKeyView {
    let state = if record.revoked_at.is_some() {
        "revoked"
    } else if record.is_usable(now) {
        "usable"
    } else {
        "expired"
    };
    ApiKeyView {
        id: id.to_owned(),
        name: record.name.clone(),
        scope: record.scope,
        pages: record.pages.clone(),
        client: record.client.clone(),
        state,
        created_at: rfc3339(record.created_at),
        expires_at: record.expires_at.map(rfc3339),
    }
}
