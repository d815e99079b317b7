//! The edge `/me/accounts`: the list of the Pages a person manages, in result pages.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::call::Call;
use super::fields::{self, FieldSelection};
use super::page_object::page_object;
use super::refusal::{Answer, ErrorReply};
use crate::pages::{Page, id_of};
use crate::simulator::Simulator;
use crate::token::{Token, TokenOwner};

/// The number of entries in a result page of a call that names no limit.
const DEFAULT_LIMIT: usize = 25;
/// The fields of the entries of a call that names no fields.
const DEFAULT_FIELDS: &str = "access_token,category,category_list,name,id,tasks";

/// Returns a result page of the Pages that the person of the token manages and selected in the
/// dialog.
pub(super) fn accounts(simulator: &Simulator, call: &Call) -> Answer {
    let token = call.token()?;
    if token.owner != TokenOwner::User {
        return Err(fields::nonexisting("accounts", "Page"));
    }
    let view = FieldSelection::of_call(simulator, call, DEFAULT_FIELDS)?;
    let limit = limit(call)?;
    if limit > simulator.facebook().graph_faults.max_limit {
        return Err(ErrorReply::too_much_data());
    }
    let offset = read_cursor(call.parameter("after"))?;
    let pages = listed_pages(simulator, token);
    let begins_empty = simulator.facebook().graph_faults.empty_first_page;
    let range = ResultRange::new(offset, limit, pages.len(), begins_empty);
    let data: Vec<Value> = pages
        .get(range.start..range.end)
        .unwrap_or_default()
        .iter()
        .map(|page| Value::Object(page_object(simulator, token, page, &view)))
        .collect();
    let mut answer = json!({"data": data});
    if !data.is_empty() || range.is_empty_first_page {
        answer["paging"] = paging(&range, limit, pages.len());
    }
    if call.parameter("summary").is_some() {
        answer["summary"] = json!({"total_count": pages.len()});
    }
    Ok(answer)
}

/// The range of the whole list that a result page contains.
struct ResultRange {
    start: usize,
    end: usize,
    /// Whether this is the empty result page before the first entry.
    is_empty_first_page: bool,
    /// The difference between cursor offsets and entries: 1 if the list begins with an empty result
    /// page.
    shift: usize,
}

impl ResultRange {
    fn new(offset: usize, limit: usize, total: usize, begins_empty: bool) -> Self {
        let shift = usize::from(begins_empty);
        let is_empty_first_page = begins_empty && offset == 0;
        let start = offset.saturating_sub(shift);
        let end = if is_empty_first_page {
            start
        } else {
            (start + limit).min(total)
        };
        Self {
            start,
            end,
            is_empty_first_page,
            shift,
        }
    }
}

/// Returns the cursors of a result page, and the address of the next result page if there is one.
fn paging(range: &ResultRange, limit: usize, total: usize) -> Value {
    let before = cursor(range.start + range.shift);
    let after = cursor(range.end + range.shift);
    let mut paging = json!({"cursors": {"before": before, "after": after}});
    if range.end < total {
        // As at the real Facebook, this address contains an access token. Clients should not use
        // it.
        let next = format!(
            "https://graph.facebook.com/v25.0/me/accounts?access_token=EAASinTheAddress&limit={limit}&after={after}"
        );
        paging["next"] = json!(next);
    }
    paging
}

/// Returns every Page in the list of a person's token.
fn listed_pages(simulator: &Simulator, token: &Token) -> Vec<Page> {
    let facebook = simulator.facebook();
    if !facebook.allows(&token.user, "pages_show_list") {
        return Vec::new();
    }
    let business = facebook.allows(&token.user, "business_management");
    let stale_seconds = facebook.graph_faults.stale_read_seconds;
    simulator
        .lock_pages()
        .seen_at(facebook.now(), stale_seconds)
        .filter(|page| id_of(page).is_some_and(|id| facebook.manages(&token.user, id)))
        .filter(|page| business || !page.contains_key("owner_business"))
        .collect()
}

/// Returns the limit of a result page. Fails if it is not a number above zero.
fn limit(call: &Call) -> Result<usize, ErrorReply> {
    match call.parameter("limit").map(str::parse::<usize>) {
        None => Ok(DEFAULT_LIMIT),
        Some(Ok(limit)) if limit > 0 => Ok(limit),
        Some(_) => {
            let message = "(#100) Param limit must be greater than 0";
            Err(ErrorReply::oauth(100, None, message))
        }
    }
}

fn cursor(offset: usize) -> String {
    BASE64.encode(format!("page-{offset}"))
}

/// Returns the offset that a cursor contains; zero without a cursor.
fn read_cursor(cursor: Option<&str>) -> Result<usize, ErrorReply> {
    let Some(cursor) = cursor else { return Ok(0) };
    let text = BASE64
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let offset = text.and_then(|text| text.strip_prefix("page-")?.parse().ok());
    offset.ok_or_else(|| ErrorReply::oauth(100, None, "(#100) Invalid cursors values"))
}
