//! The options of `batch`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

use crate::lane_options::OutputOptions;

/// Shown below the options. The file is read by a test.
pub(crate) const EXAMPLES: &str = "\
Example of JOBS.toml, with all that it may have:
    concurrency = 2                         # VMs at once; 1 if it is not here

    [defaults]                              # each of them may be here, and with a VM
    repository = \"/backup\"                  # relative paths: from the folder of this file
    mode = \"auto\"                           # auto, full, incremental
    retries = 5                             # attempts to connect again before a disk fails
    deadline = \"30s\"                        # for a side that gives no answer
    connections = 1                         # a side at most
    rate-limit = \"100MiB\"                   # bytes a second of one VM at most

    [[vm]]
    name = \"db1\"
    disks.root = { source = \"nbd://kvm/root\", bitmap = \"daily\" }
    disks.data = { source = \"nbd://kvm/data\", changed = \"db1-data.json\" }

    [[vm]]
    name = \"web 1\"
    repository = \"/backup/web\"
    mode = \"full\"
    disks.\"disk 0\" = { source = \"/dev/vg/web1-snapshot\" }

    [[vcenter]]                             # or an ESXi host; VMs without disks are of it
    server = \"vc.example\"
    user = \"backup@vsphere.local\"
    password-file = \"vc.password\"
    thumbprint = \"AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD\"
    vddk-libdir = \"/opt/vmware-vix-disklib-distrib\"
    quiesce = \"try\"                         # try, none, require; here, and with a VM
    cbt-audit = 5                           # percent; here, and with a VM
    enable-cbt = true                       # here, and with a VM
    max-disks-per-host = 4

    [[vm]]                                  # with all of its disks, by one snapshot
    name = \"app1\"                           # or its path, uuid=..., moref=...

    [[vm]]
    name = \"moref=vm-57\"
    as = \"app2\"                             # in the repository; without it, as at the vCenter
    quiesce = \"require\"
    cbt-audit = 0
    enable-cbt = false

A vCenter has the options that `backup` has for one, without the word vcenter: deadline and ca,
vddk-plugin, vddk-param and the like. Where there are several, a VM says of which it is, as in
vcenter = \"vc.example\", or as one is called by its own name = \"...\".

For cron, every night at one; what failed is on standard error, and the exit code tells of it:
    0 1 * * *  blockferry batch /etc/blockferry/jobs.toml > /var/log/blockferry-batch.log

Two batches do not work in the same repository at once: the second one says so and ends with 1.
With 3 some VMs failed; where all failed alike, the code is that of their failure.";

#[derive(Args, Debug)]
pub(crate) struct BatchOptions {
    /// What is to be backed up
    #[arg(value_name = "JOBS.toml")]
    pub(crate) jobs: PathBuf,

    /// VMs at once, whatever the file says; 101 disks at once are the most
    #[arg(long, value_name = "N", value_parser = at_once)]
    pub(crate) concurrency: Option<NonZeroUsize>,

    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

fn at_once(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "it is the number of VMs at once, 1 or more".to_owned())
}
