//! The map's promises, one by one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{MapError, SegmentMap, SegmentWriter};
use crate::disk::{Disk, DiskFile, OpenMode, OsDisk, SimDisk};

fn segment(disk: &dyn Disk, path: &Path) -> (Arc<dyn DiskFile>, SegmentWriter, Arc<SegmentMap>) {
    let file = disk.open(path, OpenMode::Create).unwrap();
    file.allocate(8192).unwrap();
    let (writer, map) = SegmentMap::new(file.map(1 << 16).unwrap(), 0, 8192).unwrap();
    (file, writer, map)
}

/// Runs one claim against a real and a simulated segment.
fn check(claim: impl Fn(&dyn DiskFile, SegmentWriter, Arc<SegmentMap>)) {
    let dir = tempfile::tempdir().unwrap();
    let (file, writer, map) = segment(&OsDisk::new(), &dir.path().join("segment"));
    claim(&*file, writer, map);
    let (file, writer, map) = segment(&SimDisk::default(), Path::new("/segment"));
    claim(&*file, writer, map);
}

#[test]
fn the_writer_stays_between_published_and_allocated() {
    check(|_, mut writer, map| {
        writer.write(0, &[1; 100]).unwrap();
        writer.publish(100).unwrap();
        let refused = writer.write(99, &[2]).unwrap_err();
        assert!(matches!(
            refused,
            MapError::Published {
                position: 99,
                published: 100
            }
        ));
        assert!(matches!(writer.zero(0, 1), Err(MapError::Published { .. })));
        writer.write(8191, &[3]).unwrap();
        let refused = writer.write(8191, &[3, 3]).unwrap_err();
        assert!(matches!(
            refused,
            MapError::NotAllocated {
                end: 8193,
                allocated: 8192
            }
        ));
        assert!(writer.write(u64::MAX, &[1, 2]).is_err());
        assert!(matches!(
            writer.publish(99),
            Err(MapError::Published { .. })
        ));
        assert!(matches!(
            writer.publish(8193),
            Err(MapError::NotAllocated { .. })
        ));
        assert!(matches!(
            writer.set_allocated(1 << 17),
            Err(MapError::NotMapped { .. })
        ));
        assert!(matches!(
            writer.set_allocated(99),
            Err(MapError::NotAllocated { .. })
        ));
        writer.publish(100).unwrap();
        assert_eq!(
            (writer.published(), writer.allocated(), map.published()),
            (100, 8192, 100)
        );
        assert!(map.slice(0, 100).unwrap().iter().all(|&byte| byte == 1));
    });
}

#[test]
fn readers_get_nothing_above_the_published_end() {
    check(|_, mut writer, map| {
        writer.write(0, b"abcdef").unwrap();
        assert!(map.slice(0, 1).is_none());
        writer.publish(4).unwrap();
        assert_eq!(&map.slice(1, 4).unwrap()[..], b"bcd");
        assert!(map.slice(1, 5).is_none());
        assert!(map.slice(3, 2).is_none());
        assert!(map.slice(u64::MAX, u64::MAX).is_none());
        assert_eq!(map.slice(4, 4).unwrap().len(), 0);
    });
}

#[test]
fn a_mapping_must_cover_what_it_is_said_to_hold() {
    let disk = SimDisk::default();
    let file = disk.open(Path::new("/file"), OpenMode::Create).unwrap();
    let mapped = || file.map(4096).unwrap();
    assert!(matches!(
        SegmentMap::new(mapped(), 0, 4097),
        Err(MapError::NotMapped { .. })
    ));
    assert!(matches!(
        SegmentMap::new(mapped(), 2, 1),
        Err(MapError::NotAllocated { .. })
    ));
    assert!(matches!(
        SegmentMap::sealed(mapped(), 4097),
        Err(MapError::NotMapped { .. })
    ));
    assert_eq!(file.map(0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn prefault_changes_nothing_and_past_the_end_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (_file, mut writer, map) = segment(&OsDisk::new(), &dir.path().join("segment"));
    writer.write(0, b"abc").unwrap();
    writer.publish(3).unwrap();
    map.prefault(1, 8192).unwrap();
    assert_eq!(&map.slice(0, 3).unwrap()[..], b"abc");
    assert!(
        map.prefault(8192, 1 << 16).is_err(),
        "beyond the end of the file"
    );
    assert!(
        map.populate_read(8192, 1 << 16).is_err(),
        "beyond the end of the file"
    );
    let outside = map.prefault(0, 1 << 20).unwrap_err();
    assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn published_bytes_of_simulated_files_cannot_be_changed_by_any_way() {
    let disk = SimDisk::default();
    let (file, mut writer, map) = segment(&disk, Path::new("/segment"));
    writer.write(0, &[1; 5000]).unwrap();
    writer.publish(5000).unwrap();
    let held = map.slice(0, 5000).unwrap();
    drop((writer, map));
    let refused = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    };
    refused(file.write_at(&[9], 4999));
    refused(file.set_len(4999));
    // A second writer over the same file, that claims to know better.
    let (mut second, _) = SegmentMap::new(file.map(1 << 16).unwrap(), 0, 8192).unwrap();
    assert!(matches!(
        second.write(0, &[9]),
        Err(MapError::Published { .. })
    ));
    assert!(matches!(
        second.zero(0, 8192),
        Err(MapError::Published { .. })
    ));
    disk.flip_bit(Path::new("/segment"), 17, 3).unwrap();
    assert!(
        held.iter().all(|&byte| byte == 1),
        "the slice must not change"
    );
    let mut byte = [0];
    file.read_at(&mut byte, 17).unwrap();
    assert_eq!(byte, [1 ^ 8], "a read has the flipped bit");
    drop((held, second));
    // With no reader left the bytes are free again, as after a restart of the log.
    file.write_at(&[9], 4999).unwrap();
    let sealed = SegmentMap::sealed(file.map(8192).unwrap(), 5000).unwrap();
    assert_eq!(sealed.slice(17, 18).unwrap()[..], [1 ^ 8]);
    assert_eq!(sealed.slice(4999, 5000).unwrap()[..], [9]);
}

#[test]
fn a_larger_map_of_a_simulated_file_leaves_the_old_one_readable() {
    let disk = SimDisk::default();
    let (file, mut writer, map) = segment(&disk, Path::new("/segment"));
    writer.write(0, b"abc").unwrap();
    writer.publish(3).unwrap();
    let (mut second, larger) = SegmentMap::new(file.map(1 << 20).unwrap(), 3, 8192).unwrap();
    assert!(matches!(writer.write(3, b"x"), Err(MapError::ReadOnly)));
    assert!(matches!(writer.publish(4), Err(MapError::ReadOnly)));
    second.write(3, b"def").unwrap();
    second.publish(6).unwrap();
    assert_eq!(&larger.slice(0, 6).unwrap()[..], b"abcdef");
    assert_eq!(&map.slice(0, 3).unwrap()[..], b"abc");
}

#[test]
fn readers_never_see_a_byte_that_was_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let sim = SimDisk::default();
    let os = OsDisk::new();
    let disks: [(&dyn Disk, &Path); 2] = [(&os, dir.path()), (&sim, Path::new("/"))];
    for (disk, dir) in disks {
        let file = disk.open(&dir.join("racing"), OpenMode::Create).unwrap();
        file.allocate(1 << 20).unwrap();
        let (mut writer, map) = SegmentMap::new(file.map(1 << 20).unwrap(), 0, 1 << 20).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !done.load(Ordering::Acquire) {
                        let end = map.published();
                        assert!(end >= seen);
                        let bytes = map.slice(seen, end).unwrap();
                        assert!(bytes.iter().all(|&byte| byte == 0xEE));
                        seen = end;
                    }
                });
            }
            let mut position = 0;
            for nth in 0..2_000_u64 {
                let len = usize::try_from(nth % 500 + 1).unwrap();
                if nth % 7 == 0 {
                    file.write_at(&vec![0xEE; len], position).unwrap();
                } else {
                    writer.write(position, &vec![0xEE; len]).unwrap();
                }
                position += len as u64;
                writer.publish(position).unwrap();
            }
            done.store(true, Ordering::Release);
        });
    }
}

fn maps_of(path: &Path) -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| line.contains(&*path.to_string_lossy()))
        .count()
}

#[test]
fn ten_thousand_mappings_are_made_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment");
    let file = OsDisk::new().open(&path, OpenMode::Create).unwrap();
    file.allocate(4096).unwrap();
    let maps: Vec<_> = (0..10_000)
        .map(|_| SegmentMap::sealed(file.map(128 << 20).unwrap(), 4096).unwrap())
        .collect();
    // The kernel merges no two shared maps of the same pages, so each is a line.
    assert_eq!(maps_of(&path), 10_000);
    let held = maps[5_000].slice(0, 4096).unwrap();
    drop(maps);
    assert_eq!(
        maps_of(&path),
        1,
        "only the one with a living slice is left"
    );
    drop(held);
    assert_eq!(maps_of(&path), 0);
}

#[test]
fn ten_thousand_simulated_segments_take_little() {
    let disk = SimDisk::default();
    let segments: Vec<_> = (0..10_000)
        .map(|nth| segment(&disk, Path::new(&format!("/{nth}"))))
        .collect();
    assert_eq!(disk.used_bytes(), 10_000 * 8192);
    for (_, mut writer, map) in segments {
        writer.write(0, b"x").unwrap();
        writer.publish(1).unwrap();
        assert_eq!(&map.slice(0, 1).unwrap()[..], b"x");
    }
}
