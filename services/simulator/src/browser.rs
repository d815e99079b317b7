//! A browser that completes one login, for demos and tests.
//!
//! It stores cookies by host and submits a decision in the dialog. Its HTTP client follows no
//! redirect automatically.

use std::collections::BTreeMap;

use reqwest::{Response, StatusCode, Url, header};

use crate::tls;

/// A browser with its cookies.
#[derive(Debug, Clone)]
pub struct LoginBrowser {
    client: reqwest::Client,
    /// One cookie per host.
    cookies: BTreeMap<String, String>,
    address_map: Vec<MappedAddress>,
}

/// A mapping of public addresses to the addresses at which this machine reaches the same host.
#[derive(Debug, Clone)]
struct MappedAddress {
    /// The beginning of the public addresses.
    public: String,
    /// The beginning that replaces it.
    reachable: String,
}

/// The decision of a person in the dialog.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// Whether the person denies access.
    pub deny: bool,
    /// The id of the person; empty for the first person.
    pub user: String,
    /// The ids of the selected Pages; empty for all of them.
    pub pages: Vec<String>,
    /// The permissions that the person declines.
    pub declined: Vec<String>,
}

impl LoginBrowser {
    /// Returns a browser without cookies. Fails if no HTTP client can be built.
    pub fn new() -> Result<Self, reqwest::Error> {
        tls::install_provider();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            client,
            cookies: BTreeMap::new(),
            address_map: Vec::new(),
        })
    }

    /// Replaces the beginning `public` of each requested address by `reachable`.
    ///
    /// Browsers in containers need it, because hosts have other names in a compose network.
    #[must_use]
    pub fn map_address(mut self, public: &str, reachable: &str) -> Self {
        self.address_map.push(MappedAddress {
            public: public.to_owned(),
            reachable: reachable.to_owned(),
        });
        self
    }

    /// Sends a GET that accepts JSON, as a program does.
    pub async fn get(&mut self, address: &str) -> Result<Response, reqwest::Error> {
        self.get_as(address, "application/json").await
    }

    /// Sends a GET that accepts this media type.
    pub async fn get_as(
        &mut self,
        address: &str,
        accept: &str,
    ) -> Result<Response, reqwest::Error> {
        let address = self.reachable(address);
        let host = host(&address);
        let mut request = self.client.get(&address).header(header::ACCEPT, accept);
        if let Some(cookie) = self.cookies.get(&host) {
            request = request.header(header::COOKIE, cookie);
        }
        let answer = request.send().await?;
        let set = answer.headers().get(header::SET_COOKIE);
        if let Some(pair) = set.and_then(|value| value.to_str().ok()?.split(';').next()) {
            self.cookies.insert(host, pair.to_owned());
        }
        Ok(answer)
    }

    /// Opens the login address and submits the decision in the dialog.
    ///
    /// Returns the address of the callback, or the response that was received instead of a
    /// redirect.
    pub async fn log_in(
        &mut self,
        login: &str,
        decision: &Decision,
    ) -> Result<Result<String, Response>, reqwest::Error> {
        let answer = self.get(login).await?;
        let Some(dialog) = redirect_address(&answer) else {
            return Ok(Err(answer));
        };
        let mut form = vec![("decision", if decision.deny { "deny" } else { "approve" })];
        form.push(("user", &decision.user));
        form.extend(decision.pages.iter().map(|page| ("pages", page.as_str())));
        let declined = decision.declined.iter();
        form.extend(declined.map(|scope| ("declined", scope.as_str())));
        let request = self.client.post(self.reachable(&dialog)).form(&form);
        let answer = request.send().await?;
        Ok(redirect_address(&answer).ok_or(answer))
    }

    /// Returns the mapped address without its fragment, because browsers send no fragment.
    fn reachable(&self, address: &str) -> String {
        let address = address.split('#').next().unwrap_or(address);
        for mapped in &self.address_map {
            if let Some(rest) = address.strip_prefix(mapped.public.as_str()) {
                return format!("{}{rest}", mapped.reachable);
            }
        }
        address.to_owned()
    }
}

fn host(address: &str) -> String {
    let url = Url::parse(address).ok();
    url.and_then(|url| url.host_str().map(ToOwned::to_owned))
        .unwrap_or_default()
}

/// Returns the address that a response redirects to, or `None` if its status is not 302.
fn redirect_address(answer: &Response) -> Option<String> {
    if answer.status() != StatusCode::FOUND {
        return None;
    }
    let address = answer.headers().get(header::LOCATION)?;
    address.to_str().ok().map(ToOwned::to_owned)
}
