/// Watches an event stream that passes through, however it is cut into chunks, in constant memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventScanner {
    line: Line,
    /// The current block has a `data` field, hence is an event.
    data: bool,
    /// The current block has a line that is not a comment.
    open: bool,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    /// The stream's first bytes, which may be a byte order mark, are past.
    started: bool,
}

/// What is known of the current line.
#[derive(Clone, Copy, Debug, Default)]
enum Line {
    /// Nothing of it has come.
    #[default]
    Start,
    /// So many bytes of a byte order mark, at the start of the stream.
    Mark(u8),
    /// So many bytes, all as in `data`.
    Name(u8),
    /// A comment.
    Comment,
    /// A `data` field.
    Data,
    /// Another field.
    Other,
}

const DATA: &[u8] = b"data";
const MARK: &[u8] = b"\xef\xbb\xbf";

impl EventScanner {
    /// A scanner at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next chunk and returns how many events were completed in it. What a reader does not dispatch (comments,
    /// blocks without data) does not count.
    pub fn feed(&mut self, chunk: &[u8]) -> u64 {
        let mut events = 0;
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                rest = after;
                continue;
            }
            match (self.line, byte) {
                (_, b'\n' | b'\r') => {
                    self.after_cr = byte == b'\r';
                    events += self.end_line();
                }
                (Line::Comment | Line::Data | Line::Other, _) => {
                    // Nothing in the rest of the line matters.
                    let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    rest = rest.get(end..).unwrap_or_default();
                    continue;
                }
                (Line::Start, _) if !self.started && MARK.first() == Some(&byte) => self.line = Line::Mark(1),
                (Line::Mark(seen), _) if MARK.get(usize::from(seen)) == Some(&byte) => {
                    self.line = if usize::from(seen) + 1 == MARK.len() { Line::Start } else { Line::Mark(seen + 1) };
                    self.started = self.started || matches!(self.line, Line::Start);
                    rest = after;
                    continue;
                }
                (Line::Mark(_), _) => self.line = Line::Other,
                (Line::Start, b':') => self.line = Line::Comment,
                (Line::Start, _) => self.line = if byte == b'd' { Line::Name(1) } else { Line::Other },
                (Line::Name(seen), _) => {
                    self.line = match DATA.get(usize::from(seen)) {
                        Some(expected) if *expected == byte => Line::Name(seen + 1),
                        None if byte == b':' => Line::Data,
                        _ => Line::Other,
                    };
                }
            }
            if !matches!(self.line, Line::Mark(_)) {
                self.started = true;
            }
            rest = after;
        }
        events
    }

    /// Whether something may be put in here without cutting a line or an event in two. After a lone CR an LF may still
    /// come, which would then end another line: so not there.
    pub fn at_boundary(&self) -> bool {
        matches!(self.line, Line::Start) && !self.open && !self.after_cr
    }

    fn end_line(&mut self) -> u64 {
        match std::mem::take(&mut self.line) {
            Line::Start => {
                self.open = false;
                return u64::from(std::mem::take(&mut self.data));
            }
            Line::Comment => {}
            // A line that is only the field's name has the empty value.
            Line::Name(seen) if usize::from(seen) == DATA.len() => {
                self.data = true;
                self.open = true;
            }
            Line::Data => {
                self.data = true;
                self.open = true;
            }
            Line::Mark(_) | Line::Name(_) | Line::Other => self.open = true,
        }
        0
    }
}
