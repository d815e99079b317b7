//! Bad and odd input, B05 to B35: one table of what is sent, what is answered, what comes of it.
//! What a table cannot hold (the handshake, raw HTTP, sizes, replays) is in `limits.rs`.

use std::collections::BTreeMap;

use common::records::dead_letter;
use model::id::{PageId, Subject};
use model::job::Lane;
use model::value::Canonical;
use simulator::bytes::{signature_256, signature_sha1};

use crate::BACKEND;
use crate::support::deployment::{APP_SECRET, Deployment};
use crate::support::page_id;

/// What must be true once everything is worked off.
#[derive(Debug, Clone)]
enum After {
    /// Nothing happened to any Page.
    Nothing,
    /// The Page of this case has this name.
    Name(String),
    /// The Page of this case waits for a read, and has no name.
    Wanted,
    /// A part was counted under this name.
    Counted(&'static str),
    /// A dead letter's reason says this.
    Letter(&'static str),
    /// Both.
    LetterAndWanted(&'static str),
}

#[derive(Debug)]
struct Case {
    id: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    status: u16,
    after: After,
}

/// A signed post about Page `{page}`, which the test replaces by a Page of the case's own.
fn signed(id: &'static str, body: impl Into<Vec<u8>>, after: After) -> Case {
    Case {
        id,
        headers: Vec::new(),
        body: body.into(),
        status: 200,
        after,
    }
}

/// A post with headers of its own; `{256}` and `{1}` are the right signatures.
fn headed(id: &'static str, headers: &[(&'static str, &str)], status: u16, after: After) -> Case {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    Case {
        id,
        headers,
        body: change(r#""n""#).into_bytes(),
        status,
        after,
    }
}

fn entry(changes: &str) -> String {
    format!(r#"{{"object":"page","entry":[{{"id":"{{page}}","time":1750000000,{changes}}}]}}"#)
}

fn change(value: &str) -> String {
    entry(&format!(
        r#""changes":[{{"field":"name","value":{value}}}]"#
    ))
}

fn timed(time: &str) -> String {
    format!(
        r#"{{"object":"page","entry":[{{"id":"{{page}}",{time}"changes":[{{"field":"name","value":"t"}}]}}]}}"#
    )
}

fn name(text: &str) -> After {
    After::Name(text.to_owned())
}

fn signatures() -> Vec<Case> {
    let right = ("x-hub-signature-256", "{256}");
    let wrong = "sha256=0000000000000000000000000000000000000000000000000000000000000000";
    vec![
        headed("B05", &[], 401, After::Nothing),
        headed(
            "B06 length",
            &[("x-hub-signature-256", "sha256=00")],
            401,
            After::Nothing,
        ),
        headed(
            "B06 digits",
            &[("x-hub-signature-256", &wrong.replace('0', "z"))],
            401,
            After::Nothing,
        ),
        headed(
            "B06 empty",
            &[("x-hub-signature-256", "sha256=")],
            401,
            After::Nothing,
        ),
        headed(
            "B06 prefix",
            &[("x-hub-signature-256", "{SHA}")],
            401,
            After::Nothing,
        ),
        headed("B07", &[("x-hub-signature-256", "{UPPER}")], 200, name("n")),
        headed("B08", &[("x-hub-signature", "{1}")], 401, After::Nothing),
        headed(
            "B09",
            &[("x-hub-signature-256", wrong), ("x-hub-signature", "{1}")],
            401,
            After::Nothing,
        ),
        headed("B10", &[right, right], 401, After::Nothing),
        headed(
            "B11",
            &[("x-hub-signature-256", "{reserialised}")],
            401,
            After::Nothing,
        ),
        headed(
            "B14",
            &[("x-hub-signature-256", "{previous}")],
            401,
            After::Nothing,
        ),
        headed(
            "B21",
            &[right, ("content-encoding", "gzip")],
            415,
            After::Nothing,
        ),
        headed(
            "B23 text",
            &[right, ("content-type", "text/plain")],
            200,
            name("n"),
        ),
        headed(
            "B23 form",
            &[right, ("content-type", "application/x-www-form-urlencoded")],
            200,
            name("n"),
        ),
    ]
}

fn bodies() -> Vec<Case> {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let pages = |entry: &str| format!(r#"{{"object":"page","entry":{entry}}}"#);
    vec![
        signed(
            "B12",
            change(r#""Caf\u00e9 \ud83d\ude22 a\/b \u003Cc> 5\u0025 x\u0040y""#),
            name("Café 😢 a/b <c> 5% x@y"),
        ),
        signed("B13", change("\"Café 😢\""), name("Café 😢")),
        signed("B15", "", After::Letter("ends too early")),
        signed(
            "B16 text",
            "hello",
            After::Letter("webhook in JSON: it is not JSON, at line 1 column 1"),
        ),
        signed(
            "B16 cut",
            r#"{"object":"page","entry":[{"id":"1""#,
            After::Letter("ends too early"),
        ),
        signed(
            "B17",
            change(r#""\ud83d""#),
            After::LetterAndWanted("the value of name cannot be read"),
        ),
        signed(
            "B18 value",
            change(&deep),
            After::LetterAndWanted("the value of name cannot be read"),
        ),
        signed(
            "B18 body",
            deep.clone(),
            After::Letter(
                "webhook in JSON: a part has the wrong type, is missing or is there twice, at line 1 column 1",
            ),
        ),
        signed(
            "B19 body",
            r#"{"object":"page","object":"page","entry":[]}"#,
            After::Letter(
                "webhook in JSON: a part has the wrong type, is missing or is there twice, at line 1 column 25",
            ),
        ),
        signed(
            "B19 id",
            pages(r#"[{"id":"{page}","id":"{page}","time":1750000000,"changed_fields":["name"]}]"#),
            After::Letter("an entry cannot be read"),
        ),
        signed(
            "B24 user",
            r#"{"object":"user","entry":[{"id":"{page}"}]}"#,
            After::Counted("object.user"),
        ),
        signed(
            "B24 instagram",
            r#"{"object":"instagram","entry":[]}"#,
            After::Counted("object.instagram"),
        ),
        signed(
            "B24 unknown",
            r#"{"object":"dance","entry":[]}"#,
            After::Counted("object.unknown"),
        ),
        signed(
            "B24 missing",
            r#"{"entry":[]}"#,
            After::Counted("object.unknown"),
        ),
        signed(
            "B25 missing",
            r#"{"object":"page"}"#,
            After::Letter("the body has no entry"),
        ),
        signed(
            "B25 null",
            pages("null"),
            After::Letter("the body has no entry"),
        ),
        signed(
            "B25 object",
            pages("{}"),
            After::Letter("entry is not a list"),
        ),
        signed("B25 empty", pages("[]"), After::Counted("entry.none")),
        signed(
            "B25 empty entry",
            pages(r#"[{"id":"{page}"}]"#),
            After::Counted("entry.empty"),
        ),
        signed(
            "B27 number",
            pages(r#"[{"id":{page},"time":1750000000,"changes":[{"field":"name","value":"n"}]}]"#),
            name("n"),
        ),
        signed(
            "B27 negative",
            pages(r#"[{"id":-5,"changed_fields":["name"]}]"#),
            After::Letter("not a Page id"),
        ),
        signed(
            "B27 empty",
            pages(r#"[{"id":"","changed_fields":["name"]}]"#),
            After::Letter("not a Page id"),
        ),
        signed(
            "B27 path",
            pages(r#"[{"id":"../1","changed_fields":["name"]}]"#),
            After::Letter("not a Page id"),
        ),
        signed(
            "B27 star",
            pages(r#"[{"id":"*","changed_fields":["name"]}]"#),
            After::Letter("not a Page id"),
        ),
        signed(
            "B27 long",
            pages(&format!(
                r#"[{{"id":"{}","changed_fields":["name"]}}]"#,
                "1".repeat(1000)
            )),
            After::Letter("not a Page id"),
        ),
        signed(
            "B27 unicode",
            pages(r#"[{"id":"１２３","changed_fields":["name"]}]"#),
            After::Letter("not a Page id"),
        ),
        signed(
            "B27 none",
            pages(r#"[{"changed_fields":["name"]}]"#),
            After::Letter("not a Page id"),
        ),
        signed(
            "B28",
            pages(
                r#"[{"id":"77777777777777777777","time":1750000000,"changes":[{"field":"name","value":"n"}]}]"#,
            ),
            After::Counted("unknown_page"),
        ),
        signed(
            "B28 test button",
            pages(r#"[{"id":"0","time":1750000000,"changes":[{"field":"name","value":"n"}]}]"#),
            After::Counted("test"),
        ),
        signed(
            "B34",
            entry(r#""changed_fields":["name","phone"]"#),
            After::Wanted,
        ),
        signed(
            "B35",
            entry(
                r#""changes":[{"field":"name","value":"zebra"},{"field":"name","value":"apple"}]"#,
            ),
            name("zebra"),
        ),
        signed(
            "B35 other order",
            entry(
                r#""changes":[{"field":"name","value":"apple"},{"field":"name","value":"zebra"}]"#,
            ),
            name("zebra"),
        ),
    ]
}

fn values() -> Vec<Case> {
    let ahead = tomorrow();
    vec![
        signed("B29 missing", timed(""), After::Wanted),
        signed("B29 zero", timed(r#""time":0,"#), After::Wanted),
        signed("B29 negative", timed(r#""time":-1,"#), After::Wanted),
        signed(
            "B29 string",
            timed(r#""time":"1750000000","#),
            After::Wanted,
        ),
        signed("B29 float", timed(r#""time":1750000000.5,"#), After::Wanted),
        signed("B29 ms", timed(r#""time":1750000000123,"#), name("t")),
        signed(
            "B29 huge",
            timed(r#""time":1000000000000000000,"#),
            After::Wanted,
        ),
        signed(
            "B29 ahead",
            timed(&format!(r#""time":{ahead},"#)),
            After::Wanted,
        ),
        signed(
            "B30 none",
            entry(r#""changes":[{"value":"n"}]"#),
            After::Letter("a change cannot be read"),
        ),
        signed(
            "B30 empty",
            entry(r#""changes":[{"field":"","value":"n"}]"#),
            After::Counted("unknown"),
        ),
        signed(
            "B30 long",
            entry(&format!(
                r#""changes":[{{"field":"{}"}}]"#,
                "f".repeat(10_000)
            )),
            After::Counted("unknown"),
        ),
        signed(
            "B30 meta",
            entry(r#""changes":[{"field":"_version","value":"99"}]"#),
            After::Counted("unknown"),
        ),
        signed(
            "B30 bang",
            entry(r#""changes":[{"field":"!v","value":"99"}]"#),
            After::Counted("unknown"),
        ),
        signed(
            "B30 feed",
            entry(r#""changes":[{"field":"feed","value":{"message":"private"}}]"#),
            After::Counted("feed"),
        ),
        signed("B31 null", change("null"), After::Wanted),
        signed(
            "B31 object",
            change(r#"{"b":1,"a":[true]}"#),
            name(r#"{"a":[true],"b":1}"#),
        ),
        signed(
            "B31 array",
            change(r#"["b",{"z":1,"a":null}]"#),
            name(r#"["b",{"a":null,"z":1}]"#),
        ),
        signed("B31 number", change("17"), name("17")),
        signed("B31 bool", change("false"), name("false")),
        signed(
            "B31 long",
            change(&format!("\"{}\"", "x".repeat(1_000_000))),
            name(&"x".repeat(8190)),
        ),
        signed(
            "B32 controls",
            change(r#""a\u0000b\u001b[31m\u202e""#),
            name("a\0b\u{1b}[31m\u{202e}"),
        ),
        signed(
            "B32 joined",
            change("\"👩\u{200d}👩\u{200d}👧\""),
            name("👩\u{200d}👩\u{200d}👧"),
        ),
        signed(
            "B32 not utf-8",
            [
                br#"{"object":"page","entry":[{"id":"1","changes":[{"field":"name","value":""#
                    .as_slice(),
                &[0xff, 0xfe],
                br#""}]}]}"#,
            ]
            .concat(),
            After::Letter("webhook in JSON: it is not JSON, at line 1 column 73"),
        ),
        signed(
            "B33 html",
            change(r#""<img src=x onerror=alert(1)>""#),
            name("<img src=x onerror=alert(1)>"),
        ),
        signed("B33 formula", change(r#""=cmd()""#), name("=cmd()")),
    ]
}

/// A day from now, in seconds.
fn tomorrow() -> u64 {
    common::clock::Clock::system().now().0 / 1000 + 86_400
}

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
    let wanted =
        state.polling.need.is_some() || state.polling.asked > Some(deployment_start(&state));
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
                .plain();
            assert_eq!(&plain, expected, "{}", case.id);
            assert!(
                state.polling.need.is_some(),
                "{}: a read must verify it",
                case.id
            );
            let cut = state
                .registers
                .values()
                .any(|held| held.value.as_ref().is_some_and(Canonical::is_cut));
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

/// When the Page was registered: a later wish came from a webhook.
fn deployment_start(page: &model::page::Page) -> model::time::Millis {
    page.polling.ask_at.unwrap()
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
    deployment.settle().await;
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
    let due = deployment.store.due(Lane::PollsNow, 1000).await.unwrap();
    assert!(
        due.iter()
            .all(|(subject, _)| *subject != Subject::Page(stranger.clone()))
    );
    check_counts(&deployment, &reasons, &cases);
    deployment.finish().await;
}
