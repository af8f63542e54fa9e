//! The program `logweir`: subcommands over the broker and the client.
//!
//! Results go to standard output, everything said to people to standard error; how commands end is in
//! `cli/exit.rs`. The binary calls [`main`] and nothing else.

use std::ffi::OsString;
use std::num::{IntErrorKind, ParseIntError};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

mod bench;
mod connection;
mod consume;
mod dump;
mod exit;
mod flag_values;
mod group;
mod interrupt;
mod moved_offsets;
mod offsets;
mod output;
mod partition_list;
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
    Group(group::GroupCommand),
    Produce(Box<produce::ProduceCommand>),
    Consume(consume::ConsumeCommand),
    Offsets(offsets::OffsetsCommand),
    DeleteRecords(offsets::DeleteRecordsCommand),
    Dump(dump::DumpCommand),
    Bench(Box<bench::BenchCommand>),
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
    match parse(std::env::args_os()) {
        Ok(cli) => exit::conclude(run(cli.command)),
        Err(error) => error.exit(),
    }
}

/// Reads a command line.
fn parse(words: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
    let mut command = taking_negative_numbers(Cli::command());
    let matches = command
        .try_get_matches_from_mut(&words)
        .map_err(|error| naming_the_flag(&mut command, &words, error))
        .map_err(|error| naming_the_fault(&mut command, error))?;
    refuse_two_brokers(&mut command, &matches)?;
    refuse_empty_names(&mut command, &matches)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// With flags that read `--max -1` as a value that is out of range, and not as a flag that there is not.
fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let has_value = !arg.is_positional() && arg.get_action().takes_values();
        let takes_them = arg.is_allow_negative_numbers_set() || has_value;
        arg.allow_negative_numbers(takes_them)
    });
    command.mut_subcommands(taking_negative_numbers)
}

/// Of `--group -x` clap says that there is no `-x`, and that `-- -x` would be a value, which it would not be of that flag.
fn naming_the_flag(
    command: &mut clap::Command,
    words: &[OsString],
    error: clap::Error,
) -> clap::Error {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) => unknown.as_str(),
        _ => return error,
    };
    let words = words.iter().map(|word| word.to_str().unwrap_or_default());
    let words: Vec<&str> = words.collect();
    let Some(at) = words.iter().position(|word| word.starts_with(unknown)) else {
        return error;
    };
    let mut chosen = command;
    for word in &words[..at] {
        if chosen.find_subcommand(word).is_some() {
            chosen = chosen
                .find_subcommand_mut(word)
                .expect("it was found just now");
        }
    }
    let before = words[at.saturating_sub(1)];
    let is_it = |arg: &&clap::Arg| {
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        arg.get_action().takes_values() && [long, short].iter().flatten().any(|it| it == before)
    };
    let Some(flag) = chosen.get_arguments().find(is_it) else {
        return error;
    };
    let message = format!(
        "a value is required for '{flag}' but none was supplied\n\n  tip: a value that begins with '-' is given as \
         '{before}={}'",
        words[at]
    );
    chosen.error(ErrorKind::InvalidValue, message)
}

/// Of `--max -1` the standard library says that a digit is invalid.
fn naming_the_fault(command: &mut clap::Command, error: clap::Error) -> clap::Error {
    let cause = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<ParseIntError>());
    let is_digit = cause.is_some_and(|cause| *cause.kind() == IntErrorKind::InvalidDigit);
    let (arg, value) = (ContextKind::InvalidArg, ContextKind::InvalidValue);
    let (Some(ContextValue::String(arg)), Some(ContextValue::String(value)), true) =
        (error.get(arg), error.get(value), is_digit)
    else {
        return error;
    };
    let fault = match value.parse::<i128>() {
        Ok(_) => "it is below 0",
        Err(_) => "it is not a whole number",
    };
    let message = format!("invalid value '{value}' for '{arg}': {fault}");
    command.error(ErrorKind::ValueValidation, message)
}

/// No group and no topic has an empty name, with any broker: such a value comes from a variable that is not set.
fn refuse_empty_names(
    command: &mut clap::Command,
    matches: &ArgMatches,
) -> Result<(), clap::Error> {
    const NAMES: [&str; 6] = ["group", "groups", "topic", "topics", "name", "names"];
    let (mut command, mut chosen) = (command, matches);
    while let Some((name, deeper)) = chosen.subcommand() {
        let Some(found) = command.find_subcommand_mut(name) else {
            return Ok(());
        };
        (command, chosen) = (found, deeper);
    }
    let is_empty = |id: &&&str| {
        let values = chosen.try_get_raw(id).ok().flatten();
        values.is_some_and(|mut values| values.any(|value| value.is_empty()))
    };
    let Some(id) = NAMES.iter().find(is_empty) else {
        return Ok(());
    };
    let arg = command.get_arguments().find(|arg| arg.get_id() == *id);
    let arg = arg.map_or_else(|| (*id).to_owned(), ToString::to_string);
    let message = format!("invalid value '' for '{arg}': a name has at least one character");
    Err(command.error(ErrorKind::InvalidValue, message))
}

/// A broker of the command's own and one that runs elsewhere exclude each other. Not clap's `conflicts_with`: that would
/// refuse `bench --spawn` wherever LOGWEIR_SERVER is set for other commands.
fn refuse_two_brokers(
    command: &mut clap::Command,
    matches: &ArgMatches,
) -> Result<(), clap::Error> {
    let mut chosen = matches;
    while let Some((_, deeper)) = chosen.subcommand() {
        chosen = deeper;
    }
    let typed = |id: &str| {
        let known = chosen.try_contains_id(id).is_ok();
        known && chosen.value_source(id) == Some(ValueSource::CommandLine)
    };
    for (id, flag) in [("spawn", "--spawn"), ("ready_file", "--ready-file <FILE>")] {
        if typed("server") && typed(id) {
            let message = format!(
                "the argument '{flag}' cannot be used with '--server <HOST:PORT>': each says which broker to use"
            );
            return Err(command.error(ErrorKind::ArgumentConflict, message));
        }
    }
    Ok(())
}

fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Serve(serve) => runtime(true)?.block_on(serve.run()),
        Command::Topic(topic) => runtime(false)?.block_on(topic.run()),
        Command::Group(group) => runtime(false)?.block_on(group.run()),
        Command::Produce(produce) => runtime(true)?.block_on(produce.run()),
        Command::Consume(consume) => runtime(true)?.block_on(consume.run()),
        Command::Offsets(offsets) => runtime(false)?.block_on(offsets.run()),
        Command::DeleteRecords(delete) => runtime(false)?.block_on(delete.run()),
        Command::Dump(dump) => dump.run(),
        Command::Bench(bench) => runtime(true)?.block_on(bench.run()),
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
    fn the_command_lines_people_are_told_of_are_understood() {
        for line in [
            "serve --data-dir d --kafka off --grpc 127.0.0.1:0 --http off --node-id 3 --ready-file f",
            "serve --in-memory --config c.toml --flush os --log-level debug --log-format json --set a=b",
            "topic create t --partitions 12 --replication-factor 1 --config retention.ms=7d --config a=b",
            "topic list --output json",
            "topic describe a b --all-configs",
            "topic alter t --config a=b --unset c",
            "topic expand t --partitions 24",
            "topic delete a b --if-exists",
            "produce t --format csv --key-column tailnum --compression zstd --acks -1 --linger 20ms",
            "produce t --key-separator : --file f --acks 0",
            "produce t --format jsonl --server h:1",
            "consume t --from earliest --partition 1 --partition 2,3 --max 5 --follow --output json",
            "consume t --from 2025-01-31 --print-key --key-separator \\t",
            "group list --state stable,EMPTY --type consumer --json",
            "group describe g h --output json",
            "group members g",
            "group delete g h --if-exists",
            "group reset g --to-earliest",
            "group reset g --to-latest --topic t:0,2-5 --topic u --execute",
            "group reset g --to-offset 7",
            "group reset g --to-time 2h",
            "group reset g --shift-by -100 --topic t",
            "group delete-offsets g --topic t --topic u:1",
            "offsets t --at 2h --partition 1",
            "offsets -- export",
            "group delete g --json",
            "offsets export g h --output-file f",
            "offsets export g --json",
            "offsets export g --output json",
            "offsets import f --execute --ignore-topic-ids",
            "offsets import",
            "delete-records t --before latest --dry-run",
            "dump a b --records",
            "bench produce --spawn --flush os --rate 20000 --duration 30s --record-bytes 1KiB --acks 1",
            "bench consume --topic t --consumers 4 --pid 7 --json",
            "bench latency --rate max --records 5 --ready-file f --output json",
            "bench idle --partitions 10000 --consumers 100 --records-each 0 --in-memory",
            "bench start --log-bytes 10GiB --dir d",
            "config --explain retention.ms",
            "completions zsh",
        ] {
            let words = std::iter::once("logweir").chain(line.split(' '));
            if let Err(error) = parse(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn command_lines_that_make_no_sense_are_refused() {
        for line in [
            "",
            "topic create",
            "topic create t --partitions 0",
            "topic describe",
            "produce",
            "produce t --acks 2",
            "produce t --compression rar",
            "produce t --linger soon",
            "consume t --from yesterday",
            "consume t --output csv",
            "group",
            "group describe",
            "group list --state sleeping",
            "group list --type share",
            "group list --json --output json",
            "group reset g",
            "group reset g --to-earliest --to-latest",
            "group reset g --to-offset -1",
            "group reset g --to-latest --topic t:5-1",
            "group delete-offsets g",
            "offsets",
            "offsets export",
            "offsets --partition 1",
            "delete-records t",
            "dump",
            "bench",
            "bench produce --rate 0",
            "bench produce --spawn --pid 7",
            "bench produce --spawn --server h:1",
            "bench latency --ready-file f --server h:1",
            "bench latency --records 1 --duration 1s",
            "bench idle --partitions 0",
            "completions tcsh-ng",
        ] {
            let words = std::iter::once("logweir").chain(line.split_terminator(' '));
            assert!(parse(words).is_err(), "{line}");
        }
    }

    #[test]
    fn a_wrong_value_is_told_as_one() {
        let check = |line: &[&str], expected: &str| {
            let words = ["logweir"].into_iter().chain(line.iter().copied());
            let error = parse(words).expect_err(expected);
            assert_eq!(error.exit_code(), 2, "{line:?}");
            let error = error.to_string();
            assert!(error.contains(expected), "{line:?}: {error}");
            assert!(!error.contains("'-- -"), "{line:?}: {error}");
        };
        let max = "'-1' for '--max <N>': it is below 0";
        check(&["consume", "t", "--max", "-1"], max);
        check(&["consume", "t", "--max", "1k"], "not a whole number");
        let reset = ["group", "reset", "g", "--to-offset", "-5"];
        check(&reset, "'-5' for '--to-offset <N>'");
        let delete = ["delete-records", "t", "--before", "-1"];
        check(&delete, "offsets begin at 0");
        check(&["consume", "t", "--group", "-x"], "'--group=-x'");
        check(&["consume", "t", "-g", "-xy"], "'-g=-xy'");
        check(&["consume", "t", "--group", ""], "'--group <GROUP>'");
        check(&["consume", ""], "'<TOPIC>'");
        check(&["produce", ""], "'<TOPIC>'");
        check(&["offsets", "export", ""], "'<GROUP>...'");
        check(&["group", "describe", "g", ""], "'<GROUP>...'");
        check(&["topic", "create", ""], "'<NAME>'");
        check(
            &["group", "delete-offsets", "", "--topic", "t"],
            "'<GROUP>'",
        );
    }

    #[test]
    fn a_word_that_nothing_takes_is_told_as_before() {
        let error = parse(["logweir", "consume", "t", "--folow"]).expect_err("no such flag");
        assert!(error.to_string().contains("'--follow'"), "{error}");
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
