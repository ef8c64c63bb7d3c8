//! Tokens signed with public keys: keys and signatures of OpenSSL, the examples of RFC 7515, and what must be refused.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use serde_json::{Value, json};
use tidegate_auth::{
    Algorithm, AuthError, Claims, Jwks, JwksFault, Key, KeyFault, KeyKind, KeySet, LiveKeys, Secrets, SigningKey, Terms,
};

const NOW: u64 = 1_700_000_000_000;
const CLAIMS: &str = r#"{"sub":"ada","tenantId":"acme"}"#;

fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// A pair of PEM texts, made once: RSA keys take a moment.
struct Pair {
    private: String,
    public: String,
}

fn pair(cell: &'static OnceLock<Pair>, generate: &[&str]) -> &'static Pair {
    cell.get_or_init(|| {
        let private = openssl(&[&["genpkey"], generate].concat(), b"");
        let public = openssl(&["pkey", "-pubout"], &private);
        Pair { private: String::from_utf8(private).unwrap(), public: String::from_utf8(public).unwrap() }
    })
}

fn pair_of(algorithm: Algorithm) -> &'static Pair {
    static RSA: OnceLock<Pair> = OnceLock::new();
    static P256: OnceLock<Pair> = OnceLock::new();
    static P384: OnceLock<Pair> = OnceLock::new();
    static ED25519: OnceLock<Pair> = OnceLock::new();
    match algorithm.kind() {
        KeyKind::P256 => pair(&P256, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
        KeyKind::P384 => pair(&P384, &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]),
        KeyKind::Ed25519 => pair(&ED25519, &["-algorithm", "ED25519"]),
        KeyKind::Rsa | KeyKind::Secret => pair(&RSA, &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    }
}

fn public_algorithms() -> impl Iterator<Item = Algorithm> {
    Algorithm::ALL.into_iter().filter(|algorithm| algorithm.least_secret_bytes() == 0)
}

fn set(keys: Vec<Key>) -> KeySet {
    KeySet::new(keys, Terms::default())
}

fn signed(algorithm: Algorithm, kid: Option<&str>) -> String {
    let key = SigningKey::from_pem(&pair_of(algorithm).private, Some(algorithm), &SystemRandom::new()).unwrap();
    let claims = Claims { sub: Some("ada".into()), tenant_id: Some("acme".into()), ..Claims::default() };
    key.named(kid.map(str::to_owned)).sign(&claims, &SystemRandom::new()).unwrap()
}

/// A token whose signature OpenSSL made.
fn signed_by_openssl(algorithm: Algorithm) -> String {
    let directory = std::env::temp_dir().join(format!("tidegate-auth-{}-{algorithm}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (key, text) = (directory.join("key"), directory.join("text"));
    std::fs::write(&key, &pair_of(algorithm).private).unwrap();
    let header = json!({ "alg": algorithm.as_str() }).to_string();
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(CLAIMS));
    std::fs::write(&text, &message).unwrap();
    let (key, text) = (key.to_str().unwrap(), text.to_str().unwrap());
    let hash = format!("-sha{}", &algorithm.as_str()[2..]);
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
    let signature = match &algorithm.as_str()[..2] {
        "RS" => openssl(&["dgst", &hash, "-sign", key, text], b""),
        "PS" => openssl(&[&["dgst", &hash, "-sign", key][..], &pss, &[text]].concat(), b""),
        "ES" => fixed(
            &openssl(&["dgst", &hash, "-sign", key, text], b""),
            if algorithm == Algorithm::Es256 { 32 } else { 48 },
        ),
        _ => openssl(&["pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", text], b""),
    };
    std::fs::remove_dir_all(&directory).unwrap();
    format!("{message}.{}", BASE64.encode(signature))
}

/// ASN.1's two integers as JWS wants them: each as long as the curve (RFC 7518 section 3.4).
fn fixed(der: &[u8], length: usize) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut fixed = Vec::new();
    for _ in 0..2 {
        let size = usize::from(rest[1]);
        let digits: Vec<u8> = rest[2..2 + size].iter().copied().skip_while(|byte| *byte == 0).collect();
        fixed.resize(fixed.len() + length - digits.len(), 0);
        fixed.extend(digits);
        rest = &rest[2 + size..];
    }
    fixed
}

/// The public key as an issuer would publish it.
fn jwk(algorithm: Algorithm, kid: &str) -> Value {
    let der = openssl(&["pkey", "-pubin", "-outform", "DER"], pair_of(algorithm).public.as_bytes());
    let last = |length: usize| BASE64.encode(&der[der.len() - length..]);
    let point = |curve, size: usize| {
        let (x, y) = der[der.len() - 2 * size..].split_at(size);
        json!({ "kty": "EC", "crv": curve, "x": BASE64.encode(x), "y": BASE64.encode(y) })
    };
    let mut jwk = match algorithm.kind() {
        KeyKind::P256 => point("P-256", 32),
        KeyKind::P384 => point("P-384", 48),
        KeyKind::Ed25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": last(32) }),
        // The modulus stands before the exponent, 02 03 01 00 01.
        KeyKind::Rsa | KeyKind::Secret => {
            json!({ "kty": "RSA", "n": BASE64.encode(&der[der.len() - 261..der.len() - 5]), "e": "AQAB" })
        }
    };
    jwk["kid"] = kid.into();
    jwk
}

fn jwks(keys: &[Value]) -> Result<Jwks, JwksFault> {
    Jwks::parse(json!({ "keys": keys }).to_string().as_bytes(), &[], Secrets::Refused)
}

fn subject(keys: &KeySet, token: &str) -> Result<String, AuthError> {
    keys.verify(token, NOW).map(|principal| principal.user.to_string())
}

#[test]
fn what_openssl_signs_we_read_and_what_we_sign_too() {
    for algorithm in public_algorithms() {
        let keys = set(Key::from_pem(&pair_of(algorithm).public, &[algorithm]).unwrap());
        for token in [signed_by_openssl(algorithm), signed(algorithm, None)] {
            assert_eq!(subject(&keys, &token), Ok("ada".into()), "{algorithm}");
            // The last byte may hold unused bits only; one before it is signature.
            let mut broken = token.into_bytes();
            let at = broken.len() - 9;
            broken[at] = if broken[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(subject(&keys, &String::from_utf8(broken).unwrap()), Err(AuthError::Invalid), "{algorithm}");
        }
    }
}

#[test]
fn each_hmac_takes_its_own_tokens_only() {
    let hmacs = [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512];
    let secret = [7; 64];
    for own in hmacs {
        let keys = set(vec![Key::secret(own, secret).unwrap()]);
        for other in hmacs {
            let claims = Claims { sub: Some("ada".into()), ..Claims::default() };
            let token = SigningKey::secret(other, secret).unwrap().sign(&claims, &SystemRandom::new()).unwrap();
            assert_eq!(subject(&keys, &token).is_ok(), own == other, "{own} {other}");
        }
    }
}

#[test]
fn the_examples_of_rfc_7515_are_read() {
    // Appendices A.1 to A.3; they expired in 2011.
    let claims = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let examples = [
        (
            json!({"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}),
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ];
    for (jwk, header, signature) in examples {
        let document = json!({ "keys": [jwk] }).to_string();
        let keys = set(Jwks::parse(document.as_bytes(), &[], Secrets::Accepted).unwrap().keys);
        let token = format!("{header}.{claims}.{signature}");
        assert_eq!(keys.claims(&token, NOW), Err(AuthError::Expired), "{header}");
        let then = keys.claims(&token, 1_300_819_379_000).unwrap();
        assert!(then.as_slice().contains(&("iss".into(), "joe".into())));
    }
}

#[test]
fn a_key_never_counts_for_another_algorithm() {
    for own in public_algorithms() {
        let keys = set(Key::from_pem(&pair_of(own).public, &[own]).unwrap());
        for other in public_algorithms().filter(|other| *other != own) {
            assert_eq!(subject(&keys, &signed(other, None)), Err(AuthError::Invalid), "{own} {other}");
        }
        // RFC 8725 section 2.1: the public key's text as an HMAC secret.
        for hmac in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
            let claims = Claims { sub: Some("root".into()), ..Claims::default() };
            for secret in [pair_of(own).public.as_str(), pair_of(own).public.trim_end()] {
                let token = SigningKey::secret(hmac, secret).unwrap().sign(&claims, &SystemRandom::new()).unwrap();
                assert_eq!(subject(&keys, &token), Err(AuthError::Invalid), "{own} {hmac}");
            }
        }
    }
}

#[test]
fn a_token_that_names_its_key_is_checked_with_that_one_only() {
    let found = jwks(&[jwk(Algorithm::Es256, "old"), jwk(Algorithm::Rs256, "new"), jwk(Algorithm::EdDsa, "ed")]);
    let keys = set(found.unwrap().keys);
    assert_eq!(subject(&keys, &signed(Algorithm::Es256, Some("old"))), Ok("ada".into()));
    assert_eq!(subject(&keys, &signed(Algorithm::Rs256, Some("new"))), Ok("ada".into()));
    assert_eq!(subject(&keys, &signed(Algorithm::EdDsa, None)), Ok("ada".into()), "one that names none");
    assert_eq!(subject(&keys, &signed(Algorithm::Es256, Some("new"))), Err(AuthError::Invalid));
    assert_eq!(subject(&keys, &signed(Algorithm::Es256, Some("other"))), Err(AuthError::Invalid));
    // A key without a name may be meant by any.
    let nameless = set(Key::from_pem(&pair_of(Algorithm::Es256).public, &[]).unwrap());
    assert_eq!(subject(&nameless, &signed(Algorithm::Es256, Some("other"))), Ok("ada".into()));
}

#[test]
fn keys_for_other_uses_are_left_out_and_named() {
    let mut encryption = jwk(Algorithm::Rs256, "encryption");
    encryption["use"] = "enc".into();
    let mut operations = jwk(Algorithm::Rs256, "signing only");
    operations["key_ops"] = json!(["sign"]);
    let mut wrong = jwk(Algorithm::Es256, "wrong alg");
    wrong["alg"] = "RS256".into();
    let mut unknown = jwk(Algorithm::Rs256, "RSA-OAEP");
    unknown["alg"] = "RSA-OAEP".into();
    let mut good = jwk(Algorithm::Rs256, "good");
    good["use"] = "sig".into();
    good["key_ops"] = json!(["verify", "sign"]);
    good["alg"] = "PS384".into();
    good["x5c"] = json!(["whatever"]);
    let others = [
        json!({"kty": "LMS", "kid": "hash-based"}),
        json!({"kty": "EC", "crv": "secp256k1", "kid": "other curve", "x": "AA", "y": "AA"}),
        json!({"kty": "oct", "kid": "secret", "k": BASE64.encode([1; 64])}),
        json!({"kty": "RSA", "kid": "short", "n": BASE64.encode([255; 128]), "e": "AQAB"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "halved", "x": "AAAA"}),
        json!({"kty": 7, "kid": "no kty"}),
        json!("no object"),
    ];
    let found = jwks(&[&[encryption, operations, wrong, unknown, good][..], &others].concat()).unwrap();
    let kept: Vec<_> = found.keys.iter().map(|key| (key.id().unwrap(), key.algorithm())).collect();
    assert_eq!(kept, [("good", Algorithm::Ps384)]);
    let skipped: Vec<_> = found.skipped.iter().map(|skipped| skipped.id.as_str()).collect();
    let expected = [
        "encryption",
        "signing only",
        "wrong alg",
        "RSA-OAEP",
        "hash-based",
        "other curve",
        "secret",
        "short",
        "halved",
        "no kty",
        "number 12",
    ];
    assert_eq!(skipped, expected);
    let keys = set(found.keys);
    assert!(subject(&keys, &signed(Algorithm::Ps384, Some("good"))).is_ok());
    assert!(subject(&keys, &signed(Algorithm::Rs256, Some("good"))).is_err(), "its own \"alg\" is another");
}

#[test]
fn only_allowed_algorithms_are_taken_from_a_document() {
    let document = json!({ "keys": [jwk(Algorithm::Es256, "e"), jwk(Algorithm::Rs256, "r")] }).to_string();
    let found = Jwks::parse(document.as_bytes(), &[Algorithm::Ps512], Secrets::Refused).unwrap();
    assert_eq!(found.keys.iter().map(Key::algorithm).collect::<Vec<_>>(), [Algorithm::Ps512]);
    assert!(subject(&set(found.keys), &signed(Algorithm::Ps512, Some("r"))).is_ok());
}

#[test]
fn what_is_no_document_is_refused_whole() {
    let parse = |text: &str| Jwks::parse(text.as_bytes(), &[], Secrets::Refused).map(|found| found.keys.len());
    for text in ["", "{}", "[]", "null", r#"{"keys":{}}"#, "<html>503</html>"] {
        assert_eq!(parse(text), Err(JwksFault::Malformed), "{text}");
    }
    assert_eq!(parse(r#"{"keys":[]}"#), Err(JwksFault::NoKey(String::new())));
    assert!(matches!(parse(r#"{"keys":[{"kty":"LMS","kid":"a"}]}"#), Err(JwksFault::NoKey(_))));
    assert_eq!(parse(&" ".repeat(300 << 10)), Err(JwksFault::TooLong));
    // A token that names no key is tried with each: their number is bounded.
    let many: Vec<_> = (0..40).map(|number| jwk(Algorithm::EdDsa, &number.to_string())).collect();
    let found = jwks(&many).unwrap();
    assert_eq!((found.keys.len(), found.skipped.len()), (32, 8));
}

#[test]
fn a_pem_file_that_cannot_help_says_what_would() {
    let fault = |text: &str| Key::from_pem(text, &[]).unwrap_err();
    let rsa = pair_of(Algorithm::Rs256);
    assert_eq!(fault(&rsa.private), KeyFault::Private);
    let pkcs1 = openssl(&["rsa", "-pubin", "-RSAPublicKey_out"], rsa.public.as_bytes());
    assert!(fault(std::str::from_utf8(&pkcs1).unwrap()).to_string().contains("openssl rsa -RSAPublicKey_in"));
    assert!(fault("hello").to_string().contains("BEGIN PUBLIC KEY"));
    let short = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], b"");
    let short = openssl(&["pkey", "-pubout"], &short);
    assert_eq!(fault(std::str::from_utf8(&short).unwrap()), KeyFault::TooShort { bits: 1_024, least: 2_048 });
    let other = openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp521r1"], b"");
    let other = openssl(&["pkey", "-pubout"], &other);
    assert!(matches!(fault(std::str::from_utf8(&other).unwrap()), KeyFault::Unsupported(_)));
    assert!(matches!(Key::from_pem(&rsa.public, &[Algorithm::Es256]), Err(KeyFault::NotAllowed(_))));
    let sec1 = openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], b"");
    let refused = SigningKey::from_pem(std::str::from_utf8(&sec1).unwrap(), None, &SystemRandom::new()).unwrap_err();
    assert!(refused.to_string().contains("openssl pkcs8"));
    let certificate = openssl(&["req", "-x509", "-key", "/dev/stdin", "-subj", "/CN=issuer"], rsa.private.as_bytes());
    let keys = set(Key::from_pem(std::str::from_utf8(&certificate).unwrap(), &[]).unwrap());
    assert!(subject(&keys, &signed(Algorithm::Rs256, None)).is_ok(), "a certificate stands for its key");
}

#[test]
fn audience_and_issuer_count_where_they_are_asked_for() {
    let secret = [7; 32];
    let sign = |claims: Value| {
        let message = format!("{}.{}", BASE64.encode(r#"{"alg":"HS256"}"#), BASE64.encode(claims.to_string()));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &secret);
        format!("{message}.{}", BASE64.encode(ring::hmac::sign(&key, message.as_bytes())))
    };
    let terms = Terms {
        audience: vec!["chat".into(), "rooms".into()],
        issuer: vec!["https://id.example".into()],
        leeway_ms: 5_000,
    };
    let keys = KeySet::new([Key::secret(Algorithm::Hs256, secret).unwrap()], terms);
    let now = NOW / 1_000;
    for (changed, expected) in [
        (json!({}), Ok(())),
        (json!({"aud": ["other", "rooms"]}), Ok(())),
        (json!({"aud": "other"}), Err(AuthError::Invalid)),
        (json!({"aud": []}), Err(AuthError::Invalid)),
        (json!({"aud": null}), Err(AuthError::Invalid)),
        (json!({"iss": "https://id.example/"}), Err(AuthError::Invalid)),
        (json!({"iss": ["https://id.example"]}), Err(AuthError::Invalid)),
        (json!({"iss": null}), Err(AuthError::Invalid)),
        (json!({"exp": now - 4}), Ok(())),
        (json!({"exp": now - 5}), Err(AuthError::Expired)),
        (json!({"nbf": now + 5}), Ok(())),
        (json!({"nbf": now + 6}), Err(AuthError::Invalid)),
        // Who was never meant for us is not asked to renew.
        (json!({"exp": now - 60, "aud": "other"}), Err(AuthError::Invalid)),
    ] {
        let mut claims = json!({"sub": "ada", "aud": "chat", "iss": "https://id.example"});
        claims.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
        let token = sign(claims.clone());
        assert_eq!(keys.verify(&token, NOW).map(drop), expected, "{claims}");
        assert_eq!(keys.claims(&token, NOW).map(drop), expected, "{claims}");
    }
    let token = sign(json!({"sub": "ada", "aud": "chat", "iss": "https://id.example", "exp": now}));
    assert_eq!(keys.verify(&token, NOW).unwrap().expires_at, Some(NOW + 5_000), "the leeway is the token's too");
}

#[test]
fn keys_are_swapped_under_those_who_use_them() {
    let live = LiveKeys::new(KeySet::none());
    let elsewhere = live.clone();
    let old = signed(Algorithm::Es256, Some("old"));
    let new = signed(Algorithm::EdDsa, Some("new"));
    assert_eq!(elsewhere.verify(&old, NOW), Err(AuthError::Failed), "no keys yet");
    live.replace(set(jwks(&[jwk(Algorithm::Es256, "old")]).unwrap().keys));
    assert!(elsewhere.verify(&old, NOW).is_ok());
    assert!(live.take_wish(), "that of the token while there were none");
    assert_eq!(elsewhere.verify(&new, NOW), Err(AuthError::Invalid));
    assert!(live.take_wish() && !live.take_wish(), "a key that is not here is asked for, once");
    // What no key could help does not ask for one.
    for token in ["", "a.b.c", &old.replace('.', "x"), &"x".repeat(10_000), &signed(Algorithm::EdDsa, None)] {
        assert!(elsewhere.verify(token, NOW).is_err());
    }
    assert!(!live.take_wish());
    live.replace(set(jwks(&[jwk(Algorithm::EdDsa, "new")]).unwrap().keys));
    assert!(elsewhere.verify(&new, NOW).is_ok());
    assert_eq!(elsewhere.verify(&old, NOW), Err(AuthError::Invalid));
}
