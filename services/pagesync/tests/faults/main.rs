//! The fault tests: the executable and its servers are killed at random points under load.
//! Afterwards, every webhook that was answered with 200 must have had its effect.
//!
//! `./test faults [--rounds N] [--backend embedded|distributed] [--seed S]` runs them. `--backlog N` and
//! `--slow-seconds N` change the size of the overload.
//!
//! Each webhook sets the name of a different Page. A Page without a name shows a lost webhook.
//! Registration and name make version 2, so a higher version shows a duplicate effect.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed run, with its line"
)]
#![expect(clippy::print_stdout, reason = "the run reports on standard output")]

mod hostile_clients;
mod load;
mod overload;
mod rounds;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod support;

use support::TestBackend;

/// The options of a run.
#[derive(Debug, Clone)]
struct Options {
    /// The number of rounds for each fault.
    rounds: u32,
    backends: Vec<TestBackend>,
    /// The seed of all random choices.
    seed: u64,
    /// The number of jobs in each backlog of the overload.
    backlog: u64,
    /// How long Redis is slow during the overload, in seconds.
    slow_seconds: u64,
}

/// The counts of a run.
#[derive(Debug, Default)]
struct Totals {
    /// Requests that were sent.
    attempted: u64,
    /// Requests that were answered with 200.
    acknowledged: u64,
    /// Webhooks that were answered with 200 but had no effect.
    lost: u64,
    /// Webhooks that had more than one effect.
    duplicated: u64,
    /// Webhooks that were answered with 200 but not forwarded.
    not_forwarded: u64,
    /// Wrong values, dead letters, and messages left in a queue.
    unexpected: u64,
}

/// Returns the options on the command line. Fails if one is unknown or has an invalid value.
fn options() -> Result<Options, String> {
    let mut options = Options {
        rounds: 3,
        backends: vec![TestBackend::Embedded, TestBackend::Distributed],
        seed: common::clock::Clock::system().now().0,
        backlog: 20_000,
        slow_seconds: 15,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .ok_or(format!("{argument} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--rounds" => {
                options.rounds = u32::try_from(number()?).map_err(|error| error.to_string())?;
            }
            "--seed" => options.seed = number()?,
            "--backlog" => options.backlog = number()?,
            "--slow-seconds" => options.slow_seconds = number()?,
            "--backend" if value == "embedded" => options.backends = vec![TestBackend::Embedded],
            "--backend" if value == "distributed" => {
                options.backends = vec![TestBackend::Distributed];
            }
            _ => return Err(format!("unknown option: {argument} {value}")),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> Result<(), String> {
    let options = options()?;
    let mut totals = Totals::default();
    let mut chance = fastrand::Rng::with_seed(options.seed);
    for backend in &options.backends {
        rounds::run(*backend, &options, &mut chance, &mut totals).await;
    }
    let Totals {
        attempted,
        acknowledged,
        lost,
        duplicated,
        not_forwarded,
        unexpected,
    } = totals;
    println!(
        "attempted={attempted} acknowledged={acknowledged} lost={lost} duplicated={duplicated} not_forwarded={not_forwarded} unexpected={unexpected} seed={}",
        options.seed
    );
    match lost + duplicated + not_forwarded + unexpected {
        0 => Ok(()),
        failures => Err(format!(
            "{failures} webhooks were lost, duplicated, not forwarded or unexpected"
        )),
    }
}
