//! `pagesync health`: asks the running process whether it is ready.

use anyhow::{Context as _, bail};
use common::config::Config;
use common::http::local_client;

/// Checks that the running process of this configuration is ready. Fails with the text of `/readyz`
/// if it is not, and if nothing answers within 4 seconds.
pub async fn check(config: &Config) -> anyhow::Result<()> {
    let mut address = config.private_listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let request = local_client()?
        .get(format!("http://{address}/readyz"))
        .timeout(std::time::Duration::from_secs(4));
    let answer = request.send().await;
    let answer = answer.with_context(|| format!("nothing answers on {address}"))?;
    if !answer.status().is_success() {
        bail!("not ready: {}", answer.text().await?.trim());
    }
    Ok(())
}
