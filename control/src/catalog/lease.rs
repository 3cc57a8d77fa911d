//! Leases: claims with one owner, on disk before the thing itself is touched.

use std::fmt;
use std::ops::RangeInclusive;

use super::error::CatalogError;
use super::id::{JobId, LeaseId};
use super::name::ValueError;
use super::time::UnixMillis;
use super::word::words;

words! {
    /// The kinds of things that are leased.
    ClaimKind, "kind of lease" {
        /// A port of the hub.
        Port = "port",
        /// An export: a process that serves an image.
        Export = "export",
        /// An image that is written.
        Image = "image",
        /// A snapshot of a VM.
        Snapshot = "snapshot",
    }
}

/// What is claimed. The same thing is leased once at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    kind: ClaimKind,
    key: String,
}

impl Claim {
    /// A port.
    #[must_use]
    pub fn port(port: u16) -> Self {
        Self { kind: ClaimKind::Port, key: port.to_string() }
    }

    /// Any kind of thing, by what tells it from others of its kind.
    ///
    /// # Errors
    /// [`ValueError`] for an empty key, one of more than 1024 bytes or with control characters,
    /// and for a port that is not a number from 0 to 65535 as it is written.
    pub fn new(kind: ClaimKind, key: &str) -> Result<Self, ValueError> {
        const MAX_BYTES: usize = 1024;
        let claim = Self { kind, key: key.to_owned() };
        if !(1..=MAX_BYTES).contains(&key.len()) || key.chars().any(char::is_control) {
            return Err(ValueError::new(
                "key of a lease",
                key,
                "it has 1 to 1024 bytes and no control characters",
            ));
        }
        if kind == ClaimKind::Port && claim.port_number().is_none_or(|n| n.to_string() != key) {
            return Err(ValueError::new("port", key, "it is a number from 0 to 65535"));
        }
        Ok(claim)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ClaimKind {
        self.kind
    }

    /// What tells it from others of its kind.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The port, if it is one.
    #[must_use]
    pub fn port_number(&self) -> Option<u16> {
        (self.kind == ClaimKind::Port).then(|| self.key.parse().ok()).flatten()
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id: that of this grant, not of the thing, which may be granted again.
    pub id: LeaseId,
    /// What is leased.
    pub claim: Claim,
    /// The job that holds it.
    pub owner: JobId,
    /// Since when.
    pub created: UnixMillis,
}

/// The leases of a catalog.
pub trait Leases {
    /// Leases something to a job of this catalog that is not over.
    ///
    /// # Errors
    /// [`CatalogError::Taken`] while anybody has it, the same job too.
    fn lease(&self, owner: JobId, claim: Claim) -> Result<Lease, CatalogError>;

    /// Leases the lowest free port of a range.
    ///
    /// # Errors
    /// [`CatalogError::NoFreePort`] when all are taken.
    fn lease_port(&self, owner: JobId, ports: RangeInclusive<u16>) -> Result<Lease, CatalogError>;

    /// Leases several things to a job of this catalog that is not over: all of them or none, in
    /// one transaction. The leases come in the order of the claims.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), for the first claim that cannot be granted.
    fn lease_all(&self, owner: JobId, claims: Vec<Claim>) -> Result<Vec<Lease>, CatalogError>;

    /// Gives back a lease.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchLease`] when it was given back before, and
    /// [`CatalogError::NotOwner`] when it is another job's, which keeps it.
    fn release(&self, lease: LeaseId, owner: JobId) -> Result<(), CatalogError>;

    /// Gives back several leases of one job: all of them or none, in one transaction.
    ///
    /// # Errors
    /// As [`release`](Self::release), for the first lease that cannot be given back.
    fn release_each(&self, leases: Vec<LeaseId>, owner: JobId) -> Result<(), CatalogError>;

    /// Gives back all that a job holds, and says what that was: nothing the second time.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchJob`].
    fn release_all(&self, owner: JobId) -> Result<Vec<Lease>, CatalogError>;

    /// What a job holds, in the order of the grants.
    ///
    /// # Errors
    /// [`CatalogError::NoSuchJob`].
    fn leases_of(&self, owner: JobId) -> Result<Vec<Lease>, CatalogError>;

    /// All leases, in the order of the grants.
    ///
    /// # Errors
    /// [`CatalogError::Storage`].
    fn leases(&self) -> Result<Vec<Lease>, CatalogError>;
}
