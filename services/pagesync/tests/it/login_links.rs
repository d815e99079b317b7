//! The links at which a login begins: invitations, and the request that Facebook asks again for
//! permissions that a person declined before.

use common::records::page_subscription;
use serde_json::json;
use simulator::browser::{Decision, LoginBrowser};

use crate::BACKEND;
use crate::login_flow::start;
use crate::support::facebook::{
    ConnectedDeployment, DeploymentOptions, page_id_text, status_and_body,
};
use crate::support::{client, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn fields_refused_for_a_missing_permission_are_subscribed_after_the_next_login() {
    let connected = start().await;
    let declined = Decision {
        declined: vec!["pages_manage_metadata".to_owned()],
        ..Decision::default()
    };
    assert_eq!(connected.connect_as(&declined).await.0, 200);
    assert!(connected.simulator.facebook().page_subscriptions.is_empty());
    let mut browser = LoginBrowser::new().unwrap();
    let link = format!("{}?rerequest=true", connected.login());
    let callback = browser.log_in(&link, &Decision::default()).await;
    let callback = callback.unwrap().unwrap();
    let (status, _) = connected.wait_for_login(&mut browser, &callback).await;
    assert_eq!(status, 200);
    eventually("the subscriptions", || async {
        let facebook = connected.simulator.facebook();
        let all = facebook.page_subscriptions.len() == 3;
        (all && facebook
            .page_subscriptions
            .values()
            .all(|fields| fields.contains("name")))
        .then_some(())
    })
    .await;
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_permission_is_reported_with_its_consequence() {
    let connected = start().await;
    let declined = Decision {
        declined: vec!["pages_manage_metadata".to_owned()],
        ..Decision::default()
    };
    let (status, body) = connected.connect_as(&declined).await;
    assert_eq!(status, 200);
    let missing = &body["connection"]["missing_permissions"][0];
    assert_eq!(missing["permission"], "pages_manage_metadata");
    assert!(
        missing["consequence"]
            .as_str()
            .unwrap()
            .contains("no webhook"),
        "{body}"
    );
    assert_eq!(
        body["polling_test"].as_array().unwrap().len(),
        3,
        "the Pages are read all the same"
    );
    let key = page_subscription::key(&model::id::PageId::parse(&page_id_text(0)).unwrap());
    let stored: page_subscription::PageSubscription =
        common::records::load_record(&*connected.deployment.store, &key)
            .await
            .unwrap()
            .unwrap()
            .value;
    assert!(stored.refused.contains("name"), "{stored:?}");

    // The dialog of a plain login does not ask again for what the person declined. The dialog of the
    // link that is shown does.
    let (mut browser, callback) = connected.visit(&Decision::default()).await;
    let (_, body) = connected.wait_for_login(&mut browser, &callback).await;
    assert_eq!(
        body["connection"]["missing_permissions"][0], *missing,
        "{body}"
    );
    let answer = browser.get_as(&callback, "text/html").await.unwrap();
    let page = answer.text().await.unwrap();
    assert!(page.contains(r#"href="login?rerequest=true""#), "{page}");
    let link = format!("{}?rerequest=true", connected.login());
    let callback = browser.log_in(&link, &Decision::default()).await;
    let callback = callback.unwrap().unwrap();
    let (_, body) = connected.wait_for_login(&mut browser, &callback).await;
    assert_eq!(
        body["connection"]["missing_permissions"],
        json!([]),
        "{body}"
    );
    let answer = browser.get_as(&callback, "text/html").await.unwrap();
    let page = answer.text().await.unwrap();
    assert!(
        page.contains("Connected") && !page.contains("rerequest"),
        "{page}"
    );
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_by_invitation_need_a_valid_invitation() {
    let extra = [
        ("PAGESYNC_LOGIN", "invited"),
        ("STATE_TOKEN_SECRET", "a-secret-for-invitations"),
    ];
    let connected = ConnectedDeployment::start(
        BACKEND,
        DeploymentOptions {
            extra: &extra,
            ..DeploymentOptions::default()
        },
    )
    .await;
    let (status, body) =
        status_and_body(client().get(connected.login()).send().await.unwrap()).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (403, &json!("not_invited"))
    );
    let secret = secrecy::SecretString::from(extra[1].1.to_owned());
    let until = connected
        .clock
        .now()
        .plus(std::time::Duration::from_secs(60));
    let user = model::id::UserId::parse("200000000000001").unwrap();
    let invitation = common::invitation::Invitation::Person(user).sign(&secret, until);
    let invited = format!("{}?invitation={invitation}", connected.login());
    assert_eq!(client().get(&invited).send().await.unwrap().status(), 302);
    let forged = format!("{}?invitation={}x", connected.login(), invitation);
    assert_eq!(client().get(&forged).send().await.unwrap().status(), 403);
    // The invitation of a login that was cancelled in the dialog is still valid.
    let mut browser = LoginBrowser::new().unwrap();
    let deny = Decision {
        deny: true,
        ..Decision::default()
    };
    let callback = browser.log_in(&invited, &deny).await.unwrap().unwrap();
    let answer = browser.get_as(&callback, "text/html").await.unwrap();
    assert_eq!(answer.status(), 403);
    let page = answer.text().await.unwrap();
    let link = format!(r#"href="login?invitation={invitation}""#);
    assert!(page.contains(&link), "{page}");
    let callback = browser.log_in(&invited, &Decision::default()).await;
    let callback = callback.unwrap().unwrap();
    let (status, body) = connected.wait_for_login(&mut browser, &callback).await;
    assert_eq!(
        (status, &body["connection"]["status"]),
        (200, &json!("active"))
    );
    connected.finish().await;
}
