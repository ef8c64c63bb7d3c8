use proptest::prelude::*;

use super::*;

fn read(chunks: &[&[u8]]) -> Result<Vec<(String, String, String)>, TooLarge> {
    let mut parser = Parser::new(10_000);
    let mut events = Vec::new();
    for chunk in chunks {
        parser.feed(chunk, |event| {
            events.push((event.id.to_owned(), event.event.to_owned(), event.data.to_owned()));
        })?;
    }
    Ok(events)
}

#[test]
fn a_boundary_is_where_neither_a_line_nor_an_event_is_cut() {
    let boundary = |text: &str| {
        let mut scanner = EventScanner::new();
        scanner.feed(text.as_bytes());
        scanner.at_boundary()
    };
    for inside in
        ["d", "data: a", "data: a\n", "data: a\n:c\n", ":c", "id: 1\n", "data: a\r\n\r", "data: a\r\r", "\u{feff}a"]
    {
        assert!(!boundary(inside), "{inside:?}");
    }
    for between in ["", "\n", ":c\n", "data: a\n\n", "data: a\r\n\r\n", "data: a\r\r\n", "id: 1\n\n:c\n", "\u{feff}"] {
        assert!(boundary(between), "{between:?}");
    }
}

#[test]
fn only_blocks_with_data_count_as_events() {
    let mut scanner = EventScanner::new();
    assert_eq!(scanner.feed(b"id: 1\n\nretry: 5\n\n:c\n\n\n\ndatax: 1\n\n"), 0);
    assert_eq!(scanner.feed(b"data\n\nevent: a\ndata:\n\n"), 2);
}

#[test]
fn a_scanner_is_small_and_never_grows() {
    assert!(size_of::<EventScanner>() <= 8, "{}", size_of::<EventScanner>());
}

#[test]
fn lines_and_events_without_end_are_refused() {
    let mut parser = Parser::new(10);
    assert_eq!(parser.feed(b"data: 1234567890", |_| {}), Err(TooLarge));
    let mut parser = Parser::new(10);
    assert_eq!(parser.feed(b"data: 123\ndata: 456\ndata: 789\n", |_| {}), Err(TooLarge));
}

#[test]
fn comments_and_retry_are_no_events() {
    let mut out = Vec::new();
    encode_comment(&mut out, "");
    encode_comment(&mut out, "hb\ndata: forged");
    encode_retry(&mut out, 3_000);
    assert_eq!(out, b":\n\n: hb\n: data: forged\n\nretry: 3000\n\n");
    assert_eq!(read(&[&out]), Ok(vec![]));
}

proptest! {
    #[test]
    fn an_encoded_event_is_read_back_with_its_line_ends_made_one(
        id in "[^\r\n\0]{0,8}",
        event in "[^\r\n\0]{1,8}",
        data in prop_oneof![any::<String>(), "[a:\r\n ]{0,12}"],
    ) {
        let mut out = Vec::new();
        encode_event(&mut out, Some(&id), Some(&event), &data);
        let data = data.replace("\r\n", "\n").replace('\r', "\n");
        prop_assert_eq!(read(&[&out]), Ok(vec![(id, event, data)]));
        let mut scanner = EventScanner::new();
        prop_assert_eq!(scanner.feed(&out), 1);
        prop_assert!(scanner.at_boundary());
    }

    #[test]
    fn any_stream_is_the_same_however_it_is_cut(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(\u{feff}|data|dat|:|id| |\r|\n|\r\n|\n\n|x){0,40}".prop_map(String::into_bytes),
        ],
        step in 1usize..8,
    ) {
        let whole = read(&[&bytes]).unwrap();
        let chunks: Vec<&[u8]> = bytes.chunks(step).collect();
        prop_assert_eq!(&read(&chunks).unwrap(), &whole);
        let (mut one, mut many) = (EventScanner::new(), EventScanner::new());
        let counted: u64 = chunks.iter().map(|chunk| many.feed(chunk)).sum();
        prop_assert_eq!(one.feed(&bytes), counted);
        prop_assert_eq!(one.at_boundary(), many.at_boundary());
        prop_assert_eq!(counted, whole.len() as u64);
    }
}
