//! Options of everything that asks a vCenter or an ESXi host.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use blockferry_control::backup::{Cancellation, SnapshotChoice, VmSettings};
use blockferry_control::budgets::{Budgets, Limits};
use blockferry_control::snapshots::{Hypervisor, Ledger, QuiescePolicy};
use blockferry_control::sources::vddk::Settings;
use blockferry_control::vsphere::{
    HTTPS_PORT, PasswordFile, Thumbprint, Trust, Vsphere, VsphereDeadlines, VsphereError,
    VsphereServer,
};
use clap::Args;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::exit::{About, Exit, Refusal};
use crate::interrupt;
use crate::lane_options::positive_duration;
use crate::output::Console;

const SERVER: &str = "A vCenter or ESXi host";
const SNAPSHOT: &str = "The snapshot";
const BUDGETS: &str = "What all jobs of this machine may take at once";
/// Of what was called off while the server was asked.
pub(crate) const INTERRUPTED: &str = "interrupted before it began";
/// What a signal makes of questions.
const CALLING_OFF: &str = "interrupted; once more to stop at once";
/// The folder in it where jobs say what they take.
const BUDGET_FOLDER: &str = "budgets";

/// Which server, as whom, and by what it is known.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerOptions {
    /// The vCenter or ESXi host, by name or address
    #[arg(
        long, value_name = "HOST[:PORT]", help_heading = SERVER,
        requires = "vcenter_user", requires = "vcenter_password_file"
    )]
    pub(crate) vcenter: Option<String>,

    /// As whom it is asked
    #[arg(long, value_name = "USER", help_heading = SERVER, requires = "vcenter")]
    vcenter_user: Option<String>,

    /// The file that has the password, which only its owner may read
    #[arg(long, value_name = "FILE", help_heading = SERVER, requires = "vcenter")]
    vcenter_password_file: Option<PathBuf>,

    /// What its certificate is known by: SHA-1 or SHA-256, as AA:BB:...
    #[arg(
        long, value_name = "HASH", help_heading = SERVER, requires = "vcenter",
        conflicts_with = "vcenter_ca"
    )]
    vcenter_thumbprint: Option<Thumbprint>,

    /// The CA that signed its certificate, as a PEM file
    #[arg(long, value_name = "FILE", help_heading = SERVER, requires = "vcenter")]
    vcenter_ca: Option<PathBuf>,

    /// How long a snapshot may take to be made, and to be removed; no other answer is waited for longer
    ///
    /// By itself, 15 minutes to be made and 4 hours to be removed, of which a server that is away has 5
    /// minutes; an answer has a minute, and one about changed blocks 5.
    #[arg(
        long, value_name = "TIME", value_parser = positive_duration, help_heading = SERVER,
        requires = "vcenter"
    )]
    vcenter_deadline: Option<Duration>,

    /// How long all answers about the changed blocks of one disk may take together [default: 1h]
    #[arg(
        long, value_name = "TIME", value_parser = positive_duration, help_heading = SERVER,
        requires = "vcenter"
    )]
    vcenter_changes_deadline: Option<Duration>,
}

impl ServerOptions {
    /// Whether one is named.
    pub(crate) fn is_named(&self) -> bool {
        self.vcenter.is_some()
    }

    /// What it is called in messages and in ledgers.
    pub(crate) fn name(&self) -> String {
        self.vcenter.clone().unwrap_or_default()
    }

    /// Logs in, for a command that does nothing but ask and sweep: a signal calls off its questions.
    ///
    /// # Errors
    /// Wrong usage, or why there is no session.
    pub(super) fn connect(&self) -> anyhow::Result<Arc<dyn Hypervisor>> {
        let called_off = Cancellation::default();
        let calling_off = called_off.clone();
        let console = Arc::new(Console::new(None, false));
        interrupt::listen_and_say(console, CALLING_OFF, move || {
            calling_off.cancel();
            true
        })?;
        Ok(self.connect_unless(&called_off)?.unless(&called_off))
    }

    /// Logs in, unless that is called off.
    ///
    /// # Errors
    /// Wrong usage, or why there is no session.
    pub(crate) fn connect_unless(
        &self,
        called_off: &Cancellation,
    ) -> anyhow::Result<Arc<dyn Hypervisor>> {
        self.connect_as(Exit::Source, called_off)
    }

    /// The same where disks are to be written.
    ///
    /// # Errors
    /// Wrong usage, or why there is no session.
    pub(crate) fn connect_to_write(
        &self,
        called_off: &Cancellation,
    ) -> anyhow::Result<Arc<dyn Hypervisor>> {
        self.connect_as(Exit::Target, called_off)
    }

    fn connect_as(
        &self,
        side: Exit,
        called_off: &Cancellation,
    ) -> anyhow::Result<Arc<dyn Hypervisor>> {
        self.log_in(called_off)?.map_err(|error| match error {
            VsphereError::CalledOff => Refusal::of(Exit::Interrupted, INTERRUPTED),
            error => Refusal::of(side, error.to_string()),
        })
    }

    /// Logs in, unless that is called off, and gives what the server or the way to it has against it.
    ///
    /// # Errors
    /// Wrong usage.
    pub(super) fn log_in(
        &self,
        called_off: &Cancellation,
    ) -> anyhow::Result<Result<Arc<dyn Hypervisor>, VsphereError>> {
        leave_no_core()?;
        let session = Vsphere::connect_unless(&self.server()?, called_off);
        Ok(session.map(|session| Arc::new(session) as Arc<dyn Hypervisor>))
    }

    /// Its host and port.
    ///
    /// # Errors
    /// What the name of a server is, and this one is not.
    pub(crate) fn address(&self) -> Result<(String, u16), String> {
        let name = self.name();
        // Before an @ there may be a password.
        let shown = name.rsplit('@').next().unwrap_or_default();
        host_and_port(&name).ok_or_else(|| format!("{shown}: write HOST, HOST:PORT or [IPV6]:PORT"))
    }

    /// Sees whether all that is needed is named; asks nobody.
    ///
    /// # Errors
    /// Wrong usage.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.server().map(drop)
    }

    fn server(&self) -> anyhow::Result<VsphereServer> {
        let (Some(server), Some(user), Some(file)) =
            (&self.vcenter, &self.vcenter_user, &self.vcenter_password_file)
        else {
            return Err(Refusal::usage(
                "which vCenter or ESXi host? name it with --vcenter, --vcenter-user and \
                 --vcenter-password-file",
            ));
        };
        let address = self.address().map_err(|what| Refusal::usage(format!("--vcenter {what}")));
        let (host, port) = address.about("vcenter")?;
        let trust = match (&self.vcenter_thumbprint, &self.vcenter_ca) {
            (Some(thumbprint), _) => Trust::Thumbprint(thumbprint.clone()),
            (None, Some(ca)) => trusted(ca).about("vcenter-ca")?,
            (None, None) => {
                return Err(Refusal::usage(format!(
                    "by what is {server} known? give --vcenter-thumbprint or --vcenter-ca; \
                     `openssl s_client -connect {host}:{port} </dev/null | openssl x509 -noout \
                     -fingerprint -sha1` shows the thumbprint of whoever answers there"
                )))
                .about("vcenter");
            }
        };
        let password = PasswordFile::at(file).map_err(|error| Refusal::usage(error.to_string()));
        let password = password.about("vcenter-password-file")?;
        let usual = VsphereServer::new(&host, user, password, trust);
        let mut deadlines = self.vcenter_deadline.map_or(usual.deadlines, VsphereDeadlines::within);
        deadlines.changes = self.vcenter_changes_deadline.unwrap_or(deadlines.changes);
        Ok(VsphereServer { port, deadlines, ..usual })
    }
}

/// The CA of a PEM file.
fn trusted(ca: &Path) -> anyhow::Result<Trust> {
    let wrong = |why: String| Refusal::usage(format!("--vcenter-ca {}: {why}", ca.display()));
    File::open(ca).map_err(|error| wrong(error.to_string()))?;
    let trust = Trust::CaFile(ca.to_owned());
    trust.check().map_err(Refusal::usage)?;
    Ok(trust)
}

/// Keeps what is in memory from core files, and from who collects them: a login has the password in
/// it, and the libraries that send it leave copies.
fn leave_no_core() -> anyhow::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("forbidding core files")
}

/// A host, in brackets if it is an address of IPv6 with a port, and the port.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            (host, port)
        }
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map_or(Some(HTTPS_PORT), |port| port.parse().ok())?;
    let is_host = !host.is_empty() && !host.contains(['/', '@', ' ']);
    is_host.then(|| (host.to_owned(), port))
}

/// How snapshots are made, and what is believed of them.
#[derive(Args, Clone, Debug)]
pub(crate) struct SnapshotOptions {
    /// Whether the guest is asked to put its data in order: none, try (which is usual) or require
    ///
    /// What became of it is noted in the point.
    #[arg(long, value_name = "POLICY", help_heading = SNAPSHOT)]
    quiesce: Option<QuiescePolicy>,

    /// How long the guest may take for that; vSphere has limits of its own
    #[arg(long, value_name = "TIME", value_parser = positive_duration, help_heading = SNAPSHOT)]
    quiesce_deadline: Option<Duration>,

    /// Turn change tracking (CBT) on where it is off and no snapshot stands in the way
    ///
    /// It takes a second snapshot, which is made and removed at once: the VM stands still for a
    /// moment.
    #[arg(long, help_heading = SNAPSHOT)]
    enable_cbt: bool,

    /// Read this share of what CBT calls unchanged, and compare it with the last point
    ///
    /// One difference, and the whole disk is compared; the point has an alarm then. By itself,
    /// nothing is.
    #[arg(
        long, value_name = "PERCENT", help_heading = SNAPSHOT,
        value_parser = clap::value_parser!(u8).range(0..=100)
    )]
    cbt_audit: Option<u8>,

    #[command(flatten)]
    disks: BudgetOptions,

    /// VMs with a snapshot on one datastore at once; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = Limits::default().snapshots_per_datastore, help_heading = BUDGETS)]
    max_snapshots_per_datastore: u32,
}

/// What a job that opens disks waits for, if others have it; a limit of 0 is none.
#[derive(Args, Clone, Debug)]
pub(crate) struct BudgetOptions {
    /// Disks of one ESXi host that are open at once; 0 for no limit
    ///
    /// A VM with more of them has its host to itself.
    #[arg(long, value_name = "N", default_value_t = Limits::default().disks_per_host, help_heading = BUDGETS)]
    max_disks_per_host: u32,

    /// Disks that are open at once through one --vcenter, each of which is a connection (NFC) there;
    /// 0 for no limit
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_per_server, help_heading = BUDGETS)]
    max_nfc_connections: u32,
}

impl BudgetOptions {
    /// Whether each is what it is by itself.
    pub(crate) fn is_plain(&self) -> bool {
        self.limits() == Limits::default()
    }

    /// With these limits.
    pub(crate) fn budgets(&self, vddk: &Settings) -> Budgets {
        budgets(vddk, self.limits())
    }

    fn limits(&self) -> Limits {
        Limits {
            disks_per_host: self.max_disks_per_host,
            connections_per_server: self.max_nfc_connections,
            ..Limits::default()
        }
    }
}

/// Where all jobs of this user and this machine meet, whatever their repositories are, and nothing
/// outlives a restart of the machine.
fn budgets(vddk: &Settings, limits: Limits) -> Budgets {
    Budgets::new(&vddk.runtime.join(BUDGET_FOLDER), limits)
}

impl SnapshotOptions {
    fn limits(&self) -> Limits {
        Limits { snapshots_per_datastore: self.max_snapshots_per_datastore, ..self.disks.limits() }
    }

    /// What is chosen for the snapshot.
    pub(crate) fn choice(&self) -> SnapshotChoice {
        SnapshotChoice {
            quiesce: self.quiesce,
            audit_percent: self.cbt_audit,
            enable_tracking: self.enable_cbt.then_some(true),
        }
    }

    /// Whether nothing is chosen but what a node can be told of one backup.
    pub(crate) fn is_choice(&self) -> bool {
        self.quiesce_deadline.is_none() && self.limits() == Limits::default()
    }

    /// Whether nothing is said of it.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_choice() && self.choice().is_none()
    }

    /// As settings.
    pub(crate) fn settings(&self, server: String, ledger: Ledger, vddk: Settings) -> VmSettings {
        let settings = VmSettings {
            server,
            ledger,
            budgets: budgets(&vddk, self.limits()),
            vddk,
            quiesce: QuiescePolicy::default(),
            quiesce_deadline: self.quiesce_deadline,
            enable_tracking: false,
            audit_percent: 0,
        };
        self.choice().over(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_their_ports() {
        let of = |text| host_and_port(text);
        assert_eq!(of("vc.example"), Some(("vc.example".into(), 443)));
        assert_eq!(of("vc.example:8443"), Some(("vc.example".into(), 8443)));
        assert_eq!(of("::1"), Some(("::1".into(), 443)));
        assert_eq!(of("[::1]:8443"), Some(("::1".into(), 8443)));
        assert_eq!(of("[::1]"), Some(("::1".into(), 443)));
        for text in ["", ":443", "https://vc", "vc:x", "vc:70000", "[::1", "u@vc", "[::1]443"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
