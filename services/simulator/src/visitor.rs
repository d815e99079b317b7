//! A visitor: a browser that follows one login by hand, for demos and tests. It keeps cookies by host,
//! does not follow redirects by itself, and presses a button in the dialog.

use std::collections::BTreeMap;

use reqwest::{Response, StatusCode, Url, header};

/// A browser with its cookies.
#[derive(Debug, Clone)]
pub struct Visitor {
    client: reqwest::Client,
    cookies: BTreeMap<String, String>,
    /// Addresses as people see them, and how this machine reaches them.
    reach: Vec<(String, String)>,
}

/// What the person does in the dialog.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// Says no.
    pub deny: bool,
    /// Who they are; empty: the first person there is.
    pub user: String,
    /// Ticked Pages; empty: all.
    pub pages: Vec<String>,
    /// Permissions they decline.
    pub declined: Vec<String>,
}

impl Visitor {
    /// A browser without cookies.
    pub fn new() -> Result<Self, reqwest::Error> {
        crate::provide_tls();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            client,
            cookies: BTreeMap::new(),
            reach: Vec::new(),
        })
    }

    /// Reaches `address`, as people see it, at `at` instead: inside compose, hosts have other names.
    #[must_use]
    pub fn reaching(mut self, address: &str, at: &str) -> Self {
        self.reach.push((address.to_owned(), at.to_owned()));
        self
    }

    /// Asks for an address as a program does.
    pub async fn get(&mut self, address: &str) -> Result<Response, reqwest::Error> {
        self.get_as(address, "application/json").await
    }

    /// Asks for an address and for this type of answer.
    pub async fn get_as(
        &mut self,
        address: &str,
        accept: &str,
    ) -> Result<Response, reqwest::Error> {
        let address = self.reached(address);
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

    /// Begins at the login, decides in the dialog; answers with the address of the callback, or what
    /// came instead of a redirect.
    pub async fn log_in(
        &mut self,
        login: &str,
        decision: &Decision,
    ) -> Result<Result<String, Response>, reqwest::Error> {
        let begun = self.get(login).await?;
        let Some(dialog) = location(&begun) else {
            return Ok(Err(begun));
        };
        let mut form = vec![("decision", if decision.deny { "deny" } else { "approve" })];
        form.push(("user", &decision.user));
        form.extend(decision.pages.iter().map(|page| ("pages", page.as_str())));
        form.extend(
            decision
                .declined
                .iter()
                .map(|scope| ("declined", scope.as_str())),
        );
        let decided = self
            .client
            .post(self.reached(&dialog))
            .form(&form)
            .send()
            .await?;
        Ok(location(&decided).ok_or(decided))
    }

    /// The address this machine uses, without the fragment, which no server sees.
    fn reached(&self, address: &str) -> String {
        let address = address.split('#').next().unwrap_or(address);
        for (seen, at) in &self.reach {
            if let Some(rest) = address.strip_prefix(seen.as_str()) {
                return format!("{at}{rest}");
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

fn location(answer: &Response) -> Option<String> {
    if answer.status() != StatusCode::FOUND {
        return None;
    }
    let to = answer.headers().get(header::LOCATION)?;
    to.to_str().ok().map(ToOwned::to_owned)
}
