//! Daily polls: each connection is polled once a local day, also with several schedulers, after a
//! downtime, and on days on which the clocks change.

use std::time::Duration;

use common::records::daily_poll::{DailyPoll, DailyPollResult};
use common::records::load_all;
use common::store::RecordKind;
use model::time::HostTime;
use serde_json::json;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Returns the daily poll records, the oldest first.
async fn daily_polls(connected: &ConnectedDeployment) -> Vec<DailyPoll> {
    let records = load_all::<DailyPoll>(&*connected.deployment.store, RecordKind::DailyPoll, "")
        .await
        .unwrap();
    let polls = records.into_iter().map(|(_, stored)| stored.value);
    polls.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_schedulers_poll_each_connection_once_a_local_day() {
    let extra = [
        ("PAGESYNC_TIME_ZONE", "Europe/Berlin"),
        ("PAGESYNC_POLL_SPREAD", "30m"),
    ];
    let scene = DeploymentOptions {
        extra: &extra,
        clock: manual_clock(),
        schedulers: 3,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    let calls = connected.calls("GET me/accounts");
    assert_eq!(calls, 1);
    for n in 1..=4 {
        // No webhook announces this change, so only the poll can find it.
        let mut page = connected.simulator.pages().remove(0);
        page.insert("about".to_owned(), json!(format!("about {n}")));
        connected.simulator.put_page(&page).unwrap();
        connected.next_day().await;
        assert_eq!(connected.calls("GET me/accounts"), calls + n, "day {n}");
        assert_eq!(
            connected.field(0, "about").await,
            json!(format!("about {n}"))
        );
    }
    let polls = daily_polls(&connected).await;
    assert_eq!(polls.len(), 4, "{polls:?}");
    let mut days: Vec<&str> = polls.iter().map(|poll| poll.day.as_str()).collect();
    days.dedup();
    assert_eq!(days.len(), 4, "one record a day: {polls:?}");
    assert!(
        polls
            .iter()
            .all(|poll| poll.result == DailyPollResult::Ran && poll.pages == 3 && poll.calls == 1)
    );
    assert_eq!(connected.calls("GET {id}"), 0, "no read of one Page");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downtime_of_days_is_followed_by_one_late_poll() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    let slot = connected.next_day().await;
    let before = connected.connection().await.last_poll.unwrap().ended_at;
    let calls = connected.calls("GET me/accounts");
    connected.advance(4 * DAY + Duration::from_secs(5 * 3600));
    connected.wait_for_poll_after(before).await;
    let polls = daily_polls(&connected).await;
    let count = |result| polls.iter().filter(|poll| poll.result == result).count();
    assert_eq!(
        (
            count(DailyPollResult::Ran),
            count(DailyPollResult::RanLate),
            count(DailyPollResult::NotRun)
        ),
        (1, 1, 3),
        "{polls:?}"
    );
    assert_eq!(connected.calls("GET me/accounts"), calls + 1);
    let next = connected.connection().await.polling.daily_slot.unwrap();
    assert!(
        next > connected.clock.now() && slot < next,
        "the next poll is due at a later slot"
    );
    connected.next_day().await;
    assert_eq!(connected.calls("GET me/accounts"), calls + 2);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_with_an_invalid_token_is_skipped_and_the_stored_values_are_kept() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    for token in connected.simulator.facebook().tokens.values_mut() {
        token.invalid_subcode = Some(460);
    }
    let calls = connected.calls("GET me/accounts");
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    connected.advance(connected.clock.now().until(slot) + Duration::from_secs(1));
    eventually("the connection to need a login", || async {
        let status = connected.connection().await.status;
        (status == common::records::connection::Status::NeedsLogin).then_some(())
    })
    .await;
    eventually("the reads of the Pages", || async {
        let mut need_login = true;
        for n in 0..3 {
            need_login &= connected.page(n).await.status == model::page::Status::NeedsLogin;
        }
        need_login.then_some(())
    })
    .await;
    // The inspection of the token is due as well, and may come before the poll.
    let polls = connected.calls("GET me/accounts") - calls;
    assert!(polls <= 1, "{polls}");
    let roles = connected.deployment.roles.iter();
    let counted = roles.map(|(_, role)| role.metrics.graph_replies.get("token"));
    assert_eq!(
        counted.sum::<u64>(),
        polls + 3,
        "each refused call is counted"
    );
    let polls = daily_polls(&connected).await;
    assert_eq!(polls[0].result, DailyPollResult::Skipped);
    assert_eq!(connected.field(0, "name").await, json!("Page 0"));
    // A login makes the connection active again at once.
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(
        connected.connection().await.status,
        common::records::connection::Status::Active
    );
    assert_eq!(connected.page(0).await.status, model::page::Status::Active);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_missing_from_the_list_is_read_individually() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    let client = crate::support::client();
    let deletion = client.delete(format!(
        "{}/_sim/pages/{}",
        connected.facebook_url,
        page_id_text(2)
    ));
    assert_eq!(deletion.send().await.unwrap().status(), 204);
    connected.next_day().await;
    connected.advance(Duration::from_secs(61));
    eventually("the end of the access to the Page", || async {
        let page = connected.page(2).await;
        (page.status == model::page::Status::NoToken).then_some(())
    })
    .await;
    assert_eq!(connected.calls("GET {id}"), 1);
    assert_eq!(
        connected.field(2, "name").await,
        json!("Page 2"),
        "the stored values are kept"
    );
    // An empty list does not change the status of the other Pages, whose tokens still work.
    connected.reply(&json!([{"edge": "GET me/accounts", "body": {"data": []}}]));
    connected.next_day().await;
    assert_eq!(connected.page(0).await.status, model::page::Status::Active);
    assert!(
        connected
            .connection()
            .await
            .problem
            .unwrap()
            .contains("no Page")
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_23_and_25_hours_have_one_poll_each() {
    // In Berlin, the clocks change in the nights after these days.
    for noon in ["2027-03-27T12:00:00Z", "2027-10-30T12:00:00Z"] {
        let start: jiff::Timestamp = noon.parse().unwrap();
        let start = HostTime(u64::try_from(start.as_millisecond()).unwrap());
        let real = common::clock::Clock::system().now();
        let ahead = i64::try_from(start.0).unwrap() - i64::try_from(real.0).unwrap();
        let scene = DeploymentOptions {
            extra: &[
                ("PAGESYNC_TIME_ZONE", "Europe/Berlin"),
                ("PAGESYNC_POLL_SPREAD", "3h"),
            ],
            clock: common::clock::Clock::manual(start),
            ..DeploymentOptions::default()
        };
        let connected = ConnectedDeployment::start(BACKEND, scene).await;
        connected.simulator.facebook().clock_offset_seconds += ahead / 1000;
        assert_eq!(connected.connect().await.0, 200);
        let calls = connected.calls("GET me/accounts");
        for n in 1..=3 {
            connected.next_day().await;
            assert_eq!(connected.calls("GET me/accounts"), calls + n, "{noon} {n}");
        }
        let polls = daily_polls(&connected).await;
        let mut days: Vec<&str> = polls.iter().map(|poll| poll.day.as_str()).collect();
        days.dedup();
        assert_eq!((polls.len(), days.len()), (3, 3), "{polls:?}");
        connected.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daily_poll_of_250_pages_needs_at_most_four_reads() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        pages: 250,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    connected.connect().await;
    eventually("the first poll and its subscriptions", || async {
        let subscribed = connected.simulator.facebook().page_subscriptions.len() == 250;
        let polled = connected.connection().await.last_poll.is_some();
        (subscribed && polled).then_some(())
    })
    .await;
    connected.simulator.facebook().calls.clear();
    connected.next_day().await;
    let reads: u64 = ["GET me/accounts", "GET {id}", "GET ?ids", "POST batch"]
        .iter()
        .map(|edge| connected.calls(edge))
        .sum();
    assert!(reads <= 250 / 100 + 2, "{reads} reads of Page data");
    connected.finish().await;
}
