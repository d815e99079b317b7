//! Sealed tokens: a search for leaked tokens, the rotation of keys, and the end of a connection.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::clock::Clock;
use common::config::{Config, Role};
use common::records::app::StoreBindingError;
use common::records::connection;
use common::records::{key_rotation, load_all, token};
use common::sealing::{PrivateKey, PrivateKeys};
use common::store::RecordKind;
use model::id::PageId;
use model::page::Status;
use model::queue_name::QueueName;
use secrecy::ExposeSecret as _;
use serde_json::json;
use simulator::browser::{Decision, LoginBrowser};
use simulator::bytes::signature_256;

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, TestStorage, VERIFY_TOKEN};
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, facebook, manual_clock, page_id_text, settings,
};
use crate::support::{client, eventually, reserve_port, within};

/// A part of every token that the simulator issues. pagesync must not store, log or return it.
const CANARY: &str = "CANARYc0ffee";

/// The name of a Page. It must be in the store and must not be in the log.
const PAGE_NAME: &str = "NAMEc0ffee of a Page";

/// A process that logs at the level `trace`, to a file.
struct LoggingProcess {
    child: std::process::Child,
    private: u16,
}

impl LoggingProcess {
    fn start(
        role: Role,
        storage: &TestStorage,
        extra: &[(String, String)],
        port: u16,
        log: &std::path::Path,
    ) -> Self {
        let private = reserve_port();
        let mut environment = storage.environment(role, &[]);
        environment.extend(extra.iter().cloned());
        environment.extend([
            ("PAGESYNC_LISTEN".to_owned(), format!("127.0.0.1:{port}")),
            (
                "PAGESYNC_PRIVATE_LISTEN".to_owned(),
                format!("127.0.0.1:{private}"),
            ),
            ("PAGESYNC_LOG".to_owned(), "trace".to_owned()),
        ]);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pagesync"));
        command.arg(role.name()).env_clear().envs(environment);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, private }
    }
}

impl Drop for LoggingProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_in_the_log_the_queue_the_store_the_answers_or_the_metrics() {
    let port = reserve_port();
    let public = format!("http://127.0.0.1:{port}");
    let (simulator, address) = facebook(&public, 3).await;
    simulator.facebook().graph_faults.token_suffix = CANARY.to_owned();
    let storage = TestStorage::new(BACKEND).await;
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log");
    let extra = settings(&public, &address);
    let roles = storage.roles();
    let mut processes = Vec::new();
    for role in roles {
        let port = if matches!(role, Role::Up | Role::Ingress) {
            port
        } else {
            reserve_port()
        };
        processes.push(LoggingProcess::start(role, &storage, &extra, port, &log));
    }
    let http = client();
    for process in &processes {
        let url = format!("http://127.0.0.1:{}/readyz", process.private);
        within(Duration::from_secs(60), "a process to be ready", || async {
            let answer = http.get(&url).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }
    let mut browser = LoginBrowser::new().unwrap();
    let login = format!("{public}/facebook/login");
    let callback = browser
        .log_in(&login, &Decision::default())
        .await
        .unwrap()
        .unwrap();
    let code = callback
        .split("code=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap()
        .to_owned();
    // Each request of the callback makes another webhook test. The first ones may time out,
    // because logging at `trace` is slow.
    let mut seen = String::new();
    let began = std::time::Instant::now();
    while !seen.contains("\"webhook_test\":{\"status\":\"success\"}") {
        assert!(began.elapsed() < Duration::from_secs(120), "{seen}");
        seen.push_str(&browser.get(&callback).await.unwrap().text().await.unwrap());
    }
    seen.push_str(
        &browser
            .get_as(&callback, "text/html")
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
    );
    let store = storage.store();
    // Values of Pages must not be in the log either. The webhook is newer than the read of the
    // login, so that its value is stored.
    let sent_at = Clock::system().now().0 / 1000 + 2;
    let webhook = json!({"object": "page", "entry": [{"id": page_id_text(1), "time": sent_at, "changes": [{"field": "name", "value": PAGE_NAME}]}]});
    let webhook = webhook.to_string();
    let signature = signature_256(APP_SECRET, webhook.as_bytes());
    let request = http
        .post(format!("{public}/facebook/webhook"))
        .header("x-hub-signature-256", signature)
        .body(webhook);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let other = PageId::parse(&page_id_text(1)).unwrap();
    eventually("the value", || async {
        let stored = store
            .load_pages(std::slice::from_ref(&other))
            .await
            .unwrap();
        format!("{:?}", stored[0].value)
            .contains(PAGE_NAME)
            .then_some(())
    })
    .await;
    // A read of another Page fails with an error that contains a token.
    let id = PageId::parse(&page_id_text(0)).unwrap();
    let token = simulator.facebook().tokens.keys().next().cloned().unwrap();
    let error = json!({"error": {"message": format!("Malformed access token {token}"), "type": "OAuthException", "code": 190}});
    let reply = json!({"edge": "GET {id}", "status": 400, "body": error});
    simulator
        .facebook()
        .scripted_replies
        .push(serde_json::from_value(reply).unwrap());
    crate::support::request_read(&*store, &id, Clock::system().now())
        .await
        .unwrap();
    eventually("the failed read", || async {
        let stored = store
            .load_pages(std::slice::from_ref(&id))
            .await
            .unwrap()
            .pop()
            .unwrap();
        matches!(stored.value, common::store::StoredPage::Page(page) if page.status == Status::NeedsLogin)
            .then_some(())
    })
    .await;
    for process in &processes {
        let url = format!("http://127.0.0.1:{}/metrics", process.private);
        seen.push_str(&http.get(url).send().await.unwrap().text().await.unwrap());
    }
    let stored = storage.everything_stored().await;
    // Without a worker, the jobs stay in the broker and can be searched. On the embedded backend,
    // the queue is in the database file.
    if let TestStorage::Distributed { .. } = &storage {
        processes[1].child.kill().unwrap();
        let mut browser = LoginBrowser::new().unwrap();
        let callback = browser
            .log_in(&login, &Decision::default())
            .await
            .unwrap()
            .unwrap();
        crate::support::request_read(&*store, &id, Clock::system().now())
            .await
            .unwrap();
        let queue = storage.queue().await;
        let answer = tokio::spawn(async move { browser.get(&callback).await });
        eventually("jobs in the queue", || async {
            let now = queue.depth(QueueName::PollsNow).await.unwrap().messages;
            let webhooks = queue.depth(QueueName::Webhooks).await.unwrap().messages;
            (now >= 1 && webhooks >= 1).then_some(())
        })
        .await;
        answer.abort();
    }
    for process in &mut processes {
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }
    let queue = storage.queue().await;
    let mut messages = 0;
    for queue_name in QueueName::ALL {
        let depth = queue.depth(queue_name).await.unwrap().messages;
        for _ in 0..depth {
            let delivery = queue.receive(queue_name).await.unwrap();
            write!(seen, "{:?}", delivery.jobs).unwrap();
            messages += 1;
        }
    }
    let logged = std::fs::read_to_string(&log).unwrap();
    assert!(
        logged.len() > 10_000,
        "the log at `trace` has only {} bytes",
        logged.len()
    );
    let private_keys = std::fs::read_to_string(match &storage {
        TestStorage::Embedded(directory) => directory.path().join("token.keys"),
        TestStorage::Distributed { .. } => "/dev/null".into(),
    });
    let mut secrets = vec![
        CANARY.to_owned(),
        APP_SECRET.to_owned(),
        VERIFY_TOKEN.to_owned(),
        code,
    ];
    secrets.extend(private_keys.unwrap().lines().map(ToOwned::to_owned));
    secrets.push("pagesync-private-".to_owned());
    for secret in &secrets {
        for (place, text) in [("log", &logged), ("answers", &seen), ("store", &stored)] {
            let at = text.find(secret.as_str());
            let near = at.map(|at| {
                let from = text.floor_char_boundary(at.saturating_sub(200));
                text[from..at].to_owned()
            });
            assert_eq!(near, None, "a secret is in the {place}");
        }
    }
    assert!(stored.contains("Page 0"), "the search reads the store");
    for value in [PAGE_NAME, "Street 1, Town"] {
        assert!(stored.contains(value), "the value was stored");
        let at = logged.find(value);
        let near = at.map(|at| &logged[logged.floor_char_boundary(at.saturating_sub(200))..at]);
        assert_eq!(near, None, "a value is in the log");
    }
    let is_embedded = matches!(storage, TestStorage::Embedded(_));
    assert!(
        is_embedded || messages >= 2,
        "only {messages} messages were searched"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_can_be_rotated_while_the_deployment_runs() {
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            clock: manual_clock(),
            ..DeploymentOptions::default()
        },
    )
    .await;
    assert_eq!(connected.connect().await.0, 200);
    let store = &*connected.deployment.store;
    let key_ids = async || {
        let tokens = load_all::<token::StoredToken>(store, RecordKind::PageToken, "")
            .await
            .unwrap();
        let mut keys: Vec<String> = tokens
            .into_iter()
            .map(|(_, stored)| stored.value.sealed.unwrap().key_id)
            .collect();
        keys.dedup();
        keys
    };
    let before = key_ids().await;
    assert_eq!(before.len(), 1);
    let old_keys = match &connected.deployment.storage {
        TestStorage::Embedded(directory) => {
            std::fs::read_to_string(directory.path().join("token.keys")).unwrap()
        }
        TestStorage::Distributed { .. } => crate::support::deployment::sealing_key()
            .text()
            .expose_secret()
            .to_owned(),
    };
    let both = format!(
        "{}\n{old_keys}",
        PrivateKey::generate().text().expose_secret()
    );
    let keys = PrivateKeys::parse(&both).unwrap();
    let report = key_rotation::reseal_all(store, &keys).await.unwrap();
    assert_eq!(
        (report.resealed, report.outdated, report.unopenable),
        (4, 0, 0),
        "the tokens of a person and of three Pages"
    );
    assert_eq!(key_ids().await, [keys.current().id()]);
    let again = key_rotation::reseal_all(store, &keys).await.unwrap();
    assert_eq!(
        (again.resealed, again.outdated),
        (0, 0),
        "a rotation can be repeated"
    );
    // A worker without the new key sets the status `needs_key`. The known values are kept.
    connected.advance(Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!(page.status, Status::NeedsKey);
    assert_eq!(connected.field(0, "name").await, json!("Page 0"));
    if let TestStorage::Embedded(directory) = &connected.deployment.storage {
        // The running process reads its key file at each use.
        common::key_file::write_key_file(&directory.path().join("token.keys"), &keys).unwrap();
        connected.advance(Duration::from_secs(61));
        assert_eq!(connected.read_again(0).await.status, Status::Active);
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_connection_is_not_written_again_and_its_tokens_are_deleted() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let user = connected.connection().await.user;
    let store = &*connected.deployment.store;
    let guard = connection::epoch_guard(store, &user).await.unwrap();
    let pages = connection::disconnect(store, &user).await.unwrap();
    assert_eq!(pages, Some(3));
    for kind in [RecordKind::UserToken, RecordKind::Connection] {
        assert!(
            store.list_records(kind, None, 10).await.unwrap().is_empty(),
            "{kind:?}"
        );
    }
    // The records stay without their tokens, because a later erasure finds the Pages by them.
    let records = load_all::<token::StoredToken>(store, RecordKind::PageToken, "")
        .await
        .unwrap();
    assert_eq!(records.len(), 3);
    assert!(
        records
            .iter()
            .all(|(_, stored)| stored.value.sealed.is_none())
    );
    let page = connected.page(0).await;
    assert_eq!(
        (page.status, page.connections.len(), page.polling.due()),
        (Status::NoToken, 0, None)
    );
    assert_eq!(
        connected.field(0, "name").await,
        json!("Page 0"),
        "known values are kept"
    );
    assert_ne!(
        connection::epoch_guard(store, &user).await.unwrap(),
        guard,
        "the epoch changes, so that commits under way become stale"
    );
    // A connection poll that was under way commits a Page with the old guard.
    let commit = common::store::Commit {
        guards: vec![guard],
        ..common::pages::registration_commit(
            &PageId::parse("4711").unwrap(),
            0,
            connected.clock.now(),
        )
    };
    let outcome = store.commit(&[commit]).await.unwrap();
    assert_eq!(outcome, [common::store::CommitOutcome::Stale]);
    assert_eq!(connection::disconnect(store, &user).await.unwrap(), None);
    // The same person may log in again.
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(connected.page(0).await.status, Status::Active);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_app_is_refused() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let ConnectedDeployment { deployment, .. } = connected;
    let store = deployment.store.clone();
    eventually("the store to be claimed", || async {
        let stored = common::records::load_record::<common::records::app::App>(
            &*store,
            &common::records::app::key(),
        )
        .await
        .unwrap();
        stored.map(drop)
    })
    .await;
    let refused = common::records::app::bind_store_to_app(&*store, "999999999999999")
        .await
        .unwrap_err();
    let owner = crate::support::deployment::APP_ID;
    assert!(matches!(refused, StoreBindingError::OtherApp(app_id) if app_id == owner));
    let environment = deployment.storage.environment(
        Role::Ingress,
        &[(
            "PAGESYNC_TOKEN_PRIVATE_KEYS",
            PrivateKey::generate().text().expose_secret(),
        )],
    );
    let refused = Config::read(&environment, Role::Ingress)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("PAGESYNC_TOKEN_PRIVATE_KEYS"), "{refused}");
    deployment.finish().await;
}
