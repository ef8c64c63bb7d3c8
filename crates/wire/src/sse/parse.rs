/// An event as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The last event id so far; stays from one event to the next.
    pub id: &'a str,
    /// The event's type, `message` if the stream names none.
    pub event: &'a str,
    /// The data; lines are joined by LF.
    pub data: &'a str,
}

/// A line, or the data of an event, is larger than allowed; the stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event is too large")]
pub struct TooLarge;

/// Reads an event stream (section 9.2.6), however it is cut into chunks.
#[derive(Debug)]
pub struct Parser {
    max: usize,
    line: Vec<u8>,
    data: String,
    /// The block has a `data` field, be it empty.
    has_data: bool,
    event: String,
    id: String,
    /// The id that the current block has set; it counts when the block ends.
    next_id: Option<String>,
    retry_ms: Option<u64>,
    after_cr: bool,
    started: bool,
}

impl Parser {
    /// A parser at the start of a stream, which refuses lines and events of more than `max` bytes.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            line: Vec::new(),
            data: String::new(),
            has_data: false,
            event: String::new(),
            id: String::new(),
            next_id: None,
            retry_ms: None,
            after_cr: false,
            started: false,
        }
    }

    /// The last `retry` of the stream, milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// The id to come back with after a lost connection.
    pub fn last_event_id(&self) -> &str {
        &self.id
    }

    /// Takes the next chunk and shows each event that it completes.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn feed(&mut self, chunk: &[u8], mut show: impl FnMut(Event<'_>)) -> Result<(), TooLarge> {
        let mut rest = chunk;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while !rest.is_empty() {
            let end = memchr::memchr2(b'\n', b'\r', rest);
            let (part, ending) = rest.split_at_checked(end.unwrap_or(rest.len())).unwrap_or((rest, &[]));
            if self.line.len() + part.len() > self.max {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some((terminator, after)) = ending.split_first() else { break };
            rest = after;
            if *terminator == b'\r' {
                match rest.strip_prefix(b"\n") {
                    Some(after) => rest = after,
                    None => self.after_cr = rest.is_empty(),
                }
            }
            let line = std::mem::take(&mut self.line);
            self.end_line(&line, &mut show)?;
            self.line = line;
            self.line.clear();
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], show: &mut impl FnMut(Event<'_>)) -> Result<(), TooLarge> {
        let mut line = line;
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(show);
            return Ok(());
        }
        let line = String::from_utf8_lossy(line);
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "data" => {
                if self.data.len() + value.len() + 1 > self.max {
                    return Err(TooLarge);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => {
                self.event.clear();
                self.event.push_str(value);
            }
            "id" if !value.contains('\0') => self.next_id = Some(value.to_owned()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok().or(self.retry_ms);
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, show: &mut impl FnMut(Event<'_>)) {
        if let Some(id) = self.next_id.take() {
            self.id = id;
        }
        if self.has_data {
            let event = if self.event.is_empty() { "message" } else { &self.event };
            show(Event { id: &self.id, event, data: &self.data });
        }
        self.has_data = false;
        self.data.clear();
        self.event.clear();
    }
}
