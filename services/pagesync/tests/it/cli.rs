//! Runs the commands of the executable as an operator does, and checks their output and exit codes.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::support::deployment::{Deployment, TestStorage};
use crate::support::{TestBackend, page_id};

/// Runs a command in an empty directory with only these environment variables.
fn pagesync(environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_pagesync"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(directory.path())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command on the database in `directory`, which a running process uses.
fn run_in(directory: &TempDir, arguments: &[&str]) -> Output {
    let path = directory.path().to_str().unwrap();
    pagesync(&[("PAGESYNC_DATA_DIR", path)], arguments)
}

#[test]
fn a_configuration_error_names_the_variables_and_no_value() {
    let environment = [
        ("PAGESYNC_LISTEN", "secret-thing"),
        ("FACEBOOK_APP_SECRET", "your_facebook_app_secret"),
        ("PAGESYNC_LOGS", "x"),
    ];
    let output = pagesync(&environment, &["up"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "PAGESYNC_LISTEN",
        "FACEBOOK_APP_SECRET is a placeholder",
        "FACEBOOK_VERIFY_TOKEN is missing",
        "did you mean PAGESYNC_LOG?",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(
        !errors.contains("secret-thing") && !errors.contains("your_facebook"),
        "{errors}"
    );
}

#[test]
fn usage_errors_and_failures_have_different_exit_codes() {
    assert_eq!(pagesync(&[], &["no-such-command"]).status.code(), Some(2));
    let unreachable = pagesync(&[("PAGESYNC_PRIVATE_LISTEN", "127.0.0.1:1")], &["health"]);
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(text(&unreachable.stderr).contains("nothing answers on 127.0.0.1:1"));
}

#[test]
fn config_show_hides_every_secret() {
    let environment = [
        ("FACEBOOK_APP_SECRET", "0123456789abcdef0123456789abcdef"),
        ("PAGESYNC_REDIS_URL", "redis://:hunter2@redis/0"),
    ];
    for format in ["table", "json", "ndjson"] {
        let output = pagesync(&environment, &["config", "show", "--output", format]);
        let shown = text(&output.stdout);
        assert!(
            output.status.success()
                && shown.contains("PAGESYNC_LISTEN")
                && shown.contains("0.0.0.0:5000")
        );
        assert!(
            !shown.contains("0123456789") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_manages_pages_and_dead_letters_while_the_process_runs() {
    let deployment = Deployment::start(TestBackend::Embedded).await;
    let TestStorage::Embedded(directory) = &deployment.storage else {
        unreachable!("the backend is embedded")
    };
    let dry = run_in(directory, &["page", "add", "1170558113", "--dry-run"]);
    assert_eq!(text(&dry.stdout), "would register Page 1170558113\n");
    assert_eq!(
        text(&run_in(directory, &["page", "add", "1170558113"]).stdout),
        "registered Page 1170558113\n"
    );
    assert_eq!(
        text(&run_in(directory, &["page", "add", "1170558113"]).stdout),
        "Page 1170558113 is already registered\n"
    );
    assert_eq!(
        run_in(directory, &["page", "add", "../x"]).status.code(),
        Some(1)
    );
    // The first read finds that no connection gives access to the Page.
    crate::support::eventually("the first read", || async {
        let (_, page) = deployment.page(&page_id(1_170_558_113)).await?;
        (page.status == model::page::Status::NoToken).then_some(())
    })
    .await;

    let body = r#"{"object":"page","entry":[{"id":"1170558113","time":1750000000,"changes":[{"field":"name","value":"Caf\u00e9 \u001b[31m"}]}]}"#;
    assert_eq!(deployment.deliver(body).await, 200);
    assert_eq!(deployment.deliver(r#"{"object":"page""#).await, 200);
    deployment.wait_until_idle().await;
    assert!(deployment.page(&page_id(1_170_558_113)).await.is_some());

    let shown = run_in(
        directory,
        &["page", "show", "1170558113", "--output", "json"],
    );
    let shown: Json = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["fields"]["name"]["value"], "Café \u{1b}[31m");
    assert_eq!(shown["fields"]["name"]["source"], "webhook");
    assert_eq!(
        shown["fields"]["name"]["changed_at"],
        "2025-06-15T15:06:40Z"
    );
    assert_eq!(shown["fields"]["name"]["confirmed_at"], Json::Null);
    assert_eq!(
        (&shown["id"], &shown["status"], &shown["version"]),
        (&"1170558113".into(), &"no_token".into(), &3.into())
    );
    let table = text(&run_in(directory, &["page", "show", "1170558113"]).stdout);
    assert!(
        table.contains("Café") && !table.contains('\u{1b}'),
        "{table}"
    );
    let explained = text(&run_in(directory, &["page", "explain", "1170558113"]).stdout);
    assert!(
        explained.contains("first seen by webhook at 2025-06-15T15:06:40Z")
            && explained.contains("The Page is read next from"),
        "{explained}"
    );
    let listed = run_in(directory, &["page", "list", "--output", "ndjson"]);
    assert_eq!(
        serde_json::from_slice::<Json>(&listed.stdout).unwrap()["id"],
        "1170558113"
    );
    let history = run_in(
        directory,
        &["page", "history", "1170558113", "--output", "json"],
    );
    assert_eq!(
        serde_json::from_slice::<Json>(&history.stdout).unwrap()[0]["version"],
        3
    );
    let unknown = run_in(directory, &["page", "show", "5"]);
    assert!(unknown.status.code() == Some(1) && text(&unknown.stderr).contains("page add 5"));

    let dead_letters = run_in(directory, &["dead-letter", "list", "--output", "json"]);
    let dead_letters: Json = serde_json::from_slice(&dead_letters.stdout).unwrap();
    let id = dead_letters[0]["id"].as_str().unwrap().to_owned();
    let dead_letter = text(&run_in(directory, &["dead-letter", "show", &id]).stdout);
    assert!(
        dead_letter.contains("ends too early") && dead_letter.contains(r#"{"object":"page""#),
        "{dead_letter}"
    );
    let replayed = run_in(directory, &["dead-letter", "replay", &id]);
    assert_eq!(
        text(&replayed.stdout),
        format!("put {id} into the queue again\n")
    );
    // The replayed webhook is still unreadable, so it becomes the same dead letter again.
    crate::support::eventually("the dead letter", || async {
        let dead_letters = run_in(directory, &["dead-letter", "list", "--output", "json"]);
        (serde_json::from_slice::<Json>(&dead_letters.stdout).unwrap()[0]["id"] == *id)
            .then_some(())
    })
    .await;
    assert!(
        run_in(directory, &["dead-letter", "discard", "--all"])
            .status
            .success()
    );
    assert_eq!(
        run_in(directory, &["dead-letter", "show", &id])
            .status
            .code(),
        Some(1)
    );

    let (status, metrics) = deployment.get_private("metrics").await;
    assert_eq!(status, 200);
    for metric in [
        "pagesync_webhook_answers_total{status=\"200\"} 2",
        "pagesync_queue_messages{queue=\"webhooks\"}",
        "pagesync_page_commits_total{outcome=\"applied\"}",
        "pagesync_dead_letters_total{reason=\"unreadable\"}",
    ] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }
    deployment.finish().await;
}

#[test]
fn the_demo_shows_logins_webhooks_reads_and_dead_letters() {
    let output = pagesync(&[], &["demo", "--seconds", "5"]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    for part in [
        "is renamed to \"Radwerk\": visible after",
        "answered 401",
        "stored as a dead letter",
        "Aurora 100% Arabica",
        "ends too early",
        "webhook test: success, Pages read: 3",
        "has its new phone: \"+45 33 999 000\", read 1",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let visible = shown.split("visible after ").skip(1);
    let visible = visible.map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap());
    assert!(visible.count() >= 7, "{shown}");
}

#[test]
fn init_generates_each_secret_once_and_prefers_the_secrets_of_the_operator() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secrets");
    let worker = directory.path().join("worker");
    let run = |environment: &[(&str, &str)]| {
        let arguments = ["init", "--secrets", path.to_str().unwrap()];
        let worker = ["--worker-secrets", worker.to_str().unwrap()];
        let output = pagesync(
            environment,
            &[arguments, [worker[0], worker[1], "--output=table"]].concat(),
        );
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout) + &text(&output.stderr)
    };
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    let printed = run(&[]);
    let generated = read("app_secret");
    assert!(generated.trim().len() == 32 && !printed.contains(generated.trim()));
    assert!(read("rabbitmq_url").contains(read("rabbitmq_password").trim()));
    run(&[]);
    assert_eq!(read("app_secret"), generated, "not overwritten");
    run(&[("FACEBOOK_APP_SECRET", "given-by-the-operator")]);
    assert_eq!(read("app_secret").trim(), "given-by-the-operator");
    let mode = std::fs::metadata(path.join("app_secret"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let private = std::fs::read_to_string(worker.join("token_private_keys")).unwrap();
    let key = common::sealing::PrivateKey::parse(&private).unwrap();
    assert_eq!(read("token_public_key").trim(), key.public().text());
    assert!(
        !path.join("token_private_keys").exists(),
        "only the directory of the worker has the private key"
    );
}
