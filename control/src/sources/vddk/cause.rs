//! What nbdkit says when it cannot serve a disk, and what to do about it.

/// Why a disk is not served, as far as the words of nbdkit, its plugin or VMware's library tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// nbdkit has no such plugin.
    PluginMissing,
    /// VMware's library is not where it is looked for.
    LibraryMissing,
    /// The plugin does not know a parameter, or its value.
    Parameter,
    /// User or password.
    Login,
    /// The server is not the one that it is taken for.
    Thumbprint,
    /// The VM, or how it was named.
    Machine,
    /// The VM has no such snapshot.
    Snapshot,
    /// The datastore has no such file.
    FileMissing,
    /// The user may not, or the file is not the snapshot's.
    Rights,
    /// Somebody else has the file: the VM runs, or is being backed up.
    Locked,
    /// The host has no more memory for transfers.
    TransferMemory,
    /// The ESXi host does not take the connection for data.
    Connection,
    /// The ESXi host is in maintenance.
    Maintenance,
    /// Something else.
    Unknown,
}

/// Words, in small letters, that tell a cause; the first that fits is it. Those of the library are
/// from its error codes and from what its users report, for nothing here has met it.
const TELLING: &[(&str, Refusal)] = &[
    ("cannot open plugin", Refusal::PluginMissing),
    ("libvixdisklib", Refusal::LibraryMissing),
    ("realpath:", Refusal::LibraryMissing),
    ("vddk version must be", Refusal::LibraryMissing),
    ("unknown parameter", Refusal::Parameter),
    ("unknown compression type", Refusal::Parameter),
    ("missing parameter", Refusal::Parameter),
    ("incorrect user name or password", Refusal::Login),
    ("cannot complete login", Refusal::Login),
    ("thumbprint", Refusal::Thumbprint),
    ("ssl certificate", Refusal::Thumbprint),
    ("nfc error 5", Refusal::TransferMemory),
    ("failed to allocate the requested", Refusal::TransferMemory),
    ("maintenance mode", Refusal::Maintenance),
    ("authd", Refusal::Connection),
    ("server refused connection", Refusal::Connection),
    ("snapshot does not exist", Refusal::Snapshot),
    ("one of the parameters was invalid", Refusal::Machine),
    ("file was not found", Refusal::FileMissing),
    ("do not have access rights", Refusal::Rights),
    ("insufficient permissions", Refusal::Rights),
    ("failed to lock the file", Refusal::Locked),
];

impl Refusal {
    /// What to do.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::PluginMissing => {
                "install nbdkit's vddk plugin (nbdkit-plugin-vddk, or nbdkit-vddk-plugin), or set \
                 the path of one"
            }
            Self::LibraryMissing => {
                "set libdir to the folder that VMware's VDDK was unpacked to, in a version that \
                 the plugin knows"
            }
            Self::Parameter => "look at the additional parameters, and at the plugin's version",
            Self::Login => "check the user and the password of the server",
            Self::Thumbprint => {
                "if the server's certificate was renewed, set its new thumbprint; if not, somebody \
                 else answers in its place"
            }
            Self::Machine => {
                "is the VM still at this server, and is the thumbprint the server's own?"
            }
            Self::Snapshot => "it was removed meanwhile; start the job again",
            Self::FileMissing => "was the disk moved or removed since the snapshot was made?",
            Self::Rights => {
                "give the user VirtualMachine.Provisioning.DiskRandomRead (to restore: \
                 DiskRandomAccess) on the VM"
            }
            Self::Locked => "the VM has to be powered off, and nobody else may have the disk open",
            Self::TransferMemory => {
                "read fewer disks of that host at once, or raise the memory of its NFC service"
            }
            Self::Connection => {
                "the ESXi host of the VM has to be reached by its name, on port 902 over TCP"
            }
            Self::Maintenance => {
                "start the job again when the host is back, or when the VM is on another one"
            }
            Self::Unknown => "nbdkit -v with the same parameters tells more",
        }
    }
}

/// Which of the lines is the cause, and what it means.
pub(super) fn told(lines: &[String]) -> (Refusal, String) {
    let telling = lines.iter().find_map(|line| {
        let small = line.to_lowercase();
        let (_, refusal) = TELLING.iter().find(|(words, _)| small.contains(words))?;
        Some((*refusal, line))
    });
    let error = || lines.iter().rev().find(|line| line.contains("error:"));
    let last = || lines.iter().rev().find(|line| !line.trim().is_empty());
    match telling.or_else(|| error().or_else(last).map(|line| (Refusal::Unknown, line))) {
        Some((refusal, line)) => (refusal, bare(line).to_owned()),
        None => (Refusal::Unknown, "it said nothing".to_owned()),
    }
}

/// The last line that tells of an error.
pub(super) fn last_error(lines: &[String]) -> Option<String> {
    lines.iter().rev().find(|line| line.contains("error:")).map(|line| bare(line).to_owned())
}

/// The line without who says it.
fn bare(line: &str) -> &str {
    let line = line.trim();
    match line.split_once("error: ") {
        Some((who, words)) if who.starts_with("nbdkit: ") => words,
        _ => line.strip_prefix("nbdkit: ").unwrap_or(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_by_its_words_and_without_who_says_them() {
        for (line, refusal, words) in [
            (
                "nbdkit: vddk[1]: error: VixDiskLib_Open: [ds] a.vmdk: The server refused connection",
                Refusal::Connection,
                "VixDiskLib_Open: [ds] a.vmdk: The server refused connection",
            ),
            (
                "nbdkit: vddk[1]: error: [NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error 5 \
                 from server: Failed to allocate the requested 2097176 bytes",
                Refusal::TransferMemory,
                "[NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error 5 from server: Failed to \
                 allocate the requested 2097176 bytes",
            ),
            (
                "nbdkit: error: cannot open plugin \"vddk\": /usr/lib/nbdkit-vddk-plugin.so: cannot \
                 open shared object file: No such file or directory",
                Refusal::PluginMissing,
                "cannot open plugin \"vddk\": /usr/lib/nbdkit-vddk-plugin.so: cannot open shared \
                 object file: No such file or directory",
            ),
            ("nbdkit: vddk[1]: error: what else", Refusal::Unknown, "what else"),
            ("Killed by the weather", Refusal::Unknown, "Killed by the weather"),
        ] {
            assert_eq!(told(&[line.to_owned()]), (refusal, words.to_owned()));
        }
    }

    #[test]
    fn the_line_that_tells_is_found_among_others() {
        let lines = [
            "Warning: something",
            "nbdkit: vddk[1]: error: VixDiskLib_ConnectEx: Cannot complete login due to ...",
            "nbdkit: vddk[1]: error: and so on",
            "",
        ];
        let (refusal, words) = told(&lines.map(str::to_owned));
        assert_eq!(refusal, Refusal::Login);
        assert_eq!(words, "VixDiskLib_ConnectEx: Cannot complete login due to ...");
        assert_eq!(told(&[]), (Refusal::Unknown, "it said nothing".to_owned()));
    }
}
