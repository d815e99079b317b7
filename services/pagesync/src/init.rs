//! `pagesync init --secrets`: the secrets of a compose deployment, one file each, made once. What opens
//! tokens goes into a directory of its own: only the worker gets that volume.
//!
//! What is there is kept; what the environment gives (the app secret, the verify token) replaces
//! what was made up. Must not print a secret.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::config::settings::Environment;
use common::sealing::{PrivateKey, PrivateKeys};
use model::hex::hex;
use secrecy::ExposeSecret as _;

use crate::output;

/// Writes what is missing.
pub fn run(directory: &Path, worker: &Path, environment: &Environment) -> anyhow::Result<()> {
    let parts = ["", "rabbitmq", "redis"].map(|part| directory.join(part));
    for path in parts.iter().map(PathBuf::as_path).chain([worker]) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
    }
    let mut made = Vec::new();
    token_keys(directory, worker, &mut made)?;
    let broker = read_or_make(directory, "rabbitmq_password", None, &mut made)?;
    let redis = read_or_make(directory, "redis_password", None, &mut made)?;
    let files = [
        (
            "rabbitmq/10-user.conf",
            format!("default_user = pagesync\ndefault_pass = {broker}\n"),
        ),
        ("redis/10-password.conf", format!("requirepass {redis}\n")),
        (
            "rabbitmq_url",
            format!("amqp://pagesync:{broker}@rabbitmq:5672/%2f\n"),
        ),
        ("redis_url", format!("redis://:{redis}@redis:6379/0\n")),
    ];
    for (name, text) in files {
        write(&directory.join(name), &text)?;
    }
    for (name, text) in facebook(environment)? {
        write(&directory.join(name), &format!("{text}\n"))?;
    }
    for (name, key) in [
        ("app_secret", "FACEBOOK_APP_SECRET"),
        ("verify_token", "FACEBOOK_VERIFY_TOKEN"),
        ("state_secret", "STATE_TOKEN_SECRET"),
    ] {
        let given = environment.get(key).filter(|text| !text.is_empty());
        if given.is_none() && !directory.join(name).exists() {
            let fit = if key == "STATE_TOKEN_SECRET" {
                "good"
            } else {
                "good for the simulator only"
            };
            output::print_error(&format!("no {key} given: made one up, {fit}"));
        }
        read_or_make(directory, name, given.map(String::as_str), &mut made)?;
    }
    let made = if made.is_empty() {
        "nothing new".to_owned()
    } else {
        made.join(", ")
    };
    output::print(&format!("secrets in {}: made {made}", directory.display()))
}

/// Which Facebook the services talk to, and how it reaches them: the real one if an app is given, else
/// the simulator of the profile `demo`.
fn facebook(environment: &Environment) -> anyhow::Result<Vec<(&'static str, String)>> {
    let given = |key: &str| {
        environment
            .get(key)
            .filter(|text| !text.is_empty())
            .cloned()
    };
    let port = |key: &str, default: &str| given(key).unwrap_or_else(|| default.to_owned());
    let Some(app_id) = given("FACEBOOK_APP_ID") else {
        let (ingress, simulator) = (port("INGRESS_PORT", "5000"), port("SIMULATOR_PORT", "5100"));
        output::print_error(
            "no FACEBOOK_APP_ID given: set up for the simulator of the profile demo",
        );
        return Ok(vec![
            ("app_id", "100200300400500".to_owned()),
            (
                "redirect_uri",
                format!("http://localhost:{ingress}/facebook/callback"),
            ),
            (
                "webhook_address",
                "http://ingress:5000/facebook/webhook".to_owned(),
            ),
            ("graph_url", "http://simulator:5100".to_owned()),
            ("dialog_url", format!("http://localhost:{simulator}")),
        ]);
    };
    let needed = |key: &str| {
        given(key).with_context(|| format!("{key} is missing, and FACEBOOK_APP_ID is given"))
    };
    let or = |key: &str, default: &str| given(key).unwrap_or_else(|| default.to_owned());
    Ok(vec![
        ("app_id", app_id),
        ("redirect_uri", needed("FACEBOOK_REDIRECT_URI")?),
        ("webhook_address", needed("FACEBOOK_WEBHOOK_ADDRESS")?),
        (
            "graph_url",
            or("PAGESYNC_GRAPH_URL", "https://graph.facebook.com"),
        ),
        (
            "dialog_url",
            or("PAGESYNC_DIALOG_URL", "https://www.facebook.com"),
        ),
    ])
}

/// The pair that seals and opens tokens. The public half is written again each time: it follows from
/// the first private key.
fn token_keys(directory: &Path, worker: &Path, made: &mut Vec<&'static str>) -> anyhow::Result<()> {
    let path = worker.join("token_private_keys");
    if !path.exists() {
        let key = PrivateKey::generate();
        write(&path, &format!("{}\n", key.text().expose_secret()))?;
        made.push("token_private_keys");
    }
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let keys = PrivateKeys::parse(&text).with_context(|| format!("{}", path.display()))?;
    let public = keys.current().text();
    write(&directory.join("token_public_key"), &format!("{public}\n"))
}

fn read_or_make(
    directory: &Path,
    name: &'static str,
    given: Option<&str>,
    made: &mut Vec<&'static str>,
) -> anyhow::Result<String> {
    let path = directory.join(name);
    let stored = std::fs::read_to_string(&path)
        .ok()
        .map(|text| text.trim_end().to_owned())
        .filter(|text| !text.is_empty());
    match (given, stored) {
        (Some(given), Some(stored)) if given == stored => Ok(stored),
        (None, Some(stored)) => Ok(stored),
        (given, _) => {
            let secret = given.map_or_else(random, |given| Ok(given.to_owned()))?;
            write(&path, &format!("{secret}\n"))?;
            made.push(name);
            Ok(secret)
        }
    }
}

pub(crate) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let open = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let written = open.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// 32 hexadecimal digits from the operating system.
pub fn random() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(hex(&bytes))
}
