//! Kafka's Java classes read what is built here. Needs their jars: `src/record/testdata/README.md` tells how.

use std::{env, fs, path::Path, process::Command};

use logweir_proto::{
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp,
    record::{self, BatchBuilder, BatchError, Compression, RecordHeader},
};

const TIME: i64 = 1_700_000_000_000;

fn build(compression: Compression, last_value: &[u8]) -> Result<Vec<u8>, BatchError> {
    let headers = [
        RecordHeader::new("trace", "1f"),
        RecordHeader::new("empty", ""),
        RecordHeader {
            key: "null".into(),
            value: None,
        },
    ];
    let mut builder = BatchBuilder::new(compression);
    builder.producer(ProducerId::new(42), ProducerEpoch::new(1), Sequence::new(7));
    let mut append = |after: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[_]| {
        builder.append(Timestamp::new(TIME + after), key, value, headers)
    };
    append(0, Some(b"k0"), Some(b"value 0"), &headers)?;
    append(5, None, Some(b"no key"), &[])?;
    append(-10, Some(b""), Some(b""), &[])?;
    append(3, Some(b"k0"), None, &[])?;
    append(1000, Some(b"\xff\0"), Some(last_value), &[])?;
    let mut bytes = builder.build()?.to_vec();
    record::set_base_offset(&mut bytes, Offset::new(100));
    record::set_leader_epoch(&mut bytes, LeaderEpoch::new(3));
    Ok(bytes)
}

#[test]
fn kafkas_java_classes_read_what_is_built_here() {
    let Some(classpath) = env::var_os("LOGWEIR_KAFKA_CLASSPATH") else {
        println!("skipped: LOGWEIR_KAFKA_CLASSPATH does not name the jars of kafka-clients");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/record/testdata/Vectors.java");
    // Several blocks of Snappy and LZ4.
    let value = b"0123456789abcdef".repeat(5000);
    for compression in Compression::ALL {
        let path = folder.path().join(format!("{compression}.bin"));
        fs::write(&path, build(compression, &value).unwrap()).unwrap();
        let output = Command::new("java")
            .arg("-cp")
            .arg(&classpath)
            .args([program.as_path(), Path::new("read"), &path])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let expected = format!(
            "batch {compression} 100..104 epoch 3 producer 42/1/7 max 1700000001000 transactional false control false\n\
             record 100 1700000000000 [6b30] [76616c75652030] trace=[3166] empty=[] null=null\n\
             record 101 1700000000005 null [6e6f206b6579]\n\
             record 102 1699999999990 [] []\n\
             record 103 1700000000003 [6b30] null\n\
             record 104 1700000001000 [ff00] [{} bytes, crc {:08x}]\n",
            value.len(),
            crc32c::crc32c(&value)
        );
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}
