//! Checks that a test runs every command in the README. A command that is added to the README must
//! be run here or be listed in [`RUN_BY`].

use std::path::Path;
use std::process::Command;

use common::database::{Access, Database};

/// The commands of the README that are not run here, each with the place where it is run.
const RUN_BY: [(&str, &str); 6] = [
    ("pagesync doctor", "tests/it/doctor.rs, with a deployment"),
    (
        "docker compose --profile demo up --build --scale worker=4",
        "tests/system/compose.rs",
    ),
    (
        r#"curl -H "Authorization: Bearer $KEY" http://127.0.0.1:5001/v1/pages"#,
        "tests/it/examples.rs, with a deployment",
    ),
    (
        r#"curl -H "Authorization: Bearer $KEY" "http://127.0.0.1:5001/v1/changes?after=newest&wait=30s""#,
        "tests/it/examples.rs, with a deployment",
    ),
    ("./test", "the script that runs every test"),
    (
        "./test faults --rounds 50",
        "tests/faults, with fewer rounds",
    ),
];

/// Returns the commands in the code blocks of the README, without their comments.
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

/// Runs the executable in `directory` with these arguments. The demo is limited to five seconds.
fn run(arguments: &str, directory: &Path) {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let is_demo = arguments == ["demo"];
    let output = Command::new(env!("CARGO_BIN_EXE_pagesync"))
        .args(&arguments)
        .args(if is_demo {
            &["--seconds", "5"][..]
        } else {
            &[]
        })
        .env_clear()
        .current_dir(directory)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
}

#[test]
fn every_command_of_the_readme_is_run_by_a_test() {
    let directory = tempfile::tempdir().unwrap();
    // The commands need the database that the first start of a deployment creates.
    let data = directory.path().join("pagesync-data");
    drop(Database::open(&data, Access::Exclusive).unwrap());
    let commands = commands();
    assert!(commands.len() >= 5, "{commands:?}");
    for command in commands {
        if let Some((_, by)) = RUN_BY.iter().find(|(known, _)| *known == command) {
            println!("{command}: run by {by}");
            continue;
        }
        let arguments = ["cargo run --release -- ", "pagesync "]
            .iter()
            .find_map(|start| command.strip_prefix(start));
        let arguments = arguments.unwrap_or_else(|| panic!("no test runs `{command}`"));
        run(arguments, directory.path());
    }
}
