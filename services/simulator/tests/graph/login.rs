//! Tests of the dialog, and of the browser that completes a login.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use reqwest::StatusCode;
use simulator::browser::{Decision, LoginBrowser};
use tokio::net::TcpListener;

use super::{Fixture, REDIRECT};

#[tokio::test]
async fn the_dialog_refuses_other_redirect_addresses_and_reports_a_denial() {
    let fixture = Fixture::new(1).await;
    let other = fixture.dialog().replace("callback", "elsewhere");
    let blocked = fixture.http.get(&other).send().await.unwrap();
    assert_eq!(blocked.status(), StatusCode::BAD_REQUEST);
    assert!(blocked.text().await.unwrap().contains("URL Blocked"));
    let form = fixture.http.get(fixture.dialog()).send().await.unwrap();
    let form = form.text().await.unwrap();
    assert!(
        form.contains(r#"name="pages" value="1""#) && form.contains("decision"),
        "{form}"
    );
    let denied = fixture
        .http
        .post(fixture.dialog())
        .form(&[("decision", "deny")])
        .send()
        .await
        .unwrap();
    let address = denied.headers()["location"].to_str().unwrap();
    assert!(
        address.contains("error=access_denied&error_code=200")
            && address.contains("error_reason=user_denied&state=s"),
        "{address}"
    );
}

#[tokio::test]
async fn the_login_browser_stores_the_cookie_of_each_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app_address = format!("http://{}", listener.local_addr().unwrap());
    let fixture = Fixture::new(1).await;
    let dialog = fixture.dialog();
    let login = async move || {
        let headers = [
            ("set-cookie", "a=b; HttpOnly".to_owned()),
            ("location", dialog.clone()),
        ];
        (StatusCode::FOUND, headers)
    };
    let callback = async |headers: HeaderMap| format!("{:?}", headers.get("cookie"));
    let router = Router::new()
        .route("/login", get(login))
        .route("/facebook/callback", get(callback));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut browser = LoginBrowser::new()
        .unwrap()
        .map_address("https://bot.example", &app_address);
    let address = browser
        .log_in("https://bot.example/login", &Decision::default())
        .await
        .unwrap()
        .unwrap();
    assert!(address.starts_with(REDIRECT), "{address}");
    let cookie = browser.get(&address).await.unwrap().text().await.unwrap();
    assert_eq!(cookie, r#"Some("a=b")"#);
}
