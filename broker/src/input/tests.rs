//! Framing of hostile and ordinary input, against expected records and against the csv crate.

use std::io::BufReader;

use proptest::prelude::*;

use super::*;

fn lines(separator: Option<&str>) -> Format {
    Format::Lines {
        key_separator: separator.map(|s| s.as_bytes().to_vec()),
    }
}

fn csv(key: Option<&str>) -> Format {
    Format::Csv(CsvOptions {
        delimiter: b',',
        key_column: key.map(str::to_owned),
    })
}

/// Reads everything, through a buffer so small that every boundary is met.
fn read(input: &[u8], format: &Format, max: usize) -> (Vec<InputRecord>, Vec<String>) {
    let mut records = Vec::new();
    let mut errors = Vec::new();
    let limit = Limit {
        bytes: max,
        has_flags: true,
    };
    let mut input = match Input::new(BufReader::with_capacity(3, input), format, limit) {
        Ok(input) => input,
        Err(error) => return (records, vec![format!("stop {error}")]),
    };
    while let Some(next) = input.next_record() {
        match next {
            Ok(record) => records.push(record),
            Err(error @ InputError::Record { .. }) => errors.push(error.to_string()),
            Err(error) => {
                errors.push(format!("stop {error}"));
                break;
            }
        }
    }
    (records, errors)
}

/// `(line, key, value)` of records that all have a value.
fn pairs(records: &[InputRecord]) -> Vec<(u64, Option<&str>, &str)> {
    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }
    records
        .iter()
        .map(|r| {
            (
                r.line,
                r.key.as_ref().map(text),
                r.value.as_ref().map(text).unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_line_is_a_value_without_its_ending() {
    let (records, errors) = read(b"a\n\r\nb c \r\n\nlast", &lines(None), 100);
    assert!(errors.is_empty());
    let expected = [
        (1, None, "a"),
        (2, None, ""),
        (3, None, "b c "),
        (4, None, ""),
        (5, None, "last"),
    ];
    assert_eq!(pairs(&records), expected);
}

#[test]
fn a_key_ends_at_the_first_separator() {
    let (records, errors) = read(b"k::v::w\n::v\nnone\nk::\n", &lines(Some("::")), 100);
    assert_eq!(
        pairs(&records),
        [
            (1, Some("k"), "v::w"),
            (2, Some(""), "v"),
            (4, Some("k"), "")
        ]
    );
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("line 3: has no key separator"),
        "{errors:?}"
    );
}

#[test]
fn a_line_too_long_is_passed_over_and_named() {
    let (records, errors) = read(
        b"12345\n123456\n1234567890123\n12345\r\nend",
        &lines(None),
        5,
    );
    assert_eq!(
        pairs(&records),
        [(1, None, "12345"), (4, None, "12345"), (5, None, "end")]
    );
    assert_eq!(errors.len(), 2);
    assert!(
        errors[0].starts_with("line 2: is longer than 5"),
        "{errors:?}"
    );
    assert!(errors[1].starts_with("line 3:"), "{errors:?}");
}

#[test]
fn a_row_is_a_value_unchanged_and_the_header_is_no_record() {
    let input = b"id,name\n1,\"a, b\"\r\n2,\"say \"\"hi\"\"\"\n3,\"two\nlines\"\n4,\n";
    let (records, errors) = read(input, &csv(Some("name")), 100);
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        pairs(&records),
        [
            (2, Some("a, b"), "1,\"a, b\""),
            (3, Some("say \"hi\""), "2,\"say \"\"hi\"\"\""),
            (4, Some("two\nlines"), "3,\"two\nlines\""),
            (6, Some(""), "4,"),
        ]
    );
}

#[test]
fn an_empty_cell_is_an_empty_key_and_no_key_column_is_a_null_key() {
    let (records, _) = read(b"k,v\n,1\n\"\",2\n", &csv(Some("k")), 100);
    assert_eq!(
        pairs(&records),
        [(2, Some(""), ",1"), (3, Some(""), "\"\",2")]
    );
    let (records, _) = read(b"k,v\n,1\n", &csv(None), 100);
    assert_eq!(pairs(&records), [(2, None, ",1")]);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_column() {
    let (records, errors) = read(b"\xEF\xBB\xBFk,v\nx,1", &csv(Some("k")), 100);
    assert_eq!(
        (pairs(&records), errors.len()),
        (vec![(2, Some("x"), "x,1")], 0)
    );
}

#[test]
fn the_last_column_of_a_crlf_file_can_be_the_key() {
    let (records, _) = read(b"a,\"k\"\r\n1,x\r\n2,\"y\"\r\n3,z", &csv(Some("k")), 100);
    assert_eq!(
        pairs(&records),
        [
            (2, Some("x"), "1,x"),
            (3, Some("y"), "2,\"y\""),
            (4, Some("z"), "3,z")
        ]
    );
}

#[test]
fn a_key_column_that_is_missing_or_double_is_refused_with_the_columns() {
    let check = |header: &[u8], expected: &str| {
        let (_, errors) = read(header, &csv(Some("tailnum")), 100);
        assert!(errors[0].contains(expected), "{errors:?}");
    };
    check(b"year,tail_num\n", "did you mean \"tail_num\"?");
    check(b"tailnum,tailnum\n", "more than one column");
    check(b"", "begins with a header row");
    check(b"\n\r\n", "begins with a header row");
}

#[test]
fn a_ragged_row_is_named_and_the_next_one_is_read() {
    let (records, errors) = read(b"k,v\na,1\nb\nc,3,x\n\nd,4\n", &csv(Some("k")), 100);
    assert_eq!(
        pairs(&records),
        [(2, Some("a"), "a,1"), (6, Some("d"), "d,4")]
    );
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("line 3: has 1 cell,"), "{errors:?}");
    assert!(errors[1].starts_with("line 4: has 3 cells"), "{errors:?}");
}

#[test]
fn a_quote_that_is_never_closed_stops_and_names_its_line() {
    let (records, errors) = read(b"k,v\na,1\nb,\"\n\nc,2\n", &csv(Some("k")), 100);
    assert_eq!(records.len(), 1);
    assert_eq!(
        errors,
        ["stop line 3: the quote opened on this line is never closed"]
    );
    let mut endless = b"k,v\n\"".to_vec();
    endless.resize(1_000, b'\n');
    let (_, errors) = read(&endless, &csv(Some("k")), 100);
    assert!(
        errors[0].starts_with("stop line 2: the quote opened"),
        "{errors:?}"
    );
    assert!(errors[0].contains("within 100 bytes"), "{errors:?}");
}

#[test]
fn a_row_too_long_is_passed_over() {
    let (records, errors) = read(b"k,v\na,123456789\nb,1\n", &csv(Some("k")), 8);
    assert_eq!(pairs(&records), [(3, Some("b"), "b,1")]);
    assert!(
        errors[0].starts_with("line 2: is longer than 8"),
        "{errors:?}"
    );
}

#[test]
fn json_lines_hold_key_value_headers_and_time() {
    let check = |line: &str| {
        let (records, errors) = read(line.as_bytes(), &Format::Jsonl, 1_000);
        assert!(errors.is_empty(), "{errors:?}");
        records.into_iter().next().unwrap()
    };
    let bytes = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let record = check(
        r#"{"key":"k\n","value":"v","headers":[{"key":"a","value":"1"},{"key":"a","value":null}],"timestamp":5}"#,
    );
    assert_eq!(
        (record.key, record.value, record.timestamp_ms),
        (bytes("k\n"), bytes("v"), Some(5))
    );
    assert_eq!(
        record.headers,
        [("a".to_owned(), bytes("1")), ("a".to_owned(), None)]
    );
    let record = check(r#"{"value":{"b":1, "a":[2]},"key":7,"headers":{"z":"1","a":true}}"#);
    assert_eq!(
        (record.key, record.value),
        (bytes("7"), bytes(r#"{"b":1, "a":[2]}"#))
    );
    assert_eq!(
        record.headers,
        [
            ("z".to_owned(), bytes("1")),
            ("a".to_owned(), bytes("true"))
        ]
    );
    let record = check(r#"{"value":null,"key":null,"topic":"t","partition":3,"offset":9}"#);
    assert_eq!((record.key, record.value), (None, None));
    let record = check(r#"{"value_base64":"/wA=","key":""}"#);
    assert_eq!(
        (record.key, record.value),
        (bytes(""), Some(Bytes::from_static(&[0xff, 0])))
    );
}

#[test]
fn json_lines_that_are_wrong_are_named_and_the_next_one_is_read() {
    let input = b"{\"key\":\"k\"}\nnot json\n{\"value\":1}\n\n{\"value\":\"x\",\"valeu\":1}\n\
        {\"value\":\"a\",\"value_base64\":\"AA==\"}\n{\"value\":\"\xff\"}\n{\"value\":1,\"value\":2}\n\
        {\"value\":1,\"headers\":3}\n{\"value\":1,\"timestamp\":-4}\n";
    let (records, errors) = read(input, &Format::Jsonl, 1_000);
    assert_eq!(pairs(&records), [(3, None, "1")]);
    let starts = [
        "line 1: has no \"value\"",
        "line 2: expected",
        "line 5: unknown field `valeu`",
        "line 6: has both value and value_base64",
        "line 7: invalid unicode",
        "line 8: duplicate field",
        "line 9: headers:",
        "line 10: has a timestamp",
    ];
    assert_eq!(errors.len(), starts.len(), "{errors:#?}");
    for (error, start) in errors.iter().zip(starts) {
        assert!(
            error.starts_with(start),
            "{error} does not begin with {start}"
        );
    }
}

proptest! {
    /// Whatever the bytes, the framing finds the rows and the keys that the csv crate finds.
    #[test]
    fn csv_rows_are_those_of_the_csv_crate(rows in proptest::collection::vec(
        proptest::collection::vec("[ab,\"\\n\\r é]{0,6}", 3), 0..8,
    )) {
        let mut writer = ::csv::WriterBuilder::new().quote_style(::csv::QuoteStyle::Necessary).from_writer(Vec::new());
        writer.write_record(["x", "key", "z"]).unwrap();
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let (records, errors) = read(&text, &csv(Some("key")), 1_000);
        prop_assert!(errors.is_empty(), "{:?}", errors);
        let keys: Vec<Vec<u8>> = records.iter().map(|r| r.key.as_ref().unwrap().to_vec()).collect();
        let expected: Vec<Vec<u8>> = rows.iter().map(|row| row[1].as_bytes().to_vec()).collect();
        prop_assert_eq!(keys, expected);
        // The values are the bytes of the file, in order, nothing lost but line ends.
        let mut rebuilt = b"x,key,z\n".to_vec();
        for record in &records {
            rebuilt.extend_from_slice(record.value.as_ref().unwrap());
            rebuilt.push(b'\n');
        }
        prop_assert_eq!(rebuilt, text);
    }

    /// Arbitrary bytes end, within bounds, in every format.
    #[test]
    fn hostile_bytes_neither_panic_nor_grow(
        bytes in proptest::collection::vec(prop_oneof![
            Just(b'"'), Just(b','), Just(b'\n'), Just(b'\r'), Just(b'{'), any::<u8>(),
        ], 0..400),
    ) {
        for format in [lines(None), lines(Some(",")), Format::Jsonl, csv(None), csv(Some("a"))] {
            let (records, _) = read(&bytes, &format, 50);
            for record in records {
                prop_assert!(record.value.map_or(0, |value| value.len()) <= 50);
            }
        }
    }
}
