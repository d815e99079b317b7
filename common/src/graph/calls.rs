//! The calls pagesync makes, with their answers checked.

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

/// Longest cursor that is sent back.
const MAX_CURSOR: usize = 512;
/// Category names are localised; this keeps them the same at every read.
const LOCALE: (&str, &str) = ("locale", "en_US");

/// A token that was just given.
#[derive(Debug)]
pub struct TokenGrant {
    /// The token.
    pub token: Token,
    /// How long it lives; `None`: Facebook did not say.
    pub expires_in: Option<Duration>,
}

/// What `debug_token` says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// The app it was given to.
    pub app_id: String,
    /// `USER`, `PAGE`, `SYSTEM_USER`, `APP`.
    pub kind: String,
    /// Whose it is.
    pub user: Option<UserId>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it ends; `None`: never.
    pub expires: Option<HostTime>,
    /// When Facebook stops giving data for it; `None`: not said.
    pub data_access_expires: Option<HostTime>,
    /// Whether it works now.
    pub is_valid: bool,
}

/// One Page of `/me/accounts`.
#[derive(Debug)]
pub struct ListedPage {
    /// Which.
    pub id: PageId,
    /// Its token; `None`: the person lacks a role or a permission.
    pub token: Option<Token>,
    /// Every field but the token.
    pub object: Map<String, Json>,
}

/// One result page of `/me/accounts`.
#[derive(Debug)]
pub struct PageList {
    /// What it lists, without items that have no usable id.
    pub pages: Vec<ListedPage>,
    /// Where the next result page begins; `None`: this was the last.
    pub next_cursor: Option<String>,
    /// When it was made.
    pub stamp: Result<FacebookTime, ReplyTimeError>,
}

/// A Page as its own token reads it.
#[derive(Debug)]
pub struct PageReply {
    /// Its fields.
    pub object: Map<String, Json>,
    /// When it was made.
    pub stamp: Result<FacebookTime, ReplyTimeError>,
}

/// The app's own subscription to Pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSubscription {
    /// Where Facebook posts to.
    pub callback: String,
    /// Whether it does.
    pub active: bool,
    /// Which fields.
    pub fields: Vec<String>,
}

fn text(body: &Json, name: &str) -> Option<String> {
    body.get(name)?.as_str().map(ToOwned::to_owned)
}

fn seconds(body: &Json, name: &str) -> Option<HostTime> {
    let seconds = body.get(name)?.as_u64().filter(|seconds| *seconds > 0)?;
    Some(HostTime(seconds.saturating_mul(1000)))
}

fn granted(reply: &Reply) -> Result<TokenGrant, GraphError> {
    let token = text(&reply.body, "access_token").filter(|token| !token.is_empty());
    let token = token
        .ok_or_else(|| GraphError::UnexpectedReply("an exchange without a token".to_owned()))?;
    let lives = reply.body.get("expires_in").and_then(Json::as_u64);
    Ok(TokenGrant {
        token: Token::new(token),
        expires_in: lives.map(Duration::from_secs),
    })
}

fn token_info(body: &Json) -> Result<TokenInfo, GraphError> {
    let data = body.get("data").filter(|data| data.is_object());
    let data =
        data.ok_or_else(|| GraphError::UnexpectedReply("debug_token without data".to_owned()))?;
    let user = data.get("user_id");
    let number = |id: &Json| Some(id.as_u64()?.to_string());
    let user = user.and_then(|id| id.as_str().map(ToOwned::to_owned).or_else(|| number(id)));
    Ok(TokenInfo {
        app_id: text(data, "app_id").unwrap_or_default(),
        kind: text(data, "type").unwrap_or_default(),
        user: user.and_then(|id| UserId::parse(&id).ok()),
        scopes: strings(data.get("scopes")),
        expires: seconds(data, "expires_at"),
        data_access_expires: seconds(data, "data_access_expires_at"),
        is_valid: data.get("is_valid") == Some(&Json::Bool(true)),
    })
}

/// The fields of the app with this id, among all apps that are subscribed.
fn fields_of_app(body: &Json, app_id: &str) -> Option<Vec<String>> {
    let apps = body.get("data").and_then(Json::as_array);
    // Other apps are listed too: theirs is not ours.
    let ours = apps.into_iter().flatten().find(|app| app["id"] == app_id);
    ours.map(|app| strings(app.get("subscribed_fields")))
}

/// The app's subscription to Pages, among those to other objects.
fn page_subscription_of(body: &Json) -> Option<AppSubscription> {
    let all = body.get("data").and_then(Json::as_array);
    let pages = all
        .into_iter()
        .flatten()
        .find(|one| one["object"] == "page")?;
    let fields = pages
        .get("fields")
        .and_then(Json::as_array)
        .into_iter()
        .flatten();
    Some(AppSubscription {
        callback: text(pages, "callback_url").unwrap_or_default(),
        active: pages.get("active") == Some(&Json::Bool(true)),
        fields: fields.filter_map(|field| text(field, "name")).collect(),
    })
}

/// The Page in an answer, if it is the one that was asked for.
fn page_object(body: Json, id: &PageId) -> Result<Map<String, Json>, GraphError> {
    let Json::Object(object) = body else {
        return Err(GraphError::UnexpectedReply(
            "a Page that is no object".to_owned(),
        ));
    };
    if object.get("id").and_then(Json::as_str) == Some(id.as_str()) {
        Ok(object)
    } else {
        Err(GraphError::UnexpectedReply(
            "another object than the one asked for".to_owned(),
        ))
    }
}

/// The rows of a list, and where it goes on.
fn listed(mut body: Json) -> Result<(Vec<ListedPage>, Option<String>), GraphError> {
    let after = next_cursor(&body)?;
    let Some(Json::Array(items)) = body.get_mut("data").map(Json::take) else {
        return Err(GraphError::UnexpectedReply(
            "/me/accounts without data".to_owned(),
        ));
    };
    Ok((items.into_iter().filter_map(account).collect(), after))
}

/// How a field is asked for.
fn expansion(field: &FieldName) -> &str {
    match field.as_str() {
        "picture" => "picture{url,cache_key,is_silhouette}",
        name => name,
    }
}

fn field_list(fields: &[FieldName], extras: &[&str]) -> String {
    let names = ["id"].into_iter().chain(fields.iter().map(expansion));
    names
        .chain(extras.iter().copied())
        .collect::<Vec<_>>()
        .join(",")
}

/// A call that only reads.
fn get<'a>(path: &'a str, caller: Caller<'a>, parameters: Vec<(&'a str, String)>) -> Request<'a> {
    Request {
        method: Method::GET,
        path,
        parameters,
        caller,
    }
}

impl Graph {
    /// Exchanges the code of a login for a short-lived token of the person.
    pub async fn exchange_code(
        &self,
        code: &str,
        redirect: &str,
    ) -> Result<TokenGrant, GraphError> {
        self.exchange(vec![
            ("code", code.to_owned()),
            ("redirect_uri", redirect.to_owned()),
        ])
        .await
    }

    /// Exchanges a short-lived token for one that lives about 60 days: the Page tokens that come of
    /// it do not expire by time.
    pub async fn exchange_for_long_lived(&self, token: &Token) -> Result<TokenGrant, GraphError> {
        let parameters = vec![
            ("grant_type", "fb_exchange_token".to_owned()),
            ("fb_exchange_token", token.expose().to_owned()),
        ];
        self.exchange(parameters).await
    }

    async fn exchange(
        &self,
        mut parameters: Vec<(&str, String)>,
    ) -> Result<TokenGrant, GraphError> {
        use secrecy::ExposeSecret as _;
        parameters.push(("client_id", self.app_id.clone()));
        parameters.push(("client_secret", self.app_secret.expose_secret().to_owned()));
        let request = Request {
            method: Method::POST,
            path: "oauth/access_token",
            parameters,
            caller: Caller::Nobody,
        };
        granted(&self.send(request).await?)
    }

    /// What a token is.
    pub async fn debug_token(&self, token: &Token) -> Result<TokenInfo, GraphError> {
        let parameters = vec![("input_token", token.expose().to_owned())];
        let reply = self
            .send(get("debug_token", Caller::App, parameters))
            .await?;
        token_info(&reply.body)
    }

    /// The name of the person whose token it is.
    pub async fn user_name(&self, token: &Token) -> Result<Option<String>, GraphError> {
        let parameters = vec![("fields", "id,name".to_owned())];
        let reply = self
            .send(get("me", Caller::Token(token), parameters))
            .await?;
        Ok(text(&reply.body, "name"))
    }

    /// One result page of the Pages a person manages.
    pub async fn list_pages(
        &self,
        token: &Token,
        fields: &[FieldName],
        extras: &[&str],
        limit: usize,
        after: Option<&str>,
    ) -> Result<PageList, GraphError> {
        let mut parameters = vec![
            ("fields", field_list(fields, extras)),
            ("limit", limit.to_string()),
            (LOCALE.0, LOCALE.1.to_owned()),
        ];
        parameters.extend(after.map(|after| ("after", after.to_owned())));
        let Reply { body, stamp } = self
            .send(get("me/accounts", Caller::Token(token), parameters))
            .await?;
        let (accounts, after) = listed(body)?;
        Ok(PageList {
            pages: accounts,
            next_cursor: after,
            stamp,
        })
    }

    /// One Page, with its own token.
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
            .send(get(id.as_str(), Caller::Token(token), parameters))
            .await?;
        let object = page_object(body, id)?;
        Ok(PageReply { object, stamp })
    }

    /// Which fields of a Page this app is subscribed to; `None`: it is not installed there.
    pub async fn page_subscription(
        &self,
        token: &Token,
        id: &PageId,
    ) -> Result<Option<Vec<String>>, GraphError> {
        let path = format!("{id}/subscribed_apps");
        let parameters = vec![("fields", "id,name,subscribed_fields".to_owned())];
        let reply = self
            .send(get(&path, Caller::Token(token), parameters))
            .await?;
        Ok(fields_of_app(&reply.body, &self.app_id))
    }

    /// Subscribes this app to exactly these fields of a Page: the list replaces the one before.
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
        self.send(request).await.and_then(|reply| success(&reply))
    }

    /// Takes back everything a person allowed this app.
    pub async fn revoke_permissions(&self, token: &Token) -> Result<(), GraphError> {
        let request = Request {
            method: Method::DELETE,
            path: "me/permissions",
            parameters: Vec::new(),
            caller: Caller::Token(token),
        };
        self.send(request).await.and_then(|reply| success(&reply))
    }

    /// The app's own subscription to Pages; `None`: there is none.
    pub async fn app_subscription(&self) -> Result<Option<AppSubscription>, GraphError> {
        let path = format!("{}/subscriptions", self.app_id);
        let reply = self.send(get(&path, Caller::App, Vec::new())).await?;
        Ok(page_subscription_of(&reply.body))
    }

    /// Sets it. Facebook asks the callback for its handshake before it answers.
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
        self.send(request).await.and_then(|reply| success(&reply))
    }
}

/// The address of the dialog where a person allows this app to see their Pages.
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

fn strings(list: Option<&Json>) -> Vec<String> {
    let list = list.and_then(Json::as_array).into_iter().flatten();
    list.filter_map(|item| item.as_str().map(ToOwned::to_owned))
        .collect()
}

/// `{"success": true}`, or `"true"` as the documentation has it in one place.
fn success(reply: &Reply) -> Result<(), GraphError> {
    let said = reply.body.get("success").unwrap_or(&reply.body);
    if *said == Json::Bool(true) || said == "true" {
        Ok(())
    } else {
        Err(GraphError::UnexpectedReply(
            "neither success nor an error".to_owned(),
        ))
    }
}

/// The cursor of the next result page. Only `paging.next` says that there is one; its address is
/// not used, for it carries the token and could lead anywhere.
fn next_cursor(body: &Json) -> Result<Option<String>, GraphError> {
    if body.pointer("/paging/next").is_none_or(Json::is_null) {
        return Ok(None);
    }
    let cursor = body.pointer("/paging/cursors/after").and_then(Json::as_str);
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_-=".contains(c);
    let cursor = cursor
        .filter(|cursor| (1..=MAX_CURSOR).contains(&cursor.len()) && cursor.chars().all(harmless));
    match cursor {
        Some(cursor) => Ok(Some(cursor.to_owned())),
        None => Err(GraphError::UnexpectedReply(
            "a next result page without a usable cursor".to_owned(),
        )),
    }
}

fn account(item: Json) -> Option<ListedPage> {
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
