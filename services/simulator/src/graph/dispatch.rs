//! Dispatches a call to the edge that its path names. The calls in a batch are dispatched in the
//! same way.

use axum::http::Method;

use super::call::Call;
use super::parameters::Parameters;
use super::refusal::{Answer, ErrorReply};
use super::{accounts, messages, oauth, objects, subscriptions};
use crate::scripted_reply::ScriptedReply;
use crate::simulator::Simulator;

/// Returns the method of a call: the one of its request, or the one that its parameter `method` names
/// instead. Source: Meta's SDKs for PHP and JavaScript send it.
pub(super) fn method_of(method: Method, parameters: &Parameters) -> Method {
    let named = parameters.get("method").map(|name| name.to_uppercase());
    let named = named.filter(|name| ["GET", "POST", "DELETE"].contains(&name.as_str()));
    named.and_then(|name| name.parse().ok()).unwrap_or(method)
}

/// Counts a call. Returns the scripted reply to it, if there is one.
pub(super) fn count(simulator: &Simulator, call: &Call) -> Option<ScriptedReply> {
    let edge = call.edge();
    let mut facebook = simulator.facebook();
    *facebook.calls.entry(edge.clone()).or_default() += 1;
    facebook.take_scripted_reply(&edge)
}

/// Returns the answer of the edge that a call names.
pub(super) async fn dispatch(simulator: &Simulator, call: &Call) -> Answer {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    if call.parameters.contains_key("date_format") && simulator.facebook().has_ended_protocol() {
        return Err(ErrorReply::ended("date_format"));
    }
    match (call.method.as_str(), path.as_slice()) {
        ("GET" | "POST", ["oauth", "access_token"]) => oauth::access_token(simulator, call),
        ("GET", ["debug_token"]) => oauth::debug_token(simulator, call),
        ("GET", ["me", "permissions"]) => oauth::permissions(simulator, call),
        ("DELETE", ["me", "permissions"]) => oauth::revoke(simulator, call, None),
        ("DELETE", ["me", "permissions", one]) => oauth::revoke(simulator, call, Some(one)),
        ("GET", ["me", "accounts"]) => accounts::accounts(simulator, call),
        ("GET", ["me", "businesses"]) => accounts::businesses(simulator, call),
        ("GET", [id, "owned_pages"]) => accounts::portfolio_pages(simulator, call, id, false),
        ("GET", [id, "client_pages"]) => accounts::portfolio_pages(simulator, call, id, true),
        ("GET", ["me"]) => objects::me(simulator, call),
        ("GET", []) if simulator.facebook().has_ended_protocol() => Err(ErrorReply::ended("ids")),
        ("GET", []) => objects::several(simulator, call),
        ("POST", [id, "messages"]) => messages::send(simulator, call, id),
        (_, [id, "subscriptions"]) => subscriptions::app(simulator, call, id).await,
        (_, ["me", "subscribed_apps"]) => {
            let own = call.token()?.page().unwrap_or("me");
            subscriptions::page(simulator, call, own)
        }
        (_, [id, "subscribed_apps"]) => subscriptions::page(simulator, call, id),
        ("GET", [id]) => objects::page(simulator, call, id),
        (_, [_, rest @ ..]) => Err(ErrorReply::unknown_path(&rest.join("/"))),
        _ => Err(ErrorReply::unsupported()),
    }
}
