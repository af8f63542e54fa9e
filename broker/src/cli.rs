//! The program `logweir`: subcommands over the broker and the client.
//!
//! Results go to standard output, everything said to people to standard error; how commands end is in
//! `cli/exit.rs`. The binary calls [`main`] and nothing else.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

mod connection;
mod consume;
mod dump;
mod exit;
mod flag_values;
mod input;
mod interrupt;
mod offsets;
mod output;
mod produce;
mod progress;
mod record_output;
mod serve;
mod settings;
mod time;
mod topic;

use exit::Exit;

const EXAMPLES: &str = "\
Examples:
  logweir serve
  logweir topic create flights --partitions 12
  zcat flights.csv.gz | logweir produce flights --format csv --key-column tailnum
  logweir consume flights --output json";

/// A Kafka-like log broker and its tools
#[derive(Debug, Parser)]
#[command(
    name = "logweir",
    version,
    after_help = format!("{EXAMPLES}\n\n{}", exit::HELP),
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeCommand>),
    Topic(topic::TopicCommand),
    Produce(Box<produce::ProduceCommand>),
    Consume(consume::ConsumeCommand),
    Offsets(offsets::OffsetsCommand),
    DeleteRecords(offsets::DeleteRecordsCommand),
    Dump(dump::DumpCommand),
    Config(Box<settings::ConfigCommand>),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  source <(logweir completions bash)\n  \
                            logweir completions fish > ~/.config/fish/completions/logweir.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the program with the process's arguments and environment.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::conclude(run(cli.command))
}

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Serve(serve) => runtime(true)?.block_on(serve.run()),
        Command::Topic(topic) => runtime(false)?.block_on(topic.run()),
        Command::Produce(produce) => runtime(true)?.block_on(produce.run()),
        Command::Consume(consume) => runtime(true)?.block_on(consume.run()),
        Command::Offsets(offsets) => runtime(false)?.block_on(offsets.run()),
        Command::DeleteRecords(delete) => runtime(false)?.block_on(delete.run()),
        Command::Dump(dump) => dump.run(),
        Command::Config(config) => config.run(),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "logweir", &mut script);
            std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
            Ok(Exit::Done)
        }
    }
}

fn runtime(parallel: bool) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = if parallel {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder.enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_help_with_an_example_or_takes_no_thinking() {
        for command in Cli::command().get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            assert!(
                command.get_about().is_some(),
                "{name} says nothing about itself"
            );
            assert!(
                help.contains("Example") || command.has_subcommands(),
                "{name} has no example"
            );
        }
    }
}
