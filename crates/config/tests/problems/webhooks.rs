use crate::{expect, expect_realtime};

const SECRET: &str = "secret = \"0123456789abcdef\"";

#[track_caller]
fn expect_webhook(text: &str, expected: &[&str]) {
    let jwt = "[realtime.auth]\njwt_secret = \"0123456789abcdef0123456789abcdef\"\n";
    expect(&format!("{jwt}[[realtime.webhook]]\n{text}"), expected);
}

#[test]
fn a_webhook_needs_a_name_a_url_a_secret_and_something_to_call_about() {
    expect_webhook(
        "events = [\"join\"]",
        &[
            "3:1: [[realtime.webhook]] needs \"name\"",
            "3:1: [[realtime.webhook]] needs \"url\"",
            "3:1: [[realtime.webhook]] needs a secret: set \"secret\" or \"secret_file\"",
        ],
    );
    expect_webhook(
        &format!("name = \"a\"\nurl = \"http://x\"\n{SECRET}"),
        &["3:1: a webhook without \"events\" and \"client_events\" is never called"],
    );
    expect_webhook(
        "name = \"a\"\nurl = \"http://x\"\nsecret = \"short\"\nevents = [\"join\"]",
        &["6:10: the secret of a webhook has 5 bytes; it must have at least 16"],
    );
}

#[test]
fn what_is_only_told_must_be_among_the_events_and_must_be_a_choice() {
    expect_webhook(
        &format!("name = \"a\"\nurl = \"http://x\"\n{SECRET}\nevents = [\"leave\"]\nnotify = [\"join\", \"leave\"]"),
        &[
            "8:11: \"join\" is not among the \"events\" of this webhook",
            "8:19: \"leave\" has happened when it is told: it need not be in \"notify\"",
        ],
    );
}

#[test]
fn a_webhook_for_a_namespace_that_is_not_served_would_have_no_say() {
    expect_webhook(
        &format!("name = \"a\"\nurl = \"http://x\"\n{SECRET}\nevents = [\"join\"]\nnamespaces = [\"/event\"]"),
        &["8:15: there is no namespace \"/event\"; did you mean \"/events\"?"],
    );
}

#[test]
fn webhooks_have_names_of_their_own_and_urls_that_can_be_called() {
    let one = |url: &str| format!("[[webhook]]\nname = \"a\"\nurl = \"{url}\"\n{SECRET}\nevents = [\"join\"]\n");
    let two = format!("{}{}", one("http://x"), one("ftp://x")).replace("[[webhook]]", "[[realtime.webhook]]");
    expect_realtime(
        &two,
        &[
            "8:8: there is a webhook \"a\" already, at line 3",
            "9:7: \"url\" in [[realtime.webhook]]: \"ftp://x\" must begin with \"http://\" or \"https://\"",
        ],
    );
}
