//! `pagesync connection ...`: lists, shows, polls, disconnects and invites connections.

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::config::Config;
use common::graph::client::Graph;
use common::invitation::address_to_log_in_again;
use common::records::{connection, expiry, load_record, rate_limit, token};
use common::sealing::Token;
use common::store::Store;
use common::timestamp::rfc3339;
use common::views::connection::{ConnectionView, expiring_view, list_connections, load_connection};
use model::id::UserId;
use model::queue_name::QueueName;
use model::time::HostTime;
use simulator::browser::{Decision, LoginBrowser};

use crate::cli::ConnectionCommand;
use crate::import;
use crate::invitation::{self, Purpose, public_url};
use crate::keys::private_keys;
use crate::output::{self, Format, Row, cell, escape_control, print_listing, to_json};
use crate::unsubscribe::{self, Scope};

/// Runs one of the commands. `store` is needed by all but `invite` and `simulate-login`.
pub async fn run(
    config: &Config,
    store: Option<&dyn Store>,
    command: ConnectionCommand,
    format: Format,
) -> anyhow::Result<()> {
    match (command, store) {
        (
            ConnectionCommand::Invite {
                days,
                rerequest: asks_again,
                client,
                return_to,
            },
            store,
        ) => {
            let purpose = Purpose {
                days,
                asks_again,
                client,
                return_to,
            };
            invitation::invite(config, store, purpose).await
        }
        (ConnectionCommand::SimulateLogin { ingress }, _) => simulate_login(config, &ingress).await,
        (
            ConnectionCommand::List {
                expiring: None,
                client,
            },
            Some(store),
        ) => list(config, store, client.as_deref(), format).await,
        (
            ConnectionCommand::List {
                expiring: Some(days),
                client,
            },
            Some(store),
        ) => list_expiring(store, days, client.as_deref(), format).await,
        (ConnectionCommand::Show { id }, Some(store)) => show(config, store, &id, format).await,
        (ConnectionCommand::Poll { id, dry_run }, Some(store)) => poll(store, &id, dry_run).await,
        (
            ConnectionCommand::Disconnect {
                id,
                dry_run,
                revoke,
            },
            Some(store),
        ) => disconnect(config, store, &id, dry_run, revoke).await,
        (ConnectionCommand::Import { file }, Some(store)) => {
            import::run(config, store, file.as_deref()).await
        }
        (_, None) => bail!("this command needs the store"),
    }
}

fn parse(id: &str) -> anyhow::Result<UserId> {
    UserId::parse(id).map_err(|_| {
        anyhow::anyhow!(
            "the id of a connection is the id of the person, which has only digits: see `pagesync connection list`"
        )
    })
}

async fn poll(store: &dyn Store, id: &str, dry_run: bool) -> anyhow::Result<()> {
    let user = parse(id)?;
    let is_known = connection::find(store, &user).await?.is_some();
    if dry_run && is_known {
        return output::print(&format!("would read all Pages of {user} now"));
    }
    let now = Clock::system().now();
    let Some(at) = connection::request_poll(store, &user, now).await? else {
        bail!("there is no connection of {user}");
    };
    let buckets = [
        rate_limit::APP_BUCKET.to_owned(),
        rate_limit::user_bucket(&user),
    ];
    let blocked = rate_limit::blocked_until(store, buckets, QueueName::PollsNow, now).await?;
    output::print(&format!(
        "all Pages of {user} are read {}",
        start_phrase(at, blocked)
    ))
}

/// Returns, as the end of a sentence, when a poll that is due at `at` can start. If `blocked` is
/// given, a rate limit blocks calls until then.
pub(crate) fn start_phrase(at: HostTime, blocked: Option<HostTime>) -> String {
    match blocked.filter(|blocked| *blocked > at) {
        Some(blocked) => format!(
            "from {} on: until then Facebook's rate limit blocks calls",
            rfc3339(blocked)
        ),
        None => format!("from {} on", rfc3339(at)),
    }
}

fn optional_cell(value: Option<&str>) -> String {
    value.map_or("-".to_owned(), escape_control)
}

async fn list(
    config: &Config,
    store: &dyn Store,
    client: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let connections = list_connections(store, client, &config.scopes, now).await?;
    let rows: Vec<Row> = connections
        .iter()
        .map(|view| Row::new(cells(view), view))
        .collect();
    let header = [
        "connection",
        "name",
        "client",
        "status",
        "Pages",
        "last poll",
        "next read",
        "problem",
    ];
    print_listing(format, &header, &rows)
}

fn cells(view: &ConnectionView) -> Vec<String> {
    let last = view.last_poll.as_ref();
    let pages = last.map(|poll| poll.pages.to_string());
    vec![
        view.id.to_string(),
        optional_cell(view.name.as_deref()),
        optional_cell(view.client.as_deref()),
        view.status.to_string(),
        optional_cell(pages.as_deref()),
        optional_cell(last.map(|poll| poll.ended_at.as_str())),
        optional_cell(view.next_read_at.as_deref()),
        optional_cell(problems(view).as_deref()),
    ]
}

/// Returns the problem of a connection and the consequences of its missing permissions.
fn problems(view: &ConnectionView) -> Option<String> {
    let missing = view.missing_permissions.iter();
    let missing = missing
        .map(|missing| format!("{} is missing: {}", missing.permission, missing.consequence));
    let problems: Vec<String> = view.problem.iter().cloned().chain(missing).collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

async fn list_expiring(
    store: &dyn Store,
    days: u64,
    client: Option<&str>,
    format: Format,
) -> anyhow::Result<()> {
    let all = expiry::list(store, Clock::system().now()).await?;
    let ends_soon = |expiry: &&expiry::Expiry| {
        let is_listed = client.is_none() || expiry.client.as_deref() == client;
        is_listed && expiry.days_left.is_some_and(|left| left <= days)
    };
    let row = |expiry: &expiry::Expiry| {
        let view = expiring_view(expiry);
        let cells = vec![
            view.id.to_string(),
            optional_cell(view.name.as_deref()),
            view.status.to_string(),
            optional_cell(view.days_left.map(|days| days.to_string()).as_deref()),
            optional_cell(view.token_expires_at.as_deref()),
            optional_cell(view.data_access_expires_at.as_deref()),
            view.pages_lost_count.to_string(),
        ];
        Row::new(cells, &view)
    };
    let rows: Vec<Row> = all.iter().filter(ends_soon).map(row).collect();
    let header = [
        "connection",
        "name",
        "status",
        "days left",
        "token expires",
        "data access ends",
        "Pages lost",
    ];
    print_listing(format, &header, &rows)
}

async fn show(config: &Config, store: &dyn Store, id: &str, format: Format) -> anyhow::Result<()> {
    let user = parse(id)?;
    let now = Clock::system().now();
    let detail = load_connection(store, &user, &config.scopes, now).await?;
    let mut detail = detail.with_context(|| format!("there is no connection of {user}"))?;
    if !detail.connection.missing_permissions.is_empty() {
        // This host may lack the settings of the address.
        detail.login_address = address_to_log_in_again(config, &user, now);
    }
    let json = to_json(&detail);
    output::print(&output::format_object(format, &json, || {
        let lines = json.as_object().into_iter().flatten().map(|(name, value)| {
            // An address that is not complete does not work.
            let width = if name == "login_address" {
                usize::MAX
            } else {
                100
            };
            vec![name.replace('_', " "), cell(value, width)]
        });
        output::table(&["", ""], lines)
    }))
}

/// Deletes the tokens of a connection, and removes the app from the Pages to which nobody else gives
/// access. With `revoke`, also revokes the app's permissions at Facebook.
async fn disconnect(
    config: &Config,
    store: &dyn Store,
    id: &str,
    dry_run: bool,
    revoke: bool,
) -> anyhow::Result<()> {
    let user = parse(id)?;
    if dry_run {
        if connection::find(store, &user).await?.is_none() {
            bail!("there is no connection of {user}");
        }
        return output::print(&format!("would disconnect {user}"));
    }
    let token = open_user_token(config, store, &user).await?;
    let removal = unsubscribe::begin(config, store, Scope::Person(&user)).await?;
    let Some(pages) = connection::disconnect(store, &user).await? else {
        bail!("there is no connection of {user}");
    };
    output::print(&format!(
        "disconnected {user} and deleted the tokens of {pages} Pages; the stored values of the Pages stay"
    ))?;
    if let Some(text) = unsubscribe::finish(removal).await {
        output::print(&text)?;
    }
    if revoke {
        return revoke_permissions(config, token).await;
    }
    output::print(
        "the permissions that the person gave the app at Facebook were kept; --revoke revokes them, which also ends the access of a bot that uses the same app",
    )
}

/// Revokes the app's permissions at Facebook, and prints the result.
async fn revoke_permissions(config: &Config, token: Option<Token>) -> anyhow::Result<()> {
    match token {
        Some(token) if !config.app_id.is_empty() && !config.app_secrets.is_empty() => {
            let graph = Graph::new(config, Clock::system()).map_err(anyhow::Error::msg)?;
            match graph.revoke_permissions(&token).await {
                Ok(()) => output::print(
                    "the app's permissions were revoked at Facebook; a bot that uses the same app has no access any more, either",
                ),
                Err(error) => output::print(&format!(
                    "the app's permissions could not be revoked at Facebook ({error}): the person can remove the app in their settings"
                )),
            }
        }
        _ => output::print(
            "the app's permissions were not revoked at Facebook, because the token cannot be opened here, or FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set here: the person can remove the app in their settings",
        ),
    }
}

async fn open_user_token(
    config: &Config,
    store: &dyn Store,
    user: &UserId,
) -> anyhow::Result<Option<Token>> {
    let Some(keys) = private_keys(config)? else {
        return Ok(None);
    };
    let key = token::user_key(user);
    let Some(stored) = load_record::<token::StoredToken>(store, &key).await? else {
        return Ok(None);
    };
    Ok(token::open_token(&key, &stored.value, &keys).ok().flatten())
}

/// Logs in as a person would: through the login of pagesync, the simulated dialog, and the
/// callback. `ingress` is the address at which this host reaches the public listener.
async fn simulate_login(config: &Config, ingress: &str) -> anyhow::Result<()> {
    let public = public_url(config)?;
    let mut visitor = LoginBrowser::new()?
        .map_address(public, ingress)
        .map_address(&config.dialog_url, &config.graph_url);
    let login = format!("{public}/facebook/login");
    let callback = visitor.log_in(&login, &Decision::default()).await?;
    let Ok(callback) = callback else {
        bail!("the dialog did not redirect to the callback");
    };
    let answer = visitor.get(&callback).await?;
    let (status, body) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("the callback answered {status}: {}", escape_control(&body));
    }
    output::print(&body)
}
