//! The fault harness: the real executable under load, killed at random points; every webhook that
//! was answered 200 is looked for afterwards, one by one.
//!
//! `cargo test -p pagesync --test faults -- [--rounds N] [--backend embedded|distributed] [--seed S]`
//!
//! Each webhook names a Page of its own, so that each one lost is seen, and each effect counted: a
//! Page that was registered and named once is at version 2.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed run, with its line"
)]
#![expect(clippy::print_stdout, reason = "the run reports on standard output")]

mod load;
mod rounds;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the harness needs only some of it")]
mod support;

use support::TestBackend;

/// What a run is told.
#[derive(Debug, Clone)]
struct Options {
    rounds: u32,
    backends: Vec<TestBackend>,
    seed: u64,
}

/// What a run found.
#[derive(Debug, Default)]
struct Tally {
    attempted: u64,
    acknowledged: u64,
    lost: u64,
    duplicated: u64,
    unexpected: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        rounds: 3,
        backends: vec![TestBackend::Embedded, TestBackend::Distributed],
        seed: common::clock::Clock::system().now().0,
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
            "--backend" if value == "embedded" => options.backends = vec![TestBackend::Embedded],
            "--backend" if value == "distributed" => {
                options.backends = vec![TestBackend::Distributed];
            }
            _ => return Err(format!("unknown: {argument} {value}")),
        }
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> Result<(), String> {
    let options = options()?;
    let mut tally = Tally::default();
    let mut chance = fastrand::Rng::with_seed(options.seed);
    for backend in &options.backends {
        rounds::run(*backend, options.rounds, &mut chance, &mut tally).await;
    }
    let Tally {
        attempted,
        acknowledged,
        lost,
        duplicated,
        unexpected,
    } = tally;
    println!(
        "attempted={attempted} acknowledged={acknowledged} lost={lost} duplicated={duplicated} unexpected={unexpected} seed={}",
        options.seed
    );
    match lost + duplicated + unexpected {
        0 => Ok(()),
        bad => Err(format!("{bad} webhooks did not end as they must")),
    }
}
