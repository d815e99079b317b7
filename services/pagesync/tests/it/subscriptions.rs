//! Subscriptions on both layers: what is there is kept, what is lost comes back, what is foreign is not
//! taken.

use std::collections::BTreeSet;
use std::time::Duration;

use common::records::app::{self, App};
use common::records::load_record;
use serde_json::json;
use simulator::facebook::AppSubscription;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{Connected, Scene, manual, nth};

fn foreign() -> AppSubscription {
    AppSubscription {
        callback: "https://bot.example/hook".to_owned(),
        include_values: true,
        fields: BTreeSet::from(["messages".to_owned()]),
    }
}

async fn app(connected: &Connected) -> App {
    load_record::<App>(&*connected.deployment.store, &app::key())
        .await
        .unwrap()
        .unwrap()
        .value
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_of_another_deployment_is_not_taken_over_unasked() {
    let connected = Connected::start(BACKEND, Scene::default()).await;
    eventually("our own callback", || async {
        app(&connected).await.callback
    })
    .await;
    connected.simulator.facebook().subscription = Some(foreign());
    // As at a start that finds another callback than the one it knows.
    let mut stored = load_record::<App>(&*connected.deployment.store, &app::key())
        .await
        .unwrap()
        .unwrap();
    stored.value.polling.request_read(connected.clock.now());
    let commit = common::store::Commit {
        records: vec![common::records::put_write(
            app::key(),
            &stored.value,
            Some(stored.version),
            None,
        )],
        due: vec![common::store::DueWrite {
            subject: model::id::Subject::App,
            due: stored.value.polling.due(),
        }],
        ..common::store::Commit::default()
    };
    connected.deployment.store.commit(&[commit]).await.unwrap();
    let problem = eventually("the complaint", || async { app(&connected).await.problem }).await;
    assert!(problem.contains("another address"), "{problem}");
    let there = connected.simulator.facebook().subscription.clone().unwrap();
    assert_eq!(there.callback, "https://bot.example/hook");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_it_takes_the_callback_over_and_keeps_its_fields() {
    let extra = [("PAGESYNC_REPLACE_CALLBACK", "true")];
    let scene = Scene {
        extra: &extra,
        clock: manual(),
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    eventually("our own callback", || async {
        app(&connected).await.callback
    })
    .await;
    connected.simulator.facebook().subscription = Some(foreign());
    connected.advance(Duration::from_secs(25 * 3600));
    let there = eventually("our callback again", || async {
        let there = connected.simulator.facebook().subscription.clone()?;
        there
            .callback
            .starts_with(&connected.public)
            .then_some(there)
    })
    .await;
    assert!(
        there.fields.contains("messages") && there.fields.contains("name"),
        "{there:?}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_keeps_the_fields_of_the_bot_and_comes_back_when_it_was_unsubscribed() {
    let scene = Scene {
        clock: manual(),
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    let bot = BTreeSet::from(["feed".to_owned()]);
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .insert(nth(0), bot);
    assert_eq!(connected.connect().await.0, 200);
    let ours = connected.simulator.facebook().page_subscriptions[&nth(0)].clone();
    assert!(ours.contains("feed") && ours.contains("name"), "{ours:?}");
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .remove(&nth(1));
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    connected.advance(connected.clock.now().until(slot) + Duration::from_secs(1));
    eventually("the subscription to be back", || async {
        let facebook = connected.simulator.facebook();
        facebook
            .page_subscriptions
            .get(&nth(1))
            .filter(|fields| fields.contains("name"))
            .map(drop)
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_says_whether_webhooks_can_come_and_sets_up_what_was_lost() {
    let connected = Connected::start(BACKEND, Scene::default()).await;
    let (_, body) = connected.connect().await;
    assert_eq!(
        body["connection"]["webhooks"],
        json!({"status": "success"}),
        "{body}"
    );
    connected.simulator.facebook().subscription = None;
    let (_, body) = connected.connect().await;
    assert_eq!(
        body["connection"]["webhooks"],
        json!({"status": "success"}),
        "{body}"
    );
    let there = connected.simulator.facebook().subscription.clone().unwrap();
    assert!(there.callback.starts_with(&connected.public));
    connected.simulator.facebook().subscription = Some(foreign());
    let (_, body) = connected.connect().await;
    let webhooks = &body["connection"]["webhooks"];
    assert_eq!(webhooks["status"], "error", "{body}");
    assert!(
        webhooks["message"]
            .as_str()
            .unwrap()
            .contains("another address"),
        "{body}"
    );
    connected.finish().await;
}
