//! Installs the TLS provider that reqwest needs.

/// Installs ring as the TLS provider of the process.
///
/// reqwest is built without a provider of its own, so this must run before any HTTP client is
/// built.
pub(crate) fn install_provider() {
    // This fails only if a provider is already installed, and any provider is sufficient.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
