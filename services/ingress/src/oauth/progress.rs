//! Determines the progress of a login from the stored records of the login, its connection and its
//! Pages.

use std::time::Duration;

use common::invitation::Invitation;
use common::records::app::{self, App};
use common::records::connection::{self, Connection};
use common::records::invitation;
use common::records::login::{self, Login};
use common::records::page_subscription::{self, PageSubscription};
use common::records::token_exchange::{self, Stage, TokenExchange};
use common::records::{load_all, load_record, token};
use common::store::{RecordKind, StoreError, StoredPage, Versioned};
use common::views::page::{PageDetail, page_detail};
use model::id::{LoginId, PageId};
use model::page::Status;
use model::time::HostTime;

use super::context::LoginContext;

/// The maximum number of Pages for which a login waits until each Page subscription is confirmed or
/// has a problem. A login with more Pages is complete as soon as its Pages were read, because each
/// subscription takes two calls.
const MAX_AWAITED_SUBSCRIPTIONS: u64 = 100;

/// How far away the next attempt to read the Pages may be for a login to wait for it.
const MAX_WAIT: Duration = Duration::from_secs(10 * 60);

/// The progress of a login.
#[derive(Debug)]
pub(super) enum Progress {
    /// The login is not completed yet: its code or its token is being exchanged.
    Waiting,
    /// The login failed for good, for this reason.
    Failed(String),
    /// The person is connected.
    Connected(Box<Connected>),
}

/// The state of the connection that a login created or renewed.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) connection: Connection,
    /// When the code of the login was exchanged, on this host's clock.
    pub(super) code_exchanged_at: HostTime,
    /// Whether a connection poll that began at `code_exchanged_at` or later is complete.
    pub(super) is_polled: bool,
    /// The problem with the app subscription that prevents webhooks; `None` if there is none.
    pub(super) webhooks_problem: Option<String>,
    /// The first problem of a Page subscription, with its Page; `None` if there is none, or if the
    /// connection has too many Pages.
    pub(super) subscription_problem: Option<(PageId, String)>,
    /// Whether the login is complete, or its connection cannot be used.
    pub(super) is_final: bool,
    /// The address to which the person can return; `None` if their invitation named none.
    pub(super) return_to: Option<String>,
}

/// A Page of the connection, and whether it was read.
#[derive(Debug)]
pub(super) struct PageProgress {
    pub(super) view: PageDetail,
    /// Whether the Page was read since the login.
    pub(super) is_read: bool,
}

/// Returns the progress of a login.
pub(super) async fn load_progress(
    context: &LoginContext,
    id: &LoginId,
) -> Result<Progress, StoreError> {
    let store = &*context.store;
    let Some(Versioned {
        value: exchange, ..
    }) = load_record::<TokenExchange>(store, &token_exchange::key(id)).await?
    else {
        return progress_without_exchange(context, id).await;
    };
    let user = match exchange.stage {
        Stage::Sealed(_) => return Ok(Progress::Waiting),
        Stage::Failed(reason) => return Ok(Progress::Failed(reason)),
        Stage::Connected(user) => user,
    };
    let Some(stored) = connection::find(store, &user).await? else {
        return Ok(Progress::Failed("the connection was ended".to_owned()));
    };
    let connection = stored.value;
    let poll = connection
        .last_poll
        .as_ref()
        .filter(|poll| poll.began_at >= exchange.code_exchanged_at);
    let is_polled = poll.is_some();
    let awaits_subscriptions = poll.is_some_and(|poll| poll.pages <= MAX_AWAITED_SUBSCRIPTIONS);
    // A poll that is repeated only after a long time is not worth waiting for.
    let failure = connection.last_failure.as_ref();
    let has_failed = failure.is_some_and(|failure| failure.at >= exchange.code_exchanged_at);
    let not_before = connection.polling.not_before.unwrap_or_default();
    let is_late = context.clock.now().until(not_before) > MAX_WAIT;
    let is_unusable = connection.status != connection::Status::Active || (has_failed && is_late);
    let app = load_record::<App>(store, &app::key())
        .await?
        .map(|stored| stored.value);
    let app = app.unwrap_or_default();
    let is_app_checked =
        app.confirmed_at >= Some(exchange.code_exchanged_at) || app.problem.is_some();
    let webhooks_problem = if is_app_checked {
        app.problem
    } else {
        Some("the app subscription was not checked yet".to_owned())
    };
    let subscriptions = if awaits_subscriptions {
        load_subscriptions(context, &connection).await?
    } else {
        Subscriptions::default()
    };
    let is_final = is_unusable
        || (is_polled && is_app_checked && (!awaits_subscriptions || subscriptions.is_done));
    Ok(Progress::Connected(Box::new(Connected {
        connection,
        code_exchanged_at: exchange.code_exchanged_at,
        is_polled,
        webhooks_problem,
        subscription_problem: subscriptions.problem,
        is_final,
        return_to: return_to(context, exchange.invitation.as_ref()).await?,
    })))
}

/// Returns the address to return to in the record of an invitation.
async fn return_to(
    context: &LoginContext,
    invitation: Option<&Invitation>,
) -> Result<Option<String>, StoreError> {
    let Some(Invitation::Stored(id)) = invitation else {
        return Ok(None);
    };
    let stored = invitation::find(&*context.store, id).await?;
    Ok(stored.and_then(|stored| stored.value.return_to))
}

/// Returns the progress of a login that has no token exchange: its code is being exchanged, the
/// exchange of the code failed, or the process ended during that exchange.
async fn progress_without_exchange(
    context: &LoginContext,
    id: &LoginId,
) -> Result<Progress, StoreError> {
    let stored = load_record::<Login>(&*context.store, &login::key(id)).await?;
    let failed = |reason: &str| Ok(Progress::Failed(reason.to_owned()));
    match stored.map(|stored| stored.value.stage) {
        Some(login::Stage::CodeUsed(at))
            if at.until(context.clock.now()) > login::EXCHANGE_TIMEOUT =>
        {
            failed("The login was interrupted. Please begin again.")
        }
        Some(login::Stage::Failed(reason)) => failed(&reason),
        _ => Ok(Progress::Waiting),
    }
}

/// Returns the first `max` Pages of a connection, except those that are erased or corrupt.
async fn load_connection_pages(
    context: &LoginContext,
    connected: &Connected,
    max: usize,
) -> Result<Vec<PageProgress>, StoreError> {
    let store = &*context.store;
    let ids = page_ids(context, &connected.connection).await?;
    let mut pages = Vec::new();
    for chunk in ids[..ids.len().min(max)].chunks(500) {
        for (id, stored) in chunk.iter().zip(store.load_pages(chunk).await?) {
            if let StoredPage::Page(page) = &stored.value
                && page.status != Status::Erased
            {
                pages.push(PageProgress {
                    view: page_detail(id, stored.version, page),
                    is_read: page.polling.last_success_began >= Some(connected.code_exchanged_at),
                });
            }
        }
    }
    Ok(pages)
}

/// Returns the ids of the Pages that the last poll of the connection listed. A Page that it did not
/// list is left out, because the person may have lost access to it.
async fn page_ids(
    context: &LoginContext,
    connection: &Connection,
) -> Result<Vec<PageId>, StoreError> {
    let prefix = token::page_prefix(&connection.user);
    let tokens =
        load_all::<token::StoredToken>(&*context.store, RecordKind::PageToken, &prefix).await?;
    let last_poll = connection.last_poll.as_ref();
    let listed = tokens.iter().filter(|(_, stored)| {
        last_poll.is_some_and(|poll| stored.value.obtained_at >= poll.began_at)
    });
    Ok(listed.filter_map(|(id, _)| token::page_in_id(id)).collect())
}

/// The Page subscriptions of a connection.
#[derive(Debug, Default)]
struct Subscriptions {
    /// Whether each of them is confirmed or has a problem.
    is_done: bool,
    /// The first problem, with its Page.
    problem: Option<(PageId, String)>,
}

/// Loads the Page subscriptions of a connection. A Page without a record of its subscription is left
/// out.
async fn load_subscriptions(
    context: &LoginContext,
    connection: &Connection,
) -> Result<Subscriptions, StoreError> {
    let mut found = Subscriptions {
        is_done: true,
        problem: None,
    };
    for id in page_ids(context, connection).await? {
        let key = page_subscription::key(&id);
        let stored = load_record::<PageSubscription>(&*context.store, &key).await?;
        let Some(PageSubscription {
            problem,
            confirmed_at,
            ..
        }) = stored.map(|stored| stored.value)
        else {
            continue;
        };
        found.is_done &= confirmed_at.is_some() || problem.is_some();
        found.problem = found.problem.or(problem.map(|problem| (id, problem)));
    }
    Ok(found)
}

/// Returns at most `max` Pages of a connection, or no Page while the first connection poll since
/// the login is not complete.
pub(super) async fn polled_pages(
    context: &LoginContext,
    connected: &Connected,
    max: usize,
) -> Result<Vec<PageProgress>, StoreError> {
    if connected.is_polled {
        load_connection_pages(context, connected, max).await
    } else {
        Ok(Vec::new())
    }
}
