//! What the command line says of itself: completion scripts, manual pages, names of options.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;
use crate::copy::OptionNames;
use crate::exit::{Exit, Refusal};

#[derive(Debug, Args)]
pub(crate) struct CompletionsOptions {
    /// The shell that the script is for
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManOptions {
    /// The subcommand that the page is about, and one of its own; none: all of blockferry
    command: Vec<String>,
    /// Write the pages of all commands to this folder
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

/// Prints a completion script.
pub(crate) fn completions(options: &CompletionsOptions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Cli::command(), "blockferry", &mut script);
    print(&script)
}

/// Prints name and version of the program, whichever subcommand was asked for them.
pub(crate) fn version() -> anyhow::Result<Exit> {
    print(Cli::command().render_version().as_bytes())
}

/// Prints one manual page or writes all of them.
pub(crate) fn man(options: &ManOptions) -> anyhow::Result<Exit> {
    let mut command = Cli::command();
    if let Some(dir) = &options.dir {
        std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(command, dir))
            .with_context(|| format!("writing manual pages to {}", dir.display()))?;
        return Ok(Exit::Done);
    }
    command.build();
    let mut page = &command;
    for name in &options.command {
        page = page.find_subcommand(name).ok_or_else(|| {
            Refusal::usage(format!("there is no command '{}'", options.command.join(" ")))
        })?;
    }
    let mut text = Vec::new();
    Man::new(page.clone()).render(&mut text)?;
    print(&text)
}

/// Prints the options of `copy`, one a line, as nbdcopy does for completion scripts.
pub(crate) fn option_names(names: OptionNames) -> anyhow::Result<Exit> {
    let command = Cli::command();
    let copy = command.find_subcommand("copy").context("copy is a subcommand")?;
    let mut lines: Vec<String> = match names {
        OptionNames::Long => copy
            .get_arguments()
            .flat_map(|option| option.get_long_and_visible_aliases().unwrap_or_default())
            .chain(["help", "version"])
            .map(|name| format!("--{name}\n"))
            .collect(),
        OptionNames::Short => copy
            .get_arguments()
            .filter_map(|option| option.get_short())
            .chain(['h', 'V'])
            .map(|letter| format!("-{letter}\n"))
            .collect(),
    };
    lines.sort();
    print(lines.concat().as_bytes())
}

fn print(text: &[u8]) -> anyhow::Result<Exit> {
    match io::stdout().write_all(text) {
        // A pager that has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        other => other.map(|()| Exit::Done).context("writing to standard output"),
    }
}
