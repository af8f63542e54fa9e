//! Which way dependencies point: between packages, read from manifests, and inside the broker, read
//! from the paths that its files name.
//!
//! ```text
//! proto  <-  storage  <-  broker              in broker:  kafka/  grpc/  http/
//! proto  <-  client   <-  broker's features                   service/
//!                                             partition/  coordinator/  metadata/
//!                                                             storage
//! ```

use super::File;
use super::source::{NamedPath, paths};

/// What a package may depend on among ours.
const OURS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("storage", &["logweir-proto"]),
    ("client", &["logweir-proto"]),
    (
        "broker",
        &["logweir-proto", "logweir-storage", "logweir-client"],
    ),
];

/// What the synchronous packages may not depend on: runtimes, sockets, request types.
const NETWORK: &[&str] = &[
    "async-trait",
    "axum",
    "futures",
    "hyper",
    "mio",
    "openraft",
    "prost",
    "reqwest",
    "socket2",
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tonic",
    "tower",
];

/// Complaints about the manifests of proto, storage, client and broker.
pub(super) fn manifests(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (package, allowed) in OURS {
        let path = format!("{package}/Cargo.toml");
        let Some(file) = files.iter().find(|f| f.path == path) else {
            continue;
        };
        for (name, spec) in dependencies(&file.text.parse().expect("a manifest is TOML")) {
            let optional = spec.get("optional").and_then(toml::Value::as_bool) == Some(true);
            let features = spec.get("features").and_then(toml::Value::as_array);
            let mut complain = |what: String| complaints.push(format!("{path}: {what}"));
            if name.starts_with("logweir") && !allowed.contains(&name.as_str()) {
                complain(format!("{package} may not depend on {name}"));
            }
            match *package {
                "storage" if NETWORK.contains(&name.as_str()) => {
                    complain(format!("storage may not depend on {name}"));
                }
                "storage" if name == "logweir-proto" && features.is_some_and(|f| !f.is_empty()) => {
                    complain("storage uses logweir-proto without features".to_owned());
                }
                "proto" if NETWORK.contains(&name.as_str()) && !optional => {
                    complain(format!("proto needs {name} only behind a feature"));
                }
                "broker" if name == "logweir-client" && !optional => {
                    complain("logweir-client must be optional".to_owned());
                }
                _ => {}
            }
        }
    }
    complaints
}

/// The dependencies of a manifest: normal, build, dev, and those of targets.
fn dependencies(manifest: &toml::Table) -> Vec<(String, toml::Value)> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut found = Vec::new();
    for table in tables {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            if let Some(entries) = table.get(kind).and_then(toml::Value::as_table) {
                found.extend(
                    entries
                        .iter()
                        .map(|(name, spec)| (name.clone(), spec.clone())),
                );
            }
        }
    }
    found
}

/// A rule: files below `here` may not name a path that begins with one of `never`.
struct Layer {
    here: &'static [&'static str],
    never: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        here: &["proto/src/"],
        never: &[
            "std::fs",
            "std::net",
            "std::thread",
            "tokio",
            "logweir_storage",
            "logweir",
        ],
    },
    Layer {
        here: &["storage/src/"],
        never: &[
            "std::net",
            "tokio",
            "logweir_proto::grpc",
            "logweir_client",
            "logweir",
        ],
    },
    Layer {
        here: &["client/src/"],
        never: &["logweir_storage", "logweir"],
    },
    // Listeners translate and nothing more.
    Layer {
        here: &["broker/src/kafka", "broker/src/grpc", "broker/src/http"],
        never: &[
            "crate::partition",
            "crate::coordinator",
            "crate::metadata",
            "logweir_storage",
        ],
    },
    Layer {
        here: &["broker/src/kafka"],
        never: &["crate::grpc", "crate::http", "logweir_proto::grpc"],
    },
    Layer {
        here: &["broker/src/grpc"],
        never: &["crate::kafka", "crate::http"],
    },
    Layer {
        here: &["broker/src/http"],
        never: &["crate::kafka", "crate::grpc", "logweir_proto::grpc"],
    },
    // Nothing points up.
    Layer {
        here: &[
            "broker/src/service",
            "broker/src/partition",
            "broker/src/coordinator",
            "broker/src/metadata",
        ],
        never: &[
            "crate::kafka",
            "crate::grpc",
            "crate::http",
            "crate::cli",
            "crate::broker",
        ],
    },
    Layer {
        here: &[
            "broker/src/partition",
            "broker/src/coordinator",
            "broker/src/metadata",
        ],
        never: &["crate::service"],
    },
    Layer {
        here: &["broker/src/partition", "broker/src/metadata"],
        never: &["crate::coordinator"],
    },
    Layer {
        here: &["broker/src/metadata"],
        never: &["crate::partition"],
    },
];

/// Complaints about paths named where their layer may not name them.
pub(super) fn uses(files: &[File]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|f| f.is_rust()) {
        let layers: Vec<&Layer> = LAYERS.iter().filter(|l| l.holds(&file.path)).collect();
        if layers.is_empty() && !file.path.starts_with("broker/src/") {
            continue;
        }
        for path in paths(&file.code(), &module_of(&file.path)) {
            if begins(&path, "logweir_client") && !may_use_client(file, path.line) {
                let place = format!("{}:{}", file.path, path.line);
                complaints.push(format!("{place}: logweir_client needs a feature's cfg"));
            }
            let broken = layers
                .iter()
                .flat_map(|l| l.never)
                .find(|never| begins(&path, never));
            if broken.is_some() {
                let place = format!("{}:{}", file.path, path.line);
                complaints.push(format!(
                    "{place}: may not name {}",
                    path.segments.join("::")
                ));
            }
        }
    }
    complaints
}

/// Whether a line may name the client: only code of a feature may, because the library alone does not
/// depend on it. The program's folders are a feature; elsewhere a `cfg` stands close above.
fn may_use_client(file: &File, line: usize) -> bool {
    const NEAR: usize = 15;
    let path = file.path.as_str();
    let is_test = path.ends_with("/tests.rs") || path.contains("/tests/");
    if !path.starts_with("broker/src/") || path.starts_with("broker/src/cli") || is_test {
        return true;
    }
    if file.text.contains("\n#![cfg(feature = \"client\")]\n") {
        return true;
    }
    let above = file.text.lines().take(line).skip(line.saturating_sub(NEAR));
    let mut cfgs = above.filter(|l| l.trim_start().starts_with("#[cfg("));
    cfgs.any(|l| l.contains("feature = \"client\"") || l.contains("feature = \"cli\""))
}

impl Layer {
    fn holds(&self, path: &str) -> bool {
        // A folder's name stands for its file, too, but not for a longer name: `grpc` is `grpc.rs`
        // and `grpc/`, not `grpcs.rs`.
        let below = |prefix: &&str| {
            path.strip_prefix(*prefix)
                .is_some_and(|rest| prefix.ends_with('/') || rest.starts_with('/') || rest == ".rs")
                || path == *prefix
        };
        self.here.iter().any(below)
    }
}

/// The module a file is: `broker/src/grpc/fetch.rs` is `grpc::fetch`, `lib.rs` is the root.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("/src/").map_or("", |(_, inside)| inside);
    let inside = inside.trim_end_matches(".rs");
    let is_root = inside == "lib" || inside == "main" || inside.starts_with("bin/");
    inside
        .split('/')
        .filter(|part| !is_root && !part.is_empty())
        .map(String::from)
        .collect()
}

fn begins(path: &NamedPath, with: &str) -> bool {
    let mut segments = path.segments.iter();
    with.split("::")
        .all(|part| segments.next().is_some_and(|s| s == part))
}
