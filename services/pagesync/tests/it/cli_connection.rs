//! Tests of the commands `init`, `keys`, `connection`, `schedule` and `page poll`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value as Json, json};
use tempfile::TempDir;

use crate::support::TestBackend;
use crate::support::deployment::{APP_ID, APP_SECRET, TestStorage};
use crate::support::eventually;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command in `directory` with `input` on its standard input.
fn typed(
    directory: &TempDir,
    environment: &[(&str, &str)],
    arguments: &[&str],
    input: &str,
) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pagesync"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = child.stdin.take().unwrap().write_all(input.as_bytes());
    // A command that ends without reading its input closes the pipe.
    let is_unread = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    assert!(
        written.as_ref().map_or_else(is_unread, |()| true),
        "{written:?}"
    );
    child.wait_with_output().unwrap()
}

#[test]
fn init_asks_four_questions_and_writes_a_complete_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let answers = format!("{APP_ID}\n{APP_SECRET}\nhttps://bot.example/\nEurope/Berlin\n");
    let output = typed(&directory, &[], &["init"], &answers);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        printed.contains("https://bot.example/facebook/callback"),
        "{printed}"
    );
    assert!(!printed.contains(APP_SECRET));
    let path = directory.path().join(".env");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let written = std::fs::read_to_string(&path).unwrap();
    for line in [
        "PAGESYNC_PUBLIC_URL=https://bot.example",
        "PAGESYNC_TIME_ZONE=Europe/Berlin",
    ] {
        assert!(written.contains(line), "{written}");
    }
    let zone = [("PAGESYNC_TIME_ZONE", "UTC"), ("PAGESYNC_PUBLIC_URL", "")];
    let shown = typed(
        &directory,
        &zone,
        &["config", "show", "--output", "json"],
        "",
    );
    let shown: Json = serde_json::from_slice(&shown.stdout).unwrap();
    let origin = |key: &str| {
        let mut settings = shown.as_array().unwrap().iter();
        settings.find(|shown| shown["setting"] == key).unwrap()["origin"].clone()
    };
    assert_eq!(
        origin("PAGESYNC_PUBLIC_URL"),
        ".env",
        "an empty variable counts as unset"
    );
    assert_eq!(origin("FACEBOOK_APP_SECRET"), ".env");
    assert_eq!(origin("PAGESYNC_TIME_ZONE"), "environment");
    assert_eq!(origin("PAGESYNC_LOGIN"), "default");
    let url = typed(&directory, &[], &["connection", "invite"], "");
    assert_eq!(text(&url.stdout), "https://bot.example/facebook/login\n");
    let invited = typed(
        &directory,
        &[("PAGESYNC_LOGIN", "invited")],
        &["connection", "invite"],
        "",
    );
    // The invitation is stored, so that it is good for one person.
    assert_eq!(invited.status.code(), Some(1));
    let errors = text(&invited.stderr);
    assert!(
        errors.contains("run the command where `pagesync up` runs"),
        "{errors}"
    );
    let again = typed(&directory, &[], &["init"], &answers);
    assert_eq!(again.status.code(), Some(1), "a .env is not overwritten");
    // Values that contain special characters of a .env file are read back as they were typed.
    for secret in [
        "abcd$HOME1234567890 x",
        "it's a secret of 16",
        "a\\b\"c#d'e$f1234567",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let answers = format!("{APP_ID}\n{secret}\nhttps://bot.example\n\n");
        let output = typed(&directory, &[], &["init"], &answers);
        assert!(
            output.status.success(),
            "{secret}: {}",
            text(&output.stderr)
        );
        let shown = typed(&directory, &[], &["config", "show"], "");
        assert!(shown.status.success(), "{secret}: {}", text(&shown.stderr));
    }
    for address in [
        "https://bot.example/facebook/webhook",
        "https://bot.example?x=1",
        "bot.example",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let answers = format!("{APP_ID}\n{APP_SECRET}\n{address}\n\n");
        let output = typed(&directory, &[], &["init"], &answers);
        assert!(
            text(&output.stderr).contains("PAGESYNC_PUBLIC_URL does not have the accepted form"),
            "{address}"
        );
        assert!(!directory.path().join(".env").exists());
    }
    let empty = tempfile::tempdir().unwrap();
    let invalid = typed(
        &empty,
        &[],
        &["init"],
        "1234\nshort\nhttp://bot.example\nMars\n",
    );
    let errors = text(&invalid.stderr);
    for key in [
        "FACEBOOK_APP_ID",
        "FACEBOOK_APP_SECRET",
        "PAGESYNC_PUBLIC_URL",
        "PAGESYNC_TIME_ZONE",
    ] {
        assert!(errors.contains(key), "{errors}");
    }
    assert!(!empty.path().join(".env").exists());
}

#[test]
fn an_unreadable_dotenv_is_refused_with_its_line_and_without_its_text() {
    for (written, problem) in [
        (
            "\u{feff}FACEBOOK_APP_ID=174829003346\n",
            "line 1 begins with a byte-order mark",
        ),
        (
            "# comment\n\nPAGESYNC_LOG=info\nhunter2 is a secret\n",
            "line 4 is not KEY=value",
        ),
        (
            "# hunter2 from the dashboard\nPAGESYNC_LOG=hunter2\n  hunter2\n",
            "line 3 is not KEY=value",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(".env"), written).unwrap();
        let shown = typed(&directory, &[], &["config", "show"], "");
        let errors = text(&shown.stderr);
        assert_eq!(shown.status.code(), Some(1), "{errors}");
        assert!(
            errors.contains(problem) && !errors.contains("hunter2"),
            "{errors}"
        );
    }
}

#[test]
fn generated_keys_are_a_pair() {
    let directory = tempfile::tempdir().unwrap();
    let output = typed(&directory, &[], &["keys", "generate"], "");
    let printed = text(&output.stdout);
    let value = |key: &str| {
        let line = printed.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_once('=').unwrap().1.to_owned()
    };
    let private =
        common::sealing::PrivateKey::parse(&value("PAGESYNC_TOKEN_PRIVATE_KEYS")).unwrap();
    assert_eq!(private.public().text(), value("PAGESYNC_TOKEN_PUBLIC_KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_manages_connections_and_keys_while_the_process_runs() {
    let connected =
        ConnectedDeployment::start(TestBackend::Embedded, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let TestStorage::Embedded(data) = &connected.deployment.storage else {
        unreachable!("the backend is embedded")
    };
    let here = tempfile::tempdir().unwrap();
    let environment = [
        ("PAGESYNC_DATA_DIR", data.path().to_str().unwrap()),
        ("FACEBOOK_APP_ID", APP_ID),
        ("FACEBOOK_APP_SECRET", APP_SECRET),
        ("PAGESYNC_GRAPH_URL", connected.facebook_url.as_str()),
    ];
    let run = |arguments: &[&str]| typed(&here, &environment, arguments, "");
    let as_json = |arguments: &[&str]| -> Json {
        let output = run(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let listed = as_json(&["connection", "list"]);
    let user = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&listed[0]["status"], &listed[0]["last_poll"]["pages"]),
        (&json!("active"), &json!(3))
    );
    let shown = as_json(&["connection", "show", &user]);
    assert_eq!(
        shown["page_ids"],
        json!([page_id_text(0), page_id_text(1), page_id_text(2)])
    );
    assert!(text(&run(&["connection", "show", &user]).stdout).contains("Ada Operator"));
    let schedule = as_json(&["schedule"]);
    let due = schedule["due"].as_array().unwrap();
    assert!(
        due.iter()
            .any(|poll| poll["subject"] == format!("connection:{user}")),
        "{schedule}"
    );
    assert!(text(&run(&["schedule"]).stdout).contains("polls_daily"));

    let calls = connected.calls("GET {id}");
    let dry = run(&["page", "poll", &page_id_text(0), "--dry-run"]);
    assert_eq!(
        text(&dry.stdout),
        format!("would read Page {}\n", page_id_text(0))
    );
    let polled = run(&["page", "poll", &page_id_text(0)]);
    assert!(
        text(&polled.stdout).contains("is read from"),
        "{}",
        text(&polled.stderr)
    );
    eventually("the read", || async {
        (connected.calls("GET {id}") > calls).then_some(())
    })
    .await;
    let url = "https://www.facebook.com/Some-Page-1170558113/";
    let errors = text(&run(&["page", "add", url]).stderr);
    assert!(errors.contains("Page transparency"), "{errors}");
    // The Pages that cannot be read do not keep the others from being read.
    let calls = connected.calls("GET {id}");
    let other = page_id_text(2);
    let partly = run(&["page", "poll", "999", &other, "998"]);
    assert_eq!(partly.status.code(), Some(1));
    let errors = text(&partly.stderr);
    assert!(
        errors.contains("`pagesync page add 999`") && errors.contains("`pagesync page add 998`"),
        "{errors}"
    );
    assert!(text(&partly.stdout).starts_with(&format!("Page {other} is read ")));
    eventually("the read of the other Page", || async {
        (connected.calls("GET {id}") > calls).then_some(())
    })
    .await;
    let dry = as_json(&["erase", "page", &other, "999", "--dry-run"]);
    assert_eq!(
        (&dry[0]["result"], &dry[1]["result"]),
        (&json!("would be erased"), &json!("no such Page"))
    );
    let explained = text(&run(&["page", "explain", &page_id_text(0)]).stdout);
    assert!(
        explained.contains(&format!("The connection of {user} gives access to it.")),
        "{explained}"
    );

    let file = data.path().join("token.keys");
    let before = std::fs::read_to_string(&file).unwrap();
    // A rotation that is killed right after it has added the new key leaves the key file like this.
    let old = common::sealing::PrivateKeys::parse(&before).unwrap();
    common::key_file::write_key_file(&file, &old.with_new_key()).unwrap();
    let halfway = std::fs::read_to_string(&file).unwrap();
    let rotated = run(&["keys", "rotate"]);
    let printed = text(&rotated.stdout);
    assert!(
        printed.contains("sealed 4 tokens") && printed.contains("0 still need an older key"),
        "{printed}{}",
        text(&rotated.stderr)
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        halfway,
        "the rotation uses the new key that was already added"
    );
    let dropped = run(&["keys", "rotate", "--drop-old"]);
    assert!(
        text(&dropped.stdout).contains("deleted the older keys"),
        "{}",
        text(&dropped.stderr)
    );
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(after.lines().count(), 1);
    assert!(halfway.starts_with(after.trim()) && !before.contains(after.trim()));
    // The running process opens tokens with the new key.
    let calls = connected.calls("GET {id}");
    assert!(run(&["page", "poll", &page_id_text(1)]).status.success());
    eventually("a read with the new key", || async {
        (connected.calls("GET {id}") > calls).then_some(())
    })
    .await;
    let page = eventually("the result of the read", || async {
        let page = connected.page(1).await;
        page.polling.last_attempt_began.map(|_| page)
    })
    .await;
    assert_eq!(page.status, model::page::Status::Active);

    let dry = run(&["connection", "disconnect", &user, "--dry-run"]);
    assert_eq!(text(&dry.stdout), format!("would disconnect {user}\n"));
    let printed = text(&run(&["connection", "disconnect", &user, "--revoke"]).stdout);
    assert!(
        printed.contains("deleted the tokens of 3 Pages")
            && printed.contains("removed the webhook fields of pagesync from 3 Pages at Facebook")
            && printed.contains("the app's permissions were revoked at Facebook"),
        "{printed}"
    );
    assert_eq!(as_json(&["connection", "list"]), json!([]));
    assert_eq!(
        run(&["connection", "disconnect", &user]).status.code(),
        Some(1)
    );
    connected.finish().await;
}
