//! The limits of logins, which count for each client, and logins whose state has expired.

use simulator::browser::Decision;

use crate::BACKEND;
use crate::support::client;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, manual_clock};

/// Sends a request as the client with the address `from`, behind a trusted proxy.
async fn get_from(from: &str, url: &str, cookie: &str) -> reqwest::Response {
    let request = client().get(url).header("x-forwarded-for", from);
    request.header("cookie", cookie).send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_keeps_no_other_from_logging_in() {
    let options = DeploymentOptions {
        extra: &[("PAGESYNC_TRUSTED_PROXIES", "127.0.0.1")],
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let login = connected.login();
    let callback = format!("{}/facebook/callback", connected.public);
    let began = std::time::Instant::now();
    let (mut begun, mut exchanged) = (0, 0);
    for n in 0..150 {
        // The client invents the entries before that of the proxy, and changes its address within
        // its network.
        let from = format!("203.0.113.{n}, 2001:db8:0:1::{n:x}");
        let answer = get_from(&from, &login, "").await;
        if answer.status() == 429 {
            continue;
        }
        assert_eq!(answer.status(), 302);
        begun += 1;
        let dialog = answer.headers()[reqwest::header::LOCATION]
            .to_str()
            .unwrap();
        let dialog = reqwest::Url::parse(dialog).unwrap();
        let (_, state) = dialog
            .query_pairs()
            .find(|(name, _)| name == "state")
            .unwrap();
        let cookie = answer.headers()[reqwest::header::SET_COOKIE]
            .to_str()
            .unwrap();
        let invented = format!("{callback}?code=invented&state={state}");
        let answer = get_from(&from, &invented, cookie.split(';').next().unwrap()).await;
        match answer.status().as_u16() {
            429 => {}
            status => {
                assert_eq!(status, 400);
                exchanged += 1;
            }
        }
    }
    let seconds = began.elapsed().as_secs() + 1;
    assert!(
        (60..=60 + seconds).contains(&begun),
        "{begun} logins in {seconds} s"
    );
    assert!(
        (30..=30 + seconds / 2 + 1).contains(&exchanged),
        "{exchanged} in {seconds} s"
    );
    let calls: u64 = connected.calls("POST oauth/access_token");
    assert_eq!(calls, exchanged);
    for n in 0..40 {
        let answer = get_from(&format!("198.51.100.{n}"), &login, "").await;
        assert_eq!(answer.status(), 302);
    }
    assert_eq!(connected.connect().await.0, 200);
    connected.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_state_still_gets_the_answer_that_its_login_got() {
    let options = DeploymentOptions {
        clock: manual_clock(),
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(BACKEND, options).await;
    let (mut visitor, callback) = connected.visit(&Decision::default()).await;
    assert_eq!(visitor.get(&callback).await.unwrap().status(), 200);
    connected
        .clock
        .advance(std::time::Duration::from_secs(1800));
    assert_eq!(visitor.get(&callback).await.unwrap().status(), 200);
    assert_eq!(connected.calls("POST oauth/access_token"), 2);
    connected.finish().await;
}
