//! The subcommands.

use clap::{Parser, Subcommand};

use crate::backup::BackupOptions;
use crate::batch::BatchOptions;
use crate::bench::BenchOptions;
use crate::copy::CopyOptions;
use crate::export::ExportOptions;
use crate::hub::HubOptions;
use crate::node::NodeOptions;
use crate::points::PointsOptions;
use crate::reference::{CompletionsOptions, ManOptions};
use crate::restore::RestoreOptions;
use crate::vcenter::{CheckOptions, VmsOptions};
use crate::verify::VerifyOptions;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed, for a reason that belongs to neither side
  2  wrong usage: the command has to be changed
  3  partly done: some disks or VMs of many failed
  4  the source failed
  5  the target failed
  6  the content differs
  7  interrupted; copy --resume goes on from there, all else begins anew";

/// Backs up virtual disks into restore points, and copies them between NBD servers, files and
/// block devices, many at once.
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
    /// Restore disks of a point to files, an NBD export, a block device or a VM of a vCenter
    ///
    /// All disks at once. Each is compared with its digests while it is read, and a file has its
    /// name only when it is whole, durable, and what was backed up. With --hub the hub serves the
    /// disks on ports of its 127.0.0.1, and they are written and compared here: from another machine
    /// forward those ports under the same numbers. What a VM of a vCenter gets is read back too.
    #[command(after_help = crate::restore::EXAMPLES,
        after_long_help = const_str(crate::restore::EXAMPLES, EXIT_CODES))]
    Restore(Box<RestoreOptions>),
    /// Find out whether points are what was backed up
    ///
    /// Looks at every file of the chains, has qemu-img check each image, and reads the whole
    /// content against its digests. Nothing is changed, and all points are named that damage
    /// touches. With --hub the hub does it.
    #[command(after_help = crate::verify::EXAMPLES,
        after_long_help = const_str(crate::verify::EXAMPLES, EXIT_CODES))]
    Verify(Box<VerifyOptions>),
    /// List the restore points of a repository, or delete one
    #[command(after_help = crate::points::EXAMPLES,
        args_conflicts_with_subcommands = true, subcommand_negates_reqs = true,
        after_long_help = const_str(crate::points::EXAMPLES, EXIT_CODES))]
    Points(Box<PointsOptions>),
    /// Serve the disks of a point over NBD, until Ctrl-C
    ///
    /// Read-only, unless --writable gives each an overlay that is thrown away at the end. On
    /// 127.0.0.1 every user of this machine can read them; --socket-dir is for this user alone.
    /// With --hub they are on ports of the hub's 127.0.0.1, for as long as this command runs: from
    /// another machine forward those ports under the same numbers.
    #[command(after_help = crate::export::EXAMPLES,
        after_long_help = const_str(crate::export::EXAMPLES, EXIT_CODES))]
    Export(Box<ExportOptions>),
    /// Run the hub: ports, exports and the API over HTTP; or make tokens for it, or enroll nodes
    #[command(
        after_help = crate::hub::EXAMPLES,
        after_long_help = const_str(crate::hub::EXAMPLES, EXIT_CODES)
    )]
    Hub(HubOptions),
    /// Measure what this machine and a link carry
    ///
    /// On servers that it starts itself, and ends; nothing is left of it but what it tells.
    #[command(
        after_help = crate::bench::EXAMPLES,
        after_long_help = const_str(crate::bench::EXAMPLES, EXIT_CODES)
    )]
    Bench(Box<BenchOptions>),
    /// Make this machine a node, which reaches a hub's exports through an SSH tunnel
    #[command(
        after_help = crate::node::EXAMPLES,
        after_long_help = const_str(crate::node::EXAMPLES, EXIT_CODES)
    )]
    Node(NodeOptions),
    /// List the VMs of a vCenter or an ESXi host, with what would stop or limit their backups
    #[command(after_help = crate::vcenter::VMS_EXAMPLES,
        after_long_help = const_str(crate::vcenter::VMS_EXAMPLES, EXIT_CODES))]
    Vms(Box<VmsOptions>),
    /// See whether a VM can be backed up, and what a backup would lack
    ///
    /// Nothing is changed, and no snapshot is made.
    #[command(after_help = crate::vcenter::CHECK_EXAMPLES,
        after_long_help = const_str(crate::vcenter::CHECK_EXAMPLES, EXIT_CODES))]
    Check(Box<CheckOptions>),
    /// Print a completion script for a shell
    Completions(CompletionsOptions),
    /// Print a manual page, or write all of them to a folder
    Man(ManOptions),
}

fn const_str(examples: &str, exit_codes: &str) -> String {
    format!("{examples}\n\n{exit_codes}")
}
