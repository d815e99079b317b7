//! What Facebook posts when a person removes the app, or asks for their data to be deleted; and the page
//! that says what became of it.
//!
//! | what comes | answer |
//! |---|---|
//! | a `signed_request` that is not ours, or says nobody | 400, and nothing happens |
//! | one that is, the erasure durable | 200; for a deletion with the address of its page and a code |
//! | one that is, the queue away | 503 |
//! | the page of a code we gave | 200 |
//! | of any other | 404 |
//!
//! Source: "Data Deletion Request Callback" of the app dashboard. Replays are accepted: erasing twice is
//! erasing once. Invariant: the path of a post knows the queue and nothing else.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;
use common::records::erasure;
use common::timestamp::rfc3339;
use hmac::{Hmac, KeyInit as _, Mac as _};
use model::hex::sha256_hex;
use model::id::UserId;
use model::job::{ErasureRequest, Job};
use model::queue_name::QueueName;
use model::time::HostTime;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value as Json_, json};
use sha2::Sha256;

use crate::context::Context;
use crate::webhook::{ANSWER_DEADLINE, read_body};

/// Longest post taken, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// Facebook writes no padding; older libraries do.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signed request says when it was made on Facebook's clock; ours may be behind by this.
const APART: Duration = Duration::from_secs(300);

/// What a signed request says.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    user: UserId,
    /// When it was made, on Facebook's clock: what is captured and posted again later is no new request.
    issued: Option<HostTime>,
}

/// What a signed request says; `None`: it is not signed by this app, or not in the documented form.
fn proven(secrets: &[SecretString], signed_request: &str) -> Option<Said> {
    let (signature, payload) = signed_request.split_once('.')?;
    let signature = LENIENT.decode(signature).ok()?;
    let right = |secret: &SecretString| {
        let key = secret.expose_secret().as_bytes();
        Hmac::<Sha256>::new_from_slice(key)
            .is_ok_and(|mac| mac.chain_update(payload).verify_slice(&signature).is_ok())
    };
    if !secrets.iter().any(right) {
        return None;
    }
    let payload: Json_ = serde_json::from_slice(&LENIENT.decode(payload).ok()?).ok()?;
    let algorithm = payload.get("algorithm")?.as_str()?;
    let id = payload.get("user_id")?;
    let number = || id.as_u64().map(|id| id.to_string());
    let id = id.as_str().map(ToOwned::to_owned).or_else(number)?;
    let user = UserId::parse(&id).ok()?;
    let issued = payload.get("issued_at").and_then(Json_::as_u64);
    let issued = issued.map(|seconds| HostTime(seconds.saturating_mul(1000)));
    let said = Said { user, issued };
    algorithm
        .eq_ignore_ascii_case("HMAC-SHA256")
        .then_some(said)
}

async fn read(context: &Context, request: Request) -> Result<Said, StatusCode> {
    let body = read_body(request.into_body(), MAX_BODY).await?;
    let form: Vec<(String, String)> =
        serde_urlencoded::from_bytes(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let posted = form.iter().find(|(name, _)| name == "signed_request");
    let said = posted.and_then(|(_, text)| proven(&context.app_secrets, text));
    said.ok_or(StatusCode::BAD_REQUEST)
}

async fn publish(context: &Context, said: Said, receipt: Option<String>) -> Result<(), StatusCode> {
    let now = context.clock.now();
    let job = Job::Erase(ErasureRequest {
        user: said.user,
        confirmation_hash: receipt,
        requested_at: said
            .issued
            .map_or(now, |issued| now.min(issued.plus(APART))),
    });
    let publish = context
        .queue
        .publish(QueueName::Webhooks, std::slice::from_ref(&job));
    if let Ok(Ok(())) = tokio::time::timeout(ANSWER_DEADLINE, publish).await {
        context.metrics.jobs_published.inc();
        return Ok(());
    }
    tracing::warn!("an erasure is not durable; Facebook is told so");
    Err(StatusCode::SERVICE_UNAVAILABLE)
}

/// `POST /facebook/deauthorize`.
pub(crate) async fn deauthorize(State(context): State<Arc<Context>>, request: Request) -> Response {
    let done = match read(&context, request).await {
        Ok(said) => publish(&context, said, None).await,
        Err(status) => Err(status),
    };
    match done {
        Ok(()) => Json(json!({"success": true})).into_response(),
        Err(status) => status.into_response(),
    }
}

/// `POST /facebook/data-deletion`.
pub(crate) async fn delete(State(context): State<Arc<Context>>, request: Request) -> Response {
    let said = match read(&context, request).await {
        Ok(said) => said,
        Err(status) => return status.into_response(),
    };
    let mut random = [0; 16];
    let secret = context.app_secrets.first().cloned();
    let (Ok(()), Some(secret)) = (getrandom::fill(&mut random), secret) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let code = erasure::confirmation_code(&secret, &random);
    match publish(&context, said, Some(sha256_hex(&code))).await {
        Ok(()) => {
            let url = format!("{}/facebook/data-deletion/{code}", context.origin);
            Json(json!({"url": url, "confirmation_code": code})).into_response()
        }
        Err(status) => status.into_response(),
    }
}

/// `GET /facebook/data-deletion/{code}`. A code that is not ours is told from its own bytes, whatever
/// there is in the store.
pub(crate) async fn show(
    State(context): State<Arc<Context>>,
    Path(code): Path<String>,
) -> Response {
    if !erasure::is_valid_code(&context.app_secrets, &code) {
        let text = "There is no request with this code. Is it whole?";
        return page(StatusCode::NOT_FOUND, "Not found", text);
    }
    match erasure::find_receipt(&*context.oauth.store, &code).await {
        Ok(Some(receipt)) => {
            let text = format!(
                "Requested {}. Deleted {}: your access, and what was known of {} Pages through you.{}",
                rfc3339(receipt.requested_at),
                rfc3339(receipt.erased_at),
                receipt.result.pages_erased,
                match receipt.result.pages_kept {
                    0 => String::new(),
                    n => format!(" {n} Pages are kept: other people manage them here, too."),
                }
            );
            page(StatusCode::OK, "Your data was deleted", &text)
        }
        Ok(None) => {
            let text =
                "It was received and is being done; this takes seconds. Load this page again.";
            page(StatusCode::OK, "Your data is being deleted", text)
        }
        Err(error) => {
            tracing::warn!(error = %error, "a receipt cannot be read");
            let text = "This cannot be answered now. The request stands; load this page again.";
            page(StatusCode::SERVICE_UNAVAILABLE, "Please come back", text)
        }
    }
}

fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let html = format!(
        r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body style="font:16px system-ui;max-width:40rem;margin:3rem auto"><h1>{title}</h1><p>{text}</p></body></html>"#
    );
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
    ];
    (status, headers, Html(html)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;

    /// Made with another implementation.
    const VECTOR: &str = "jQON18uhHWs8ORgW0w9OzG2-xiZEHrwtBOoAn-7DHno.eyJ1c2VyX2lkIjoiMjE4NDcxIiwiYWxnb3JpdGhtIjoiSE1BQy1TSEEyNTYiLCJpc3N1ZWRfYXQiOjE3NTAwMDAwMDB9";
    /// The longer form, as a login in a browser has it: with a token and what is known of the person.
    /// Made by another implementation (Python's hmac) with the same secret.
    const VECTOR_OF_A_LOGIN: &str = "nLc3t_AgENSLS0hTGdCxiu9adfqCsNeM9M1wGnzmP0A.eyJhbGdvcml0aG0iOiJITUFDLVNIQTI1NiIsImV4cGlyZXMiOjE3NTAwMDM2MDAsImlzc3VlZF9hdCI6MTc1MDAwMDAwMCwib2F1dGhfdG9rZW4iOiIxfDIuQVFCLjM2MDAuMS03fHgiLCJ1c2VyIjp7ImNvdW50cnkiOiJkZSIsImxvY2FsZSI6ImRlX0RFIiwiYWdlIjp7Im1pbiI6MjF9fSwidXNlcl9pZCI6IjcxMTcxMSJ9";

    fn secrets() -> Vec<SecretString> {
        vec![SecretString::from(
            "0123456789abcdef0123456789abcdef".to_owned(),
        )]
    }

    fn signed(payload: &str) -> String {
        let payload = BASE64URL.encode(payload);
        let key = secrets()[0].expose_secret().as_bytes().to_vec();
        let mac = Hmac::<Sha256>::new_from_slice(&key)
            .unwrap()
            .chain_update(&payload);
        format!(
            "{}.{payload}",
            BASE64URL.encode(mac.finalize().into_bytes())
        )
    }

    #[test]
    fn a_signed_request_names_a_person_only_if_everything_fits() {
        let user = |text: &str| proven(&secrets(), text).map(|said| said.user.to_string());
        assert_eq!(user(VECTOR).as_deref(), Some("218471"));
        let (signature, payload) = VECTOR.split_once('.').unwrap();
        assert_eq!(
            user(&format!("{signature}=.{payload}")).as_deref(),
            Some("218471")
        );
        let number = signed(r#"{"user_id":218471,"algorithm":"hmac-sha256"}"#);
        assert_eq!(user(&number).as_deref(), Some("218471"));
        assert_eq!(user(VECTOR_OF_A_LOGIN).as_deref(), Some("711711"));
        for odd in [
            String::new(),
            ".".to_owned(),
            payload.to_owned(),
            format!("{}.{payload}", "A".repeat(43)),
            format!("{signature}.{}", payload.replacen('e', "f", 1)),
            format!("!!.{payload}"),
            signed(r#"{"user_id":"218471","algorithm":"none"}"#),
            signed(r#"{"user_id":"218471"}"#),
            signed(r#"{"algorithm":"HMAC-SHA256"}"#),
            signed(r#"{"user_id":"../1","algorithm":"HMAC-SHA256"}"#),
            signed("not json"),
        ] {
            assert_eq!(user(&odd), None, "{odd}");
        }
        let other = [SecretString::from("another".to_owned())];
        assert_eq!(proven(&other, VECTOR), None);
    }
}
