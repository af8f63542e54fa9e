//! Power cuts, faults and the limits of the simulated disk.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{DiskOp, InjectedFault, PowerCut, SimDisk, SimFault};
use crate::disk::{Disk, DiskFile, OpenMode, replace_file};
use crate::mmap::{MapError, SegmentMap};

/// Seeds per claim; a tenth unless the full count is asked for.
fn seeds() -> std::ops::Range<u64> {
    let full = std::env::var("LOGWEIR_PROOF").is_ok_and(|value| value == "full");
    let count = if full { 1000 } else { 100 };
    println!("seeds 0..{count}");
    0..count
}

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn create(disk: &SimDisk, name: &str) -> Arc<dyn DiskFile> {
    disk.open(path(name), OpenMode::Create).unwrap()
}

/// A file that is durable with its name.
fn durable(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn DiskFile> {
    let file = create(disk, name);
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(path(name).parent().unwrap()).unwrap();
    file
}

fn content(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    if !disk.exists(path(name)).unwrap() {
        return None;
    }
    let file = disk.open(path(name), OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// Runs `before` on a fresh disk, cuts the power, and gives what `after` sees, over all seeds.
fn outcomes<T: Ord>(before: impl Fn(&SimDisk), after: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    seeds()
        .map(|seed| {
            let disk = SimDisk::default();
            before(&disk);
            disk.power_cut(seed, PowerCut::LoseUnsynced);
            let seen = after(&disk);
            let again = after(&disk);
            assert!(seen == again, "seed {seed}: what is read must not change");
            disk.power_cut(seed + 1, PowerCut::LoseUnsynced);
            assert!(
                after(&disk) == seen,
                "seed {seed}: what survived one cut is durable"
            );
            seen
        })
        .collect()
}

#[test]
fn a_disk_is_cheap_to_make() {
    let began = Instant::now();
    for _ in 0..1000 {
        let disk = SimDisk::default();
        drop(disk.open(path("/file"), OpenMode::Create).unwrap());
    }
    let each = began.elapsed() / 1000;
    assert!(each.as_micros() < 100, "{each:?}");
}

#[test]
fn what_was_synced_survives_every_power_cut() {
    let bytes: Vec<u8> = (0..50_000_u32).map(|i| (i % 253) as u8).collect();
    let seen = outcomes(
        |disk| {
            disk.create_dir_all(path("/a/b")).unwrap();
            let file = durable(disk, "/a/b/file", &bytes[..10_000]);
            file.allocate(1 << 16).unwrap();
            let (mut writer, _map) =
                SegmentMap::new(file.map(1 << 17).unwrap(), 10_000, 1 << 16).unwrap();
            for (nth, part) in (0_u64..).zip(bytes[10_000..].chunks(1000)) {
                writer.write(10_000 + nth * 1000, part).unwrap();
                if nth % 3 == 0 {
                    file.sync().unwrap();
                }
            }
            file.sync().unwrap();
            disk.sync_dir(path("/a")).unwrap();
            disk.sync_dir(path("/")).unwrap();
        },
        |disk| content(disk, "/a/b/file").map(|found| found[..50_000] == bytes),
    );
    assert_eq!(seen, BTreeSet::from([Some(true)]));
}

#[test]
fn unsynced_pages_are_old_new_or_torn_at_sectors() {
    let seen = outcomes(
        |disk| {
            let file = durable(disk, "/file", &[1; 3 * 4096]);
            file.write_at(&[2; 3 * 4096], 0).unwrap();
        },
        |disk| {
            let bytes = content(disk, "/file").unwrap();
            assert_eq!(bytes.len(), 3 * 4096);
            let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
            for (sector, first) in bytes.chunks(512).zip(&sectors) {
                assert!(
                    sector.iter().all(|byte| byte == first),
                    "torn within a sector"
                );
            }
            sectors
        },
    );
    let page = |byte: u8| vec![byte; 8];
    let has = |pages: [u8; 3]| seen.contains(&pages.map(page).concat());
    assert!(
        has([1, 1, 1]) && has([2, 2, 2]),
        "all lost and all kept both happen"
    );
    assert!(
        has([2, 1, 1]) || has([2, 2, 1]),
        "pages are kept from the front"
    );
    assert!(
        seen.iter().any(|s| s[..8] == [1; 8] && s[16..] == [2; 8]),
        "and from the back"
    );
    assert!(
        seen.iter()
            .any(|s| s[..8].contains(&1) && s[..8].contains(&2)),
        "and torn"
    );
}

#[test]
fn an_unsynced_append_keeps_what_was_before_it_in_the_page() {
    outcomes(
        |disk| {
            let file = durable(disk, "/file", &[1; 1000]);
            file.write_at(&[2; 9000], 1000).unwrap();
        },
        |disk| {
            let bytes = content(disk, "/file").unwrap();
            assert!((1000..=10_000).contains(&bytes.len()));
            assert!(bytes[..1000].iter().all(|&byte| byte == 1));
            assert!(bytes[1000..].iter().all(|&byte| byte == 2 || byte == 0));
            bytes.len()
        },
    );
}

#[test]
fn changed_lengths_are_kept_or_lost() {
    let grown = outcomes(
        |disk| durable(disk, "/file", &[1; 5000]).allocate(20_000).unwrap(),
        |disk| content(disk, "/file").unwrap().len(),
    );
    assert!(
        grown.contains(&5000) && grown.contains(&20_000),
        "{grown:?}"
    );
    let cut = outcomes(
        |disk| durable(disk, "/file", &[1; 5000]).set_len(100).unwrap(),
        |disk| {
            let bytes = content(disk, "/file").unwrap();
            // The rest of the page at the cut is zeroed first, as ext4 does; pages beyond stay.
            let kept = bytes.iter().take(100).chain(bytes.iter().skip(4096));
            assert!(
                kept.copied().all(|byte| byte == 1),
                "a lost cut loses no pages"
            );
            bytes.len()
        },
    );
    assert_eq!(cut, BTreeSet::from([100, 5000]));
}

#[test]
fn a_created_file_can_vanish_although_it_was_synced() {
    let seen = outcomes(
        |disk| {
            let file = create(disk, "/file");
            file.write_at(b"data", 0).unwrap();
            file.sync().unwrap();
        },
        |disk| content(disk, "/file"),
    );
    assert_eq!(seen, BTreeSet::from([None, Some(b"data".to_vec())]));
}

#[test]
fn a_removed_file_can_come_back_until_the_directory_is_synced() {
    let remove = |disk: &SimDisk| {
        durable(disk, "/file", b"data");
        disk.remove_file(path("/file")).unwrap();
    };
    let seen = outcomes(remove, |disk| content(disk, "/file"));
    assert_eq!(seen, BTreeSet::from([None, Some(b"data".to_vec())]));
    let synced = outcomes(
        |disk| {
            remove(disk);
            disk.sync_dir(path("/")).unwrap();
        },
        |disk| content(disk, "/file"),
    );
    assert_eq!(synced, BTreeSet::from([None]));
}

#[test]
fn a_renamed_file_has_exactly_one_of_its_names() {
    let both = |disk: &SimDisk| (content(disk, "/old"), content(disk, "/new"));
    let seen = outcomes(
        |disk| {
            durable(disk, "/old", b"1");
            disk.rename(path("/old"), path("/new")).unwrap();
        },
        both,
    );
    let one = Some(b"1".to_vec());
    assert_eq!(
        seen,
        BTreeSet::from([(one.clone(), None), (None, one.clone())])
    );
    let replaced = outcomes(
        |disk| {
            durable(disk, "/new", b"0");
            durable(disk, "/old", b"1");
            disk.rename(path("/old"), path("/new")).unwrap();
        },
        both,
    );
    let zero = Some(b"0".to_vec());
    assert_eq!(replaced, BTreeSet::from([(one.clone(), zero), (None, one)]));
}

#[test]
fn a_rename_between_directories_is_durable_with_either() {
    let seen = outcomes(
        |disk| {
            disk.create_dir_all(path("/a")).unwrap();
            disk.create_dir_all(path("/b")).unwrap();
            disk.sync_dir(path("/")).unwrap();
            durable(disk, "/a/file", b"1");
            disk.rename(path("/a/file"), path("/b/file")).unwrap();
            disk.sync_dir(path("/b")).unwrap();
        },
        |disk| (content(disk, "/a/file"), content(disk, "/b/file")),
    );
    assert_eq!(seen, BTreeSet::from([(None, Some(b"1".to_vec()))]));
}

#[test]
fn a_directory_of_which_the_name_was_lost_takes_its_files_along() {
    let seen = outcomes(
        |disk| {
            disk.create_dir_all(path("/dir")).unwrap();
            durable(disk, "/dir/file", b"1");
        },
        |disk| {
            (
                disk.exists(path("/dir")).unwrap(),
                disk.exists(path("/dir/file")).unwrap(),
            )
        },
    );
    assert_eq!(seen, BTreeSet::from([(false, false), (true, true)]));
}

#[test]
fn a_renamed_directory_keeps_its_files_under_either_name() {
    let seen = outcomes(
        |disk| {
            disk.create_dir_all(path("/old")).unwrap();
            durable(disk, "/old/file", b"1");
            disk.sync_dir(path("/")).unwrap();
            disk.rename(path("/old"), path("/new")).unwrap();
        },
        |disk| (content(disk, "/old/file"), content(disk, "/new/file")),
    );
    let one = Some(b"1".to_vec());
    assert_eq!(seen, BTreeSet::from([(one.clone(), None), (None, one)]));
}

#[test]
fn a_removed_directory_comes_back_whole_or_in_part() {
    let seen = outcomes(
        |disk| {
            disk.create_dir_all(path("/dir")).unwrap();
            disk.sync_dir(path("/")).unwrap();
            durable(disk, "/dir/one", b"1");
            durable(disk, "/dir/two", b"2");
            disk.remove_dir_all(path("/dir")).unwrap();
        },
        |disk| {
            let found = disk.list(path("/dir")).map(|list| list.len());
            found.map_err(|error| error.kind()).ok()
        },
    );
    assert_eq!(seen, BTreeSet::from([None, Some(0), Some(1), Some(2)]));
}

#[test]
fn several_changes_of_names_are_kept_in_order_or_in_any_choice() {
    let seen = outcomes(
        |disk| {
            durable(disk, "/high", b"1");
            disk.remove_file(path("/high")).unwrap();
            create(disk, "/cut");
        },
        |disk| {
            (
                disk.exists(path("/high")).unwrap(),
                disk.exists(path("/cut")).unwrap(),
            )
        },
    );
    // Also the one that no journal makes: the later change without the earlier.
    let all = [(true, false), (false, false), (false, true), (true, true)];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn replace_file_is_old_or_new_after_every_cut_at_every_operation() {
    for seed in seeds() {
        let disk = SimDisk::default();
        durable(&disk, "/state", b"old");
        disk.inject(SimFault::new(ErrorKind::Other).at(1 + seed % 7).forever());
        let done = replace_file(&disk, path("/state"), b"new").is_ok();
        disk.clear_faults();
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        let found = content(&disk, "/state").unwrap();
        assert!(
            found == b"new" || !done && found == b"old",
            "seed {seed}: {found:?}"
        );
    }
}

#[test]
fn a_killed_process_leaves_everything_it_wrote_but_nothing_more_is_durable() {
    let disk = SimDisk::default();
    let file = create(&disk, "/file");
    file.write_at(b"data", 0).unwrap();
    let (boot, lock) = (disk.boot_id().unwrap(), disk.lock_dir(path("/")).unwrap());
    disk.power_cut(0, PowerCut::KeepAll);
    assert_eq!(disk.boot_id().unwrap(), boot);
    assert_eq!(content(&disk, "/file").unwrap(), b"data");
    drop(
        disk.lock_dir(path("/"))
            .expect("the dead process holds no lock"),
    );
    drop(lock);
    let lost = seeds().any(|seed| {
        let disk = SimDisk::default();
        create(&disk, "/file").write_at(b"data", 0).unwrap();
        disk.power_cut(seed, PowerCut::KeepAll);
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        !disk.exists(path("/file")).unwrap()
    });
    assert!(lost);
    disk.power_cut(0, PowerCut::LoseUnsynced);
    assert_ne!(disk.boot_id().unwrap(), boot);
}

#[test]
fn handles_clones_and_writers_of_the_dead_process_do_nothing() {
    for cut in [PowerCut::LoseUnsynced, PowerCut::KeepAll] {
        let disk = SimDisk::default();
        let file = durable(&disk, "/file", b"durable");
        file.allocate(4096).unwrap();
        file.sync().unwrap();
        let removed = durable(&disk, "/removed", b"x");
        disk.remove_file(path("/removed")).unwrap();
        let (mut writer, map) = SegmentMap::new(file.map(8192).unwrap(), 7, 4096).unwrap();
        let (held, old) = (map.slice(0, 7).unwrap(), disk.clone());
        let lock = disk.lock_dir(path("/")).unwrap();
        disk.power_cut(3, cut);

        assert!(file.write_at(b"x", 0).is_err() && file.sync().is_err() && file.len().is_err());
        assert!(removed.write_at(b"x", 0).is_err());
        assert!(old.open(path("/file"), OpenMode::Write).is_err());
        assert!(old.remove_file(path("/file")).is_err());
        assert!(writer.write(7, b"x").is_err());
        assert!(writer.publish(8).is_err());
        let again = disk.open(path("/file"), OpenMode::Write).unwrap();
        let own = disk.lock_dir(path("/")).unwrap();
        drop(lock);
        assert!(
            disk.lock_dir(path("/")).is_err(),
            "an old lock's end is not the new one's"
        );
        drop(own);
        again.write_at(b"CHANGED", 0).unwrap();
        assert_eq!(&held[..], b"durable", "what the dead process reads stays");
        assert_eq!(&disk.clone().list(path("/")).unwrap()[1].name, "file");
        assert_eq!(&content(&disk, "/file").unwrap()[..7], b"CHANGED");
    }
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let seen = outcomes(
        |disk| {
            let file = durable(disk, "/file", &[1; 8192]);
            file.write_at(&[2; 4096], 0).unwrap();
            disk.inject(SimFault::errno(5).on(DiskOp::Sync));
            assert!(file.sync().unwrap_err().to_string().contains("/file"));
            file.write_at(&[3; 4096], 4096).unwrap();
            file.sync().unwrap();
            assert_eq!(
                content(disk, "/file").unwrap()[0],
                2,
                "the cache still has it"
            );
        },
        |disk| {
            let bytes = content(disk, "/file").unwrap();
            (bytes[0], bytes[4096])
        },
    );
    assert_eq!(seen, BTreeSet::from([(1, 3)]));
    let rewritten = outcomes(
        |disk| {
            let file = durable(disk, "/file", &[1; 4096]);
            file.write_at(&[2; 4096], 0).unwrap();
            disk.inject(SimFault::errno(5).on(DiskOp::Sync));
            file.sync().unwrap_err();
            file.write_at(&[4; 4096], 0).unwrap();
            file.sync().unwrap();
        },
        |disk| content(disk, "/file").unwrap()[0],
    );
    assert_eq!(rewritten, BTreeSet::from([4]));
}

#[test]
fn the_kth_operation_fails_and_only_it() {
    let steps = |disk: &SimDisk| -> Vec<io::Result<()>> {
        let file = match disk.open(path("/file"), OpenMode::CreateOrOpen) {
            Ok(file) => file,
            Err(error) => return vec![Err(error)],
        };
        vec![
            file.allocate(4096),
            file.write_at(b"abc", 0),
            file.read_at(&mut [0; 3], 0),
            file.sync(),
            disk.sync_dir(path("/")),
            disk.rename(path("/file"), path("/new")),
            disk.remove_file(path("/new")),
        ]
    };
    let count = {
        let disk = SimDisk::default();
        steps(&disk).into_iter().for_each(|step| step.unwrap());
        disk.operations()
    };
    assert_eq!(count, 8);
    for k in 1..=count {
        let disk = SimDisk::default();
        disk.inject(SimFault::new(ErrorKind::TimedOut).at(k));
        let failed: Vec<_> = steps(&disk).into_iter().filter_map(Result::err).collect();
        let injected = failed
            .iter()
            .filter(|e| e.kind() == ErrorKind::TimedOut)
            .count();
        assert_eq!(injected, 1, "operation {k}: {failed:?}");
        let disk = SimDisk::default();
        disk.inject(SimFault::new(ErrorKind::TimedOut).at(k).forever());
        assert_eq!(
            steps(&disk).iter().filter(|step| step.is_ok()).count() as u64,
            k.max(2) - 2
        );
    }
}

#[test]
fn faults_choose_by_kind_and_path() {
    let disk = SimDisk::default();
    disk.create_dir_all(path("/a")).unwrap();
    let (one, two) = (create(&disk, "/a/one"), create(&disk, "/two"));
    disk.inject(SimFault::errno(5).on(DiskOp::Write).under("/a").at(2));
    two.write_at(b"x", 0).unwrap();
    one.write_at(b"x", 0).unwrap();
    two.write_at(b"x", 0).unwrap();
    one.sync().unwrap();
    assert!(one.write_at(b"1234", 0).is_err());
    assert_eq!(
        content(&disk, "/a/one").unwrap(),
        b"12",
        "half of a failed write is there"
    );
    one.write_at(b"1234", 0).unwrap();
    disk.inject(SimFault::errno(5).on(DiskOp::Read).forever());
    assert!(one.read_at(&mut [0], 0).is_err() && two.read_at(&mut [0], 0).is_err());
    disk.clear_faults();
    one.read_at(&mut [0], 0).unwrap();
    assert_eq!(disk.operations_of(DiskOp::Write), 5);
    assert_eq!(disk.operations_of(DiskOp::Sync), 1);
}

#[test]
fn the_hook_sees_each_operation_before_it_happens() {
    let disk = SimDisk::default();
    let file = create(&disk, "/file");
    let (seen, other) = (Arc::new(AtomicU64::new(0)), disk.clone());
    let counter = Arc::clone(&seen);
    disk.set_hook(Some(Arc::new(move |op, at| {
        if op == DiskOp::Sync {
            assert_eq!(at, path("/file"));
            assert!(
                other.unsynced_pages() > 0,
                "no lock is held, and nothing is synced yet"
            );
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })));
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    disk.set_hook(None);
    file.sync().unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = SimDisk::new(16 * 4096);
    let file = create(&disk, "/file");
    file.allocate(8 * 4096).unwrap();
    assert_eq!(
        file.allocate(17 * 4096).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    assert_eq!(
        (file.len().unwrap(), disk.used_bytes()),
        (8 * 4096, 8 * 4096)
    );
    let other = create(&disk, "/other");
    let error = other.write_at(&[1; 9 * 4096], 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(other.len().unwrap(), 8 * 4096, "what fits is written");
    assert_eq!(disk.space(path("/")).unwrap().free_bytes, 0);
    file.write_at(&[1; 8 * 4096], 0).expect("reserved");
    disk.remove_file(path("/other")).unwrap();
    assert_eq!(disk.space(path("/")).unwrap().free_bytes, 0, "still open");
    drop(other);
    assert_eq!(disk.space(path("/")).unwrap().free_bytes, 8 * 4096);
    disk.set_capacity(4096);
    assert_eq!(
        file.allocate(9 * 4096).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    disk.set_capacity(20 * 4096);
    file.allocate(20 * 4096).unwrap();
    file.set_len(1).unwrap();
    assert_eq!(disk.used_bytes(), 4096);
}

#[test]
fn bytes_held_of_a_removed_file_hold_its_room() {
    let disk = SimDisk::default();
    let file = durable(&disk, "/file", &[1; 8192]);
    let held = SegmentMap::sealed(file.map(8192).unwrap(), 8192)
        .unwrap()
        .slice(0, 1)
        .unwrap();
    drop(file);
    disk.remove_file(path("/file")).unwrap();
    assert_eq!(disk.used_bytes(), 8192);
    drop(held);
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn a_store_into_a_hole_is_an_error_here_and_a_signal_elsewhere() {
    let disk = SimDisk::default();
    let file = create(&disk, "/file");
    file.set_len(8192).unwrap();
    let (mut writer, _map) = SegmentMap::new(file.map(8192).unwrap(), 0, 8192).unwrap();
    assert!(matches!(
        writer.write(0, b"x"),
        Err(MapError::NotAllocated { .. })
    ));
    file.allocate(8192).unwrap();
    writer.write(0, b"x").unwrap();
}

#[test]
fn flipped_bits_are_seen_and_stay() {
    let disk = SimDisk::default();
    let file = durable(&disk, "/file", &[0; 100]);
    disk.flip_bit(path("/file"), 50, 7).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, 50).unwrap();
    assert_eq!(byte, [0x80]);
    disk.power_cut(1, PowerCut::LoseUnsynced);
    assert_eq!(content(&disk, "/file").unwrap()[50], 0x80);
    let beyond = disk.flip_bit(path("/file"), 100, 0).unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(
        disk.flip_bit(path("/no"), 0, 0).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn new_pages_cost_no_copy_and_a_sync_forgets_the_old_ones() {
    let disk = SimDisk::default();
    let file = create(&disk, "/file");
    file.allocate(1 << 20).unwrap();
    let (mut writer, _map) = SegmentMap::new(file.map(1 << 20).unwrap(), 0, 1 << 20).unwrap();
    writer.write(0, &vec![1; 1 << 20]).unwrap();
    assert_eq!(disk.unsynced_pages(), 256);
    file.sync().unwrap();
    assert_eq!(disk.unsynced_pages(), 0);
    writer.zero(0, 1).unwrap();
    assert_eq!(disk.unsynced_pages(), 1);
}

#[test]
fn the_same_seed_makes_the_same_power_cut() {
    let run = |seed| {
        let disk = SimDisk::default();
        for nth in 0..20_u8 {
            let name = format!("/{nth}");
            let file = create(&disk, &name);
            file.write_at(&[nth + 1; 20_000], 0).unwrap();
            if nth % 3 == 0 {
                file.sync().unwrap();
            }
            if nth == 10 {
                disk.sync_dir(path("/")).unwrap();
            }
        }
        disk.power_cut(seed, PowerCut::LoseUnsynced);
        let names = disk.list(path("/")).unwrap();
        names
            .iter()
            .map(|entry| content(&disk, &format!("/{}", entry.name)))
            .collect::<Vec<_>>()
    };
    for seed in seeds() {
        assert!(run(seed) == run(seed), "seed {seed}");
    }
}

/// A disk is used by the threads of a process that does not know it is about to die.
#[test]
fn power_cuts_while_threads_are_at_work_leave_a_disk_that_works() {
    let work = |disk: &SimDisk, name: &str| -> io::Result<()> {
        let file = disk.open(path(name), OpenMode::CreateOrOpen)?;
        file.allocate(1 << 16)?;
        let (mut writer, map) = SegmentMap::new(file.map(1 << 16)?, 0, 1 << 16)?;
        for nth in 0..16 {
            writer.write(nth * 4096, &[7; 4096])?;
            writer.publish((nth + 1) * 4096)?;
            file.sync()?;
            let bytes = map.slice(0, (nth + 1) * 4096).expect("published");
            assert!(bytes.iter().all(|&byte| byte == 7));
        }
        disk.sync_dir(path("/"))?;
        disk.rename(path(name), &path(name).with_extension("old"))?;
        disk.remove_file(&path(name).with_extension("old"))
    };
    let disk = SimDisk::default();
    let finished = AtomicU64::new(0);
    for seed in seeds() {
        std::thread::scope(|scope| {
            for name in ["/a", "/b", "/c"] {
                let (disk, finished) = (disk.clone(), &finished);
                scope.spawn(move || {
                    while work(&disk, name).is_ok() {
                        finished.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let cut = if seed % 2 == 0 {
                PowerCut::LoseUnsynced
            } else {
                PowerCut::KeepAll
            };
            // Somewhere in the middle of the threads' work; they end because their disk is gone.
            let until = disk.operations() + 50 + seed % 37;
            while disk.operations() < until {
                std::thread::yield_now();
            }
            disk.power_cut(seed, cut);
        });
        for entry in disk.list(path("/")).unwrap() {
            let bytes = content(&disk, &format!("/{}", entry.name)).unwrap();
            assert!(
                bytes.iter().all(|&byte| byte == 7 || byte == 0),
                "seed {seed}"
            );
            disk.remove_file(&path("/").join(entry.name)).unwrap();
        }
        assert_eq!(
            disk.used_bytes(),
            0,
            "seed {seed}: what the dead hold does not count"
        );
    }
    println!("{} rounds were finished", finished.load(Ordering::Relaxed));
}

#[test]
fn a_slow_operation_takes_its_time_unless_the_fault_is_taken_back() {
    const SPAN: Duration = Duration::from_millis(30);
    let disk = SimDisk::default();
    disk.create_dir_all(path("/a")).unwrap();
    let (one, two) = (create(&disk, "/a/one"), create(&disk, "/two"));
    let slow = SimFault::slow(SPAN).on(DiskOp::Sync).under("/a").at(2);
    let slow = disk.inject(slow.forever());
    let failing = disk.inject(SimFault::errno(5).on(DiskOp::Sync).under("/a").at(3));
    let never = disk.inject(SimFault::errno(5).on(DiskOp::Rename));
    one.sync().unwrap();
    two.sync().unwrap();
    assert_eq!(slow.fired(), 0);
    let began = Instant::now();
    one.sync().unwrap();
    assert!(began.elapsed() >= SPAN);
    let began = Instant::now();
    assert!(
        one.sync().is_err() && began.elapsed() >= SPAN,
        "slow, and fails"
    );
    disk.clear_faults();
    one.sync().unwrap();
    assert_eq!((slow.fired(), failing.fired(), never.fired()), (2, 1, 0));
}

/// A time that ends behind the last instant used to be a panic in whichever thread came next.
#[test]
fn nobody_waits_for_a_slow_operation_that_is_taken_back_or_dead() {
    for time in [Duration::from_secs(3600), Duration::MAX] {
        nobody_waits(time);
    }
}

fn nobody_waits(time: Duration) {
    let takes_back: [fn(&SimDisk, &InjectedFault); 3] = [
        SimDisk::clear_fault,
        |disk, _| disk.clear_faults(),
        |disk, _| disk.power_cut(0, PowerCut::KeepAll),
    ];
    for (nth, take_back) in takes_back.into_iter().enumerate() {
        let disk = SimDisk::default();
        let file = create(&disk, "/file");
        let slow = disk.inject(SimFault::slow(time).on(DiskOp::Write));
        let other = disk.clone();
        let waiting = std::thread::spawn(move || file.write_at(b"x", 0));
        while slow.fired() == 0 {
            std::thread::yield_now();
        }
        assert!(other.exists(path("/file")).unwrap(), "no lock is held");
        take_back(&disk, &slow);
        assert_eq!(waiting.join().unwrap().is_ok(), nth < 2);
    }
}
