//! Where an export is, whichever process serves it.

use std::sync::Arc;

use super::ports::{Holder, PortError, PortLease, PortUse, Ports};
use crate::export::Listener;

/// An address that stays when its export dies, so that another one can be started there.
#[derive(Clone, Debug)]
pub(crate) enum ExportAddress {
    /// A listener that nobody leases out.
    Own {
        /// It.
        listener: Listener,
        /// What the export there is called.
        name: String,
    },
    /// A port of a hub; the lease says what its export is called.
    Port(Arc<Ports>, PortLease),
}

impl ExportAddress {
    /// What an export listens on, its name there, and what keeps the port while it does.
    ///
    /// # Errors
    /// [`PortError`] when the port is leased no more.
    pub(crate) fn take(&self) -> Result<(Listener, String, Option<PortUse>), PortError> {
        match self {
            Self::Own { listener, name } => Ok((listener.clone(), name.clone(), None)),
            Self::Port(ports, lease) => {
                let used = ports.use_for_export(lease.port, &Holder::from(lease.job))?;
                Ok((used.listener(), lease.export_name(), Some(used)))
            }
        }
    }
}
