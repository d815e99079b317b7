//! A snapshot of the environment and `.env`, taken once. The real environment wins.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use common::config::Environment;

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

fn read_dotenv(path: &Path) -> anyhow::Result<Environment> {
    match dotenvy::from_path_iter(path) {
        Ok(lines) => lines.collect::<Result<_, _>>().map_err(|_| {
            // dotenvy's message repeats the line, which may hold a secret.
            anyhow::anyhow!("{} has a line that is not KEY=value", path.display())
        }),
        Err(dotenvy::Error::Io(error)) if error.kind() == ErrorKind::NotFound => {
            Ok(Environment::new())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
