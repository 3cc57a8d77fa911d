//! The subcommands.

use clap::{Parser, Subcommand};

use crate::backup::BackupOptions;
use crate::batch::BatchOptions;
use crate::copy::CopyOptions;
use crate::hub::HubOptions;
use crate::reference::{CompletionsOptions, ManOptions};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, for a reason that belongs to neither side
  2  wrong usage: the command has to be changed
  3  partly done: some lanes or VMs of many failed
  4  the source failed
  5  the target failed
  6  the content differs
  7  interrupted; with --resume the same command goes on from there";

/// Moves virtual disks between NBD servers, files and block devices, many at once.
#[derive(Debug, Parser)]
#[command(
    name = "blockferry",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_long_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Copy a disk, or many disks at once
    ///
    /// Takes the place of nbdcopy(1): each of its options is accepted with the same meaning.
    #[command(
        args_override_self = true,
        override_usage = "blockferry copy [OPTIONS] SOURCE TARGET\n       \
                          blockferry copy [OPTIONS] --lanes FILE\n\n  \
                          SOURCE, TARGET: - | FILE | DEVICE | NBD-URI | [ COMMAND ARGS ... ]\n  \
                          TARGET also:    null:",
        after_help = crate::copy::EXAMPLES,
        after_long_help = const_str(crate::copy::EXAMPLES, EXIT_CODES)
    )]
    Copy(Box<CopyOptions>),
    /// Back up all disks of a VM into one restore point
    ///
    /// Needs no daemon, no configuration and no root: it starts its exports itself, copies all
    /// disks at once, and publishes one restore point, or nothing.
    #[command(after_help = crate::backup::EXAMPLES,
        after_long_help = const_str(crate::backup::EXAMPLES, EXIT_CODES))]
    Backup(Box<BackupOptions>),
    /// Back up many VMs, as a file says: for cron
    ///
    /// Each VM becomes a restore point of its own, as by `backup`. One that fails does not stop the
    /// others; at the end there is one summary, and an exit code for all.
    #[command(after_help = crate::batch::EXAMPLES,
        after_long_help = const_str(crate::batch::EXAMPLES, EXIT_CODES))]
    Batch(BatchOptions),
    /// Run the hub: ports, exports and the API over HTTP; or make tokens for it
    #[command(
        after_help = crate::hub::EXAMPLES,
        after_long_help = const_str(crate::hub::EXAMPLES, EXIT_CODES)
    )]
    Hub(HubOptions),
    /// Print a completion script for a shell
    Completions(CompletionsOptions),
    /// Print a manual page, or write all of them to a folder
    Man(ManOptions),
}

fn const_str(examples: &str, exit_codes: &str) -> String {
    format!("{examples}\n\n{exit_codes}")
}
