//! The hub without its HTTP.

mod exports;
mod nodes;
mod ports;
mod restart;
mod tokens;

use std::sync::Arc;

use blockferry_doubles::PortBlock;
use tempfile::TempDir;

use super::*;
use crate::catalog::{BackupMode, DiskName, Job, JobKind, Jobs, NewJob, SqliteCatalog, VmName};

/// A state folder and a range of ports.
struct Place {
    folder: TempDir,
    block: PortBlock,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), block: PortBlock::take() }
    }

    fn settings(&self) -> HubSettings {
        HubSettings { ports: self.block.first(8), ..HubSettings::on(self.folder.path()) }
    }

    fn open(&self) -> (Hub, Recovery) {
        Hub::open(&self.settings()).unwrap()
    }

    fn hub(&self) -> Hub {
        self.open().0
    }

    fn first(&self) -> u16 {
        *self.block.range().start()
    }
}

fn holder(text: &str) -> Holder {
    text.parse().unwrap()
}

fn vm(text: &str) -> VmName {
    text.parse().unwrap()
}

fn disk(text: &str) -> DiskName {
    text.parse().unwrap()
}

/// A job of the hub itself.
fn own_job(catalog: &Arc<SqliteCatalog>, name: &str) -> Job {
    let new = NewJob {
        kind: JobKind::Backup,
        vm: vm(name),
        mode: BackupMode::Auto,
        key: None,
        asked: None,
    };
    catalog.add_job(new).unwrap().into_job()
}

/// Whether somebody listens on a port.
fn is_bound(port: u16) -> bool {
    std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).is_ok()
}
