//! A command that a person answers on a terminal.

use std::path::Path;
use std::process::Command;

use crate::support::deployment::{APP_ID, APP_SECRET};

#[test]
fn init_does_not_show_the_secret_while_it_is_entered() {
    let directory = tempfile::tempdir().unwrap();
    let hidden = format!("hidden:{APP_SECRET}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/system/terminal.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_pagesync"))
        .args([APP_ID, &hidden, "https://bot.example", "", ""])
        .current_dir(&directory)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}{errors}");
    assert!(
        shown.contains(APP_ID),
        "the other answers are shown: {shown}"
    );
    assert!(
        shown.contains("https://bot.example/facebook/callback"),
        "{shown}"
    );
    assert!(!shown.contains(APP_SECRET), "{shown}");
    let written = std::fs::read_to_string(directory.path().join(".env")).unwrap();
    assert!(written.contains(APP_SECRET), "the secret was read");
}
