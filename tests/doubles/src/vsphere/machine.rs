//! VMs and disks as a test orders them.

/// A VM to be made.
#[derive(Clone, Debug)]
pub struct NewMachine {
    pub(crate) name: String,
    pub(crate) disks: Vec<NewDisk>,
    pub(crate) folder: Vec<String>,
    pub(crate) datacenter: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) hardware: u32,
    pub(crate) powered_on: bool,
    pub(crate) tools_running: bool,
    pub(crate) uuid: Option<String>,
    pub(crate) tracking: bool,
}

/// A disk to be made.
#[derive(Clone, Debug)]
pub struct NewDisk {
    pub(crate) capacity: u64,
    pub(crate) mode: DiskMode,
    pub(crate) backing: Backing,
    pub(crate) multi_writer: bool,
    pub(crate) uuid: Option<String>,
}

/// Whether snapshots reach a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DiskMode {
    /// They do.
    #[default]
    Persistent,
    /// They do not.
    IndependentPersistent,
}

/// What a disk is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// A flat file.
    #[default]
    Flat,
    /// A sparse file.
    Sparse,
    /// A mapped device that snapshots reach.
    VirtualRdm,
    /// A mapped device that they do not.
    PhysicalRdm,
    /// A device itself.
    RawDevice,
}

impl NewMachine {
    /// Powered on, with tools, of hardware version 19, without disks.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            disks: Vec::new(),
            folder: Vec::new(),
            datacenter: None,
            host: None,
            hardware: 19,
            powered_on: true,
            tools_running: true,
            uuid: None,
            tracking: false,
        }
    }

    /// Adds a disk of so many bytes.
    #[must_use]
    pub fn disk(self, capacity: u64) -> Self {
        self.with_disk(NewDisk::new(capacity))
    }

    /// Adds a disk.
    #[must_use]
    pub fn with_disk(mut self, disk: NewDisk) -> Self {
        self.disks.push(disk);
        self
    }

    /// In this folder, `a/b`, which is made where it is missing.
    #[must_use]
    pub fn folder(self, path: &str) -> Self {
        Self { folder: path.split('/').map(str::to_owned).collect(), ..self }
    }

    /// In this datacenter rather than the first.
    #[must_use]
    pub fn datacenter(self, name: &str) -> Self {
        Self { datacenter: Some(name.to_owned()), ..self }
    }

    /// On this host rather than the first of the datacenter.
    #[must_use]
    pub fn host(self, name: &str) -> Self {
        Self { host: Some(name.to_owned()), ..self }
    }

    /// Hardware version `vmx-NN`.
    #[must_use]
    pub fn hardware(self, version: u32) -> Self {
        Self { hardware: version, ..self }
    }

    /// Powered off.
    #[must_use]
    pub fn powered_off(self) -> Self {
        Self { powered_on: false, tools_running: false, ..self }
    }

    /// Without VMware Tools: it cannot be quiesced.
    #[must_use]
    pub fn without_tools(self) -> Self {
        Self { tools_running: false, ..self }
    }

    /// This BIOS UUID; several VMs may have the same.
    #[must_use]
    pub fn uuid(self, uuid: &str) -> Self {
        Self { uuid: Some(uuid.to_owned()), ..self }
    }

    /// Changed block tracking is enabled and effective.
    #[must_use]
    pub fn tracked(self) -> Self {
        Self { tracking: true, ..self }
    }
}

impl NewDisk {
    /// A flat, persistent one that is its VM's alone.
    pub fn new(capacity: u64) -> Self {
        Self {
            capacity,
            mode: DiskMode::default(),
            backing: Backing::default(),
            multi_writer: false,
            uuid: None,
        }
    }

    /// Snapshots do not reach it.
    #[must_use]
    pub fn independent(self) -> Self {
        Self { mode: DiskMode::IndependentPersistent, ..self }
    }

    /// Made of this.
    #[must_use]
    pub fn backing(self, backing: Backing) -> Self {
        Self { backing, ..self }
    }

    /// This UUID, as a copy of another disk has.
    #[must_use]
    pub fn uuid(self, uuid: &str) -> Self {
        Self { uuid: Some(uuid.to_owned()), ..self }
    }

    /// Other VMs write to it too.
    #[must_use]
    pub fn multi_writer(self) -> Self {
        Self { multi_writer: true, ..self }
    }
}
