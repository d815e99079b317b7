//! `pagesync init --secrets`: writes the secrets and addresses of a compose deployment, one file
//! each.
//!
//! Invariants: an existing secret stays, unless the environment contains another one. The private
//! keys are in a directory of their own, which only the worker mounts. No secret is printed.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::config::settings::{DEFAULT_SCOPES, Environment};
use common::config::{CALLBACK_PATH, WEBHOOK_PATH, parse_public_url};
use common::sealing::{PrivateKey, PrivateKeys};
use model::hex::hex;
use secrecy::ExposeSecret as _;

use crate::output;

/// The user of Redis with which other programs read the state (`docs/state.md`).
const READER: &str = "reader";

/// Returns the rule of that user: it reads Pages, their history and the change feed, and neither reads
/// records, which contain sealed tokens, nor writes anything.
pub fn reader_rule(password: &str) -> String {
    let patterns = [
        "page:*",
        "pages",
        "pages:*",
        "page_index",
        "history:*",
        "feed*",
        "meta",
    ];
    let patterns = patterns
        .map(|pattern| format!("%R~{{pagesync}}:{pattern}"))
        .join(" ");
    format!(
        "{READER} on >{password} {patterns} resetchannels -@all +@read +@connection +@transaction -@dangerous -scan -randomkey +info"
    )
}

/// Writes the files into `directory`, and the private keys into `worker`. Prints which secrets are
/// new.
pub fn run(directory: &Path, worker: &Path, environment: &Environment) -> anyhow::Result<()> {
    let parts = ["", "rabbitmq", "redis"].map(|part| directory.join(part));
    for path in parts.iter().map(PathBuf::as_path).chain([worker]) {
        let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
        created.with_context(|| format!("cannot create {}", path.display()))?;
    }
    let mut new_secrets = Vec::new();
    token_keys(directory, worker, &mut new_secrets)?;
    let broker = read_or_create(directory, "rabbitmq_password", None, &mut new_secrets)?;
    let redis = read_or_create(directory, "redis_password", None, &mut new_secrets)?;
    let reader = read_or_create(directory, "redis_reader_password", None, &mut new_secrets)?;
    let files = [
        (
            "rabbitmq/10-user.conf",
            format!("default_user = pagesync\ndefault_pass = {broker}\n"),
        ),
        ("redis/10-password.conf", format!("requirepass {redis}\n")),
        (
            "redis/20-reader.conf",
            format!("user {}\n", reader_rule(&reader)),
        ),
        (
            "rabbitmq_url",
            format!("amqp://pagesync:{broker}@rabbitmq:5672/%2f\n"),
        ),
        ("redis_url", format!("redis://:{redis}@redis:6379/0\n")),
        (
            "redis_reader_url",
            format!("redis://{READER}:{reader}@redis:6379/0\n"),
        ),
    ];
    for (name, text) in files {
        write_private_file(&directory.join(name), &text)?;
    }
    for (name, text) in facebook_files(environment)? {
        write_private_file(&directory.join(name), &format!("{text}\n"))?;
    }
    for (name, key) in [
        ("app_secret", "FACEBOOK_APP_SECRET"),
        ("verify_token", "FACEBOOK_VERIFY_TOKEN"),
        ("invitation_secret", "STATE_TOKEN_SECRET"),
    ] {
        let given = environment.get(key).filter(|text| !text.is_empty());
        if given.is_none() && !directory.join(name).exists() {
            let limit = if key == "STATE_TOKEN_SECRET" {
                ""
            } else {
                ", for the simulator only"
            };
            output::print_error(&format!("{key} is not set: created a random one{limit}"));
        }
        read_or_create(directory, name, given.map(String::as_str), &mut new_secrets)?;
    }
    let new_secrets = if new_secrets.is_empty() {
        "none".to_owned()
    } else {
        new_secrets.join(", ")
    };
    output::print(&format!(
        "secrets in {}; new secrets: {new_secrets}",
        directory.display()
    ))
}

/// Returns the addresses of Facebook and of this deployment, and what depends on them: those of the real
/// Facebook if the environment has an app id, otherwise those of the simulator and of the bot of the profile
/// `demo`.
fn facebook_files(environment: &Environment) -> anyhow::Result<Vec<(&'static str, String)>> {
    let given = |key: &str| {
        environment
            .get(key)
            .filter(|text| !text.is_empty())
            .cloned()
    };
    let given_or = |key: &str, default: &str| given(key).unwrap_or_else(|| default.to_owned());
    let Some(app_id) = given("FACEBOOK_APP_ID") else {
        let ingress = given_or("INGRESS_PORT", "5000");
        let simulator = given_or("SIMULATOR_PORT", "5100");
        let with_messages = format!("{DEFAULT_SCOPES},pages_messaging");
        output::print_error(
            "FACEBOOK_APP_ID is not set: configured for the simulator of the profile demo",
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
            (
                "forward_url",
                given_or("PAGESYNC_FORWARD_URL", "http://bot:8000/webhook"),
            ),
            ("scopes", given_or("PAGESYNC_SCOPES", &with_messages)),
        ]);
    };
    let public_url = given("PAGESYNC_PUBLIC_URL").map(|text| {
        parse_public_url(&text).context(
            "PAGESYNC_PUBLIC_URL is not a public address such as https://bot.example, without ? and #",
        )
    });
    let public_url = public_url.transpose()?;
    let below = |path: &str| Some(format!("{}{path}", public_url.as_ref()?));
    let address = |key: &str, path: &str| {
        given(key).or_else(|| below(path)).with_context(|| {
            format!(
                "{key} and PAGESYNC_PUBLIC_URL are missing; FACEBOOK_APP_ID requires one of them"
            )
        })
    };
    Ok(vec![
        ("app_id", app_id),
        (
            "redirect_uri",
            address("FACEBOOK_REDIRECT_URI", CALLBACK_PATH)?,
        ),
        (
            "webhook_address",
            address("FACEBOOK_WEBHOOK_ADDRESS", WEBHOOK_PATH)?,
        ),
        (
            "graph_url",
            given_or("PAGESYNC_GRAPH_URL", "https://graph.facebook.com"),
        ),
        (
            "dialog_url",
            given_or("PAGESYNC_DIALOG_URL", "https://www.facebook.com"),
        ),
        ("forward_url", given_or("PAGESYNC_FORWARD_URL", "none")),
        ("scopes", given_or("PAGESYNC_SCOPES", DEFAULT_SCOPES)),
    ])
}

/// Creates the private key that opens tokens, unless there is one, and writes the public key that
/// belongs to the first private key.
fn token_keys(
    directory: &Path,
    worker: &Path,
    new_secrets: &mut Vec<&'static str>,
) -> anyhow::Result<()> {
    let path = worker.join("token_private_keys");
    if !path.exists() {
        let key = PrivateKey::generate();
        write_private_file(&path, &format!("{}\n", key.text().expose_secret()))?;
        new_secrets.push("token_private_keys");
    }
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let keys = PrivateKeys::parse(&text).with_context(|| format!("{}", path.display()))?;
    let public = keys.current().text();
    write_private_file(&directory.join("token_public_key"), &format!("{public}\n"))
}

/// Returns the secret of the file `name`. If the file does not exist or `given` is another secret,
/// first writes `given` to the file, or a random secret if `given` is `None`.
fn read_or_create(
    directory: &Path,
    name: &'static str,
    given: Option<&str>,
    new_secrets: &mut Vec<&'static str>,
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
            let secret = given.map_or_else(random_secret, |given| Ok(given.to_owned()))?;
            write_private_file(&path, &format!("{secret}\n"))?;
            new_secrets.push(name);
            Ok(secret)
        }
    }
}

/// Writes a file that only its owner can read, and syncs it to the disk.
pub(crate) fn write_private_file(path: &Path, text: &str) -> anyhow::Result<()> {
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

/// Returns 32 random hexadecimal digits from the operating system.
pub fn random_secret() -> anyhow::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        anyhow::anyhow!("the operating system returned no random bytes: {error}")
    })?;
    Ok(hex(&bytes))
}
