//! `pagesync connect ...`.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::config::{Backend, Config, Login};
use common::custody::{self, Keyring, Token};
use common::graph::Graph;
use common::invitation;
use common::pages::rfc3339;
use common::records::connection::{self, Connection};
use common::records::{all, get, throttle, token};
use common::store::{Kind, Store};
use model::id::UserId;
use model::lane::Lane;
use model::time::Millis;
use serde_json::{Value as Json, json};
use simulator::visitor::{Decision, Visitor};

use crate::cli::ConnectCommand;
use crate::listing;
use crate::output::{self, Format, harmless};

/// Does one of them.
pub async fn run(
    config: &Config,
    store: Option<&dyn Store>,
    command: ConnectCommand,
    format: Format,
) -> anyhow::Result<()> {
    match (command, store) {
        (ConnectCommand::Url { days }, _) => output::print(&url(config, days)?),
        (ConnectCommand::Simulated { ingress }, _) => simulated(config, &ingress).await,
        (ConnectCommand::List, Some(store)) => list(config, store, format).await,
        (ConnectCommand::Show { id }, Some(store)) => show(config, store, &id, format).await,
        (ConnectCommand::Poll { id, dry_run }, Some(store)) => poll(store, &id, dry_run).await,
        (ConnectCommand::Disconnect { id, dry_run }, Some(store)) => {
            disconnect(config, store, &id, dry_run).await
        }
        (_, None) => bail!("this needs the store"),
    }
}

fn parse(id: &str) -> anyhow::Result<UserId> {
    UserId::parse(id).map_err(|_| {
        anyhow::anyhow!(
            "a connection is named by the person's id, digits: see `pagesync connect list`"
        )
    })
}

async fn poll(store: &dyn Store, id: &str, dry_run: bool) -> anyhow::Result<()> {
    let user = parse(id)?;
    let known = connection::find(store, &user).await?.is_some();
    if dry_run && known {
        return output::print(&format!("would read all Pages of {user} now"));
    }
    let now = Clock::system().now();
    let Some(at) = connection::ask(store, &user, now).await? else {
        bail!("nobody is connected as {user}");
    };
    let buckets = [throttle::APP.to_owned(), throttle::user(&user)];
    let closed = throttle::closed(store, buckets, Lane::PollsNow, now).await?;
    output::print(&format!(
        "all Pages of {user} are read {}",
        begins(at, closed)
    ))
}

/// When something is tried that is due at `at`, if Facebook's limits are closed until then.
pub(crate) fn begins(at: Millis, closed: Option<Millis>) -> String {
    match closed.filter(|closed| *closed > at) {
        Some(closed) => format!(
            "from {} on: until then Facebook limits calls",
            rfc3339(closed)
        ),
        None => format!("from {} on", rfc3339(at)),
    }
}

fn url(config: &Config, days: u64) -> anyhow::Result<String> {
    let base = config.redirect_uri.strip_suffix("/facebook/callback");
    let base = base.context("FACEBOOK_REDIRECT_URI is missing")?;
    match config.login {
        Login::Open => Ok(format!("{base}/facebook/login")),
        Login::Invited => {
            let secret = config
                .state_secret
                .as_ref()
                .context("STATE_TOKEN_SECRET is missing")?;
            let until = Clock::system()
                .now()
                .plus(Duration::from_secs(days * 24 * 3600));
            let invitation = invitation::sign(secret, until);
            Ok(format!("{base}/facebook/login?invitation={invitation}"))
        }
    }
}

async fn list(config: &Config, store: &dyn Store, format: Format) -> anyhow::Result<()> {
    let rows: Vec<(Vec<String>, Json)> = connection::list(store)
        .await?
        .iter()
        .map(|connection| row(config, connection))
        .collect();
    listing(
        format,
        &[
            "connection",
            "name",
            "status",
            "Pages",
            "last walk",
            "next",
            "problem",
        ],
        &rows,
    )
}

fn row(config: &Config, connection: &Connection) -> (Vec<String>, Json) {
    let pages = connection.last.as_ref().map(|last| last.pages);
    let last = connection.last.as_ref().map(|last| rfc3339(last.ended));
    let next = connection.polling.due().map(|(_, at)| rfc3339(at));
    let missing = connection.missing(&config.scopes);
    let lacks = missing
        .iter()
        .map(|lacking| format!("{} is missing: {}", lacking.permission, lacking.consequence));
    let problems: Vec<String> = connection.problem.iter().cloned().chain(lacks).collect();
    let problem = (!problems.is_empty()).then(|| problems.join("; "));
    let shown = |text: Option<String>| text.map_or("-".to_owned(), |text| harmless(&text));
    let cells = vec![
        connection.user.to_string(),
        shown(connection.name.clone()),
        connection.status.to_string(),
        shown(pages.map(|pages| pages.to_string())),
        shown(last.clone()),
        shown(next.clone()),
        shown(problem.clone()),
    ];
    let json = json!({
        "id": connection.user, "name": connection.name, "status": connection.status, "pages": pages,
        "last_walk": last, "next": next, "problem": problem, "missing_permissions": missing,
        "permissions": connection.scopes, "connected_at": rfc3339(connection.connected),
        "expires_at": connection.expires.map(rfc3339),
        "data_access_expires_at": connection.data_access_expires.map(rfc3339),
        "walk_under_way": connection.walk.as_ref().map(|walk| walk.pages),
    });
    (cells, json)
}

async fn show(config: &Config, store: &dyn Store, id: &str, format: Format) -> anyhow::Result<()> {
    let user = parse(id)?;
    let held = connection::find(store, &user).await?;
    let held = held.with_context(|| format!("nobody connected as {user}"))?;
    let (_, mut json) = row(config, &held.value);
    let tokens = all::<token::Held>(store, Kind::PageToken, &token::prefix(&user)).await?;
    let covered: Vec<String> = tokens
        .iter()
        .filter_map(|(id, _)| token::page_of(id))
        .map(|page| page.to_string())
        .collect();
    json["covers"] = json!(covered);
    let done = held.value.eta(Clock::system().now());
    json["walk"] = json!(held.value.walk.as_ref().map(
        |walk| json!({"pages": walk.pages, "calls": walk.calls, "done_about": done.map(rfc3339)})
    ));
    output::print(&output::one(format, &json, || {
        let lines = json
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| vec![name.replace('_', " "), output::cell(value, 100)]);
        output::table(&["", ""], lines)
    }))
}

/// Forgets the tokens here, and as far as the keys are here tells Facebook that the app is not
/// allowed any more.
async fn disconnect(
    config: &Config,
    store: &dyn Store,
    id: &str,
    dry_run: bool,
) -> anyhow::Result<()> {
    let user = parse(id)?;
    if dry_run {
        if connection::find(store, &user).await?.is_none() {
            bail!("nobody is connected as {user}");
        }
        return output::print(&format!("would disconnect {user}"));
    }
    let token = own_token(config, store, &user).await?;
    let Some(pages) = connection::disconnect(store, &user).await? else {
        bail!("nobody is connected as {user}");
    };
    output::print(&format!(
        "disconnected {user}: the tokens of {pages} Pages are gone; what is known of the Pages stays"
    ))?;
    match token {
        Some(token) if !config.app_id.is_empty() && !config.app_secrets.is_empty() => {
            let graph = Graph::new(config, Clock::system()).map_err(anyhow::Error::msg)?;
            match graph.revoke(&token).await {
                Ok(()) => output::print("Facebook knows: the app has no permission any more"),
                Err(error) => output::print(&format!(
                    "Facebook could not be told ({error}): the person may remove the app in their settings"
                )),
            }
        }
        _ => output::print(
            "Facebook was not told, for the token cannot be opened here: the person may remove the app in their settings",
        ),
    }
}

async fn own_token(
    config: &Config,
    store: &dyn Store,
    user: &UserId,
) -> anyhow::Result<Option<Token>> {
    let ring = match (&config.token_keys, config.backend) {
        (Some(keys), _) => Keyring::Given(keys.clone()),
        (None, Backend::Embedded) => custody::key_file(&config.data_dir)?,
        (None, Backend::Distributed) => return Ok(None),
    };
    let key = token::of_user(user);
    let Some(held) = get::<token::Held>(store, &key).await? else {
        return Ok(None);
    };
    Ok(token::open(&key, &held.value, &ring.keys()?).ok().flatten())
}

/// Logs in as the demo's person would: through the real login, the simulated dialog, the real
/// callback. `ingress` is where this machine reaches our public listener.
async fn simulated(config: &Config, ingress: &str) -> anyhow::Result<()> {
    let ours = config.redirect_uri.strip_suffix("/facebook/callback");
    let ours = ours.context("FACEBOOK_REDIRECT_URI is missing")?;
    let mut visitor = Visitor::new()?
        .reaching(ours, ingress)
        .reaching(&config.dialog_url, &config.graph_url);
    let login = format!("{ours}/facebook/login");
    let callback = visitor.log_in(&login, &Decision::default()).await?;
    let Ok(callback) = callback else {
        bail!("the login did not come to a callback");
    };
    let answer = visitor.get(&callback).await?;
    let (status, body) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("the callback answered {status}: {}", harmless(&body));
    }
    output::print(&body)
}
