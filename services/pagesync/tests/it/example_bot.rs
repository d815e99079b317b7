//! The example bot: a customer asks, and it answers with what pagesync knows.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use serde_json::{Value as Json, json};
use simulator::bytes::signature_256;

use crate::BACKEND;
use crate::support::api::{ApiClient, create_key};
use crate::support::deployment::APP_SECRET;
use crate::support::facebook::{ConnectedDeployment, DeploymentOptions, page_id_text};
use crate::support::{client, eventually, reserve_port};

const SCOPES: &str = "pages_show_list,pages_read_engagement,pages_manage_metadata,business_management,pages_messaging";
/// The person who writes to the Page.
const CUSTOMER: &str = "5501";

/// A running bot, which ends when it is dropped.
struct Bot(Child);

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bot {
    /// Starts the example and waits until it listens on `port`.
    async fn start(connected: &mut ConnectedDeployment, port: u16) -> Self {
        let api = ApiClient::start(connected, &["--scope", "read"]).await;
        let token_key = create_key(connected, &["--scope", "token"]);
        let mut running = connected.deployment.roles.iter();
        let tokens = running.find_map(|(_, running)| running.tokens);
        let script: PathBuf =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bot-python/bot.py");
        let child = Command::new("python3")
            .arg(script)
            .env("PAGESYNC_URL", &api.url)
            .env("PAGESYNC_KEY", &api.key)
            .env("PAGE_TOKENS_URL", format!("http://{}", tokens.unwrap()))
            .env("PAGE_TOKENS_KEY", token_key["key"].as_str().unwrap())
            .env("FACEBOOK_APP_SECRET", APP_SECRET)
            .env("GRAPH_URL", &connected.facebook_url)
            .env("BOT_LISTEN", format!("127.0.0.1:{port}"))
            .spawn()
            .unwrap();
        let bot = Self(child);
        eventually("the bot to listen", || async {
            post(port, "{}", "another secret").await
        })
        .await;
        bot
    }
}

/// Posts a body to the bot. Returns the status, or `None` if it does not answer.
async fn post(port: u16, body: &str, secret: &str) -> Option<u16> {
    let signature = signature_256(secret, body.as_bytes());
    let request = client().post(format!("http://127.0.0.1:{port}/"));
    let request = request
        .header("x-hub-signature-256", signature)
        .body(body.to_owned());
    Some(request.send().await.ok()?.status().as_u16())
}

/// Returns the texts that the Page wrote.
async fn answers(connected: &ConnectedDeployment) -> Vec<String> {
    let url = format!(
        "{}/_sim/pages/{}/conversation",
        connected.facebook_url,
        page_id_text(0)
    );
    let messages: Vec<Json> = client()
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let of_page = messages.iter().filter(|one| one["author"] == "page");
    of_page
        .map(|one| one["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Writes to the Page as a customer, and returns the answer.
async fn ask(connected: &ConnectedDeployment, text: &str) -> String {
    let before = answers(connected).await.len();
    let url = format!(
        "{}/_sim/pages/{}/messages",
        connected.facebook_url,
        page_id_text(0)
    );
    let message = json!({"from": CUSTOMER, "text": text});
    let sent = client().post(url).json(&message).send().await.unwrap();
    assert_eq!(sent.status(), 201);
    eventually("the answer of the bot", || async {
        answers(connected).await.into_iter().nth(before)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_answers_a_customer_with_a_value_that_a_webhook_has_just_changed() {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("there is no python3");
        return;
    }
    let port = reserve_port();
    let url = format!("http://127.0.0.1:{port}/webhook");
    let options = DeploymentOptions {
        extra: &[
            ("PAGESYNC_FORWARD_URL", &url),
            ("PAGESYNC_FORWARD_FIELDS", "messages"),
            ("PAGESYNC_SCOPES", SCOPES),
            ("PAGESYNC_TOKEN_LISTEN", "127.0.0.1:0"),
            ("PAGESYNC_VERIFY_AFTER", "1s"),
        ],
        ..DeploymentOptions::default()
    };
    let mut connected = ConnectedDeployment::start(BACKEND, options).await;
    assert_eq!(connected.connect().await.0, 200);
    eventually("the subscriptions to messages", || async {
        let facebook = connected.simulator.facebook();
        facebook
            .webhook_target(&page_id_text(0), "messages")
            .map(drop)
    })
    .await;
    // A question that comes before the bot runs is answered when it does.
    let early = json!({"from": CUSTOMER, "text": "hello?"});
    let page = page_id_text(0);
    connected
        .simulator
        .write_message(&page, &serde_json::from_value(early).unwrap())
        .unwrap();
    let bot = Bot::start(&mut connected, port).await;
    assert_eq!(post(port, "{}", "another secret").await, Some(401));
    let first = eventually("the first answer", || async {
        answers(&connected).await.into_iter().next()
    })
    .await;
    assert!(first.starts_with("Page 0: Ask me"), "{first}");

    let change = |fields: Json| {
        let fields = fields.as_object().unwrap().clone();
        connected.simulator.change(&page, fields).unwrap();
    };
    change(json!({"name": "Harbour Books"}));
    let answer = eventually("an answer with the new name", || async {
        let answer = ask(&connected, "Can I call you?").await;
        answer.starts_with("Harbour Books: ").then_some(answer)
    })
    .await;
    assert!(answer.contains("phone number"), "{answer}");
    // This webhook has no value, so that a read follows.
    change(json!({"phone": "+45 33 999 000"}));
    eventually("an answer with the new number", || async {
        let answer = ask(&connected, "Your number, please").await;
        answer.contains("+45 33 999 000").then_some(())
    })
    .await;
    let stored = connected.deployment.storage.everything_stored().await;
    assert!(!stored.contains("Your number, please"));
    drop(bot);
    connected.finish().await;
}
