/// What a route does to the path that the upstream sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// The matched prefix is taken off: `/api/x` becomes `/x`.
    Strip,
    /// The matched prefix is replaced, as by nginx's `proxy_pass` with a URI: plain text for plain text.
    Replace(Box<str>),
}

impl PathChange {
    /// Appends the new path; `rest` is what follows the matched prefix, fit for a request line. The result begins with one
    /// slash and, unless the rest has more, not with two, which would read as a host.
    pub fn write(&self, rest: &str, out: &mut String) {
        match self {
            Self::Strip => {
                out.push('/');
                out.push_str(rest.trim_start_matches('/'));
            }
            Self::Replace(prefix) => {
                out.push_str(prefix);
                out.push_str(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(change: &PathChange, rest: &str) -> String {
        let mut out = String::new();
        change.write(rest, &mut out);
        out
    }

    #[test]
    fn a_stripped_path_begins_with_one_slash() {
        assert_eq!(changed(&PathChange::Strip, "/x"), "/x");
        assert_eq!(changed(&PathChange::Strip, "x"), "/x");
        assert_eq!(changed(&PathChange::Strip, ""), "/");
        assert_eq!(changed(&PathChange::Strip, "//evil"), "/evil");
    }

    #[test]
    fn a_prefix_is_replaced_as_text() {
        assert_eq!(changed(&PathChange::Replace("/v2/".into()), "x"), "/v2/x");
        assert_eq!(changed(&PathChange::Replace("/v2".into()), "/x"), "/v2/x");
    }
}
