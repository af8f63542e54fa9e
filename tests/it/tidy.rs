//! What must hold of the source itself: which way dependencies point, how long files may be, where
//! unsafe code may stand, what is not committed.
//!
//! Each rule is a function from files to complaints. Each test first shows that the rule complains
//! about a small wrong tree, because a check that cannot fail is worth nothing, and then that it has
//! nothing to say about this one.

mod layers;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, in lines.
const MAX_LINES: usize = 1_500;
/// The one file where `unsafe` may stand.
const UNSAFE_HOME: &str = "storage/src/mmap.rs";
/// How the root of a crate opens whose front page is its README.
const FRONT_PAGE: &str = "#![doc = include_str!(\"../README.md\")]";
/// Names that say nothing about what a file is.
const NOT_NOUNS: &[&str] = &[
    "utils", "util", "common", "misc", "manager", "helpers", "helper",
];
/// Largest committed text file, in bytes; lock files are as long as they are.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// A text file of the repository.
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

type Rule = fn(&[File]) -> Vec<String>;

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The file's code without comments and literals.
    fn code(&self) -> String {
        source::code_of(&self.text)
    }
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the root")
        .to_owned()
}

/// Every text file of the repository, build outputs left out.
fn repository() -> Vec<File> {
    let mut files = Vec::new();
    read_folder(&root(), "", &mut files);
    assert!(
        files.len() > 30,
        "only {} files found below {}",
        files.len(),
        root().display()
    );
    files
}

fn read_folder(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry
            .file_name()
            .into_string()
            .expect("file names are UTF-8");
        let path = format!("{prefix}{name}");
        // What .gitignore lists, and Git itself (a file where this is a worktree).
        if [".git", "target", "__pycache__", "logweir-data"].contains(&name.as_str())
            || ["fuzz/corpus", "fuzz/artifacts"].contains(&path.as_str())
        {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            read_folder(&entry.path(), &format!("{path}/"), files);
        } else if kind.is_file()
            && entry.metadata().unwrap().len() <= MAX_TEXT_BYTES
            && let Ok(text) = fs::read_to_string(entry.path())
        {
            files.push(File { path, text });
        }
    }
}

/// Asserts that `rule` complains about each wrong tree, with words that contain the expected ones,
/// and not about this repository.
fn check(rule: Rule, wrong: &[(&[(&str, &str)], &str)]) {
    for (sample, expected) in wrong {
        let files: Vec<File> = sample
            .iter()
            .map(|(path, text)| File {
                path: (*path).into(),
                text: (*text).into(),
            })
            .collect();
        let complaints = rule(&files);
        assert!(
            complaints.iter().any(|c| c.contains(expected)),
            "the rule does not see what is wrong with {sample:?}: {complaints:?}"
        );
    }
    let complaints = rule(&repository());
    assert!(
        complaints.is_empty(),
        "{} complaints:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[test]
fn no_file_is_longer_than_the_limit() {
    fn rule(files: &[File]) -> Vec<String> {
        let too_long = |f: &&File| f.is_rust() && f.text.lines().count() > MAX_LINES;
        files
            .iter()
            .filter(too_long)
            .map(|f| format!("{}: over {MAX_LINES} lines", f.path))
            .collect()
    }
    let long = "//\n".repeat(MAX_LINES + 1);
    check(
        rule,
        &[(&[("a/src/log.rs", &long)], "a/src/log.rs: over 1500 lines")],
    );
}

#[test]
fn every_rust_file_opens_with_what_it_owns() {
    fn rule(files: &[File]) -> Vec<String> {
        // A crate's front page is its README.
        let opens = |text: &str| text.starts_with("//! ") || text.starts_with(FRONT_PAGE);
        let without = |f: &&File| f.is_rust() && !opens(&f.text);
        let missing = files.iter().filter(without);
        missing
            .map(|f| format!("{}: does not open with a //! header", f.path))
            .collect()
    }
    check(
        rule,
        &[
            (
                &[("a/src/log.rs", "use std::fs;\n//! late")],
                "a/src/log.rs",
            ),
            (
                &[("a/src/log.rs", "// not documentation\n")],
                "a/src/log.rs",
            ),
            (&[("a/build.rs", "//!\n")], "a/build.rs"),
        ],
    );
}

#[test]
fn unsafe_code_stands_in_one_file() {
    fn rule(files: &[File]) -> Vec<String> {
        let mut complaints = Vec::new();
        for file in files
            .iter()
            .filter(|f| f.is_rust() && f.path != UNSAFE_HOME)
        {
            for (line, word) in source::words(&file.code()) {
                if word == "unsafe" || word == "unsafe_code" {
                    complaints.push(format!(
                        "{}:{line}: `{word}` outside {UNSAFE_HOME}",
                        file.path
                    ));
                }
            }
        }
        complaints
    }
    check(
        rule,
        &[
            (
                &[("storage/src/log.rs", "//! x\nfn f() { unsafe { g() } }")],
                "log.rs:2: `unsafe`",
            ),
            (
                &[("storage/src/a.rs", "#![allow(unsafe_code)]")],
                "a.rs:1: `unsafe_code`",
            ),
        ],
    );
}

#[test]
fn modules_with_children_are_files_named_after_them() {
    fn rule(files: &[File]) -> Vec<String> {
        let module_file = |f: &&File| f.path.ends_with("/mod.rs");
        files
            .iter()
            .filter(module_file)
            .map(|f| format!("{}: say foo.rs + foo/", f.path))
            .collect()
    }
    check(
        rule,
        &[(&[("broker/src/grpc/mod.rs", "//! x")], "grpc/mod.rs")],
    );
}

#[test]
fn files_and_folders_are_named_by_a_noun() {
    fn rule(files: &[File]) -> Vec<String> {
        let mut complaints = Vec::new();
        for file in files.iter().filter(|f| f.is_rust()) {
            let stem = file.path.trim_end_matches(".rs");
            if let Some(name) = stem.split('/').find(|part| NOT_NOUNS.contains(part)) {
                complaints.push(format!("{}: `{name}` names nothing", file.path));
            }
        }
        complaints
    }
    check(
        rule,
        &[
            (&[("broker/src/utils.rs", "//! x")], "`utils` names nothing"),
            (
                &[("broker/src/common/log.rs", "//! x")],
                "`common` names nothing",
            ),
        ],
    );
}

#[test]
fn every_package_is_a_member_and_every_member_a_package() {
    fn rule(files: &[File]) -> Vec<String> {
        let listed = |key: &str| -> Vec<String> {
            let root = files.iter().find(|f| f.path == "Cargo.toml");
            let manifest: toml::Table = root.map_or("", |f| &f.text).parse().unwrap();
            let names = manifest
                .get("workspace")
                .and_then(|w| w.get(key)?.as_array().cloned());
            names
                .unwrap_or_default()
                .iter()
                .filter_map(|n| n.as_str().map(String::from))
                .collect()
        };
        let (members, excluded) = (listed("members"), listed("exclude"));
        let packages: Vec<&str> = files
            .iter()
            .filter_map(|f| f.path.strip_suffix("/Cargo.toml"))
            .collect();
        let mut complaints = Vec::new();
        for package in &packages {
            let (member, out) = (
                members.iter().any(|m| m == package),
                excluded
                    .iter()
                    .any(|x| x == package || package.starts_with(&format!("{x}/"))),
            );
            if !member && !out {
                complaints.push(format!("{package}: not a member of the workspace"));
            }
        }
        let lost = members.iter().filter(|m| !packages.contains(&m.as_str()));
        complaints.extend(lost.map(|m| format!("{m}: a member without Cargo.toml")));
        complaints
    }
    let workspace = (
        "Cargo.toml",
        "[workspace]\nmembers = [\"a\"]\nexclude = [\"fuzz\"]",
    );
    check(
        rule,
        &[
            (
                &[workspace, ("a/Cargo.toml", ""), ("b/Cargo.toml", "")],
                "b: not a member",
            ),
            (&[workspace, ("fuzz/Cargo.toml", "")], "a: a member without"),
        ],
    );
}

#[test]
fn generated_code_is_not_committed() {
    fn rule(files: &[File]) -> Vec<String> {
        // Put together here, so that this file does not hold the marks itself.
        let marks = [concat!("@gen", "erated"), concat!("DO NOT ", "EDIT")];
        let names = [
            "_pb2.py",
            "_pb2_grpc.py",
            "_pb2.pyi",
            "logweir.v1.rs",
            ".pb.go",
            "_pb.js",
        ];
        let is_generated = |f: &File| {
            let head: String = f.text.lines().take(10).collect();
            let source = f.is_rust() || f.path.ends_with(".py");
            names.iter().any(|n| f.path.ends_with(n))
                || (source && marks.iter().any(|m| head.contains(m)))
        };
        let found = files.iter().filter(|f| is_generated(f));
        found
            .map(|f| format!("{}: generated code", f.path))
            .collect()
    }
    let marked = concat!("//! This file is @gen", "erated by prost-build.\n");
    check(
        rule,
        &[
            (
                &[("proto/src/grpc/messages.rs", marked)],
                "messages.rs: generated",
            ),
            (
                &[("examples/python/logweir/v1/produce_pb2.py", "")],
                "produce_pb2.py: generated",
            ),
        ],
    );
}

#[test]
fn committed_text_names_no_machine_and_no_workplace() {
    fn rule(files: &[File]) -> Vec<String> {
        // Put together here, so that this file does not hold them itself. Compared in lower case.
        let words = [
            concat!("/wor", "k/"),
            concat!("/tmp/", "lw"),
            concat!("/ro", "ot/"),
            concat!("/ho", "me/"),
            concat!("../sha", "red"),
            concat!("anthr", "opic"),
            concat!("clau", "de"),
            concat!("chat", "gpt"),
            concat!("co-auth", "ored-by"),
            concat!("sub", "agent"),
            concat!("ai assis", "tant"),
            concat!("language mo", "del"),
            concat!("interfaces", ".md"),
        ];
        let mut complaints = Vec::new();
        for file in files.iter().filter(|f| f.path != "Cargo.lock") {
            for (i, line) in file.text.lines().enumerate() {
                let line = line.to_lowercase();
                for word in words.iter().filter(|w| stands_alone(&line, w)) {
                    complaints.push(format!("{}:{}: `{word}`", file.path, i + 1));
                }
            }
        }
        complaints
    }
    let place = concat!("cd /wor", "k/main && cargo test");
    let note = concat!("Written by an AI assis", "tant");
    check(
        rule,
        &[
            (&[("README.md", place)], "README.md:1"),
            (&[("storage/src/log.rs", note)], "storage/src/log.rs:1"),
        ],
    );
}

/// Whether `word` occurs in `line` not as the tail of a longer word: `network/x` is no path.
fn stands_alone(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(|c| source::is_word(c) || c == '-' || c == '}')
    })
}

#[test]
fn documents_that_are_named_exist() {
    /// Names of Markdown files in text: `storage/FORMAT.md`.
    fn named(line: &str) -> impl Iterator<Item = &str> {
        let outside = |c: char| !(source::is_word(c) || "./-".contains(c));
        line.split(outside)
            .map(|w| w.trim_end_matches('.'))
            .filter(|w| w.ends_with(".md"))
    }
    fn rule(files: &[File]) -> Vec<String> {
        let mut complaints = Vec::new();
        for file in files.iter().filter(|f| f.path != "tests/it/tidy.rs") {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            for (i, line) in file
                .text
                .lines()
                .enumerate()
                .filter(|(_, l)| !l.contains("://"))
            {
                for name in named(line).filter(|n| *n != ".md") {
                    let short = name.trim_start_matches("../").trim_start_matches("./");
                    let here = format!("{folder}/{short}");
                    let known = |f: &File| f.path == short || f.path == here;
                    let by_crate = |f: &File| f.path.ends_with(&format!("/{short}"));
                    if !files.iter().any(|f| known(f) || by_crate(f)) {
                        let place = format!("{}:{}", file.path, i + 1);
                        complaints.push(format!("{place}: {name} is not in the repository"));
                    }
                }
            }
        }
        complaints
    }
    check(
        rule,
        &[(
            &[("storage/src/log.rs", "//! See `PLAN.md`.")],
            "log.rs:1: PLAN.md",
        )],
    );
}

#[test]
fn the_contract_is_documented_field_by_field() {
    fn rule(files: &[File]) -> Vec<String> {
        let mut complaints = Vec::new();
        for file in files.iter().filter(|f| f.path.ends_with(".proto")) {
            let mut before = "";
            for (i, line) in file.text.lines().map(str::trim).enumerate() {
                let declares = ["message ", "service ", "enum ", "rpc ", "oneof "]
                    .iter()
                    .any(|word| line.starts_with(word))
                    || (line.ends_with(';') && line.contains(" = "));
                let exempt = line.starts_with("//") || line.starts_with("syntax");
                if declares && !exempt && !before.starts_with("//") {
                    complaints.push(format!("{}:{}: not documented: {line}", file.path, i + 1));
                }
                before = line;
            }
        }
        complaints
    }
    let bare =
        "// A record.\nmessage Record {\n  // The key.\n  bytes key = 1;\n  bytes value = 2;\n}";
    check(
        rule,
        &[(
            &[("proto/logweir/v1/a.proto", bare)],
            "a.proto:5: not documented: bytes value",
        )],
    );
}

#[test]
fn no_test_is_switched_off_without_saying_why() {
    fn rule(files: &[File]) -> Vec<String> {
        let mut complaints = Vec::new();
        for file in files.iter().filter(|f| f.is_rust()) {
            for (i, line) in file.code().lines().enumerate() {
                let line = line.trim_start();
                if line.starts_with("#[ignore]") || line.contains("should_panic]") {
                    complaints.push(format!("{}:{}: {line}", file.path, i + 1));
                }
            }
        }
        complaints
    }
    check(
        rule,
        &[
            (
                &[("a/src/log.rs", "#[test]\n#[ignore]\nfn f() {}")],
                "log.rs:2: #[ignore]",
            ),
            (
                &[("a/src/log.rs", "#[test]\n#[should_panic]\nfn f() {}")],
                "should_panic",
            ),
        ],
    );
}

#[test]
fn dependencies_point_one_way() {
    check(
        layers::manifests,
        &[
            (
                &[(
                    "storage/Cargo.toml",
                    "[dependencies]\nlogweir-client = \"1\"",
                )],
                "storage may not depend on logweir-client",
            ),
            (
                &[(
                    "client/Cargo.toml",
                    "[target.'cfg(unix)'.dependencies.logweir-storage]\npath = \"x\"",
                )],
                "client may not depend on logweir-storage",
            ),
            (
                &[("storage/Cargo.toml", "[dependencies]\ntokio = \"1\"")],
                "storage may not depend on tokio",
            ),
            (
                &[(
                    "storage/Cargo.toml",
                    "[dependencies]\nlogweir-proto = { features = [\"grpc\"] }",
                )],
                "storage uses logweir-proto without features",
            ),
            (
                &[(
                    "broker/Cargo.toml",
                    "[dependencies]\nlogweir-client = \"1\"",
                )],
                "logweir-client must be optional",
            ),
            (
                &[(
                    "proto/Cargo.toml",
                    "[dev-dependencies]\nlogweir-storage = \"1\"",
                )],
                "proto may not depend on logweir-storage",
            ),
            (
                &[("proto/Cargo.toml", "[dependencies]\ntonic = \"1\"")],
                "proto needs tonic only behind a feature",
            ),
        ],
    );
}

#[test]
fn modules_keep_to_their_layer() {
    let uses = |path: &'static str, text: &'static str| [(path, text)];
    check(
        layers::uses,
        &[
            (
                &uses("broker/src/grpc/fetch.rs", "use crate::partition::Reader;"),
                "crate::partition",
            ),
            (
                &uses("broker/src/http.rs", "use crate::{service, grpc::server};"),
                "crate::grpc",
            ),
            (
                &uses("broker/src/kafka/a.rs", "use logweir_storage::Log;"),
                "logweir_storage",
            ),
            (
                &uses("broker/src/grpc.rs", "fn f() { super::metadata::x() }"),
                "crate::metadata",
            ),
            (
                &uses("broker/src/service/produce.rs", "use crate::grpc::Code;"),
                "crate::grpc",
            ),
            (
                &uses("broker/src/partition/set.rs", "use crate::service::Fetch;"),
                "crate::service",
            ),
            (
                &uses("broker/src/metadata.rs", "use crate::partition::Set;"),
                "crate::partition",
            ),
            (
                &uses("broker/src/service.rs", "use logweir_client::Client;"),
                "logweir_client",
            ),
            (
                &uses("storage/src/log.rs", "use logweir_proto::grpc::Record;"),
                "logweir_proto::grpc",
            ),
            (
                &uses("storage/src/log.rs", "fn f() { std::net::TcpStream::x() }"),
                "std::net",
            ),
            (
                &uses("client/src/a.rs", "use logweir_storage::Log;"),
                "logweir_storage",
            ),
            (
                &uses("proto/src/record.rs", "use std::{fs::File, io};"),
                "std::fs",
            ),
        ],
    );
}
