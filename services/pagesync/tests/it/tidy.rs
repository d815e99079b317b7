//! Checks rules of the repository that the compiler cannot check.

use std::path::{Path, PathBuf};

use common::config::settings::env_example;

/// Returns the directory of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Reads a file whose path is relative to [`root`].
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns every Rust source file below `directory`.
pub(crate) fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn the_env_example_is_generated_from_the_settings() {
    assert_eq!(
        read(".env.example"),
        env_example(),
        "run: cargo run -- config example > .env.example"
    );
}

#[test]
fn the_model_has_no_clock_no_io_and_no_async() {
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
fn the_simulator_depends_on_no_other_crate_and_services_not_on_each_other() {
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
fn every_dependency_has_a_comment_with_its_reason() {
    let manifest = read("Cargo.toml");
    let dependencies = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    let mut before = "";
    for line in dependencies.lines() {
        let is_member = line.contains("path = ");
        if line.contains(" = ") && !line.starts_with('#') && !is_member {
            assert!(before.starts_with("# "), "no comment above: {line}");
        }
        before = line;
    }
}

#[test]
fn every_path_named_in_a_document_exists() {
    for document in [
        "ARCHITECTURE.md",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "docs/decisions.md",
        "docs/api.md",
        "docs/json.md",
        "docs/state.md",
    ] {
        let text = read(document);
        let names = text.split('`').skip(1).step_by(2);
        let is_path = |name: &&str| {
            let rooted = [
                "common/",
                "services/",
                "deploy/",
                "docs/",
                "docker-compose.yml",
                "Cargo.toml",
                ".env.example",
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
        // Links are relative to the document.
        let document_path = root().join(document);
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split([')', '#']).next()) {
            let is_local = !link.is_empty() && !link.contains("://");
            let target = document_path.with_file_name(link);
            assert!(!is_local || target.exists(), "{document} links to {link}");
        }
    }
}

#[test]
fn files_have_at_most_500_lines_and_begin_with_a_module_doc() {
    for directory in ["common", "services"] {
        for file in sources(directory) {
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = text.lines().count();
            assert!(lines <= 500, "{} has {lines} lines", file.display());
            assert!(
                text.starts_with("//! "),
                "{} does not begin with a module doc",
                file.display()
            );
        }
    }
}

#[test]
fn no_test_is_ignored_and_no_test_sleeps() {
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

#[test]
fn only_the_token_listener_reveals_a_token() {
    let reveals = |path: &&PathBuf| {
        let is_test = path.to_string_lossy().contains("/tests/");
        !is_test && std::fs::read_to_string(path).unwrap().contains(".reveal()")
    };
    let sources: Vec<_> = ["common", "services"]
        .map(sources)
        .into_iter()
        .flatten()
        .collect();
    let found: Vec<_> = sources.iter().filter(reveals).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("services/worker/src/token_listener.rs"));
}
