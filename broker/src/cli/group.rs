//! `logweir group`: list, describe, reset and delete groups, and forget what they committed.

use clap::{Args, Subcommand};
use logweir_client::{Error, ErrorCode, GroupFilter, GroupState, GroupType};
use serde_json::json;

use super::connection::ServerArgs;
use super::exit::Exit;
use super::output::{OutputArgs, OutputFormat, Rows, print_json};

mod delete_offsets;
mod describe;
mod members;
mod reset;

const LIST_EXAMPLES: &str = "\
Examples:
  logweir group list
  logweir group list --state stable,empty --type consumer
  logweir group list --output json | jq -r .group

States are Empty, Assigning, Reconciling, Stable, PreparingRebalance and
CompletingRebalance; types are classic (join and sync) and consumer (KIP-848).
A group that only has committed offsets is classic and Empty.";

const DELETE_EXAMPLES: &str = "\
Examples:
  logweir group delete billing
  logweir group delete a b c --if-exists

A group with members is refused; `logweir offsets export` keeps its offsets in a
file before.";

/// List, describe, reset and delete groups
#[derive(Debug, Args)]
pub(super) struct GroupCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(List),
    Describe(describe::Describe),
    Members(members::Members),
    Delete(Delete),
    Reset(reset::Reset),
    DeleteOffsets(delete_offsets::DeleteOffsets),
}

/// List groups
#[derive(Debug, Args)]
#[command(after_help = LIST_EXAMPLES)]
struct List {
    /// Only groups in this state, in any case; repeatable, or stable,empty
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<GroupState>,
    /// Only groups of this type: classic or consumer; repeatable
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = group_type)]
    types: Vec<GroupType>,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Delete groups that have no members, with their offsets
#[derive(Debug, Args)]
#[command(after_help = DELETE_EXAMPLES)]
struct Delete {
    /// The groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// Pass over groups that are not there
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl GroupCommand {
    pub(super) async fn run(self) -> anyhow::Result<Exit> {
        match self.action {
            Action::List(list) => list.run().await,
            Action::Describe(describe) => describe.run().await,
            Action::Members(members) => members.run().await,
            Action::Delete(delete) => delete.run().await,
            Action::Reset(reset) => reset.run().await,
            Action::DeleteOffsets(delete) => delete.run().await,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let filter = GroupFilter {
            states: self.state,
            types: self.types,
        };
        let groups = admin.list_groups(filter).await?;
        let mut rows = Rows::new(&["GROUP", "STATE", "TYPE", "PROTOCOL"]);
        for group in groups {
            match self.output.format() {
                OutputFormat::Json => print_json(&json!({
                    "group": group.group_id,
                    "state": group.state.name(),
                    "type": group.group_type.name(),
                    "protocol_type": group.protocol_type,
                }))?,
                OutputFormat::Table => rows.push(vec![
                    group.group_id,
                    group.state.to_string(),
                    group.group_type.to_string(),
                    or_dash(&group.protocol_type),
                ]),
            }
        }
        if self.output.format() == OutputFormat::Table {
            rows.print()?;
        }
        Ok(Exit::Done)
    }
}

impl Delete {
    async fn run(self) -> anyhow::Result<Exit> {
        let admin = self.server.connect().await?.admin();
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let mut failed = 0;
        for (group, outcome) in groups.iter().zip(admin.delete_groups(&groups).await?) {
            match outcome {
                Ok(()) => self.tell(group, true)?,
                Err(error)
                    if self.if_exists && error.code() == Some(ErrorCode::GroupIdNotFound) =>
                {
                    self.tell(group, false)?;
                }
                Err(error) => {
                    eprintln!("error: {}", advised(error, group));
                    failed += 1;
                }
            }
        }
        Ok(Exit::of(failed, groups.len()))
    }

    fn tell(&self, group: &str, deleted: bool) -> std::io::Result<()> {
        match self.output.format() {
            OutputFormat::Json => print_json(&json!({"group": group, "deleted": deleted}))?,
            OutputFormat::Table if deleted => eprintln!("deleted group {group}"),
            OutputFormat::Table => eprintln!("group {group} is not there"),
        }
        Ok(())
    }
}

/// The error, with what a person at a terminal can do about a group that is in use or not there.
pub(super) fn advised(error: Error, group: &str) -> Error {
    match error.code() {
        Some(ErrorCode::NonEmptyGroup) => error.with_action(format!(
            "nothing was changed; stop its members first, `logweir group members {group}` names them"
        )),
        Some(ErrorCode::GroupIdNotFound) => {
            error.with_action("check its id; `logweir group list` shows the groups that there are")
        }
        _ => error,
    }
}

fn state(text: &str) -> Result<GroupState, String> {
    text.parse()
        .map_err(|error: Error| error.message().to_owned())
}

fn group_type(text: &str) -> Result<GroupType, String> {
    text.parse()
        .map_err(|error: Error| error.message().to_owned())
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}
