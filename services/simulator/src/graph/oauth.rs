//! The edges for tokens and permissions: exchange, inspection and revocation.

use serde_json::{Value, json};

use super::call::{Call, Caller};
use super::refusal::{Answer, ErrorReply};
use crate::errors::SESSION_OVER;
use crate::facebook::Facebook;
use crate::people::Person;
use crate::simulator::Simulator;
use crate::token::{
    CODE_SECONDS, LONG_LIVED_SECONDS, SHORT_LIVED_SECONDS, Token, TokenInvalidation, TokenOwner,
};

/// Returns the answer to `/oauth/access_token`: a token for a code, a long-lived token for a
/// short-lived one, or the app's own token.
pub(super) fn access_token(simulator: &Simulator, call: &Call) -> Answer {
    let mut facebook = simulator.facebook();
    if call.parameter("client_id") != Some(facebook.app.id.as_str()) {
        let message =
            "Error validating application. Cannot get application info due to a system error.";
        return Err(ErrorReply::oauth(101, None, message));
    }
    if call.parameter("client_secret") != Some(facebook.app.secret.as_str()) {
        return Err(ErrorReply::oauth(
            1,
            None,
            "Error validating client secret.",
        ));
    }
    match call.parameter("grant_type") {
        Some("client_credentials") => Ok(bearer(&facebook.app.access_token(), None)),
        Some("fb_exchange_token") => {
            let original = exchangeable_token(&facebook, call)?;
            let expires = facebook.now() + LONG_LIVED_SECONDS;
            let text = facebook.issue_from(TokenOwner::User, &original, Some(expires));
            Ok(bearer(&text, Some(LONG_LIVED_SECONDS)))
        }
        _ => {
            let (user, is_system_user) = redeem_code(&mut facebook, call)?;
            if is_system_user {
                let text = facebook.issue_to_system_user(&user);
                return Ok(bearer(&text, None));
            }
            let expires = facebook.now() + SHORT_LIVED_SECONDS;
            let text = facebook.issue(TokenOwner::User, &user, Some(expires));
            Ok(bearer(&text, Some(SHORT_LIVED_SECONDS)))
        }
    }
}

/// Returns an answer that contains a token.
fn bearer(text: &str, expires_in: Option<u64>) -> Value {
    let mut answer = json!({"access_token": text, "token_type": "bearer"});
    if let Some(expires_in) = expires_in {
        answer["expires_in"] = json!(expires_in);
    }
    answer
}

/// Returns the token that a call exchanges. Fails unless it is the valid token of a person.
fn exchangeable_token(facebook: &Facebook, call: &Call) -> Result<Token, ErrorReply> {
    let text = call.parameter("fb_exchange_token").unwrap_or_default();
    let token = facebook.tokens.get(text);
    let Some(token) = token.filter(|token| token.owner == TokenOwner::User) else {
        return Err(ErrorReply::oauth(190, None, "Invalid OAuth access token."));
    };
    match token.refusal_subcode(facebook.now()) {
        Some(subcode) => Err(ErrorReply::oauth(190, Some(subcode), SESSION_OVER)),
        None if token.is_system_user => {
            let message = "(#100) The token of a system user cannot be exchanged";
            Err(ErrorReply::oauth(100, None, message))
        }
        None => Ok(token.clone()),
    }
}

/// Marks a code as used. Returns the id of the person who logged in, and whether they are a system
/// user.
///
/// Fails if the code is unknown, used or expired, or if the call does not name the redirect address
/// that the code was sent to.
fn redeem_code(facebook: &mut Facebook, call: &Call) -> Result<(String, bool), ErrorReply> {
    let refuse = |subcode, message| Err(ErrorReply::oauth(100, Some(subcode), message));
    let now = facebook.now();
    let text = call.parameter("code").unwrap_or_default();
    let Some(code) = facebook.codes.get_mut(text) else {
        return refuse(36009, "Invalid verification code format.");
    };
    if code.used {
        return refuse(36009, "This authorization code has been used.");
    }
    if now > code.issued_at + CODE_SECONDS {
        return refuse(36007, "This authorization code has expired.");
    }
    if call.parameter("redirect_uri") != Some(code.redirect_uri.as_str()) {
        let message = "Error validating verification code. Please make sure your redirect_uri is identical to the one you used in the OAuth dialog request";
        return refuse(36008, message);
    }
    code.used = true;
    Ok((code.user.clone(), code.is_system_user))
}

/// Returns the answer to `/debug_token`, which only the app may call, and a person about their own
/// tokens.
pub(super) fn debug_token(simulator: &Simulator, call: &Call) -> Answer {
    let text = call.parameter("input_token").unwrap_or_default();
    let owner = simulator
        .facebook()
        .tokens
        .get(text)
        .map(|token| token.user.clone());
    let is_owner = |token: &Token| Some(&token.user) == owner.as_ref();
    let may_inspect = match &call.caller {
        Caller::App => true,
        Caller::Token(token) => is_owner(token),
        Caller::Anonymous => false,
    };
    if !may_inspect {
        let message = "(#100) You must provide an app access token, or a user access token that is an owner or developer of the app";
        return Err(ErrorReply::oauth(100, None, message));
    }
    let facebook = simulator.facebook();
    let Some(token) = facebook.tokens.get(text) else {
        let error = json!({"code": 190, "message": "Invalid OAuth access token."});
        return Ok(json!({"data": {"error": error, "is_valid": false, "scopes": []}}));
    };
    let person = facebook.people.get(&token.user);
    Ok(json!({"data": token_data(token, person, facebook.now())}))
}

/// Returns the data of `/debug_token` about a token.
fn token_data(token: &Token, person: Option<&Person>, now: u64) -> Value {
    let scopes = person.map_or_else(Vec::new, granted_scopes);
    let granular: Vec<Value> = scopes
        .iter()
        .map(|scope| {
            let selected = person.and_then(|person| person.selected_pages.as_ref());
            match selected {
                Some(selected) => json!({"scope": scope, "target_ids": selected}),
                None => json!({"scope": scope}),
            }
        })
        .collect();
    let subcode = token.refusal_subcode(now);
    let mut data = json!({
        "app_id": token.app,
        "type": match &token.owner {
            TokenOwner::Page(_) => "PAGE",
            TokenOwner::User if token.is_system_user => "SYSTEM_USER",
            TokenOwner::User => "USER",
        },
        "application": "Simulated app",
        "data_access_expires_at": if token.is_system_user { 0 } else { token.data_access_expires() },
        "expires_at": token.expires_at.unwrap_or(0),
        "is_valid": subcode.is_none(),
        "issued_at": token.issued_at,
        "scopes": scopes,
        "granular_scopes": granular,
        "user_id": token.user,
    });
    if let Some(page) = token.page() {
        data["profile_id"] = json!(page);
    }
    if let Some(subcode) = subcode {
        data["error"] =
            json!({"code": 190, "message": "Error validating access token", "subcode": subcode});
    }
    data
}

/// Returns the names of the permissions that a person granted.
fn granted_scopes(person: &Person) -> Vec<&String> {
    let granted = person.permissions.iter().filter(|(_, granted)| **granted);
    granted.map(|(name, _)| name).collect()
}

/// Returns the answer to `GET /me/permissions`: the permissions that a person granted or declined.
pub(super) fn permissions(simulator: &Simulator, call: &Call) -> Answer {
    let user = &call.token()?.user;
    let facebook = simulator.facebook();
    let permission = |(name, granted): (&String, &bool)| {
        let status = if *granted { "granted" } else { "declined" };
        json!({"permission": name, "status": status})
    };
    let data: Vec<Value> = facebook
        .people
        .get(user)
        .into_iter()
        .flat_map(|person| &person.permissions)
        .map(permission)
        .collect();
    Ok(json!({ "data": data }))
}

/// Returns the answer to `DELETE /me/permissions`. Removes one permission, or removes all of them
/// and invalidates every token of the person.
pub(super) fn revoke(simulator: &Simulator, call: &Call, permission: Option<&str>) -> Answer {
    let user = &call.token()?.user;
    let mut facebook = simulator.facebook();
    if let Some(person) = facebook.people.get_mut(user) {
        let permissions = &mut person.permissions;
        permissions.retain(|name, _| permission.is_some_and(|removed| removed != name));
    }
    if permission.is_none() {
        facebook.invalidate_tokens(&TokenInvalidation {
            user: Some(user.clone()),
            page: None,
            subcode: 458,
        });
    }
    Ok(json!({"success": true}))
}
