//! Deliveries of Facebook that are forwarded to another program.

use std::collections::BTreeSet;
use std::time::Duration;

use common::clock::Clock;
use common::config::Role;
use common::delivery_sealing::DeliverySealer;
use common::records::forwarding;
use common::records::waiting_delivery::{self, WaitingDelivery};
use common::sealer::Sealer;
use common::store::{RecordKind, Store};
use model::forward::ForwardedDelivery;
use model::hex::hex;
use model::job::Job;
use model::queue_name::QueueName;
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};
use simulator::bytes::signature_256;

use crate::BACKEND;
use crate::change_posts::change_name;
use crate::support::deployment::{
    APP_SECRET, Deployment, TestStorage, sealing_key, worker_context,
};
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};
use crate::support::receiver::{Answer, Received, Receiver};
use crate::support::{eventually, page_id};

/// A text that a person wrote.
const PLANTED: &str = "planted-message-text";
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns the body of a message to a Page.
pub(crate) fn message(page: &str, text: &str) -> String {
    json!({"object": "page", "entry": [{"id": page, "time": 1_790_000_000_000_u64, "messaging": [
        {"sender": {"id": "55"}, "recipient": {"id": page}, "message": {"mid": "m1", "text": text}}
    ]}]})
    .to_string()
}

pub(crate) fn texts(received: &[Received]) -> Vec<String> {
    let text = |one: &Received| one.json()["entry"][0]["messaging"][0]["message"]["text"].clone();
    received
        .iter()
        .map(|one| text(one).as_str().unwrap_or("-").to_owned())
        .collect()
}

async fn start(receiver: &Receiver) -> Deployment {
    Deployment::start_with(BACKEND, &[("PAGESYNC_FORWARD_URL", &receiver.url)]).await
}

/// Returns the sealer of ingress on `storage`.
pub(crate) fn sealer(storage: &TestStorage) -> DeliverySealer {
    DeliverySealer::new(match storage {
        TestStorage::Embedded(directory) => Sealer::new(None, None, directory.path()).unwrap(),
        TestStorage::Distributed { .. } => Sealer::PublicKey(sealing_key().public().clone()),
    })
}

fn sealed(storage: &TestStorage, text: &str, received_at: u64) -> ForwardedDelivery {
    let body = message("7", text);
    let at = model::time::HostTime(received_at);
    sealer(storage)
        .seal(&[], body.as_bytes(), vec![page_id(7)], at)
        .unwrap()
}

pub(crate) async fn waiting(store: &dyn Store) -> Vec<WaitingDelivery> {
    let found = waiting_delivery::next_chunk(store, &mut None)
        .await
        .unwrap();
    let found = found.unwrap_or_default().into_iter();
    found.map(|(_, stored)| stored.value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_forwarded_with_its_bytes_and_headers() {
    let receiver = Receiver::start().await;
    let deployment = start(&receiver).await;
    // White space, escapes and the order of members must not change: the signature covers them.
    let body = r#"{ "entry":[{"messaging":[{"message":{"text":"Caf\u00e9 \ud83d\ude22 \/"}}],"time":1790000000000,"id":"7"}],"object":"page" }"#;
    let signature = signature_256(APP_SECRET, body.as_bytes());
    let headers = [
        ("x-hub-signature-256", &*signature),
        ("x-hub-signature", "sha1=0011"),
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", "facebookexternalua"),
        ("facebook-api-version", "v25.0"),
        ("cookie", "not-forwarded=1"),
    ];
    assert_eq!(deployment.post(&headers, body).await, 200);
    let received = receiver.wait_for(1).await.remove(0);
    assert_eq!(received.body, body);
    for (name, value) in &headers[..5] {
        assert_eq!(received.headers[*name], *value, "{name}");
    }
    assert!(!received.headers.contains_key("cookie"));
    let hash = hex(&Sha256::digest(body));
    assert_eq!(received.headers["pagesync-delivery"], hash);
    assert!(received.headers["pagesync-received-at"].ends_with('Z'));
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_deliveries_with_a_part_that_is_not_about_the_profile_are_forwarded() {
    let receiver = Receiver::start().await;
    let deployment = start(&receiver).await;
    deployment.register_without_read(&[page_id(7)]).await;
    let change = |name: &str| json!({"field": "name", "value": name});
    let entry = |changes: Vec<Json>| json!({"id": "7", "time": 1_790_000_000, "changes": changes});
    let profile = json!({"object": "page", "entry": [entry(vec![change("One")])]});
    assert_eq!(deployment.deliver(profile.to_string()).await, 200);
    let feed = json!({"field": "feed", "value": {"item": "comment"}});
    let mut both = entry(vec![change("Two"), feed]);
    both["time"] = json!(1_790_000_001);
    let both = json!({"object": "page", "entry": [both]}).to_string();
    let other = json!({"object": "instagram", "entry": [{"id": "9"}]}).to_string();
    assert_eq!(deployment.deliver(both.clone()).await, 200);
    assert_eq!(deployment.deliver(other.clone()).await, 200);
    deployment.wait_until_idle().await;
    let received = receiver.received();
    let bodies: BTreeSet<&str> = received.iter().map(|one| &*one.body).collect();
    assert_eq!(bodies, BTreeSet::from([&*both, &*other]));
    assert_eq!(deployment.name(&page_id(7)).await, Some(json!("Two")));
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_wait_sealed_and_in_order_while_the_program_does_not_answer() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(503));
    let deployment = start(&receiver).await;
    let others: Vec<_> = (100..120).map(page_id).collect();
    deployment.register_without_read(&others).await;
    for n in 0..5 {
        let body = message("7", &format!("{PLANTED} {n}"));
        assert_eq!(deployment.deliver(body).await, 200);
    }
    // The first one is tried again, and the others of its Page wait for it.
    let received = receiver.wait_for(2).await;
    assert_eq!(
        texts(&received),
        [format!("{PLANTED} 0"), format!("{PLANTED} 0")]
    );
    let stored = deployment.storage.everything_stored().await;
    assert!(!stored.contains(PLANTED) && !stored.contains("sha256="));
    receiver.forget();
    receiver.answer(Answer::Status(200));
    let expected: Vec<String> = (0..5).map(|n| format!("{PLANTED} {n}")).collect();
    eventually("every delivery", || async {
        let texts = texts(&receiver.received());
        // One attempt may have been under way when the answer changed.
        let accepted: Vec<String> = texts.iter().rev().take(5).rev().cloned().collect();
        (accepted == expected).then_some(())
    })
    .await;
    assert!(waiting(&*deployment.store).await.is_empty());
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_page_does_not_wait_for_a_page_whose_delivery_gets_no_answer() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Never);
    let deployment = start(&receiver).await;
    assert_eq!(deployment.deliver(message("7", "stuck")).await, 200);
    receiver.wait_for(1).await;
    receiver.answer(Answer::Status(200));
    assert_eq!(deployment.deliver(message("7", "later")).await, 200);
    assert_eq!(deployment.deliver(message("8", "other")).await, 200);
    let received = receiver.wait_for(2).await;
    assert_eq!(texts(&received), ["stuck", "other"]);
    // The attempt ends after 20 s, and then the rest follows in its order.
    let received = receiver.wait_for(4).await;
    assert_eq!(texts(&received), ["stuck", "other", "stuck", "later"]);
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_comes_back_after_twenty_hours_gets_every_delivery() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(502));
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_FORWARD_URL", &receiver.url)],
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let deployment = &connected.deployment;
    // More Pages than failures after which the program counts as down.
    let texts_of =
        |day: &str| -> BTreeSet<String> { (0..20).map(|n| format!("{day} {n}")).collect() };
    for (n, text) in texts_of("first").iter().enumerate() {
        let page = page_id(1000 + n as u64).to_string();
        assert_eq!(deployment.deliver(message(&page, text)).await, 200);
    }
    eventually("the program to be down", || async {
        let state = forwarding::find(&*deployment.store).await.unwrap().value;
        (state.down_since.is_some() && state.last_failure.is_some()).then_some(())
    })
    .await;
    // Meanwhile Facebook gets its 200, and the state of Pages follows.
    for (n, text) in texts_of("second").iter().enumerate() {
        let page = page_id(1000 + n as u64).to_string();
        assert_eq!(deployment.deliver(message(&page, text)).await, 200);
    }
    change_name(&connected, "Renamed");
    eventually("the new name", || async {
        (connected.field(0, "name").await == "Renamed").then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(20 * 3600));
    receiver.forget();
    receiver.answer(Answer::Status(200));
    let all: BTreeSet<String> = texts_of("first")
        .union(&texts_of("second"))
        .cloned()
        .collect();
    eventually("every delivery", || async {
        let received: BTreeSet<String> = texts(&receiver.received()).into_iter().collect();
        received.is_superset(&all).then_some(())
    })
    .await;
    eventually("the end of the failure", || async {
        let state = forwarding::find(&*deployment.store).await.unwrap().value;
        (state.down_since.is_none() && state.last_failure.is_none()).then_some(())
    })
    .await;
    assert_eq!(connected.json(&["dead-letter", "list"]), json!([]));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_the_queue_gave_up_is_sent_from_its_record() {
    let receiver = Receiver::start().await;
    let deployment = start(&receiver).await;
    let storage = &deployment.storage;
    let now = Clock::system().now();
    let recent = sealed(storage, "given up", now.0 - 60_000);
    let old = sealed(storage, "expired", now.0 - 8 * 86_400_000);
    // A worker that handles the dead-letter queue, beside the one that forwards.
    let queue = deployment.public_role().backends.queue.clone();
    let context = worker_context(storage, queue, deployment.store.clone());
    let jobs = [recent, old].map(Job::Forward);
    worker::apply_jobs(&context, &jobs).await.unwrap();
    assert_eq!(texts(&receiver.wait_for(1).await), ["given up"]);
    eventually("the deletion of the record", || async {
        waiting(&*deployment.store).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(receiver.received().len(), 1);
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_is_too_old_is_sent_only_after_a_replay() {
    let receiver = Receiver::start().await;
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_FORWARD_URL", &receiver.url)],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let deployment = &connected.deployment;
    let received_at = Clock::system().now().0 - 25 * 3_600_000;
    let job = Job::Forward(sealed(&deployment.storage, PLANTED, received_at));
    let queue = &deployment.public_role().backends.queue;
    queue
        .publish(QueueName::Forwards, std::slice::from_ref(&job))
        .await
        .unwrap();
    let listed = eventually("the dead letter", || async {
        let listed = connected.json(&["dead-letter", "list"]);
        (listed.as_array().unwrap().len() == 1).then_some(listed)
    })
    .await;
    let id = listed[0]["id"].as_str().unwrap();
    let shown = connected.text(&["dead-letter", "show", id]);
    assert!(shown.contains("PAGESYNC_FORWARD_MAX_AGE"), "{shown}");
    assert!(shown.contains("\"pages\":[\"7\"]"), "{shown}");
    assert!(!shown.contains("sealed\":"), "{shown}");
    let refused = connected.text(&["dead-letter", "replay", "--all"]);
    assert!(refused.contains("--deliveries"), "{refused}");
    assert!(receiver.received().is_empty());
    connected.text(&["dead-letter", "replay", "--all", "--deliveries"]);
    assert_eq!(texts(&receiver.wait_for(1).await), [PLANTED]);
    assert_eq!(connected.json(&["dead-letter", "list"]), json!([]));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_of_deliveries_is_answered_503_and_changes_of_pages_are_stored() {
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(503));
    let deployment = start(&receiver).await;
    deployment.register_without_read(&[page_id(7)]).await;
    // RabbitMQ counts the messages that no worker holds, and a worker holds 64.
    for n in 0..70 {
        assert_eq!(deployment.deliver(message("8", &n.to_string())).await, 200);
    }
    let limit = QueueName::Forwards;
    deployment.storage.limit_queue(limit, Some(1)).await;
    let body = json!({"object": "page", "entry": [
        {"id": "7", "time": 1_790_000_000, "changes": [{"field": "name", "value": "Stored"}, {"field": "feed", "value": {}}]}
    ]})
    .to_string();
    // On RabbitMQ, the policy takes effect a moment later.
    eventually("the refusal", || async {
        (deployment.deliver(body.clone()).await == 503).then_some(())
    })
    .await;
    eventually("the name", || async {
        (deployment.name(&page_id(7)).await == Some(json!("Stored"))).then_some(())
    })
    .await;
    deployment.storage.limit_queue(limit, None).await;
    eventually("the acceptance", || async {
        (deployment.deliver(body.clone()).await == 200).then_some(())
    })
    .await;
    receiver.answer(Answer::Status(200));
    eventually("every delivery", || async {
        let bodies: BTreeSet<String> = receiver
            .received()
            .into_iter()
            .map(|one| one.body)
            .collect();
        (bodies.len() == 71).then_some(())
    })
    .await;
    deployment.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_the_program_are_subscribed_and_its_callback_is_replaced() {
    let receiver = Receiver::start().await;
    let options = DeploymentOptions {
        extra: &[
            ("PAGESYNC_FORWARD_URL", &receiver.url),
            ("PAGESYNC_FORWARD_FIELDS", "messages,messaging_postbacks"),
            ("PAGESYNC_REPLACE_CALLBACK", "true"),
            (
                "PAGESYNC_SCOPES",
                "pages_show_list,pages_read_engagement,pages_manage_metadata,business_management,pages_messaging",
            ),
        ],
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    let has_fields = |fields: &BTreeSet<String>| {
        ["messages", "messaging_postbacks", "name"]
            .iter()
            .all(|name| fields.contains(*name))
    };
    eventually("the subscriptions", || async {
        let facebook = connected.simulator.facebook();
        let app = facebook.app_subscription.as_ref()?;
        let page = facebook.page_subscriptions.get(&page_id_text(0))?;
        (has_fields(&app.fields.iter().cloned().collect()) && has_fields(page)).then_some(())
    })
    .await;
    let foreign = "https://bot.example/hook";
    {
        let mut facebook = connected.simulator.facebook();
        facebook.app_subscription.as_mut().unwrap().callback = foreign.to_owned();
    }
    connected.advance(DAY + Duration::from_secs(3600));
    eventually("the replacement", || async {
        let facebook = connected.simulator.facebook();
        let callback = &facebook.app_subscription.as_ref()?.callback;
        (callback != foreign).then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_sends_a_probe_to_the_program() {
    let receiver = Receiver::start().await;
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_FORWARD_URL", &receiver.url)],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let check = || {
        let role = match BACKEND {
            crate::support::TestBackend::Embedded => Role::Up,
            crate::support::TestBackend::Distributed => Role::Worker,
        };
        let mut command = connected.command(role, &["doctor", "--output", "json"]);
        let output = command.output().unwrap();
        let checks: Json = serde_json::from_slice(&output.stdout).unwrap();
        let checks = checks.as_array().unwrap().clone();
        checks
            .into_iter()
            .find(|one| one["check"] == "forwarding")
            .unwrap()
    };
    let found = check();
    assert_eq!(found["state"], "ok", "{found}");
    let probe = receiver.wait_for(1).await.remove(0).json();
    assert_eq!(probe["entry"][0]["id"], "0");
    receiver.answer(Answer::Status(500));
    let found = check();
    assert_eq!(found["state"], "failed", "{found}");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains("within 10 s"), "{detail}");
    receiver.answer(Answer::Status(200));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_forwarding_counts_what_was_accepted() {
    let receiver = Receiver::start().await;
    let deployment = start(&receiver).await;
    for n in 0..3 {
        assert_eq!(deployment.deliver(message("7", &n.to_string())).await, 200);
    }
    receiver.wait_for(3).await;
    let state = eventually("the count", || async {
        let state = forwarding::find(&*deployment.store).await.unwrap().value;
        (state.accepted == 3).then_some(state)
    })
    .await;
    assert!(state.down_since.is_none() && state.last_failure.is_none());
    let store = deployment.store.clone();
    deployment.finish().await;
    let state = forwarding::find(&*store).await.unwrap().value;
    assert_eq!(
        state.lease.owner, None,
        "a worker that stops releases the lease"
    );
    let key = common::store::RecordKey::new(RecordKind::Forwarding, "state");
    assert!(store.load_record(&key).await.unwrap().is_some());
}
