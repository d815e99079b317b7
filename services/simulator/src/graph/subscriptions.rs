//! The edges for the two layers of subscriptions: the app subscription and the Page subscriptions.
//!
//! Source: "Subscriptions edge" and "Page subscribed apps".

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::call::{Call, Caller};
use super::parameters::name_list;
use super::refusal::{Answer, ErrorReply};
use crate::facebook::{AppSubscription, Facebook};
use crate::simulator::Simulator;
use crate::webhook_fields;

/// The webhook fields of Pages that need the permission `pages_messaging`.
const MESSAGING: [&str; 33] = [
    "marketing_message_clicks",
    "marketing_message_deliveries",
    "marketing_message_delivery_failed",
    "marketing_message_echoes",
    "marketing_message_reads",
    "marketing_messages_subscriber_upload_status",
    "message_context",
    "message_deliveries",
    "message_echoes",
    "message_edits",
    "message_mention",
    "message_reactions",
    "message_reads",
    "messages",
    "messaging_account_linking",
    "messaging_appointments",
    "messaging_checkout_updates",
    "messaging_customer_information",
    "messaging_direct_sends",
    "messaging_fblogin_account_linking",
    "messaging_feedback",
    "messaging_game_plays",
    "messaging_handovers",
    "messaging_in_thread_lead_form_submit",
    "messaging_integrity",
    "messaging_optins",
    "messaging_optouts",
    "messaging_payments",
    "messaging_policy_enforcement",
    "messaging_postbacks",
    "messaging_pre_checkouts",
    "messaging_referrals",
    "standby",
];
/// The webhook fields of Pages that belong neither to messaging nor to the profile. Source: the names in
/// Meta's SDK for Python.
const OTHERS: [&str; 43] = [
    "agent_messages",
    "agent_questions",
    "business_integrity",
    "call_permission_reply",
    "call_settings_update",
    "calls",
    "checkins",
    "comment_poll_response",
    "conversations",
    "feature_access_list",
    "feed",
    "follow",
    "group_feed",
    "inbox_labels",
    "invalid_topic_placeholder",
    "invoice_access_bank_slip_events",
    "invoice_access_invoice_change",
    "invoice_access_invoice_draft_change",
    "invoice_access_onboarding_status_active",
    "leadgen",
    "leadgen_fat",
    "leadgen_update",
    "live_videos",
    "local_delivery",
    "mcom_invoice_change",
    "mention",
    "merchant_review",
    "message_template_status_update",
    "page_about_story",
    "page_change_proposal",
    "page_upcoming_change",
    "payment_request_update",
    "product_review",
    "publisher_subscriptions",
    "ratings",
    "registration",
    "response_feedback",
    "send_cart",
    "story_poll_response",
    "story_share",
    "user_action",
    "video_text_question_responses",
    "videos",
];
/// The maximum time that the verification of a callback waits for the answer.
const VERIFICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns whether Pages have a webhook field of this name.
fn is_webhook_field(name: &str) -> bool {
    let mut profile = webhook_fields::names();
    profile.any(|field| field == name) || MESSAGING.contains(&name) || OTHERS.contains(&name)
}

fn success() -> Value {
    json!({"success": true})
}

/// Returns the answer to `/{app}/subscriptions`, which only the app may call.
pub(super) async fn app(simulator: &Simulator, call: &Call, id: &str) -> Answer {
    if !matches!(call.caller, Caller::App) || id != simulator.facebook().app.id {
        let message = "(#15) This method must be called with an app access_token.";
        return Err(ErrorReply::oauth(15, None, message));
    }
    match call.method.as_str() {
        "GET" => {
            let facebook = simulator.facebook();
            let data: Vec<Value> = facebook.app_subscription.iter().map(to_json).collect();
            Ok(json!({ "data": data }))
        }
        "DELETE" => {
            delete_from_app(&mut simulator.facebook(), call);
            Ok(success())
        }
        "POST" if call.parameter("object") != Some("page") => {
            let message = "(#100) This Facebook has subscriptions to the object page only";
            Err(ErrorReply::oauth(100, None, message))
        }
        "POST" => {
            let callback = call.parameter("callback_url").unwrap_or_default();
            let verify_token = call.parameter("verify_token").unwrap_or_default();
            verify_callback(simulator, callback, verify_token).await?;
            subscribe_app(&mut simulator.facebook(), call, callback);
            Ok(success())
        }
        _ => Err(ErrorReply::unsupported()),
    }
}

/// Replaces the app subscription. If the graph faults set `merge_app_fields`, the previous fields
/// are kept.
fn subscribe_app(facebook: &mut Facebook, call: &Call, callback: &str) {
    let mut fields: BTreeSet<String> = name_list(call.parameter("fields")).into_iter().collect();
    let before = facebook.app_subscription.take();
    if let Some(before) = before.filter(|_| facebook.graph_faults.merge_app_fields) {
        fields.extend(before.fields);
    }
    facebook.app_subscription = Some(AppSubscription {
        callback: callback.to_owned(),
        include_values: matches!(call.parameter("include_values"), Some("true" | "1")),
        fields,
    });
}

/// Removes the fields that a call names from the app subscription, or the whole subscription if the
/// call names no fields. A call for an object other than Pages removes nothing.
fn delete_from_app(facebook: &mut Facebook, call: &Call) {
    let object = call.parameter("object");
    if object.is_some_and(|object| object != "page") {
        return;
    }
    match (call.parameter("fields"), &mut facebook.app_subscription) {
        (Some(fields), Some(subscription)) => {
            let removed = name_list(Some(fields));
            subscription.fields.retain(|field| !removed.contains(field));
        }
        (_, subscription) => *subscription = None,
    }
}

fn to_json(subscription: &AppSubscription) -> Value {
    let field = |name: &String| json!({"name": name, "version": "v25.0"});
    let fields: Vec<Value> = subscription.fields.iter().map(field).collect();
    json!({"object": "page", "callback_url": subscription.callback, "active": true, "fields": fields})
}

/// Verifies a callback with a challenge, as Facebook does before it accepts a subscription.
///
/// Fails if the callback does not return the challenge with status 200.
async fn verify_callback(
    simulator: &Simulator,
    callback: &str,
    verify_token: &str,
) -> Result<(), ErrorReply> {
    let failed = |reason: &str| {
        let message = format!("(#2200) callback verification failed: {reason}");
        ErrorReply::oauth(2200, None, &message)
    };
    let challenge = simulator.facebook().random_text("", 10);
    let query = [
        ("hub.mode", "subscribe"),
        ("hub.challenge", challenge.as_str()),
        ("hub.verify_token", verify_token),
    ];
    let request = simulator.http().get(callback).query(&query);
    let answer = request.timeout(VERIFICATION_TIMEOUT).send().await;
    let answer = answer.map_err(|_| failed("no answer"))?;
    if answer.status() != reqwest::StatusCode::OK {
        return Err(failed("HTTP Status Code is not 200"));
    }
    let body = answer.text().await.map_err(|_| failed("no body"))?;
    if body == challenge {
        Ok(())
    } else {
        Err(failed("the challenge did not match"))
    }
}

/// Returns the answer to `/{page}/subscribed_apps`, which needs the token of the Page.
pub(super) fn page(simulator: &Simulator, call: &Call, page: &str) -> Answer {
    let token = call.token()?;
    if token.page() != Some(page) {
        let message = "(#210) A page access token is required to request this resource.";
        return Err(ErrorReply::oauth(210, None, message));
    }
    let mut facebook = simulator.facebook();
    match call.method.as_str() {
        "GET" => {
            let shown = call.parameter("fields").map(|names| name_list(Some(names)));
            Ok(json!({"data": subscribed_apps(&facebook, page, shown.as_deref())}))
        }
        "DELETE" => {
            facebook.page_subscriptions.remove(page);
            Ok(success())
        }
        "POST" => {
            let fields = name_list(call.parameter("subscribed_fields"));
            check_page_fields(&facebook, &token.user, &fields)?;
            // As at Facebook, the new list replaces the previous one.
            let fields = fields.into_iter().collect();
            facebook.page_subscriptions.insert(page.to_owned(), fields);
            Ok(success())
        }
        _ => Err(ErrorReply::unsupported()),
    }
}

/// Returns the apps that are subscribed to a Page, with the members in `shown`. Another app is always
/// the first.
fn subscribed_apps(facebook: &Facebook, page: &str, shown: Option<&[String]>) -> Vec<Value> {
    // Most real Pages are subscribed by another app as well.
    let profile: Vec<&str> = webhook_fields::names().collect();
    let mut apps = vec![subscribed_app(
        "300000000000009",
        "Another app",
        &json!(profile),
    )];
    if let Some(fields) = facebook.page_subscriptions.get(page) {
        apps.push(subscribed_app(
            &facebook.app.id,
            "Simulated app",
            &json!(fields),
        ));
    }
    for app in apps.iter_mut().filter_map(Value::as_object_mut) {
        app.retain(|name, _| {
            let is_named = |shown: &[String]| shown.iter().any(|member| member == name);
            name == "id" || shown.is_none_or(is_named)
        });
    }
    apps
}

fn subscribed_app(id: &str, name: &str, fields: &Value) -> Value {
    json!({"category": "Business", "name": name, "id": id, "subscribed_fields": fields})
}

/// Fails if a call names no webhook fields, an unknown field, or a field for which the person lacks
/// a permission.
fn check_page_fields(facebook: &Facebook, user: &str, fields: &[String]) -> Result<(), ErrorReply> {
    if fields.is_empty() {
        let message = "(#100) The parameter subscribed_fields is required.";
        return Err(ErrorReply::oauth(100, None, message));
    }
    let mut numbered = fields.iter().enumerate();
    if let Some((at, name)) = numbered.find(|(_, name)| !is_webhook_field(name)) {
        let message = format!(
            "(#100) Param subscribed_fields[{at}] must be one of {{affiliation, attire, ...}} - got \"{name}\"."
        );
        return Err(ErrorReply::oauth(100, None, &message));
    }
    let is_refused = |name: &String| facebook.graph_faults.unnamed_refusals.contains(name);
    if let Some(at) = fields.iter().position(is_refused) {
        let message =
            format!("(#100) Param subscribed_fields[{at}] must be one of {{affiliation, att");
        return Err(ErrorReply::oauth(100, None, &message));
    }
    let lacks_permission = |name: &String| {
        let needed = if MESSAGING.contains(&name.as_str()) {
            "pages_messaging"
        } else {
            "pages_manage_metadata"
        };
        (!facebook.allows(user, needed)).then(|| {
            format!(
                "To subscribe to the {name} field, one of these permissions is needed: {needed}"
            )
        })
    };
    let refused: Vec<String> = fields.iter().filter_map(lacks_permission).collect();
    if refused.is_empty() {
        return Ok(());
    }
    let message = format!("(#200) {}", refused.join(".\n"));
    Err(ErrorReply::new(403, "OAuthException", 200, None, &message))
}
