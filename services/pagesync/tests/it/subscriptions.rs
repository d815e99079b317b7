//! The app subscription and the Page subscriptions: fields of other programs are kept, lost
//! subscriptions are restored, and the callback of another deployment is not replaced.

use std::collections::BTreeSet;
use std::time::Duration;

use common::records::app::{self, App};
use common::records::load_record;
use serde_json::json;
use simulator::facebook::AppSubscription;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

/// Returns an app subscription whose callback belongs to another program, with one field.
fn foreign_subscription(field: &str) -> AppSubscription {
    AppSubscription {
        callback: "https://bot.example/hook".to_owned(),
        include_values: true,
        fields: BTreeSet::from([field.to_owned()]),
    }
}

/// Loads the record of the app.
async fn load_app(connected: &ConnectedDeployment) -> App {
    load_record::<App>(&*connected.deployment.store, &app::key())
        .await
        .unwrap()
        .unwrap()
        .value
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callback_of_another_deployment_is_not_replaced_by_default() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    eventually("the callback of this deployment", || async {
        load_app(&connected).await.callback
    })
    .await;
    connected.simulator.facebook().app_subscription = Some(foreign_subscription("messages"));
    // This makes the check of the app subscription due, as the start of a worker does.
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
    let problem = eventually("the problem to be stored", || async {
        load_app(&connected).await.problem
    })
    .await;
    assert!(problem.contains("another address"), "{problem}");
    let subscription = connected.simulator.facebook().app_subscription.clone();
    assert_eq!(subscription.unwrap().callback, "https://bot.example/hook");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replace_callback_the_callback_is_replaced_and_the_fields_are_kept() {
    let extra = [("PAGESYNC_REPLACE_CALLBACK", "true")];
    let scene = DeploymentOptions {
        extra: &extra,
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    eventually("the callback of this deployment", || async {
        load_app(&connected).await.callback
    })
    .await;
    connected.simulator.facebook().app_subscription = Some(foreign_subscription("mission"));
    connected.advance(Duration::from_secs(25 * 3600));
    let subscription = eventually("the callback to be replaced", || async {
        let subscription = connected.simulator.facebook().app_subscription.clone()?;
        subscription
            .callback
            .starts_with(&connected.public)
            .then_some(subscription)
    })
    .await;
    assert!(
        subscription.fields.contains("mission") && subscription.fields.contains("name"),
        "{subscription:?}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_subscription_keeps_fields_of_other_programs_and_is_restored_after_its_removal() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    let of_a_bot = BTreeSet::from(["feed".to_owned()]);
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .insert(page_id_text(0), of_a_bot);
    assert_eq!(connected.connect().await.0, 200);
    let fields = connected.simulator.facebook().page_subscriptions[&page_id_text(0)].clone();
    assert!(
        fields.contains("feed") && fields.contains("name"),
        "{fields:?}"
    );
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .remove(&page_id_text(1));
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    connected.advance(connected.clock.now().until(slot) + Duration::from_secs(1));
    eventually("the subscription to be restored", || async {
        let facebook = connected.simulator.facebook();
        facebook
            .page_subscriptions
            .get(&page_id_text(1))
            .filter(|fields| fields.contains("name"))
            .map(drop)
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_restores_the_app_subscription_and_reports_whether_webhooks_can_arrive() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let (_, body) = connected.connect().await;
    assert_eq!(
        body["connection"]["webhooks"],
        json!({"status": "success"}),
        "{body}"
    );
    connected.simulator.facebook().app_subscription = None;
    let (_, body) = connected.connect().await;
    assert_eq!(
        body["connection"]["webhooks"],
        json!({"status": "success"}),
        "{body}"
    );
    let subscription = connected.simulator.facebook().app_subscription.clone();
    let callback = subscription.unwrap().callback;
    assert!(callback.starts_with(&connected.public), "{callback}");
    connected.simulator.facebook().app_subscription = Some(foreign_subscription("messages"));
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
