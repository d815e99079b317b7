//! The TLS provider of this process. reqwest is built without one of its own (see Cargo.toml), so a
//! client can be made only after [`provide`].

use std::sync::Once;

/// Makes HTTP clients possible. May be called any number of times.
pub fn provide() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails only if there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
