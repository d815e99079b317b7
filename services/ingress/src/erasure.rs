//! Erasure requests: Facebook posts a signed request when a person removes the app or asks for
//! their data to be deleted. A status page shows the state of a deletion.
//!
//! Invariant: the handlers of the two posts use the queue and nothing else. Replays are accepted,
//! because a second erasure changes nothing.
//!
//! | request | answer |
//! |---|---|
//! | a post that is too long or too slow | 413 or 408 |
//! | a post whose signature or form is invalid, or that names no person | 400 |
//! | a valid post, and its job is durable | 200; for a deletion, with a confirmation code and the address of its status page |
//! | a valid post, but its job is not durable in time | 503 |
//! | the status page of a code that this deployment signed | 200; 503 if the store does not answer |
//! | the status page of another code | 404 |
//!
//! Source: "Data Deletion Request Callback" of the app dashboard.

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
use common::http::ConnectionPlace;
use common::pages;
use common::records::erasure;
use common::signing::hmac_sha256;
use common::timestamp::rfc3339;
use hmac::Mac as _;
use model::hex::sha256_hex;
use model::id::{PageId, UserId};
use model::job::{ErasureRequest, Job};
use model::queue_name::QueueName;
use model::time::{FacebookTime, HostTime};
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::context::Context;
use crate::webhook::ANSWER_DEADLINE;

/// The longest accepted post, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// Base64url with or without padding. Facebook writes no padding, but older libraries do.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How far this host's clock may be ahead of Facebook's. It is added to the time of a request, so
/// that the request erases everything that was stored before Facebook made it.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);

/// The content of a signed request.
#[derive(Debug, PartialEq, Eq)]
struct SignedRequest {
    user: UserId,
    /// When Facebook made the request, on Facebook's clock; `None` if the request has no time. A
    /// replay has the same time as the first post, so it cannot end a login whose token was issued
    /// later.
    issued_at: Option<FacebookTime>,
}

/// The reason why a post is not a request to erase a person.
#[derive(Debug, PartialEq, Eq)]
enum InvalidRequest {
    /// This app did not sign it.
    Signature,
    /// This app signed it, and it names a Page and no person: the app was removed from the Page.
    OfPage(PageId),
    /// This app signed it, but it does not have the documented form. The text contains no value of
    /// the request.
    Form(&'static str),
}

/// Returns the content of a signed request. Facebook sends numbers as JSON numbers and as strings.
fn verify_signed_request(
    secrets: &[SecretString],
    text: &str,
) -> Result<SignedRequest, InvalidRequest> {
    let payload = verify_signature(secrets, text).ok_or(InvalidRequest::Signature)?;
    let form = |reason| InvalidRequest::Form(reason);
    let payload = BASE64URL
        .decode(payload)
        .map_err(|_| form("its payload is not base64url"))?;
    let payload: Value =
        serde_json::from_slice(&payload).map_err(|_| form("its payload is not JSON"))?;
    let algorithm = payload.get("algorithm").and_then(Value::as_str);
    if !algorithm.is_some_and(|name| name.eq_ignore_ascii_case("HMAC-SHA256")) {
        return Err(form("its algorithm is not HMAC-SHA256"));
    }
    let number = |name: &str| {
        let value = payload.get(name)?;
        let text = value.as_str().map(ToOwned::to_owned);
        text.or_else(|| value.as_u64().map(|number| number.to_string()))
    };
    let user = number("user_id").and_then(|id| UserId::parse(&id).ok());
    let page = number("profile_id").and_then(|id| PageId::parse(&id).ok());
    let user = match (user, page) {
        (Some(user), _) => user,
        (None, Some(page)) => return Err(InvalidRequest::OfPage(page)),
        (None, None) => return Err(form("it names no person (user_id)")),
    };
    let seconds = number("issued_at").and_then(|text| text.parse::<u64>().ok());
    let issued_at = seconds.map(|seconds| FacebookTime(seconds.saturating_mul(1000)));
    Ok(SignedRequest { user, issued_at })
}

/// Returns the encoded payload of a signed request, or `None` if this app did not sign it.
fn verify_signature<'a>(secrets: &[SecretString], text: &'a str) -> Option<&'a str> {
    let (signature, payload) = text.split_once('.')?;
    let signature = BASE64URL.decode(signature).ok()?;
    let is_signed_with = |secret: &SecretString| {
        let mac = hmac_sha256(secret).chain_update(payload);
        mac.verify_slice(&signature).is_ok()
    };
    secrets.iter().any(is_signed_with).then_some(payload)
}

/// Reads and verifies the signed request of a post; fails with the status of the answer, which is 200
/// for a request that was handled here.
async fn read_post(context: &Context, request: Request) -> Result<SignedRequest, StatusCode> {
    let results = &context.metrics.erasure_requests;
    let place = request.extensions().get::<ConnectionPlace>().cloned();
    let body = context
        .body_memory
        .read(request.into_body(), MAX_BODY)
        .await?;
    let form: Vec<(String, String)> =
        serde_urlencoded::from_bytes(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let posted = form.iter().find(|(name, _)| name == "signed_request");
    let text = posted.map_or("", |(_, text)| text);
    match verify_signed_request(&context.app_secrets, text) {
        Ok(request) => {
            // Connections of other clients must not end this one before its job is durable.
            if let Some(place) = place {
                place.hold();
            }
            results.count("valid");
            Ok(request)
        }
        Err(InvalidRequest::Signature) => {
            results.count("invalid_signature");
            Err(StatusCode::BAD_REQUEST)
        }
        Err(InvalidRequest::OfPage(page)) => {
            results.count("of_page");
            // Others may still give access to the Page. A read shows whether its tokens work.
            let (store, now) = (&*context.login.store, context.clock.now());
            match pages::request_reads(store, &[page], now).await {
                Ok(_) => Err(StatusCode::OK),
                Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
            }
        }
        Err(InvalidRequest::Form(reason)) => {
            results.count("unreadable");
            tracing::error!(
                reason,
                "a signed request of Facebook to erase data cannot be read, and nothing is erased"
            );
            Err(StatusCode::BAD_REQUEST)
        }
    }
}

/// Publishes the job that erases the person; fails with the status of the answer.
///
/// `confirmation_hash` is the hash of the confirmation code, if the person gets one.
async fn publish(
    context: &Context,
    request: SignedRequest,
    confirmation_hash: Option<String>,
) -> Result<(), StatusCode> {
    let now = context.clock.now();
    let job = Job::Erase(ErasureRequest {
        user: request.user,
        confirmation_hash,
        requested_at: request.issued_at.map_or(now, |issued_at| {
            now.min(HostTime(issued_at.0).plus(MAX_CLOCK_DIFFERENCE))
        }),
        issued_at: request.issued_at,
    });
    let publish = context
        .queue
        .publish(QueueName::Webhooks, std::slice::from_ref(&job));
    if let Ok(Ok(())) = tokio::time::timeout(ANSWER_DEADLINE, publish).await {
        context.metrics.jobs_published.inc();
        return Ok(());
    }
    tracing::warn!("an erasure request was not made durable; Facebook gets status 503");
    Err(StatusCode::SERVICE_UNAVAILABLE)
}

/// Handles `POST /facebook/deauthorize`.
pub(crate) async fn deauthorize(State(context): State<Arc<Context>>, request: Request) -> Response {
    let published = match read_post(&context, request).await {
        Ok(request) => publish(&context, request, None).await,
        Err(status) => Err(status),
    };
    match published {
        Ok(()) => Json(json!({"success": true})).into_response(),
        Err(status) => status.into_response(),
    }
}

/// Handles `POST /facebook/data-deletion`.
pub(crate) async fn request_deletion(
    State(context): State<Arc<Context>>,
    request: Request,
) -> Response {
    let request = match read_post(&context, request).await {
        Ok(request) => request,
        Err(status) => return status.into_response(),
    };
    let mut random = [0; 16];
    let secret = context.app_secrets.first().cloned();
    let (Ok(()), Some(secret)) = (getrandom::fill(&mut random), secret) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let code = erasure::confirmation_code(&secret, &random);
    match publish(&context, request, Some(sha256_hex(&code))).await {
        Ok(()) => {
            let url = format!("{}/facebook/data-deletion/{code}", context.public_url);
            Json(json!({"url": url, "confirmation_code": code})).into_response()
        }
        Err(status) => status.into_response(),
    }
}

/// Handles `GET /facebook/data-deletion/{code}`. The signature in the code shows whether this
/// deployment issued it, so the store is not read for an invalid code.
pub(crate) async fn show_receipt(
    State(context): State<Arc<Context>>,
    Path(code): Path<String>,
) -> Response {
    if !erasure::is_valid_code(&context.app_secrets, &code) {
        let text = "There is no request with this code. Please check that the code is complete.";
        return html_response(StatusCode::NOT_FOUND, "Not found", text);
    }
    match erasure::find_receipt(&*context.login.store, &code).await {
        Ok(Some(receipt)) => {
            let text = format!(
                "Requested {}. Deleted {}: your access, and the data of {} Pages.{}",
                rfc3339(receipt.requested_at),
                rfc3339(receipt.erased_at),
                receipt.result.pages_erased,
                match receipt.result.pages_kept {
                    0 => String::new(),
                    n => format!(" {n} Pages are kept, because other people connected them, too."),
                }
            );
            html_response(StatusCode::OK, "Your data was deleted", &text)
        }
        Ok(None) => {
            let text =
                "Your request was received and takes a few seconds. Please reload this page.";
            html_response(StatusCode::OK, "Your data is being deleted", text)
        }
        Err(error) => {
            tracing::warn!(error = %error, "the receipt of an erasure cannot be read");
            let text = "This cannot be shown right now. Your request is not lost. Please reload this page in a minute.";
            html_response(StatusCode::SERVICE_UNAVAILABLE, "Please try again", text)
        }
    }
}

/// Returns an HTML page. `title` and `text` are not escaped, so they must contain no text from
/// requests or from Facebook.
fn html_response(status: StatusCode, title: &str, text: &str) -> Response {
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
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    /// A signed request that another implementation made.
    const VECTOR: &str = "jQON18uhHWs8ORgW0w9OzG2-xiZEHrwtBOoAn-7DHno.eyJ1c2VyX2lkIjoiMjE4NDcxIiwiYWxnb3JpdGhtIjoiSE1BQy1TSEEyNTYiLCJpc3N1ZWRfYXQiOjE3NTAwMDAwMDB9";
    /// The longer form that a login in a browser has, with a token and details of the person. It
    /// was made by another implementation (Python's hmac) with the same secret.
    const LOGIN_VECTOR: &str = "nLc3t_AgENSLS0hTGdCxiu9adfqCsNeM9M1wGnzmP0A.eyJhbGdvcml0aG0iOiJITUFDLVNIQTI1NiIsImV4cGlyZXMiOjE3NTAwMDM2MDAsImlzc3VlZF9hdCI6MTc1MDAwMDAwMCwib2F1dGhfdG9rZW4iOiIxfDIuQVFCLjM2MDAuMS03fHgiLCJ1c2VyIjp7ImNvdW50cnkiOiJkZSIsImxvY2FsZSI6ImRlX0RFIiwiYWdlIjp7Im1pbiI6MjF9fSwidXNlcl9pZCI6IjcxMTcxMSJ9";

    fn secrets() -> Vec<SecretString> {
        vec![SecretString::from(
            "0123456789abcdef0123456789abcdef".to_owned(),
        )]
    }

    fn signed(payload: &str) -> String {
        let payload = URL_SAFE_NO_PAD.encode(payload);
        let mac = hmac_sha256(&secrets()[0]).chain_update(&payload);
        format!(
            "{}.{payload}",
            URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
        )
    }

    #[test]
    fn a_signed_request_is_accepted_only_if_signature_and_form_are_correct() {
        let user = |text: &str| {
            let request = verify_signed_request(&secrets(), text).ok()?;
            Some(request.user.to_string())
        };
        assert_eq!(user(VECTOR).as_deref(), Some("218471"));
        let (signature, payload) = VECTOR.split_once('.').unwrap();
        assert_eq!(
            user(&format!("{signature}=.{payload}")).as_deref(),
            Some("218471")
        );
        let number = signed(r#"{"user_id":218471,"algorithm":"hmac-sha256"}"#);
        assert_eq!(user(&number).as_deref(), Some("218471"));
        assert_eq!(user(LOGIN_VECTOR).as_deref(), Some("711711"));
        for invalid in [
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
            assert_eq!(user(&invalid), None, "{invalid}");
        }
        let other = [SecretString::from("another".to_owned())];
        assert_eq!(
            verify_signed_request(&other, VECTOR),
            Err(InvalidRequest::Signature)
        );
    }

    #[test]
    fn the_time_of_a_request_is_read_as_a_number_and_as_a_string() {
        for issued_at in ["1750000000", "\"1750000000\""] {
            let text =
                format!(r#"{{"user_id":"7","algorithm":"HMAC-SHA256","issued_at":{issued_at}}}"#);
            let request = verify_signed_request(&secrets(), &signed(&text)).unwrap();
            assert_eq!(request.issued_at, Some(FacebookTime(1_750_000_000_000)));
        }
        let page = signed(r#"{"user_id":0,"profile_id":"7","algorithm":"HMAC-SHA256"}"#);
        assert_eq!(
            verify_signed_request(&secrets(), &page),
            Err(InvalidRequest::OfPage(PageId::parse("7").unwrap()))
        );
    }
}
