//! The lists from which a connection poll learns the Pages of a person: `/me/accounts`, the Pages of
//! their business portfolios, and the Pages for which they granted permissions.
//!
//! Invariant: a list other than `/me/accounts` that cannot be read does not keep the others from being
//! read. The poll then does not show that the person lost a Page.
//!
//! Sources: `/me/accounts` lists only the Pages on which the person has a role of their own; who manages
//! a Page through a portfolio finds it in `owned_pages` or `client_pages` of the portfolio
//! ("Business", Marketing API), or only in `granular_scopes` of the token ("Debug Token").

use common::graph::error::{ErrorKind, GraphError};
use common::records::connection::{Connection, PageSource, PollProgress, PortfolioId};
use common::records::{load_decodable, token};
use common::store::StoreError;

use super::connection_update::{DueUpdate, update_connection};
use super::poll_job::{ConnectionPoll, PollInterruption};
use super::token_inspection::{apply_info, permission_set};

/// A list of portfolios with more result pages than this is not read further.
const MAX_PORTFOLIO_CALLS: usize = 20;

/// How often in a row a list may fail for a temporary reason before the poll goes on without it.
const MAX_TEMPORARY_FAILURES: u32 = 3;

/// Returns whether an error of a list ends the job: it concerns every list, or it is temporary, so that
/// the next job may succeed with the same list. `failures` is the number of jobs in a row that failed.
pub(super) fn ends_job(error: &GraphError, failures: u32) -> bool {
    match error.kind {
        ErrorKind::Token { .. } | ErrorKind::RateLimited { .. } => true,
        ErrorKind::Transient(_) => failures < MAX_TEMPORARY_FAILURES,
        _ => false,
    }
}

/// Returns the progress of a poll whose present list could not be read.
pub(super) fn without_source(mut progress: PollProgress, error: &GraphError) -> PollProgress {
    let name = match &progress.source {
        PageSource::Accounts => "/me/accounts".to_owned(),
        PageSource::Owned(id) => format!("the Pages that portfolio {id} owns"),
        PageSource::Client(id) => format!("the client Pages of portfolio {id}"),
        PageSource::Granted(id) => format!("Page {id}"),
    };
    let text = format!("{name} could not be read: {error}");
    let is_refusal = matches!(error.kind, ErrorKind::NotFound | ErrorKind::Permission(_));
    match (&progress.source, is_refusal) {
        (_, false) => progress.problems.push(text),
        // A permission for a Page that the person has lost is no problem.
        (PageSource::Granted(_), true) => {}
        // Who lacks the role for a list gets this answer each time. It says all there is to know.
        (_, true) => progress.refusals.push(text),
    }
    progress.cursor = None;
    progress.calls += 1;
    progress
}

impl ConnectionPoll<'_> {
    /// Asks Facebook which lists there are besides `/me/accounts`, and adds them to `progress`. Records
    /// the properties of the token in `connection`.
    pub(super) async fn find_further_lists(
        &self,
        connection: &mut Connection,
        progress: &mut PollProgress,
    ) -> Result<(), PollInterruption> {
        let info = match self.context.graph.debug_token(&self.token).await {
            Ok(info) if info.is_valid => info,
            Ok(info) => return Err(info.refusal().into()),
            Err(error) if ends_job(&error, connection.polling.failures) => {
                return Err(error.into());
            }
            Err(error) => {
                let problem = format!("the permissions could not be read: {error}");
                progress.problems.push(problem);
                return Ok(());
            }
        };
        let connected_at = connection.connected_at;
        let due = DueUpdate::Unchanged;
        let record = |stored: &mut Connection, _: &mut _, now| {
            let is_same_login = stored.connected_at == connected_at;
            if is_same_login {
                apply_info(stored, &info, None, now);
            }
            is_same_login
        };
        let (context, guard) = (self.context, Some(&self.guard));
        let stored = update_connection(context, self.user, guard, due, record).await?;
        *connection = stored.ok_or(PollInterruption::Superseded)?;
        if permission_set(&info.scopes).contains("business_management") {
            let failures = connection.polling.failures;
            self.find_portfolios(progress, failures).await?;
        }
        progress.granted = Some(info.granted_pages.len() as u64);
        for id in &info.granted_pages {
            let source = PageSource::Granted(id.clone());
            if !self.is_listed(&source, progress).await? {
                progress.remaining.push_back(source);
            }
        }
        Ok(())
    }

    /// Adds the lists of the person's portfolios to `progress`.
    async fn find_portfolios(
        &self,
        progress: &mut PollProgress,
        failures: u32,
    ) -> Result<(), PollInterruption> {
        let (mut found, mut cursor): (Vec<PortfolioId>, _) = (Vec::new(), None);
        for _ in 0..MAX_PORTFOLIO_CALLS {
            let read = self
                .context
                .graph
                .portfolios(&self.token, cursor.as_deref());
            match read.await {
                Ok((portfolios, next)) => {
                    found.extend(portfolios);
                    cursor = next;
                }
                Err(error) if ends_job(&error, failures) => return Err(error.into()),
                Err(error) => {
                    let problem = format!("the business portfolios could not be read: {error}");
                    progress.problems.push(problem);
                    break;
                }
            }
            if cursor.is_none() {
                progress.portfolios = Some(found.len() as u64);
                break;
            }
        }
        if cursor.is_some() {
            let problem = "there are more business portfolios than pagesync reads";
            progress.problems.push(problem.to_owned());
        }
        for id in found {
            progress.remaining.push_back(PageSource::Owned(id.clone()));
            progress.remaining.push_back(PageSource::Client(id));
        }
        Ok(())
    }

    /// Begins the next list that is not known already. Returns `false` if there is none.
    pub(super) async fn begin_next_list(
        &self,
        progress: &mut PollProgress,
    ) -> Result<bool, StoreError> {
        while let Some(source) = progress.remaining.pop_front() {
            if !self.is_listed(&source, progress).await? {
                (progress.source, progress.cursor) = (source, None);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether this poll has already found the Page of a list of one Page, with its token.
    async fn is_listed(
        &self,
        source: &PageSource,
        progress: &PollProgress,
    ) -> Result<bool, StoreError> {
        let PageSource::Granted(id) = source else {
            return Ok(false);
        };
        let key = token::page_key(self.user, id);
        let stored = load_decodable::<token::StoredToken>(&*self.context.store, &key).await?;
        let stored = stored.and_then(|stored| stored.value);
        Ok(stored.is_some_and(|stored| {
            stored.obtained_at >= progress.began_at && stored.sealed.is_some()
        }))
    }
}
