//! Polls of Pages: verification reads, values that vanish, invalid replies of Graph, rate limits
//! and result pages.

use std::time::Duration;

use common::records::rate_limit;
use model::field::FieldName;
use model::page::Status;
use serde_json::{Value as Json, json};

use crate::BACKEND;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, field, manual_clock, page_id_text,
};

/// Starts a deployment with three connected Pages and a clock that only the test advances.
async fn connected() -> ConnectedDeployment {
    let scene = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    // Later reads must not happen in the same second as the read of the login.
    connected.advance(Duration::from_secs(61));
    connected
}

/// Changes fields of Page `n` at Facebook, which sends webhooks about it.
fn change(connected: &ConnectedDeployment, n: usize, fields: &Json) {
    connected
        .simulator
        .change(&page_id_text(n), fields.as_object().cloned().unwrap())
        .unwrap();
}

/// Changes Page `n` at Facebook without a webhook.
fn change_silently(
    connected: &ConnectedDeployment,
    n: usize,
    change: impl FnOnce(&mut simulator::pages::Page),
) {
    let mut page = connected
        .simulator
        .pages()
        .into_iter()
        .find(|page| page["id"] == page_id_text(n))
        .unwrap();
    change(&mut page);
    connected.simulator.put_page(&page).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_shows_at_once_and_a_phone_number_after_the_verification_read() {
    let scene = DeploymentOptions {
        extra: &[("PAGESYNC_VERIFY_AFTER", "10s")],
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, scene).await;
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(Duration::from_secs(61));
    change(
        &connected,
        0,
        &json!({"name": "Renamed", "phone": "+49 30 2"}),
    );
    let page = eventually("the new name", || async {
        let page = connected.page(0).await;
        (field(&page, "name") == json!("Renamed")
            && page.polling.has_open_notification_or_request())
        .then_some(page)
    })
    .await;
    assert_eq!(
        field(&page, "phone"),
        json!("+49 30 1"),
        "the webhook has no value"
    );
    assert_eq!(page.confirmed_at(&FieldName::parse("name").unwrap()), None);
    assert_eq!(connected.calls("GET {id}"), 0);
    connected.advance(Duration::from_secs(60));
    let page = eventually("the verification read", || async {
        let page = connected.page(0).await;
        (!page.polling.has_open_notification_or_request()).then_some(page)
    })
    .await;
    assert_eq!(field(&page, "phone"), json!("+49 30 2"));
    assert!(
        page.confirmed_at(&FieldName::parse("name").unwrap())
            .is_some()
    );
    assert_eq!(connected.calls("GET {id}"), 1);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_vanished_is_cleared_by_the_second_read_without_it() {
    let connected = connected().await;
    change_silently(&connected, 0, |page| drop(page.remove("phone")));
    let page = connected.read_again(0).await;
    assert_eq!(
        field(&page, "phone"),
        json!("+49 30 1"),
        "one read is not enough"
    );
    assert!(
        page.polling.has_open_notification_or_request(),
        "a second read is requested"
    );
    connected.advance(Duration::from_secs(61));
    eventually("the second read", || async {
        (connected.field(0, "phone").await == Json::Null).then_some(())
    })
    .await;
    let page = connected.page(0).await;
    assert!(!page.polling.has_open_notification_or_request() && page.status == Status::Active);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_loses_three_fields_at_once_keeps_their_values_and_is_degraded() {
    let connected = connected().await;
    let reply =
        json!([{"edge": "GET {id}", "patch": {"phone": null, "about": null, "website": null}}]);
    connected.reply(&reply);
    let page = connected.read_again(0).await;
    assert_eq!(page.status, Status::Degraded);
    assert_eq!(field(&page, "about"), json!("about"));
    connected.advance(Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!(page.status, Status::Active);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_reply_of_graph_changes_nothing_and_the_read_is_retried() {
    let connected = connected().await;
    let id = page_id_text(0);
    let other = page_id_text(1);
    let object = json!({"id": id, "name": "Invalid"});
    let replies = [
        (
            "an error with status 200",
            json!({"body": {"error": {"message": "x", "code": 2}}}),
        ),
        (
            "an error without a code",
            json!({"status": 400, "body": {"error": {"message": "x"}}}),
        ),
        (
            "an error whose code is a string",
            json!({"status": 400, "body": {"error": {"message": "x", "code": "2"}}}),
        ),
        (
            "another Page",
            json!({"body": {"id": other, "name": "Invalid"}}),
        ),
        ("HTML instead of JSON", json!({"body": "<html>"})),
        ("a list instead of an object", json!({"body": [1]})),
        (
            "two Date headers",
            json!({"body": object, "headers": {"date": "Sun, 22 Nov 2026 10:00:00 GMT\nSun, 22 Nov 2026 10:00:01 GMT"}}),
        ),
        (
            "a Date header that is no date",
            json!({"body": object, "headers": {"date": "soon"}}),
        ),
        (
            "an Age of more than eleven days",
            json!({"body": object, "headers": {"age": "999999"}}),
        ),
        (
            "a redirect",
            json!({"status": 302, "body": "", "headers": {"location": "http://169.254.169.254/"}}),
        ),
    ];
    for (name, mut reply) in replies {
        reply["edge"] = json!("GET {id}");
        connected.reply(&json!([reply]));
        connected.advance(Duration::from_secs(61));
        let page = connected.read_again(0).await;
        assert_eq!(field(&page, "name"), json!("Page 0"), "{name}");
        assert!(
            page.polling.failures > 0 && page.polling.has_open_notification_or_request(),
            "{name}"
        );
    }
    connected.simulator.facebook().clock_offset_seconds += 400 * 24 * 3600;
    connected.advance(Duration::from_secs(61));
    let failures = connected.page(0).await.polling.failures;
    let page = connected.read_again(0).await;
    assert!(
        page.polling.failures > failures,
        "a Date more than a year ahead of this host"
    );
    connected.simulator.facebook().clock_offset_seconds -= 400 * 24 * 3600;
    connected.advance(Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!((page.polling.failures, page.status), (0, Status::Active));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_an_unexpected_type_are_stored() {
    let connected = connected().await;
    let patch = json!({"fan_count": "12", "location": "Main Street", "picture": {"data": null}, "name": ["a", {"b": 1}]});
    connected.reply(&json!([{"edge": "GET {id}", "patch": patch}]));
    let page = connected.read_again(0).await;
    assert_eq!(field(&page, "fan_count"), json!("12"));
    assert_eq!(field(&page, "location"), json!("Main Street"));
    assert_eq!(field(&page, "name"), json!(["a", {"b": 1}]));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_determines_the_status_of_the_page_and_the_time_of_the_retry() {
    let connected = connected().await;
    let hour = 3600;
    let cases = [
        ((190, Some(460)), Status::NeedsLogin, 24 * hour),
        ((10, None), Status::NeedsPermission, 24 * hour),
        ((100, Some(33)), Status::Unreachable, 24 * hour),
        ((2, None), Status::Unreachable, 0),
    ];
    for ((code, subcode), status, min_delay) in cases {
        connected.advance(Duration::from_secs(61));
        let error = json!({"message": "x", "type": "OAuthException", "code": code, "error_subcode": subcode});
        connected.reply(&json!([{"edge": "GET {id}", "status": 400, "body": {"error": error}}]));
        let page = connected.read_again(0).await;
        assert_eq!(page.status, status, "{code}");
        let delay = connected
            .clock
            .now()
            .until(page.polling.not_before.unwrap())
            .as_secs();
        assert!(
            delay >= min_delay && delay <= min_delay.max(7 * hour),
            "{code}: in {delay} s"
        );
        assert_eq!(field(&page, "name"), json!("Page 0"), "known values stay");
    }
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_page_token_is_replaced_by_a_connection_poll() {
    let connected = connected().await;
    for token in connected.simulator.facebook().tokens.values_mut() {
        if token.owner == simulator::token::TokenOwner::Page(page_id_text(0)) {
            token.invalid_subcode = Some(190);
        }
    }
    connected.advance(Duration::from_secs(2 * 3600));
    let connection_polls = connected.calls("GET me/accounts");
    connected.read_again(0).await;
    eventually("the Page to be active again", || async {
        let page = connected.page(0).await;
        let polled = connected.calls("GET me/accounts") == connection_polls + 1;
        (page.status == Status::Active && polled).then_some(())
    })
    .await;
    connected.advance(Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!((page.status, page.polling.failures), (Status::Active, 0));
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_rate_limit_blocks_every_call_until_it_ends() {
    let connected = connected().await;
    let error = json!({"message": "(#4) Application request limit reached", "type": "OAuthException", "is_transient": true, "code": 4});
    connected.reply(&json!([{"edge": "GET {id}", "status": 403, "body": {"error": error}}]));
    let page = connected.read_again(0).await;
    assert_eq!(
        page.status,
        Status::Active,
        "a rate limit does not change the status of a Page"
    );
    assert_eq!(page.polling.failures, 0);
    let stored = rate_limit::find(
        &*connected.deployment.store,
        rate_limit::APP_BUCKET,
        connected.clock.now(),
    )
    .await
    .unwrap();
    assert!(stored.blocked_until > connected.clock.now());
    let id = model::id::PageId::parse(&page_id_text(1)).unwrap();
    crate::support::request_read(&*connected.deployment.store, &id, connected.clock.now())
        .await
        .unwrap();
    let reads = connected.calls("GET {id}");
    // Both Pages are due, and the scheduler claims neither while the rate limit blocks calls.
    let due = connected
        .deployment
        .store
        .next_due(model::queue_name::QueueName::PollsNow, 10)
        .await
        .unwrap();
    assert_eq!(due.len(), 2, "{due:?}");
    connected.advance(Duration::from_secs(6 * 60));
    eventually("both Pages to be read", || async {
        (connected.calls("GET {id}") == reads + 2).then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_near_the_rate_limit_defers_daily_polls() {
    let connected = connected().await;
    let usage = r#"{"call_count":93,"total_cputime":15,"total_time":12}"#;
    connected.reply(&json!([{"edge": "GET {id}", "headers": {"x-app-usage": usage}}]));
    connected.read_again(0).await;
    let stored = eventually("the usage to be stored", || async {
        let stored = rate_limit::find(
            &*connected.deployment.store,
            rate_limit::APP_BUCKET,
            connected.clock.now(),
        )
        .await
        .unwrap();
        (stored.percent == 93).then_some(stored)
    })
    .await;
    assert!(stored.deferred_until > connected.clock.now());
    assert!(
        stored.blocked_until <= connected.clock.now(),
        "requested reads are not blocked"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_halved_after_too_much_data_and_an_empty_result_page_does_not_end_the_poll() {
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            pages: 40,
            ..DeploymentOptions::default()
        },
    )
    .await;
    {
        let mut facebook = connected.simulator.facebook();
        facebook.graph_faults.max_limit = 30;
        facebook.graph_faults.empty_first_page = true;
    }
    let (status, body) = connected.connect().await;
    assert_eq!(
        (status, body["pages"]["data"].as_array().unwrap().len()),
        (200, 40)
    );
    // Limits of 100 and 50 are refused. With a limit of 25, an empty result page and two others
    // follow.
    assert_eq!(connected.calls("GET me/accounts"), 5);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_address_is_never_followed_and_a_repeated_cursor_ends_the_poll() {
    let connected = ConnectedDeployment::start(BACKEND, DeploymentOptions::default()).await;
    let row = json!({"id": page_id_text(0), "name": "Page 0", "access_token": "EAASx"});
    let listed = |next: &str, after: &str| json!({"edge": "GET me/accounts", "body": {"data": [row], "paging": {"next": next, "cursors": {"after": after}}}});
    let elsewhere = connected.facebook_url.replace("127.0.0.1", "localhost") + "/_sim/pages";
    connected.reply(&json!([
        listed(&elsewhere, "cursor"),
        listed("file:///etc/passwd", "cursor")
    ]));
    let (status, body) = connected.connect_once().await;
    assert_eq!(status, 200);
    assert_eq!(
        connected.calls("GET me/accounts"),
        2,
        "a repeated cursor ends the poll"
    );
    assert_eq!(body["connection"]["status"], "pending");
    let problem = connected.connection().await.problem.unwrap();
    assert!(problem.contains("does not end"), "{problem}");
    connected.reply(&json!([listed("http://169.254.169.254/", "../../x?y=1")]));
    assert_eq!(connected.connect_once().await.0, 200);
    let problem = connected.connection().await.problem.unwrap();
    assert!(problem.contains("usable cursor"), "{problem}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_special_characters_is_sent_unchanged_with_its_proof() {
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            clock: manual_clock(),
            ..DeploymentOptions::default()
        },
    )
    .await;
    connected.simulator.facebook().graph_faults.token_suffix = "+/=&%?#ZDZD".to_owned();
    assert_eq!(connected.connect().await.0, 200);
    connected.advance(Duration::from_secs(61));
    let page = connected.read_again(0).await;
    assert_eq!((page.polling.failures, page.status), (0, Status::Active));
    connected.finish().await;
}
