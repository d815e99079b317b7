//! The life of a token: renewed while it lives, announced before it ends, mended by a login with
//! everything in its place.

use std::time::Duration;

use common::records::connection::Status as ConnectionStatus;
use common::records::subscription::{self, Subscription};
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
use crate::support::facebook::{Connected, Scene, manual, nth};
use crate::support::faulty_store::FaultyStore;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn connected() -> Connected {
    let scene = Scene {
        clock: manual(),
        ..Scene::default()
    };
    let connected = Connected::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(Duration::from_secs(61));
    connected
}

/// Lets so many days go by and waits for the walk that follows and its look at the token.
async fn pass(connected: &Connected, days: u32) {
    let before = connected.connection().await;
    connected.advance(days * DAY);
    connected.walked(before.last_poll.unwrap().ended_at).await;
    eventually("the look at the token", || async {
        (connected.connection().await.token_inspected_at > before.token_inspected_at).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_lived_token_is_renewed_and_its_end_is_announced_at_14_7_3_and_1_days() {
    let connected = connected().await;
    let first = connected.connection().await;
    let exchanged = connected.calls("POST oauth/access_token");
    for _ in 0..7 {
        pass(&connected, 10).await;
    }
    let later = connected.connection().await;
    assert!(
        later.token_expires_at > first.token_expires_at,
        "the token outlives its first sixty days"
    );
    assert!(connected.calls("POST oauth/access_token") > exchanged);
    assert_eq!(later.status, ConnectionStatus::Active);
    assert_eq!(
        later.data_access_expires_at, first.data_access_expires_at,
        "a login alone moves this"
    );
    assert_eq!(later.last_expiry_alert, None);
    let mut left = expiry::days_left(&later, connected.clock.now()).unwrap();
    for alert in expiry::ALERT_DAYS {
        let days = u32::try_from(left - alert).unwrap();
        pass(&connected, days).await;
        left = alert;
        eventually("the alert", || async {
            (connected.connection().await.last_expiry_alert == Some(alert)).then_some(())
        })
        .await;
        let gauge = format!(r#"pagesync_tokens_ending{{name="{alert}"}} 1"#);
        eventually("the gauge", || async {
            for (_, role) in &connected.deployment.roles {
                if connected
                    .deployment
                    .private(role, "metrics")
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
    let forecast = expiry::list(&*connected.deployment.store, connected.clock.now())
        .await
        .unwrap();
    assert_eq!(
        (forecast[0].days_left, forecast[0].pages_lost_count),
        (Some(1), 3)
    );
    // A login moves the end, and with it the alerts.
    connected.advance(Duration::from_secs(61));
    assert_eq!(connected.connect().await.0, 200);
    let renewed = connected.connection().await;
    assert_eq!(renewed.last_expiry_alert, None);
    assert!(expiry::days_left(&renewed, connected.clock.now()).unwrap() > 50);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_permission_is_seen_and_a_dead_page_token_is_derived_again() {
    let connected = connected().await;
    connected
        .simulator
        .facebook()
        .revoke("200000000000001", "pages_manage_metadata")
        .unwrap();
    pass(&connected, 1).await;
    let scopes = connected.connection().await.scopes;
    assert!(
        !scopes.iter().any(|scope| scope == "pages_manage_metadata"),
        "{scopes:?}"
    );
    // Only this Page's token dies; the person's gives a new one within the hour.
    let invalidation = TokenInvalidation {
        user: None,
        page: Some(nth(1)),
        subcode: 463,
    };
    connected
        .simulator
        .facebook()
        .invalidate_tokens(&invalidation);
    connected.advance(Duration::from_secs(7200));
    let walks = connected.calls("GET me/accounts");
    let reads = connected.calls("GET {id}");
    let id = PageId::parse(&nth(1)).unwrap();
    let asked =
        common::pages::request_read(&*connected.deployment.store, &id, connected.clock.now());
    asked.await.unwrap();
    eventually("the walk that gives it another", || async {
        let walked = connected.connection().await.last_poll.unwrap();
        (walked.ended_at == connected.clock.now()).then_some(())
    })
    .await;
    eventually("the Page to be back", || async {
        (connected.page(1).await.status == Status::Active).then_some(())
    })
    .await;
    assert_eq!(connected.calls("GET {id}"), reads + 1, "refused once");
    assert_eq!(connected.calls("GET me/accounts"), walks + 1);
    assert_eq!(
        connected.page(0).await.status,
        Status::Active,
        "the others are not touched"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_mends_a_dead_connection_in_place_with_its_history() {
    let connected = connected().await;
    let id = PageId::parse(&nth(0)).unwrap();
    let store = connected.deployment.store.clone();
    let fields = json!({"name": "before the end"})
        .as_object()
        .unwrap()
        .clone();
    connected.simulator.change(&nth(0), fields).unwrap();
    eventually("the name", || async {
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
    // Webhooks are still kept meanwhile, by the subscription Facebook still has.
    let fields = json!({"name": "meanwhile"}).as_object().unwrap().clone();
    connected.simulator.change(&nth(0), fields).unwrap();
    eventually("the name", || async {
        (connected.field(0, "name").await == json!("meanwhile")).then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(61));
    assert_eq!(connected.connect().await.0, 200);
    assert_eq!(
        connected.connection().await.status,
        ConnectionStatus::Active
    );
    eventually("every Page", || async {
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
        "the past is still there"
    );
    connected.finish().await;
}

/// I9: while Facebook refuses a token, a login or a walk puts another in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_that_was_replaced_meanwhile_is_no_failure() {
    token_replaced_during(Subject::Page, "GET {id}").await;
    token_replaced_during(Subject::Subscription, "GET {id}/subscribed_apps").await;
}

async fn token_replaced_during(subject: fn(PageId) -> Subject, edge: &str) {
    let connected = connected().await;
    let (page, user) = (
        PageId::parse(&nth(0)).unwrap(),
        connected.connection().await.user,
    );
    let key = token::page_key(&user, &page);
    let fresh = {
        let mut facebook = connected.simulator.facebook();
        let invalidation = TokenInvalidation {
            user: None,
            page: Some(nth(0)),
            subcode: 463,
        };
        facebook.invalidate_tokens(&invalidation);
        facebook.issue(TokenOwner::Page(nth(0)), user.as_str(), None)
    };
    let place = &connected.deployment.place;
    let store = connected.deployment.store.clone();
    let settings = connected.settings.clone();
    let queue = connected.deployment.roles[0].1.backends.queue.clone();
    let plain = worker_context_with(place, queue, store.clone(), &settings);
    let keys = plain.keyring.keys().unwrap();
    let fresh = common::sealing::Token::new(fresh);
    let now = connected.clock.now();
    let by = token::seal_write(key.clone(), Some(&fresh), keys.current(), now).unwrap();
    let parts = worker::context::Context {
        store: FaultyStore::overtaken(store, key, by),
        clock: connected.clock.clone(),
        ..plain
    };
    // Both are due when our claim says so, and not before.
    let record = subscription::key(&page);
    let stored = load_record::<Subscription>(&*parts.store, &record)
        .await
        .unwrap();
    let mut stored = stored.unwrap();
    stored.value.polling.request_read(now.plus(DAY));
    let asked = put_write(record.clone(), &stored.value, Some(stored.version), None);
    write_records(&*parts.store, vec![asked]).await.unwrap();
    let claim = Claim {
        subject: subject(page),
        queue: QueueName::PollsNow,
        due_at: now.plus(DAY * 2),
    };
    let (walks, calls) = (connected.calls("GET me/accounts"), connected.calls(edge));
    worker::apply_jobs(&parts, &[Job::Poll(claim)])
        .await
        .unwrap();
    let read = connected.page(0).await;
    assert_eq!((read.status, read.polling.failures), (Status::Active, 0));
    let stored = load_record::<Subscription>(&*parts.store, &record)
        .await
        .unwrap();
    let stored = stored.unwrap().value;
    assert_eq!((stored.problem, stored.polling.failures), (None, 0));
    assert_eq!(connected.calls(edge), calls + 2, "refused, then answered");
    assert_eq!(
        connected.calls("GET me/accounts"),
        walks,
        "no walk for a token"
    );
    connected.finish().await;
}
