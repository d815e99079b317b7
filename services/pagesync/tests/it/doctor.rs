//! Runs `pagesync doctor` against a deployment, first without problems and then with each problem.

use std::process::Command;
use std::time::Duration;

use common::config::Role;
use common::records::dead_letter::usage;
use common::records::{put_write, write_records};
use common::store::{RecordKey, RecordKind, RecordWrite};
use serde_json::Value as Json;
use simulator::token::TokenInvalidation;

use crate::BACKEND;
use crate::dead_letter_limits;
use crate::support::TestBackend;
use crate::support::deployment::{APP_SECRET, VERIFY_TOKEN};
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

/// Runs the command with the settings of the worker. Returns its exit code and its output. Panics
/// if the output contains a secret.
fn run_doctor(
    connected: &ConnectedDeployment,
    extra: &[(&str, &str)],
    format: &str,
) -> (i32, String) {
    let role = match BACKEND {
        TestBackend::Embedded => Role::Up,
        TestBackend::Distributed => Role::Worker,
    };
    let mut environment = connected.deployment.storage.environment(role, &[]);
    environment.extend(connected.settings.iter().cloned());
    let private = connected.deployment.public_role().private.to_string();
    environment.insert("PAGESYNC_PRIVATE_LISTEN".to_owned(), private);
    for (key, value) in extra {
        environment.insert((*key).to_owned(), (*value).to_owned());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_pagesync"))
        .args(["doctor", "--output", format])
        .env_clear()
        .envs(environment)
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    for secret in [APP_SECRET, VERIFY_TOKEN, "EAAS"] {
        assert!(!printed.contains(secret) && !errors.contains(secret));
    }
    (output.status.code().unwrap(), printed)
}

/// Runs the command with the output format `json`. Returns its exit code and the checks.
fn doctor(connected: &ConnectedDeployment, extra: &[(&str, &str)]) -> (i32, Json) {
    let (code, printed) = tokio::task::block_in_place(|| run_doctor(connected, extra, "json"));
    (code, serde_json::from_str(&printed).unwrap())
}

/// Returns the state of a check. Panics unless the check names a fix exactly if it found a problem.
fn state<'a>(checks: &'a Json, name: &str) -> &'a str {
    let checks = checks.as_array().unwrap();
    let found = checks.iter().find(|check| check["check"] == name);
    let found = found.unwrap_or_else(|| panic!("no check {name} in {checks:?}"));
    assert_eq!(
        found["fix"].is_null(),
        matches!(found["state"].as_str(), Some("ok" | "skipped"))
    );
    found["state"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_each_problem_and_names_a_fix() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    eventually("the app subscription", || async {
        connected
            .simulator
            .facebook()
            .app_subscription
            .is_some()
            .then_some(())
    })
    .await;
    let (code, checks) = doctor(&connected, &[]);
    assert_eq!(
        (code, state(&checks, "connections")),
        (0, "warning"),
        "{checks:#}"
    );
    assert_eq!(connected.connect().await.0, 200);
    let (code, checks) = doctor(&connected, &[]);
    assert_eq!(code, 0, "{checks:#}");
    for name in [
        "configuration",
        "queue",
        "store",
        "keys",
        "dead letters",
        "stored data",
        "process",
        "Graph version",
        "Graph",
        "clock",
        "public address",
        "app subscription",
        "connections",
        "permissions",
        "connection expiry",
        "Pages",
        "Page subscriptions",
        "webhooks",
        "rate limits",
    ] {
        assert_eq!(state(&checks, name), "ok", "{name}: {checks:#}");
    }
    let (_, text) = tokio::task::block_in_place(|| run_doctor(&connected, &[], "table"));
    assert!(
        text.lines().count() >= 16 && text.contains("ok       clock: "),
        "{text}"
    );

    let store = &*connected.deployment.store;
    dead_letter_limits::add(store, "not_stored.entry # has no id", 3).await;
    let (_, checks) = doctor(&connected, &[]);
    assert_eq!(state(&checks, "dead letters"), "warning", "{checks:#}");
    assert!(
        checks.to_string().contains("3 x entry # has no id"),
        "{checks:#}"
    );
    let limit = i64::try_from(usage::MAX_DEAD_LETTERS).unwrap();
    dead_letter_limits::add(store, "count", limit).await;
    let (_, checks) = doctor(&connected, &[]);
    assert_eq!(state(&checks, "dead letters"), "failed", "{checks:#}");
    dead_letter_limits::add(store, "count", -limit).await;
    usage::forget_not_stored(store).await.unwrap();

    // A proxy that does not answer breaks only the calls to Facebook.
    let (_, checks) = doctor(&connected, &[("HTTP_PROXY", "http://127.0.0.1:9")]);
    assert_eq!(state(&checks, "process"), "ok", "{checks:#}");
    assert_eq!(state(&checks, "Graph"), "failed", "{checks:#}");

    let setting = |key, value| [(key, value)];
    for (extra, name) in [
        (setting("PAGESYNC_GRAPH_URL", "http://127.0.0.1:9"), "Graph"),
        (setting("PAGESYNC_GRAPH_VERSION", "v19.0"), "Graph version"),
        (
            setting("FACEBOOK_VERIFY_TOKEN", "some other verify token"),
            "public address",
        ),
        (
            setting(
                "FACEBOOK_WEBHOOK_ADDRESS",
                "http://localhost:9/facebook/webhook",
            ),
            "app subscription",
        ),
        (
            setting("FACEBOOK_APP_SECRET", "another secret of an app"),
            "app subscription",
        ),
        (setting("PAGESYNC_POLL_SPREAD", "banana"), "configuration"),
    ] {
        let (code, checks) = doctor(&connected, &extra);
        assert_eq!(
            (code, state(&checks, name)),
            (3, "failed"),
            "{extra:?}: {checks:#}"
        );
    }
    let unreachable = [
        ("PAGESYNC_PRIVATE_LISTEN", "127.0.0.1:9"),
        (
            "FACEBOOK_WEBHOOK_ADDRESS",
            "http://127.0.0.1:9/facebook/webhook",
        ),
    ];
    let (_, checks) = doctor(&connected, &unreachable[..1]);
    assert_eq!(
        state(&checks, "process"),
        "warning",
        "the process might run on another machine"
    );
    let (code, checks) = doctor(&connected, &unreachable);
    assert_eq!((code, state(&checks, "process")), (3, "failed"));
    connected.simulator.facebook().clock_offset_seconds += 3600;
    let (code, checks) = doctor(&connected, &[]);
    assert_eq!((code, state(&checks, "clock")), (3, "failed"));
    connected.simulator.facebook().clock_offset_seconds -= 3600;

    let feed = ["feed".to_owned()].into();
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .insert(page_id_text(0), feed);
    let (_, checks) = doctor(&connected, &[]);
    assert_eq!(
        state(&checks, "Page subscriptions"),
        "warning",
        "{checks:#}"
    );

    let newer = serde_json::json!({"form": "of a newer version"});
    let key = RecordKey::new(RecordKind::Connection, "9");
    let write = put_write(key.clone(), &newer, None, None);
    let store = &*connected.deployment.store;
    write_records(store, vec![write]).await.unwrap();
    let (code, checks) = doctor(&connected, &[]);
    assert_eq!((code, state(&checks, "stored data")), (3, "failed"));
    let text = checks.to_string();
    let expected = "cannot read 1 entries: connection 9 (missing field `user`)";
    assert!(text.contains(expected), "{checks:#}");
    let delete = RecordWrite::Delete {
        key,
        expected: None,
    };
    write_records(store, vec![delete]).await.unwrap();

    connected.simulator.facebook().app_subscription = None;
    let (code, checks) = doctor(&connected, &[]);
    assert_eq!((code, state(&checks, "app subscription")), (3, "failed"));
    let invalidation = TokenInvalidation {
        user: None,
        page: None,
        subcode: 460,
    };
    connected
        .simulator
        .facebook()
        .invalidate_tokens(&invalidation);
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    connected.advance(connected.clock.now().until(slot) + Duration::from_secs(1));
    eventually("the connection to need a login", || async {
        connected.connection().await.problem.map(drop)
    })
    .await;
    let (code, checks) = doctor(&connected, &[]);
    assert_eq!((code, state(&checks, "connections")), (3, "failed"));
    connected.finish().await;
}
