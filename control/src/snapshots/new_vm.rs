//! A VM that is to be made.

use super::vm::VmId;

/// What a new VM is, and where it comes to be. What is not said is as with the VM that it is like,
/// or as there is only one of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVm {
    /// Its name.
    pub name: String,
    /// What people read about it.
    pub note: String,
    /// The VM that it takes what is not said from.
    pub like: Option<VmId>,
    /// Where it comes to be.
    pub site: NewVmSite,
    /// What it is made of.
    pub hardware: NewVmHardware,
    /// The sizes of its disks in bytes, in the order of its devices. They are thin, and all zero.
    pub disks: Vec<u64>,
}

/// Where a new VM comes to be; each by name or id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVmSite {
    /// The folder, by name or path. Otherwise that of the other VM, or the uppermost one.
    pub folder: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The datastore, which the host has to reach.
    pub datastore: Option<String>,
    /// The resource pool. Otherwise that of the other VM, or the whole host or cluster.
    pub pool: Option<String>,
}

/// What a new VM is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVmHardware {
    /// Which system it is made for, in the hypervisor's words: `debian11_64Guest`. Otherwise one
    /// that says nothing.
    pub guest: Option<String>,
    /// Processors; otherwise 1.
    pub cpus: Option<u32>,
    /// Memory in MiB; otherwise 1024.
    pub memory_mib: Option<u64>,
    /// How it starts; otherwise by BIOS.
    pub firmware: Option<Firmware>,
    /// What its disks hang on; otherwise the paravirtual one.
    pub controller: Option<DiskController>,
}

/// How a VM starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Firmware {
    /// As PCs did.
    Bios,
    /// By UEFI.
    Efi,
}

/// What disks hang on. The guest has to know it, or it does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DiskController {
    /// VMware's own, paravirtual.
    Paravirtual,
    /// LSI Logic, parallel.
    LsiLogic,
    /// LSI Logic, SAS.
    LsiLogicSas,
}

impl Firmware {
    /// In a word, which is also the hypervisor's.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Efi => "efi",
        }
    }
}

impl std::str::FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Bios, Self::Efi].into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| "it is bios or efi".into())
    }
}

impl DiskController {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paravirtual => "pvscsi",
            Self::LsiLogic => "lsilogic",
            Self::LsiLogicSas => "lsilogic-sas",
        }
    }
}

impl std::str::FromStr for DiskController {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Paravirtual, Self::LsiLogic, Self::LsiLogicSas];
        let known = all.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| "it is pvscsi, lsilogic or lsilogic-sas".into())
    }
}
