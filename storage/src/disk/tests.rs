//! What both disks must do alike, and what only a real file system can show.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Disk, OpenMode, OsDisk, SimDisk, SimFault, replace_file};
use crate::mmap::{MapError, SegmentMap};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Runs one claim against both disks, in an empty directory each.
fn check(claim: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    claim(&OsDisk::new(), dir.path());
    let sim = SimDisk::default();
    sim.create_dir_all(Path::new("/run")).unwrap();
    claim(&sim, Path::new("/run"));
}

fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("it must fail").kind()
}

fn names(disk: &dyn Disk, dir: &Path) -> Vec<(String, bool, u64)> {
    let list = disk.list(dir).unwrap();
    list.into_iter()
        .map(|entry| (entry.name, entry.is_dir, entry.len))
        .collect()
}

fn bytes(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn open_modes_do_what_they_say() {
    check(|disk, dir| {
        let path = dir.join("file");
        assert_eq!(kind(disk.open(&path, OpenMode::Read)), ErrorKind::NotFound);
        assert_eq!(kind(disk.open(&path, OpenMode::Write)), ErrorKind::NotFound);
        disk.open(&path, OpenMode::Create)
            .unwrap()
            .write_at(b"abc", 0)
            .unwrap();
        assert_eq!(
            kind(disk.open(&path, OpenMode::Create)),
            ErrorKind::AlreadyExists
        );
        assert_eq!(
            disk.open(&path, OpenMode::CreateOrOpen)
                .unwrap()
                .len()
                .unwrap(),
            3
        );
        assert_eq!(disk.open(&path, OpenMode::Write).unwrap().len().unwrap(), 3);
        let reader = disk.open(&path, OpenMode::Read).unwrap();
        reader.write_at(b"x", 0).unwrap_err();
        reader.set_len(0).unwrap_err();
        assert_eq!(bytes(disk, &path), b"abc");
        assert_eq!(
            kind(disk.open(&dir.join("no/file"), OpenMode::Create)),
            ErrorKind::NotFound
        );
        assert_eq!(
            kind(disk.open(&path.join("x"), OpenMode::Create)),
            ErrorKind::NotADirectory
        );
        assert_eq!(
            kind(disk.open(dir, OpenMode::Write)),
            ErrorKind::IsADirectory
        );
    });
}

#[test]
fn reads_and_writes_are_exact() {
    check(|disk, dir| {
        let file = disk.open(&dir.join("file"), OpenMode::Create).unwrap();
        file.write_at(b"world", 6).unwrap();
        file.write_at(b"hello", 0).unwrap();
        file.write_at(b"", 100).unwrap();
        assert_eq!(file.len().unwrap(), 11);
        let mut all = [0xFF; 11];
        file.read_at(&mut all, 0).unwrap();
        assert_eq!(&all, b"hello\0world");
        assert_eq!(
            kind(file.read_at(&mut [0; 2], 10)),
            ErrorKind::UnexpectedEof
        );
        file.read_at(&mut [], 11).unwrap();
        let big: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        file.write_at(&big, 4000).unwrap();
        let mut back = vec![0; big.len()];
        file.read_at(&mut back, 4000).unwrap();
        assert!(back == big);
        let mut gap = [0xFF; 100];
        file.read_at(&mut gap, 3000).unwrap();
        assert_eq!(gap, [0; 100]);
    });
}

#[test]
fn a_cut_file_forgets_what_was_beyond() {
    check(|disk, dir| {
        let file = disk.open(&dir.join("file"), OpenMode::Create).unwrap();
        file.write_at(&[7; 10_000], 0).unwrap();
        file.set_len(5_000).unwrap();
        file.set_len(9_000).unwrap();
        let mut back = vec![1; 9_000];
        file.read_at(&mut back, 0).unwrap();
        assert!(back[..5_000].iter().all(|&b| b == 7));
        assert!(back[5_000..].iter().all(|&b| b == 0));
    });
}

#[test]
fn allocate_moves_the_end_and_only_forward() {
    check(|disk, dir| {
        let file = disk.open(&dir.join("file"), OpenMode::Create).unwrap();
        file.write_at(b"abc", 0).unwrap();
        file.allocate(64 * KIB).unwrap();
        assert_eq!(file.len().unwrap(), 64 * KIB);
        file.allocate(KIB).unwrap();
        file.allocate(0).unwrap();
        assert_eq!(file.len().unwrap(), 64 * KIB);
        let mut back = [9; 5];
        file.read_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"abc\0\0");
        file.sync().unwrap();
    });
}

#[test]
fn directories_list_sorted_and_rename_replaces() {
    check(|disk, dir| {
        disk.create_dir_all(&dir.join("b/c")).unwrap();
        disk.create_dir_all(&dir.join("b/c")).unwrap();
        disk.open(&dir.join("z"), OpenMode::Create)
            .unwrap()
            .write_at(b"12", 0)
            .unwrap();
        disk.open(&dir.join("a"), OpenMode::Create)
            .unwrap()
            .write_at(b"1", 0)
            .unwrap();
        let file = |name: &str, len| (name.to_owned(), false, len);
        let b = ("b".to_owned(), true, 0);
        assert_eq!(names(disk, dir), [file("a", 1), b.clone(), file("z", 2)]);
        disk.rename(&dir.join("z"), &dir.join("a")).unwrap();
        assert_eq!(names(disk, dir), [file("a", 2), b]);
        disk.rename(&dir.join("b"), &dir.join("d")).unwrap();
        assert!(disk.exists(&dir.join("d/c")).unwrap());
        assert!(!disk.exists(&dir.join("b/c")).unwrap());
        assert!(!disk.exists(&dir.join("nowhere/at/all")).unwrap());
        disk.rename(&dir.join("a"), &dir.join("d/c/a")).unwrap();
        disk.sync_dir(dir).unwrap();
        assert_eq!(bytes(disk, &dir.join("d/c/a")), b"12");
        disk.remove_dir_all(&dir.join("d")).unwrap();
        assert_eq!(names(disk, dir), []);
    });
}

#[test]
fn errors_of_names_have_the_same_kinds() {
    check(|disk, dir| {
        let (file, sub) = (dir.join("file"), dir.join("sub"));
        disk.open(&file, OpenMode::Create).unwrap();
        disk.create_dir_all(&sub.join("deep")).unwrap();
        let absent = dir.join("absent");
        assert_eq!(kind(disk.list(&absent)), ErrorKind::NotFound);
        assert_eq!(kind(disk.list(&file)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.remove_file(&absent)), ErrorKind::NotFound);
        assert_eq!(kind(disk.remove_file(&sub)), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.remove_dir_all(&absent)), ErrorKind::NotFound);
        assert_eq!(kind(disk.remove_dir_all(&file)), ErrorKind::NotADirectory);
        assert_eq!(kind(disk.rename(&absent, &file)), ErrorKind::NotFound);
        assert_eq!(kind(disk.rename(&file, &sub)), ErrorKind::IsADirectory);
        assert_eq!(kind(disk.rename(&sub, &file)), ErrorKind::NotADirectory);
        assert_eq!(
            kind(disk.rename(&sub, &sub.join("deep/in"))),
            ErrorKind::InvalidInput
        );
        disk.create_dir_all(&dir.join("other")).unwrap();
        assert_eq!(
            kind(disk.rename(&dir.join("other"), &sub)),
            ErrorKind::DirectoryNotEmpty
        );
        assert_eq!(kind(disk.create_dir_all(&file)), ErrorKind::AlreadyExists);
        assert_eq!(
            kind(disk.create_dir_all(&file.join("x"))),
            ErrorKind::NotADirectory
        );
        assert_eq!(kind(disk.sync_dir(&absent)), ErrorKind::NotFound);
        assert_eq!(kind(disk.space(&absent)), ErrorKind::NotFound);
        assert_eq!(kind(disk.lock_dir(&absent)), ErrorKind::NotFound);
        let text = disk.open(&absent, OpenMode::Read).unwrap_err().to_string();
        assert!(text.contains("absent"), "{text} names no path");
    });
}

#[test]
fn a_removed_file_stays_good_for_those_who_have_it() {
    check(|disk, dir| {
        let path = dir.join("file");
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.allocate(8 * KIB).unwrap();
        let mapping = file.map(16 * 1024).unwrap();
        let (mut writer, map) = SegmentMap::new(mapping, 0, 8 * KIB).unwrap();
        writer.write(0, b"before").unwrap();
        writer.publish(6).unwrap();
        let held = map.slice(0, 6).unwrap();
        disk.remove_file(&path).unwrap();
        disk.sync_dir(dir).unwrap();
        writer.write(6, b"after").unwrap();
        writer.publish(11).unwrap();
        file.sync().unwrap();
        drop((file, writer));
        assert_eq!(&map.slice(0, 11).unwrap()[..], b"beforeafter");
        drop(map);
        assert_eq!(&held[..], b"before");
        disk.open(&path, OpenMode::Create)
            .unwrap()
            .write_at(b"new file", 0)
            .unwrap();
        assert_eq!(&held[..], b"before");
    });
}

#[test]
fn mapping_and_handle_are_the_same_bytes() {
    check(|disk, dir| {
        let path = dir.join("file");
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        file.allocate(64 * KIB).unwrap();
        let (mut writer, map) = SegmentMap::new(file.map(1 << 20).unwrap(), 10, 64 * KIB).unwrap();
        assert_eq!(&map.slice(2, 5).unwrap()[..], b"234");
        writer.write_vectored(10, &[b"ab", b"", b"cd"]).unwrap();
        let mut back = [0; 14];
        file.read_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"0123456789abcd");
        assert!(map.slice(0, 14).is_none(), "not published yet");
        file.write_at(b"EF", 14).unwrap();
        writer.publish(16).unwrap();
        assert_eq!(&map.slice(10, 16).unwrap()[..], b"abcdEF");
        assert!(map.slice(11, 17).is_none());
        writer.zero(20, 30).unwrap();
        map.prefault(16, 64 * KIB).unwrap();
        map.populate_read(0, 16).unwrap();
        // A second opening sees it too, by handle and by map.
        let again = disk.open(&path, OpenMode::Read).unwrap();
        let sealed = SegmentMap::sealed(again.map(16).unwrap(), 16).unwrap();
        assert_eq!(&sealed.slice(0, 16).unwrap()[..], b"0123456789abcdEF");
        assert!(matches!(
            SegmentMap::new(again.map(16).unwrap(), 16, 16),
            Err(MapError::ReadOnly)
        ));
    });
}

#[test]
fn a_file_can_be_shortened_to_what_is_published_under_a_reader() {
    check(|disk, dir| {
        let file = disk.open(&dir.join("file"), OpenMode::Create).unwrap();
        file.allocate(64 * KIB).unwrap();
        let (mut writer, map) = SegmentMap::new(file.map(1 << 20).unwrap(), 0, 64 * KIB).unwrap();
        writer.write(0, &[5; 5000]).unwrap();
        writer.publish(5000).unwrap();
        let held = map.slice(0, 5000).unwrap();
        file.set_len(5000).unwrap();
        file.sync().unwrap();
        assert!(held.iter().all(|&byte| byte == 5));
        assert_eq!(file.len().unwrap(), 5000);
    });
}

#[test]
fn a_directory_has_one_owner() {
    check(|disk, dir| {
        let held = disk.lock_dir(dir).unwrap();
        let error = disk.lock_dir(dir).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let pid = std::process::id().to_string();
        assert!(error.to_string().contains(&pid), "{error}");
        assert_eq!(
            bytes(disk, &dir.join(".lock")),
            format!("{pid}\n").as_bytes()
        );
        drop(held);
        drop(disk.lock_dir(dir).unwrap());
    });
}

#[test]
fn replace_file_leaves_one_whole_file() {
    check(|disk, dir| {
        let path = dir.join("state");
        replace_file(disk, &path, b"one").unwrap();
        disk.open(&dir.join("state.tmp"), OpenMode::Create).unwrap();
        replace_file(disk, &path, b"second").unwrap();
        assert_eq!(bytes(disk, &path), b"second");
        assert_eq!(names(disk, dir).len(), 1);
    });
}

#[test]
fn a_replacement_that_fails_leaves_the_old_file_and_no_other() {
    let disk = SimDisk::default();
    let path = Path::new("/state");
    replace_file(&disk, path, b"old").unwrap();
    let (count, used) = (disk.operations(), disk.used_bytes());
    replace_file(&disk, path, b"old").unwrap();
    let count = disk.operations() - count;
    for k in 1..count {
        disk.inject(SimFault::new(ErrorKind::StorageFull).at(k));
        assert_eq!(
            kind(replace_file(&disk, path, &[1; 9000])),
            ErrorKind::StorageFull
        );
        assert_eq!(bytes(&disk, path), b"old", "operation {k}");
        assert_eq!(
            (names(&disk, Path::new("/")).len(), disk.used_bytes()),
            (1, used)
        );
    }
    disk.inject(SimFault::new(ErrorKind::StorageFull).at(count));
    replace_file(&disk, path, b"new").unwrap_err();
    assert_eq!(
        bytes(&disk, path),
        b"new",
        "only the sync of the directory failed"
    );
}

#[test]
fn the_parent_of_a_relative_name_can_be_synced() {
    OsDisk::new()
        .sync_dir(Path::new("name").parent().unwrap())
        .unwrap();
    SimDisk::default()
        .sync_dir(Path::new("name").parent().unwrap())
        .unwrap();
}

#[test]
fn space_and_boot_are_told() {
    check(|disk, dir| {
        let space = disk.space(dir).unwrap();
        assert!(space.free_bytes <= space.total_bytes && space.total_bytes > 0);
        assert_eq!(disk.boot_id().unwrap(), disk.boot_id().unwrap());
        assert!(!disk.boot_id().unwrap().is_empty());
        disk.reserves_blocks(dir).unwrap();
        assert_eq!(names(disk, dir), [], "the trial leaves nothing behind");
    });
}

#[test]
fn another_process_is_named_in_the_lock_error() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join(".lock");
    // `flock` from util-linux holds the lock while its command runs.
    let child = Command::new("flock")
        .arg(&lock)
        .args(["sh", "-c", "echo 4194000 > \"$0\"; echo held; read line"])
        .arg(&lock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: no `flock` program");
        return;
    };
    let mut held = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut held).unwrap();
    let error = OsDisk::new().lock_dir(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert!(error.to_string().contains("pid 4194000"), "{error}");
    drop(child.stdin.take());
    child.wait().unwrap();
    drop(OsDisk::new().lock_dir(dir.path()).unwrap());
}

/// A small file system of its own, if this process may mount one.
struct Mounted {
    dir: tempfile::TempDir,
    at: PathBuf,
}

impl Mounted {
    fn new(name: &str, prepare: impl Fn(&Path) -> Vec<Vec<String>>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("mounted");
        fs::create_dir(&at).unwrap();
        for command in prepare(dir.path()) {
            let done = Command::new(&command[0]).args(&command[1..]).output();
            if !done.is_ok_and(|output| output.status.success()) {
                println!(
                    "skipped on {name}: `{}` does not work here",
                    command.join(" ")
                );
                return None;
            }
        }
        Some(Self { dir, at })
    }

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn tmpfs(bytes: u64) -> Option<Self> {
        Self::new("tmpfs", |dir| {
            vec![Self::words(&format!(
                "mount -t tmpfs -o size={bytes} none {}",
                dir.join("mounted").display()
            ))]
        })
    }

    fn ext4(bytes: u64) -> Option<Self> {
        Self::new("ext4", |dir| {
            let image = dir.join("image");
            fs::File::create(&image).unwrap().set_len(bytes).unwrap();
            let (image, at) = (image.display().to_string(), dir.join("mounted"));
            vec![
                Self::words(&format!("mkfs.ext4 -q -F {image}")),
                Self::words(&format!("mount -o loop {image} {}", at.display())),
            ]
        })
    }

    fn overlay() -> Option<Self> {
        Self::new("overlay", |dir| {
            let all = dir.display();
            for name in ["low", "up"] {
                fs::create_dir(dir.join(name)).unwrap();
            }
            vec![
                // An overlay cannot lie on another one, and containers run on one.
                Self::words(&format!("mount -t tmpfs none {all}/up")),
                Self::words(&format!("mkdir {all}/up/files {all}/up/work")),
                Self::words(&format!(
                    "mount -t overlay none -o lowerdir={all}/low,upperdir={all}/up/files,workdir={all}/up/work {all}/mounted"
                )),
            ]
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in [&self.at, &self.dir.path().join("up")] {
            let _ = Command::new("umount").arg("-q").arg(at).output();
        }
    }
}

/// Fills a file system through a segment map, as the log does, and takes it back.
fn check_full_disk(mounted: &Mounted, expected_reserve: bool) {
    let disk = OsDisk::new();
    let dir = mounted.at.as_path();
    assert_eq!(disk.reserves_blocks(dir).unwrap(), expected_reserve);
    let file = disk.open(&dir.join("segment"), OpenMode::Create).unwrap();
    let (mut writer, map) = SegmentMap::new(file.map(64 << 20).unwrap(), 0, 0).unwrap();
    let mut step = 64 * KIB;
    let full = loop {
        let wanted = writer.allocated() + step;
        if let Err(error) = file.allocate(wanted) {
            break error;
        }
        writer.set_allocated(wanted).unwrap();
        step = (step * 2).min(MIB);
    };
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(
        file.len().unwrap(),
        writer.allocated(),
        "a failed step is undone"
    );
    // Someone else takes the rest, to the last block.
    fill(&disk, &dir.join("other"));
    assert!(writer.allocated() > 0);
    let chunk = [0xA5; 4096];
    let mut position = 0;
    while position < writer.allocated() {
        writer.write(position, &chunk).unwrap();
        position += 4096;
    }
    writer.publish(position).unwrap();
    file.sync().unwrap();
    assert!(matches!(
        writer.write(position, &chunk),
        Err(MapError::NotAllocated { .. })
    ));
    assert_eq!(kind(file.allocate(position + MIB)), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), position);
    assert_eq!(
        kind(file.write_at(&[1; 65_536], position)),
        ErrorKind::StorageFull
    );
    assert!(
        map.slice(0, position)
            .unwrap()
            .iter()
            .all(|&byte| byte == 0xA5)
    );
    disk.remove_file(&dir.join("other")).unwrap();
    file.allocate(position + 64 * KIB).unwrap();
    writer.set_allocated(position + 64 * KIB).unwrap();
    writer.write(position, &chunk).unwrap();
    writer.publish(position + 4096).unwrap();
    file.sync().unwrap();
    assert_eq!(map.slice(position, position + 4096).unwrap()[..], chunk);
}

fn fill(disk: &dyn Disk, path: &Path) {
    let file = disk.open(path, OpenMode::Create).unwrap();
    let (mut position, mut size) = (0, 65_536);
    while size >= 512 {
        match file.write_at(&vec![7; size], position) {
            Ok(()) => position += size as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::StorageFull);
                // What fitted stays written.
                position = file.len().unwrap();
                size /= 2;
            }
        }
    }
}

#[test]
fn a_full_tmpfs_is_an_error_and_not_a_signal() {
    if let Some(mounted) = Mounted::tmpfs(6 * MIB) {
        check_full_disk(&mounted, true);
    }
}

#[test]
fn a_full_ext4_is_an_error_and_not_a_signal() {
    if let Some(mounted) = Mounted::ext4(16 * MIB) {
        check_full_disk(&mounted, true);
    }
}

#[test]
fn a_full_disk_at_start_does_not_change_how_it_is_written() {
    let Some(mounted) = Mounted::ext4(8 * MIB) else {
        return;
    };
    fill(&OsDisk::new(), &mounted.at.join("other"));
    assert!(OsDisk::new().reserves_blocks(&mounted.at).unwrap());
}

#[test]
fn an_overlay_promises_nothing() {
    if let Some(mounted) = Mounted::overlay() {
        assert!(!OsDisk::new().reserves_blocks(&mounted.at).unwrap());
        // Handle and map must still agree there, because readers always use the map.
        let file = OsDisk::new()
            .open(&mounted.at.join("file"), OpenMode::Create)
            .unwrap();
        file.write_at(b"abc", 0).unwrap();
        let (mut writer, map) = SegmentMap::new(file.map(1 << 20).unwrap(), 3, MIB).unwrap();
        file.write_at(b"def", 3).unwrap();
        writer.publish(6).unwrap();
        assert_eq!(&map.slice(0, 6).unwrap()[..], b"abcdef");
    }
}

/// A file copied by a tool that skips zeroes has holes; storing into one on a full disk would be a
/// signal.
#[test]
fn allocate_fills_holes_below_the_length() {
    let Some(mounted) = Mounted::ext4(16 * MIB) else {
        return;
    };
    let disk = OsDisk::new();
    let file = disk
        .open(&mounted.at.join("sparse"), OpenMode::Create)
        .unwrap();
    file.set_len(4 * MIB).unwrap();
    file.allocate(4 * MIB).unwrap();
    fill(&disk, &mounted.at.join("other"));
    let (mut writer, _map) = SegmentMap::new(file.map(4 << 20).unwrap(), 0, 4 * MIB).unwrap();
    writer.write(0, &vec![1; 4 << 20]).unwrap();
    file.sync().unwrap();
}

#[test]
fn two_parts_are_written_as_one_write_would() {
    check(|disk, dir| {
        let path = dir.join("file");
        let file = disk.open(&path, OpenMode::Create).unwrap();
        file.write_at(b"0123456789", 0).unwrap();
        file.write_vectored_at([b"ab", b"cde"], 3).unwrap();
        file.write_vectored_at([b"", b"xyz"], 9).unwrap();
        file.write_vectored_at([b"!", b""], 12).unwrap();
        assert_eq!(bytes(disk, &path), b"012abcde8xyz!");
        let file = disk.open(&path, OpenMode::Read).unwrap();
        assert!(file.write_vectored_at([b"a", b"b"], 0).is_err());
    });
    let sim = SimDisk::new(4096);
    let file = sim.open(Path::new("/file"), OpenMode::Create).unwrap();
    let error = file.write_vectored_at([&[1; 4000], &[2; 200]], 0);
    assert_eq!(kind(error), ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 4096, "what fits is written");
}

#[test]
fn only_an_empty_directory_is_removed_alone() {
    check(|disk, dir| {
        let (full, empty) = (dir.join("full"), dir.join("empty"));
        disk.create_dir_all(&full.join("inner")).unwrap();
        disk.create_dir_all(&empty).unwrap();
        assert_eq!(kind(disk.remove_dir(&full)), ErrorKind::DirectoryNotEmpty);
        disk.remove_dir(&empty).unwrap();
        assert_eq!(kind(disk.remove_dir(&empty)), ErrorKind::NotFound);
        assert_eq!(names(disk, dir), [("full".to_owned(), true, 0)]);
    });
}
