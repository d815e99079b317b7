//! A snapshot of the environment and `.env`, taken once. The real environment wins.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use common::config::settings::Environment;

/// What the process was started with.
pub fn snapshot() -> anyhow::Result<Environment> {
    let mut environment = read_dotenv(Path::new(".env"))?;
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    let real: Environment = std::env::vars_os().filter_map(text).collect();
    for key in real
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, _)| key)
    {
        // KEY and KEY_FILE are one setting: what the environment says of it hides all of `.env`.
        let setting = key.strip_suffix("_FILE").unwrap_or(key);
        environment.remove(setting);
        environment.remove(&format!("{setting}_FILE"));
    }
    environment.extend(real);
    Ok(environment)
}

/// The settings in a file of `KEY=value` lines; none if there is no such file.
pub(crate) fn read_dotenv(path: &Path) -> anyhow::Result<Environment> {
    match dotenvy::from_path_iter(path) {
        Ok(lines) => {
            let mut read = Environment::new();
            let mut last = "the beginning".to_owned();
            for line in lines {
                // dotenvy's message repeats the line, which may hold a secret.
                let (key, value) = line.map_err(|_| {
                    let file = path.display();
                    anyhow::anyhow!("{file} has a line after {last} that is not KEY=value: put a value with spaces, quotes or $ into '...'")
                })?;
                last.clone_from(&key);
                read.insert(key, value);
            }
            Ok(read)
        }
        Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {
            Ok(Environment::new())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
