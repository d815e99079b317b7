//! Installs the TLS provider of the process.
//!
//! Invariant: [`install_provider`] is called before an HTTP client is built. reqwest is compiled
//! without a provider of its own (feature `rustls-no-provider` in `Cargo.toml`).

use std::sync::Once;

/// Installs ring as the TLS provider of the process. Repeated calls have no effect.
pub fn install_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // This fails only if another provider is already installed, which can be used too.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
