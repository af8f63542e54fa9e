//! Compressed bodies: what other encoders may write, and what the limit holds back.

use std::io::Write;

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::*;

const PACKED: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];

/// Bytes that compress, but not to nothing.
fn text(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut word = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        format!("{} ", state >> 20)
    };
    let mut out = Vec::new();
    while out.len() < len {
        out.extend_from_slice(word().as_bytes());
    }
    out.truncate(len);
    out
}

fn pack(compression: Compression, body: &[u8]) -> Vec<u8> {
    compress(compression, body, 0).unwrap()
}

fn unpack(compression: Compression, packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let out = decompress(compression, packed, limit)?;
    assert!(
        out.capacity() <= limit,
        "{compression}: {} for a limit of {limit}",
        out.capacity()
    );
    Ok(out)
}

#[test]
fn bodies_of_every_size_come_back_within_a_limit_of_their_size() {
    for compression in Compression::ALL {
        for len in [
            0, 1, 100, 8191, 8192, 32_767, 32_768, 32_769, 65_536, 65_537, 300_000, 5_000_000,
        ] {
            for body in [text(len), vec![0; len]] {
                let packed = pack(compression, &body);
                assert!(
                    unpack(compression, &packed, len).unwrap() == body,
                    "{compression} {len}"
                );
                assert!(
                    unpack(compression, &packed, len * 3 + 7).unwrap() == body,
                    "{compression} {len}"
                );
                if len > 0 {
                    let limit = len - 1;
                    let expected = BatchError::DecompressedTooLarge {
                        compression,
                        limit_bytes: limit,
                    };
                    assert_eq!(
                        unpack(compression, &packed, limit),
                        Err(expected),
                        "{compression} {len}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    let zeros = vec![0; 64 << 20];
    for compression in PACKED {
        let packed = pack(compression, &zeros);
        for limit in [0, 1, 1000, 1 << 20] {
            let expected = BatchError::DecompressedTooLarge {
                compression,
                limit_bytes: limit,
            };
            assert_eq!(unpack(compression, &packed, limit), Err(expected));
        }
    }
}

#[test]
fn a_body_cut_short_is_an_error() {
    let body = text(1000);
    for compression in PACKED {
        let packed = pack(compression, &body);
        for len in 0..packed.len() {
            // Nothing at all is an empty body to some, and Snappy's frame has no end mark.
            match unpack(compression, &packed[..len], 1 << 20) {
                Ok(out) => assert!(out.is_empty(), "{compression} {len}"),
                Err(BatchError::Decompress { .. }) => {}
                Err(other) => panic!("{compression} {len}: {other}"),
            }
        }
    }
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for compression in PACKED {
        let mut packed = pack(compression, &text(1000));
        packed.push(1);
        let result = unpack(compression, &packed, 1 << 20);
        assert!(
            matches!(result, Err(BatchError::Decompress { .. })),
            "{compression} {result:?}"
        );
    }
}

#[test]
fn gzip_members_one_after_another_are_one_body() {
    let packed = [
        pack(Compression::Gzip, b"one "),
        pack(Compression::Gzip, b"two"),
    ]
    .concat();
    assert_eq!(unpack(Compression::Gzip, &packed, 100).unwrap(), b"one two");
}

#[test]
fn bare_snappy_and_several_xerial_streams_are_read() {
    let body = text(10_000);
    let bare = snap::raw::Encoder::new().compress_vec(&body).unwrap();
    assert_eq!(unpack(Compression::Snappy, &bare, 10_000).unwrap(), body);
    let framed = pack(Compression::Snappy, &body);
    assert!(framed.starts_with(b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01"));
    let twice = [framed.clone(), framed].concat();
    assert_eq!(
        unpack(Compression::Snappy, &twice, 20_000).unwrap(),
        body.repeat(2)
    );
}

#[test]
fn snappy_that_promises_more_than_it_can_hold_is_an_error() {
    // The length in front says 1 GiB; one literal byte follows.
    let liar = [0x80, 0x80, 0x80, 0x80, 0x04, 0x00, b'x'];
    let result = unpack(Compression::Snappy, &liar, 2 << 30);
    assert!(
        matches!(result, Err(BatchError::Decompress { .. })),
        "{result:?}"
    );
}

fn lz4(info: FrameInfo, body: &[u8]) -> Vec<u8> {
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn lz4_frames_of_other_clients_are_read() {
    let body = text(700_000);
    let (len, content_size) = (body.len(), Some(700_000));
    for size in [
        BlockSize::Max64KB,
        BlockSize::Max256KB,
        BlockSize::Max1MB,
        BlockSize::Max4MB,
    ] {
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for info in [
                FrameInfo::new(),
                FrameInfo::new().block_checksums(true),
                FrameInfo::new().content_checksum(true),
                FrameInfo::new().content_size(content_size),
                FrameInfo::new()
                    .block_checksums(true)
                    .content_checksum(true)
                    .content_size(content_size),
            ] {
                let packed = lz4(info.block_size(size).block_mode(mode), &body);
                assert!(unpack(Compression::Lz4, &packed, len).unwrap() == body);
                let result = unpack(Compression::Lz4, &packed, len - 1);
                assert!(matches!(
                    result,
                    Err(BatchError::DecompressedTooLarge { .. })
                ));
            }
        }
    }
}

#[test]
fn lz4_checks_every_checksum_and_size_it_is_given() {
    let info = FrameInfo::new()
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(300));
    let packed = lz4(info, &text(300));
    assert!(unpack(Compression::Lz4, &packed, 300).is_ok());
    for byte in 0..packed.len() {
        for bit in 0..8 {
            let mut flipped = packed.clone();
            flipped[byte] ^= 1 << bit;
            assert!(
                unpack(Compression::Lz4, &flipped, 1 << 20).is_err(),
                "byte {byte} bit {bit}"
            );
        }
    }
}

#[test]
fn lz4_with_the_header_checksum_of_old_clients_is_refused_as_kafka_refuses_it() {
    // Before message format 2, the checksum wrongly covered the magic too.
    let mut packed = pack(Compression::Lz4, b"body");
    let [_, _, wrong, _] = twox_hash::XxHash32::oneshot(0, &packed[..6]).to_be_bytes();
    packed[6] = wrong;
    assert_eq!(
        unpack(Compression::Lz4, &packed, 100),
        Err(BatchError::Decompress {
            compression: Compression::Lz4,
            reason: "header checksum does not fit".to_owned()
        })
    );
}

/// A stream without its size, as Java's client writes it.
fn zstd_stream(body: &[u8], window_log: u32) -> Vec<u8> {
    let mut encoder = ::zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn zstd_frames_without_their_size_are_read() {
    for body in [text(3_000_000), vec![b'z'; 3_000_000], Vec::new()] {
        let packed = zstd_stream(&body, 21);
        assert!(unpack(Compression::Zstd, &packed, body.len()).unwrap() == body);
        assert!(unpack(Compression::Zstd, &packed, 10_000_000).unwrap() == body);
    }
}

#[test]
fn zstd_with_a_window_larger_than_the_limit_costs_no_window() {
    // Unpacked as a stream, this would allocate 128 MiB, or be refused.
    let packed = zstd_stream(b"small", 27);
    assert_eq!(unpack(Compression::Zstd, &packed, 5).unwrap(), b"small");
}

#[test]
fn zstd_frames_one_after_another_are_one_body() {
    let body = text(100_000);
    let packed = [
        pack(Compression::Zstd, &body),
        pack(Compression::Zstd, &body),
    ]
    .concat();
    assert!(unpack(Compression::Zstd, &packed, 200_000).unwrap() == body.repeat(2));
    let result = unpack(Compression::Zstd, &packed, 199_999);
    assert!(matches!(
        result,
        Err(BatchError::DecompressedTooLarge { .. })
    ));
}
