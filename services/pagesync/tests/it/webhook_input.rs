//! Invalid and unusual webhooks. Sends each row of the table in `webhook_input_table.rs`, and
//! checks the answer and the effect. Other HTTP requests are in `http_input.rs`.

use std::collections::BTreeMap;

use common::records::dead_letter;
use model::id::{PageId, Subject};
use model::queue_name::QueueName;
use model::value::CanonicalValue;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Deployment};
use crate::support::page_id;
use crate::webhook_input_table::{Case, Effect, bodies, signatures, values};

/// Sends the request of a case and returns the HTTP status of the answer.
async fn send(deployment: &Deployment, case: &Case, body: &[u8]) -> u16 {
    let right = signature_256(APP_SECRET, body);
    if case.headers.is_empty() && case.status == 200 {
        return deployment.deliver(body).await;
    }
    let digits = &right["sha256=".len()..];
    let reserialized = serde_json::from_slice(body)
        .map_or(String::new(), |json: serde_json::Value| format!("{json} "));
    let headers: Vec<(&str, String)> = case
        .headers
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace("{256}", &right)
                .replace("{1}", &signature_sha1(APP_SECRET, body))
                .replace("{SHA}", &format!("SHA256={digits}"))
                .replace("{UPPER}", &format!("sha256={}", digits.to_uppercase()))
                .replace(
                    "{previous}",
                    &signature_256("the-previous-app-secret", body),
                )
                .replace(
                    "{reserialized}",
                    &signature_256(APP_SECRET, reserialized.as_bytes()),
                );
            (*name, value)
        })
        .collect();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    deployment.post(&headers, body).await
}

/// Checks the effect of a case on its Page, on the counters and on the dead letters. `reasons` are
/// the reasons of all dead letters.
async fn check_effect(deployment: &Deployment, reasons: &[String], case: &Case, page: u64) {
    let id = page_id(page);
    let (version, state) = deployment.page(&id).await.unwrap();
    let has_reason = |part: &str| reasons.iter().any(|reason| reason.contains(part));
    let is_read_requested =
        state.polling.read_after.is_some() || state.polling.requested_from.is_some();
    match &case.effect {
        Effect::Nothing => assert_eq!(version, 1, "{}", case.name),
        Effect::Name(expected) => {
            let plain = state
                .registers
                .values()
                .next()
                .unwrap()
                .value
                .as_ref()
                .unwrap()
                .to_plain_text();
            assert_eq!(&plain, expected, "{}", case.name);
            assert!(
                state.polling.read_after.is_some(),
                "{}: no read to verify the name is requested",
                case.name
            );
            let is_truncated = state.registers.values().any(|stored| {
                stored
                    .value
                    .as_ref()
                    .is_some_and(CanonicalValue::is_truncated)
            });
            assert_eq!(is_truncated, expected.len() > 8000, "{}", case.name);
        }
        Effect::ReadRequested => assert!(
            state.registers.is_empty() && is_read_requested,
            "{}: {state:?}",
            case.name
        ),
        Effect::Counted(name) => {
            assert!(deployment.counted(name) > 0, "{}", case.name);
            assert_eq!(version, 1, "{}", case.name);
        }
        Effect::DeadLetter(part) => {
            assert!(has_reason(part), "{}: {reasons:?}", case.name);
            assert_eq!(version, 1, "{}", case.name);
        }
        Effect::DeadLetterAndReadRequested(part) => {
            assert!(has_reason(part), "{}: {reasons:?}", case.name);
            assert!(
                state.registers.is_empty() && is_read_requested,
                "{}",
                case.name
            );
        }
    }
}

/// Checks that the numbers of dead letters and of counted parts are those of the table. Otherwise a
/// row could pass because of the effect of another row.
fn check_counts(deployment: &Deployment, reasons: &[String], cases: &[Case]) {
    let mut dead_letters: BTreeMap<&str, usize> = BTreeMap::new();
    let mut counted: BTreeMap<&'static str, u64> = BTreeMap::new();
    for case in cases {
        match &case.effect {
            Effect::DeadLetter(part) | Effect::DeadLetterAndReadRequested(part) => {
                *dead_letters.entry(part).or_default() += 1;
            }
            Effect::Counted(name) => *counted.entry(name).or_default() += 1,
            Effect::Nothing | Effect::Name(_) | Effect::ReadRequested => {}
        }
    }
    for (part, expected) in &dead_letters {
        let found = reasons
            .iter()
            .filter(|reason| reason.contains(part))
            .count();
        assert_eq!(found, *expected, "dead letters with {part}: {reasons:?}");
    }
    assert_eq!(
        reasons.len(),
        dead_letters.values().sum::<usize>(),
        "{reasons:?}"
    );
    for (name, expected) in counted {
        assert_eq!(deployment.counted(name), expected, "counted as {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_webhook_of_the_table_gets_its_answer_and_has_its_effect() {
    let deployment = Deployment::start(BACKEND).await;
    let cases: Vec<Case> = signatures()
        .into_iter()
        .chain(bodies())
        .chain(values())
        .collect();
    let pages: Vec<u64> = (1..=cases.len() as u64).map(|n| 500_000 + n).collect();
    deployment
        .register_without_read(&pages.iter().map(|page| page_id(*page)).collect::<Vec<_>>())
        .await;
    for (case, page) in cases.iter().zip(&pages) {
        let page = page.to_string();
        let body: Vec<u8> = match std::str::from_utf8(&case.body) {
            Ok(text) => text.replace("{page}", &page).into_bytes(),
            Err(_) => case.body.clone(),
        };
        assert_eq!(
            send(&deployment, case, &body).await,
            case.status,
            "{}",
            case.name
        );
    }
    deployment.wait_until_idle().await;
    let dead_letters = dead_letter::list(&*deployment.store).await.unwrap();
    let reasons: Vec<String> = dead_letters
        .into_iter()
        .map(|(_, dead_letter)| dead_letter.reason)
        .collect();
    for (case, page) in cases.iter().zip(&pages) {
        check_effect(&deployment, &reasons, case, *page).await;
    }
    let unregistered = PageId::parse("77777777777777777777").unwrap();
    assert!(
        deployment.page(&unregistered).await.is_none(),
        "an unregistered Page has no state"
    );
    let due = deployment
        .store
        .next_due(QueueName::PollsNow, 1000)
        .await
        .unwrap();
    assert!(
        due.iter()
            .all(|entry| entry.subject != Some(Subject::Page(unregistered.clone())))
    );
    check_counts(&deployment, &reasons, &cases);
    deployment.finish().await;
}
