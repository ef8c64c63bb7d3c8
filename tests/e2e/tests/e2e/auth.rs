//! Tokens over their life, with the real binary. What the scenarios do is in `node/auth.mjs`.

use std::process::Command;

use crate::harness::{Process, binary, run, scenario};

#[test]
fn keys_of_an_issuer_are_rotated_while_clients_are_connected() {
    let folder = tempfile::tempdir().unwrap();
    let jwks = folder.path().join("jwks.json");
    let config = folder.path().join("tidegate.toml");
    // A key that nobody has: the scenario writes the file that counts.
    let key = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"first","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    std::fs::write(&jwks, key).unwrap();
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[log]\naccess = \"off\"\n[store]\nkind = \"memory\"\n[realtime]\n\
                [realtime.auth]\njwks_file = \"jwks.json\"\naudience = [\"rooms\"]\nissuer = [\"https://id.example\"]\n";
    std::fs::write(&config, text).unwrap();
    let mut process = Process::start(Command::new(binary()).arg("run").arg("--config").arg(&config));
    let settings = [
        ("TIDEGATE_URL", format!("http://{}", process.said("listening on http://"))),
        ("TIDEGATE_JWT_SECRET", "a secret that the server does not know".to_owned()),
        ("TIDEGATE_JWKS", jwks.display().to_string()),
    ];
    run("auth", "keysAreRotated", &settings, |action| panic!("{action} is not for this server"));
    let output = process.output();
    assert!(!output.contains("panicked at") && !output.contains("eyJ"), "no panic and no token: {output}");
}

#[test]
fn a_new_token_in_band_keeps_the_connection() {
    scenario("auth", "refreshKeepsTheConnection");
}

#[test]
fn an_expired_token_parts_its_connection_with_a_code_and_a_newer_one_recovers_it() {
    scenario("auth", "theEndOfAToken");
}

#[test]
fn an_expired_token_ends_a_polling_session_and_an_event_stream() {
    scenario("auth", "theEndOfATokenElsewhere");
}

#[test]
fn tokens_come_from_the_packet_the_header_the_cookie_or_a_ticket() {
    scenario("auth", "whereTokensComeFrom");
}

#[test]
fn check_names_all_that_has_no_place_in_production() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tidegate.toml");
    let text = "production = true\n[realtime]\ncors_origins = [\"http://localhost:3000\"]\n[realtime.auth]\n\
                jwt_secret = \"only thirty-two bytes of a secret\"\n[upstream.a]\nservers = [\"127.0.0.1:1\"]\n\
                [[route]]\nupstream = \"a\"\n[route.cors]\norigins = [\"*\"]\n";
    std::fs::write(&config, text).unwrap();
    let check = || Command::new(binary()).arg("check").arg("--config").arg(&config).output().unwrap();
    let output = check();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(!output.status.success(), "{said}");
    for place in ["tidegate.toml:3:17: ", "tidegate.toml:5:14: ", "tidegate.toml:11:12: "] {
        assert!(said.contains(&format!("{place}production = true: ")), "{place} {said}");
    }
    assert!(!said.contains("thirty-two bytes of a secret"), "{said}");
    std::fs::write(&config, text.replace("production = true", "production = false")).unwrap();
    assert!(check().status.success());
}
