//! Reads the parameters and the bodies of requests.
//!
//! Invariant: an error names the parameter and its accepted form, and never repeats its value.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query};
use axum::http::request::Parts;
use axum::response::IntoResponse as _;
use axum::response::Response;
use common::problem::Problem;
use model::field::FieldName;
use model::id::{PageId, UserId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

/// The parameters of a request.
#[derive(Debug, Clone)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let query: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        match query {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(_) => Err(Problem::invalid(
                "a parameter of the query is unknown, repeated, or has another form: docs/api.md describes them",
            )
            .into_response()),
        }
    }
}

/// The id in a path.
#[derive(Debug, Clone)]
pub(crate) struct Id(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(Problem::invalid("the id in the path is not text").into_response()),
        }
    }
}

/// The body of an action.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// The version that the object must have, as the last answer showed it. If it has another one, the
    /// action is refused, so that a repeated request has no further effect.
    pub(crate) version: u64,
}

impl<S: Send + Sync> FromRequest<S> for Target {
    type Rejection = Response;

    async fn from_request(
        request: axum::extract::Request,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        let body: Result<Json<Self>, JsonRejection> = Json::from_request(request, state).await;
        match body {
            Ok(Json(target)) => Ok(target),
            Err(_) => Err(Problem::invalid(
                "the body is not JSON of the form {\"version\": <number>} with the header `Content-Type: application/json`",
            )
            .into_response()),
        }
    }
}

/// Parses the id of a Page in a path.
pub(crate) fn page_id(text: &str) -> Result<PageId, Problem> {
    PageId::parse(text).map_err(|_| Problem::invalid("the id of a Page has 1 to 20 digits"))
}

/// Parses the id of a person in a path.
pub(crate) fn user_id(text: &str) -> Result<UserId, Problem> {
    UserId::parse(text).map_err(|_| Problem::invalid("the id of a connection has 1 to 20 digits"))
}

/// Returns the names in a list of fields, which are separated by commas.
pub(crate) fn field_names<T: FromIterator<String>>(text: &str) -> Result<T, Problem> {
    let name = |name: &str| {
        let field = FieldName::parse(name).map(|field| field.to_string());
        field.ok_or_else(|| {
            Problem::invalid("fields has Graph names of fields, separated by commas, or is all")
        })
    };
    text.split(',').map(name).collect()
}

/// Returns a limit of a list, or its default. Fails unless it is from 1 to `max`.
pub(crate) fn limit(given: Option<usize>, default: usize, max: usize) -> Result<usize, Problem> {
    match given {
        None => Ok(default),
        Some(limit) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::invalid(format!(
            "limit is a number from 1 to {max}"
        ))),
    }
}
