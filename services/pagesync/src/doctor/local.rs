//! Checks of this host: queue, store, keys, dead letters, and the running process.

use common::backends::{Backends, open_store};
use common::clock::Clock;
use common::config::Config;
use common::config::backend::Backend;
use common::database::Access;
use common::queue::Queue;
use common::queue::error::QueueError;
use common::queue::rabbitmq::RabbitMq;
use common::records::dead_letter::usage::Usage;
use common::records::key_rotation;
use common::store::Store;
use common::store_clock;
use model::queue_name::QueueName;
use model::time::HostTime;
use secrecy::ExposeSecret as _;

use crate::health;
use crate::keys::private_keys;
use common::views::check::{Check, State};

/// The name of the check of the running process.
pub(super) const PROCESS_CHECK: &str = "process";
/// How many messages a queue may have before the check warns that the workers are too slow.
const MAX_MESSAGES: u64 = 10_000;

/// The fix of a check that failed because the store did not answer.
pub(super) const SEE_STORE: &str = "see the check of the store";

/// Appends the results of the checks to `checks`.
pub(super) async fn run_checks(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    queue(config, clock, checks).await;
    match open_store(config, clock.clone()) {
        Ok(store) => {
            checks.push(store_health(&*store).await);
            checks.push(clock_of_store(&*store, clock).await);
            checks.push(keys(config, &*store).await);
            checks.push(dead_letters(&*store, clock.now()).await);
        }
        Err(error) => {
            let fix = "check that PAGESYNC_DATA_DIR is the directory of the running process, or PAGESYNC_REDIS_URL the address of its Redis";
            checks.push(Check::problem(
                "store",
                State::Failed,
                error.to_string(),
                fix,
            ));
        }
    }
    checks.push(match health::check(config).await {
        Ok(()) => Check::ok(PROCESS_CHECK, format!("ready on {}", config.private_listen)),
        Err(error) => {
            let fix = "start it (`pagesync up`), or run this command on the host where it runs";
            Check::problem(PROCESS_CHECK, State::Warning, format!("{error:#}"), fix)
        }
    });
}

async fn queue(config: &Config, clock: &Clock, checks: &mut Vec<Check>) {
    let fix = "check that the broker runs and that PAGESYNC_RABBITMQ_URL is its address: `docker compose ps rabbitmq`";
    let opened = Backends::open(config, "doctor", Access::Shared, clock.clone()).await;
    let backends = match opened {
        Ok(backends) => backends,
        Err(error) => {
            // On the embedded backend the check of the store reports the same error.
            if config.backend == Backend::Distributed {
                checks.push(Check::problem(
                    "queue",
                    State::Failed,
                    error.to_string(),
                    fix,
                ));
            }
            return;
        }
    };
    checks.push(queue_depths(&*backends.queue, fix).await);
    if config.backend == Backend::Distributed {
        checks.extend(leftover_queues(config).await);
    }
}

async fn queue_depths(queue: &dyn Queue, fix: &str) -> Check {
    if let Err(error) = queue.check().await {
        let of_block = "free memory or disk space of the broker, or raise its limits: `rabbitmq-diagnostics alarms` names the limit; until then every webhook is answered 503";
        let is_block = matches!(error, QueueError::Blocked);
        let fix = if is_block { of_block } else { fix };
        return Check::problem("queue", State::Failed, error.to_string(), fix);
    }
    let mut depths = Vec::new();
    let mut is_too_long = false;
    for queue_name in QueueName::ALL {
        match queue.depth(queue_name).await {
            Ok(depth) => {
                // Deliveries wait for the program, and more workers do not help.
                let is_of_workers = queue_name != QueueName::Forwards;
                is_too_long |= is_of_workers && depth.messages > MAX_MESSAGES;
                depths.push(format!("{} {}", queue_name.as_str(), depth.messages));
            }
            Err(error) => return Check::problem("queue", State::Failed, error.to_string(), fix),
        }
    }
    let detail = format!("waiting messages: {}", depths.join(", "));
    if is_too_long {
        let fix = "start more workers: `docker compose up -d --scale worker=4`";
        return Check::problem("queue", State::Warning, detail, fix);
    }
    Check::ok("queue", detail)
}

/// Reports queues of an earlier version. Nothing consumes them.
async fn leftover_queues(config: &Config) -> Option<Check> {
    let found = RabbitMq::leftover_queues(config.rabbitmq_url.expose_secret()).await;
    // If the broker does not answer, the check of the queue says so.
    let found = found.ok().filter(|found| !found.is_empty())?;
    let names: Vec<String> = found
        .iter()
        .map(|(name, messages)| format!("{name} ({messages} messages)"))
        .collect();
    let detail = format!("queues of an earlier version: {}", names.join(", "));
    let fix = "let the version of pagesync that declared them empty them, then delete them: `rabbitmqctl delete_queue <name>`";
    Some(Check::problem("old queues", State::Warning, detail, fix))
}

/// Compares this host's clock with the clock of the store.
async fn clock_of_store(store: &dyn Store, clock: &Clock) -> Check {
    let name = "store clock";
    match store_clock::difference(store, clock).await {
        Ok(difference) => {
            let detail = format!("{} s from this host's clock", difference.abs() / 1000);
            if store_clock::is_reported(difference) {
                let fix = "synchronize the clocks of this host and of the store, for example with NTP; polls are late or early until then";
                return Check::problem(name, State::Failed, detail, fix);
            }
            Check::ok(name, detail)
        }
        Err(error) => Check::problem(name, State::Failed, error.to_string(), SEE_STORE),
    }
}

async fn store_health(store: &dyn Store) -> Check {
    match store.check().await {
        Ok(health) if !health.errors.is_empty() => {
            let detail = "it has unsafe settings";
            Check::problem("store", State::Failed, detail, &health.errors.join("; "))
        }
        Ok(health) if !health.warnings.is_empty() => {
            let detail = "it works, but some settings are not recommended";
            Check::problem("store", State::Warning, detail, &health.warnings.join("; "))
        }
        Ok(health) => Check::ok(
            "store",
            format!("it accepts writes; epoch {}", health.epoch),
        ),
        Err(error) => {
            let fix = "check that Redis runs and is not full, and that PAGESYNC_REDIS_URL is its address: `docker compose ps redis`";
            Check::problem("store", State::Failed, error.to_string(), fix)
        }
    }
}

async fn keys(config: &Config, store: &dyn Store) -> Check {
    let keys = match private_keys(config) {
        Ok(Some(keys)) => keys,
        Ok(None) => {
            let reason = "only the worker has the keys that open tokens: run this command there";
            return Check::skipped("keys", reason);
        }
        Err(error) => {
            let fix = "restore token.keys from a backup, or ask people to log in again";
            return Check::problem("keys", State::Failed, error.to_string(), fix);
        }
    };
    match key_rotation::count_outdated(store, &keys).await {
        Err(error) => Check::problem("keys", State::Failed, error.to_string(), SEE_STORE),
        Ok(report) if report.unopenable > 0 => Check::problem(
            "keys",
            State::Failed,
            format!(
                "{} tokens are sealed to keys that this host does not have",
                report.unopenable
            ),
            "restore the old keys (token.keys, PAGESYNC_TOKEN_PRIVATE_KEYS), or ask people to log in again",
        ),
        Ok(report) if report.outdated > 0 => Check::problem(
            "keys",
            State::Warning,
            format!("{} tokens are sealed to an older key", report.outdated),
            "run `pagesync keys rotate`",
        ),
        Ok(_) => Check::ok(
            "keys",
            format!("every token can be opened; key {}", keys.current().id()),
        ),
    }
}

async fn dead_letters(store: &dyn Store, now: HostTime) -> Check {
    let name = "dead letters";
    let usage = match Usage::load(store, now).await {
        Ok(usage) => usage,
        Err(error) => return Check::problem(name, State::Failed, error.to_string(), SEE_STORE),
    };
    let mut detail = format!("{} jobs failed for good", usage.count);
    let counted = usage.not_stored.iter().filter(|(_, n)| **n > 0);
    let counted: Vec<String> = counted
        .map(|(reason, n)| format!("{n} x {reason}"))
        .collect();
    if !counted.is_empty() {
        detail.push_str("; too many were stored, so further failures were only counted: ");
        detail.push_str(&counted.join(", "));
        let state = if usage.is_full() {
            State::Failed
        } else {
            State::Warning
        };
        let fix = "list the stored ones with `pagesync dead-letter list` and end the cause; then replay those that you need, and `pagesync dead-letter discard --all` deletes the rest and the counts";
        return Check::problem(name, state, detail, fix);
    }
    if usage.count == 0 {
        return Check::ok(name, "none");
    }
    let fix = "list them with `pagesync dead-letter list`, then replay or discard them";
    Check::problem(name, State::Warning, detail, fix)
}
