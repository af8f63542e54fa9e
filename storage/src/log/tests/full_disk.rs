//! A full disk: errors to those who append, reads go on, and appends resume when there is room.

use std::process::Command;

use super::*;
use crate::disk::{DiskFile, OpenMode};
use crate::error::AppendError;

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 256 << 10,
        flush: FlushPolicy::PER_ACK,
        retention: None,
        ..LogConfig::default()
    }
}

/// Appends until there is no room. Gives how many batches went in.
fn fill(log: &mut Log) -> usize {
    let value = "z".repeat(2000);
    for count in 0.. {
        match log.append(&batch(&[&value], 0), EPOCH, Timestamp::new(0)) {
            Ok(_) => {}
            Err(AppendError::Full) => return count,
            Err(error) => panic!("after {count} batches: {error}"),
        }
    }
    unreachable!("a disk of a few MiB takes any number of batches")
}

fn open_small(disk: &Arc<dyn Disk>, path: &Path) -> Arc<LogDir> {
    let config = LogDirConfig {
        reserve_bytes: 64 << 10,
        ..LogDirConfig::default()
    };
    LogDir::open(Arc::clone(disk), path, config).unwrap()
}

/// Takes up what is left of the disk, as another program might.
fn take_the_rest(disk: &dyn Disk, path: &Path) -> Arc<dyn DiskFile> {
    let file = disk.open(path, OpenMode::Create).unwrap();
    let (mut len, mut step) = (0, 1 << 20);
    while step >= 4096 {
        if file.allocate(len + step).is_ok() {
            len += step;
        } else {
            step /= 2;
        }
    }
    file
}

fn check_full_disk(disk: &Arc<dyn Disk>, path: &Path) {
    let dir = open_small(disk, path);
    let mut log = open_log(&dir, &config());
    let appended = fill(&mut log);
    assert!(
        appended > 500,
        "only {appended} batches of 2 kB on a disk of 4 MiB"
    );
    let all = read_all(&log, 0);
    assert_eq!(all.len(), appended, "reads go on");

    // Retention works on the full disk, and makes room.
    let half = log.log_end_offset().get() / 2;
    assert_eq!(
        log.delete_records_before(Offset::new(half)).unwrap(),
        Offset::new(half)
    );
    resume(&dir, &mut log);
    let kept = read_all(&log, half);
    assert_eq!(kept.last().map(|(_, value)| value.as_str()), Some("room"));
    assert!(kept[..kept.len() - 1] == all[usize::try_from(half).unwrap()..]);

    // Somebody else fills the disk to the last page: the reserve is there for what must be written all the same.
    let reserve = path.join("reserve");
    let other = path.join("other");
    let file = take_the_rest(disk.as_ref(), &other);
    fill(&mut log);
    assert!(disk.exists(&reserve).unwrap());
    log.delete_records_before(Offset::new(half + 1)).unwrap();
    assert!(
        !disk.exists(&reserve).unwrap(),
        "the reserve was not needed"
    );
    let refused = log
        .append(&batch(&["no"], 0), EPOCH, Timestamp::new(0))
        .unwrap_err();
    assert!(matches!(refused, AppendError::Full), "{refused}");
    log.flush().unwrap();
    assert!(dir.offline().is_none(), "{:?}", dir.offline());
    drop(file);
    disk.remove_file(&other).unwrap();
    resume(&dir, &mut log);
    assert!(disk.exists(&reserve).unwrap());
    let end = log.log_end_offset();
    log.close().unwrap();
    drop(log);
    dir.close().unwrap();
    let log = open_log(&open_small(disk, path), &config());
    assert_eq!(log.log_end_offset(), end);
}

/// Appends succeed again by themselves, once what is removed in the background is gone.
fn resume(dir: &Arc<LogDir>, log: &mut Log) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        dir.drive(false);
        let done = log.append(&batch(&["room"], 0), EPOCH, Timestamp::new(0));
        match done {
            Ok(_) => return,
            Err(AppendError::Full) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(
            std::time::Instant::now() < deadline,
            "appends do not resume"
        );
    }
}

#[test]
fn a_full_simulated_disk_refuses_keeps_reads_and_resumes() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(4 << 20));
    check_full_disk(&disk, Path::new("/data"));
}

/// A file system in memory, of 4 MiB, for those who may mount one.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(dir.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_real_disk_refuses_keeps_reads_and_resumes() {
    let Some(mounted) = Tmpfs::mount() else {
        println!("skipped: a small tmpfs could not be mounted (needs root); SimDisk stands for it");
        return;
    };
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    assert!(disk.reserves_blocks(mounted.0.path()).unwrap());
    check_full_disk(&disk, &mounted.0.path().join("data"));
}
