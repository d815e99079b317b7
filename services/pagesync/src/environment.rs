//! Reads the settings of the environment and of `.env` once.
//!
//! Invariant: a setting of the environment replaces the setting of `.env`.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use common::config::settings::Environment;

/// Returns the settings of `.env` in the current directory and of the environment. Fails if `.env`
/// cannot be read or parsed.
pub fn snapshot() -> anyhow::Result<Environment> {
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
    environment.extend(process);
    Ok(environment)
}

/// Returns the settings in a file of `KEY=value` lines, or none if there is no such file. An error
/// never contains a line of the file.
pub(crate) fn read_dotenv(path: &Path) -> anyhow::Result<Environment> {
    match dotenvy::from_path_iter(path) {
        Ok(lines) => {
            let mut settings = Environment::new();
            let mut previous_key = "the beginning".to_owned();
            for line in lines {
                // The message of dotenvy repeats the line, which may contain a secret.
                let (key, value) = line.map_err(|_| {
                    let file = path.display();
                    anyhow::anyhow!("{file} has a line after {previous_key} that is not KEY=value: put values with spaces, quotes or $ into '...'")
                })?;
                previous_key.clone_from(&key);
                settings.insert(key, value);
            }
            Ok(settings)
        }
        Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {
            Ok(Environment::new())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
