//! The program as people and scripts use it: input formats, output formats, exit codes, messages.

use std::time::{Duration, Instant};

use logweir_tests::{BrokerProcess, Finished, Logweir, ServeOptions};
use serde_json::{Value, json};

fn call(broker: &BrokerProcess, arguments: &[&str]) -> Logweir {
    Logweir::new(arguments).server(broker.grpc())
}

/// The records of a topic as `consume --output json` tells them, in partition and offset order.
fn consumed(broker: &BrokerProcess, topic: &str) -> Vec<Value> {
    let text = call(broker, &["consume", topic, "--output", "json", "--quiet"]).succeed();
    let mut records: Vec<Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    records.sort_by_key(|r| (r["partition"].as_i64(), r["offset"].as_i64()));
    records
}

fn keys_and_values(broker: &BrokerProcess, topic: &str) -> Vec<(Value, Value)> {
    consumed(broker, topic)
        .into_iter()
        .map(|r| (r["key"].clone(), r["value"].clone()))
        .collect()
}

#[test]
fn csv_rows_go_in_unchanged_and_an_empty_cell_is_an_empty_key() {
    let broker = ServeOptions::in_memory().start();
    let csv = "id,name,note\r\n7,\"a,b\",x\r\n,empty,\n9,\"two\nlines\",\"say \"\"hi\"\"\"\n";
    call(
        &broker,
        &["produce", "t", "--format", "csv", "--key-column", "id"],
    )
    .input(csv)
    .succeed();
    let expected = [
        (json!("7"), json!("7,\"a,b\",x")),
        (json!(""), json!(",empty,")),
        (json!("9"), json!("9,\"two\nlines\",\"say \"\"hi\"\"\"")),
    ];
    assert_eq!(keys_and_values(&broker, "t"), expected);

    let Finished { code, stderr, .. } = call(
        &broker,
        &["produce", "t", "--format", "csv", "--key-column", "nam"],
    )
    .input(csv)
    .run();
    assert_ne!(code, Some(0));
    assert!(stderr.contains("name"), "the columns are named: {stderr}");
}

#[test]
fn lines_and_json_lines_go_in_and_come_out_the_same() {
    let broker = ServeOptions::in_memory().start();
    let lines = "plain\nk:v\n\nwith:two:colons\n";
    call(&broker, &["produce", "lines", "--key-separator", ":"])
        .input(lines)
        .run();
    call(&broker, &["produce", "plain"])
        .input("a\n\nb: c\n")
        .succeed();
    let expected = [
        (json!(null), json!("a")),
        (json!(null), json!("")),
        (json!(null), json!("b: c")),
    ];
    assert_eq!(keys_and_values(&broker, "plain"), expected);

    let input = concat!(
        r#"{"key":"k","value":"v","headers":[{"key":"h","value":"1"}]}"#,
        "\n",
        r#"{"value":{"nested":[1,2]}}"#,
        "\n",
        r#"{"key":"gone","value":null}"#,
        "\n",
    );
    call(&broker, &["produce", "json", "--format", "jsonl"])
        .input(input)
        .succeed();
    let first = consumed(&broker, "json");
    assert_eq!(first[0]["headers"], json!([{"key": "h", "value": "1"}]));
    assert_eq!(first[1]["value"], json!("{\"nested\":[1,2]}"));
    assert_eq!(
        (&first[2]["key"], &first[2]["value"]),
        (&json!("gone"), &json!(null))
    );

    // What consume writes, produce reads.
    let text = call(&broker, &["consume", "json", "--output", "json"]).succeed();
    call(&broker, &["produce", "copy", "--format", "jsonl"])
        .input(text)
        .succeed();
    let strip = |mut record: Value| {
        record.as_object_mut().unwrap().remove("topic");
        record
    };
    let copy: Vec<Value> = consumed(&broker, "copy").into_iter().map(strip).collect();
    assert_eq!(copy, first.into_iter().map(strip).collect::<Vec<_>>());
}

#[test]
fn every_compression_and_ack_stores_every_record() {
    let broker = ServeOptions::in_memory().start();
    let input: String = (0..2_000).map(|n| format!("line {n}\n")).collect();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("with-{compression}");
        call(&broker, &["produce", &topic, "--compression", compression])
            .input(input.as_str())
            .succeed();
        let values: Vec<Value> = keys_and_values(&broker, &topic)
            .into_iter()
            .map(|(_, v)| v)
            .collect();
        assert_eq!(
            values,
            (0..2_000)
                .map(|n| json!(format!("line {n}")))
                .collect::<Vec<_>>()
        );
    }
    for acks in ["all", "1"] {
        let topic = format!("acks-{acks}");
        call(&broker, &["produce", &topic, "--acks", acks])
            .input(input.as_str())
            .succeed();
        assert_eq!(consumed(&broker, &topic).len(), 2_000, "acks={acks}");
    }
}

#[test]
fn consume_begins_and_ends_where_it_is_told() {
    let broker = ServeOptions::in_memory().start();
    call(&broker, &["topic", "create", "t", "--partitions", "2"]).succeed();
    for partition in ["0", "1"] {
        let input: String = (0..10).map(|n| format!("{partition}-{n}\n")).collect();
        call(&broker, &["produce", "t", "--partition", partition])
            .input(input)
            .succeed();
    }
    let check = |flags: &[&str], expected: &[&str]| {
        let arguments = [&["consume", "t"], flags].concat();
        let mut lines: Vec<String> = call(&broker, &arguments)
            .succeed()
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        assert_eq!(lines, expected, "{flags:?}");
    };
    check(&["--from", "8"], &["0-8", "0-9", "1-8", "1-9"]);
    check(&["--from", "8", "--partition", "1"], &["1-8", "1-9"]);
    check(&["--from", "latest"], &[]);
    check(&["--partition", "0", "--max", "2"], &["0-0", "0-1"]);
    check(&["--from", "2999-01-01T00:00:00Z"], &[]);
    assert_eq!(
        call(&broker, &["consume", "t", "--from", "1h"])
            .succeed()
            .lines()
            .count(),
        20
    );
    let follow = ["consume", "t", "--follow", "--max", "20"];
    assert_eq!(call(&broker, &follow).succeed().lines().count(), 20);
}

/// Runs a command that must end with this code and say these words, and not panic.
fn check_end(broker: &BrokerProcess, arguments: &[&str], code: i32, words: &str) {
    let Finished {
        code: found,
        stderr,
        ..
    } = call(broker, arguments).run();
    assert_eq!(found, Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(words), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
}

fn without_auto_creation() -> BrokerProcess {
    ServeOptions::in_memory()
        .args(&["--set", "topics.auto_create_topics_enable=false"])
        .start()
}

/// Unknown partitions and settings to unset were wrong usage, unknown topics were not.
#[test]
fn what_is_not_there_is_the_same_failure_whatever_kind_of_thing_it_is() {
    let broker = without_auto_creation();
    let check = |line: &str, words: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        check_end(&broker, &arguments, 1, words);
    };
    call(&broker, &["topic", "create", "t"]).succeed();
    check("consume absent", "absent");
    check("offsets absent", "absent");
    check("topic describe absent", "absent");
    check("topic delete absent", "absent");
    check("topic expand absent --partitions 2", "absent");
    check("delete-records absent --before latest", "absent");
    let has_one = "t has no partition 7; it has 1 partition, from 0";
    check("consume t --partition 7", has_one);
    check("offsets t --partition 7", has_one);
    check("delete-records t --before latest --partition 7", has_one);
    check("delete-records t --before 7 --partition 0", "latest");
    check("topic alter t --unset retention", "retention");
    check("topic alter t --config retention=1", "retention");
    check(
        "topic create r --replication-factor 3",
        "1 available broker",
    );
    check("produce t --file /absent", "/absent");
    check("produce t --file /", "directory");
    check("dump /absent", "/absent");
}

#[test]
fn what_no_broker_could_make_right_is_wrong_usage() {
    let broker = without_auto_creation();
    let check = |line: &str, words: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        check_end(&broker, &arguments, 2, words);
    };
    check("produce", "TOPIC");
    check("consum t", "consume");
    check("consume t --from yesterdayish", "yesterdayish");
    check("topic alter t", "--config");
    check("config --explain nonsense", "nonsense");
    check("serve --set nonsense=1", "nonsense");
    check("delete-records t --before 7", "latest");
}

#[test]
fn exit_codes_and_messages_tell_what_to_do() {
    let broker = without_auto_creation();
    check_end(&broker, &["topic", "create", "bad name"], 1, "bad name");
    // It tried again for half a minute before it said that the connection was reset.
    let began = Instant::now();
    let other_port = Logweir::new(&["topic", "list"]).server(broker.http()).run();
    assert_eq!(other_port.code, Some(1));
    assert!(
        other_port.stderr.contains("--grpc"),
        "{}",
        other_port.stderr
    );
    assert!(began.elapsed() < Duration::from_secs(20), "it gave up late");
    let away = Logweir::new(&["topic", "list"]).server("127.0.0.1:1").run();
    assert_eq!(away.code, Some(1));
    assert!(away.stderr.contains("127.0.0.1:1"), "{}", away.stderr);
}

#[test]
fn a_setting_is_explained_as_json_and_a_part_of_a_name_is_helped_with() {
    let explain = ["config", "--explain", "retention.ms", "--output", "json"];
    let text = Logweir::new(&explain).succeed();
    let explained: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(explained["name"], "log.retention_ms");
    assert_eq!(explained["value"], 604_800_000);
    assert_eq!(explained["source"], "default");
    let finished = Logweir::new(&["config", "--explain", "retention"]).run();
    assert_eq!(finished.code, Some(2));
    for key in ["retention.ms", "retention.bytes"] {
        assert!(finished.stderr.contains(key), "{}", finished.stderr);
    }
}

#[test]
fn records_that_are_refused_are_named_and_the_others_are_stored() {
    let broker = ServeOptions::in_memory().start();
    let create = ["topic", "create", "t", "--config", "max.message.bytes=5000"];
    call(&broker, &create).succeed();
    let input = format!("before\n{}\nafter\n", "x".repeat(20_000));
    let finished = call(&broker, &["produce", "t"]).input(input).run();
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert!(
        finished.stderr.contains('2'),
        "the line is named: {}",
        finished.stderr
    );
    assert_eq!(consumed(&broker, "t").len(), 2);
    let finished = call(&broker, &["produce", "t", "--format", "jsonl"])
        .input("{\"value\":\"good\"}\nnot json\n{\"value\":\"good too\"}\n")
        .run();
    assert_eq!(finished.code, Some(3), "{}", finished.stderr);
    assert_eq!(consumed(&broker, "t").len(), 4);
}

#[test]
fn topics_offsets_and_deletion_are_told_as_json() {
    let broker = ServeOptions::in_memory().start();
    let json = |arguments: &[&str]| -> Vec<Value> {
        let text = call(&broker, &[arguments, &["--output", "json"]].concat()).succeed();
        let stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let values: Vec<Value> = stream.map(|v| v.unwrap()).collect();
        // One object a line, or one list of them.
        values
            .into_iter()
            .flat_map(|v| v.as_array().cloned().unwrap_or_else(|| vec![v]))
            .collect()
    };
    call(
        &broker,
        &[
            "topic",
            "create",
            "t",
            "--partitions",
            "3",
            "--config",
            "retention.ms=7d",
        ],
    )
    .succeed();
    call(&broker, &["produce", "t", "--partition", "1"])
        .input("a\nb\nc\n")
        .succeed();
    assert_eq!(json(&["topic", "list"])[0]["name"], "t");
    let described = json(&["topic", "describe", "t"]);
    let text = Value::from(described).to_string();
    assert!(text.contains("604800000"), "{text}");
    call(&broker, &["topic", "expand", "t", "--partitions", "4"]).succeed();
    call(
        &broker,
        &["topic", "alter", "t", "--config", "max.message.bytes=2000"],
    )
    .succeed();
    let offsets = Value::from(json(&["offsets", "t"])).to_string();
    assert!(offsets.contains('3'), "{offsets}");
    call(
        &broker,
        &["delete-records", "t", "--before", "2", "--partition", "1"],
    )
    .succeed();
    assert_eq!(keys_and_values(&broker, "t"), [(json!(null), json!("c"))]);
    call(&broker, &["topic", "delete", "t"]).succeed();
    assert_eq!(json(&["topic", "list"]), [] as [Value; 0]);
}

#[test]
fn dump_shows_and_verifies_what_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = ServeOptions::on_disk(dir.path()).start();
    call(&broker, &["produce", "t"])
        .input("first\nsecond\n")
        .succeed();
    broker.terminate();
    let data_dir = dir.path().to_str().unwrap();
    let shown = Logweir::new(&["dump", "--records", data_dir]).succeed();
    assert!(shown.contains("second"), "{shown}");
    // The reserve and the lock passed for files of others.
    for file in walk(dir.path()) {
        let file = file.display();
        assert!(shown.contains(&format!("{file}: ")), "{file} is not shown");
    }
    let reserve = dir.path().join("reserve");
    let shown = Logweir::new(&["dump", reserve.to_str().unwrap()]).succeed();
    assert!(
        shown.contains("reserve, ") || shown.contains("reserve\n"),
        "{shown}"
    );

    // A flipped bit is found, told, and no success.
    let segment = walk(dir.path())
        .into_iter()
        .find(|p| p.ends_with("00000000000000000000.log"))
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(6).position(|w| w == b"second").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let finished = Logweir::new(&["dump", segment.to_str().unwrap()]).run();
    assert_ne!(finished.code, Some(0), "{}", finished.stdout);
    let told = format!("{}{}", finished.stdout, finished.stderr).to_lowercase();
    assert!(told.contains("crc"), "{told}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
    {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

#[test]
fn help_has_examples_and_completions_are_scripts() {
    for command in [
        "serve",
        "produce",
        "consume",
        "offsets",
        "delete-records",
        "dump",
    ] {
        let help = Logweir::new(&[command, "--help"]).succeed();
        assert!(help.contains("Examples:"), "{command}");
    }
    let help = Logweir::new(&["--help"]).succeed();
    assert!(help.contains("Exit codes:"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            Logweir::new(&["completions", shell])
                .succeed()
                .contains("logweir")
        );
    }
    assert!(
        Logweir::new(&["--version"])
            .succeed()
            .starts_with("logweir 0.")
    );
}
