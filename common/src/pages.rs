//! The verbs on Pages that commands and the operator surface share, and the view people get.

use std::collections::BTreeMap;

use model::id::{PageId, Subject};
use model::page::{Page, Source, Status};
use model::time::Millis;
use serde::Serialize;
use serde_json::Value as Json;

use crate::store::{Commit, DueWrite, Outcome, PageWrite, Store, StoreError, Stored, Versioned};

/// Registers a Page; the same call that connecting will use. A Page that was forgotten lives again.
/// `Ok(false)`: it is already there.
pub async fn add(store: &dyn Store, id: &PageId, now: Millis) -> Result<bool, StoreError> {
    loop {
        let held = store.load(std::slice::from_ref(id)).await?.pop();
        let expected = match held {
            Some(Versioned {
                value: Stored::Page(page),
                ..
            }) if page.status != Status::Forgotten => return Ok(false),
            Some(Versioned { version, .. }) => version,
            None => 0,
        };
        if store.commit(&[registration(id, expected, now)]).await? == [Outcome::Applied] {
            return Ok(true);
        }
    }
}

/// Asks for a read now; answers with when it is due. `None`: there is no such Page.
pub async fn ask(
    store: &dyn Store,
    id: &PageId,
    now: Millis,
) -> Result<Option<Millis>, StoreError> {
    loop {
        let held = store.load(std::slice::from_ref(id)).await?.pop();
        let Some(Versioned {
            version,
            value: Stored::Page(mut page),
        }) = held
        else {
            return Ok(None);
        };
        if page.status == Status::Forgotten {
            return Ok(None);
        }
        page.polling.ask(now);
        // Somebody asks by hand: what failed before is no reason to wait.
        page.polling.not_before = None;
        let due = page.polling.due();
        let write = PageWrite {
            id: id.clone(),
            expected: version,
            page: *page,
            changes: Vec::new(),
            at: now,
        };
        let commit = Commit {
            page: Some(write),
            due: vec![DueWrite {
                subject: Subject::Page(id.clone()),
                due,
            }],
            ..Commit::default()
        };
        if store.commit(&[commit]).await? == [Outcome::Applied] {
            return Ok(due.map(|(_, at)| at));
        }
    }
}

/// The commit that registers a Page which has nothing yet: it wants its first read.
pub fn registration(id: &PageId, expected: u64, now: Millis) -> Commit {
    let mut page = Page::default();
    page.polling.ask(now);
    let due = DueWrite {
        subject: Subject::Page(id.clone()),
        due: page.polling.due(),
    };
    let write = PageWrite {
        id: id.clone(),
        expected,
        page,
        changes: Vec::new(),
        at: now,
    };
    Commit {
        page: Some(write),
        due: vec![due],
        ..Commit::default()
    }
}

/// A Page as people and programs see it.
#[derive(Debug, Clone, Serialize)]
pub struct PageView {
    /// Its id.
    pub id: PageId,
    /// Its state as a whole.
    pub status: Status,
    /// How often it was written.
    pub version: u64,
    /// Every field that is known.
    pub fields: BTreeMap<String, FieldView>,
}

/// A field as people and programs see it. Times are RFC 3339 in UTC, on Facebook's clock.
#[derive(Debug, Clone, Serialize)]
pub struct FieldView {
    /// The value; null: none.
    pub value: Json,
    /// How this value was first seen.
    pub source: Source,
    /// When it was first seen.
    pub changed_at: String,
    /// When a read last proved it; null: never.
    pub proven_at: Option<String>,
    /// Whether only the beginning of the value is kept.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The view of a Page.
pub fn view(id: &PageId, version: u64, page: &Page) -> PageView {
    let field = |(name, register): (&model::field::FieldName, &model::page::Register)| {
        let view = FieldView {
            value: register
                .value
                .as_ref()
                .map_or(Json::Null, model::value::Canonical::to_json),
            source: register.origin.source,
            changed_at: rfc3339(register.origin.stamp),
            proven_at: page.proven_at(name).map(rfc3339),
            cut: register
                .value
                .as_ref()
                .is_some_and(model::value::Canonical::is_cut),
        };
        (name.to_string(), view)
    };
    PageView {
        id: id.clone(),
        status: page.status,
        version,
        fields: page.registers.iter().map(field).collect(),
    }
}

/// An instant as RFC 3339 in UTC.
pub fn rfc3339(at: Millis) -> String {
    let instant = i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    instant.map_or_else(|| format!("{at} ms"), |instant| instant.to_string())
}
