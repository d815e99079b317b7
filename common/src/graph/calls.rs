//! The calls of Graph that pagesync makes.
//!
//! Invariant: a successful reply without the requested token, Page, list of Pages or success is an
//! error.

use std::time::Duration;

use model::field::FieldName;
use model::id::{PageId, UserId};
use model::time::{FacebookTime, HostTime};
use reqwest::{Method, Url};
use serde_json::{Map, Value as Json};

use super::client::{Caller, Graph, Request};
use super::error::GraphError;
use super::reply::{Reply, ReplyTimeError};
use crate::sealing::Token;

/// The longest cursor that is sent back, in bytes.
const MAX_CURSOR: usize = 512;
/// The language of category names, which Facebook translates. It is the same for every read.
const LOCALE: (&str, &str) = ("locale", "en_US");

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
}

/// One Page of `/me/accounts`.
#[derive(Debug)]
pub struct ListedPage {
    /// The id of the Page.
    pub id: PageId,
    /// The token of the Page; `None` if the person lacks a role or a permission.
    pub token: Option<Token>,
    /// The fields of the Page, without the token.
    pub object: Map<String, Json>,
}

/// One result page of `/me/accounts`.
#[derive(Debug)]
pub struct ResultPage {
    /// The Pages that it lists, without items that have no valid id.
    pub pages: Vec<ListedPage>,
    /// The cursor of the next result page; `None` if this is the last one.
    pub next_cursor: Option<String>,
    /// The stamp of the reply, or the reason why the reply has none.
    pub stamp: Result<FacebookTime, ReplyTimeError>,
}

/// The reply to a read of one Page with its own token.
#[derive(Debug)]
pub struct PageReply {
    /// The fields of the Page.
    pub object: Map<String, Json>,
    /// The stamp of the reply, or the reason why the reply has none.
    pub stamp: Result<FacebookTime, ReplyTimeError>,
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

fn string_member(body: &Json, name: &str) -> Option<String> {
    body.get(name)?.as_str().map(ToOwned::to_owned)
}

/// Returns a member that is a time in seconds since the UNIX epoch, as a number or as a string, or
/// `None` if it is missing or zero.
fn time_member(body: &Json, name: &str) -> Option<HostTime> {
    let value = body.get(name)?;
    let number = || value.as_str()?.parse().ok();
    let seconds: u64 = value
        .as_u64()
        .or_else(number)
        .filter(|seconds| *seconds > 0)?;
    Some(HostTime(seconds.saturating_mul(1000)))
}

fn parse_issued_token(reply: &Reply) -> Result<IssuedToken, GraphError> {
    let token = string_member(&reply.body, "access_token").filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| {
        GraphError::UnexpectedReply("a token exchange without a token".to_owned())
    })?;
    let expires_in = reply.body.get("expires_in").and_then(Json::as_u64);
    Ok(IssuedToken {
        token: Token::new(token),
        expires_in: expires_in.map(Duration::from_secs),
    })
}

fn parse_token_info(body: &Json) -> Result<TokenInfo, GraphError> {
    let data = body.get("data").filter(|data| data.is_object());
    let data =
        data.ok_or_else(|| GraphError::UnexpectedReply("debug_token without data".to_owned()))?;
    let user = data.get("user_id");
    // Facebook sends the id as a string or as a number.
    let number = |id: &Json| Some(id.as_u64()?.to_string());
    let user = user.and_then(|id| id.as_str().map(ToOwned::to_owned).or_else(|| number(id)));
    Ok(TokenInfo {
        app_id: string_member(data, "app_id").unwrap_or_default(),
        kind: string_member(data, "type").unwrap_or_default(),
        user: user.and_then(|id| UserId::parse(&id).ok()),
        scopes: strings(data.get("scopes")),
        issued_at: time_member(data, "issued_at").map(|millis| FacebookTime(millis.0)),
        expires_at: time_member(data, "expires_at"),
        data_access_expires_at: time_member(data, "data_access_expires_at"),
        is_valid: data.get("is_valid") == Some(&Json::Bool(true)),
    })
}

/// Returns the fields that the app with this id is subscribed to; `None` if it is not among the
/// subscribed apps.
fn parse_page_subscription(body: &Json, app_id: &str) -> Option<Vec<String>> {
    let apps = body.get("data").and_then(Json::as_array);
    // Facebook lists the subscriptions of other apps too.
    let own = apps.into_iter().flatten().find(|app| app["id"] == app_id);
    own.map(|app| strings(app.get("subscribed_fields")))
}

/// Returns the subscription to Pages; `None` if the app has only subscriptions to other objects.
fn parse_app_subscription(body: &Json) -> Option<AppSubscription> {
    let all = body.get("data").and_then(Json::as_array);
    let page_entry = all
        .into_iter()
        .flatten()
        .find(|entry| entry["object"] == "page")?;
    let fields = page_entry
        .get("fields")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    Some(AppSubscription {
        callback: string_member(page_entry, "callback_url").unwrap_or_default(),
        active: page_entry.get("active") == Some(&Json::Bool(true)),
        fields: fields
            .filter_map(|field| string_member(field, "name"))
            .collect(),
    })
}

/// Returns the fields of a Page. Fails if the reply is about another object.
fn parse_page_object(body: Json, id: &PageId) -> Result<Map<String, Json>, GraphError> {
    let Json::Object(object) = body else {
        return Err(GraphError::UnexpectedReply(
            "a Page that is not an object".to_owned(),
        ));
    };
    if object.get("id").and_then(Json::as_str) == Some(id.as_str()) {
        Ok(object)
    } else {
        Err(GraphError::UnexpectedReply(
            "another object than the requested one".to_owned(),
        ))
    }
}

/// Returns the Pages of a result page and the cursor of the next one.
fn parse_result_page(mut body: Json) -> Result<(Vec<ListedPage>, Option<String>), GraphError> {
    let cursor = next_cursor(&body)?;
    let Some(Json::Array(items)) = body.get_mut("data").map(Json::take) else {
        return Err(GraphError::UnexpectedReply(
            "/me/accounts without data".to_owned(),
        ));
    };
    let pages = items.into_iter().filter_map(parse_listed_page).collect();
    Ok((pages, cursor))
}

/// Returns the expression that requests a field.
fn field_expression(field: &FieldName) -> &str {
    match field.as_str() {
        "picture" => "picture{url,cache_key,is_silhouette}",
        name => name,
    }
}

/// Returns the value of the parameter `fields`.
fn field_list(fields: &[FieldName], extra_fields: &[&str]) -> String {
    let names = ["id"]
        .into_iter()
        .chain(fields.iter().map(field_expression));
    names
        .chain(extra_fields.iter().copied())
        .collect::<Vec<_>>()
        .join(",")
}

fn get_request<'a>(
    path: &'a str,
    caller: Caller<'a>,
    parameters: Vec<(&'a str, String)>,
) -> Request<'a> {
    Request {
        method: Method::GET,
        path,
        parameters,
        caller,
    }
}

impl Graph {
    /// Exchanges the code of a login for a short-lived token of the person. `redirect_uri` must be
    /// the one that the login began with.
    pub async fn exchange_code(
        &self,
        code: &str,
        redirect_uri: &str,
    ) -> Result<IssuedToken, GraphError> {
        self.exchange(vec![
            ("code", code.to_owned()),
            ("redirect_uri", redirect_uri.to_owned()),
        ])
        .await
    }

    /// Exchanges a token for one that is valid for about 60 days. Page tokens that are read with
    /// the new token have no expiry time.
    pub async fn exchange_for_long_lived(&self, token: &Token) -> Result<IssuedToken, GraphError> {
        let parameters = vec![
            ("grant_type", "fb_exchange_token".to_owned()),
            ("fb_exchange_token", token.expose().to_owned()),
        ];
        self.exchange(parameters).await
    }

    async fn exchange(
        &self,
        mut parameters: Vec<(&str, String)>,
    ) -> Result<IssuedToken, GraphError> {
        use secrecy::ExposeSecret as _;
        parameters.push(("client_id", self.app_id.clone()));
        parameters.push(("client_secret", self.app_secret.expose_secret().to_owned()));
        let request = Request {
            method: Method::POST,
            path: "oauth/access_token",
            parameters,
            caller: Caller::Anonymous,
        };
        parse_issued_token(&self.send(request).await?)
    }

    /// Returns the properties of a token. The app's own token authenticates this call, and `token`
    /// is in the query of its address.
    pub async fn debug_token(&self, token: &Token) -> Result<TokenInfo, GraphError> {
        let parameters = vec![("input_token", token.expose().to_owned())];
        let reply = self
            .send(get_request("debug_token", Caller::App, parameters))
            .await?;
        parse_token_info(&reply.body)
    }

    /// Returns the name of the person that a token belongs to; `None` if Facebook reports none.
    pub async fn user_name(&self, token: &Token) -> Result<Option<String>, GraphError> {
        let parameters = vec![("fields", "id,name".to_owned())];
        let reply = self
            .send(get_request("me", Caller::Token(token), parameters))
            .await?;
        Ok(string_member(&reply.body, "name"))
    }

    /// Reads one result page of the Pages that a person manages, with at most `limit` Pages.
    /// `extra_fields` are requested in addition to `fields`. `cursor` is the `next_cursor` of the
    /// previous result page, and `None` for the first one.
    pub async fn read_result_page(
        &self,
        token: &Token,
        fields: &[FieldName],
        extra_fields: &[&str],
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<ResultPage, GraphError> {
        let mut parameters = vec![
            ("fields", field_list(fields, extra_fields)),
            ("limit", limit.to_string()),
            (LOCALE.0, LOCALE.1.to_owned()),
        ];
        parameters.extend(cursor.map(|cursor| ("after", cursor.to_owned())));
        let Reply { body, stamp } = self
            .send(get_request("me/accounts", Caller::Token(token), parameters))
            .await?;
        let (pages, next_cursor) = parse_result_page(body)?;
        Ok(ResultPage {
            pages,
            next_cursor,
            stamp,
        })
    }

    /// Reads one Page with its own token.
    pub async fn read_page(
        &self,
        token: &Token,
        id: &PageId,
        fields: &[FieldName],
    ) -> Result<PageReply, GraphError> {
        let parameters = vec![
            ("fields", field_list(fields, &[])),
            (LOCALE.0, LOCALE.1.to_owned()),
        ];
        let Reply { body, stamp } = self
            .send(get_request(id.as_str(), Caller::Token(token), parameters))
            .await?;
        let object = parse_page_object(body, id)?;
        Ok(PageReply { object, stamp })
    }

    /// Returns the fields of a Page that this app is subscribed to; `None` if the app is not
    /// installed on the Page.
    pub async fn page_subscription(
        &self,
        token: &Token,
        id: &PageId,
    ) -> Result<Option<Vec<String>>, GraphError> {
        let path = format!("{id}/subscribed_apps");
        let parameters = vec![("fields", "id,name,subscribed_fields".to_owned())];
        let reply = self
            .send(get_request(&path, Caller::Token(token), parameters))
            .await?;
        Ok(parse_page_subscription(&reply.body, &self.app_id))
    }

    /// Subscribes this app to exactly these fields of a Page. The list replaces the previous one.
    pub async fn subscribe_page(
        &self,
        token: &Token,
        id: &PageId,
        fields: &[String],
    ) -> Result<(), GraphError> {
        let path = format!("{id}/subscribed_apps");
        let request = Request {
            method: Method::POST,
            path: &path,
            parameters: vec![("subscribed_fields", fields.join(","))],
            caller: Caller::Token(token),
        };
        self.send(request)
            .await
            .and_then(|reply| check_success(&reply))
    }

    /// Revokes all permissions that a person granted to this app.
    pub async fn revoke_permissions(&self, token: &Token) -> Result<(), GraphError> {
        let request = Request {
            method: Method::DELETE,
            path: "me/permissions",
            parameters: Vec::new(),
            caller: Caller::Token(token),
        };
        self.send(request)
            .await
            .and_then(|reply| check_success(&reply))
    }

    /// Returns the app subscription; `None` if there is none for Pages.
    pub async fn app_subscription(&self) -> Result<Option<AppSubscription>, GraphError> {
        let path = format!("{}/subscriptions", self.app_id);
        let reply = self
            .send(get_request(&path, Caller::App, Vec::new()))
            .await?;
        Ok(parse_app_subscription(&reply.body))
    }

    /// Creates or replaces the app subscription. Facebook verifies the callback before it replies.
    pub async fn subscribe_app(
        &self,
        callback: &str,
        verify_token: &str,
        fields: &[String],
    ) -> Result<(), GraphError> {
        let path = format!("{}/subscriptions", self.app_id);
        let parameters = vec![
            ("object", "page".to_owned()),
            ("callback_url", callback.to_owned()),
            ("verify_token", verify_token.to_owned()),
            ("include_values", "true".to_owned()),
            ("fields", fields.join(",")),
        ];
        let request = Request {
            method: Method::POST,
            path: &path,
            parameters,
            caller: Caller::App,
        };
        self.send(request)
            .await
            .and_then(|reply| check_success(&reply))
    }
}

/// Returns the address of the dialog in which a person gives this app access to Pages; `None` if
/// `PAGESYNC_DIALOG_URL` is not a URL that paths can be added to.
pub fn login_dialog_url(config: &crate::config::Config, state: &str) -> Option<Url> {
    let mut url = Url::parse(&config.dialog_url).ok()?;
    url.path_segments_mut().ok()?.pop_if_empty().extend([
        config.graph_version.as_str(),
        "dialog",
        "oauth",
    ]);
    url.query_pairs_mut()
        .append_pair("client_id", &config.app_id)
        .append_pair("redirect_uri", &config.redirect_uri)
        .append_pair("state", state)
        .append_pair("response_type", "code")
        .append_pair("scope", &config.scopes.join(","));
    Some(url)
}

/// Returns the strings of a list, without items of other types.
fn strings(list: Option<&Json>) -> Vec<String> {
    let list = list.and_then(Json::as_array).into_iter().flatten();
    list.filter_map(|item| item.as_str().map(ToOwned::to_owned))
        .collect()
}

/// Checks that a reply is `{"success": true}` or `true`. One page of the documentation has the
/// string `"true"` instead.
fn check_success(reply: &Reply) -> Result<(), GraphError> {
    let success = reply.body.get("success").unwrap_or(&reply.body);
    if *success == Json::Bool(true) || success == "true" {
        Ok(())
    } else {
        Err(GraphError::UnexpectedReply(
            "neither success nor an error".to_owned(),
        ))
    }
}

/// Returns the cursor of the next result page; `None` if there is no `paging.next`. The address in
/// `paging.next` is not used, because it contains the token and could lead to any host. Fails if
/// there is a next result page and its cursor is missing or malformed.
fn next_cursor(body: &Json) -> Result<Option<String>, GraphError> {
    if body.pointer("/paging/next").is_none_or(Json::is_null) {
        return Ok(None);
    }
    let cursor = body.pointer("/paging/cursors/after").and_then(Json::as_str);
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_-=".contains(c);
    let cursor = cursor.filter(|cursor| {
        (1..=MAX_CURSOR).contains(&cursor.len()) && cursor.chars().all(is_allowed)
    });
    match cursor {
        Some(cursor) => Ok(Some(cursor.to_owned())),
        None => Err(GraphError::UnexpectedReply(
            "a next result page without a usable cursor".to_owned(),
        )),
    }
}

/// Returns one Page of the list; `None` if it has no valid id.
fn parse_listed_page(item: Json) -> Option<ListedPage> {
    let Json::Object(mut object) = item else {
        return None;
    };
    let token = object.remove("access_token");
    let token = token
        .as_ref()
        .and_then(Json::as_str)
        .filter(|token| !token.is_empty());
    let token = token.map(|token| Token::new(token.to_owned()));
    let id = PageId::parse(object.get("id")?.as_str()?).ok()?;
    Some(ListedPage { id, token, object })
}

#[cfg(test)]
#[path = "replies.rs"]
mod replies;
