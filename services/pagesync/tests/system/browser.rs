//! A login in a real Chromium, with us and Facebook on different sites: 127.0.0.1 and localhost. The
//! cookie that binds the login must come back with a navigation from another site.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;

use crate::support::facebook::{Connected, Scene};
use crate::support::{TestBackend, client, own_port, within};

/// A chromedriver that ends with the test.
struct Driver {
    child: Child,
    port: u16,
}

impl Driver {
    async fn start() -> Self {
        let port = own_port();
        let child = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver: ./test installs it");
        let http = client();
        let status = format!("http://127.0.0.1:{port}/status");
        within(Duration::from_secs(120), "chromedriver", || async {
            let answer = http.get(&status).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        Self { child, port }
    }

    /// A browser with a profile of its own.
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

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn text(browser: &Client) -> String {
    // A page that is just being loaded again has no body to read.
    let body = browser.wait().for_element(Locator::Css("body")).await;
    match body {
        Ok(body) => body.text().await.unwrap_or_default(),
        Err(_) => String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_across_sites_and_another_browser_cannot_finish_it() {
    let scene = Scene {
        dialog_host: "localhost",
        ..Scene::default()
    };
    let connected = Connected::start(TestBackend::Embedded, scene).await;
    let driver = Driver::start().await;
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
        page.contains("3 Pages") || page.contains("Looking for"),
        "{page}"
    );
    within(
        Duration::from_secs(120),
        "the end of the progress",
        || async { text(&person).await.contains("Page 2").then_some(()) },
    )
    .await;
    let callback = person.current_url().await.unwrap();
    assert_eq!(callback.host_str(), Some("127.0.0.1"));
    assert!(
        !callback.as_str().contains("code="),
        "the code is gone from the address: {callback}"
    );
    let hidden = person
        .execute("return document.cookie", Vec::new())
        .await
        .unwrap();
    assert_eq!(hidden, json!(""), "no script reads the cookie");

    let thief = driver.browser().await;
    thief.goto(callback.as_str()).await.unwrap();
    assert!(text(&thief).await.contains("began in another browser"));
    // Nor with a cookie of its own.
    thief.goto(&connected.login()).await.unwrap();
    thief.goto(callback.as_str()).await.unwrap();
    assert!(text(&thief).await.contains("began in another browser"));

    person.goto(&connected.login()).await.unwrap();
    person
        .find(Locator::Css("#deny"))
        .await
        .unwrap()
        .click()
        .await
        .unwrap();
    within(Duration::from_secs(120), "the denial", || async {
        text(&person)
            .await
            .contains("access was not allowed")
            .then_some(())
    })
    .await;
    person.close().await.unwrap();
    thief.close().await.unwrap();
    connected.finish().await;
}
