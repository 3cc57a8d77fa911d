//! The command line of blockferry.

#![deny(unsafe_code)]

mod backup;
mod batch;
mod bench;
mod cli;
mod config;
mod copy;
mod exit;
mod export;
mod hub;
mod inherited;
mod interrupt;
mod lane_options;
mod node;
mod output;
mod points;
mod reading;
mod reference;
mod remote;
mod restore;
mod state;
mod vcenter;
mod verify;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use blockferry_dataplane::nbd::without_passwords;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command};
use config::Configured;
use exit::Exit;

fn main() -> ExitCode {
    let exit = match run() {
        Ok(exit) => exit,
        Err(error) => {
            output::line(&format!("{error:#}"));
            if let Some(hint) = output::hint_of_error(&error) {
                output::line(&format!("hint: {hint}"));
            }
            Exit::of_error(&error)
        }
    };
    output::finish();
    exit.into()
}

fn run() -> anyhow::Result<Exit> {
    let words = copy::Words::of(std::env::args_os().collect())?;
    if let Some(names) = words.options_asked_for() {
        return reference::option_names(names);
    }
    let configured = Configured::of(words.plain())?;
    let all = configured.as_ref().map_or(words.plain(), |configured| &configured.words);
    let matches = Cli::command().try_get_matches_from(all);
    if let (Some(configured), Err(error)) = (&configured, &matches)
        && let Some(refused) = configured.refused(error)
    {
        return Err(refused);
    }
    let matches = match matches {
        // A subcommand's version is that of the program; clap would print it under another name.
        Err(asked) if asked.kind() == ErrorKind::DisplayVersion => return reference::version(),
        Err(refused)
            if refused.use_stderr() && words.plain().iter().any(|word| word == "--json") =>
        {
            return Err(refused_for_programs(&refused));
        }
        Err(refused) if refused.use_stderr() && !io::stderr().is_terminal() => {
            output::plain(without_passwords(&refused.to_string()).trim_end());
            return Ok(Exit::Usage);
        }
        other => other.unwrap_or_else(|error| exit_with(&error)),
    };
    let ended = match Cli::from_arg_matches(&matches)?.command {
        Command::Copy(options) => copy::command(&options, &words),
        Command::Backup(options) => backup::command(&options),
        Command::Batch(options) => batch::command(&options),
        Command::Restore(options) => restore::command(&options),
        Command::Verify(options) => verify::command(&options),
        Command::Points(options) => points::command(&options),
        Command::Export(options) => export::command(&options),
        Command::Hub(options) => hub::command(&options),
        Command::Bench(options) => bench::command(&options),
        Command::Node(options) => node::command(&options),
        Command::Vms(options) => vcenter::vms(&options),
        Command::Check(options) => vcenter::check(&options),
        Command::Completions(options) => reference::completions(&options),
        Command::Man(options) => reference::man(&options),
    };
    ended.map_err(|error| match &configured {
        Some(configured) => configured.placed(error),
        None => error,
    })
}

/// Shows what clap has to say, with what was written in it, but no password.
fn exit_with(said: &clap::Error) -> ! {
    let text = said.to_string();
    let shown = without_passwords(&text);
    if shown == text || !said.use_stderr() {
        said.exit();
    }
    eprint!("{shown}");
    std::process::exit(said.exit_code())
}

/// A refusal of the command line, told as a program wants it: a JSON object and one line.
fn refused_for_programs(refused: &clap::Error) -> anyhow::Error {
    let text = refused.to_string();
    let said = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let said = said.collect::<Vec<_>>().join(" ");
    let said = without_passwords(said.trim_start_matches("error: "));
    if let Err(unprinted) = output::print_json(&output::json::Refused::of(&said)) {
        output::line(&format!("{unprinted:#}"));
    }
    exit::Refusal::usage(said)
}
