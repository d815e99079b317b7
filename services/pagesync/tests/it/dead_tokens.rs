//! An invalid token of a person is noticed at any call, and the connection, its Pages, the forecast,
//! `doctor` and the metrics then agree.

use std::time::Duration;

use common::records::connection::Status as ConnectionStatus;
use common::records::expiry;
use model::page::Status;
use serde_json::json;
use simulator::token::TokenInvalidation;

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};

const ADA: &str = "200000000000001";
const MINUTE: Duration = Duration::from_secs(60);

async fn connected() -> ConnectedDeployment {
    let options = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(2 * MINUTE);
    connected
}

/// Makes tokens of Ada invalid: all of them, or those of one Page.
fn invalidate(connected: &ConnectedDeployment, page: Option<String>) {
    let mut facebook = connected.simulator.facebook();
    let count = facebook.invalidate_tokens(&TokenInvalidation {
        user: Some(ADA.to_owned()),
        page,
        subcode: 460,
    });
    assert!(count > 0);
}

/// Returns the value of a gauge of the first role that is neither 0 nor missing, or 0.
async fn gauge(connected: &ConnectedDeployment, name: &str) -> u64 {
    for (_, role) in &connected.deployment.roles {
        let (_, text) = connected.deployment.get_private_of(role, "metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.trim().parse().ok());
        if let Some(value) = value.filter(|value| *value > 0) {
            return value;
        }
    }
    0
}

/// Waits until everything that is shown about Ada and her three Pages says that she must log in.
async fn assert_agreement(connected: &ConnectedDeployment) {
    eventually("the connection and its Pages to need a login", || async {
        let mut agree = connected.connection().await.status == ConnectionStatus::NeedsLogin;
        for n in 0..3 {
            agree &= connected.page(n).await.status == Status::NeedsLogin;
        }
        agree.then_some(())
    })
    .await;
    let failure = connected.connection().await.last_failure.unwrap();
    assert_eq!(failure.reported.unwrap().subcode, Some(460));
    let expiries = expiry::list(&*connected.deployment.store, connected.clock.now()).await;
    let expiry = expiries.unwrap().remove(0);
    assert_eq!((expiry.days_left, expiry.pages_lost_count), (Some(0), 3));
    for name in ["connections", "Pages"] {
        let checks = connected.json(&["doctor"]);
        let checks = checks.as_array().unwrap().iter();
        let check = checks.clone().find(|check| check["check"] == name).unwrap();
        assert_eq!(check["state"], "failed", "{check}");
    }
    let connections = r#"pagesync_connections{status="needs_login"}"#;
    assert_eq!(gauge(connected, connections).await, 1);
    let pages = r#"pagesync_pages{status="needs_login"}"#;
    assert_eq!(gauge(connected, pages).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_one_page_that_meets_an_invalid_token_shows_it_everywhere() {
    let connected = connected().await;
    let active = r#"pagesync_pages{status="active"}"#;
    assert_eq!(gauge(&connected, active).await, 3);
    invalidate(&connected, None);
    connected.read_again(0).await;
    assert_agreement(&connected).await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_poll_that_meets_an_invalid_token_shows_it_everywhere() {
    let connected = connected().await;
    invalidate(&connected, None);
    let user = connected.connection().await.user;
    let store = &*connected.deployment.store;
    let now = connected.clock.now();
    common::records::connection::request_poll(store, &user, now)
        .await
        .unwrap();
    assert_agreement(&connected).await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_token_is_noticed_within_an_hour_without_any_other_call() {
    let connected = connected().await;
    let calls = connected.calls("GET debug_token");
    invalidate(&connected, None);
    connected.advance(Duration::from_secs(3600));
    assert_agreement(&connected).await;
    assert_eq!(connected.calls("GET debug_token"), calls + 1);
    // The inspection of the token of a connection that needs a login reads no Page again.
    let reads = connected.calls("GET {id}");
    connected.advance(Duration::from_secs(3600));
    eventually("the next inspection", || async {
        (connected.calls("GET debug_token") > calls + 1).then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    assert_eq!(connected.calls("GET {id}"), reads);
    for n in 0..3 {
        let requested = connected.page(n).await.polling.open_request_from();
        assert!(
            requested.is_none_or(|at| at < connected.clock.now()),
            "Page {n}"
        );
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_token_of_one_page_ends_no_connection() {
    let connected = connected().await;
    let calls = connected.calls("GET debug_token");
    invalidate(&connected, Some(page_id_text(1)));
    connected.read_again(1).await;
    eventually("the inspection of the person's token", || async {
        (connected.calls("GET debug_token") > calls).then_some(())
    })
    .await;
    connected.deployment.wait_until_idle().await;
    assert_eq!(
        connected.connection().await.status,
        ConnectionStatus::Active
    );
    let other = connected.page(0).await;
    assert_eq!(other.status, Status::Active);
    assert_eq!(other.polling.open_request_from(), None);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_without_a_code_is_asked_again_before_it_counts() {
    let connected = connected().await;
    let error = json!({"error": {"type": "OAuthException", "message": "Error"}});
    let reply = |times: u64| {
        connected
            .reply(&json!([{"edge": "GET {id}", "status": 400, "body": error, "times": times}]));
    };
    let reads = connected.calls("GET {id}");
    reply(1);
    assert_eq!(connected.read_again(0).await.status, Status::Active);
    assert_eq!(connected.calls("GET {id}"), reads + 2);
    connected.advance(2 * MINUTE);
    reply(2);
    assert_eq!(connected.read_again(0).await.status, Status::NeedsLogin);
    connected.finish().await;
}
