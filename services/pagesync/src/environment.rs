//! Reads the settings of the environment and of `.env` once.
//!
//! Invariant: a setting of the environment replaces the setting of `.env`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, bail};
use common::config::settings::Environment;

/// The settings at the start of the process.
#[derive(Debug)]
pub struct Snapshot {
    /// The settings of the environment and of `.env`.
    pub environment: Environment,
    /// The variables that come from `.env`.
    pub dotenv_keys: BTreeSet<String>,
}

/// Returns the settings of `.env` in the current directory and of the environment. Fails if `.env`
/// cannot be read or parsed.
pub fn snapshot() -> anyhow::Result<Snapshot> {
    let mut environment = read_dotenv(Path::new(".env"))?;
    let as_text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    let process: Environment = std::env::vars_os().filter_map(as_text).collect();
    for key in process
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, _)| key)
    {
        // KEY and KEY_FILE are one setting, so each of them in the environment replaces both of
        // `.env`.
        let setting = key.strip_suffix("_FILE").unwrap_or(key);
        environment.remove(setting);
        environment.remove(&format!("{setting}_FILE"));
    }
    let dotenv_keys = environment.keys().cloned().collect();
    // An empty variable counts as unset.
    let is_new =
        |(key, value): &(String, String)| !value.is_empty() || !environment.contains_key(key);
    let process: Vec<(String, String)> = process.into_iter().filter(is_new).collect();
    environment.extend(process);
    Ok(Snapshot {
        environment,
        dotenv_keys,
    })
}

/// Returns the settings in a file of `KEY=value` lines, or none if there is no such file. An error
/// names the line but never contains it.
pub(crate) fn read_dotenv(path: &Path) -> anyhow::Result<Environment> {
    let file = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Environment::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {file}")),
    };
    if text.starts_with('\u{feff}') {
        bail!("{file} line 1 begins with a byte-order mark: save the file as UTF-8 without it");
    }
    let mut settings = Environment::new();
    for line in dotenvy::from_read_iter(text.as_bytes()) {
        // The message of dotenvy repeats the line, which may contain a secret.
        let (key, value) = line.map_err(|error| {
            let line = line_number(&text, &error);
            anyhow::anyhow!("{file} line {line} is not KEY=value: put values with spaces, quotes or $ into '...'")
        })?;
        settings.insert(key, value);
    }
    Ok(settings)
}

/// Returns the number of the line that dotenvy could not parse, counted from 1.
fn line_number(text: &str, error: &dotenvy::Error) -> usize {
    let dotenvy::Error::LineParse(line, _) = error else {
        return 1;
    };
    let line = line.trim();
    let is_whole_line = |at: &usize| {
        let (before, after) = (&text[..*at], &text[*at + line.len()..]);
        let begins = before.trim_end_matches([' ', '\t']);
        let ends = after.trim_start_matches([' ', '\t', '\r']);
        (begins.is_empty() || begins.ends_with('\n')) && (ends.is_empty() || ends.starts_with('\n'))
    };
    let found = text
        .match_indices(line)
        .map(|(at, _)| at)
        .find(is_whole_line);
    text[..found.unwrap_or(0)].matches('\n').count() + 1
}
