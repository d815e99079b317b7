//! Serves the dialog, Graph and the control API on one listener.

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::simulator::Simulator;
use crate::{control, dialog, graph};

/// Returns the routes of a simulator: the control API, the dialog, and Graph at every other
/// path.
pub fn router(simulator: Simulator) -> Router {
    let login_dialog = get(dialog::show).post(dialog::decide);
    control::routes()
        .route("/{version}/dialog/oauth", login_dialog)
        .fallback(graph::handle)
        .with_state(simulator)
}

/// Serves a simulator. It returns only if the listener fails.
pub async fn serve(simulator: Simulator, listener: TcpListener) -> std::io::Result<()> {
    axum::serve(listener, router(simulator)).await
}
