use proptest::prelude::*;

use super::*;

type Line<'a> = (Option<&'a str>, &'a str, u32, &'a str);

/// As in a config: `= /x`, `^~ /x`, `~ x`, `~* x` or a prefix.
fn pattern(text: &str) -> PathPattern<'_> {
    match text.split_once(' ') {
        Some(("=", path)) => PathPattern::Exact(path),
        Some(("^~", path)) => PathPattern::PrefixFirst(path),
        Some(("~", pattern)) => PathPattern::Regex { pattern, ignore_case: false },
        Some(("~*", pattern)) => PathPattern::Regex { pattern, ignore_case: true },
        _ => PathPattern::Prefix(text),
    }
}

fn table<'a>(lines: &[Line<'a>]) -> RouteTable<&'a str> {
    RouteTable::new(lines.iter().map(|(host, path, specificity, target)| (*host, pattern(path), *specificity, *target)))
        .unwrap()
}

fn find<'a>(table: &RouteTable<&'a str>, host: &str, path: &str) -> Option<&'a str> {
    match table.find(host, &NormalPath::of(path).unwrap(), |_| Fit::Yes) {
        Routed::Found { target, .. } => Some(target),
        Routed::MethodNotAllowed(_) | Routed::Nowhere => None,
    }
}

#[test]
fn the_example_of_nginxs_own_documentation() {
    // http://nginx.org/en/docs/http/ngx_http_core_module.html#location
    let table = table(&[
        (None, "= /", 0, "A"),
        (None, "/", 0, "B"),
        (None, "/documents/", 0, "C"),
        (None, "^~ /images/", 0, "D"),
        (None, r"~* \.(gif|jpg|jpeg)$", 0, "E"),
    ]);
    for (path, expected) in [
        ("/", "A"),
        ("/index.html", "B"),
        ("/documents/document.html", "C"),
        ("/images/1.gif", "D"),
        ("/documents/1.jpg", "E"),
        ("/documents/1.JPG", "E"),
    ] {
        assert_eq!(find(&table, "x", path), Some(expected), "{path}");
    }
}

#[test]
fn the_longest_prefix_wins_whatever_the_order_of_insertion() {
    let table =
        table(&[(None, "/", 0, "root"), (None, "/api", 0, "api"), (None, "/api/v2/", 0, "v2"), (None, "/b", 0, "b")]);
    assert_eq!(find(&table, "x", "/api/v2/users"), Some("v2"));
    assert_eq!(find(&table, "x", "/api/v2"), Some("api"));
    assert_eq!(find(&table, "x", "/api/zzz"), Some("api"));
    assert_eq!(find(&table, "x", "/apiary"), Some("api"), "prefixes are plain text");
    assert_eq!(find(&table, "x", "/a"), Some("root"));
    assert_eq!(find(&table, "x", "/zzz"), Some("root"));
}

#[test]
fn a_longer_prefix_hides_one_that_stops_regexes() {
    let table = table(&[(None, "^~ /a/", 0, "stops"), (None, "/a/b/", 0, "longer"), (None, "~ c$", 0, "regex")]);
    assert_eq!(find(&table, "x", "/a/c"), Some("stops"));
    assert_eq!(find(&table, "x", "/a/b/c"), Some("regex"), "only the longest prefix may stop the search");
    assert_eq!(find(&table, "x", "/a/b/d"), Some("longer"));
}

#[test]
fn the_first_regex_in_the_file_wins_over_any_prefix() {
    let table = table(&[
        (None, "/api/", 0, "p"),
        (None, r"~ ^/api/\d+", 0, "1"),
        (None, "~ ^/api/", 0, "2"),
        (None, "~* V", 0, "3"),
    ]);
    assert_eq!(find(&table, "x", "/api/17"), Some("1"));
    assert_eq!(find(&table, "x", "/api/v"), Some("2"));
    assert_eq!(find(&table, "x", "/v"), Some("3"));
    assert_eq!(find(&table, "x", "/w"), None);
}

#[test]
fn hosts_are_chosen_as_by_server_name() {
    let table = table(&[
        (None, "/", 0, "default"),
        (Some("Chat.example.org"), "/", 0, "exact"),
        (Some("*.example.org"), "/", 0, "leading"),
        (Some("*.eu.example.org"), "/", 0, "longer leading"),
        (Some("chat.*"), "/", 0, "trailing"),
        (Some("chat.example.*"), "/", 0, "longer trailing"),
    ]);
    for (host, expected) in [
        ("chat.example.org", "exact"),
        ("CHAT.example.org.:8080", "exact"),
        ("a.example.org", "leading"),
        ("a.b.Example.org:1", "leading"),
        ("a.eu.example.org", "longer leading"),
        ("chat.eu.example.org", "longer leading"),
        ("example.org", "default"),
        (".example.org", "default"),
        ("aexample.org", "default"),
        ("chat.example.com", "longer trailing"),
        ("chat.other.co.uk", "trailing"),
        ("chat.", "default"),
        ("", "default"),
        ("[::1]:80", "default"),
    ] {
        assert_eq!(find(&table, host, "/"), Some(expected), "{host}");
    }
}

#[test]
fn a_known_host_does_not_fall_back_to_the_default_host() {
    let table = table(&[(None, "/", 0, "default"), (Some("*.a.org"), "/ws", 0, "ws")]);
    assert_eq!(find(&table, "x.a.org", "/api"), None);
}

#[test]
fn matching_is_on_the_normalised_path() {
    let table = table(&[(None, "/", 0, "root"), (None, "/admin/", 0, "admin"), (None, "= /exact path", 0, "exact")]);
    for path in ["/admin/", "//admin//x", "/x/../admin/", "/%61dmin%2F", "/./admin/."] {
        assert_eq!(find(&table, "x", path), Some("admin"), "{path}");
    }
    assert_eq!(find(&table, "x", "/exact%20path"), Some("exact"));
}

#[test]
fn conditions_are_asked_from_the_most_specific_to_the_least() {
    let table = table(&[
        (None, "/a", 0, "plain"),
        (None, "/a", 2, "GET beta"),
        (None, "/a", 1, "beta"),
        (None, "/a", 1, "later"),
        (None, "/", 0, "root"),
    ]);
    let ask = |fits: &dyn Fn(&str) -> Fit| match table.find("x", &NormalPath::of("/a").unwrap(), |target| fits(target))
    {
        Routed::Found { target, prefix_len } => format!("{target} {prefix_len}"),
        Routed::MethodNotAllowed(targets) => format!("405 {targets:?}"),
        Routed::Nowhere => "404".to_owned(),
    };
    assert_eq!(ask(&|_| Fit::Yes), "GET beta 2");
    assert_eq!(ask(&|target| if target.starts_with("GET") { Fit::OtherMethod } else { Fit::Yes }), "beta 2");
    assert_eq!(ask(&|target| if target.contains("beta") { Fit::No } else { Fit::Yes }), "later 2");
    assert_eq!(
        ask(&|target| if target == "root" { Fit::Yes } else { Fit::OtherMethod }),
        r#"405 ["GET beta", "beta", "later", "plain"]"#
    );
    assert_eq!(ask(&|target| if target == "root" { Fit::Yes } else { Fit::No }), "root 1");
    assert_eq!(ask(&|_| Fit::No), "404");
}

#[test]
fn ipv6_hosts_keep_their_brackets() {
    assert_eq!(without_port("[::1]:8080"), "[::1]");
    assert_eq!(without_port("[::1]"), "[::1]");
    assert_eq!(without_port(":80"), ":80");
}

#[test]
fn what_cannot_be_a_route_is_refused() {
    let one = |host, path| RouteTable::new([(host, pattern(path), 0, ())]).unwrap_err();
    assert!(matches!(one(None, "api"), InvalidRoute::Relative(_)));
    assert!(matches!(one(None, "~ ("), InvalidRoute::Regex(_)));
    for host in ["*", "*example.org", "a.*.org", "example*", "*.", ".*", "*.a.*", ""] {
        assert!(matches!(one(Some(host), "/"), InvalidRoute::Host(_)), "{host}");
    }
}

#[test]
fn the_search_does_not_walk_all_routes() {
    let count = |routes: usize| {
        let paths: Vec<String> = (0..routes).map(|number| format!("/service-{number:04}/")).collect();
        let table = RouteTable::new(paths.iter().map(|path| (None, PathPattern::Prefix(path), 0, ()))).unwrap();
        let mut most = 0;
        for path in &paths {
            let mut looks = 0;
            assert!(table.default.longest_prefix(format!("{path}x").as_bytes(), || looks += 1).is_some());
            most = most.max(looks);
        }
        most
    };
    assert!(count(1) <= 2);
    assert!(count(1_000) <= 12, "{}", count(1_000));
}

/// nginx's order, written down plainly.
fn naive(patterns: &[String], path: &str) -> Option<usize> {
    let starts = |text: &str| path.starts_with(text);
    let longest = patterns.iter().enumerate().filter_map(|(index, text)| match pattern(text) {
        PathPattern::Prefix(text) if starts(text) => Some((text.len(), false, index)),
        PathPattern::PrefixFirst(text) if starts(text) => Some((text.len(), true, index)),
        PathPattern::Prefix(_) | PathPattern::PrefixFirst(_) | PathPattern::Exact(_) | PathPattern::Regex { .. } => {
            None
        }
    });
    // The first of equal ones.
    let longest = longest.fold(None, |best: Option<(usize, bool, usize)>, (len, first, index)| match best {
        Some((known, was, place)) if known > len => Some((known, was, place)),
        Some((known, was, place)) if known == len => Some((known, was || first, place)),
        _ => Some((len, first, index)),
    });
    let exact = patterns.iter().position(|text| pattern(text) == PathPattern::Exact(path));
    let regex = patterns.iter().position(|text| match pattern(text) {
        PathPattern::Regex { pattern, ignore_case } => {
            let expression = regex::RegexBuilder::new(pattern).case_insensitive(ignore_case).build().unwrap();
            expression.is_match(path)
        }
        PathPattern::Prefix(_) | PathPattern::PrefixFirst(_) | PathPattern::Exact(_) => false,
    });
    match (exact, longest) {
        (Some(index), _) | (None, Some((_, true, index))) => Some(index),
        (None, longest) => regex.or(longest.map(|(_, _, index)| index)),
    }
}

proptest! {
    #[test]
    fn the_table_finds_what_a_plain_walk_finds(
        patterns in proptest::collection::vec("(= |\\^~ )?/[ab]{0,2}(/[ab]{0,2})?|~\\*? \\^?/?[abAB]{1,2}\\$?", 0..12),
        path in "/[abAB]{0,3}(/[ab]{0,3})?",
    ) {
        let table = RouteTable::new(patterns.iter().enumerate().map(|(index, text)| (None, pattern(text), 0, index))).unwrap();
        let normal = NormalPath::of(&path).unwrap();
        let found = match table.find("", &normal, |_| Fit::Yes) {
            Routed::Found { target, .. } => Some(*target),
            Routed::MethodNotAllowed(_) | Routed::Nowhere => None,
        };
        prop_assert_eq!(found, naive(&patterns, std::str::from_utf8(normal.as_bytes()).unwrap()));
    }

    #[test]
    fn any_path_is_normalised_once_and_for_all(path in "/[ab./%25e]{0,12}") {
        if let Ok(normal) = NormalPath::of(&path) {
            let bytes = normal.as_bytes();
            prop_assert!(bytes.starts_with(b"/"));
            prop_assert!(!bytes.windows(2).any(|pair| pair == b"//"));
            prop_assert!(!bytes.split(|byte| *byte == b'/').any(|segment| segment == b"." || segment == b".."));
            // What is left behind the root says the same again.
            let rest = format!("/{}", normal.rest(1));
            let again = NormalPath::of(&rest).unwrap();
            prop_assert_eq!(again.as_bytes(), bytes);
        }
    }
}
