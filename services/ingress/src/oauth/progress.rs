//! How far a login is: read from the records the worker writes.

use common::records::app::{self, App};
use common::records::connection::{self, Connection};
use common::records::grant::{self, Grant, Stage};
use common::records::login::{self, Login};
use common::records::subscription::{self, Subscription};
use common::records::{load_all, load_record, token};
use common::store::{RecordKind, StoreError, StoredPage, Versioned};
use common::views::page::{PageView, page_view};
use model::id::{GrantId, PageId};
use model::page::Status;
use model::time::HostTime;

use super::context::OAuth;

/// A login of so many Pages is complete when their subscriptions are settled, one of more as soon as
/// all were read: subscribing takes two calls each.
const SUBSCRIPTIONS: u64 = 100;

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
    /// When the login came.
    pub(super) since: HostTime,
    /// Its Pages were listed and read.
    pub(super) walked: bool,
    /// Why no webhooks can come, if they cannot.
    pub(super) webhooks: Option<String>,
    /// Nothing more will come that is waited for.
    pub(super) complete: bool,
}

/// A Page of the connection.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) view: PageView,
    /// Whether it was read since the login.
    pub(super) read: bool,
}

/// Looks once.
pub(super) async fn look(oauth: &OAuth, id: &GrantId) -> Result<Progress, StoreError> {
    let store = &*oauth.store;
    let Some(Versioned { value, .. }) = load_record::<Grant>(store, &grant::key(id)).await? else {
        return without_grant(oauth, id).await;
    };
    let user = match value.stage {
        Stage::Sealed(_) => return Ok(Progress::Waiting),
        Stage::Failed(why) => return Ok(Progress::Failed(why)),
        Stage::Connected(user) => user,
    };
    let Some(stored) = connection::find(store, &user).await? else {
        return Ok(Progress::Failed("the connection was ended".to_owned()));
    };
    let connection = stored.value;
    let last = connection
        .last_poll
        .as_ref()
        .filter(|last| last.began_at >= value.began_at);
    let walked = last.is_some();
    let few = last.is_some_and(|last| last.pages <= SUBSCRIPTIONS);
    let failed = connection.status != connection::Status::Active;
    let app = load_record::<App>(store, &app::key())
        .await?
        .map(|stored| stored.value);
    let app = app.unwrap_or_default();
    let looked_at = app.confirmed_at >= Some(value.began_at) || app.problem.is_some();
    let unknown = || "Facebook was not asked yet where it posts webhooks to".to_owned();
    let webhooks = if looked_at {
        app.problem
    } else {
        Some(unknown())
    };
    let complete = failed || (walked && looked_at && (!few || settled(oauth, &connection).await?));
    Ok(Progress::Connected(Box::new(Connected {
        connection,
        since: value.began_at,
        walked,
        webhooks,
        complete,
    })))
}

/// The code was taken, and there is no grant: it is being exchanged, or who did so is gone.
async fn without_grant(oauth: &OAuth, id: &GrantId) -> Result<Progress, StoreError> {
    let stored = load_record::<Login>(&*oauth.store, &login::key(id)).await?;
    let failed = |text: &str| Ok(Progress::Failed(text.to_owned()));
    match stored.map(|stored| stored.value.stage) {
        Some(login::Stage::CodeUsed(at))
            if at.until(oauth.clock.now()) > login::EXCHANGE_TIMEOUT =>
        {
            failed("The login was interrupted. Please begin again at /facebook/login.")
        }
        Some(login::Stage::Failed(why)) => failed(&why),
        _ => Ok(Progress::Waiting),
    }
}

/// The Pages of a connection, at most `most`.
pub(super) async fn rows(
    oauth: &OAuth,
    connected: &Connected,
    most: usize,
) -> Result<Vec<Row>, StoreError> {
    let store = &*oauth.store;
    let ids = covered(oauth, &connected.connection).await?;
    let mut rows = Vec::new();
    for some in ids[..ids.len().min(most)].chunks(500) {
        for (id, stored) in some.iter().zip(store.load_pages(some).await?) {
            if let StoredPage::Page(page) = &stored.value
                && page.status != Status::Erased
            {
                rows.push(Row {
                    view: page_view(id, stored.version, page),
                    read: page.polling.last_success_began >= Some(connected.since),
                });
            }
        }
    }
    Ok(rows)
}

/// The ids of its Pages.
async fn covered(oauth: &OAuth, connection: &Connection) -> Result<Vec<PageId>, StoreError> {
    let prefix = token::page_prefix(&connection.user);
    let tokens =
        load_all::<token::StoredToken>(&*oauth.store, RecordKind::PageToken, &prefix).await?;
    let ids = tokens.iter().filter_map(|(id, _)| token::page_in_id(id));
    Ok(ids.collect())
}

/// Whether Facebook's side of every Page is settled, one way or the other.
async fn settled(oauth: &OAuth, connection: &Connection) -> Result<bool, StoreError> {
    for id in covered(oauth, connection).await? {
        let stored = load_record::<Subscription>(&*oauth.store, &subscription::key(&id)).await?;
        if stored.is_some_and(|stored| {
            stored.value.confirmed_at.is_none() && stored.value.problem.is_none()
        }) {
            return Ok(false);
        }
    }
    Ok(true)
}
