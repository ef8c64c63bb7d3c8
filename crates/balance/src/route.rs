//! Which route a request belongs to: nginx's `server_name` and `location`, and conditions beside them.

use regex::bytes::{RegexSet, RegexSetBuilder};
use rustc_hash::FxHashMap;
use thiserror::Error;

use crate::NormalPath;

/// Beyond, a set of regular expressions is refused when it is made. Bytes.
const MOST_REGEX_BYTES: usize = 64 << 20;

/// Why routes cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidRoute {
    /// A path must begin with `/`.
    #[error("the path {0:?} does not begin with \"/\"")]
    Relative(String),
    /// A star elsewhere than in `*.example.org` or `example.*`.
    #[error("the host {0:?} is none: write \"example.org\", \"*.example.org\" or \"example.*\"")]
    Host(String),
    /// A faulty regular expression, or all of them together are too large.
    #[error("a regular expression is faulty: {0}")]
    Regex(String),
}

/// Which paths, as in nginx's `location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathPattern<'a> {
    /// `/x`: the longest prefix, if no regular expression matches. Prefixes are plain text: `/x` also fits `/xy`.
    Prefix(&'a str),
    /// `^~ /x`: as the longest prefix it stops the search, no regular expression is asked.
    PrefixFirst(&'a str),
    /// `= /x`.
    Exact(&'a str),
    /// `~ regex` and `~* regex`: the first in order of insertion that matches anywhere in the path.
    Regex {
        /// The expression.
        pattern: &'a str,
        /// `~*`.
        ignore_case: bool,
    },
}

/// Whether a target takes a request, beyond host and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It does.
    Yes,
    /// It would with another method.
    OtherMethod,
    /// It is for other requests: the search goes on as if it did not exist.
    No,
}

/// What the search found.
#[derive(Debug, PartialEq, Eq)]
pub enum Routed<'a, T> {
    /// The target, and how many bytes of the normalised path its pattern took: all of an exact one, none of a regular
    /// expression.
    Found {
        /// The target.
        target: &'a T,
        /// See above.
        prefix_len: usize,
    },
    /// The path is known, but not with this method (405); all targets of the path.
    MethodNotAllowed(&'a [T]),
    /// Nothing is there (404).
    Nowhere,
}

/// Chooses a target by host, path and what a target asks beyond that, in nginx's order.
///
/// Hosts: the exact name, else the longest `*.example.org`, else the longest `example.*`, else the default; a host that is
/// known never falls back to the default's routes. Paths: exact, else the longest prefix if it is [`PathPattern::PrefixFirst`],
/// else the first regular expression, else that longest prefix. Where a target has conditions that the request does not fulfil,
/// the search goes on as if it were not there.
///
/// The cost does not grow with the number of routes: a hash for hosts and exact paths, a binary search for prefixes, one
/// automaton for all regular expressions of a host.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    exact: FxHashMap<Box<str>, Paths<T>>,
    /// By what follows the star, the dot with it.
    leading: FxHashMap<Box<str>, Paths<T>>,
    /// By what comes before the star, the dot with it.
    trailing: FxHashMap<Box<str>, Paths<T>>,
    default: Paths<T>,
}

/// The routes of one host.
#[derive(Clone, Debug)]
struct Paths<T> {
    exact: FxHashMap<Box<[u8]>, Targets<T>>,
    /// In the order of their text.
    prefixes: Vec<Prefix<T>>,
    regexes: Vec<Regex<T>>,
    /// `None` without regular expressions.
    set: Option<RegexSet>,
}

/// The targets of one path, with their specificity, the most specific first.
type Targets<T> = (Vec<u32>, Vec<T>);

#[derive(Clone, Debug)]
struct Prefix<T> {
    text: Box<[u8]>,
    /// The longest other prefix that this one begins with, by its place.
    parent: Option<usize>,
    /// `^~`.
    first: bool,
    targets: Targets<T>,
}

#[derive(Clone, Debug)]
struct Regex<T> {
    /// With its flag for case.
    pattern: String,
    targets: Targets<T>,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { exact: FxHashMap::default(), prefixes: Vec::new(), regexes: Vec::new(), set: None }
    }
}

/// What a path's targets say together.
enum Verdict<'a, T> {
    Found(&'a T),
    OtherMethod(&'a [T]),
}

impl<'a, T> Verdict<'a, T> {
    fn with(self, prefix_len: usize) -> Routed<'a, T> {
        match self {
            Self::Found(target) => Routed::Found { target, prefix_len },
            Self::OtherMethod(targets) => Routed::MethodNotAllowed(targets),
        }
    }
}

fn ask<'a, T>(targets: &'a Targets<T>, fits: &mut impl FnMut(&T) -> Fit) -> Option<Verdict<'a, T>> {
    let mut other_method = false;
    for target in &targets.1 {
        match fits(target) {
            Fit::Yes => return Some(Verdict::Found(target)),
            Fit::OtherMethod => other_method = true,
            Fit::No => {}
        }
    }
    other_method.then_some(Verdict::OtherMethod(&targets.1))
}

/// Behind all that are as specific.
fn add<T>(targets: &mut Targets<T>, specificity: u32, target: T) {
    let place = targets.0.partition_point(|known| *known >= specificity);
    targets.0.insert(place, specificity);
    targets.1.insert(place, target);
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            leading: FxHashMap::default(),
            trailing: FxHashMap::default(),
            default: Paths::default(),
        }
    }
}

impl<T> RouteTable<T> {
    /// A table of `(host, path, specificity, target)`; the host without a port, `None` for the default. Of targets with the
    /// same host and path the more specific comes first, then the order given.
    ///
    /// # Errors
    /// See [`InvalidRoute`].
    pub fn new<'a>(
        routes: impl IntoIterator<Item = (Option<&'a str>, PathPattern<'a>, u32, T)>,
    ) -> Result<Self, InvalidRoute> {
        let mut table = Self::default();
        for (host, path, specificity, target) in routes {
            table.paths(host)?.insert(path, specificity, target)?;
        }
        let hosts = table.exact.values_mut().chain(table.leading.values_mut()).chain(table.trailing.values_mut());
        for paths in hosts.chain([&mut table.default]) {
            paths.finish()?;
        }
        Ok(table)
    }

    fn paths(&mut self, host: Option<&str>) -> Result<&mut Paths<T>, InvalidRoute> {
        let Some(host) = host else { return Ok(&mut self.default) };
        let lower = host.to_ascii_lowercase();
        let (map, key) = if let Some(rest) = lower.strip_prefix('*') {
            (&mut self.leading, rest)
        } else if let Some(rest) = lower.strip_suffix('*') {
            (&mut self.trailing, rest)
        } else {
            (&mut self.exact, lower.as_str())
        };
        let dotted = map_is_dotted(&lower, key);
        if key.contains('*') || key.is_empty() || !dotted {
            return Err(InvalidRoute::Host(host.to_owned()));
        }
        Ok(map.entry(key.into()).or_default())
    }

    /// The target for a request; `host` may carry a port and any case. `fits` says whether a target takes the request.
    pub fn find(&self, host: &str, path: &NormalPath<'_>, mut fits: impl FnMut(&T) -> Fit) -> Routed<'_, T> {
        self.host(host).find(path.as_bytes(), &mut fits)
    }

    /// Every target.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        let hosts = self.exact.values().chain(self.leading.values()).chain(self.trailing.values());
        hosts.chain([&self.default]).flat_map(Paths::targets)
    }

    fn host(&self, host: &str) -> &Paths<T> {
        if self.exact.is_empty() && self.leading.is_empty() && self.trailing.is_empty() {
            return &self.default;
        }
        let name = without_port(host);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.lower_host(&name.to_ascii_lowercase())
        } else {
            self.lower_host(name)
        }
    }

    fn lower_host(&self, name: &str) -> &Paths<T> {
        if let Some(paths) = self.exact.get(name) {
            return paths;
        }
        if !self.leading.is_empty() {
            // From the left, so that the longest comes first. Something must stand for the star.
            let dots = name.match_indices('.').filter(|(at, _)| *at > 0);
            if let Some(paths) = dots.filter_map(|(at, _)| self.leading.get(name.get(at..)?)).next() {
                return paths;
            }
        }
        if !self.trailing.is_empty() {
            let dots = name.rmatch_indices('.').filter(|(at, _)| at + 1 < name.len());
            if let Some(paths) = dots.filter_map(|(at, _)| self.trailing.get(name.get(..=at)?)).next() {
                return paths;
            }
        }
        &self.default
    }
}

/// A star stands for whole labels.
fn map_is_dotted(host: &str, key: &str) -> bool {
    match (host.starts_with('*'), host.ends_with('*')) {
        (true, _) => key.starts_with('.') && key.len() > 1,
        (false, true) => key.ends_with('.') && key.len() > 1,
        (false, false) => true,
    }
}

impl<T> Paths<T> {
    fn insert(&mut self, path: PathPattern<'_>, specificity: u32, target: T) -> Result<(), InvalidRoute> {
        let targets = match path {
            PathPattern::Exact(path) => self.exact.entry(absolute(path)?.into()).or_default(),
            PathPattern::Prefix(path) => &mut self.prefix(absolute(path)?).targets,
            PathPattern::PrefixFirst(path) => {
                let prefix = self.prefix(absolute(path)?);
                prefix.first = true;
                &mut prefix.targets
            }
            PathPattern::Regex { pattern, ignore_case } => {
                let pattern = if ignore_case { format!("(?i:{pattern})") } else { pattern.to_owned() };
                let place = self.regexes.iter().position(|known| known.pattern == pattern);
                let place = place.unwrap_or_else(|| {
                    self.regexes.push(Regex { pattern, targets: Targets::default() });
                    self.regexes.len() - 1
                });
                let Some(regex) = self.regexes.get_mut(place) else { return Ok(()) };
                &mut regex.targets
            }
        };
        add(targets, specificity, target);
        Ok(())
    }

    fn prefix(&mut self, text: &[u8]) -> &mut Prefix<T> {
        let place = match self.prefixes.binary_search_by(|known| (*known.text).cmp(text)) {
            Ok(place) => place,
            Err(place) => {
                let new = Prefix { text: text.into(), parent: None, first: false, targets: Targets::default() };
                self.prefixes.insert(place, new);
                place
            }
        };
        #[allow(clippy::indexing_slicing)] // It was found or put there.
        &mut self.prefixes[place]
    }

    /// Links the prefixes and compiles the expressions.
    fn finish(&mut self) -> Result<(), InvalidRoute> {
        let mut open: Vec<(usize, Box<[u8]>)> = Vec::new();
        for (place, prefix) in self.prefixes.iter_mut().enumerate() {
            while open.pop_if(|(_, text)| !prefix.text.starts_with(text)).is_some() {}
            prefix.parent = open.last().map(|(place, _)| *place);
            open.push((place, prefix.text.clone()));
        }
        if !self.regexes.is_empty() {
            // Bytes, not letters: a path need not be UTF-8, and nginx does not look at it as such either.
            let set = RegexSetBuilder::new(self.regexes.iter().map(|regex| &regex.pattern))
                .unicode(false)
                .size_limit(MOST_REGEX_BYTES)
                .build()
                .map_err(|error| InvalidRoute::Regex(error.to_string()))?;
            self.set = Some(set);
        }
        Ok(())
    }

    fn find(&self, path: &[u8], fits: &mut impl FnMut(&T) -> Fit) -> Routed<'_, T> {
        if !self.exact.is_empty()
            && let Some(verdict) = self.exact.get(path).and_then(|targets| ask(targets, fits))
        {
            return verdict.with(path.len());
        }
        let mut longest = None;
        let mut place = self.longest_prefix(path, || {});
        while let Some(prefix) = place.and_then(|place| self.prefixes.get(place)) {
            if let Some(verdict) = ask(&prefix.targets, fits) {
                if prefix.first {
                    return verdict.with(prefix.text.len());
                }
                longest = Some((verdict, prefix.text.len()));
                break;
            }
            place = prefix.parent;
        }
        if let Some(set) = &self.set {
            for place in &set.matches(path) {
                if let Some(verdict) = self.regexes.get(place).and_then(|regex| ask(&regex.targets, fits)) {
                    return verdict.with(0);
                }
            }
        }
        longest.map_or(Routed::Nowhere, |(verdict, len)| verdict.with(len))
    }

    /// The place of the longest prefix of the path. All that lies between it and the path, in the order of their texts, begins
    /// with it: so it is the last one that is not behind the path, or an ancestor of that. `looked` is called once for each
    /// prefix that is looked at.
    fn longest_prefix(&self, path: &[u8], mut looked: impl FnMut()) -> Option<usize> {
        let behind = self.prefixes.partition_point(|prefix| {
            looked();
            *prefix.text <= *path
        });
        let mut place = behind.checked_sub(1)?;
        loop {
            looked();
            let prefix = self.prefixes.get(place)?;
            if path.starts_with(&prefix.text) {
                return Some(place);
            }
            place = prefix.parent?;
        }
    }

    fn targets(&self) -> impl Iterator<Item = &T> {
        let prefixes = self.prefixes.iter().map(|prefix| &prefix.targets);
        let regexes = self.regexes.iter().map(|regex| &regex.targets);
        self.exact.values().chain(prefixes).chain(regexes).flat_map(|targets| &targets.1)
    }
}

fn absolute(path: &str) -> Result<&[u8], InvalidRoute> {
    if path.starts_with('/') { Ok(path.as_bytes()) } else { Err(InvalidRoute::Relative(path.to_owned())) }
}

/// `example.org:8080` → `example.org`, `[::1]:80` → `[::1]`; one trailing dot of the root is dropped.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // An IPv6 literal has colons of its own, and no port unless the bracket is closed before it.
            if name.starts_with('[') && !name.ends_with(']') { host } else { name }
        }
        Some(_) | None => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests;
