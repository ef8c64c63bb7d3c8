//! What can be wrong with listeners, upstreams, zones and what runs beside them.

use super::expect;

const LISTENER: &str = "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:1\"\n";

#[track_caller]
fn listener(text: &str, expected: &[&str]) {
    expect(&format!("{LISTENER}{text}"), expected);
}

/// Of an upstream with one server, from line 3 on.
#[track_caller]
fn upstream(text: &str, expected: &[&str]) {
    expect(&format!("[upstream.a]\nservers = [\"a:1\"]\n{text}"), expected);
}

#[test]
fn listeners_and_who_is_trusted() {
    listener(
        "trusted_proxies = [\"10.0.0.0/8\", \"10.0.0.1/8\", \"proxy\"]",
        &[
            "4:35: \"trusted_proxies\" in [[listener]]: \"10.0.0.1/8\" has bits set behind its prefix; the network is 10.0.0.0/8",
            "4:49: \"trusted_proxies\" in [[listener]]: \"proxy\" is no address; write one as 192.0.2.1, 10.0.0.0/8, ::1 or 2001:db8::/32",
        ],
    );
    listener(
        "trusted_proxies = [\"::1\"]\nreal_ip = \"none\"",
        &["4:19: \"trusted_proxies\" has no effect with real_ip = \"none\" and without proxy_protocol = true"],
    );
    listener("trusted_proxies = [\"::1\"]\nreal_ip = \"none\"\nproxy_protocol = true", &[]);
    listener(
        "real_ip = \"x_forwarded_for\"",
        &[
            "4:11: \"real_ip\" in [[listener]]: \"x_forwarded_for\" must be one of \"x-forwarded-for\", \"forwarded\", \"x-real-ip\", \"none\"; did you mean \"x-forwarded-for\"?",
        ],
    );
    listener(
        "limits = [\"api\"]\n[limit.apis]\nrate = \"1r/s\"",
        &["4:11: there is no zone \"api\"; did you mean \"apis\"?"],
    );
    listener("redirect_https_port = 0", &["4:23: \"redirect_https_port\" must be from 1 to 65535, not 0"]);
}

#[test]
fn tls_listeners() {
    listener("[listener.tls]", &["4:1: [listener.tls] needs a \"certificate\" and its \"key\", PEM files"]);
    listener("[listener.tls]\ncertificate = \"a\"", &["5:15: the \"certificate\" needs its private \"key\" beside it"]);
    listener("[listener.tls]\nkey = \"a\"", &["5:7: the \"key\" needs its \"certificate\" beside it"]);
    listener(
        "[[listener.tls.certificates]]\ncertificate = \"a\"",
        &["4:1: [[listener.tls.certificates]] needs a \"key\""],
    );
    listener(
        "redirect_https = true\n[listener.tls]\ncertificate = \"a\"\nkey = \"b\"",
        &["4:18: \"redirect_https\" on a listener with TLS would redirect for ever; take one of both out"],
    );
    let pair = "[listener.tls]\ncertificate = \"a\"\nkey = \"b\"\n";
    listener(
        &format!("{pair}client_auth = \"required\""),
        &["7:15: \"client_auth\" needs a \"client_ca\" to check client certificates against"],
    );
    listener(
        &format!("{pair}client_ca = \"ca\""),
        &["7:13: \"client_ca\" has no effect without client_auth = \"optional\" or \"required\""],
    );
    listener(
        &format!("{pair}handshake_burst = 5"),
        &["7:19: \"handshake_burst\" has no effect without \"handshakes_per_second\""],
    );
    listener(
        &format!("{pair}min_version = \"1.1\""),
        &["7:15: \"min_version\" in [listener.tls]: \"1.1\" must be one of \"1.2\", \"1.3\"; did you mean \"1.2\"?"],
    );
}

#[test]
fn admin_tokens() {
    expect("[admin]\ntoken = \"short\"", &["2:9: the admin token has 5 bytes; it must have at least 16"]);
    expect("[admin]\ntoken = \"${NONE:-}\"", &[]);
    expect(
        "[admin]\ntoken = \"${JWT}\"\ntoken_file = \"good\"",
        &["3:14: there is a \"token\" already; only one of both can be"],
    );
    expect("[admin]\ntoken_file = \"none\"", &["2:14: the file \"conf/none\" cannot be read: no such file"]);
    expect("[admin]\nenabled = false\ntoken_file = \"none\"", &[]);
}

#[test]
fn choosing_a_server() {
    upstream(
        "balance = \"hash\"",
        &["3:11: balance = \"hash\" needs a \"hash_key\", such as \"{query.room}\" or \"{client_ip}\""],
    );
    upstream("hash_key = \"{uri}\"", &["3:12: \"hash_key\" has no effect without balance = \"hash\""]);
    upstream("consistent = true", &["3:14: \"consistent\" has no effect without balance = \"hash\""]);
    upstream(
        "balance = \"hash\"\nhash_key = \"{uri}\"\nload_factor = 125",
        &["5:15: \"load_factor\" has no effect without consistent = true"],
    );
    upstream(
        "balance = \"hash\"\nhash_key = \"{uri}\"\nconsistent = true\nload_factor = 100",
        &["6:15: \"load_factor\" must be above 100 percent, such as 125, or no server could have its share"],
    );
    upstream(
        "balance = \"hash\"\nhash_key = \"x {clinet_ip}\"",
        &["4:15: \"hash_key\" in [upstream.a]: there is no variable {clinet_ip}; did you mean {client_ip}?"],
    );
    upstream(
        "balance = \"hash\"\nhash_key = \"{status}\"",
        &[
            "4:13: \"hash_key\" in [upstream.a]: {status} is known only when the exchange has ended; it may stand in logs",
        ],
    );
    upstream(
        "balance = \"leastconn\"",
        &[
            "3:11: \"balance\" in [upstream.a]: \"leastconn\" must be one of \"round_robin\", \"least_conn\", \"ip_hash\", \"hash\", \"random\", \"least_time\"; did you mean \"least_conn\"?",
        ],
    );
    for balance in ["ip_hash", "random"] {
        upstream(
            &format!("balance = {balance:?}\n[[upstream.a.server]]\naddress = \"b:1\"\nbackup = true"),
            &[&format!(
                "6:10: a \"backup\" server cannot be with balance = {balance:?}, as in nginx; take it out or choose another balance"
            )],
        );
    }
    expect(
        "[[upstream.a.server]]\naddress = \"b:1\"\nbackup = true",
        &["1:12: all servers of the upstream \"a\" are backups: there is nothing they back up"],
    );
}

#[test]
fn addresses_of_servers() {
    expect("upstream.a.servers = [\"unix:/run/a.sock\"]", &[]);
    expect(
        "upstream.a.servers = [\"unix:run/a.sock\"]",
        &[
            "1:23: \"servers\" in [upstream.a]: \"unix:run/a.sock\" must have an absolute path, such as \"unix:/run/app.sock\"",
        ],
    );
    expect(
        "[upstream.a]\nservers = [\"unix:/run/a.sock\"]\n[upstream.a.tls]",
        &["3:1: the server \"unix:/run/a.sock\" has no host name to check; set \"server_name\""],
    );
    upstream(
        "[upstream.a.tls]\nkey = \"k\"\nserver_name = \"a:1\"",
        &[
            "4:7: the \"key\" needs its \"certificate\" beside it",
            "5:15: \"server_name\" in [upstream.a.tls]: \"a:1\" must not have a port",
        ],
    );
}

#[test]
fn staying_at_a_server() {
    upstream("[upstream.a.sticky]", &["3:1: this section needs one of \"cookie\", \"header\" and \"query\""]);
    upstream(
        "[upstream.a.sticky]\nquery = \"q\"\ncookie = \"c\"",
        &["5:10: a client is kept by one of \"cookie\", \"header\" and \"query\"; take the others out"],
    );
    upstream(
        "[upstream.a.sticky]\ncookie = \"c\"\nsecret = \"short\"",
        &["5:10: the cookie's secret has 5 bytes; it must have at least 32"],
    );
    upstream(
        "[upstream.a.sticky]\ncookie = \"a b\"",
        &["4:10: \"cookie\" in [upstream.a.sticky]: \"a b\" must hold only letters, digits and !#$%&'*+-.^_`|~"],
    );
    upstream(
        "[upstream.a.sticky]\ncookie = \"c\"\nsame_site = \"none\"",
        &["5:13: browsers refuse a cookie with same_site = \"none\" that is not secure = true"],
    );
    upstream(
        "[upstream.a.sticky]\nheader = \"x-a\"\ndomain = \"a.example\"",
        &["5:10: \"domain\" has no effect without a \"cookie\""],
    );
}

#[test]
fn health_and_retries() {
    for (status, fault) in [
        ("", "has no status from 100 to 599 but \"\""),
        ("99", "has no status from 100 to 599 but \"99\""),
        ("200-", "has no status from 100 to 599 but \"\""),
        ("300-200", "has a range that ends before it begins: 300-200"),
        ("200,x", "has no status from 100 to 599 but \"x\""),
    ] {
        let expected = format!("4:10: \"status\" in [upstream.a.health]: {status:?} {fault}");
        upstream(&format!("[upstream.a.health]\nstatus = {status:?}"), &[&expected]);
    }
    upstream("[upstream.a.health]\ntype = \"tcp\"\npath = \"/\"", &["5:8: \"path\" has no effect with type = \"tcp\""]);
    upstream(
        "[upstream.a.health]\ntype = \"websocket\"\nstatus = \"200\"",
        &["5:10: \"status\" has no effect with type = \"websocket\""],
    );
    upstream(
        "[upstream.a.health]\nrise = 0\njitter = 101\ninterval = \"0s\"",
        &[
            "4:8: \"rise\" must be at least 1, not 0",
            "5:10: \"jitter\" must be from 0 to 100, not 101",
            "6:12: \"interval\" must be longer than 0",
        ],
    );
    upstream(
        "[upstream.a.outlier]\nlatency_factor = 100",
        &["4:18: \"latency_factor\" must be above 100 percent, such as 300, or half of the servers would go"],
    );
    upstream("[upstream.a.breaker]\nerror_rate = 0", &["4:14: \"error_rate\" must be from 1 to 100, not 0"]);
    upstream(
        "[upstream.a.retry]\non = [\"reset\", \"501\", \"reset\"]\ntries = 0",
        &[
            "4:16: \"on\" in [upstream.a.retry]: \"501\" must be one of \"connect\", \"reset\", \"timeout\", \"500\", \"502\", \"503\", \"504\", \"429\"; did you mean \"500\"?",
            "4:23: \"reset\" is there twice",
            "5:9: \"tries\" must be from 1 to 100, not 0",
        ],
    );
}

#[test]
fn zones() {
    expect("[limit.a]", &["1:8: the zone \"a\" needs a \"rate\", such as \"10r/s\", or \"connections\""]);
    expect(
        "[limit.a]\nrate = \"1r/s\"\nconnections = 1",
        &["3:15: a zone has a \"rate\" or \"connections\", not both: make it two zones"],
    );
    expect(
        "[limit.a]\nconnections = 1\nburst = 1\nnodelay = true",
        &[
            "3:9: a zone of connections has no \"burst\": that is for rates",
            "4:11: a zone of connections has no \"nodelay\": that is for rates",
        ],
    );
    for (rate, fault) in [
        ("10", "is no rate; write for example \"10r/s\" or \"30r/m\""),
        ("10r/h", "is no rate; write for example \"10r/s\" or \"30r/m\""),
        ("0r/s", "must be at least one request"),
        ("1000001r/s", "must be at most 1000000 requests"),
    ] {
        let expected = format!("2:8: \"rate\" in [limit.a]: {rate:?} {fault}");
        expect(&format!("[limit.a]\nrate = {rate:?}"), &[&expected]);
    }
    expect(
        "[limit.a]\nrate = \"1r/s\"\nstatus = 200\nmax_keys = 0",
        &["3:10: \"status\" must be from 400 to 599, not 200", "4:12: \"max_keys\" must be at least 1, not 0"],
    );
    expect(
        "[limit.a]\nrate = \"1r/s\"\nkey = \"{claim.sub}\"",
        &["3:7: {claim.NAME} needs tokens that are checked: add a [jwt] section with their secret"],
    );
    expect(
        "[limit.a]\nconnections = 1\nshared = true\n[limit.b]\nrate = \"1r/s\"\nshared = true",
        &[
            "3:10: connections are counted by each node: \"shared\" is for rates",
            "6:10: \"shared\" needs a [cluster] section: it says through which Redis",
        ],
    );
    expect("[admission]\nburst = 5", &["2:9: \"burst\" has no effect without \"streams_per_second\""]);
}

#[test]
fn tokens() {
    expect(
        "[jwt]",
        &["1:1: [jwt] needs keys: set \"secret\" or \"secret_file\", \"public_keys\", \"jwks_url\" or \"jwks_file\""],
    );
    expect("[jwt]\nsecret = \"short\"", &["2:10: the JWT secret has 5 bytes; it must have at least 32"]);
    expect(
        "[jwt]\nsecret = \"${JWT}\"\nheader = \"\"",
        &["1:1: [jwt] needs a \"header\", a \"cookie\" or a \"query\" parameter that holds the token"],
    );
}

#[test]
fn logs_and_traces() {
    expect(
        "[log]\naccess_format = \"combind\"",
        &[
            "2:17: \"access_format\" in [log]: \"combind\" must be \"json\", \"combined\" or a template with variables; did you mean \"combined\"?",
        ],
    );
    expect(
        "[log]\naccess_format = \"{client_ip} {stauts}\"",
        &["2:30: \"access_format\" in [log]: there is no variable {stauts}; did you mean {status}?"],
    );
    for (endpoint, fault) in [
        ("localhost:4318", "must begin with \"http://\" or \"https://\""),
        ("http://c:4318/v1/traces", "must be without \"/v1/traces\", which is added; did you mean \"http://c:4318\"?"),
        ("http://c/?a", "must have neither a query nor spaces"),
        ("http://c:x", "has no port from 1 to 65535 but \"x\""),
    ] {
        let expected = format!("2:12: \"endpoint\" in [trace]: {endpoint:?} {fault}");
        expect(&format!("[trace]\nendpoint = {endpoint:?}"), &[&expected]);
    }
    expect(
        "[trace]\nsample = 101",
        &["2:10: \"sample\" in [trace]: 101 is no percentage from 0 to 100 with at most four digits after the point"],
    );
    expect("[trace]\nsample = 0.25", &[]);
    expect("[drain]\njitter = 200", &["2:10: \"jitter\" must be from 0 to 100, not 200"]);
}

#[test]
fn a_proxy_header_is_not_for_connections_that_many_share() {
    upstream(
        "protocol = \"http2\"\nproxy_protocol = \"v1\"",
        &[
            "4:18: a PROXY header names one client, and protocol = \"http2\" lets many share a connection; leave one of them out",
        ],
    );
    upstream("protocol = \"http2\"\nproxy_protocol = \"off\"", &[]);
}
