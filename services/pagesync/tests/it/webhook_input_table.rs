//! The table of `webhook_input.rs`: webhook requests with their answers and effects. Each row has a
//! Page of its own, whose id replaces `{page}` in the body.

/// The effect of a request. It is visible when all jobs are processed.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// The Page is unchanged.
    Nothing,
    /// The Page has this name, and a verification read is requested.
    Name(String),
    /// A read of the Page is requested, and the Page has no name.
    ReadRequested,
    /// A part of the webhook, or its job, was counted under this label.
    Counted(&'static str),
    /// The reason of a dead letter contains this text.
    DeadLetter(&'static str),
    /// The reason of a dead letter contains this text, and a read of the Page is requested.
    DeadLetterAndReadRequested(&'static str),
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Case {
    /// A description of the unusual part of the request.
    pub(crate) name: &'static str,
    /// The headers. If they are empty and the status is 200, the request is signed.
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// The HTTP status of the answer.
    pub(crate) status: u16,
    pub(crate) effect: Effect,
}

/// Returns a case with this body and a valid signature, which is answered with 200.
fn signed(name: &'static str, body: impl Into<Vec<u8>>, effect: Effect) -> Case {
    Case {
        name,
        headers: Vec::new(),
        body: body.into(),
        status: 200,
        effect,
    }
}

/// Returns a case with these headers whose body sets the name `n`. In header values, `{256}` and
/// `{1}` are replaced by the valid SHA-256 and SHA-1 signatures.
fn with_headers(
    name: &'static str,
    headers: &[(&'static str, &str)],
    status: u16,
    effect: Effect,
) -> Case {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    Case {
        name,
        headers,
        body: change(r#""n""#).into_bytes(),
        status,
        effect,
    }
}

/// Returns a body with one webhook entry that has these members.
fn entry(members: &str) -> String {
    format!(r#"{{"object":"page","entry":[{{"id":"{{page}}","time":1750000000,{members}}}]}}"#)
}

/// Returns a body that reports a change of the field `name`. `value` is JSON.
fn change(value: &str) -> String {
    entry(&format!(
        r#""changes":[{{"field":"name","value":{value}}}]"#
    ))
}

/// Returns a body whose webhook entry has this member instead of its time.
fn timed(time: &str) -> String {
    format!(
        r#"{{"object":"page","entry":[{{"id":"{{page}}",{time}"changes":[{{"field":"name","value":"t"}}]}}]}}"#
    )
}

fn named(text: &str) -> Effect {
    Effect::Name(text.to_owned())
}

/// Returns the cases of signatures and other headers.
pub(crate) fn signatures() -> Vec<Case> {
    let right = ("x-hub-signature-256", "{256}");
    let wrong = "sha256=0000000000000000000000000000000000000000000000000000000000000000";
    vec![
        with_headers("no signature", &[], 401, Effect::Nothing),
        with_headers(
            "signature with too few digits",
            &[("x-hub-signature-256", "sha256=00")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "signature whose digits are not hexadecimal",
            &[("x-hub-signature-256", &wrong.replace('0', "z"))],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "signature without digits",
            &[("x-hub-signature-256", "sha256=")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "signature with the prefix SHA256",
            &[("x-hub-signature-256", "{SHA}")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "signature with digits in upper case",
            &[("x-hub-signature-256", "{UPPER}")],
            200,
            named("n"),
        ),
        with_headers(
            "SHA-1 signature alone",
            &[("x-hub-signature", "{1}")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "wrong SHA-256 signature with a valid SHA-1 signature",
            &[("x-hub-signature-256", wrong), ("x-hub-signature", "{1}")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "two signature headers",
            &[right, right],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "signature of the body in another serialization",
            &[("x-hub-signature-256", "{reserialized}")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "signature by the previous app secret",
            &[("x-hub-signature-256", "{previous}")],
            401,
            Effect::Nothing,
        ),
        with_headers(
            "content encoding gzip",
            &[right, ("content-encoding", "gzip")],
            415,
            Effect::Nothing,
        ),
        with_headers(
            "content type text/plain",
            &[right, ("content-type", "text/plain")],
            200,
            named("n"),
        ),
        with_headers(
            "content type of a form",
            &[right, ("content-type", "application/x-www-form-urlencoded")],
            200,
            named("n"),
        ),
    ]
}

/// Returns the cases of bodies, webhook entries and ids.
pub(crate) fn bodies() -> Vec<Case> {
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let pages = |entry: &str| format!(r#"{{"object":"page","entry":{entry}}}"#);
    vec![
        signed(
            "value with escape sequences",
            change(r#""Caf\u00e9 \ud83d\ude22 a\/b \u003Cc> 5\u0025 x\u0040y""#),
            named("Café 😢 a/b <c> 5% x@y"),
        ),
        signed(
            "value with characters that are not ASCII",
            change("\"Café 😢\""),
            named("Café 😢"),
        ),
        signed("empty body", "", Effect::DeadLetter("ends too early")),
        signed(
            "body that is not JSON",
            "hello",
            Effect::DeadLetter("webhook in JSON: it is not JSON, at line 1 column 1"),
        ),
        signed(
            "body that is cut off",
            r#"{"object":"page","entry":[{"id":"1""#,
            Effect::DeadLetter("ends too early"),
        ),
        signed(
            "value with a lone surrogate",
            change(r#""\ud83d""#),
            Effect::DeadLetterAndReadRequested("the value of name cannot be read"),
        ),
        signed(
            "value that is nested too deeply",
            change(&deep),
            Effect::DeadLetterAndReadRequested("the value of name cannot be read"),
        ),
        signed(
            "body that is nested too deeply",
            deep.clone(),
            Effect::DeadLetter(
                "webhook in JSON: a part has the wrong type, is missing or occurs twice, at line 1 column 1",
            ),
        ),
        signed(
            "object that occurs twice",
            r#"{"object":"page","object":"page","entry":[]}"#,
            Effect::DeadLetter(
                "webhook in JSON: a part has the wrong type, is missing or occurs twice, at line 1 column 25",
            ),
        ),
        signed(
            "id that occurs twice",
            pages(r#"[{"id":"{page}","id":"{page}","time":1750000000,"changed_fields":["name"]}]"#),
            Effect::DeadLetter("an entry cannot be read"),
        ),
        signed(
            "object user",
            r#"{"object":"user","entry":[{"id":"{page}"}]}"#,
            Effect::Counted("object.user"),
        ),
        signed(
            "object instagram",
            r#"{"object":"instagram","entry":[]}"#,
            Effect::Counted("object.instagram"),
        ),
        signed(
            "unknown object",
            r#"{"object":"dance","entry":[]}"#,
            Effect::Counted("object.unknown"),
        ),
        signed(
            "missing object",
            r#"{"entry":[]}"#,
            Effect::Counted("object.unknown"),
        ),
        signed(
            "missing entry",
            r#"{"object":"page"}"#,
            Effect::DeadLetter("the body has no entry"),
        ),
        signed(
            "entry that is null",
            pages("null"),
            Effect::DeadLetter("the body has no entry"),
        ),
        signed(
            "entry that is an object",
            pages("{}"),
            Effect::DeadLetter("entry is not a list"),
        ),
        signed(
            "entry that is an empty list",
            pages("[]"),
            Effect::Counted("entry.none"),
        ),
        signed(
            "webhook entry without changes",
            pages(r#"[{"id":"{page}"}]"#),
            Effect::Counted("entry.empty"),
        ),
        signed(
            "id as a number",
            pages(r#"[{"id":{page},"time":1750000000,"changes":[{"field":"name","value":"n"}]}]"#),
            named("n"),
        ),
        signed(
            "negative id",
            pages(r#"[{"id":-5,"changed_fields":["name"]}]"#),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "empty id",
            pages(r#"[{"id":"","changed_fields":["name"]}]"#),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "id that is a path",
            pages(r#"[{"id":"../1","changed_fields":["name"]}]"#),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "id that is a wildcard",
            pages(r#"[{"id":"*","changed_fields":["name"]}]"#),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "id of 1000 digits",
            pages(&format!(
                r#"[{{"id":"{}","changed_fields":["name"]}}]"#,
                "1".repeat(1000)
            )),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "id of full-width digits",
            pages(r#"[{"id":"１２３","changed_fields":["name"]}]"#),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "missing id",
            pages(r#"[{"changed_fields":["name"]}]"#),
            Effect::DeadLetter("not a Page id"),
        ),
        signed(
            "Page that is not registered",
            pages(
                r#"[{"id":"77777777777777777777","time":1750000000,"changes":[{"field":"name","value":"n"}]}]"#,
            ),
            Effect::Counted("unknown_page"),
        ),
        signed(
            "test webhook of the dashboard",
            pages(r#"[{"id":"0","time":1750000000,"changes":[{"field":"name","value":"n"}]}]"#),
            Effect::Counted("test"),
        ),
        signed(
            "changed fields without values",
            entry(r#""changed_fields":["name","phone"]"#),
            Effect::ReadRequested,
        ),
        signed(
            "two values of one field",
            entry(
                r#""changes":[{"field":"name","value":"zebra"},{"field":"name","value":"apple"}]"#,
            ),
            named("zebra"),
        ),
        signed(
            "two values of one field in the other order",
            entry(
                r#""changes":[{"field":"name","value":"apple"},{"field":"name","value":"zebra"}]"#,
            ),
            named("zebra"),
        ),
    ]
}

/// Returns the cases of times, field names and values.
pub(crate) fn values() -> Vec<Case> {
    let ahead = tomorrow();
    vec![
        signed("missing time", timed(""), Effect::ReadRequested),
        signed(
            "time that is 0",
            timed(r#""time":0,"#),
            Effect::ReadRequested,
        ),
        signed(
            "negative time",
            timed(r#""time":-1,"#),
            Effect::ReadRequested,
        ),
        signed(
            "time as a string",
            timed(r#""time":"1750000000","#),
            Effect::ReadRequested,
        ),
        signed(
            "time with a fraction",
            timed(r#""time":1750000000.5,"#),
            Effect::ReadRequested,
        ),
        signed(
            "time in milliseconds",
            timed(r#""time":1750000000123,"#),
            named("t"),
        ),
        signed(
            "time of 10^18 seconds",
            timed(r#""time":1000000000000000000,"#),
            Effect::ReadRequested,
        ),
        signed(
            "time a day ahead",
            timed(&format!(r#""time":{ahead},"#)),
            Effect::ReadRequested,
        ),
        signed(
            "change without a field",
            entry(r#""changes":[{"value":"n"}]"#),
            Effect::DeadLetter("a change cannot be read"),
        ),
        signed(
            "empty field name",
            entry(r#""changes":[{"field":"","value":"n"}]"#),
            Effect::Counted("unknown"),
        ),
        signed(
            "field name of 10,000 characters",
            entry(&format!(
                r#""changes":[{{"field":"{}"}}]"#,
                "f".repeat(10_000)
            )),
            Effect::Counted("unknown"),
        ),
        signed(
            "field name of a stored attribute",
            entry(r#""changes":[{"field":"_version","value":"99"}]"#),
            Effect::Counted("unknown"),
        ),
        signed(
            "field name with an exclamation mark",
            entry(r#""changes":[{"field":"!v","value":"99"}]"#),
            Effect::Counted("unknown"),
        ),
        signed(
            "field feed",
            entry(r#""changes":[{"field":"feed","value":{"message":"private"}}]"#),
            Effect::Counted("feed"),
        ),
        signed("value null", change("null"), Effect::ReadRequested),
        signed(
            "value that is an object",
            change(r#"{"b":1,"a":[true]}"#),
            named(r#"{"a":[true],"b":1}"#),
        ),
        signed(
            "value that is a list",
            change(r#"["b",{"z":1,"a":null}]"#),
            named(r#"["b",{"a":null,"z":1}]"#),
        ),
        signed("value that is a number", change("17"), named("17")),
        signed("value that is a boolean", change("false"), named("false")),
        signed(
            "value of a million characters",
            change(&format!("\"{}\"", "x".repeat(1_000_000))),
            named(&"x".repeat(8190)),
        ),
        signed(
            "value with control characters",
            change(r#""a\u0000b\u001b[31m\u202e""#),
            named("a\0b\u{1b}[31m\u{202e}"),
        ),
        signed(
            "value with joined emoji",
            change("\"👩\u{200d}👩\u{200d}👧\""),
            named("👩\u{200d}👩\u{200d}👧"),
        ),
        signed(
            "value that is not UTF-8",
            [
                br#"{"object":"page","entry":[{"id":"1","changes":[{"field":"name","value":""#
                    .as_slice(),
                &[0xff, 0xfe],
                br#""}]}]}"#,
            ]
            .concat(),
            Effect::DeadLetter("webhook in JSON: it is not JSON, at line 1 column 73"),
        ),
        signed(
            "value that is HTML",
            change(r#""<img src=x onerror=alert(1)>""#),
            named("<img src=x onerror=alert(1)>"),
        ),
        signed(
            "value that is a formula of a spreadsheet",
            change(r#""=cmd()""#),
            named("=cmd()"),
        ),
    ]
}

/// Returns the time a day from now, in seconds since 1970.
fn tomorrow() -> u64 {
    common::clock::Clock::system().now().0 / 1000 + 86_400
}
