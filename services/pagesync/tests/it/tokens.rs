//! The life of a token: it is renewed while it is valid, alerts are logged before it ends, and a
//! login replaces an invalid token without a loss of data.

use std::time::Duration;

use common::records::connection::Status as ConnectionStatus;
use common::records::page_subscription::{self, PageSubscription};
use common::records::{expiry, load_record, put_write, token, write_records};
use model::id::{PageId, Subject};
use model::job::{Claim, Job};
use model::page::Status;
use model::queue_name::QueueName;
use serde_json::json;
use simulator::token::{TokenInvalidation, TokenOwner};

use crate::BACKEND;
use crate::support::deployment::worker_context_with;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};
use crate::support::faulty_store::FaultyStore;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Starts a deployment with three connected Pages and a clock that only the test advances.
async fn connected() -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(Duration::from_secs(61));
    connected
}

/// Advances both clocks by `days`. Waits for the daily connection poll, which inspects the token.
async fn pass_days(connected: &ConnectedDeployment, days: u32) {
    let before = connected.connection().await;
    connected.advance(days * DAY);
    connected
        .wait_for_poll_after(before.last_poll.unwrap().ended_at)
        .await;
    eventually("the inspection of the token", || async {
        (connected.connection().await.token_inspected_at > before.token_inspected_at).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_lived_token_is_renewed_and_alerts_come_14_7_3_and_1_days_before_its_end() {
    let connected = connected().await;
    let first = connected.connection().await;
    let exchanges = connected.calls("POST oauth/access_token");
    for _ in 0..7 {
        pass_days(&connected, 10).await;
    }
    let later = connected.connection().await;
    assert!(
        later.token_expires_at > first.token_expires_at,
        "the token is valid beyond its first sixty days"
    );
    assert!(connected.calls("POST oauth/access_token") > exchanges);
    assert_eq!(later.status, ConnectionStatus::Active);
    assert_eq!(
        later.data_access_expires_at, first.data_access_expires_at,
        "only a login postpones the end of the data access"
    );
    assert_eq!(later.last_expiry_alert, None);
    let mut days_left = expiry::days_left(&later, connected.clock.now()).unwrap();
    for alert in expiry::ALERT_DAYS {
        let days = u32::try_from(days_left - alert).unwrap();
        pass_days(&connected, days).await;
        days_left = alert;
        eventually("the alert", || async {
            (connected.connection().await.last_expiry_alert == Some(alert)).then_some(())
        })
        .await;
        let gauge = format!(r#"pagesync_connections_expiring{{within_days="{alert}"}} 1"#);
        eventually("the gauge of the alert", || async {
            for (_, role) in &connected.deployment.roles {
                if connected
                    .deployment
                    .get_private_of(role, "metrics")
                    .await
                    .1
                    .contains(&gauge)
                {
                    return Some(());
                }
            }
            None
        })
        .await;
    }
    let expiring = expiry::list(&*connected.deployment.store, connected.clock.now())
        .await
        .unwrap();
    assert_eq!(
        (expiring[0].days_left, expiring[0].pages_lost_count),
        (Some(1), 3)
    );
    // A login postpones the end and resets the alerts.
    connected.advance(Duration::from_secs(61));
    assert_eq!(connected.connect().await.0, 200);
    let renewed = connected.connection().await;
    assert_eq!(renewed.last_expiry_alert, None);
    assert!(expiry::days_left(&renewed, connected.clock.now()).unwrap() > 50);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_permission_is_detected_and_an_invalid_page_token_is_replaced() {
    let connected = connected().await;
    connected
        .simulator
        .facebook()
        .revoke("200000000000001", "pages_manage_metadata")
        .unwrap();
    pass_days(&connected, 1).await;
    let scopes = connected.connection().await.permissions;
    assert!(
        !scopes.iter().any(|scope| scope == "pages_manage_metadata"),
        "{scopes:?}"
    );
    // Only the token of this Page becomes invalid. The next connection poll gets a new token.
    let invalidation = TokenInvalidation {
        user: None,
        page: Some(page_id_text(1)),
        subcode: 463,
    };
    connected
        .simulator
        .facebook()
        .invalidate_tokens(&invalidation);
    connected.advance(Duration::from_secs(7200));
    let connection_polls = connected.calls("GET me/accounts");
    let reads = connected.calls("GET {id}");
    let id = PageId::parse(&page_id_text(1)).unwrap();
    crate::support::request_read(&*connected.deployment.store, &id, connected.clock.now())
        .await
        .unwrap();
    eventually("the connection poll that gets a new token", || async {
        let last = connected.connection().await.last_poll.unwrap();
        (last.ended_at == connected.clock.now()).then_some(())
    })
    .await;
    eventually("the Page to be active again", || async {
        (connected.page(1).await.status == Status::Active).then_some(())
    })
    .await;
    assert_eq!(
        connected.calls("GET {id}"),
        reads + 1,
        "one read is refused"
    );
    assert_eq!(connected.calls("GET me/accounts"), connection_polls + 1);
    assert_eq!(
        connected.page(0).await.status,
        Status::Active,
        "the other Pages stay active"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_restores_an_invalid_connection_and_the_history_is_kept() {
    let connected = connected().await;
    let id = PageId::parse(&page_id_text(0)).unwrap();
    let store = connected.deployment.store.clone();
    let fields = json!({"name": "before the end"})
        .as_object()
        .unwrap()
        .clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
    eventually("the name to be stored", || async {
        (connected.field(0, "name").await == json!("before the end")).then_some(())
    })
    .await;
    let history = store.history(&id).await.unwrap();
    let invalidation = TokenInvalidation {
        user: None,
        page: None,
        subcode: 460,
    };
    connected
        .simulator
        .facebook()
        .invalidate_tokens(&invalidation);
    let slot = connected.connection().await.polling.daily_slot.unwrap();
    connected.advance(connected.clock.now().until(slot) + Duration::from_secs(1));
    eventually("the connection to need a login", || async {
        let connection = connected.connection().await;
        (connection.status == ConnectionStatus::NeedsLogin).then_some(())
    })
    .await;
    // Webhooks still arrive, because the Page is still subscribed at Facebook.
    let fields = json!({"name": "after the end"})
        .as_object()
        .unwrap()
        .clone();
    connected
        .simulator
        .change(&page_id_text(0), fields)
        .unwrap();
    eventually("the name to be stored", || async {
        (connected.field(0, "name").await == json!("after the end")).then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(61));
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(
        connected.connection().await.status,
        ConnectionStatus::Active
    );
    eventually("every Page to be active", || async {
        let mut active = true;
        for n in 0..3 {
            active &= connected.page(n).await.status == Status::Active;
        }
        active.then_some(())
    })
    .await;
    let after = store.history(&id).await.unwrap();
    assert!(after.len() > history.len());
    assert_eq!(
        after[after.len() - history.len()..],
        history,
        "the earlier entries are kept"
    );
    connected.finish().await;
}

/// A login or a connection poll may replace a token while Facebook refuses a call with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_that_was_replaced_meanwhile_does_not_count_as_a_failure() {
    poll_while_the_token_is_replaced(Subject::Page, "GET {id}").await;
    poll_while_the_token_is_replaced(Subject::PageSubscription, "GET {id}/subscribed_apps").await;
}

/// Polls a subject whose token is replaced after the worker has loaded it. `edge` is the call that
/// the poll makes.
async fn poll_while_the_token_is_replaced(subject: fn(PageId) -> Subject, edge: &str) {
    let connected = connected().await;
    let (page, user) = (
        PageId::parse(&page_id_text(0)).unwrap(),
        connected.connection().await.user,
    );
    let key = token::page_key(&user, &page);
    let new_token = {
        let mut facebook = connected.simulator.facebook();
        let invalidation = TokenInvalidation {
            user: None,
            page: Some(page_id_text(0)),
            subcode: 463,
        };
        facebook.invalidate_tokens(&invalidation);
        facebook.issue(TokenOwner::Page(page_id_text(0)), user.as_str(), None)
    };
    let storage = &connected.deployment.storage;
    let store = connected.deployment.store.clone();
    let settings = connected.settings.clone();
    let queue = connected.deployment.roles[0].1.backends.queue.clone();
    let usual = worker_context_with(storage, queue, store.clone(), &settings);
    let keys = usual.keyring.keys().unwrap();
    let new_token = common::sealing::Token::new(new_token);
    let now = connected.clock.now();
    let replacement =
        token::seal_write(key.clone(), Some(&new_token), keys.current(), now).unwrap();
    let context = worker::context::Context {
        store: FaultyStore::with_concurrent_write(store, key, replacement),
        clock: connected.clock.clone(),
        ..usual
    };
    // Both subjects become due only after a day, so that no scheduler claims them. The claim of the
    // test is later.
    let record = page_subscription::key(&page);
    let stored = load_record::<PageSubscription>(&*context.store, &record)
        .await
        .unwrap();
    let mut stored = stored.unwrap();
    stored.value.polling.request_read(now.plus(DAY));
    let request = put_write(record.clone(), &stored.value, Some(stored.version), None);
    write_records(&*context.store, vec![request]).await.unwrap();
    let claim = Claim {
        subject: subject(page),
        queue: QueueName::PollsNow,
        due_at: now.plus(DAY * 2),
    };
    let (connection_polls, calls) = (connected.calls("GET me/accounts"), connected.calls(edge));
    worker::apply_jobs(&context, &[Job::Poll(claim)])
        .await
        .unwrap();
    let page = connected.page(0).await;
    assert_eq!((page.status, page.polling.failures), (Status::Active, 0));
    let stored = load_record::<PageSubscription>(&*context.store, &record)
        .await
        .unwrap();
    let stored = stored.unwrap().value;
    assert_eq!((stored.problem, stored.polling.failures), (None, 0));
    assert_eq!(
        connected.calls(edge),
        calls + 2,
        "one refused call and one with the new token"
    );
    assert_eq!(
        connected.calls("GET me/accounts"),
        connection_polls,
        "no connection poll is made"
    );
    connected.finish().await;
}
