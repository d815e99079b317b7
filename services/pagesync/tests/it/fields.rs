//! The fields that are read: those that Facebook refuses, and those that the settings name no more.

use std::time::Duration;

use common::records::excluded_field;
use model::id::{PageId, Subject};
use model::job::{Claim, Job};
use model::queue_name::QueueName;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::deployment::worker_context_with;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_graph_does_not_have_is_excluded_and_the_rest_is_read() {
    let extra = [("PAGESYNC_FIELDS", "name,email,phone,created_time")];
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            extra: &extra,
            ..DeploymentOptions::default()
        },
    )
    .await;
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, &body["polling_test"][0]["result"]["status"]),
        (200, &json!("success")),
        "{body}"
    );
    assert_eq!(connected.field(0, "phone").await, json!("+49 30 1"));
    let mut excluded = excluded_field::excluded_names(&*connected.deployment.store)
        .await
        .unwrap();
    excluded.sort();
    assert_eq!(excluded, ["created_time", "email"]);
    assert_eq!(
        connected.calls("GET me/accounts"),
        3,
        "two calls are refused, and the third succeeds"
    );
    connected.finish().await;
}

/// The next version of Graph, rehearsed: five fields end with v26. Source: the changelog of v26.
#[tokio::test(flavor = "multi_thread")]
async fn with_v26_the_fields_that_end_are_excluded_and_with_v25_they_are_read() {
    for (version, ended) in [("v25.0", &[][..]), ("v26.0", &["genre", "parking"][..])] {
        let extra = [
            ("PAGESYNC_GRAPH_VERSION", version),
            ("PAGESYNC_FIELDS", "name,phone,parking,genre"),
        ];
        let options = DeploymentOptions {
            extra: &extra,
            ..DeploymentOptions::default()
        };
        let connected = ConnectedDeployment::start(BACKEND, options).await;
        let mut page = connected.simulator.pages().remove(0);
        page.insert("parking".to_owned(), json!({"lot": 1}));
        connected.simulator.put_page(&page).unwrap();
        assert_eq!(connected.connect().await.0, 200);
        assert_eq!(connected.field(0, "phone").await, json!("+49 30 1"));
        let mut excluded = excluded_field::excluded_names(&*connected.deployment.store)
            .await
            .unwrap();
        excluded.sort();
        assert_eq!(excluded, ended, "{version}");
        let is_read = !connected.field(0, "parking").await.is_null();
        assert_eq!(is_read, ended.is_empty(), "{version}");
        connected.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_taken_out_of_the_settings_disappears_with_the_next_read() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    assert_eq!(connected.connect().await.0, 200);
    let storage = &connected.deployment.storage;
    let store = connected.deployment.store.clone();
    let queue = connected.deployment.roles[0].1.backends.queue.clone();
    let mut settings = connected.settings.clone();
    settings.push(("PAGESYNC_FIELDS".to_owned(), "name,phone".to_owned()));
    let context = worker::context::Context {
        clock: connected.clock.clone(),
        ..worker_context_with(storage, queue, store.clone(), &settings)
    };
    let names = async |n: usize| {
        let page = connected.page(n).await;
        let names = page.registers.keys().map(ToString::to_string);
        names.collect::<Vec<String>>()
    };
    assert!(names(0).await.contains(&"about".to_owned()));
    let user = connected.connection().await.user;
    // The claims are later than the minimum time between two reads.
    let due_at = connected
        .clock
        .now()
        .plus(Duration::from_secs(2 * 24 * 3600));
    let page = PageId::parse(&page_id_text(0)).unwrap();
    for (subject, n) in [(Subject::Page(page), 0), (Subject::Connection(user), 1)] {
        let claim = Claim {
            subject,
            queue: QueueName::PollsDaily,
            due_at,
        };
        let job = Job::Poll(claim);
        worker::apply_jobs(&context, &[job]).await.unwrap();
        assert_eq!(names(n).await, ["name", "phone"], "Page {n}");
    }
    connected.finish().await;
}

/// Facebook ends fields with a version, and does not have every field for every Page. One refused
/// field makes a whole call fail, and not every error names the field.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_facebook_refuses_is_found_and_the_rest_is_read_at_once() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let refuse = |fields: Json| {
        let fields = serde_json::from_value(fields).unwrap();
        connected.simulator.facebook().graph_faults.refused_fields = fields;
    };
    let excluded = async || {
        let store = &*connected.deployment.store;
        let mut names = excluded_field::excluded_names(store).await.unwrap();
        names.sort();
        names
    };
    refuse(json!({"emails": "12", "phone": "200/2069031"}));
    let (status, body) = connected.connect().await;
    let result = &body["polling_test"][0]["result"]["status"];
    assert_eq!((status, result), (200, &json!("success")), "{body}");
    assert_eq!(excluded().await, ["emails", "phone"]);
    assert_eq!(connected.field(0, "name").await, json!("Page 0"));
    let page = connected.page(0).await;
    let has_phone = page.registers.keys().any(|field| field.as_str() == "phone");
    assert!(!has_phone && page.missing_fields.is_empty());
    let calls = connected.calls("GET me/accounts");
    assert!(
        calls <= 10,
        "{calls} calls find one of the fields by halves"
    );

    // The same, when a Page is read with its own token.
    refuse(json!({"website": "200/2069031", "about": "12"}));
    let read = connected.read_again(1).await;
    assert_eq!(read.polling.failures, 0);
    assert!(read.polling.last_success_began.is_some());
    assert_eq!(excluded().await, ["about", "emails", "phone", "website"]);
    assert_eq!(
        connected.field(1, "about").await,
        json!("about"),
        "the last value is kept"
    );
    connected.finish().await;
}
