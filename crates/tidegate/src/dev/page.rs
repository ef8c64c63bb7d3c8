//! The page that `tidegate dev` serves at `/`: plain ES modules and CSS, embedded in the binary, nothing from other hosts.
//!
//! Everything is static; what the page needs to know it asks from the same origin (`/dev/session`, `/metrics`, the realtime
//! paths and the sample backend behind the proxy).

use std::sync::LazyLock;

/// One embedded file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    /// The file's bytes.
    pub body: &'static [u8],
    /// Value of `ETag`, quotes included (RFC 9110 section 8.8.3).
    pub etag: String,
}

/// The `Content-Security-Policy` that the page is written for: own scripts and styles only, nothing inline, no other hosts.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

type File = (&'static str, &'static str, &'static [u8]);

const FILES: &[File] = &[
    ("/", HTML, include_bytes!("page/index.html")),
    ("/page/style.css", CSS, include_bytes!("page/style.css")),
    ("/page/icon.svg", SVG, include_bytes!("page/icon.svg")),
    ("/page/theme.js", SCRIPT, include_bytes!("page/theme.js")),
    ("/page/app.js", SCRIPT, include_bytes!("page/app.js")),
    ("/page/dom.js", SCRIPT, include_bytes!("page/dom.js")),
    ("/page/room.js", SCRIPT, include_bytes!("page/room.js")),
    ("/page/events.js", SCRIPT, include_bytes!("page/events.js")),
    ("/page/report.js", SCRIPT, include_bytes!("page/report.js")),
    ("/page/echo.js", SCRIPT, include_bytes!("page/echo.js")),
    ("/page/counters.js", SCRIPT, include_bytes!("page/counters.js")),
    ("/page/socket.io.esm.min.js", SCRIPT, include_bytes!("page/socket.io.esm.min.js")),
    ("/page/socket.io.LICENSE", TEXT, include_bytes!("page/socket.io.LICENSE")),
];

static ASSETS: LazyLock<Vec<(&'static str, Asset)>> = LazyLock::new(|| {
    FILES.iter().map(|&(path, content_type, body)| (path, Asset { content_type, body, etag: etag_of(body) })).collect()
});

/// The embedded file that is served at `path` (a request path without its query), if there is one.
pub fn asset(path: &str) -> Option<Asset> {
    let path = if path == "/favicon.ico" { "/page/icon.svg" } else { path };
    ASSETS.iter().find(|(at, _)| *at == path).map(|(_, asset)| asset.clone())
}

/// FNV-1a: the tag must only differ when the file does; nobody gains from a collision in files of our own.
fn etag_of(body: &[u8]) -> String {
    let hash = body
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("\"{hash:016x}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_the_page_refers_to_is_embedded() {
        for (path, asset) in ASSETS.iter() {
            let Ok(text) = std::str::from_utf8(asset.body) else { panic!("{path} is not UTF-8") };
            for reference in text.split('"').filter(|part| part.starts_with("/page/")) {
                assert!(super::asset(reference).is_some(), "{path} refers to {reference}");
            }
        }
    }

    #[test]
    fn the_page_needs_no_other_host_and_no_inline_script_or_style() {
        for (path, asset) in ASSETS.iter().filter(|(path, _)| !path.contains("socket.io")) {
            let text = String::from_utf8_lossy(asset.body);
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("http://") && !foreign.contains("https://"), "{path}");
            if asset.content_type == HTML {
                assert!(!text.contains("<script>") && !text.contains("<style") && !text.contains(" style="), "{path}");
            }
        }
    }

    #[test]
    fn an_unknown_path_is_no_asset_and_tags_are_quoted_and_distinct() {
        assert!(asset("/page/../index.html").is_none());
        let mut tags: Vec<_> = ASSETS.iter().map(|(_, asset)| asset.etag.clone()).collect();
        assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')));
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), FILES.len());
    }
}
