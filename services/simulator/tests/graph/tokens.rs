//! Tests of codes and tokens: exchange, expiry and proof.

use reqwest::Method;
use serde_json::{Value, json};

use super::{APP, APP_TOKEN, Fixture, REDIRECT, SECRET, code_of, message_of};

#[tokio::test]
async fn a_code_is_valid_once_with_its_redirect_address_and_secret_until_it_expires() {
    let fixture = Fixture::new(1).await;
    let code = fixture.code().await;
    let (status, body) = fixture.exchange(&code, REDIRECT, "another secret").await;
    assert_eq!((status, code_of(&body)), (400, (1, 0)), "{body}");
    let (_, body) = fixture
        .exchange(&code, "https://bot.example/other", SECRET)
        .await;
    assert_eq!(code_of(&body), (100, 36008));
    let (status, body) = fixture.exchange(&code, REDIRECT, SECRET).await;
    assert_eq!((status, body["expires_in"].as_u64()), (200, Some(3600)));
    let (_, body) = fixture.exchange(&code, REDIRECT, SECRET).await;
    assert_eq!(code_of(&body), (100, 36009));
    let late = fixture.code().await;
    fixture.simulator.facebook().clock_offset_seconds += 601;
    let (_, body) = fixture.exchange(&late, REDIRECT, SECRET).await;
    assert_eq!(code_of(&body), (100, 36007));
}

/// Exchanges a short-lived token. Returns the long-lived token.
async fn long_lived(fixture: &Fixture, short: &str) -> String {
    let form = [
        ("grant_type", "fb_exchange_token"),
        ("client_id", APP),
        ("client_secret", SECRET),
        ("fb_exchange_token", short),
    ];
    let (_, body) = fixture
        .call_without_proof(Method::POST, "oauth/access_token", "", &form)
        .await;
    body["access_token"].as_str().unwrap().to_owned()
}

/// Returns the data of `debug_token` about a token.
async fn debug_token(fixture: &Fixture, token: &str) -> Value {
    let input = [("input_token", token)];
    let (_, body) = fixture
        .call_without_proof(Method::GET, "debug_token", APP_TOKEN, &input)
        .await;
    body["data"].clone()
}

#[tokio::test]
async fn page_tokens_expire_like_the_token_they_come_from_and_need_a_proof() {
    let fixture = Fixture::new(1).await;
    let short = fixture.user_token().await;
    let long = long_lived(&fixture, &short).await;
    let short_page = fixture.page_token(&short).await;
    let long_page = fixture.page_token(&long).await;
    assert_ne!(short_page, long_page);
    let (_, body) = fixture
        .call_without_proof(Method::GET, "1", &long_page, &[])
        .await;
    let message = message_of(&body);
    assert!(message.contains("require an appsecret_proof"), "{body}");
    let wrong = [("appsecret_proof", "00")];
    let (_, body) = fixture
        .call_without_proof(Method::GET, "1", &long_page, &wrong)
        .await;
    let message = message_of(&body);
    assert!(message.contains("Invalid appsecret_proof"), "{body}");
    fixture.simulator.facebook().clock_offset_seconds += 7200;
    let (_, body) = fixture.get("1", &short_page, &[]).await;
    assert_eq!(
        code_of(&body),
        (190, 463),
        "a short-lived token gives short-lived Page tokens"
    );
    let (status, body) = fixture.get("1", &long_page, &[]).await;
    assert_eq!((status, &body["name"]), (200, &json!("P1")));
    let data = debug_token(&fixture, &long_page).await;
    assert_eq!(
        (&data["type"], &data["expires_at"]),
        (&json!("PAGE"), &json!(0))
    );
    let data = debug_token(&fixture, &short).await;
    assert_eq!(
        (&data["is_valid"], &data["error"]["subcode"]),
        (&json!(false), &json!(463))
    );
}
