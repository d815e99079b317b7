//! Lists in result pages, with cursors and the addresses of the next and the previous result page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::call::Call;
use super::refusal::{Answer, ErrorReply};
use crate::simulator::Simulator;

/// The number of entries in a result page of a call that names no limit.
const DEFAULT_LIMIT: usize = 25;

/// Returns the result page of `items` that a call requests. `object` converts an item. Fails if the
/// limit or the cursor is invalid.
pub(super) fn result_page<T>(
    simulator: &Simulator,
    call: &Call,
    items: &[T],
    object: impl Fn(&T) -> Value,
) -> Answer {
    let limit = limit(call)?;
    let (max_limit, begins_empty) = {
        let faults = &simulator.facebook().graph_faults;
        (faults.max_limit, faults.empty_first_page)
    };
    if limit > max_limit {
        return Err(ErrorReply::too_much_data());
    }
    let range = match (call.parameter("after"), call.parameter("before")) {
        (None, Some(before)) => ResultRange::before(read_cursor(before)?, limit, begins_empty),
        (after, _) => {
            let offset = after.map_or(Ok(0), read_cursor)?;
            ResultRange::after(offset, limit, items.len(), begins_empty)
        }
    };
    let shown = items.get(range.start..range.end).unwrap_or_default();
    let data: Vec<Value> = shown.iter().map(object).collect();
    let mut answer = json!({"data": data});
    if !data.is_empty() || range.is_empty_first_page {
        answer["paging"] = paging(call, &range, items.len());
    }
    if call.parameter("summary").is_some() {
        answer["summary"] = json!({"total_count": items.len()});
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
    fn after(offset: usize, limit: usize, total: usize, begins_empty: bool) -> Self {
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

    fn before(offset: usize, limit: usize, begins_empty: bool) -> Self {
        let shift = usize::from(begins_empty);
        let end = offset.saturating_sub(shift);
        Self {
            start: end.saturating_sub(limit),
            end,
            is_empty_first_page: false,
            shift,
        }
    }
}

/// Returns the cursors of a result page, and the addresses of the next and the previous one if they
/// exist.
fn paging(call: &Call, range: &ResultRange, total: usize) -> Value {
    let before = cursor(range.start + range.shift);
    let after = cursor(range.end + range.shift);
    let mut paging = json!({"cursors": {"before": before, "after": after}});
    if range.end < total {
        paging["next"] = json!(address(call, "after", &after));
    }
    if range.start > 0 {
        paging["previous"] = json!(address(call, "before", &before));
    }
    paging
}

/// Returns the address of another result page of the same call. As at the real Facebook, it contains
/// the access token of the caller and their parameters, but no proof. Source: issue reports of Meta's
/// SDKs for Node and Java, in which following the address fails if a proof is required.
fn address(call: &Call, cursor_name: &str, cursor: &str) -> String {
    let left_out = [
        "access_token",
        "appsecret_proof",
        "appsecret_time",
        "after",
        "before",
    ];
    let parameters = call.parameters.iter();
    let kept = parameters.filter(|(name, _)| !left_out.contains(&name.as_str()));
    let mut query: Vec<(&str, &str)> =
        vec![("access_token", call.credentials.as_deref().unwrap_or(""))];
    query.extend(kept.map(|(name, value)| (name.as_str(), value.as_str())));
    query.push((cursor_name, cursor));
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    let user = call.token().map_or("me", |token| &token.user);
    let path: Vec<&str> = call
        .path
        .iter()
        .map(|part| if part == "me" { user } else { part.as_str() })
        .collect();
    format!("{}/{}?{query}", call.base, path.join("/"))
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

/// Returns the offset that a cursor contains.
fn read_cursor(cursor: &str) -> Result<usize, ErrorReply> {
    let text = BASE64
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let offset = text.and_then(|text| text.strip_prefix("page-")?.parse().ok());
    offset.ok_or_else(|| ErrorReply::oauth(100, None, "(#100) Invalid cursors values"))
}
