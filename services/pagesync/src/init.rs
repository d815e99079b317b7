//! `pagesync init`: asks five questions, writes the `.env` of a deployment on one host, and prints
//! the values to enter in the dashboard of the app.
//!
//! Invariant: it never overwrites a `.env`, and never prints a secret. A terminal does not show the
//! secret while it is entered.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use common::config::settings::Environment;
use common::config::{Config, Role};

use crate::environment::read_dotenv;
use crate::{init_secrets, output};

/// Asks the questions on standard error, reads the answers from standard input, and writes `.env`.
///
/// Fails if there is a `.env`, if the answers are not a valid configuration, or if a value cannot
/// be read back from `.env` as it was entered.
pub fn run() -> anyhow::Result<()> {
    let path = Path::new(".env");
    if path.exists() {
        bail!("there is already a .env in this directory: move it and run this command again");
    }
    let app_id = ask(
        "The id of the app, from its dashboard at developers.facebook.com",
        "",
    )?;
    let app_secret = ask_secret("The secret of the app (App settings, Basic)")?;
    let address = ask(
        "The public address of this deployment, such as https://bot.example",
        "",
    )?;
    let time_zone = ask("The time zone of the daily poll", "UTC")?;
    let proxies = ask(
        "The addresses or networks of the reverse proxies in front of pagesync, separated by commas",
        "127.0.0.1,::1",
    )?;
    let address = address.strip_suffix('/').unwrap_or(&address).to_owned();
    let verify_token = init_secrets::random_secret()?;
    let settings = [
        ("FACEBOOK_APP_ID", app_id),
        ("FACEBOOK_APP_SECRET", app_secret),
        ("FACEBOOK_VERIFY_TOKEN", verify_token.clone()),
        ("PAGESYNC_PUBLIC_URL", address.clone()),
        ("STATE_TOKEN_SECRET", init_secrets::random_secret()?),
        ("PAGESYNC_TIME_ZONE", time_zone),
        ("PAGESYNC_TRUSTED_PROXIES", proxies),
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
        "# Written by `pagesync init`. .env.example describes every setting.\n".to_owned(),
    )
    .chain(lines)
    .collect();
    init_secrets::write_private_file(path, &text)?;
    let stored = read_dotenv(path)?;
    for (key, value) in &settings {
        if stored.get(*key) != Some(value) {
            bail!("{key} cannot be written to .env: put its value into a file and set {key}_FILE");
        }
    }
    output::print(&format!(
        "wrote .env (mode 0600). Enter these values in the dashboard of the app, at developers.facebook.com:\n\
         \x20 Facebook Login, Valid OAuth Redirect URIs:   {address}/facebook/callback\n\
         \x20 Facebook Login, Deauthorize callback URL:     {address}/facebook/deauthorize\n\
         \x20 Facebook Login, Data deletion request URL:    {address}/facebook/data-deletion\n\
         \x20 App settings, Basic, App domains:            {}\n\
         At its first start, pagesync registers the webhook address: {address}/facebook/webhook\n\
         Then run `pagesync up`, and open {address}/facebook/login to connect Pages.",
        reqwest::Url::parse(&address)?
            .host_str()
            .unwrap_or_default()
    ))
}

/// Returns a value as it is written to `.env`: in quotes if a character has a special meaning.
fn quoted(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":/._-@".contains(c);
    if value.chars().all(is_plain) {
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

/// Asks for a secret. A terminal does not show what is entered; from a pipe, the answer is read like
/// every other answer.
fn ask_secret(question: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        return ask(question, "");
    }
    let answer = rpassword::prompt_password(format!("{question}, which is not shown: "))
        .context("cannot read the secret from the terminal")?;
    match answer.trim() {
        "" => bail!("this question needs an answer"),
        secret => Ok(secret.to_owned()),
    }
}

/// Asks a question and returns the answer, or `default` if the answer is empty. Fails if both
/// are empty.
fn ask(question: &str, default: &str) -> anyhow::Result<String> {
    let hint = if default.is_empty() {
        String::new()
    } else {
        format!(" [{default}]")
    };
    let mut out = std::io::stderr().lock();
    write!(out, "{question}{hint}: ")
        .and_then(|()| out.flush())
        .context("cannot write the question")?;
    let mut line = String::new();
    let read = std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the answer")?;
    let answer = line.trim();
    match (answer.is_empty(), default.is_empty()) {
        (true, true) if read == 0 => bail!("the input ended before every question was answered"),
        (true, true) => bail!("this question needs an answer"),
        (true, false) => Ok(default.to_owned()),
        (false, _) => Ok(answer.to_owned()),
    }
}
