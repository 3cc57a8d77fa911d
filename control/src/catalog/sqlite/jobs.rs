//! Jobs in their table.

use blockferry_dataplane::nbd::without_passwords;
use rusqlite::{Connection, params, params_from_iter};

use super::SqliteCatalog;
use super::failure::Outcome;
use super::rows::{self, Ask};
use crate::catalog::error::CatalogError;
use crate::catalog::id::JobId;
use crate::catalog::job::{
    Admission, FailureKind, Job, JobFilter, JobState, JobStep, Jobs, NewJob,
};
use crate::catalog::name::IdempotencyKey;
use crate::catalog::time::UnixMillis;

impl Jobs for SqliteCatalog {
    fn add_job(&self, new: NewJob) -> Result<Admission, CatalogError> {
        self.write(move |tables| add(tables, new))
    }

    fn job(&self, job: JobId) -> Result<Job, CatalogError> {
        self.read(|tables| tables.known_job(job))
    }

    fn job_of_key(&self, key: &IdempotencyKey) -> Result<Option<Job>, CatalogError> {
        self.read(|tables| of_key(tables, key))
    }

    fn jobs(&self, filter: &JobFilter) -> Result<Vec<Job>, CatalogError> {
        // One question mark a state: there are few, and a filter may name each once or more.
        let places = vec!["?"; filter.states.len()].join(", ");
        let mut conditions = vec!["TRUE".to_owned()];
        conditions.extend(filter.vm.as_ref().map(|_| "vm = ?".to_owned()));
        conditions.extend(filter.kind.map(|_| "kind = ?".to_owned()));
        if !filter.states.is_empty() {
            conditions.push(format!("state IN ({places})"));
        }
        let sql = format!(
            "SELECT {} FROM jobs WHERE {} ORDER BY number DESC LIMIT {}",
            rows::JOB,
            conditions.join(" AND "),
            filter.newest.map_or(-1, i64::from)
        );
        let vm = filter.vm.iter().map(|vm| vm.as_str());
        let kind = filter.kind.iter().map(|kind| kind.as_str());
        let values = vm.chain(kind).chain(filter.states.iter().map(|state| state.as_str()));
        let mut jobs = self.read(|tables| tables.all(&sql, params_from_iter(values), rows::job))?;
        jobs.reverse();
        Ok(jobs)
    }

    fn advance(&self, job: JobId, state: JobState, reason: &str) -> Result<Job, CatalogError> {
        let reason = reason.to_owned();
        self.write(move |tables| advance(tables, job, state, reason))
    }

    fn fail(&self, job: JobId, failure: FailureKind, reason: &str) -> Result<Job, CatalogError> {
        let reason = reason.to_owned();
        self.write(move |tables| {
            let job = advance(tables, job, JobState::Failed, reason)?;
            tables.change(
                "UPDATE jobs SET failure = ?2 WHERE id = ?1",
                params![job.id.as_str(), failure.as_str()],
            )?;
            Ok(Job { failure: Some(failure), ..job })
        })
    }

    fn steps(&self, job: JobId) -> Result<Vec<JobStep>, CatalogError> {
        self.read(|tables| {
            tables.known_job(job)?;
            tables.all(
                "SELECT state, at_ms, reason FROM job_steps WHERE job = ?1 ORDER BY number",
                [job.as_str()],
                rows::step,
            )
        })
    }
}

fn add(tables: &Connection, new: NewJob) -> Outcome<Admission> {
    if let Some(key) = &new.key
        && let Some(known) = of_key(tables, key)?
    {
        let is_other = |asked| known.asked.as_ref().is_some_and(|was| was != asked);
        if (&known.vm, known.mode, known.kind) != (&new.vm, new.mode, new.kind)
            || new.asked.as_ref().is_some_and(is_other)
        {
            let (job, vm) = (known.id, known.vm);
            return Err(CatalogError::KeyReused { key: key.clone(), job, vm }.into());
        }
        return Ok(Admission::Known(known));
    }
    let now = UnixMillis::now();
    let job = Job {
        id: JobId::new(),
        kind: new.kind,
        vm: new.vm,
        mode: new.mode,
        state: JobState::Queued,
        key: new.key,
        asked: new.asked,
        created: now,
        changed: now,
        reason: "asked for".to_owned(),
        failure: None,
    };
    tables.change(
        "INSERT INTO jobs (id, vm, mode, state, idempotency_key, created_ms, changed_ms, reason,
                           kind, asked)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            job.id.as_str(),
            job.vm.as_str(),
            job.mode.as_str(),
            job.state.as_str(),
            job.key.as_ref().map(|key| key.as_str()),
            rows::millis(job.created),
            rows::millis(job.changed),
            job.reason,
            job.kind.as_str(),
            job.asked.as_ref().map(|asked| asked.as_str()),
        ],
    )?;
    note(tables, &job)?;
    Ok(Admission::New(job))
}

fn of_key(tables: &Connection, key: &IdempotencyKey) -> Outcome<Option<Job>> {
    let sql = format!("SELECT {} FROM jobs WHERE idempotency_key = ?1", rows::JOB);
    tables.one(&sql, [key.as_str()], rows::job)
}

/// Moves a job on, if that is a way that jobs go.
pub(super) fn advance(
    tables: &Connection,
    id: JobId,
    state: JobState,
    reason: String,
) -> Outcome<Job> {
    let job = tables.known_job(id)?;
    if !job.state.may_become(state) {
        return Err(CatalogError::IllegalStep { job: id, from: job.state, to: state }.into());
    }
    // Reasons may say what was asked for, and stay for long.
    let reason = without_passwords(&reason);
    let job = Job { state, changed: UnixMillis::now(), reason, ..job };
    tables.change(
        "UPDATE jobs SET state = ?2, changed_ms = ?3, reason = ?4 WHERE id = ?1",
        params![id.as_str(), state.as_str(), rows::millis(job.changed), job.reason],
    )?;
    note(tables, &job)?;
    Ok(job)
}

fn note(tables: &Connection, job: &Job) -> Outcome<()> {
    tables.change(
        "INSERT INTO job_steps (job, state, at_ms, reason) VALUES (?1, ?2, ?3, ?4)",
        params![job.id.as_str(), job.state.as_str(), rows::millis(job.changed), job.reason],
    )?;
    Ok(())
}
