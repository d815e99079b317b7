//! `pagesync init`: four questions, a `.env` for one machine, and what to paste at Facebook.
//!
//! Must not: overwrite a `.env`, print a secret.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use common::config::settings::Environment;
use common::config::{Config, Role};

use crate::environment::read_dotenv;
use crate::{init, output};

/// Asks on standard error, reads standard input, writes `.env`.
pub fn run() -> anyhow::Result<()> {
    let path = Path::new(".env");
    if path.exists() {
        bail!("there is a .env here already: move it away to begin anew");
    }
    let app_id = ask(
        "The app's id, from its dashboard at developers.facebook.com",
        "",
    )?;
    let app_secret = ask("The app's secret (App settings, Basic)", "")?;
    let address = ask(
        "This deployment as Facebook reaches it, such as https://bot.example",
        "",
    )?;
    let zone = ask("Time zone of the daily poll", "UTC")?;
    let address = origin(&address)?;
    let verify_token = init::random()?;
    let settings = [
        ("FACEBOOK_APP_ID", app_id),
        ("FACEBOOK_APP_SECRET", app_secret),
        ("FACEBOOK_VERIFY_TOKEN", verify_token.clone()),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            format!("{address}/facebook/webhook"),
        ),
        (
            "FACEBOOK_REDIRECT_URI",
            format!("{address}/facebook/callback"),
        ),
        ("STATE_TOKEN_SECRET", init::random()?),
        ("PAGESYNC_TIME_ZONE", zone),
    ];
    let environment: Environment = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    Config::read(&environment, Role::Up)?;
    let lines = settings
        .iter()
        .map(|(key, value)| format!("{key}={}\n", quoted(value)));
    let text: String = std::iter::once(
        "# Written by `pagesync init`; every setting is in .env.example.\n".to_owned(),
    )
    .chain(lines)
    .collect();
    init::write(path, &text)?;
    let read = read_dotenv(path)?;
    for (key, value) in &settings {
        if read.get(*key) != Some(value) {
            bail!(
                "{key} cannot be written into .env so that it is read back the same: give it by {key}_FILE"
            );
        }
    }
    output::print(&format!(
        "wrote .env (mode 0600). At developers.facebook.com, in the app's dashboard:\n\
         \x20 Facebook Login, Valid OAuth Redirect URIs:   {address}/facebook/callback\n\
         \x20 Facebook Login, Deauthorize callback URL:     {address}/facebook/deauthorize\n\
         \x20 Facebook Login, Data deletion request URL:    {address}/facebook/data-deletion\n\
         \x20 App settings, Basic, App domains:            {}\n\
         The webhook is set up by pagesync itself at the first start: {address}/facebook/webhook\n\
         Then: `pagesync up`, and open {address}/facebook/login to connect Pages.",
        reqwest::Url::parse(&address)?
            .host_str()
            .unwrap_or_default()
    ))
}

/// Scheme, host and port of an address, and nothing else.
fn origin(address: &str) -> anyhow::Result<String> {
    let url = reqwest::Url::parse(address).ok();
    let url = url.filter(|url| url.path() == "/" && url.query().is_none() && url.has_host());
    let url = url.context(
        "the address of this deployment is a scheme and a host, such as https://bot.example",
    )?;
    Ok(url.origin().ascii_serialization())
}

/// A value as `.env` has it: in quotes where a character could mean something there.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ":/._-@".contains(c);
    if value.chars().all(plain) {
        value.to_owned()
    } else if value.contains('\'') {
        let escaped = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('$', "\\$");
        format!("\"{escaped}\"")
    } else {
        format!("'{value}'")
    }
}

fn ask(question: &str, default: &str) -> anyhow::Result<String> {
    let hint = if default.is_empty() {
        String::new()
    } else {
        format!(" [{default}]")
    };
    let mut out = std::io::stderr().lock();
    write!(out, "{question}{hint}: ")
        .and_then(|()| out.flush())
        .context("cannot ask")?;
    let mut line = String::new();
    let read = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read an answer")?;
    let answer = line.trim();
    match (answer.is_empty(), default.is_empty()) {
        (true, true) if read == 0 => bail!("the input ended before every question was answered"),
        (true, true) => bail!("this needs an answer"),
        (true, false) => Ok(default.to_owned()),
        (false, _) => Ok(answer.to_owned()),
    }
}
