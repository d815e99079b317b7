//! The calls of Graph that pagesync makes.
//!
//! Invariant: a successful reply without the requested token, Page, list of Pages or success is an
//! error.

use model::field::FieldName;
use model::id::PageId;
use model::time::FacebookTime;
use reqwest::{Method, Url};
use serde_json::{Map, Value as Json};

use super::client::{Caller, Graph, Request};
use super::error::GraphError;
pub use super::parse::{AppSubscription, IssuedToken, ListedPage, TokenInfo};
use super::parse::{
    check_success, parse_app_subscription, parse_issued_token, parse_listed_page,
    parse_page_object, parse_page_subscription, parse_result_page, parse_token_info, string_member,
};
use super::reply::{Reply, ReplyTimeError};
use crate::records::connection::{PageSource, PortfolioId};
use crate::sealing::Token;

/// The language of category names, which Facebook translates. It is the same for every read.
const LOCALE: (&str, &str) = ("locale", "en_US");

/// One result page of a list of Pages.
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

    /// Reads one result page of a list of the Pages that a person manages, with at most `limit` Pages.
    /// `extra_fields` are requested in addition to `fields`. `cursor` is the `next_cursor` of the
    /// previous result page, and `None` for the first one. A single Page is a list of one.
    pub async fn read_result_page(
        &self,
        token: &Token,
        source: &PageSource,
        fields: &[FieldName],
        extra_fields: &[&str],
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<ResultPage, GraphError> {
        let mut parameters = vec![
            ("fields", field_list(fields, extra_fields)),
            (LOCALE.0, LOCALE.1.to_owned()),
        ];
        let path = match source {
            PageSource::Accounts => "me/accounts".to_owned(),
            PageSource::Owned(id) => format!("{id}/owned_pages"),
            PageSource::Client(id) => format!("{id}/client_pages"),
            PageSource::Granted(id) => id.to_string(),
        };
        let is_list = !matches!(source, PageSource::Granted(_));
        if is_list {
            parameters.push(("limit", limit.to_string()));
            parameters.extend(cursor.map(|cursor| ("after", cursor.to_owned())));
        }
        let Reply { body, stamp } = self
            .send(get_request(&path, Caller::Token(token), parameters))
            .await?;
        let (pages, next_cursor) = if is_list {
            parse_result_page(body)?
        } else {
            (parse_listed_page(body).into_iter().collect(), None)
        };
        Ok(ResultPage {
            pages,
            next_cursor,
            stamp,
        })
    }

    /// Returns the ids of the business portfolios in which a person has a role, and the cursor of the
    /// next result page. It needs the permission `business_management`.
    pub async fn portfolios(
        &self,
        token: &Token,
        cursor: Option<&str>,
    ) -> Result<(Vec<PortfolioId>, Option<String>), GraphError> {
        let mut parameters = vec![("fields", "id".to_owned()), ("limit", "100".to_owned())];
        parameters.extend(cursor.map(|cursor| ("after", cursor.to_owned())));
        let request = get_request("me/businesses", Caller::Token(token), parameters);
        let (found, cursor) = parse_result_page(self.send(request).await?.body)?;
        Ok((found.into_iter().map(|item| item.id).collect(), cursor))
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
        parse_page_subscription(&reply.body, &self.app_id)
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

    /// Removes this app from a Page, which ends all webhooks of the Page.
    pub async fn unsubscribe_page(&self, token: &Token, id: &PageId) -> Result<(), GraphError> {
        let path = format!("{id}/subscribed_apps");
        let request = Request {
            method: Method::DELETE,
            path: &path,
            parameters: Vec::new(),
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
        parse_app_subscription(&reply.body)
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
/// `PAGESYNC_DIALOG_URL` is not a URL that paths can be added to. With `asks_again`, the dialog asks
/// again for permissions that the person declined before, which it otherwise never does. A
/// configuration of Facebook Login for Business replaces the list of permissions. Sources: "Manually
/// Build a Login Flow", re-asking for declined permissions; "Facebook Login for Business".
pub fn login_dialog_url(
    config: &crate::config::Config,
    state: &str,
    asks_again: bool,
) -> Option<Url> {
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
        .append_pair("response_type", "code");
    match &config.login_config_id {
        // Without the second parameter, the dialog may answer with a token instead of a code.
        Some(id) => url
            .query_pairs_mut()
            .append_pair("config_id", id)
            .append_pair("override_default_response_type", "true"),
        None => url
            .query_pairs_mut()
            .append_pair("scope", &config.scopes.join(",")),
    };
    if asks_again {
        url.query_pairs_mut().append_pair("auth_type", "rerequest");
    }
    Some(url)
}
