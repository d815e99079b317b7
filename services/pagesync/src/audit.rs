//! `pagesync audit`: shows who did what with the HTTP API.

use common::records::audit::{self, AuditRecord};
use common::store::Store;
use common::views::audit::audit_view;
use serde_json::Value as Json;

use crate::output::{Format, Row, cell, print_listing};

/// Prints the newest `limit` actions.
pub async fn run(store: &dyn Store, limit: usize, format: Format) -> anyhow::Result<()> {
    let (found, _) = audit::list(store, None, limit).await?;
    let row = |(id, record): &(String, AuditRecord)| {
        let view = audit_view(id, record);
        let name = view.actor_name.as_deref().unwrap_or(&view.actor);
        let version = view
            .version
            .map_or("-".to_owned(), |version| version.to_string());
        let cells = vec![
            view.at.clone(),
            cell(&Json::from(name), 40),
            view.action.clone(),
            view.target.clone(),
            version,
            view.outcome.clone(),
        ];
        Row::new(cells, &view)
    };
    let rows: Vec<Row> = found.iter().map(row).collect();
    let header = ["at", "who", "action", "object", "version", "outcome"];
    print_listing(format, &header, &rows)
}
