//! Tests of the answers and refusals of Graph and the dialog, with Graph's exact error codes and
//! texts.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]

mod lists;
mod login;
mod subscriptions;
mod tokens;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use simulator::bytes::hmac_hex;
use simulator::delivery::DeliveryFaults;
use simulator::facebook::App;
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

const APP: &str = "100200300400500";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const APP_TOKEN: &str = "100200300400500|0123456789abcdef0123456789abcdef";
const REDIRECT: &str = "https://bot.example/facebook/callback";

/// A simulator without subscriptions, and a client that follows no redirects.
struct Fixture {
    simulator: Simulator,
    base: String,
    http: Client,
}

impl Fixture {
    /// Starts a simulator with the Pages 1 to `pages`.
    async fn new(pages: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let simulator = Simulator::start(&Options {
            app: App {
                id: APP.to_owned(),
                secret: SECRET.to_owned(),
                redirect_uris: vec![REDIRECT.to_owned()],
            },
            callback: None,
            seed: 3,
            delivery_faults: DeliveryFaults::default(),
        });
        for n in 1..=pages {
            let page = json!({"id": n.to_string(), "name": format!("P{n}"), "category": "Café"});
            simulator.put_page(page.as_object().unwrap()).unwrap();
        }
        tokio::spawn(simulator::serve(simulator.clone(), listener));
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            simulator,
            base,
            http,
        }
    }

    /// Calls Graph with a token and its proof. Returns the status and the body.
    async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        parameters: &[(&str, &str)],
    ) -> (u16, Value) {
        let proof = hmac_hex(SECRET, token.as_bytes());
        let all: Vec<(&str, &str)> = parameters
            .iter()
            .copied()
            .chain([("appsecret_proof", proof.as_str())])
            .collect();
        self.call_without_proof(method, path, token, &all).await
    }

    async fn call_without_proof(
        &self,
        method: Method,
        path: &str,
        token: &str,
        parameters: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut request = self
            .http
            .request(method.clone(), format!("{}/v25.0/{path}", self.base));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        request = if method == Method::POST {
            request.form(parameters)
        } else {
            request.query(parameters)
        };
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    /// Sends a GET to Graph with a token and its proof. Returns the status and the body.
    async fn get(&self, path: &str, token: &str, parameters: &[(&str, &str)]) -> (u16, Value) {
        self.call(Method::GET, path, token, parameters).await
    }

    /// Sets the simulated clock to an instant in UNIX seconds.
    fn set_time(&self, to: i64) {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let offset = to - i64::try_from(now).unwrap();
        self.simulator.facebook().clock_offset_seconds = offset;
    }

    /// Returns the answer at an address that the simulator has returned.
    async fn follow(&self, address: &str) -> Value {
        assert!(address.starts_with(&self.base), "{address}");
        let answer = self.http.get(address).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Returns the address of the dialog.
    fn dialog(&self) -> String {
        format!(
            "{}/v25.0/dialog/oauth?client_id={APP}&redirect_uri=https%3A%2F%2Fbot.example%2Ffacebook%2Fcallback&state=s&scope=pages_show_list,pages_read_engagement,pages_manage_metadata",
            self.base
        )
    }

    /// Allows every Page and permission in the dialog. Returns the code.
    async fn code(&self) -> String {
        let request = self.http.post(self.dialog());
        let answer = request.form(&[("decision", "approve")]).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::FOUND);
        let address = answer.headers()["location"].to_str().unwrap();
        assert!(address.ends_with("#_=_"), "{address}");
        let code = address.split("code=").nth(1).unwrap();
        code.split('&').next().unwrap().to_owned()
    }

    async fn exchange(&self, code: &str, redirect: &str, secret: &str) -> (u16, Value) {
        let form = [
            ("client_id", APP),
            ("client_secret", secret),
            ("redirect_uri", redirect),
            ("code", code),
        ];
        self.call_without_proof(Method::POST, "oauth/access_token", "", &form)
            .await
    }

    /// Returns the token of a person who allowed every Page and permission.
    async fn user_token(&self) -> String {
        let (status, body) = self.exchange(&self.code().await, REDIRECT, SECRET).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    /// Returns the token of the first Page of a person.
    async fn page_token(&self, user_token: &str) -> String {
        let (_, body) = self.get("me/accounts", user_token, &[]).await;
        body["data"][0]["access_token"].as_str().unwrap().to_owned()
    }
}

/// Returns the code and the subcode of an error; zero for each that is absent.
fn code_of(body: &Value) -> (u64, u64) {
    let number = |name: &str| body["error"][name].as_u64().unwrap_or(0);
    (number("code"), number("error_subcode"))
}

/// Returns the message of an error.
fn message_of(body: &Value) -> &str {
    body["error"]["message"].as_str().unwrap()
}
