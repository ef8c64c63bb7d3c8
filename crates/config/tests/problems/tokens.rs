//! Whose tokens count, and what has no place in production.

use super::{ROUTE, SECRET, expect, problems, read};

/// Of P-256, made by OpenSSL.
pub const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEn8rveZgI7M3X78UTcE1FpKCp44QG
Ff4dmneuXMutLDdlvK0hoSUtHVqnCRCnGxooFlooRLokcaKJUjaq/Ig9nQ==
-----END PUBLIC KEY-----
";

/// The key of RFC 7515 appendix A.3, and one that is not for signatures.
pub const JWKS: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","kid":"a","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"RSA","use":"enc","kid":"b"}
]}"#;

const STRONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[track_caller]
fn auth(text: &str, expected: &[&str]) {
    expect(&format!("[realtime.auth]\n{text}"), expected);
    // The edge takes the same keys.
    expect(&format!("[jwt]\n{text}"), expected);
}

#[test]
fn keys_come_as_secret_file_document_or_url() {
    for keys in [
        "public_keys = [\"ec.pem\"]",
        "jwks_file = \"jwks.json\"",
        "jwks_url = \"https://id.example/keys?v=1\"\njwks_refresh = \"1m\"",
        "public_keys = [\"ec.pem\", \"ec.pem\"]\njwks_file = \"jwks.json\"\nalgorithms = [\"ES256\"]\nleeway = \"5m\"",
        "jwks_url = \"http://[::1]:8080/keys\"\naudience = [\"a\", \"b\"]\nissuer = [\"https://id.example\"]",
    ] {
        auth(keys, &[]);
    }
    let config =
        read(&format!("[realtime.auth]\njwt_secret = \"{SECRET}\"\npublic_keys = [\"ec.pem\"]\n{ROUTE}")).unwrap();
    let auth = config.realtime.unwrap().auth;
    assert_eq!(format!("{:?}", auth.tokens.key_set([])), "[HS256, ES256]");
    assert_eq!((auth.cookie.as_deref(), auth.expiry_notice.as_secs()), (Some("tidegate_token"), 60));
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    auth("public_keys = [\"none.pem\"]", &["2:16: the file \"conf/none.pem\" cannot be read: no such file"]);
    auth(
        "public_keys = [\"private.pem\"]",
        &[
            "2:16: the key in \"conf/private.pem\" cannot be used: it is a private key, which only the issuer may have; give \
           the public one (openssl pkey -in FILE -pubout)",
        ],
    );
    auth(
        "public_keys = [\"ec.pem\"]\nalgorithms = [\"RS256\"]",
        &["2:16: the key in \"conf/ec.pem\" cannot be used: none of the allowed algorithms takes a P-256 key"],
    );
    auth(
        "jwks_file = \"good\"",
        &[
            "2:13: the file \"conf/good\" cannot be used: it is no JSON Web Key Set, {\"keys\": [...]} (RFC 7517 section 5)",
        ],
    );
    auth(
        "jwks_file = \"jwks.json\"\nalgorithms = [\"EdDSA\"]",
        &[
            "2:13: the file \"conf/jwks.json\" cannot be used: no key of it can be used: \"a\": none of the allowed algorithms \
           takes a P-256 key",
        ],
    );
    auth(
        "jwks_file = \"jwks.json\"\nleeway = \"6m\"",
        &["3:10: \"leeway\" must be at most 5m: it lets tokens in that have expired"],
    );
    auth("jwks_file = \"jwks.json\"\naudience = [\"\"]", &["3:13: \"audience\" must not hold an empty text"]);
    expect(
        &format!("[realtime.auth]\njwt_secret = \"{SECRET}\"\nalgorithms = [\"ES256\"]"),
        &["2:14: none of the \"algorithms\" takes a secret; add \"HS256\", or take the secret out"],
    );
    expect(
        &format!("[realtime.auth]\njwt_secret = \"{SECRET}\"\nalgorithms = [\"HS512\"]"),
        &["2:14: the JWT secret has 32 bytes; it must have at least 64"],
    );
}

#[test]
fn algorithms_and_urls_are_read_strictly() {
    let name = "is none of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
    expect(
        "[jwt]\njwks_file = \"jwks.json\"\nalgorithms = [\"none\", \"ES512\"]",
        &[
            &format!("3:15: \"algorithms\" in [jwt]: \"none\" {name}"),
            &format!("3:23: \"algorithms\" in [jwt]: \"ES512\" {name}; did you mean \"HS512\"?"),
        ],
    );
    for (url, fault) in [
        ("id.example/keys", "must begin with \"http://\" or \"https://\""),
        ("file:///etc/keys", "must begin with \"http://\" or \"https://\""),
        ("https://user:word@id.example/", "must have no user or password before the host"),
        ("https://id.example/a b", "must have neither a fragment nor spaces"),
    ] {
        expect(&format!("[jwt]\njwks_url = {url:?}"), &[&format!("2:12: \"jwks_url\" in [jwt]: {url:?} {fault}")]);
    }
}

#[test]
fn production_refuses_what_is_weak_and_names_each_place() {
    let production = |text: &str| problems(&format!("production = true\n{text}\n{ROUTE}"));
    let short = "has 32 bytes; it must have at least 64: openssl rand -hex 32";
    assert_eq!(
        production(&format!(
            "[jwt]\nsecret = \"{SECRET}\"\n[admin]\ntoken = \"{SECRET}\"\n[realtime]\n[realtime.auth]\njwt_secret_file = \"good\"\n\
             [[realtime.auth.api_keys]]\nid = \"a\"\nsecret = \"{SECRET}\""
        )),
        [
            format!("3:10: production = true: the JWT secret {short}"),
            format!("5:9: production = true: the admin token {short}"),
            format!("8:19: production = true: the JWT secret {short}"),
            format!("11:10: production = true: the secret {short}"),
        ]
    );
    let example = "is one for development; make a random one: openssl rand -hex 32";
    let same = "is the same few characters over and over; make a random one: openssl rand -hex 32";
    for (secret, weakness) in [("change-me-".repeat(7), example), ("ab".repeat(32), same)] {
        assert_eq!(
            production(&format!("[realtime.auth]\njwt_secret = {secret:?}")),
            [format!("3:14: production = true: the JWT secret {weakness}")]
        );
    }
    assert_eq!(
        production("[realtime.auth]\njwt_secret_file = \".tidegate/jwt-secret\""),
        ["3:19: production = true: this is a secret of `tidegate dev`; make another one: openssl rand -hex 32"]
    );
    assert_eq!(
        production("[jwt]\njwks_url = \"http://id.example/keys\""),
        ["3:12: production = true: keys must come by https, or whoever is on the way makes tokens"]
    );
    assert_eq!(production("[realtime.auth]\njwt_secret_file = \"strong\""), [""; 0]);
    // The same without it.
    expect(&format!("[jwt]\nsecret = \"{SECRET}\"\n[realtime.auth]\njwt_secret_file = \".tidegate/jwt-secret\""), &[]);
}

#[test]
fn production_refuses_origins_of_everybody_and_of_ones_own_machine() {
    let own =
        |origin: &str| format!("production = true: the origin {origin:?} is a page of one's own machine; take it out");
    let all = "production = true: the origin \"*\" lets every page in; name the origins";
    let text = format!(
        "production = true\n[realtime]\ncors_origins = [\"https://app.example\", \"http://localhost:3000\", \"http://127.0.0.1\"]\n\
         [realtime.auth]\njwt_secret = \"{STRONG}\"\n[defaults.cors]\norigins = [\"*\"]\n{ROUTE}[route.cors]\n\
         origins = [\"http://[::1]:8080\", \"https://localhost.example\", \"http://app.localhost\"]"
    );
    assert_eq!(
        problems(&text),
        [
            format!("3:40: {}", own("http://localhost:3000")),
            format!("3:65: {}", own("http://127.0.0.1")),
            format!("7:12: {all}"),
            format!("14:12: {}", own("http://[::1]:8080")),
            format!("14:62: {}", own("http://app.localhost")),
        ]
    );
    let text = text.replace("production = true", "production = false");
    assert_eq!(problems(&text), [""; 0]);
}
