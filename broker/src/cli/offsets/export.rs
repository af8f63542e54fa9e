//! `logweir offsets export`: what groups have committed, as JSON.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::file::{FORMAT, GroupOffsets};
use crate::cli::connection::ServerArgs;
use crate::cli::exit::Exit;
use crate::cli::output::print_line;
use crate::words::counted;

const EXAMPLES: &str = "\
Examples:
  logweir offsets export billing
  logweir offsets export billing shipping --output-file offsets.json
  logweir offsets export billing | jq .offsets[].offset";

/// Write what groups have committed, as JSON that `offsets import` reads
#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{FORMAT}"))]
pub(super) struct Export {
    /// The groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// The file, which is replaced if it is there [default: standard output]
    #[arg(long, value_name = "FILE")]
    output_file: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print; there is only JSON
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
    /// Changes nothing: it is JSON always
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Export {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let mut lines = Vec::with_capacity(groups.len());
        for (group, offsets) in groups.iter().zip(admin.groups_offsets(&groups).await?) {
            match offsets {
                Ok(offsets) if offsets.is_empty() => eprintln!(
                    "error: group {group} has committed nothing; `logweir group list` shows the groups that there are"
                ),
                Ok(offsets) => {
                    lines.push(serde_json::to_string(&GroupOffsets::new(group, offsets))?);
                }
                Err(error) => eprintln!("error: group {group}: {error}"),
            }
        }
        let (tried, failed) = (groups.len(), groups.len() - lines.len());
        if lines.is_empty() {
            return Ok(Exit::Failed);
        }
        let text = lines.join("\n");
        match &self.output_file {
            Some(path) => {
                std::fs::write(path, format!("{text}\n"))
                    .with_context(|| format!("cannot write {}", path.display()))?;
                let groups = counted(lines.len(), "group");
                eprintln!("wrote the offsets of {groups} to {}", path.display());
            }
            None => print_line(&text)?,
        }
        Ok(Exit::of(failed, tried))
    }
}
