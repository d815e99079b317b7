//! What Graph and the dialog refuse, and with which words: the simulator as a second opinion is worth
//! what it refuses.

#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test, with its line"
)]
#![expect(
    clippy::too_many_lines,
    reason = "a walk through what Graph refuses reads best whole"
)]

mod subscriptions;

use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Map, Value, json};
use simulator::bytes::hmac_hex;
use simulator::delivery::Faults;
use simulator::facebook::App;
use simulator::visitor::{Decision, Visitor};
use simulator::{Options, Simulator};
use tokio::net::TcpListener;

const APP: &str = "100200300400500";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const REDIRECT: &str = "https://bot.example/facebook/callback";

struct Scene {
    simulator: Simulator,
    base: String,
    http: Client,
}

impl Scene {
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
            faults: Faults::default(),
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

    /// A call with this token, proven; answers with status and body.
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
        self.bare(method, path, token, &all).await
    }

    async fn bare(
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

    fn dialog(&self, extra: &str) -> String {
        format!(
            "{}/v25.0/dialog/oauth?client_id={APP}&redirect_uri=https%3A%2F%2Fbot.example%2Ffacebook%2Fcallback&state=s&scope=pages_show_list,pages_read_engagement,pages_manage_metadata{extra}",
            self.base
        )
    }

    /// A code from the dialog.
    async fn code(&self, form: &[(&str, &str)]) -> String {
        let sent = self
            .http
            .post(self.dialog(""))
            .form(form)
            .send()
            .await
            .unwrap();
        assert_eq!(sent.status(), StatusCode::FOUND);
        let to = sent.headers()["location"].to_str().unwrap().to_owned();
        assert!(to.ends_with("#_=_"), "{to}");
        to.split("code=")
            .nth(1)
            .unwrap()
            .split('&')
            .next()
            .unwrap()
            .to_owned()
    }

    async fn exchange(&self, code: &str, redirect: &str, secret: &str) -> (u16, Value) {
        let form = [
            ("client_id", APP),
            ("client_secret", secret),
            ("redirect_uri", redirect),
            ("code", code),
        ];
        self.bare(Method::POST, "oauth/access_token", "", &form)
            .await
    }

    /// A person's token, all allowed.
    async fn token(&self) -> String {
        let code = self.code(&[("decision", "approve")]).await;
        let (status, body) = self.exchange(&code, REDIRECT, SECRET).await;
        assert_eq!(status, 200, "{body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    async fn page_token(&self, user: &str) -> String {
        let (_, body) = self.call(Method::GET, "me/accounts", user, &[]).await;
        body["data"][0]["access_token"].as_str().unwrap().to_owned()
    }
}

fn code_of(body: &Value) -> (u64, u64) {
    let number = |name: &str| body["error"][name].as_u64().unwrap_or(0);
    (number("code"), number("error_subcode"))
}

#[tokio::test]
async fn the_dialog_blocks_other_addresses_and_reports_a_denial() {
    let scene = Scene::new(1).await;
    let other = scene.dialog("").replace("callback", "elsewhere");
    let blocked = scene.http.get(&other).send().await.unwrap();
    assert_eq!(blocked.status(), StatusCode::BAD_REQUEST);
    assert!(blocked.text().await.unwrap().contains("URL Blocked"));
    let form = scene
        .http
        .get(scene.dialog(""))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        form.contains(r#"name="pages" value="1""#) && form.contains("decision"),
        "{form}"
    );
    let denied = scene
        .http
        .post(scene.dialog(""))
        .form(&[("decision", "deny")])
        .send()
        .await
        .unwrap();
    let to = denied.headers()["location"].to_str().unwrap();
    assert!(
        to.contains("error=access_denied&error_code=200")
            && to.contains("error_reason=user_denied&state=s"),
        "{to}"
    );
}

#[tokio::test]
async fn codes_work_once_for_their_address_and_secret_in_their_time() {
    let scene = Scene::new(1).await;
    let code = scene.code(&[("decision", "approve")]).await;
    let (status, body) = scene.exchange(&code, REDIRECT, "another secret").await;
    assert_eq!((status, code_of(&body)), (400, (1, 0)), "{body}");
    let (_, body) = scene
        .exchange(&code, "https://bot.example/other", SECRET)
        .await;
    assert_eq!(code_of(&body), (100, 36008));
    let (status, body) = scene.exchange(&code, REDIRECT, SECRET).await;
    assert_eq!((status, body["expires_in"].as_u64()), (200, Some(3600)));
    let (_, body) = scene.exchange(&code, REDIRECT, SECRET).await;
    assert_eq!(code_of(&body), (100, 36009));
    let late = scene.code(&[("decision", "approve")]).await;
    scene.simulator.facebook().ahead += 601;
    let (_, body) = scene.exchange(&late, REDIRECT, SECRET).await;
    assert_eq!(code_of(&body), (100, 36007));
}

#[tokio::test]
async fn tokens_live_as_long_as_what_they_came_from_and_need_their_proof() {
    let scene = Scene::new(1).await;
    let short = scene.token().await;
    let form = [
        ("grant_type", "fb_exchange_token"),
        ("client_id", APP),
        ("client_secret", SECRET),
        ("fb_exchange_token", short.as_str()),
    ];
    let (_, body) = scene
        .bare(Method::POST, "oauth/access_token", "", &form)
        .await;
    let long = body["access_token"].as_str().unwrap().to_owned();
    let (short_page, long_page) = (
        scene.page_token(&short).await,
        scene.page_token(&long).await,
    );
    assert_ne!(short_page, long_page);
    let (_, body) = scene.bare(Method::GET, "1", &long_page, &[]).await;
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("require an appsecret_proof"),
        "{body}"
    );
    let (_, body) = scene
        .bare(Method::GET, "1", &long_page, &[("appsecret_proof", "00")])
        .await;
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("Invalid appsecret_proof"),
        "{body}"
    );
    scene.simulator.facebook().ahead += 7200;
    let (_, body) = scene.call(Method::GET, "1", &short_page, &[]).await;
    assert_eq!(
        code_of(&body),
        (190, 463),
        "from a short token come short ones"
    );
    let (status, body) = scene.call(Method::GET, "1", &long_page, &[]).await;
    assert_eq!((status, &body["name"]), (200, &json!("P1")));
    let app = format!("{APP}|{SECRET}");
    let (_, body) = scene
        .bare(
            Method::GET,
            "debug_token",
            &app,
            &[("input_token", &long_page)],
        )
        .await;
    assert_eq!(
        (&body["data"]["type"], &body["data"]["expires_at"]),
        (&json!("PAGE"), &json!(0))
    );
    let (_, body) = scene
        .bare(Method::GET, "debug_token", &app, &[("input_token", &short)])
        .await;
    assert_eq!(
        (&body["data"]["is_valid"], &body["data"]["error"]["subcode"]),
        (&json!(false), &json!(463))
    );
}

#[tokio::test]
async fn lists_go_on_by_cursors_and_several_at_once_have_limits() {
    let scene = Scene::new(60).await;
    let user = scene.token().await;
    let (_, first) = scene
        .call(
            Method::GET,
            "me/accounts",
            &user,
            &[("fields", "id"), ("summary", "1")],
        )
        .await;
    assert_eq!(first["data"].as_array().unwrap().len(), 25, "the default");
    assert_eq!(first["summary"]["total_count"], 60);
    let after = first["paging"]["cursors"]["after"].as_str().unwrap();
    let (_, last) = scene
        .call(
            Method::GET,
            "me/accounts",
            &user,
            &[("limit", "50"), ("after", after)],
        )
        .await;
    assert_eq!(
        (
            last["data"].as_array().unwrap().len(),
            &last["paging"]["next"]
        ),
        (35, &Value::Null)
    );
    let (status, body) = scene
        .call(Method::GET, "me/accounts", &user, &[("limit", "0")])
        .await;
    assert_eq!((status, code_of(&body)), (400, (100, 0)));
    let (_, body) = scene
        .call(Method::GET, "me/accounts", &user, &[("after", "!!")])
        .await;
    assert_eq!(code_of(&body), (100, 0));
    let ids = |n: usize| {
        (1..=n)
            .map(|id| id.to_string())
            .collect::<Vec<_>>()
            .join(",")
    };
    let (_, body) = scene
        .call(
            Method::GET,
            "",
            &user,
            &[("ids", &ids(50)), ("fields", "name")],
        )
        .await;
    assert_eq!(body["50"]["name"], "P50");
    let (_, body) = scene
        .call(Method::GET, "", &user, &[("ids", &ids(51))])
        .await;
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("Too many IDs. Maximum: 50. Provided: 51.")
    );
    let (_, body) = scene
        .call(Method::GET, "", &user, &[("ids", "1,999")])
        .await;
    assert_eq!(code_of(&body), (100, 33), "one bad id fails them all");
    let part =
        |id: &str| json!({"method": "GET", "relative_url": format!("v25.0/{id}?fields=name")});
    let batch = json!([part("1"), part("999")]).to_string();
    let (_, body) = scene
        .call(Method::POST, "", &user, &[("batch", &batch)])
        .await;
    assert_eq!(
        (&body[0]["code"], &body[1]["code"]),
        (&json!(200), &json!(400))
    );
    assert!(
        body[0]["body"].as_str().unwrap().contains(r#""name":"P1""#),
        "a text"
    );
    let parts: Vec<Value> = (0..51).map(|_| part("1")).collect();
    let (_, body) = scene
        .call(
            Method::POST,
            "",
            &user,
            &[("batch", &Value::from(parts).to_string())],
        )
        .await;
    assert_eq!(body["error"]["type"], "GraphBatchException");
    let (_, german) = scene
        .call(Method::GET, "1", &user, &[("fields", "category")])
        .await;
    let (_, english) = scene
        .call(
            Method::GET,
            "1",
            &user,
            &[("fields", "category"), ("locale", "en_US")],
        )
        .await;
    assert_ne!(german["category"], english["category"]);
}

#[tokio::test]
async fn a_visitor_keeps_the_cookie_of_each_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = format!("http://{}", listener.local_addr().unwrap());
    let scene = Scene::new(1).await;
    let dialog = scene.dialog("");
    let login = async move || {
        (
            [
                ("set-cookie", "a=b; HttpOnly"),
                ("location", dialog.as_str()),
            ]
            .map(|(name, value)| (name, value.to_owned())),
            StatusCode::FOUND,
        )
    };
    let login = async move || {
        let (headers, status) = login().await;
        (status, headers)
    };
    let back = async |headers: axum::http::HeaderMap| format!("{:?}", headers.get("cookie"));
    let router = Router::new()
        .route("/login", get(login))
        .route("/facebook/callback", get(back));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut visitor = Visitor::new()
        .unwrap()
        .reaching("https://bot.example", &ours);
    let callback = visitor
        .log_in("https://bot.example/login", &Decision::default())
        .await
        .unwrap()
        .unwrap();
    assert!(callback.starts_with(REDIRECT), "{callback}");
    let seen = visitor.get(&callback).await.unwrap().text().await.unwrap();
    assert_eq!(seen, r#"Some("a=b")"#);
}
