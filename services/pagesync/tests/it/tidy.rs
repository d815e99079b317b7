//! Rules that a compiler does not check.

use std::path::{Path, PathBuf};

use common::config::settings::env_example;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below `directory` whose name ends in `.rs`.
pub(crate) fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_env_example_is_what_the_settings_say() {
    assert_eq!(
        read(".env.example"),
        env_example(),
        "run: cargo run -- config example > .env.example"
    );
}

#[test]
fn the_model_is_pure() {
    let manifest = read("common/model/Cargo.toml");
    for driver in [
        "tokio", "reqwest", "lapin", "redis", "rusqlite", "axum", "common",
    ] {
        let line = format!("\n{driver}.workspace");
        assert!(!manifest.contains(&line), "model depends on {driver}");
    }
    for file in sources("common/model/src") {
        let text = std::fs::read_to_string(&file).unwrap();
        for impure in [
            "std::fs",
            "std::net",
            "std::env",
            "SystemTime",
            "Instant::",
            "async fn",
            ".await",
        ] {
            assert!(!text.contains(impure), "{}: {impure}", file.display());
        }
    }
}

#[test]
fn the_simulator_knows_nothing_of_ours_and_services_not_of_each_other() {
    let crates = [
        "model",
        "common",
        "ingress",
        "worker",
        "scheduler",
        "simulator",
    ];
    let allowed: [(&str, &[&str]); 4] = [
        ("ingress", &["model", "common"]),
        ("worker", &["model", "common"]),
        ("scheduler", &["model", "common"]),
        ("simulator", &[]),
    ];
    for (service, allowed) in allowed {
        let manifest = read(&format!("services/{service}/Cargo.toml"));
        for name in crates {
            let depends = manifest.contains(&format!("\n{name}.workspace"));
            assert!(
                !depends || allowed.contains(&name),
                "{service} depends on {name}"
            );
        }
    }
}

#[test]
fn every_dependency_says_why() {
    let manifest = read("Cargo.toml");
    let dependencies = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    let mut before = "";
    for line in dependencies.lines() {
        let is_ours = line.contains("path = ");
        if line.contains(" = ") && !line.starts_with('#') && !is_ours {
            assert!(before.starts_with("# "), "no reason above: {line}");
        }
        before = line;
    }
}

#[test]
fn paths_named_in_the_documents_exist() {
    for document in [
        "ARCHITECTURE.md",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        let text = read(document);
        let names = text.split('`').skip(1).step_by(2);
        let is_path = |name: &&str| {
            let rooted = [
                "common/",
                "services/",
                "deploy/",
                "docker-compose.yml",
                "test",
                ".ci/",
            ];
            rooted.iter().any(|start| name.starts_with(start))
                && !name.contains(' ')
                && !name.contains('*')
        };
        for name in names.filter(is_path) {
            assert!(root().join(name).exists(), "{document} names {name}");
        }
    }
}

#[test]
fn files_stay_small_and_open_with_their_job() {
    for directory in ["common", "services"] {
        for file in sources(directory) {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = text.lines().count();
            assert!(lines <= 700, "{} has {lines} lines", file.display());
            assert!(
                text.starts_with("//! "),
                "{} does not say what it is for",
                file.display()
            );
        }
    }
}

#[test]
fn nothing_is_ignored_and_nothing_sleeps_in_a_test() {
    for file in sources("services/pagesync/tests")
        .into_iter()
        .chain(sources("common"))
    {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains(concat!("#[", "ignore")),
            "{}",
            file.display()
        );
        if file.components().any(|part| part.as_os_str() == "tests") {
            assert!(
                !text.contains(concat!("time::", "sleep(")),
                "{}",
                file.display()
            );
        }
    }
}
