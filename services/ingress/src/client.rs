//! Determines which client sent a request, also behind reverse proxies.
//!
//! Invariant: a client cannot choose the address under which it counts. An entry of
//! `X-Forwarded-For` is used only if a proxy that is declared as trusted added it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use ipnet::IpNet;
use tokio::time::Instant;

/// How many clients a [`RateLimiter`] remembers.
const MAX_CLIENTS: usize = 10_000;

/// The client to which a request counts: an IPv4 address, or the /64 network of an IPv6 address.
/// One person can use every address of such a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl Client {
    /// Returns the client of a request that arrived from `peer`: the last address of
    /// `X-Forwarded-For` that is outside of the trusted networks, if `peer` is inside.
    pub fn of_request(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let lines: Vec<&[u8]> = headers
            .get_all("x-forwarded-for")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let hops = lines.iter().rev();
        let mut address = peer.to_canonical();
        // Each entry is decoded alone, because the first ones may come from the client itself.
        for hop in hops.flat_map(|line| line.rsplit(|byte| *byte == b',')) {
            if !is_trusted(address, trusted) {
                break;
            }
            match std::str::from_utf8(hop)
                .ok()
                .and_then(|hop| parse_hop(hop.trim()))
            {
                Some(hop) => address = hop,
                // Without a readable entry, the proxy that sent it is the last known sender.
                None => break,
            }
        }
        Self(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
        })
    }
}

/// Returns whether an address belongs to a declared proxy.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// Parses an entry of `X-Forwarded-For`: an address, in some proxies with a port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let address = hop.parse::<IpAddr>().ok();
    let with_port = || Some(hop.parse::<SocketAddr>().ok()?.ip());
    let in_brackets = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = address.or_else(with_port).or_else(in_brackets)?;
    Some(address.to_canonical())
}

/// Limits how often each client may do something. Each client may do it `burst` times at once, and
/// then once in each `interval`.
///
/// The generic cell rate algorithm needs one time for each client. The number of remembered clients
/// is limited; if more are active, all of them begin anew.
#[derive(Debug)]
pub struct RateLimiter {
    burst: u32,
    interval: Duration,
    /// When each client has its whole burst again. Never locked across an await.
    full_again: Mutex<HashMap<Client, Instant>>,
}

impl RateLimiter {
    /// Creates a limiter that admits every client.
    pub fn new(burst: u32, interval: Duration) -> Self {
        Self {
            burst,
            interval,
            full_again: Mutex::default(),
        }
    }

    /// Counts an attempt of a client. Returns whether it is admitted.
    pub fn admit(&self, client: Client) -> bool {
        self.admit_at(client, Instant::now())
    }

    fn admit_at(&self, client: Client, now: Instant) -> bool {
        let mut clients = self
            .full_again
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, full_again| *full_again > now);
            if clients.len() > MAX_CLIENTS / 2 {
                clients.clear();
            }
        }
        let full_again = clients.get(&client).map_or(now, |at| (*at).max(now));
        let next = full_again + self.interval;
        if next.duration_since(now) > self.interval * self.burst {
            return false;
        }
        clients.insert(client, next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            let line = HeaderValue::from_bytes(line.as_bytes()).unwrap();
            headers.append("x-forwarded-for", line);
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|text| text.parse().unwrap()).collect();
        let Client(address) = Client::of_request(peer.parse().unwrap(), &headers, &trusted);
        address.to_string()
    }

    #[test]
    fn the_client_is_the_last_address_outside_of_the_trusted_networks() {
        let proxies = ["10.0.0.0/8", "fd00::/8"];
        for (peer, forwarded, expected) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["1.1.1.1, 198.51.100.1, 10.2.0.1"],
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                &["1.1.1.1", "198.51.100.1", "10.2.0.1"],
                "198.51.100.1",
            ),
            ("::ffff:10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("fd00::1", &["[2001:db8:1:2:3:4:5:6]:443"], "2001:db8:1:2::"),
            ("fd00::1", &["[2001:db8:1:2:3:4:5:6]"], "2001:db8:1:2::"),
            ("fd00::1", &["2001:db8:1:2:ffff::1"], "2001:db8:1:2::"),
            ("10.0.0.1", &["1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["ü, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ] {
            assert_eq!(
                client(peer, forwarded, &proxies),
                expected,
                "{peer} {forwarded:?}"
            );
        }
        assert_eq!(client("10.0.0.1", &["198.51.100.1"], &[]), "10.0.0.1");
    }

    #[test]
    fn a_client_has_a_burst_and_then_one_attempt_in_each_interval() {
        let limiter = RateLimiter::new(20, Duration::from_secs(3));
        let began = Instant::now();
        let address = |n: u32| Client(IpAddr::V4(n.into()));
        let admitted = |client: Client, seconds: u64, attempts: u32| {
            let now = began + Duration::from_secs(seconds);
            (0..attempts)
                .filter(|_| limiter.admit_at(client, now))
                .count()
        };
        assert_eq!(admitted(address(1), 0, 379), 20);
        assert_eq!(admitted(address(2), 0, 40), 20);
        assert_eq!(admitted(address(1), 8, 379), 2);
        assert_eq!(admitted(address(1), 1000, 379), 20);
    }

    #[test]
    fn the_number_of_remembered_clients_is_limited() {
        let limiter = RateLimiter::new(1, Duration::from_secs(60));
        let now = Instant::now();
        for n in 0..3 * u32::try_from(MAX_CLIENTS).unwrap() {
            assert!(limiter.admit_at(Client(IpAddr::V4(n.into())), now));
            assert!(limiter.full_again.lock().unwrap().len() <= MAX_CLIENTS);
        }
    }
}
