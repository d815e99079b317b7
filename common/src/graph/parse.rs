//! Parses the successful replies of Graph.
//!
//! Invariant: Facebook writes ids and times as strings or as numbers, and both forms are read
//! everywhere. Source: captures of deliveries and replies, which have both.

use std::collections::BTreeSet;
use std::time::Duration;

use model::failure::ReportedError;
use model::id::{PageId, UserId};
use model::time::{FacebookTime, HostTime};
use reqwest::Url;
use serde_json::{Map, Value as Json};

use super::error::{ErrorKind, GraphError, reported_error};
use super::reply::Reply;
use crate::sealing::Token;

/// The longest cursor that is sent back, in bytes.
const MAX_CURSOR: usize = 512;

/// A token that Facebook has just issued.
#[derive(Debug)]
pub struct IssuedToken {
    /// The token.
    pub token: Token,
    /// How long it is valid; `None` if Facebook did not report it.
    pub expires_in: Option<Duration>,
}

/// The properties of a token, as Facebook reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// The id of the app that it was issued to.
    pub app_id: String,
    /// Its type: `USER`, `PAGE`, `SYSTEM_USER` or `APP`.
    pub kind: String,
    /// The person that it belongs to; `None` if Facebook named none.
    pub user: Option<UserId>,
    /// The permissions that it has.
    pub scopes: Vec<String>,
    /// When Facebook issued it, on Facebook's clock; `None` if Facebook did not report it.
    pub issued_at: Option<FacebookTime>,
    /// When it expires; `None` if it does not, or if Facebook did not report it.
    pub expires_at: Option<HostTime>,
    /// When Facebook stops returning data for it; `None` if Facebook did not report it.
    pub data_access_expires_at: Option<HostTime>,
    /// Whether it is valid now.
    pub is_valid: bool,
    /// The Pages for which the person granted permissions, if they granted them for some Pages only.
    /// Source: `granular_scopes` in "Debug Token".
    pub granted_pages: Vec<PageId>,
    /// The reason why it is invalid, as Facebook reports it; `None` if Facebook reported none.
    pub error: Option<ReportedError>,
}

impl TokenInfo {
    /// Returns the error with which Facebook refuses the token.
    pub fn refusal(&self) -> GraphError {
        let subcode = self.error.as_ref().and_then(|error| error.subcode);
        GraphError {
            kind: ErrorKind::Token { subcode },
            reported: self.error.clone().map(Box::new),
        }
    }
}

/// One Page of a list.
#[derive(Debug)]
pub struct ListedPage {
    /// The id of the Page.
    pub id: PageId,
    /// The token of the Page; `None` if the person lacks a role or a permission.
    pub token: Option<Token>,
    /// The fields of the Page, without the token.
    pub object: Map<String, Json>,
}

/// The app subscription: the webhooks of Pages that Facebook sends to this app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSubscription {
    /// The address that Facebook posts webhooks to.
    pub callback: String,
    /// Whether the subscription is active.
    pub active: bool,
    /// The names of the subscribed fields.
    pub fields: Vec<String>,
}

pub(super) fn string_member(body: &Json, name: &str) -> Option<String> {
    body.get(name)?.as_str().map(ToOwned::to_owned)
}

/// Returns a member that is an id: a string, or a number as a string.
fn id_member(body: &Json, name: &str) -> Option<String> {
    id_text(body.get(name)?)
}

/// Returns an id: a string, or a number as a string.
fn id_text(value: &Json) -> Option<String> {
    let number = || value.as_u64().map(|number| number.to_string());
    value.as_str().map(ToOwned::to_owned).or_else(number)
}

/// Returns a member that is a whole number, also one in a string.
fn number_member(body: &Json, name: &str) -> Option<u64> {
    let value = body.get(name)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Returns a member that is a time in seconds since the UNIX epoch, or `None` if it is missing or
/// zero.
fn time_member(body: &Json, name: &str) -> Option<HostTime> {
    let seconds = number_member(body, name).filter(|seconds| *seconds > 0)?;
    Some(HostTime(seconds.saturating_mul(1000)))
}

/// Returns whether a member is `true` or `"true"`.
fn is_true(body: &Json, name: &str) -> bool {
    let value = body.get(name);
    value.is_some_and(|value| *value == Json::Bool(true) || value == "true")
}

pub(super) fn parse_issued_token(reply: &Reply) -> Result<IssuedToken, GraphError> {
    let token = string_member(&reply.body, "access_token").filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| GraphError::unexpected("a token exchange without a token"))?;
    let expires_in = number_member(&reply.body, "expires_in");
    Ok(IssuedToken {
        token: Token::new(token),
        expires_in: expires_in.map(Duration::from_secs),
    })
}

pub(super) fn parse_token_info(body: &Json) -> Result<TokenInfo, GraphError> {
    let data = body.get("data").filter(|data| data.is_object());
    let data = data.ok_or_else(|| GraphError::unexpected("debug_token without data"))?;
    Ok(TokenInfo {
        app_id: id_member(data, "app_id").unwrap_or_default(),
        kind: string_member(data, "type").unwrap_or_default(),
        user: id_member(data, "user_id").and_then(|id| UserId::parse(&id).ok()),
        scopes: strings(data.get("scopes")),
        issued_at: time_member(data, "issued_at").map(|millis| FacebookTime(millis.0)),
        expires_at: time_member(data, "expires_at"),
        data_access_expires_at: time_member(data, "data_access_expires_at"),
        is_valid: is_true(data, "is_valid"),
        granted_pages: granted_pages(data),
        error: data.get("error").map(reported_error),
    })
}

/// Returns the ids in `granular_scopes`, each once. The ids of permissions for other objects than Pages
/// are left out.
fn granted_pages(data: &Json) -> Vec<PageId> {
    let scopes = data.get("granular_scopes").and_then(Json::as_array);
    let of_pages = scopes.into_iter().flatten().filter(|scope| {
        let name = scope["scope"].as_str();
        name.is_some_and(|name| name.starts_with("pages_"))
    });
    let targets = of_pages.filter_map(|scope| scope.get("target_ids")?.as_array());
    let ids = targets.flatten().filter_map(id_text);
    let ids: BTreeSet<PageId> = ids.filter_map(|id| PageId::parse(&id).ok()).collect();
    ids.into_iter().collect()
}

/// Returns the items of a list. Fails if the reply has none.
fn list_of<'a>(body: &'a Json, edge: &str) -> Result<&'a Vec<Json>, GraphError> {
    let list = body.get("data").and_then(Json::as_array);
    list.ok_or_else(|| GraphError::unexpected(format!("{edge} without data")))
}

/// Returns the fields that the app with this id is subscribed to; `None` if it is not among the
/// subscribed apps.
pub(super) fn parse_page_subscription(
    body: &Json,
    app_id: &str,
) -> Result<Option<Vec<String>>, GraphError> {
    let mut apps = list_of(body, "subscribed_apps")?.iter();
    // Facebook lists the subscriptions of other apps too.
    let own = apps.find(|app| id_member(app, "id").as_deref() == Some(app_id));
    Ok(own.map(|app| strings(app.get("subscribed_fields"))))
}

/// Returns the subscription to Pages; `None` if the app has only subscriptions to other objects.
pub(super) fn parse_app_subscription(body: &Json) -> Result<Option<AppSubscription>, GraphError> {
    let mut all = list_of(body, "subscriptions")?.iter();
    let Some(page_entry) = all.find(|entry| entry["object"] == "page") else {
        return Ok(None);
    };
    let fields = page_entry
        .get("fields")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    Ok(Some(AppSubscription {
        callback: string_member(page_entry, "callback_url").unwrap_or_default(),
        active: is_true(page_entry, "active"),
        fields: fields
            .filter_map(|field| string_member(field, "name"))
            .collect(),
    }))
}

/// Returns the fields of a Page. Fails if the reply is about another object.
pub(super) fn parse_page_object(body: Json, id: &PageId) -> Result<Map<String, Json>, GraphError> {
    let is_requested = id_member(&body, "id").as_deref() == Some(id.as_str());
    match body {
        Json::Object(object) if is_requested => Ok(object),
        Json::Object(_) => Err(GraphError::unexpected(
            "another object than the requested one",
        )),
        _ => Err(GraphError::unexpected("a Page that is not an object")),
    }
}

/// Returns the Pages of a result page and the cursor of the next one.
pub(super) fn parse_result_page(
    mut body: Json,
) -> Result<(Vec<ListedPage>, Option<String>), GraphError> {
    let cursor = next_cursor(&body)?;
    let Some(Json::Array(items)) = body.get_mut("data").map(Json::take) else {
        return Err(GraphError::unexpected("a list without data"));
    };
    let pages = items.into_iter().filter_map(parse_listed_page).collect();
    Ok((pages, cursor))
}

/// Returns the strings of a list, without items of other types.
fn strings(list: Option<&Json>) -> Vec<String> {
    let list = list.and_then(Json::as_array).into_iter().flatten();
    list.filter_map(|item| item.as_str().map(ToOwned::to_owned))
        .collect()
}

/// Checks that a reply is `{"success": true}` or `true`. One page of the documentation has the
/// string `"true"` instead.
pub(super) fn check_success(reply: &Reply) -> Result<(), GraphError> {
    let success = reply.body.get("success").unwrap_or(&reply.body);
    if *success == Json::Bool(true) || success == "true" {
        Ok(())
    } else {
        Err(GraphError::unexpected("neither success nor an error"))
    }
}

/// Returns the cursor of the next result page; `None` if there is no `paging.next`. Some replies have
/// the cursor only in the query of the address in `paging.next`. The address itself is not used,
/// because it contains the token and could lead to any host. Fails if there is a next result page and
/// its cursor is missing or malformed.
fn next_cursor(body: &Json) -> Result<Option<String>, GraphError> {
    let Some(next) = body.pointer("/paging/next").filter(|next| !next.is_null()) else {
        return Ok(None);
    };
    let after = body.pointer("/paging/cursors/after").and_then(Json::as_str);
    let in_address = || {
        let address = Url::parse(next.as_str()?).ok()?;
        let mut query = address.query_pairs();
        let (_, after) = query.find(|(name, _)| name == "after")?;
        // A `+` that is not encoded is read as a space.
        Some(after.replace(' ', "+"))
    };
    let cursor = after.map(ToOwned::to_owned).or_else(in_address);
    // The characters of base64 and of base64url.
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-=+/".contains(c);
    let cursor = cursor.filter(|cursor| {
        (1..=MAX_CURSOR).contains(&cursor.len()) && cursor.chars().all(is_allowed)
    });
    match cursor {
        Some(cursor) => Ok(Some(cursor)),
        None => Err(GraphError::unexpected(
            "a next result page without a usable cursor",
        )),
    }
}

/// Returns one object of a list; `None` if it has no valid id.
pub(super) fn parse_listed_page(item: Json) -> Option<ListedPage> {
    let id = PageId::parse(&id_member(&item, "id")?).ok()?;
    let Json::Object(mut object) = item else {
        return None;
    };
    let token = object.remove("access_token");
    let token = token
        .as_ref()
        .and_then(Json::as_str)
        .filter(|token| !token.is_empty());
    let token = token.map(|token| Token::new(token.to_owned()));
    Some(ListedPage { id, token, object })
}

#[cfg(test)]
#[path = "replies.rs"]
mod replies;
