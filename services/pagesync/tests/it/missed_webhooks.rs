//! The drift meter against a Facebook that loses, delays and repeats: what it counts is what was lost.

use std::time::Duration;

use common::records::missed_webhooks::{self, Report};
use common::records::subscription::{self, MAX_RESUBSCRIPTIONS, Subscription};
use common::records::{load_record, put_write, write_records};
use model::announcements::NOTIFICATION_GRACE;
use model::id::PageId;
use serde_json::json;
use simulator::delivery::DeliveryFaults;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{Connected, Scene, manual, nth};

const PAGES: usize = 200;
/// Fields that have a webhook, one with its value and four without.
const FIELDS: [&str; 5] = ["name", "phone", "website", "description", "emails"];

async fn report(connected: &Connected) -> Report {
    let now = connected.clock.now();
    missed_webhooks::report(&*connected.deployment.store, "", now)
        .await
        .unwrap()
}

/// A deployment with so many Pages, all of them subscribed.
async fn stage(pages: usize) -> Connected {
    let scene = Scene {
        clock: manual(),
        pages,
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    eventually("every subscription", || async {
        (connected.simulator.facebook().page_subscriptions.len() == pages).then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(60));
    connected
}

/// Changes five fields of each Page.
fn change_all(connected: &Connected, pages: usize, round: &str) {
    for n in 0..pages {
        for field in FIELDS {
            let value = format!("{field} {round}");
            let value = if field == "emails" {
                json!([value])
            } else {
                json!(value)
            };
            let fields = json!({ field: value }).as_object().unwrap().clone();
            connected.simulator.change(&nth(n), fields).unwrap();
        }
    }
}

/// Waits until every notice that is sent was taken and applied.
async fn announced(connected: &Connected) {
    connected.simulator.delivery_counts().all_finished().await;
    connected.deployment.wait_until_idle().await;
}

/// The meter after the next walk, when every change is one or the other.
async fn after_a_walk(connected: &Connected, changes: u64) -> Report {
    connected.next_day().await;
    eventually("every change to be found", || async {
        let report = report(connected).await;
        let all = &report.all;
        (all.captured + all.late + all.missed + all.open >= changes).then_some(report)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_was_lost_is_missed() {
    let connected = stage(PAGES).await;
    let each = (PAGES * FIELDS.len()) as u64;
    let (mut lost, mut changes) = (0, 0);
    // A little disorder and repetition beside each loss.
    let faults = |loss| DeliveryFaults {
        loss,
        duplicate: 0.2,
        reorder: 0.2,
        ..DeliveryFaults::default()
    };
    for (round, loss) in [("none", 0.0), ("some", 0.3), ("all", 1.0)] {
        connected.simulator.set_delivery_faults(faults(loss));
        change_all(&connected, PAGES, round);
        announced(&connected).await;
        changes += each;
        let before = lost;
        lost = connected.simulator.delivery_counts().lost();
        let found = after_a_walk(&connected, changes).await.all;
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
    // One of a thousand.
    connected
        .simulator
        .set_delivery_faults(DeliveryFaults::default());
    change_all(&connected, PAGES, "one");
    announced(&connected).await;
    connected.simulator.set_delivery_faults(faults(1.0));
    let fields = json!({"hours": {"mon_1_open": "10:00"}})
        .as_object()
        .unwrap()
        .clone();
    connected.simulator.change(&nth(3), fields).unwrap();
    announced(&connected).await;
    after_a_walk(&connected, changes + each + 1).await;
    connected.advance(NOTIFICATION_GRACE);
    let last = report(&connected).await;
    assert_eq!((last.all.missed, last.all.open), (lost + 1, 0));
    assert_eq!(last.fields["hours"].missed, 1);
    assert_eq!(
        last.initial,
        (PAGES * 17) as u64,
        "first reads of everything but counters"
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
async fn a_backlog_and_disorder_miss_nothing() {
    let connected = stage(PAGES).await;
    let each = (PAGES * FIELDS.len()) as u64;
    let odd = DeliveryFaults {
        duplicate: 0.5,
        reorder: 0.5,
        ..DeliveryFaults::default()
    };
    connected.simulator.set_delivery_faults(odd);
    change_all(&connected, PAGES, "odd");
    announced(&connected).await;
    let found = after_a_walk(&connected, each).await.all;
    assert_eq!((found.captured, found.open), (each, 0), "{found:?}");
    // A walk comes in the middle of a backlog of ten minutes.
    connected
        .simulator
        .set_delivery_faults(DeliveryFaults { hold: true, ..odd });
    change_all(&connected, PAGES, "held");
    eventually("the backlog", || async {
        (connected.simulator.delivery_counts().held_back() >= each).then_some(())
    })
    .await;
    let found = after_a_walk(&connected, 2 * each).await.all;
    assert_eq!((found.captured, found.open), (each, each), "{found:?}");
    connected.advance(Duration::from_secs(600));
    connected.simulator.set_delivery_faults(odd);
    announced(&connected).await;
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
async fn a_deaf_page_is_subscribed_again_and_not_for_ever() {
    let connected = stage(3).await;
    let key = subscription::key(&PageId::parse(&nth(0)).unwrap());
    let stored = || async {
        let stored = load_record::<Subscription>(&*connected.deployment.store, &key).await;
        stored.unwrap().unwrap()
    };
    for round in 1..=MAX_RESUBSCRIPTIONS {
        // The list is shorter than it was; `is_webhooks_subscribed` does not say so.
        let feed = ["feed".to_owned()].into();
        connected
            .simulator
            .facebook()
            .page_subscriptions
            .insert(nth(0), feed);
        let fields = json!({"name": format!("unheard {round}")});
        connected
            .simulator
            .change(&nth(0), fields.as_object().unwrap().clone())
            .unwrap();
        connected.next_day().await;
        eventually("the gap", || async {
            let found = report(&connected).await.all;
            (found.missed + found.open >= u64::from(round)).then_some(())
        })
        .await;
        // As soon as the Page is deaf, not at the next daily poll.
        connected.advance(NOTIFICATION_GRACE);
        assert_eq!(report(&connected).await.silent_pages.len(), 1);
        eventually("the subscription to be back", || async {
            let facebook = connected.simulator.facebook();
            facebook.page_subscriptions[&nth(0)]
                .contains("name")
                .then_some(())
        })
        .await;
        eventually("it to be written down", || async {
            (stored().await.value.resubscriptions == round).then_some(())
        })
        .await;
    }
    assert!(stored().await.value.problem.unwrap().contains("taken off"));
    connected
        .simulator
        .facebook()
        .page_subscriptions
        .remove(&nth(0));
    connected.next_day().await;
    connected.next_day().await;
    assert!(
        !connected
            .simulator
            .facebook()
            .page_subscriptions
            .contains_key(&nth(0))
    );
    // A login begins anew.
    connected.advance(Duration::from_secs(60));
    assert_eq!(connected.connect().await.0, 200);
    eventually("the subscription to be back", || async {
        let facebook = connected.simulator.facebook();
        facebook
            .page_subscriptions
            .contains_key(&nth(0))
            .then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_page_makes_us_look_at_the_apps_own_subscription() {
    let connected = stage(3).await;
    connected.simulator.facebook().subscription = None;
    let fields = json!({"name": "unheard"});
    connected
        .simulator
        .change(&nth(0), fields.as_object().unwrap().clone())
        .unwrap();
    connected.read_again(0).await;
    // The daily look at it is kept away: what brings it back is the deaf Page.
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
    eventually("the app's subscription to be back", || async {
        connected
            .simulator
            .facebook()
            .subscription
            .is_some()
            .then_some(())
    })
    .await;
    connected.finish().await;
}
