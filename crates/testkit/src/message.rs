use bytes::Bytes;

/// An HTTP/1.1 message as it came, taken apart as far as a test needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `GET / HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub start: String,
    /// Fields in their order, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body with its framing removed.
    pub body: Bytes,
    /// Trailer fields, names in lower case.
    pub trailers: Vec<(String, String)>,
    /// Whether the body was complete by its framing.
    pub complete: bool,
}

impl Message {
    /// The status of a response; 0 if it is none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// All fields of that name.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A head from its lines.
    pub(crate) fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.filter_map(parse_field).collect();
        Self { start, fields, ..Self::default() }
    }
}

pub(crate) fn parse_field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}
