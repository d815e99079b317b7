//! The counts of missed webhooks while Facebook loses, delays, reorders and repeats deliveries.

use std::time::Duration;

use common::records::missed_webhooks::{self, Report};
use common::records::page_subscription::{self, MAX_RESUBSCRIPTIONS, PageSubscription};
use common::records::{load_record, put_write, write_records};
use model::announcements::NOTIFICATION_GRACE;
use model::id::PageId;
use serde_json::json;
use simulator::delivery::DeliveryFaults;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const PAGES: usize = 200;
/// Fields that have a webhook. The webhook of the name carries the value; the others do not.
const FIELDS: [&str; 5] = ["name", "phone", "website", "description", "emails"];

/// Returns the report of all days.
async fn report(connected: &ConnectedDeployment) -> Report {
    let now = connected.clock.now();
    missed_webhooks::report(&*connected.deployment.store, "", now)
        .await
        .unwrap()
}

/// Starts a deployment with `pages` Pages and waits until all of them are subscribed.
async fn start(pages: usize) -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        pages,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    eventually("every subscription", || async {
        (connected.simulator.facebook().page_subscriptions.len() == pages).then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(60));
    connected
}

/// Changes each of [`FIELDS`] of every Page to a value that names the round.
fn change_all(connected: &ConnectedDeployment, pages: usize, round: &str) {
    for n in 0..pages {
        for field in FIELDS {
            let value = format!("{field} {round}");
            let value = if field == "emails" {
                json!([value])
            } else {
                json!(value)
            };
            let fields = json!({ field: value }).as_object().unwrap().clone();
            connected
                .simulator
                .change(&page_id_text(n), fields)
                .unwrap();
        }
    }
}

/// Waits until every delivery has ended and every webhook has been applied.
async fn wait_for_webhooks(connected: &ConnectedDeployment) {
    connected.simulator.delivery_counts().all_finished().await;
    connected.deployment.wait_until_idle().await;
}

/// Advances to the next daily poll and waits until the report counts `changes` changes. Returns the
/// report.
async fn report_after_poll(connected: &ConnectedDeployment, changes: u64) -> Report {
    connected.next_day().await;
    eventually("every change to be found", || async {
        let report = report(connected).await;
        let all = &report.all;
        (all.captured + all.late + all.missed + all.open >= changes).then_some(report)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_lost_webhooks_are_counted_as_missed() {
    let connected = start(PAGES).await;
    let each = (PAGES * FIELDS.len()) as u64;
    let (mut lost, mut changes) = (0, 0);
    // Some deliveries are also repeated or reordered.
    let faults = |loss| DeliveryFaults {
        loss,
        duplicate: 0.2,
        reorder: 0.2,
        ..DeliveryFaults::default()
    };
    for (round, loss) in [("none", 0.0), ("some", 0.3), ("all", 1.0)] {
        connected.simulator.set_delivery_faults(faults(loss));
        change_all(&connected, PAGES, round);
        wait_for_webhooks(&connected).await;
        changes += each;
        let before = lost;
        lost = connected.simulator.delivery_counts().lost();
        let found = report_after_poll(&connected, changes).await.all;
        assert_eq!(
            (found.open, found.missed),
            (lost - before, before),
            "{round}: {found:?}"
        );
        assert_eq!(found.captured, changes - lost, "{round}: {found:?}");
        connected.advance(NOTIFICATION_GRACE);
        assert_eq!(report(&connected).await.all.missed, lost, "{round}");
    }
    assert!((200..400).contains(&(lost - each)), "{lost}");
    // Many webhooks arrive and only one is lost.
    connected
        .simulator
        .set_delivery_faults(DeliveryFaults::default());
    change_all(&connected, PAGES, "one");
    wait_for_webhooks(&connected).await;
    connected.simulator.set_delivery_faults(faults(1.0));
    let fields = json!({"hours": {"mon_1_open": "10:00"}})
        .as_object()
        .unwrap()
        .clone();
    connected
        .simulator
        .change(&page_id_text(3), fields)
        .unwrap();
    wait_for_webhooks(&connected).await;
    report_after_poll(&connected, changes + each + 1).await;
    connected.advance(NOTIFICATION_GRACE);
    let last = report(&connected).await;
    assert_eq!((last.all.missed, last.all.open), (lost + 1, 0));
    assert_eq!(last.fields["hours"].missed, 1);
    assert_eq!(
        last.initial,
        (PAGES * 17) as u64,
        "the first values of all fields except counters"
    );
    #[expect(clippy::cast_precision_loss, reason = "a ratio of counts")]
    let ratio = last.all.captured as f64 / (last.all.captured + last.all.missed) as f64;
    assert_eq!(last.all.ratio, Some(ratio));
    assert!(
        last.days.len() > 1
            && last
                .days
                .values()
                .all(|day| day.all.ratio.is_some() && !day.fields.is_empty())
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_and_reordered_webhooks_are_not_counted_as_missed() {
    let connected = start(PAGES).await;
    let each = (PAGES * FIELDS.len()) as u64;
    let faults = DeliveryFaults {
        duplicate: 0.5,
        reorder: 0.5,
        ..DeliveryFaults::default()
    };
    connected.simulator.set_delivery_faults(faults);
    change_all(&connected, PAGES, "reordered");
    wait_for_webhooks(&connected).await;
    let found = report_after_poll(&connected, each).await.all;
    assert_eq!((found.captured, found.open), (each, 0), "{found:?}");
    // A poll runs while all deliveries are held back for ten minutes.
    connected.simulator.set_delivery_faults(DeliveryFaults {
        hold: true,
        ..faults
    });
    change_all(&connected, PAGES, "held");
    eventually("all deliveries to be held back", || async {
        (connected.simulator.delivery_counts().held_back() >= each).then_some(())
    })
    .await;
    let found = report_after_poll(&connected, 2 * each).await.all;
    assert_eq!((found.captured, found.open), (each, each), "{found:?}");
    connected.advance(Duration::from_secs(600));
    connected.simulator.set_delivery_faults(faults);
    wait_for_webhooks(&connected).await;
    connected.advance(NOTIFICATION_GRACE);
    let found = report(&connected).await;
    let all = found.all;
    assert_eq!(
        (all.captured, all.late, all.missed, all.open),
        (each, each, 0, 0)
    );
    assert!(found.unannounced.is_empty() && found.silent_pages.is_empty());
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_page_is_resubscribed_a_limited_number_of_times() {
    let connected = start(3).await;
    let key = page_subscription::key(&PageId::parse(&page_id_text(0)).unwrap());
    let stored = || async {
        let stored = load_record::<PageSubscription>(&*connected.deployment.store, &key).await;
        stored.unwrap().unwrap()
    };
    for round in 1..=MAX_RESUBSCRIPTIONS {
        // The subscription loses its fields, but the Page still counts as subscribed
        // (`is_webhooks_subscribed`).
        let feed = ["feed".to_owned()].into();
        connected
            .simulator
            .facebook()
            .page_subscriptions
            .insert(page_id_text(0), feed);
        let fields = json!({"name": format!("unannounced {round}")});
        connected
            .simulator
            .change(&page_id_text(0), fields.as_object().unwrap().clone())
            .unwrap();
        connected.next_day().await;
        eventually("the unannounced change", || async {
            let found = report(&connected).await.all;
            (found.missed + found.open >= u64::from(round)).then_some(())
        })
        .await;
        // The Page is resubscribed as soon as it is silent, before the next daily poll.
        connected.advance(NOTIFICATION_GRACE);
        assert_eq!(report(&connected).await.silent_pages.len(), 1);
        eventually("the subscription to be restored", || async {
            let facebook = connected.simulator.facebook();
            facebook.page_subscriptions[&page_id_text(0)]
                .contains("name")
                .then_some(())
        })
        .await;
        eventually("the count to be stored", || async {
            (stored().await.value.resubscriptions == round).then_some(())
        })
        .await;
    }
    assert!(
        stored()
            .await
            .value
            .problem
            .unwrap()
            .contains("removed from this Page")
    );
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .remove(&page_id_text(0));
    connected.next_day().await;
    connected.next_day().await;
    assert!(
        !connected
            .simulator
            .facebook()
            .page_subscriptions
            .contains_key(&page_id_text(0))
    );
    // A login resets the count of resubscriptions.
    connected.advance(Duration::from_secs(60));
    assert_eq!(connected.connect().await.0, 200);
    eventually("the subscription to be restored", || async {
        let facebook = connected.simulator.facebook();
        facebook
            .page_subscriptions
            .contains_key(&page_id_text(0))
            .then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_page_triggers_a_check_of_the_app_subscription() {
    let connected = start(3).await;
    connected.simulator.facebook().app_subscription = None;
    let fields = json!({"name": "unannounced"});
    connected
        .simulator
        .change(&page_id_text(0), fields.as_object().unwrap().clone())
        .unwrap();
    connected.read_again(0).await;
    // Without a daily slot, only the silent Page can cause a check of the app subscription.
    let key = common::records::app::key();
    let app = load_record::<common::records::app::App>(&*connected.deployment.store, &key);
    let mut app = app.await.unwrap().unwrap().value;
    app.polling.daily_slot = None;
    write_records(
        &*connected.deployment.store,
        vec![put_write(key, &app, None, None)],
    )
    .await
    .unwrap();
    connected.advance(NOTIFICATION_GRACE);
    eventually("the app subscription to be restored", || async {
        connected
            .simulator
            .facebook()
            .app_subscription
            .is_some()
            .then_some(())
    })
    .await;
    connected.finish().await;
}
