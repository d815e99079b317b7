//! `pagesync connection invite` and `pagesync invitation ...`: makes, lists and revokes invitations.

use std::time::Duration;

use anyhow::{Context as _, bail};
use common::clock::Clock;
use common::config::{Config, LoginPolicy};
use common::invitation::{Invitation, login_address};
use common::records::invitation::{self, InvitationRecord};
use common::records::{load_all, write_records};
use common::store::{CommitOutcome, RecordKind, Store, Versioned};
use common::timestamp::rfc3339;
use common::views::invitation::{InvitationView, invitation_view};
use model::hex::hex;
use model::id::UserId;
use reqwest::Url;

use crate::cli::InvitationCommand;
use crate::output::{self, Format, Row, escape_control, print_listing};

/// The longest name of a client or of a key, in characters.
const MAX_NAME: usize = 64;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an invitation is for.
#[derive(Debug, Default)]
pub(crate) struct Purpose {
    /// For how many days it is valid.
    pub(crate) days: u64,
    /// Whether Facebook asks again for permissions that the person declined.
    pub(crate) asks_again: bool,
    /// The client whose Pages are connected.
    pub(crate) client: Option<String>,
    /// The address that is shown when the login is complete.
    pub(crate) return_to: Option<String>,
}

/// Returns the public address of the deployment, or an error if it is not set.
pub(crate) fn public_url(config: &Config) -> anyhow::Result<&str> {
    match config.public_url() {
        "" => bail!("PAGESYNC_PUBLIC_URL and FACEBOOK_REDIRECT_URI are missing"),
        address => Ok(address),
    }
}

/// Prints the address where one person connects their Pages. Stores an invitation if logins need one,
/// or if it names a client or an address to return to.
pub(crate) async fn invite(
    config: &Config,
    store: Option<&dyn Store>,
    purpose: Purpose,
) -> anyhow::Result<()> {
    let is_open = config.login_policy == LoginPolicy::Open;
    if is_open && purpose.client.is_none() && purpose.return_to.is_none() {
        return output::print(address(config, None, purpose.asks_again)?.as_str());
    }
    let client = purpose.client.as_deref().map(parse_client).transpose()?;
    let return_to = purpose.return_to.as_deref().map(parse_return_to);
    let return_to = return_to.transpose()?;
    let store = store.context("this command needs the store")?;
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("the operating system returned no random bytes")?;
    let (id, now) = (hex(&bytes), Clock::system().now());
    let expires_at = now.plus(DAY.saturating_mul(u32::try_from(purpose.days)?));
    let record = InvitationRecord {
        client,
        return_to,
        created_at: now,
        expires_at,
        used_by: None,
        revoked_at: None,
    };
    // The address is built first, so that no invitation is stored if a setting is missing.
    let text = sign(config, &Invitation::Stored(id.clone()), record.expires_at)?;
    let address = address(config, Some(&text), purpose.asks_again)?;
    write_records(store, vec![invitation::put(&id, &record, 0, now)]).await?;
    output::print(address.as_str())
}

fn sign(
    config: &Config,
    invitation: &Invitation,
    expires_at: model::time::HostTime,
) -> anyhow::Result<String> {
    let secret = config.invitation_secret.as_ref();
    let secret = secret.context("STATE_TOKEN_SECRET is missing: it signs invitations")?;
    Ok(invitation.sign(secret, expires_at))
}

fn address(config: &Config, invitation: Option<&str>, asks_again: bool) -> anyhow::Result<Url> {
    // Without the public address, the error names its settings.
    public_url(config)?;
    login_address(config, invitation, asks_again).context("the public address has no login page")
}

/// Parses the name of a client.
pub(crate) fn parse_client(name: &str) -> anyhow::Result<String> {
    parse_name("a client", name)
}

/// Parses a name that an operator gives. An error says of what it is the name.
pub(crate) fn parse_name(of: &str, name: &str) -> anyhow::Result<String> {
    let name = name.trim();
    let is_short = (1..=MAX_NAME).contains(&name.chars().count());
    if !is_short || name.chars().any(char::is_control) {
        bail!("the name of {of} has 1 to {MAX_NAME} characters and no control characters");
    }
    Ok(name.to_owned())
}

fn parse_return_to(text: &str) -> anyhow::Result<String> {
    let url = Url::parse(text).ok();
    let url = url.filter(|url| url.scheme() == "https" && url.host_str().is_some());
    match url {
        Some(url) => Ok(url.into()),
        None => bail!("--return-to is not an address that begins with https://"),
    }
}

/// Runs one of the commands on invitations.
pub(crate) async fn run(
    store: &dyn Store,
    command: InvitationCommand,
    format: Format,
) -> anyhow::Result<()> {
    match command {
        InvitationCommand::List { client } => list(store, client.as_deref(), format).await,
        InvitationCommand::Revoke { id } => revoke(store, &id).await,
    }
}

async fn list(store: &dyn Store, client: Option<&str>, format: Format) -> anyhow::Result<()> {
    let now = Clock::system().now();
    let stored = load_all::<InvitationRecord>(store, RecordKind::Invitation, "").await?;
    let views = stored
        .iter()
        .map(|(id, stored)| invitation_view(id, &stored.value, now));
    let is_listed = |view: &InvitationView| client.is_none() || view.client.as_deref() == client;
    let rows: Vec<Row> = views
        .filter(is_listed)
        .map(|view| Row::new(cells(&view), &view))
        .collect();
    let header = ["invitation", "client", "state", "expires", "used by"];
    print_listing(format, &header, &rows)
}

fn cells(view: &InvitationView) -> Vec<String> {
    let optional = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), escape_control);
    vec![
        view.id.clone(),
        optional(view.client.as_deref()),
        view.state.to_string(),
        view.expires_at.clone(),
        optional(view.used_by.as_ref().map(UserId::as_str)),
    ]
}

/// Revokes an invitation. A person who has used it stays connected.
async fn revoke(store: &dyn Store, id: &str) -> anyhow::Result<()> {
    loop {
        let Some(Versioned { version, mut value }) = invitation::find(store, id).await? else {
            bail!("there is no such invitation: `pagesync invitation list` lists them");
        };
        let now = Clock::system().now();
        if let Some(at) = value.revoked_at {
            return output::print(&format!("the invitation was revoked at {}", rfc3339(at)));
        }
        value.revoked_at = Some(now);
        let write = invitation::put(id, &value, version, now);
        if write_records(store, vec![write]).await? == CommitOutcome::Applied {
            return output::print(
                "revoked the invitation; a person who has used it stays connected: `pagesync connection disconnect` ends that",
            );
        }
    }
}
