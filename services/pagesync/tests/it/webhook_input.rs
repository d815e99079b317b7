//! Bad and odd input, B05 to B35: one table of what is sent, what is answered, what comes of it.
//! What a table cannot hold (the handshake, raw HTTP, sizes, replays) is in `limits.rs`.

use std::collections::BTreeMap;

use common::records::dead_letter;
use model::id::{PageId, Subject};
use model::queue_name::QueueName;
use model::value::CanonicalValue;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Deployment};
use crate::support::page_id;
use crate::webhook_input_table::{After, Case, bodies, signatures, values};

async fn send(deployment: &Deployment, case: &Case, body: &[u8]) -> u16 {
    let right = signature_256(APP_SECRET, body);
    if case.headers.is_empty() && case.status == 200 {
        return deployment.deliver(body).await;
    }
    let digits = &right["sha256=".len()..];
    let reserialised = serde_json::from_slice(body)
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
                    "{reserialised}",
                    &signature_256(APP_SECRET, reserialised.as_bytes()),
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

async fn check_after(deployment: &Deployment, letters: &[String], case: &Case, page: u64) {
    let id = page_id(page);
    let (version, state) = deployment.page(&id).await.unwrap();
    let has_letter = |part: &str| letters.iter().any(|reason| reason.contains(part));
    let wanted = state.polling.read_after.is_some() || state.polling.requested_after.is_some();
    match &case.after {
        After::Nothing => assert_eq!(version, 1, "{}", case.id),
        After::Name(expected) => {
            let plain = state
                .registers
                .values()
                .next()
                .unwrap()
                .value
                .as_ref()
                .unwrap()
                .to_plain_text();
            assert_eq!(&plain, expected, "{}", case.id);
            assert!(
                state.polling.read_after.is_some(),
                "{}: a read must verify it",
                case.id
            );
            let cut = state.registers.values().any(|stored| {
                stored
                    .value
                    .as_ref()
                    .is_some_and(CanonicalValue::is_truncated)
            });
            assert_eq!(cut, expected.len() > 8000, "{}", case.id);
        }
        After::Wanted => assert!(
            state.registers.is_empty() && wanted,
            "{}: {state:?}",
            case.id
        ),
        After::Counted(name) => {
            assert!(deployment.counted(name) > 0, "{}", case.id);
            assert_eq!(version, 1, "{}", case.id);
        }
        After::Letter(part) => {
            assert!(has_letter(part), "{}: {letters:?}", case.id);
            assert_eq!(version, 1, "{}", case.id);
        }
        After::LetterAndWanted(part) => {
            assert!(has_letter(part), "{}: {letters:?}", case.id);
            assert!(state.registers.is_empty() && wanted, "{}", case.id);
        }
    }
}

/// Exactly as many letters and counts as the table asks for: no row lives on another's evidence.
fn check_counts(deployment: &Deployment, reasons: &[String], cases: &[Case]) {
    let mut letters: BTreeMap<&str, usize> = BTreeMap::new();
    let mut counted: BTreeMap<&'static str, u64> = BTreeMap::new();
    for case in cases {
        match &case.after {
            After::Letter(part) | After::LetterAndWanted(part) => {
                *letters.entry(part).or_default() += 1;
            }
            After::Counted(name) => *counted.entry(name).or_default() += 1,
            After::Nothing | After::Name(_) | After::Wanted => {}
        }
    }
    for (part, expected) in &letters {
        let found = reasons
            .iter()
            .filter(|reason| reason.contains(part))
            .count();
        assert_eq!(found, *expected, "letters that say {part}: {reasons:?}");
    }
    assert_eq!(
        reasons.len(),
        letters.values().sum::<usize>(),
        "{reasons:?}"
    );
    for (name, expected) in counted {
        assert_eq!(deployment.counted(name), expected, "counted as {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_input_is_answered_kept_counted_or_refused_by_rule() {
    let deployment = Deployment::start(BACKEND).await;
    let cases: Vec<Case> = signatures()
        .into_iter()
        .chain(bodies())
        .chain(values())
        .collect();
    let pages: Vec<u64> = (1..=cases.len() as u64).map(|n| 500_000 + n).collect();
    deployment
        .add(&pages.iter().map(|page| page_id(*page)).collect::<Vec<_>>())
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
            case.id
        );
    }
    deployment.wait_until_idle().await;
    let letters = dead_letter::all(&*deployment.store).await.unwrap();
    let reasons: Vec<String> = letters
        .into_iter()
        .map(|(_, letter)| letter.reason)
        .collect();
    for (case, page) in cases.iter().zip(&pages) {
        check_after(&deployment, &reasons, case, *page).await;
    }
    let stranger = PageId::parse("77777777777777777777").unwrap();
    assert!(deployment.page(&stranger).await.is_none(), "B28: no state");
    let due = deployment
        .store
        .next_due(QueueName::PollsNow, 1000)
        .await
        .unwrap();
    assert!(
        due.iter()
            .all(|(subject, _)| *subject != Subject::Page(stranger.clone()))
    );
    check_counts(&deployment, &reasons, &cases);
    deployment.finish().await;
}
