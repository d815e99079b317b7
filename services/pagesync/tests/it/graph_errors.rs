//! Answers the worker with every error of Graph and checks the action that follows. Also checks how
//! often Facebook is called with an invalid token.

use std::collections::BTreeSet;
use std::time::Duration;

use common::records::{connection, rate_limit, write_records};
use common::store::{RecordKind, RecordWrite};
use model::id::UserId;
use model::page::{Page, Status};
use model::queue_name::QueueName;
use model::time::HostTime;
use serde_json::json;
use simulator::browser::Decision;
use simulator::errors::{GRAPH_ERRORS, KnownError};
use simulator::people::Person;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

/// The action that must follow an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// The read is retried within two minutes, and the status of the Page does not change.
    Retry,
    /// The named field is excluded, and the rest is read at once.
    ReadRest,
    /// The rate limit with this name blocks calls for this long. The read does not count as failed.
    Wait(&'static str, Duration),
    /// The read is retried after a day, and the Page gets this status.
    Tomorrow(Status),
}

/// Returns the action for each row of [`GRAPH_ERRORS`]. Source: "Handling errors" and "Rate
/// limiting" of the Graph API.
fn expected(name: &str) -> Action {
    use Action::{ReadRest, Retry, Tomorrow, Wait};
    const FIVE_MINUTES: Duration = Duration::from_secs(300);
    match name {
        // No field is refused any more when the worker searches for the one of 200/2069031.
        "1" | "1/99" | "2" | "190/463/transient" | "200/2069031" => Retry,
        "12" => ReadRest,
        "4" | "4/1349210" | "341" | "613" | "613/1996" | "80000" | "80002" | "80003" | "80004"
        | "80005" | "80006" | "80014" => Wait("app", FIVE_MINUTES),
        "17" | "17/2446079" => Wait("user", FIVE_MINUTES),
        "32" | "80001" => Wait("page", FIVE_MINUTES),
        "368" => Wait("page", DAY),
        "102" | "190" | "190/458" | "190/459" | "190/460" | "190/463" | "190/464" | "190/466"
        | "190/467" | "190/490" | "190/492" | "190/493" | "190/2069032" | "450" | "452" => {
            Tomorrow(Status::NeedsLogin)
        }
        "1/2853006" | "3" | "10" | "200" | "200/2069030" | "210" | "299" => {
            Tomorrow(Status::NeedsPermission)
        }
        "100/33" | "21" | "803" => Tomorrow(Status::Unreachable),
        // These errors are caused by pagesync or its configuration, so the Page stays active.
        "15" | "100" | "100/36007" | "100/36008" | "100/36009" | "101" | "104" | "506/1455006"
        | "2200" | "2500" => Tomorrow(Status::Active),
        other => panic!("no action is defined for {other}"),
    }
}

/// Checks that a Page keeps what Facebook reported if its last read failed, and only then.
fn assert_failure(page: &Page, row: &KnownError) {
    let fails = match expected(row.name) {
        Action::Retry | Action::Tomorrow(_) => true,
        Action::ReadRest => false,
        // A block for a day needs the attention of a person.
        Action::Wait(_, wait) => wait >= DAY,
    };
    // A connection poll that got a new token may have read the Page since.
    let was_read_since = page.polling.failures == 0 && page.status == Status::Active;
    if fails && was_read_since && row.name != "368" {
        return;
    }
    let failure = page.last_failure.as_ref();
    assert_eq!(failure.is_some(), fails, "{}: {failure:?}", row.name);
    // The search for the refused field ends because Graph refuses no field any more.
    if let Some(failure) = failure.filter(|_| row.name != "200/2069031") {
        let reported = failure.reported.as_ref().unwrap();
        let code = reported.code.unwrap().to_string();
        let subcode = reported
            .subcode
            .map_or(String::new(), |code| format!("/{code}"));
        let name = row.name.trim_end_matches("/transient");
        assert_eq!(format!("{code}{subcode}"), name);
        assert_eq!(reported.message.as_deref(), Some(row.message));
        assert!(reported.fbtrace_id.as_ref().unwrap().starts_with("Asim"));
        assert!(!failure.remedy.is_empty() && failure.at > HostTime(0));
    }
}

/// Deletes every stored rate limit.
async fn delete_rate_limits(connected: &ConnectedDeployment) {
    let store = &*connected.deployment.store;
    let stored = store
        .list_records(RecordKind::RateLimit, None, 100)
        .await
        .unwrap();
    let deletions = stored.into_iter().map(|(key, _)| RecordWrite::Delete {
        key,
        expected: None,
    });
    write_records(store, deletions.collect()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_graph_error_causes_its_action() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        pages: 1,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    for row in &GRAPH_ERRORS {
        connected.advance(2 * MINUTE);
        connected.read_again(0).await;
        assert_eq!(connected.page(0).await.status, Status::Active);
        connected.advance(2 * MINUTE);
        connected.reply(&json!([{"edge": "GET {id}", "fault": row.name}]));
        let connection_polls = connected.calls("GET me/accounts");
        let page = connected.read_again(0).await;
        let now = connected.clock.now();
        let resume = page.polling.not_before.unwrap_or(HostTime(0));
        let retry_delay = now.until(resume);
        let status = page.status;
        assert_failure(&page, row);
        match expected(row.name) {
            Action::Retry => {
                assert_eq!(
                    (status, page.polling.failures),
                    (Status::Active, 1),
                    "{}",
                    row.name
                );
                assert!(
                    (MINUTE / 2..2 * MINUTE).contains(&retry_delay),
                    "{}: {retry_delay:?}",
                    row.name
                );
            }
            Action::ReadRest => {
                assert_eq!(
                    (status, page.polling.failures),
                    (Status::Active, 0),
                    "{}",
                    row.name
                );
                assert!(page.polling.last_success_began >= Some(now), "{}", row.name);
            }
            Action::Wait(bucket, wait) => {
                let bucket = match bucket {
                    "page" => format!("page:{}", page_id_text(0)),
                    "user" => "user:200000000000001".to_owned(),
                    other => other.to_owned(),
                };
                let stored =
                    rate_limit::find(&*connected.deployment.store, &bucket, connected.clock.now())
                        .await
                        .unwrap();
                assert!(
                    now.until(stored.blocked_until) >= wait,
                    "{}: {bucket} is not blocked",
                    row.name
                );
                assert_eq!(
                    (status, page.polling.failures),
                    (Status::Active, 0),
                    "{}",
                    row.name
                );
                assert!(
                    retry_delay >= wait && retry_delay < wait + MINUTE,
                    "{}: {retry_delay:?}",
                    row.name
                );
            }
            // The connection poll has already replaced the token.
            Action::Tomorrow(Status::NeedsLogin)
                if connected.calls("GET me/accounts") > connection_polls
                    && status == Status::Active => {}
            Action::Tomorrow(expected_status) => {
                assert_eq!(
                    (status, page.polling.failures),
                    (expected_status, 1),
                    "{}",
                    row.name
                );
                assert_eq!(retry_delay, DAY, "{}", row.name);
            }
        }
        delete_rate_limits(&connected).await;
        // An invalid token causes a connection poll, which gets a new one, at most once an hour.
        eventually("the connection poll for a new token", || async {
            let connection = connected.connection().await;
            (!connection.polling.has_open_notification_or_request()
                && connection.poll_progress.is_none())
            .then_some(())
        })
        .await;
    }
    connected.finish().await;
}

/// The last reply has only another content type; all others are damaged.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_replies_are_retried_and_another_content_type_is_read() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        pages: 1,
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    for (fault, is_read) in [
        ("html", false),
        ("reset", false),
        ("truncated", false),
        ("empty", false),
        ("false", false),
        ("wrong_type", true),
    ] {
        connected.advance(2 * MINUTE);
        connected.reply(&json!([{"edge": "GET {id}", "fault": fault}]));
        let page = connected.read_again(0).await;
        assert_eq!(page.status, Status::Active, "{fault}");
        assert_eq!(page.polling.failures == 0, is_read, "{fault}");
        connected.advance(2 * MINUTE);
        assert_eq!(connected.read_again(0).await.polling.failures, 0, "{fault}");
    }
    connected.finish().await;
}

/// Returns the times at which the last polls of Page 0, of Page 1 and of Ada's connection began.
async fn attempts(connected: &ConnectedDeployment) -> [Option<HostTime>; 3] {
    let ada = UserId::parse("200000000000001").unwrap();
    let stored = connection::find(&*connected.deployment.store, &ada).await;
    [
        connected.page(0).await.polling.last_attempt_began,
        connected.page(1).await.polling.last_attempt_began,
        stored.unwrap().unwrap().value.polling.last_attempt_began,
    ]
}

/// Waits until the scheduler has published every due poll and the worker has executed it.
async fn wait_until_nothing_is_due(connected: &ConnectedDeployment) {
    let store = &connected.deployment.store;
    for queue_name in QueueName::POLLS {
        eventually("the polls that are due", || async {
            let first = store.next_due(queue_name, 1).await.unwrap();
            let is_due = first
                .first()
                .is_some_and(|entry| entry.due_at <= connected.clock.now());
            (!is_due).then_some(())
        })
        .await;
    }
    connected.deployment.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_token_causes_at_most_one_call_a_day_and_delays_no_other_page() {
    let scene = DeploymentOptions {
        extra: &[("PAGESYNC_VERIFY_AFTER", "10s")],
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    // Ada manages Pages 0 and 1, and Bob manages Page 2.
    {
        let mut facebook = connected.simulator.facebook();
        let ada = facebook.people.get_mut("200000000000001").unwrap();
        ada.pages = Some([page_id_text(0), page_id_text(1)].into());
        let bob = json!({"id": "200000000000002", "name": "Bob", "pages": [page_id_text(2)]});
        let bob: Person = serde_json::from_value(bob).unwrap();
        facebook.people.insert(bob.id.clone(), bob);
    }
    assert_eq!(connected.connect().await.0, 200);
    let bob = Decision {
        user: "200000000000002".to_owned(),
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&bob).await.0, 200);
    connected.end_login("200000000000001");
    let began = connected.clock.now();
    let mut attempts_seen: [BTreeSet<HostTime>; 3] = Default::default();
    for day in 0..5 {
        let about = format!("about {day}");
        let mut page = connected.simulator.pages().remove(2);
        page.insert("about".to_owned(), json!(about));
        connected.simulator.put_page(&page).unwrap();
        // A webhook arrives each hour for a Page whose token is invalid.
        for hour in 0..24 {
            connected.advance(Duration::from_secs(3600));
            let name = format!("day {day} hour {hour}");
            let body = simulator::delivery::single_change_body(&page_id_text(0), "name", &name);
            assert_eq!(connected.deployment.deliver(body).await, 200);
            connected.deployment.wait_until_idle().await;
            wait_until_nothing_is_due(&connected).await;
            // The clock moves in steps of an hour, so all attempts between two steps have the same
            // time.
            for (seen, at) in attempts_seen.iter_mut().zip(attempts(&connected).await) {
                seen.extend(at.filter(|at| *at > began));
            }
        }
        eventually("Bob's Page", || async {
            (connected.field(2, "about").await == json!(about)).then_some(())
        })
        .await;
        eventually("the reads with the invalid token", || async {
            let states = [
                connected.page(0).await.status,
                connected.page(1).await.status,
            ];
            (states == [Status::NeedsLogin; 2]).then_some(())
        })
        .await;
        assert_eq!(connected.page(2).await.status, Status::Active);
    }
    for seen in attempts_seen {
        assert!(seen.len() >= 3, "{seen:?}");
        let pairs = seen.iter().zip(seen.iter().skip(1));
        for (earlier, later) in pairs {
            assert!(
                earlier.until(*later) >= DAY,
                "more than one call a day: {seen:?}"
            );
        }
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_refused_before_its_connection_is_not_read_again_within_a_day() {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    connected.end_login("200000000000001");
    connected.advance(2 * MINUTE);
    // The refusal of the read of Page 0 causes a poll of the connection, and its refusal causes a
    // read of every other Page.
    let refused = connected.read_again(0).await;
    assert_eq!(refused.status, Status::NeedsLogin);
    eventually("the read of Page 1", || async {
        (connected.page(1).await.status == Status::NeedsLogin).then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    let Page { polling, .. } = connected.page(0).await;
    let (_, due) = polling.due().unwrap();
    let attempted = polling.last_attempt_began.unwrap();
    assert!(attempted.until(due) >= DAY, "{polling:?}");
    connected.finish().await;
}
