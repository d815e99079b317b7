//! People, Pages, lists of Pages; several at once.

use axum::http::{HeaderMap, Method};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Map, Value, json};

use super::{Answer, Call, Refusal, dispatch, fields, page_of};
use crate::Simulator;
use crate::facebook::{Kind, LONG_LIFE, Token};
use crate::world::Page;

/// How many a list has if nobody says.
const DEFAULT_LIMIT: usize = 25;
/// How many ids or batched requests a call may have.
const MAX_AT_ONCE: usize = 50;

const TASKS: [&str; 6] = [
    "ADVERTISE",
    "ANALYZE",
    "CREATE_CONTENT",
    "MANAGE",
    "MESSAGING",
    "MODERATE",
];

pub(super) fn me(simulator: &Simulator, call: &Call) -> Answer {
    let token = call.token()?;
    if let Some(page) = page_of(token) {
        return node(simulator, call, page);
    }
    let asked = fields::parse(call.parameter("fields").unwrap_or("id,name"));
    if let Some(field) = asked
        .iter()
        .find(|field| !["id", "name"].contains(&field.name.as_str()))
    {
        return Err(fields::nonexisting(&field.name, "User"));
    }
    let facebook = simulator.facebook();
    let name = facebook
        .people
        .get(&token.user)
        .map(|person| person.name.clone());
    Ok(json!({"id": token.user, "name": name}))
}

/// `/me/accounts`: the Pages a person manages, ticked, and may show the app.
pub(super) fn accounts(simulator: &Simulator, call: &Call) -> Answer {
    let token = call.token()?;
    if token.kind != Kind::User {
        return Err(fields::nonexisting("accounts", "Page"));
    }
    let asked = call
        .parameter("fields")
        .unwrap_or("access_token,category,category_list,name,id,tasks");
    let asked = fields::parse(asked);
    fields::check(&asked)?;
    let limit = match call.parameter("limit").map(str::parse::<usize>) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit)) if limit > 0 => limit,
        Some(_) => {
            return Err(Refusal::oauth(
                100,
                None,
                "(#100) Param limit must be greater than 0",
            ));
        }
    };
    let habits = simulator.facebook().habits.clone();
    if limit > habits.max_limit {
        let message = "Please reduce the amount of data you're asking for, then retry your request";
        return Err(Refusal::new(500, "OAuthException", 1, None, message));
    }
    let from = offset(call.parameter("after"))?;
    let listed = listed(simulator, token);
    let hollow = usize::from(habits.hollow && from == 0);
    let from = from.saturating_sub(usize::from(habits.hollow));
    let until = if hollow == 1 {
        from
    } else {
        (from + limit).min(listed.len())
    };
    let locale = call.parameter("locale").unwrap_or("de_DE");
    let data: Vec<Value> = listed
        .get(from..until)
        .unwrap_or_default()
        .iter()
        .map(|page| Value::Object(row(simulator, token, page, &asked, locale)))
        .collect();
    let mut answer = json!({"data": data});
    if !data.is_empty() || hollow == 1 {
        let shift = usize::from(habits.hollow);
        answer["paging"] =
            json!({"cursors": {"before": cursor(from + shift), "after": cursor(until + shift)}});
        if until < listed.len() {
            // As Facebook does: with the token in the address. Nobody should follow it.
            let next = format!(
                "https://graph.facebook.com/v25.0/me/accounts?access_token=EAASinTheAddress&limit={limit}&after={}",
                cursor(until + shift)
            );
            answer["paging"]["next"] = json!(next);
        }
    }
    if call.parameter("summary").is_some() {
        answer["summary"] = json!({"total_count": listed.len()});
    }
    Ok(answer)
}

fn listed(simulator: &Simulator, token: &Token) -> Vec<Page> {
    let facebook = simulator.facebook();
    if !facebook.allows(&token.user, "pages_show_list") {
        return Vec::new();
    }
    let business = facebook.allows(&token.user, "business_management");
    simulator
        .world()
        .read(facebook.now(), facebook.habits.stale_reads)
        .filter(|page| {
            page.get("id")
                .and_then(Value::as_str)
                .is_some_and(|id| facebook.manages(&token.user, id))
        })
        .filter(|page| business || !page.contains_key("owner_business"))
        .collect()
}

fn row(
    simulator: &Simulator,
    token: &Token,
    page: &Page,
    asked: &[fields::Asked],
    locale: &str,
) -> Map<String, Value> {
    let id = page
        .get("id")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut row = fields::view(page, asked, locale, simulator.world().count_read());
    let wants = |name: &str| asked.iter().any(|field| field.name == name);
    let mut facebook = simulator.facebook();
    if wants("tasks") {
        row.insert("tasks".to_owned(), json!(TASKS));
    }
    if wants("is_webhooks_subscribed") {
        row.insert(
            "is_webhooks_subscribed".to_owned(),
            json!(facebook.installed.contains_key(&id)),
        );
    }
    let gives = facebook
        .people
        .get(&token.user)
        .is_some_and(|person| !person.without_token.contains(&id));
    if wants("access_token") && gives {
        // From a long-lived token come Page tokens that do not end; from a short one, short ones.
        let lives = token
            .expires
            .map(|expires| expires.saturating_sub(token.issued));
        let expires = token
            .expires
            .filter(|_| lives.is_some_and(|lives| lives < LONG_LIFE));
        let held = facebook.tokens.iter().find(|(_, held)| {
            held.kind == Kind::Page(id.clone())
                && held.user == token.user
                && held.dead.is_none()
                && held.expires == expires
        });
        let held = held.map(|(text, _)| text.clone());
        let text = held.unwrap_or_else(|| facebook.issue(Kind::Page(id), &token.user, expires));
        row.insert("access_token".to_owned(), json!(text));
    }
    row
}

fn cursor(offset: usize) -> String {
    BASE64.encode(format!("page-{offset}"))
}

fn offset(cursor: Option<&str>) -> Result<usize, Refusal> {
    let Some(cursor) = cursor else { return Ok(0) };
    let text = BASE64
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let offset = text.and_then(|text| text.strip_prefix("page-")?.parse().ok());
    offset.ok_or_else(|| Refusal::oauth(100, None, "(#100) Invalid cursors values"))
}

/// `/{page}`: a Page, read by its own token or by a person who manages it.
pub(super) fn node(simulator: &Simulator, call: &Call, id: &str) -> Answer {
    let token = call.token()?;
    let asked = fields::parse(call.parameter("fields").unwrap_or("id,name"));
    fields::check(&asked)?;
    let facebook = simulator.facebook();
    let may = match page_of(token) {
        Some(own) => own == id,
        None => true,
    };
    let page = simulator
        .world()
        .read(facebook.now(), facebook.habits.stale_reads)
        .find(|page| page.get("id").and_then(Value::as_str) == Some(id));
    let Some(page) = page.filter(|_| may && facebook.manages(&token.user, id)) else {
        return Err(Refusal::missing(id));
    };
    if !facebook.allows(&token.user, "pages_read_engagement") {
        let message = "(#100) Object does not exist, cannot be loaded due to missing permission or reviewable feature, or does not support this operation. This endpoint requires the 'pages_read_engagement' permission or the 'Page Public Content Access' feature.";
        return Err(Refusal::oauth(100, None, message));
    }
    drop(facebook);
    let locale = call.parameter("locale").unwrap_or("de_DE");
    Ok(Value::Object(row(simulator, token, &page, &asked, locale)))
}

/// `/?ids=`: several objects with one token; one bad id fails them all.
pub(super) fn ids(simulator: &Simulator, call: &Call) -> Answer {
    let ids: Vec<&str> = call
        .parameter("ids")
        .unwrap_or_default()
        .split(',')
        .collect();
    if ids.len() > MAX_AT_ONCE {
        let message = format!(
            "(#100) Too many IDs. Maximum: {MAX_AT_ONCE}. Provided: {}.",
            ids.len()
        );
        return Err(Refusal::oauth(100, None, &message));
    }
    let objects: Result<Map<String, Value>, Refusal> = ids
        .into_iter()
        .map(|id| Ok((id.to_owned(), node(simulator, call, id)?)))
        .collect();
    objects.map(Value::Object)
}

/// A batch: each part is a call of its own, its body a text.
pub(super) async fn batch(simulator: &Simulator, call: &Call) -> Answer {
    let parts: Vec<Value> = call
        .parameter("batch")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| Refusal::oauth(100, None, "(#100) batch parameter must be a JSON array"))?;
    if parts.len() > MAX_AT_ONCE {
        let message =
            format!("Too many requests in batch message. Maximum batch size is {MAX_AT_ONCE}");
        return Err(Refusal::new(400, "GraphBatchException", 0, None, &message));
    }
    let mut answers = Vec::new();
    for part in parts {
        let address = part["relative_url"].as_str().unwrap_or_default();
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let mut path: Vec<String> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(ToOwned::to_owned)
            .collect();
        let _ = super::served(&mut path);
        let mut parameters = super::pairs(query.as_bytes());
        parameters.extend(super::pairs(
            part["body"].as_str().unwrap_or_default().as_bytes(),
        ));
        let own = parameters
            .get("access_token")
            .map(|_| super::authenticate(simulator, &HeaderMap::new(), &parameters));
        let method = part["method"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(Method::GET);
        let answer = match own.unwrap_or_else(|| Ok(call.caller.clone())) {
            Ok(caller) => {
                let one = Call {
                    method,
                    path,
                    parameters,
                    caller,
                };
                // Each part counts as a call of its own.
                super::count(simulator, &one);
                Box::pin(dispatch(simulator, &one)).await
            }
            Err(refusal) => Err(refusal),
        };
        let (code, body) = match answer {
            Ok(body) => (200, body),
            Err(refusal) => (refusal.status, json!({"error": refusal.error})),
        };
        answers.push(json!({"code": code, "headers": [{"name": "Content-Type", "value": "application/json"}], "body": body.to_string()}));
    }
    Ok(Value::Array(answers))
}
