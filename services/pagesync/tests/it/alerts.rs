//! Problems of which the operator is told.

use std::time::Duration;

use serde_json::{Value as Json, json};
use simulator::browser::{Decision, LoginBrowser};

use crate::api::deployment_of_client;
use crate::forwarding::message;
use crate::support::eventually;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, manual_clock, page_id_text,
};
use crate::support::receiver::{Answer, Receiver};
use crate::support::reference::Reference;

const ADA: &str = "200000000000001";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Starts a deployment with a manual clock, whose alerts go to a receiver.
async fn start(receiver: &Receiver, extra: &[(&str, &str)]) -> ConnectedDeployment {
    let extra = [&[("PAGESYNC_ALERT_URL", &*receiver.url)], extra].concat();
    let options = DeploymentOptions {
        extra: &extra,
        clock: manual_clock(),
        schedulers: 2,
        ..DeploymentOptions::default()
    };
    deployment_of_client(options).await
}

/// Returns the events and the kinds of the accepted messages.
fn events(receiver: &Receiver) -> Vec<(String, String)> {
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let received = receiver.received().into_iter();
    received
        .map(|post| (text(&post.json()["event"]), text(&post.json()["kind"])))
        .collect()
}

fn pair(event: &str, kind: &str) -> (String, String) {
    (event.to_owned(), kind.to_owned())
}

/// Sets whether Page 1 is published, and waits until a read has found it.
async fn publish(connected: &ConnectedDeployment, is_published: bool) {
    let mut page = connected.simulator.pages().remove(1);
    page.insert("is_published".to_owned(), json!(is_published));
    connected.simulator.put_page(&page).unwrap();
    connected.advance(2 * MINUTE);
    connected.read_again(1).await;
    assert_eq!(
        connected.field(1, "is_published").await,
        json!(is_published)
    );
}

fn listed(connected: &ConnectedDeployment) -> Json {
    connected.json(&["alert", "list"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_is_told_once_with_a_link_that_mends_it() {
    let receiver = Receiver::start().await;
    let connected = start(&receiver, &[("PAGESYNC_NAME", "<Bots>")]).await;
    let mut page = connected.simulator.pages().remove(0);
    page.insert("name".to_owned(), json!("Caf\u{e9} <!channel>"));
    connected.simulator.put_page(&page).unwrap();
    connected.advance(2 * MINUTE);
    connected.read_again(0).await;
    connected.end_login(ADA);
    connected.advance(2 * MINUTE);
    connected.read_again(1).await;

    let post = receiver.wait_for(1).await.remove(0);
    assert_eq!(post.headers["content-type"], "application/json");
    let message = post.json();
    assert_eq!(
        (&message["event"], &message["kind"], &message["client"]),
        (&json!("opened"), &json!("login_ended"), &json!("acme"))
    );
    let text = message["text"].as_str().unwrap();
    for part in [
        "pagesync ‹Bots›: a login has ended, client acme\n",
        "Ada",
        "on whom 3 Pages depend (Caf\u{e9} ‹!channel› (",
        "the person changed their password",
        "To log in again: http",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let link = message["alerts"][0]["link"].as_str().unwrap();
    assert!(text.contains(link), "{text}");
    let alerts = listed(&connected);
    Reference::load().check("list of alert", &alerts, "");
    assert_eq!(alerts[0]["id"], format!("login_ended.{ADA}"));
    assert_eq!(alerts[0]["state"], "open");

    let mut browser = LoginBrowser::new().unwrap();
    let callback = browser.log_in(link, &Decision::default()).await;
    let callback = callback.unwrap().unwrap();
    let (status, body) = connected.wait_for_login(&mut browser, &callback).await;
    assert_eq!(status, 200, "{body}");
    let resolved = receiver.wait_for(2).await.remove(1).json();
    assert_eq!(resolved["event"], "resolved");
    assert_eq!(resolved["alerts"][0]["link"], Json::Null);

    // Two schedulers ran, and nothing was told twice before this.
    publish(&connected, false).await;
    receiver.wait_for(3).await;
    let expected = [
        pair("opened", "login_ended"),
        pair("resolved", "login_ended"),
        pair("opened", "page_unpublished"),
    ];
    assert_eq!(events(&receiver), expected);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_accepted_is_sent_again_and_an_open_problem_is_repeated_daily() {
    let receiver = Receiver::start().await;
    let connected = start(&receiver, &[]).await;
    receiver.answer(Answer::Status(503));
    publish(&connected, false).await;
    receiver.wait_for(1).await;
    receiver.answer(Answer::Status(200));
    let told = eventually("an accepted message", || async {
        let alerts = listed(&connected);
        (alerts[0]["pending"] == json!([])).then_some(alerts)
    })
    .await;
    let id = told[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, format!("page_unpublished.{}", page_id_text(1)));
    assert!(events(&receiver).len() >= 2);
    receiver.forget();

    connected.advance(DAY);
    receiver.wait_for(1).await;
    connected.text(&["alert", "snooze", &id, "--hours", "300"]);
    let snoozed = &listed(&connected)[0]["snoozed_until"];
    assert!(snoozed.is_string(), "{snoozed}");
    publish(&connected, true).await;
    receiver.wait_for(2).await;
    let expected = [
        pair("reminder", "page_unpublished"),
        pair("resolved", "page_unpublished"),
    ];
    assert_eq!(events(&receiver), expected);
    let (code, _, error) = connected.run(&["alert", "snooze", "login_ended.1"], "");
    assert_eq!(code, 1);
    assert!(error.contains("`pagesync alert list` shows"), "{error}");
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_accepts_nothing_for_a_minute_is_told() {
    let (receiver, bot) = (Receiver::start().await, Receiver::start().await);
    // The bot counts as down when three deliveries in a row got no answer.
    bot.answer(Answer::Never);
    let connected = start(&receiver, &[("PAGESYNC_FORWARD_URL", &bot.url)]).await;
    for n in 0..3 {
        let body = message(&page_id_text(n), "planted");
        assert_eq!(connected.deployment.deliver(body).await, 200);
    }
    eventually("the problem", || async {
        let alerts = listed(&connected);
        (alerts[0]["kind"] == "bot_unreachable").then_some(())
    })
    .await;
    assert_eq!(listed(&connected)[0]["state"], "new");
    assert_eq!(receiver.received().len(), 0);
    connected.advance(MINUTE);
    let told = receiver.wait_for(1).await.remove(0).body;
    assert!(told.contains("nothing came within 20 s"), "{told}");
    assert!(!told.contains("planted") && !told.contains("secret"));
    bot.answer(Answer::Status(200));
    // Deliveries that have a record are sent again after at most ten minutes of the manual clock.
    eventually("the end of the problem", || async {
        connected.advance(Duration::from_secs(1));
        (receiver.received().len() >= 2).then_some(())
    })
    .await;
    let expected = [
        pair("opened", "bot_unreachable"),
        pair("resolved", "bot_unreachable"),
    ];
    assert_eq!(events(&receiver), expected);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_message_goes_to_every_channel_and_names_those_that_fail() {
    let (receiver, heartbeat) = (Receiver::start().await, Receiver::start().await);
    let extra = [("PAGESYNC_HEARTBEAT_URL", &*heartbeat.url)];
    let connected = start(&receiver, &extra).await;
    // The address of the heartbeat is called while all is well.
    let call = heartbeat.wait_for(1).await.remove(0);
    assert_eq!(call.body, "");
    let printed = connected.text(&["alert", "test"]);
    assert_eq!(
        printed,
        "url: accepted a test message\nheartbeat: accepted a call\n"
    );
    let test = receiver.wait_for(1).await.remove(0).json();
    assert_eq!(test["text"], "pagesync: test message\n- nothing is wrong");
    assert_eq!(
        (&test["event"], &test["kind"]),
        (&json!("test"), &Json::Null)
    );
    receiver.answer(Answer::Status(404));
    let (code, printed, error) = connected.run(&["alert", "test"], "");
    assert_eq!((code, &*printed), (1, "heartbeat: accepted a call\n"));
    assert!(error.contains("url: the receiver answered 404"), "{error}");
    assert!(!error.contains("in-the-address"), "{error}");
    connected.finish().await;
}
