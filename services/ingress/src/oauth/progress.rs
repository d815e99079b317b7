//! How far a login is: read from the records the worker writes.

use common::pages::{self, PageView};
use common::records::connection::{self, Connection};
use common::records::grant::{self, Grant, Stage};
use common::records::login::{self, Login};
use common::records::subscription::{self, Subscription};
use common::records::{all, get, token};
use common::store::{Kind, StoreError, Stored, Versioned};
use model::id::{GrantId, PageId};
use model::page::Status;
use serde::Serialize;

use super::OAuth;

/// Pages whose subscription is waited for.
const SUBSCRIPTIONS: usize = 500;

/// How far a login is.
#[derive(Debug)]
pub(super) enum Progress {
    /// The token is being exchanged.
    Waiting,
    /// It failed for good.
    Failed(String),
    /// The person is connected.
    Connected(Box<Connected>),
}

/// What a connected person sees.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) connection: Connection,
    pub(super) pages: Vec<Row>,
    /// Every Page was read and every subscription settled: nothing more will come.
    pub(super) complete: bool,
}

/// A Page of the connection.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) view: PageView,
    /// Whether it was read since the login.
    pub(super) read: bool,
}

/// A permission that was not given, and what does not work without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Missing {
    pub(super) permission: String,
    pub(super) consequence: &'static str,
}

/// The permissions of `wanted` that are not in `granted`.
pub(super) fn missing(wanted: &[String], granted: &[String]) -> Vec<Missing> {
    let absent = wanted.iter().filter(|scope| !granted.contains(scope));
    absent
        .map(|permission| Missing {
            permission: permission.clone(),
            consequence: match permission.as_str() {
                "pages_show_list" => "no Page can be found",
                "pages_read_engagement" => "the fields of Pages cannot be read",
                "pages_manage_metadata" => {
                    "no webhook arrives: changes are seen at the daily poll only"
                }
                "business_management" => "Pages that belong to a business are not listed",
                _ => "what needs it does not work",
            },
        })
        .collect()
}

/// Looks once. `known` are Pages that need not be asked for their subscription any more.
pub(super) async fn look(oauth: &OAuth, id: &GrantId) -> Result<Progress, StoreError> {
    let store = &*oauth.store;
    let Some(Versioned { value, .. }) = get::<Grant>(store, &grant::key(id)).await? else {
        return without_grant(oauth, id).await;
    };
    let user = match value.stage {
        Stage::Sealed(_) => return Ok(Progress::Waiting),
        Stage::Failed(why) => return Ok(Progress::Failed(why)),
        Stage::Connected(user) => user,
    };
    let Some(held) = connection::find(store, &user).await? else {
        return Ok(Progress::Failed("the connection was ended".to_owned()));
    };
    let connection = held.value;
    let walked = connection
        .last
        .as_ref()
        .is_some_and(|last| last.begun >= value.begun);
    let failed = connection.status != connection::Status::Active;
    let mut connected = Connected {
        connection,
        pages: Vec::new(),
        complete: failed,
    };
    if walked {
        connected.pages = rows(oauth, &connected.connection, value.begun).await?;
        connected.complete |= settled(oauth, &connected.pages).await?;
    }
    Ok(Progress::Connected(Box::new(connected)))
}

/// The code was taken, and there is no grant: it is being exchanged, or who did so is gone.
async fn without_grant(oauth: &OAuth, id: &GrantId) -> Result<Progress, StoreError> {
    let held = get::<Login>(&*oauth.store, &login::key(id)).await?;
    let failed = |text: &str| Ok(Progress::Failed(text.to_owned()));
    match held.map(|held| held.value.stage) {
        Some(login::Stage::Taken(at)) if at.until(oauth.clock.now()) > login::EXCHANGE => {
            failed("The login was interrupted. Please begin again at /facebook/login.")
        }
        Some(login::Stage::Failed(why)) => failed(&why),
        _ => Ok(Progress::Waiting),
    }
}

async fn rows(
    oauth: &OAuth,
    connection: &Connection,
    since: model::time::Millis,
) -> Result<Vec<Row>, StoreError> {
    let store = &*oauth.store;
    let prefix = token::prefix(&connection.user);
    let tokens = all::<token::Held>(store, Kind::PageToken, &prefix).await?;
    let ids: Vec<PageId> = tokens
        .iter()
        .filter_map(|(id, _)| token::page_of(id))
        .collect();
    let mut rows = Vec::new();
    for some in ids.chunks(500) {
        for (id, held) in some.iter().zip(store.load(some).await?) {
            if let Stored::Page(page) = &held.value
                && page.status != Status::Forgotten
            {
                rows.push(Row {
                    view: pages::view(id, held.version, page),
                    read: page.polling.answered >= Some(since),
                });
            }
        }
    }
    Ok(rows)
}

/// Whether Facebook's side of every Page is settled, one way or the other.
async fn settled(oauth: &OAuth, rows: &[Row]) -> Result<bool, StoreError> {
    for row in rows.iter().take(SUBSCRIPTIONS) {
        let key = subscription::key(&row.view.id);
        let held = get::<Subscription>(&*oauth.store, &key).await?;
        if held.is_some_and(|held| held.value.seen.is_none() && held.value.problem.is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}
