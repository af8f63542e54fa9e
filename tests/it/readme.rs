//! The commands of the READMEs, run as they stand there.

use std::path::Path;
use std::process::Command;

use logweir_tests::{Flights, ServeOptions, binary};

/// The commands of a README's fenced `sh` blocks that use a running broker.
fn commands(readme: &str) -> String {
    let mut blocks = readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let is_client = |block: &&str| block.contains("logweir produce");
    let first = blocks
        .find(is_client)
        .expect("the README shows a first produce");
    first.to_owned()
}

#[test]
fn the_first_produce_and_consume_of_the_readmes_work() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let readmes = [
        include_str!("../../README.md"),
        include_str!("../../README.zh.md"),
    ];
    assert_eq!(
        commands(readmes[0]),
        commands(readmes[1]),
        "both READMEs show the same"
    );

    let dir = tempfile::tempdir().unwrap();
    let broker = ServeOptions::on_disk(dir.path()).start();
    let path = std::env::var("PATH").unwrap();
    let bin = binary().parent().unwrap().display();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &commands(readmes[0])])
        .current_dir(root)
        .env("PATH", format!("{bin}:{path}"))
        .env("LOGWEIR_SERVER", broker.grpc())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{err}");
    assert!(
        out.contains(&Flights::COUNT.to_string()),
        "the count is shown: {out}\n{err}"
    );
}

#[test]
fn the_test_that_the_readmes_show_is_one_that_runs() {
    let ours = include_str!("embedding.rs");
    for readme in [
        include_str!("../../README.md"),
        include_str!("../../README.zh.md"),
    ] {
        let shown = readme.split("#[tokio::test]").nth(1).unwrap();
        let shown = shown.split("```").next().unwrap();
        assert!(shown.contains("advance"), "{shown}");
        assert!(ours.contains(shown), "tests/it/embedding.rs lacks {shown}");
    }
}
