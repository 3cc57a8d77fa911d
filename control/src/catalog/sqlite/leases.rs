//! Leases in their table.

use std::ops::RangeInclusive;

use rusqlite::{Connection, params};

use super::SqliteCatalog;
use super::failure::Outcome;
use super::rows::{self, Ask};
use crate::catalog::error::CatalogError;
use crate::catalog::id::{JobId, LeaseId};
use crate::catalog::lease::{Claim, Lease, Leases};
use crate::catalog::time::UnixMillis;

impl Leases for SqliteCatalog {
    fn lease(&self, owner: JobId, claim: Claim) -> Result<Lease, CatalogError> {
        self.write(move |tables| {
            live(tables, owner)?;
            grant_free(tables, owner, claim)
        })
    }

    fn lease_all(&self, owner: JobId, claims: Vec<Claim>) -> Result<Vec<Lease>, CatalogError> {
        self.write(move |tables| {
            live(tables, owner)?;
            claims.into_iter().map(|claim| grant_free(tables, owner, claim)).collect()
        })
    }

    fn lease_port(&self, owner: JobId, ports: RangeInclusive<u16>) -> Result<Lease, CatalogError> {
        self.write(move |tables| {
            live(tables, owner)?;
            match lowest_free(tables, ports.clone())? {
                Some(port) => grant(tables, owner, Claim::port(port)),
                None => {
                    let (first, last) = ports.into_inner();
                    Err(CatalogError::NoFreePort { first, last }.into())
                }
            }
        })
    }

    fn release(&self, lease: LeaseId, owner: JobId) -> Result<(), CatalogError> {
        self.write(move |tables| give_back(tables, lease, owner))
    }

    fn release_each(&self, leases: Vec<LeaseId>, owner: JobId) -> Result<(), CatalogError> {
        self.write(move |tables| {
            leases.iter().try_for_each(|&lease| give_back(tables, lease, owner))
        })
    }

    fn release_all(&self, owner: JobId) -> Result<Vec<Lease>, CatalogError> {
        self.write(move |tables| {
            let held = held(tables, owner)?;
            tables.change("DELETE FROM leases WHERE owner = ?1", [owner.as_str()])?;
            Ok(held)
        })
    }

    fn leases_of(&self, owner: JobId) -> Result<Vec<Lease>, CatalogError> {
        self.read(|tables| held(tables, owner))
    }

    fn leases(&self) -> Result<Vec<Lease>, CatalogError> {
        let sql = format!("SELECT {} FROM leases ORDER BY id", rows::LEASE);
        self.read(|tables| tables.all(&sql, [], rows::lease))
    }
}

/// A job that is over would never give back what it takes now.
fn live(tables: &Connection, owner: JobId) -> Outcome<()> {
    let job = tables.known_job(owner)?;
    if job.state.is_over() {
        return Err(CatalogError::JobOver { job: owner, state: job.state }.into());
    }
    Ok(())
}

fn held(tables: &Connection, owner: JobId) -> Outcome<Vec<Lease>> {
    tables.known_job(owner)?;
    let sql = format!("SELECT {} FROM leases WHERE owner = ?1 ORDER BY id", rows::LEASE);
    tables.all(&sql, [owner.as_str()], rows::lease)
}

fn grant_free(tables: &Connection, owner: JobId, claim: Claim) -> Outcome<Lease> {
    let sql = format!("SELECT {} FROM leases WHERE kind = ?1 AND key = ?2", rows::LEASE);
    let key = params![claim.kind().as_str(), claim.key()];
    if let Some(taken) = tables.one(&sql, key, rows::lease)? {
        return Err(CatalogError::Taken { claim, owner: taken.owner }.into());
    }
    grant(tables, owner, claim)
}

fn give_back(tables: &Connection, lease: LeaseId, owner: JobId) -> Outcome<()> {
    let sql = format!("SELECT {} FROM leases WHERE id = ?1", rows::LEASE);
    let held =
        tables.one(&sql, [lease.get()], rows::lease)?.ok_or(CatalogError::NoSuchLease(lease))?;
    if held.owner != owner {
        let (owner, asked) = (held.owner, owner);
        return Err(CatalogError::NotOwner { lease, owner, asked }.into());
    }
    tables.change("DELETE FROM leases WHERE id = ?1", [lease.get()])?;
    Ok(())
}

fn grant(tables: &Connection, owner: JobId, claim: Claim) -> Outcome<Lease> {
    let now = UnixMillis::now();
    let sql = format!(
        "INSERT INTO leases (kind, key, owner, created_ms) VALUES (?1, ?2, ?3, ?4) RETURNING {}",
        rows::LEASE
    );
    let row = params![claim.kind().as_str(), claim.key(), owner.as_str(), rows::millis(now)];
    let lease = tables.one(&sql, row, rows::lease)?;
    Ok(lease.expect("an insertion that succeeds returns its row"))
}

/// Ports are few: reading those that are taken, from the index alone, is no more work than a
/// cleverer question.
fn lowest_free(tables: &Connection, ports: RangeInclusive<u16>) -> Outcome<Option<u16>> {
    let sql = "SELECT key FROM leases WHERE kind = 'port'";
    let mut taken: Vec<u16> = tables.all(sql, [], |row| rows::text(row, 0))?;
    taken.sort_unstable();
    Ok(ports.into_iter().find(|port| taken.binary_search(port).is_err()))
}
