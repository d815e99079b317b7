//! `pagesync init --secrets`: the secrets of a compose deployment, one file each, made once.
//!
//! What is there is kept; what the environment gives (the app secret, the verify token) replaces
//! what was made up. Must not print a secret.

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::Context as _;
use common::config::Environment;

use crate::output;

/// Writes what is missing.
pub fn run(directory: &Path, environment: &Environment) -> anyhow::Result<()> {
    for part in ["", "rabbitmq", "redis"] {
        let path = directory.join(part);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
    }
    let mut made = Vec::new();
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
    for (name, key) in [
        ("app_secret", "FACEBOOK_APP_SECRET"),
        ("verify_token", "FACEBOOK_VERIFY_TOKEN"),
    ] {
        let given = environment.get(key).filter(|text| !text.is_empty());
        if given.is_none() && !directory.join(name).exists() {
            output::complain(&format!(
                "no {key} given: made one up, good for the simulator only"
            ));
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

fn read_or_make(
    directory: &Path,
    name: &'static str,
    given: Option<&str>,
    made: &mut Vec<&'static str>,
) -> anyhow::Result<String> {
    let path = directory.join(name);
    let held = std::fs::read_to_string(&path)
        .ok()
        .map(|text| text.trim_end().to_owned())
        .filter(|text| !text.is_empty());
    match (given, held) {
        (Some(given), Some(held)) if given == held => Ok(held),
        (None, Some(held)) => Ok(held),
        (given, _) => {
            let secret = given.map_or_else(random, |given| Ok(given.to_owned()))?;
            write(&path, &format!("{secret}\n"))?;
            made.push(name);
            Ok(secret)
        }
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
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
    Ok(bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}
