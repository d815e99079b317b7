//! What is here: keys, broker, store, the process itself.

use common::backends::{Backends, open_store};
use common::clock::Clock;
use common::config::Config;
use common::config::backend::Backend;
use common::database::Access;
use common::queue::Queue;
use common::records::{dead_letter, key_rotation};
use common::sealing::{self, Keyring, PrivateKeys};
use common::store::Store;
use model::queue_name::QueueName;

use super::check::{Check, State};
use crate::roles;

/// The check of the running process.
pub(super) const PROCESS: &str = "process";
/// More messages than this wait in a queue: the workers do not keep up.
const MANY: u64 = 10_000;

pub(super) async fn look(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    queue(config, clock, checks).await;
    match open_store(config, clock.clone()) {
        Ok(store) => {
            checks.push(store_itself(&*store).await);
            checks.push(keys(config, &*store).await);
            checks.push(letters(&*store).await);
        }
        Err(error) => {
            let fix = "is PAGESYNC_DATA_DIR the directory of the running process, or PAGESYNC_REDIS_URL right?";
            checks.push(Check::bad("store", State::Failed, error.to_string(), fix));
        }
    }
    checks.push(match roles::health(config).await {
        Ok(()) => Check::ok(PROCESS, format!("ready on {}", config.operator_listen)),
        Err(error) => {
            let fix = "start it (`pagesync up`), or run this where it runs";
            Check::bad(PROCESS, State::Warning, format!("{error:#}"), fix)
        }
    });
}

async fn queue(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let fix = "is the broker up, and PAGESYNC_RABBITMQ_URL right? `docker compose ps rabbitmq`";
    let opened = Backends::open(config, "doctor", Access::Shared, clock.clone()).await;
    let backends = match opened {
        Ok(backends) => backends,
        Err(error) => {
            // On the embedded backend the store says the same.
            if config.backend == Backend::Distributed {
                checks.push(Check::bad("queue", State::Failed, error.to_string(), fix));
            }
            return;
        }
    };
    checks.push(queues(&*backends.queue, fix).await);
}

async fn queues(queue: &dyn Queue, fix: &str) -> Check {
    let mut said = Vec::new();
    let mut many = false;
    for queue_name in [
        QueueName::Webhooks,
        QueueName::PollsNow,
        QueueName::PollsDaily,
    ] {
        match queue.depth(queue_name).await {
            Ok(depth) => {
                many |= depth.messages > MANY;
                said.push(format!("{} {}", queue_name.as_str(), depth.messages));
            }
            Err(error) => return Check::bad("queue", State::Failed, error.to_string(), fix),
        }
    }
    let said = format!("messages waiting: {}", said.join(", "));
    if many {
        let fix = "more workers: `docker compose up -d --scale worker=4`";
        return Check::bad("queue", State::Warning, said, fix);
    }
    Check::ok("queue", said)
}

async fn store_itself(store: &dyn Store) -> Check {
    match store.check().await {
        Ok(health) if !health.errors.is_empty() => {
            let what = "it must not be used as it is set up";
            Check::bad("store", State::Failed, what, &health.errors.join("; "))
        }
        Ok(health) if !health.warnings.is_empty() => {
            let what = "it works, with a setting to think about";
            Check::bad("store", State::Warning, what, &health.warnings.join("; "))
        }
        Ok(health) => Check::ok("store", format!("takes writes; epoch {}", health.epoch)),
        Err(error) => {
            let fix =
                "is Redis up, not full, and PAGESYNC_REDIS_URL right? `docker compose ps redis`";
            Check::bad("store", State::Failed, error.to_string(), fix)
        }
    }
}

/// What opens tokens, if it is here.
pub(super) fn held_keys(config: &Config) -> Result<Option<PrivateKeys>, String> {
    let ring = match (&config.token_private_keys, config.backend) {
        (Some(keys), _) => Keyring::Configured(keys.clone()),
        // Read, never made: a stray key is worse than none.
        (None, Backend::Embedded) => Keyring::File(config.data_dir.join(sealing::KEY_FILE)),
        (None, Backend::Distributed) => return Ok(None),
    };
    ring.keys().map(Some).map_err(|error| error.to_string())
}

async fn keys(config: &Config, store: &dyn Store) -> Check {
    let keys = match held_keys(config) {
        Ok(Some(keys)) => keys,
        Ok(None) => {
            let why = "what opens tokens is with the worker: run this there";
            return Check::skipped("keys", why);
        }
        Err(error) => {
            let fix = "put token.keys back from a backup, or let people log in again";
            return Check::bad("keys", State::Failed, error, fix);
        }
    };
    match key_rotation::count_outdated(store, &keys).await {
        Err(error) => Check::bad(
            "keys",
            State::Failed,
            error.to_string(),
            "see the check of the store",
        ),
        Ok(left) if left.unopenable > 0 => Check::bad(
            "keys",
            State::Failed,
            format!(
                "{} tokens are sealed to keys that are not here",
                left.unopenable
            ),
            "give the old keys back (token.keys, PAGESYNC_TOKEN_PRIVATE_KEYS) or let people log in again",
        ),
        Ok(left) if left.outdated > 0 => Check::bad(
            "keys",
            State::Warning,
            format!("{} tokens are sealed to an older key", left.outdated),
            "pagesync keys rotate",
        ),
        Ok(_) => Check::ok(
            "keys",
            format!("every token opens; key {}", keys.current().id()),
        ),
    }
}

async fn letters(store: &dyn Store) -> Check {
    match dead_letter::all(store).await {
        Ok(letters) if letters.is_empty() => Check::ok("dead letters", "none"),
        Ok(letters) => Check::bad(
            "dead letters",
            State::Warning,
            format!("{} jobs could not be done", letters.len()),
            "pagesync dead-letter list, then replay or discard",
        ),
        Err(error) => {
            let fix = "see the check of the store";
            Check::bad("dead letters", State::Failed, error.to_string(), fix)
        }
    }
}
