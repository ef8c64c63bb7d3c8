//! What is let in, what is not, and with which words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_auth::{AuthError, Claims, KeySet, MAX_TOKEN_BYTES, Principal, PrincipalKind, bearer};

const SECRET: &str = "a secret of more than thirty-two bytes";
const NOW: u64 = 1_700_000_000_000;

fn keys() -> KeySet {
    KeySet::hs256(SECRET)
}

/// Signs header and claims exactly as given, whatever they say.
fn raw(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = BASE64.encode(ring::hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

fn token(claims: &Value) -> String {
    raw(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string())
}

fn verify(claims: Value) -> Result<Principal, AuthError> {
    keys().verify(&token(&claims), NOW)
}

#[test]
fn the_words_are_those_that_clients_know() {
    assert_eq!(AuthError::Missing.to_string(), "Authentication token required");
    assert_eq!(AuthError::Expired.to_string(), "Token expired");
    assert_eq!(AuthError::Invalid.to_string(), "Invalid token");
    assert_eq!(AuthError::Revoked.to_string(), "Token revoked");
    assert_eq!(AuthError::Failed.to_string(), "Authentication failed");
}

#[test]
fn what_we_sign_we_read() {
    let claims = Claims {
        sub: Some("account-7".into()),
        user_id: Some("ada".into()),
        tenant_id: Some("acme".into()),
        username: Some("Ada L.".into()),
        roles: vec!["admin".into()],
        permissions: vec!["room:*:join".into()],
        exp: Some(NOW / 1_000 + 60),
        iat: Some(NOW / 1_000),
        jti: Some("t-1".into()),
        kind: Some("agent".into()),
        ..Claims::default()
    };
    let principal = keys().verify(&keys().sign(&claims), NOW).unwrap();
    assert_eq!(principal.user.as_str(), "ada");
    assert_eq!(principal.tenant.as_str(), "acme");
    assert_eq!(principal.username.as_deref(), Some("Ada L."));
    assert_eq!(&*principal.roles, [Box::from("admin")]);
    assert_eq!(&*principal.permissions, [Box::from("room:*:join")]);
    assert_eq!(principal.expires_at, Some(NOW + 60_000));
    assert_eq!(principal.issued_at, Some(NOW));
    assert_eq!(principal.token_id.as_deref(), Some("t-1"));
    assert_eq!(principal.kind, PrincipalKind::Agent);
}

#[test]
fn a_token_signed_elsewhere_is_read() {
    // The example of jwt.io, signed there; its `iat` lies in 2018 and it has neither userId nor exp.
    let keys = KeySet::hs256("your-256-bit-secret");
    let token = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c";
    let principal = keys.verify(token, NOW).unwrap();
    assert_eq!((principal.user.as_str(), principal.tenant.as_str()), ("1234567890", "default"));
    assert_eq!(principal.username.as_deref(), Some("John Doe"));
    assert_eq!(principal.expires_at, None);
}

#[test]
fn the_user_is_user_id_and_else_the_subject() {
    assert_eq!(verify(json!({"sub": "s", "userId": "u"})).unwrap().user.as_str(), "u");
    assert_eq!(verify(json!({"sub": "s"})).unwrap().user.as_str(), "s");
    assert_eq!(verify(json!({"sub": "s", "userId": null})).unwrap().user.as_str(), "s");
    assert_eq!(verify(json!({"tenantId": "t"})), Err(AuthError::Invalid));
}

#[test]
fn an_expired_token_is_never_called_invalid() {
    let exp = NOW / 1_000;
    assert!(verify(json!({"sub": "s", "exp": exp + 1})).is_ok());
    for exp in [json!(exp), json!(exp - 1), json!(0), json!(-1), json!(1.5)] {
        assert_eq!(verify(json!({"sub": "s", "exp": exp})), Err(AuthError::Expired), "{exp}");
    }
    assert_eq!(verify(json!({"sub": "s", "exp": exp as f64 + 0.5})).unwrap().expires_at, Some(NOW + 500));
}

#[test]
fn a_token_before_its_time_is_invalid() {
    assert!(verify(json!({"sub": "s", "nbf": NOW / 1_000})).is_ok());
    assert_eq!(verify(json!({"sub": "s", "nbf": NOW / 1_000 + 1})), Err(AuthError::Invalid));
}

#[test]
fn claims_that_cannot_be_are_invalid() {
    let long = "x".repeat(257);
    for claims in [
        json!({"sub": ""}),
        json!({"sub": "s", "userId": ""}),
        json!({"sub": "s", "userId": 7}),
        json!({"sub": ["s"]}),
        json!({"sub": "a\nb"}),
        json!({"sub": long}),
        json!({"sub": "s", "tenantId": ""}),
        json!({"sub": "s", "tenantId": "a\u{0}b"}),
        json!({"sub": "s", "tenantId": {}}),
        json!({"sub": "s", "username": long}),
        json!({"sub": "s", "username": "a\u{1b}[2J"}),
        json!({"sub": "s", "roles": "admin"}),
        json!({"sub": "s", "roles": [1]}),
        json!({"sub": "s", "permissions": {"room": true}}),
        json!({"sub": "s", "exp": "tomorrow"}),
        json!({"sub": "s", "exp": []}),
        json!({"sub": "s", "iat": "yesterday"}),
        json!({"sub": "s", "jti": ["a"]}),
        json!({"sub": "s", "jti": long}),
        json!({"sub": "s", "aud": 7}),
        json!([]),
        json!("s"),
        json!(null),
    ] {
        assert_eq!(verify(claims.clone()), Err(AuthError::Invalid), "{claims}");
    }
    let twice = raw(r#"{"alg":"HS256"}"#, r#"{"sub":"a","userId":"ada","userId":"root"}"#);
    assert_eq!(keys().verify(&twice, NOW), Err(AuthError::Invalid));
}

#[test]
fn claims_for_others_do_not_matter() {
    let principal =
        verify(json!({"sub": "s", "aud": "other", "iss": "https://issuer", "jti": 7, "scope": null, "username": ""}));
    assert_eq!(principal.unwrap().username, None);
    // `type` is a claim of many issuers.
    for (claims, kind) in [
        (json!({"sub": "s"}), PrincipalKind::User),
        (json!({"sub": "s", "type": "access"}), PrincipalKind::User),
        (json!({"sub": "s", "type": ["agent"]}), PrincipalKind::User),
        (json!({"sub": "s", "type": "agent"}), PrincipalKind::Agent),
        (json!({"sub": "s", "kind": "anonymous", "type": "agent"}), PrincipalKind::Anonymous),
        (json!({"sub": "s", "kind": "premium", "type": "agent"}), PrincipalKind::Agent),
    ] {
        assert_eq!(verify(claims.clone()).unwrap().kind, kind, "{claims}");
    }
}

#[test]
fn no_header_talks_us_out_of_the_signature() {
    let claims = r#"{"sub":"root"}"#;
    // Signed with our secret, and still refused for what the header asks.
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"HS512"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"typ":"JWT"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#,
        "{}",
        "null",
        "",
    ] {
        assert_eq!(keys().verify(&raw(header, claims), NOW), Err(AuthError::Invalid), "{header}");
    }
    let unsigned = format!("{}.{}.", BASE64.encode(r#"{"alg":"none"}"#), BASE64.encode(claims));
    assert_eq!(keys().verify(&unsigned, NOW), Err(AuthError::Invalid));
    // A key in the header is no key of ours.
    let own = raw(r#"{"alg":"HS256","jwk":{"kty":"oct","k":"YQ"},"kid":"../../dev/null"}"#, claims);
    assert!(keys().verify(&own, NOW).is_ok(), "signed by us, so the rest does not matter");
    assert_eq!(KeySet::hs256("a").verify(&own, NOW), Err(AuthError::Invalid));
}

#[test]
fn every_changed_byte_breaks_the_signature() {
    let token = token(&json!({"sub": "ada", "exp": NOW / 1_000 + 60}));
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        if changed != token {
            assert_eq!(keys().verify(&changed, NOW), Err(AuthError::Invalid), "byte {at}");
        }
    }
}

#[test]
fn no_token_is_missing_and_a_huge_one_is_invalid() {
    assert_eq!(keys().verify("", NOW), Err(AuthError::Missing));
    let fits = token(&json!({"sub": "s", "pad": "x".repeat(5_000)}));
    assert!(fits.len() < MAX_TOKEN_BYTES);
    assert!(keys().verify(&fits, NOW).is_ok());
    let huge = token(&json!({"sub": "s", "pad": "x".repeat(8_000)}));
    assert!(huge.len() > MAX_TOKEN_BYTES);
    assert_eq!(keys().verify(&huge, NOW), Err(AuthError::Invalid));
}

#[test]
fn without_a_key_nobody_is_let_in() {
    let token = token(&json!({"sub": "s"}));
    assert_eq!(KeySet::none().verify(&token, NOW), Err(AuthError::Failed));
    assert_eq!(KeySet::none().sign(&Claims::default()), "");
}

#[test]
fn keys_do_not_print() {
    let shown = format!("{:?}", keys());
    assert_eq!(shown, "[HS256]");
}

#[test]
fn the_scheme_of_a_bearer_token_has_no_case() {
    assert_eq!(bearer("Bearer abc"), Some("abc"));
    assert_eq!(bearer("bEARER   abc "), Some("abc"));
    for header in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
        assert_eq!(bearer(header), None, "{header}");
    }
}

proptest! {
    #[test]
    fn any_text_is_refused(text in ".{0,200}") {
        prop_assert!(keys().verify(&text, NOW).is_err());
        let _ = bearer(&text);
    }

    #[test]
    fn any_signed_claims_are_read_or_refused(header in ".{0,60}", claims in ".{0,200}") {
        let _ = keys().verify(&raw(&header, &claims), NOW);
    }
}
