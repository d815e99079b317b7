//! The JSON of Pages and their changes.

use std::collections::BTreeMap;
use std::fmt;

use model::field::FieldName;
use model::id::{PageId, UserId};
use model::page::{Page, Register, Source, Status};
use model::value::CanonicalValue;
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use crate::store::{Cursor, FeedEntry, FieldChange, HistoryEntry, StoredPage, Versioned};
use crate::timestamp::rfc3339;
use crate::views::failure::{FailureView, failure_view};

/// A Page in a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PageView {
    /// The id of the Page.
    #[schema(value_type = String)]
    pub id: PageId,
    /// The status of the Page.
    #[schema(value_type = String)]
    pub status: Status,
    /// The client for whom the Page was connected; null if no invitation named one.
    pub client: Option<String>,
    /// How often the Page was written.
    pub version: u64,
    /// The name of the Page; null if it is not known.
    #[schema(value_type = serde_json::Value)]
    pub name: Json,
    /// The state of the Page at Facebook as the last read found it; null if it is not known.
    pub facebook_state: Option<FacebookState>,
    /// The last failed attempt to read the Page; null if the last attempt did not fail.
    pub last_failure: Option<FailureView>,
    /// When the Page is read next; null if it is not read.
    pub next_read_at: Option<String>,
}

/// The state of a Page at Facebook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FacebookState {
    /// Everyone can see the Page.
    Published,
    /// Only people with a role on the Page can see it.
    Unpublished,
    /// The business has closed for good.
    Closed,
}

impl fmt::Display for FacebookState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Published => "published",
            Self::Unpublished => "unpublished",
            Self::Closed => "closed",
        })
    }
}

/// Returns the state of a Page at Facebook, from its fields `is_published` and
/// `is_permanently_closed`. Returns `None` if they were not read.
pub fn facebook_state(page: &Page) -> Option<FacebookState> {
    let is = |field: &str| {
        let mut registers = page.registers.iter();
        let (_, register) = registers.find(|(name, _)| name.as_str() == field)?;
        json_value(register).as_bool()
    };
    if is("is_permanently_closed") == Some(true) {
        return Some(FacebookState::Closed);
    }
    is("is_published").map(|is_published| {
        if is_published {
            FacebookState::Published
        } else {
            FacebookState::Unpublished
        }
    })
}

/// A Page with all its fields.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct PageDetail {
    /// The Page as it appears in a list.
    #[serde(flatten)]
    pub page: PageView,
    /// The people whose connections give access to the Page.
    #[schema(value_type = Vec<String>)]
    pub connections: Vec<UserId>,
    /// Every field that was ever read or reported, by its Graph name.
    pub fields: BTreeMap<String, FieldView>,
}

/// A field of a Page.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FieldView {
    /// The value; null if the field has none.
    #[schema(value_type = serde_json::Value)]
    pub value: Json,
    /// The source that first reported the value: a read or a webhook.
    #[schema(value_type = String)]
    pub source: Source,
    /// The stamp of the first observation of the value, on Facebook's clock.
    pub changed_at: String,
    /// When a read last confirmed the value, on Facebook's clock; null if no read has confirmed it.
    pub confirmed_at: Option<String>,
    /// Whether only the beginning of the value is stored.
    pub truncated: bool,
}

/// One change of one field.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ChangeView {
    /// The id of the Page.
    #[schema(value_type = String)]
    pub page_id: PageId,
    /// The version of the Page after the change.
    pub version: u64,
    /// The Graph name of the field.
    #[schema(value_type = String)]
    pub field: FieldName,
    /// The value before the change; null if there was none.
    #[schema(value_type = serde_json::Value)]
    pub before: Json,
    /// The value after the change; null if there is none.
    #[schema(value_type = serde_json::Value)]
    pub after: Json,
    /// The source that reported the change: a read or a webhook.
    #[schema(value_type = String)]
    pub source: Source,
    /// The stamp of the observation that changed the value, on Facebook's clock.
    pub changed_at: String,
    /// When pagesync stored the change, on this host's clock.
    pub received_at: String,
}

/// Why an entry was added to the change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A read found new values.
    Poll,
    /// A webhook carried new values.
    Webhook,
    /// Only the status of the Page changed.
    Status,
    /// The Page was moved to another client. Fields may have changed, too.
    Client,
    /// The Page was erased.
    Erasure,
}

impl Cause {
    /// Returns the name of the cause, as JSON shows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Webhook => "webhook",
            Self::Status => "status",
            Self::Client => "client",
            Self::Erasure => "erasure",
        }
    }
}

/// The change of one field in an entry of the change feed.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FieldChangeView {
    /// The Graph name of the field.
    #[schema(value_type = String)]
    pub field: FieldName,
    /// The value before the change; null if there was none.
    #[schema(value_type = serde_json::Value)]
    pub before: Json,
    /// The value after the change; null if there is none.
    #[schema(value_type = serde_json::Value)]
    pub after: Json,
    /// The source that reported the change: a read or a webhook.
    #[schema(value_type = String)]
    pub source: Source,
    /// The stamp of the observation that changed the value, on Facebook's clock.
    pub changed_at: String,
}

/// One entry of the change feed: what changed of a Page in one commit.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FeedChangeView {
    /// The cursor that continues after this entry.
    pub cursor: String,
    /// The id of the Page.
    #[schema(value_type = String)]
    pub page_id: PageId,
    /// The version of the Page after the changes.
    pub version: u64,
    /// Why the entry was added.
    pub cause: Cause,
    /// The status of the Page after the changes; null if an earlier version of pagesync wrote the
    /// entry.
    #[schema(value_type = Option<String>)]
    pub status: Option<Status>,
    /// The client of the Page; null if it has none.
    pub client: Option<String>,
    /// The Graph names of the fields that changed.
    #[schema(value_type = Vec<String>)]
    pub fields: Vec<FieldName>,
    /// The change of each field; null if the Page was erased since, or if an earlier version of
    /// pagesync wrote the entry.
    pub changes: Option<Vec<FieldChangeView>>,
    /// When pagesync stored the changes, on this host's clock.
    pub received_at: String,
}

/// Returns a Page as it appears in a list. A Page that cannot be decoded has the status `corrupt`.
pub fn page_view(id: &PageId, stored: &Versioned<StoredPage>) -> PageView {
    match &stored.value {
        StoredPage::Page(page) => decoded_page_view(id, stored.version, page),
        StoredPage::Unknown | StoredPage::Corrupt(_) => PageView {
            id: id.clone(),
            status: Status::Corrupt,
            client: None,
            version: stored.version,
            name: Json::Null,
            facebook_state: None,
            last_failure: None,
            next_read_at: None,
        },
    }
}

fn decoded_page_view(id: &PageId, version: u64, page: &Page) -> PageView {
    let name = page
        .registers
        .iter()
        .find(|(field, _)| field.as_str() == "name");
    PageView {
        id: id.clone(),
        status: page.status,
        client: page.client.clone(),
        version,
        name: name.map_or(Json::Null, |(_, register)| json_value(register)),
        facebook_state: facebook_state(page),
        last_failure: page.last_failure.as_ref().map(failure_view),
        next_read_at: page.polling.due().map(|(_, at)| rfc3339(at)),
    }
}

/// Returns a Page with all its fields.
pub fn page_detail(id: &PageId, version: u64, page: &Page) -> PageDetail {
    let field = |(name, register): (&FieldName, &Register)| {
        let value = register.value.as_ref();
        let view = FieldView {
            value: json_value(register),
            source: register.origin.source,
            changed_at: rfc3339(register.origin.stamp),
            confirmed_at: page.confirmed_at(name).map(rfc3339),
            truncated: value.is_some_and(CanonicalValue::is_truncated),
        };
        (name.to_string(), view)
    };
    PageDetail {
        page: decoded_page_view(id, version, page),
        connections: page.connections.iter().cloned().collect(),
        fields: page.registers.iter().map(field).collect(),
    }
}

fn json_value(register: &Register) -> Json {
    register
        .value
        .as_ref()
        .map_or(Json::Null, CanonicalValue::to_json)
}

/// Returns an entry of the history of a Page.
pub fn change_view(id: &PageId, entry: &HistoryEntry) -> ChangeView {
    ChangeView {
        page_id: id.clone(),
        version: entry.version,
        field: entry.field.clone(),
        before: entry.before.clone(),
        after: entry.after.clone(),
        source: entry.source,
        changed_at: rfc3339(entry.changed_at),
        received_at: rfc3339(entry.received_at),
    }
}

/// Returns an entry of the change feed.
pub fn feed_change_view(cursor: &Cursor, entry: &FeedEntry) -> FeedChangeView {
    let change = |change: &FieldChange| FieldChangeView {
        field: change.field.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
        source: change.source,
        changed_at: rfc3339(change.changed_at),
    };
    let cause = match entry.source {
        _ if entry.status == Some(Status::Erased) => Cause::Erasure,
        _ if entry.former_client.is_some() => Cause::Client,
        Some(Source::Poll) => Cause::Poll,
        Some(Source::Webhook) => Cause::Webhook,
        None => Cause::Status,
    };
    FeedChangeView {
        cursor: cursor.to_string(),
        page_id: entry.page.clone(),
        version: entry.version,
        cause,
        status: entry.status,
        client: entry.client.clone(),
        fields: entry.fields.clone(),
        changes: (entry.changes.as_ref()).map(|all| all.iter().map(change).collect()),
        received_at: rfc3339(entry.received_at),
    }
}
