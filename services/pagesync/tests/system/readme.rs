//! Every command the README tells a reader to run is one that a test runs; a new one fails here
//! until it has its place.

use std::path::Path;
use std::process::Command;

use common::database::{Access, Database};

/// A command of the README and what runs it.
const RUN_BY: [(&str, &str); 4] = [
    ("pagesync doctor", "tests/it/doctor.rs, beside a deployment"),
    (
        "docker compose --profile demo up --build --scale worker=4",
        "tests/system/compose.rs",
    ),
    ("./test", "itself"),
    (
        "./test faults --rounds 50",
        "tests/faults, with other numbers",
    ),
];

fn commands() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let blocks = text
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    let lines = blocks
        .flat_map(str::lines)
        .map(|line| line.split(" #").next().unwrap().trim().to_owned());
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// Runs what follows `cargo run --release --` or `pagesync` with the executable under test.
fn run(arguments: &str, directory: &Path) {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let quick = arguments == ["demo"];
    let output = Command::new(env!("CARGO_BIN_EXE_pagesync"))
        .args(&arguments)
        .args(if quick { &["--seconds", "5"][..] } else { &[] })
        .env_clear()
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn every_command_of_the_readme_is_run() {
    let directory = tempfile::tempdir().unwrap();
    // The commands work beside a deployment: there must have been one.
    let data = directory.path().join("pagesync-data");
    drop(Database::open(&data, Access::Exclusive).unwrap());
    let commands = commands();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        if let Some((_, by)) = RUN_BY.iter().find(|(known, _)| *known == command) {
            println!("{command}: run by {by}");
            continue;
        }
        let ours = ["cargo run --release -- ", "pagesync "]
            .iter()
            .find_map(|start| command.strip_prefix(start));
        let arguments = ours.unwrap_or_else(|| panic!("nothing runs `{command}`"));
        run(arguments, directory.path());
    }
}
