//! Tokens: exchange, inspection, permissions.

use serde_json::{Value, json};

use super::{Answer, Call, Caller, Refusal, dead, page_of};
use crate::Simulator;
use crate::facebook::{CODE_LIFE, Facebook, Kind, LONG_LIFE, SHORT_LIFE};

/// `/oauth/access_token`: a code for a token, a short token for a long one, the app's own token.
pub(super) fn access_token(simulator: &Simulator, call: &Call) -> Answer {
    let mut facebook = simulator.facebook();
    if call.parameter("client_id") != Some(facebook.app.id.as_str()) {
        let message =
            "Error validating application. Cannot get application info due to a system error.";
        return Err(Refusal::oauth(101, None, message));
    }
    if call.parameter("client_secret") != Some(facebook.app.secret.as_str()) {
        return Err(Refusal::oauth(1, None, "Error validating client secret."));
    }
    let bearer = |text: String, expires: Option<u64>| {
        let mut answer = json!({"access_token": text, "token_type": "bearer"});
        if let Some(expires) = expires {
            answer["expires_in"] = json!(expires);
        }
        answer
    };
    match call.parameter("grant_type") {
        Some("client_credentials") => {
            let text = format!("{}|{}", facebook.app.id, facebook.app.secret);
            Ok(bearer(text, None))
        }
        Some("fb_exchange_token") => {
            let text = call.parameter("fb_exchange_token").unwrap_or_default();
            let held = facebook.tokens.get(text).cloned();
            let held = held.filter(|token| token.kind == Kind::User);
            let held =
                held.ok_or_else(|| Refusal::oauth(190, None, "Invalid OAuth access token."))?;
            if let Some(subcode) = dead(&held, facebook.now()) {
                return Err(Refusal::oauth(
                    190,
                    Some(subcode),
                    "Error validating access token: the session is over",
                ));
            }
            let expires = facebook.now() + LONG_LIFE;
            let text = facebook.derive(Kind::User, &held, Some(expires));
            Ok(bearer(text, Some(LONG_LIFE)))
        }
        _ => {
            let user = redeem(&mut facebook, call)?;
            let expires = facebook.now() + SHORT_LIFE;
            let text = facebook.issue(Kind::User, &user, Some(expires));
            Ok(bearer(text, Some(SHORT_LIFE)))
        }
    }
}

/// Uses a code up; answers with whose it is.
fn redeem(facebook: &mut Facebook, call: &Call) -> Result<String, Refusal> {
    let now = facebook.now();
    let code = facebook
        .codes
        .get_mut(call.parameter("code").unwrap_or_default());
    let Some(code) = code else {
        return Err(Refusal::oauth(
            100,
            Some(36009),
            "Invalid verification code format.",
        ));
    };
    if code.used {
        return Err(Refusal::oauth(
            100,
            Some(36009),
            "This authorization code has been used.",
        ));
    }
    if now > code.issued + CODE_LIFE {
        return Err(Refusal::oauth(
            100,
            Some(36007),
            "This authorization code has expired.",
        ));
    }
    if call.parameter("redirect_uri") != Some(code.redirect_uri.as_str()) {
        let message = "Error validating verification code. Please make sure your redirect_uri is identical to the one you used in the OAuth dialog request";
        return Err(Refusal::oauth(100, Some(36008), message));
    }
    code.used = true;
    Ok(code.user.clone())
}

/// `/debug_token`, with the app's token.
pub(super) fn debug_token(simulator: &Simulator, call: &Call) -> Answer {
    if !matches!(call.caller, Caller::App) {
        return Err(Refusal::oauth(
            100,
            None,
            "(#100) You must provide an app access token, or a user access token that is an owner or developer of the app",
        ));
    }
    let facebook = simulator.facebook();
    let text = call.parameter("input_token").unwrap_or_default();
    let Some(token) = facebook.tokens.get(text) else {
        let error = json!({"code": 190, "message": "Invalid OAuth access token."});
        return Ok(json!({"data": {"error": error, "is_valid": false, "scopes": []}}));
    };
    let person = facebook.people.get(&token.user);
    let granted = |name: &&String| person.is_some_and(|person| person.permissions[*name]);
    let scopes: Vec<&String> = person
        .iter()
        .flat_map(|person| person.permissions.keys())
        .filter(granted)
        .collect();
    let granular: Vec<Value> = scopes
        .iter()
        .map(
            |scope| match person.and_then(|person| person.ticked.as_ref()) {
                Some(ticked) => json!({"scope": scope, "target_ids": ticked}),
                None => json!({"scope": scope}),
            },
        )
        .collect();
    let death = dead(token, facebook.now());
    let mut data = json!({
        "app_id": token.app,
        "type": if token.kind == Kind::User { "USER" } else { "PAGE" },
        "application": "Simulated app",
        "data_access_expires_at": Facebook::data_access_expires(token),
        "expires_at": token.expires.unwrap_or(0),
        "is_valid": death.is_none(),
        "issued_at": token.issued,
        "scopes": scopes,
        "granular_scopes": granular,
        "user_id": token.user,
    });
    if let Some(page) = page_of(token) {
        data["profile_id"] = json!(page);
    }
    if let Some(subcode) = death {
        data["error"] =
            json!({"code": 190, "message": "Error validating access token", "subcode": subcode});
    }
    Ok(json!({ "data": data }))
}

/// `/me/permissions`: what the person allowed; DELETE takes one or all of it back.
pub(super) fn permissions(simulator: &Simulator, call: &Call, one: Option<&str>) -> Answer {
    let user = call.token()?.user.clone();
    let mut facebook = simulator.facebook();
    if call.method == axum::http::Method::DELETE {
        if let Some(person) = facebook.people.get_mut(&user) {
            person
                .permissions
                .retain(|name, _| one.is_some_and(|one| one != name));
        }
        if one.is_some() {
            return Ok(json!({"success": true}));
        }
        for token in facebook
            .tokens
            .values_mut()
            .filter(|token| token.user == user)
        {
            token.dead = Some(458);
        }
        return Ok(json!({"success": true}));
    }
    let person = facebook.people.get(&user);
    let data: Vec<Value> = person
        .iter()
        .flat_map(|person| &person.permissions)
        .map(|(name, granted)| json!({"permission": name, "status": if *granted { "granted" } else { "declined" }}))
        .collect();
    Ok(json!({ "data": data }))
}
