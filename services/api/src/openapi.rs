//! The description of the API (OpenAPI 3.1), derived from the handlers and their types.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, SecurityRequirement,
};

/// The name of the security scheme.
const KEY: &str = "api_key";

/// Returns the description without its paths.
pub(crate) fn base() -> OpenApi {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key that `pagesync api-key create` printed."))
        .build();
    let info = InfoBuilder::new()
        .title("pagesync")
        .version("1")
        .description(Some(
            "Pages, connections and changes of a pagesync deployment. docs/api.md explains cursors, keys and errors; docs/json.md describes every object.",
        ))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme(KEY, SecurityScheme::Http(bearer))
                .build(),
        ))
        .security(Some([SecurityRequirement::new(KEY, Vec::<String>::new())]))
        .build()
}
