//! `pagesync keys ...`: generates the keys that seal and open tokens, and rotates them.
//!
//! Invariant: only `keys generate` prints a private key.

use anyhow::{Context as _, bail};
use common::backends::Backends;
use common::clock::Clock;
use common::config::Config;
use common::config::backend::Backend;
use common::database::Access;
use common::key_file::{self, Keyring};
use common::records::key_rotation;
use common::sealing::{PrivateKey, PrivateKeys, SealingError};
use common::store::Store;
use model::queue_name::QueueName;
use secrecy::ExposeSecret as _;

use crate::output;

/// Prints a new key pair.
pub fn generate() -> anyhow::Result<()> {
    let key = PrivateKey::generate();
    output::print(&format!(
        "# ingress\nPAGESYNC_TOKEN_PUBLIC_KEY={}\n# worker only; put it in front of the existing keys\nPAGESYNC_TOKEN_PRIVATE_KEYS={}",
        key.public().text(),
        key.text().expose_secret()
    ))
}

/// Seals every token to the current key, and with `drop_old` deletes the older keys of the key
/// file.
///
/// With a key file, the current key is a new one, unless `drop_old` is set or an earlier rotation
/// was interrupted. Otherwise it is the first of `PAGESYNC_TOKEN_PRIVATE_KEYS`. Fails if a token is
/// still sealed to an older key.
pub async fn rotate(config: &Config, store: &dyn Store, drop_old: bool) -> anyhow::Result<()> {
    let file = match (&config.token_private_keys, config.backend) {
        (Some(_), _) => None,
        (None, Backend::Embedded) => {
            let Keyring::File(path) = key_file::open_key_file(&config.data_dir)? else {
                bail!("the embedded backend has no key file");
            };
            Some(path)
        }
        (None, Backend::Distributed) => {
            bail!("PAGESYNC_TOKEN_PRIVATE_KEYS is missing: run this where the worker runs")
        }
    };
    let keys = match &file {
        Some(path) => {
            let stored = Keyring::File(path.clone()).keys()?;
            let is_unfinished = key_rotation::count_outdated(store, &stored).await?.outdated > 0;
            if is_unfinished || drop_old {
                stored
            } else {
                let next = stored.with_new_key();
                key_file::write_key_file(path, &next)?;
                next
            }
        }
        None => config
            .token_private_keys
            .clone()
            .context("PAGESYNC_TOKEN_PRIVATE_KEYS is missing")?,
    };
    let report = key_rotation::reseal_all(store, &keys).await?;
    output::print(&format!(
        "sealed {} tokens to key {}; {} still need an older key, {} cannot be opened with any key here",
        report.resealed,
        keys.current().id(),
        report.outdated,
        report.unopenable
    ))?;
    if report.unopenable > 0 {
        output::print(
            "a new login replaces the tokens that cannot be opened: `pagesync connection invite`",
        )?;
    }
    if report.outdated > 0 {
        bail!("not every token is sealed to the current key: run `pagesync keys rotate` again");
    }
    let deliveries = key_rotation::count_outdated_deliveries(store, &keys).await?;
    if deliveries > 0 {
        output::print(&format!(
            "{deliveries} deliveries to forward need an older key, until they are forwarded or seven days old"
        ))?;
    }
    if drop_old && (deliveries > 0 || waits_in_queue(config).await?) {
        bail!(
            "the older keys stay, because deliveries wait to be forwarded: forward or discard them first"
        );
    }
    match (&file, drop_old) {
        (Some(path), true) => drop_older_keys(path, &keys),
        (Some(_), false) => output::print(
            "the older keys stay in the key file until `pagesync keys rotate --drop-old`",
        ),
        (None, _) => output::print(
            "remove the older keys from PAGESYNC_TOKEN_PRIVATE_KEYS as soon as ingress has the new public key and the queue `forwards` is empty",
        ),
    }
}

/// Returns whether deliveries wait in the queue, which may need any of the keys.
async fn waits_in_queue(config: &Config) -> anyhow::Result<bool> {
    let backends = Backends::open(config, "command", Access::Shared, Clock::system()).await?;
    let depth = backends.queue.depth(QueueName::Forwards).await?;
    Ok(depth.messages > 0)
}

fn drop_older_keys(path: &std::path::Path, keys: &PrivateKeys) -> anyhow::Result<()> {
    key_file::write_key_file(path, &keys.only_current())?;
    output::print("deleted the older keys")
}

/// Returns the keys that open tokens, or `None` if only the worker has them. Fails if the key file
/// cannot be read.
pub(crate) fn private_keys(config: &Config) -> Result<Option<PrivateKeys>, SealingError> {
    let ring = match (&config.token_private_keys, config.backend) {
        (Some(keys), _) => Keyring::Configured(keys.clone()),
        // Unlike a role, this command creates no key file.
        (None, Backend::Embedded) => Keyring::File(config.data_dir.join(key_file::KEY_FILE)),
        (None, Backend::Distributed) => return Ok(None),
    };
    ring.keys().map(Some)
}
