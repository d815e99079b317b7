//! Both layers of subscriptions. Source: "Subscriptions edge" and "Page subscribed apps".

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Answer, Call, Caller, Refusal, page_of};
use crate::Simulator;
use crate::delivery::WEBHOOK_FIELDS;
use crate::facebook::AppSubscription;

/// Page fields that need the permission to message.
const MESSAGING: [&str; 5] = [
    "messages",
    "messaging_postbacks",
    "messaging_optins",
    "message_deliveries",
    "message_reads",
];
/// Other Page fields that exist.
const OTHERS: [&str; 12] = [
    "feed",
    "leadgen",
    "mention",
    "ratings",
    "videos",
    "live_videos",
    "conversations",
    "standby",
    "user_action",
    "page_upcoming_change",
    "page_change_proposal",
    "inbox_labels",
];

fn list(text: Option<&str>) -> BTreeSet<String> {
    let names = text.unwrap_or_default().split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

fn known(name: &str) -> bool {
    WEBHOOK_FIELDS.contains(&name) || MESSAGING.contains(&name) || OTHERS.contains(&name)
}

/// `/{app}/subscriptions`.
pub(super) async fn of_app(simulator: &Simulator, call: &Call, id: &str) -> Answer {
    if !matches!(call.caller, Caller::App) || id != simulator.facebook().app.id {
        return Err(Refusal::oauth(
            15,
            None,
            "(#15) This method must be called with an app access_token.",
        ));
    }
    match call.method.as_str() {
        "GET" => Ok(
            json!({"data": simulator.facebook().subscription.iter().map(shown).collect::<Vec<_>>()}),
        ),
        "DELETE" => {
            delete_of_app(simulator, call);
            Ok(json!({"success": true}))
        }
        "POST" if call.parameter("object") != Some("page") => Err(Refusal::oauth(
            100,
            None,
            "(#100) This Facebook has subscriptions to the object page only",
        )),
        "POST" => {
            let callback = call
                .parameter("callback_url")
                .unwrap_or_default()
                .to_owned();
            let verify_token = call.parameter("verify_token").unwrap_or_default();
            shake_hands(simulator, &callback, verify_token).await?;
            let mut facebook = simulator.facebook();
            let mut fields = list(call.parameter("fields"));
            if let Some(before) = facebook
                .subscription
                .take()
                .filter(|_| facebook.habits.amend_app_fields)
            {
                fields.extend(before.fields);
            }
            facebook.subscription = Some(AppSubscription {
                callback,
                include_values: call.parameter("include_values") == Some("true"),
                fields,
            });
            Ok(json!({"success": true}))
        }
        _ => Err(Refusal::oauth(100, None, "Unsupported request")),
    }
}

/// Without an object everything goes, with fields only these.
fn delete_of_app(simulator: &Simulator, call: &Call) {
    let mut facebook = simulator.facebook();
    if call
        .parameter("object")
        .is_some_and(|object| object != "page")
    {
        return;
    }
    match (call.parameter("fields"), &mut facebook.subscription) {
        (Some(fields), Some(held)) => held
            .fields
            .retain(|field| !list(Some(fields)).contains(field)),
        (_, held) => *held = None,
    }
}

fn shown(subscription: &AppSubscription) -> Value {
    let field = |name: &String| json!({"name": name, "version": "v25.0"});
    let fields: Vec<Value> = subscription.fields.iter().map(field).collect();
    json!({"object": "page", "callback_url": subscription.callback, "active": true, "fields": fields})
}

/// Asks the callback to echo a challenge, as Facebook does before it answers.
async fn shake_hands(
    simulator: &Simulator,
    callback: &str,
    verify_token: &str,
) -> Result<(), Refusal> {
    let failed = |why: &str| {
        Refusal::oauth(
            2200,
            None,
            &format!("(#2200) callback verification failed: {why}"),
        )
    };
    let challenge = simulator.facebook().text("", 10);
    let query = [
        ("hub.mode", "subscribe"),
        ("hub.challenge", challenge.as_str()),
        ("hub.verify_token", verify_token),
    ];
    let request = simulator
        .http()
        .get(callback)
        .query(&query)
        .timeout(Duration::from_secs(10));
    let answer = request.send().await.map_err(|_| failed("no answer"))?;
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

/// `/{page}/subscribed_apps`.
pub(super) fn of_page(simulator: &Simulator, call: &Call, page: &str) -> Answer {
    let token = call.token()?;
    if page_of(token) != Some(page) {
        return Err(Refusal::oauth(
            210,
            None,
            "(#210) A page access token is required to request this resource.",
        ));
    }
    let user = token.user.clone();
    let mut facebook = simulator.facebook();
    match call.method.as_str() {
        "GET" => {
            let ours = facebook.installed.get(page).map(|fields| {
                json!({"category": "Business", "name": "Simulated app", "id": facebook.app.id, "subscribed_fields": fields})
            });
            // Another app on the same Page, as most have one.
            let other = json!({"category": "Business", "name": "Another app", "id": "300000000000009", "subscribed_fields": WEBHOOK_FIELDS});
            Ok(json!({"data": std::iter::once(other).chain(ours).collect::<Vec<_>>()}))
        }
        "DELETE" => {
            facebook.installed.remove(page);
            Ok(json!({"success": true}))
        }
        "POST" => {
            let fields = list(call.parameter("subscribed_fields"));
            if fields.is_empty() {
                return Err(Refusal::oauth(
                    100,
                    None,
                    "(#100) The parameter subscribed_fields is required.",
                ));
            }
            if let Some((at, name)) = fields.iter().enumerate().find(|(_, name)| !known(name)) {
                let message = format!(
                    "(#100) Param subscribed_fields[{at}] must be one of {{affiliation, attire, ...}} - got \"{name}\"."
                );
                return Err(Refusal::oauth(100, None, &message));
            }
            let lacks = |name: &&String| {
                let needed = if MESSAGING.contains(&name.as_str()) {
                    "pages_messaging"
                } else {
                    "pages_manage_metadata"
                };
                (!facebook.allows(&user, needed)).then(|| format!("To subscribe to the {name} field, one of these permissions is needed: {needed}"))
            };
            let refused: Vec<String> = fields.iter().filter_map(|name| lacks(&name)).collect();
            if !refused.is_empty() {
                return Err(Refusal::new(
                    403,
                    "OAuthException",
                    200,
                    None,
                    &format!("(#200) {}", refused.join(".\n")),
                ));
            }
            // The list replaces the one before: it is not merged.
            facebook.installed.insert(page.to_owned(), fields);
            Ok(json!({"success": true}))
        }
        _ => Err(Refusal::oauth(100, None, "Unsupported request")),
    }
}
