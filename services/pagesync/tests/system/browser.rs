//! A login in a real Chromium. pagesync runs on the site 127.0.0.1 and Facebook on the site
//! localhost, so the browser must send the login cookie after a redirect from another site.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::support::facebook::{ConnectedDeployment, DeploymentOptions};
use crate::support::{TestBackend, client, reserve_port, within};

/// A chromedriver process that ends with the test.
struct ChromeDriver {
    child: Child,
    port: u16,
}

impl ChromeDriver {
    /// Starts a chromedriver and waits until it answers.
    async fn start() -> Self {
        let port = reserve_port();
        let child = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is missing; ./test installs it");
        let http = client();
        let status = format!("http://127.0.0.1:{port}/status");
        within(Duration::from_secs(120), "chromedriver", || async {
            let answer = http.get(&status).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        Self { child, port }
    }

    /// Starts a browser with a new profile.
    async fn browser(&self) -> Client {
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let options = json!({"goog:chromeOptions": {"args": arguments}});
        let capabilities: Capabilities = options.as_object().cloned().unwrap();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        builder
            .connect(&format!("http://127.0.0.1:{}", self.port))
            .await
            .unwrap()
    }
}

impl Drop for ChromeDriver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the text of the page that a browser shows.
async fn text(browser: &Client) -> String {
    // The body may disappear while the browser reloads the page.
    let body = browser.wait().for_element(Locator::Css("body")).await;
    match body {
        Ok(body) => body.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_across_sites_and_another_browser_cannot_complete_the_login() {
    let scene = DeploymentOptions {
        dialog_host: "localhost",
        ..DeploymentOptions::default()
    };
    let connected = ConnectedDeployment::start(TestBackend::Embedded, scene).await;
    let driver = ChromeDriver::start().await;
    let person = driver.browser().await;
    person.goto(&connected.login()).await.unwrap();
    let dialog = person.current_url().await.unwrap();
    assert_eq!(dialog.host_str(), Some("localhost"), "{dialog}");
    assert!(text(&person).await.contains("Page 0"));
    person
        .find(Locator::Css("#approve"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    let page = within(Duration::from_secs(120), "the connected Pages", || async {
        let shown = text(&person).await;
        shown.contains("Connected as Ada Operator").then_some(shown)
    })
    .await;
    assert!(
        page.contains("3 Pages") || page.contains("Reading your Pages"),
        "{page}"
    );
    within(
        Duration::from_secs(120),
        "the login to be complete",
        || async { text(&person).await.contains("Page 2").then_some(()) },
    )
    .await;
    let callback = person.current_url().await.unwrap();
    assert_eq!(callback.host_str(), Some("127.0.0.1"));
    assert!(
        !callback.as_str().contains("code="),
        "the address contains no code: {callback}"
    );
    let visible_cookies = person
        .execute("return document.cookie", Vec::new())
        .await
        .unwrap();
    assert_eq!(visible_cookies, json!(""), "no script can read the cookie");

    let other = driver.browser().await;
    other.goto(callback.as_str()).await.unwrap();
    assert!(text(&other).await.contains("began in another browser"));
    // A browser with the cookie of another login is refused as well.
    other.goto(&connected.login()).await.unwrap();
    other.goto(callback.as_str()).await.unwrap();
    assert!(text(&other).await.contains("began in another browser"));

    person.goto(&connected.login()).await.unwrap();
    person
        .find(Locator::Css("#deny"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    within(
        Duration::from_secs(120),
        "the report of the denial",
        || async {
            text(&person)
                .await
                .contains("access was not allowed")
                .then_some(())
        },
    )
    .await;
    person.close().await.unwrap();
    other.close().await.unwrap();
    connected.finish().await;
}
