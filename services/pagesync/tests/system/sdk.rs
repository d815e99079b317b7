//! Meta's SDKs for Python and Node against the simulated Facebook. They are installed from their
//! registries, in the versions that `services/simulator/sdk` names.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::deployment::{APP_ID, APP_SECRET};
use crate::support::facebook::facebook;

/// The address to which the dialog of the simulator redirects.
const PUBLIC: &str = "https://bot.example";

fn sdk_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../simulator/sdk")
}

/// Runs a command. Panics with its output if it fails.
pub(crate) fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; ./test installs what is missing"));
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed);
    assert!(output.status.success(), "{command:?}: {printed}");
}

/// Returns a directory for the installed SDKs, which later runs use again.
fn installed() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Runs a script against a new simulator.
async fn check(program: &Path, script: &str, environment: &[(&str, &Path)]) {
    let (simulator, address) = facebook(PUBLIC, 0).await;
    let script = sdk_directory().join(script);
    tokio::task::block_in_place(|| {
        run(Command::new(program)
            .arg(script)
            .envs(environment.iter().copied())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SIMULATOR_URL", address)
            .env("FACEBOOK_APP_ID", APP_ID)
            .env("FACEBOOK_APP_SECRET", APP_SECRET)
            .env(
                "FACEBOOK_REDIRECT_URI",
                format!("{PUBLIC}/facebook/callback"),
            ));
    });
    drop(simulator);
}

/// Installs a package of Python into an environment of its own. Returns the interpreter.
pub(crate) fn python_packages(name: &str, package: &str) -> PathBuf {
    let python = python_environment(name);
    run(pip_install(&python).arg(package));
    python
}

/// Creates an environment of Python. Returns its interpreter.
fn python_environment(name: &str) -> PathBuf {
    let directory = installed().join(name);
    let python = directory.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&directory));
    }
    python
}

fn pip_install(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]);
    command
}

/// Installs packages of Node into a directory of their own. Returns the directory.
pub(crate) fn node_packages(name: &str, packages: &[&str]) -> PathBuf {
    let directory = installed().join(name).join("node");
    std::fs::create_dir_all(&directory).unwrap();
    run(npm_install(&directory).args(packages));
    directory
}

fn npm_install(directory: &Path) -> Command {
    let mut command = Command::new("npm");
    command
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            "--prefix",
        ])
        .arg(directory);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_sdk_for_python_works_with_the_simulator() {
    let python = python_environment("python");
    run(pip_install(&python)
        .arg("-r")
        .arg(sdk_directory().join("requirements.txt")));
    check(&python, "sdk_python.py", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_sdk_for_node_works_with_the_simulator() {
    let directory = installed().join("node");
    std::fs::create_dir_all(&directory).unwrap();
    let package = sdk_directory().join("package.json");
    std::fs::copy(package, directory.join("package.json")).unwrap();
    run(&mut npm_install(&directory));
    let modules = directory.join("node_modules");
    check(Path::new("node"), "sdk_node.js", &[("NODE_PATH", &modules)]).await;
}
