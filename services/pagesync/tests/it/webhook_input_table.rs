//! The table of `input.rs`: what is sent, what is answered, what comes of it. `{page}` stands for a
//! Page of the row's own.

/// What must be true once everything is worked off.
#[derive(Debug, Clone)]
pub(crate) enum After {
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
pub(crate) struct Case {
    pub(crate) id: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) after: After,
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

pub(crate) fn signatures() -> Vec<Case> {
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

pub(crate) fn bodies() -> Vec<Case> {
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

pub(crate) fn values() -> Vec<Case> {
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
