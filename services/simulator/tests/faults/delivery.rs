//! Lost changes, deliveries that are held back, and Page subscriptions that are removed after
//! failed deliveries.

use axum::http::StatusCode;
use simulator::delivery::DeliveryFaults;

use super::Fixture;

#[tokio::test]
async fn lost_changes_are_counted_and_all_other_changes_arrive() {
    let fixture = Fixture::new(DeliveryFaults {
        loss: 0.3,
        batch: 0.5,
        ..DeliveryFaults::default()
    })
    .await;
    for round in 0..20 {
        for n in 1..=10 {
            fixture.rename(n, &format!("name {round}"));
        }
    }
    fixture.finish_deliveries().await;
    let changes = fixture
        .received_entries()
        .iter()
        .map(|entry| entry["changes"].as_array().unwrap().len() as u64)
        .sum::<u64>();
    let lost = fixture.simulator.delivery_counts().lost();
    assert_eq!(changes + lost, 200);
    assert!((30..90).contains(&lost), "{lost} of 200 with 30 %");
}

#[tokio::test]
async fn deliveries_that_are_held_back_arrive_after_their_release() {
    let hold = DeliveryFaults {
        hold: true,
        batch: 0.0,
        ..DeliveryFaults::default()
    };
    let fixture = Fixture::new(hold).await;
    for n in 1..=5 {
        fixture.rename(n, "held back");
    }
    while fixture.simulator.delivery_counts().held_back() < 5 {
        tokio::task::yield_now().await;
    }
    assert!(fixture.received_entries().is_empty());
    fixture.simulator.set_delivery_faults(DeliveryFaults {
        batch: 0.0,
        ..DeliveryFaults::default()
    });
    fixture.finish_deliveries().await;
    let mut pages: Vec<String> = fixture
        .received_entries()
        .iter()
        .map(|entry| entry["id"].as_str().unwrap().to_owned())
        .collect();
    pages.sort();
    assert_eq!(pages, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_page_subscription_is_removed_after_deliveries_failed_for_too_long() {
    let fixture = Fixture::new(DeliveryFaults {
        unsubscribe_after_seconds: Some(3600),
        retry_speed: 1000.0,
        ..DeliveryFaults::default()
    })
    .await;
    {
        let mut facebook = fixture.simulator.facebook();
        facebook.all_pages_subscribed = false;
        for page in ["1", "2"] {
            facebook
                .page_subscriptions
                .insert(page.to_owned(), ["name".to_owned()].into());
        }
    }
    fixture.callback.lock().unwrap().status = StatusCode::INTERNAL_SERVER_ERROR;
    fixture.rename(1, "refused");
    fixture.finish_deliveries().await;
    assert_eq!(
        fixture.simulator.facebook().page_subscriptions.len(),
        2,
        "the first failure removes nothing"
    );
    fixture.simulator.facebook().clock_offset_seconds += 3700;
    fixture.rename(1, "refused again");
    fixture.finish_deliveries().await;
    let subscribed: Vec<String> = fixture
        .simulator
        .facebook()
        .page_subscriptions
        .keys()
        .cloned()
        .collect();
    assert_eq!(
        subscribed,
        ["2"],
        "only the Page whose deliveries failed loses its subscription"
    );
}
