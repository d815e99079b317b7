//! Reads the parameters of a call from its query and its body.
//!
//! Graph accepts a form, JSON and `multipart/form-data`. The value of a parameter can be JSON text, and
//! a list can be given item by item, as `name[0]=a` or `name[]=a`. Source: Meta's SDKs for Python,
//! Node, PHP and JavaScript, which send all of these.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use serde_json::Value;

/// The parameters of a call by name.
pub(super) type Parameters = BTreeMap<String, String>;

/// Returns the parameters in a query or a form. If it is invalid, there are none.
pub(super) fn read_form(text: &[u8]) -> Parameters {
    let pairs: Vec<(String, String)> = serde_urlencoded::from_bytes(text).unwrap_or_default();
    collect(pairs)
}

/// Returns the parameters in a body of any type that Graph accepts. If it is invalid, there are none.
pub(super) async fn read_body(headers: &HeaderMap, body: Bytes) -> Parameters {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if content_type.contains("json") {
        return read_json(&body);
    }
    match multer::parse_boundary(content_type) {
        Ok(boundary) => read_multipart(body, boundary).await,
        Err(_) => read_form(&body),
    }
}

/// Returns the members of a JSON object. Lists and objects become JSON text.
fn read_json(body: &[u8]) -> Parameters {
    let members: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    members
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect()
}

async fn read_multipart(body: Bytes, boundary: String) -> Parameters {
    let stream = futures_util::stream::once(async { Ok::<_, std::io::Error>(body) });
    let mut parts = multer::Multipart::new(stream, boundary);
    let mut pairs = Vec::new();
    while let Ok(Some(part)) = parts.next_field().await {
        let name = part.name().unwrap_or_default().to_owned();
        pairs.push((name, part.text().await.unwrap_or_default()));
    }
    collect(pairs)
}

/// Returns pairs as parameters. The items of a list become one list as JSON text.
fn collect(pairs: Vec<(String, String)>) -> Parameters {
    let (mut parameters, mut lists) = (Parameters::new(), BTreeMap::<String, Vec<String>>::new());
    for (name, value) in pairs {
        let item = name
            .strip_suffix(']')
            .and_then(|name| name.split_once('['))
            .filter(|(_, index)| index.bytes().all(|b| b.is_ascii_digit()));
        match item {
            Some((list, _)) => lists.entry(list.to_owned()).or_default().push(value),
            None => drop(parameters.insert(name, value)),
        }
    }
    let lists = lists.into_iter();
    parameters.extend(lists.map(|(name, items)| (name, Value::from(items).to_string())));
    parameters
}

/// Returns the names in a list: JSON text, or separated by commas.
pub(super) fn name_list(text: Option<&str>) -> Vec<String> {
    let text = text.unwrap_or_default();
    if let Ok(names) = serde_json::from_str::<Vec<String>>(text) {
        return names;
    }
    let names = text.split(',').map(str::trim);
    names
        .filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_form_of_a_list_is_the_same_list() {
        let multipart =
            "--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\n[\"a\",\"b\"]\r\n--x--\r\n";
        for (content_type, body) in [
            ("application/x-www-form-urlencoded", "f=a%2Cb"),
            (
                "application/x-www-form-urlencoded",
                "f=%5B%22a%22%2C%22b%22%5D",
            ),
            ("application/x-www-form-urlencoded", "f%5B0%5D=a&f%5B1%5D=b"),
            ("application/x-www-form-urlencoded", "f%5B%5D=a&f%5B%5D=b"),
            ("application/json", r#"{"f":["a","b"]}"#),
            ("multipart/form-data; boundary=x", multipart),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            let parameters = read_body(&headers, Bytes::from_static(body.as_bytes())).await;
            let names = name_list(parameters.get("f").map(String::as_str));
            assert_eq!(names, ["a", "b"], "{content_type}: {body}");
        }
    }
}
