//! One backup, from the request to the point.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Instant;

use blockferry_dataplane::manifest::Manifest;
use blockferry_dataplane::{Counts, Event};

use super::cancel::Cancellation;
use super::carrier::{Carried, Sought};
use super::copying::Copying;
use super::error::{BackupError, WhichDisk};
use super::ground::Ground;
use super::holding::Holding;
use super::origin::Origin;
use super::plan::{DiskPlan, Planned, Planning};
use super::report::{BackupReport, DiskReport};
use super::request::{BackupRequest, BackupSettings, DIGEST, DiskRequest};
use super::stage::{Staged, stage};
use super::vm::VmSource;
use crate::catalog::{
    BackupMode, ByteCounts, CatalogError, ChangeId, CheckedFile, DiskId, DiskName, Job, JobId,
    JobState, Jobs, LayerFacts, ManifestFacts, ManifestId, NewPoint, Point, PointFilter, PointId,
    Points, RelativePath, UnixMillis, VmName, VmUuid,
};
use crate::child::each;
use crate::export::ExportError;
use crate::image::{CheckVerdict, Image};
use crate::repository::{Repository, RepositoryError, Work, checked_file};

/// Who wants to know how a backup gets on. Called from several threads; should be quick.
pub trait Watch: Send + Sync {
    /// The job is taken in, or goes on.
    fn job(&self, job: &Job) {
        let _ = job;
    }
    /// What will become of a disk.
    fn planned(&self, plan: &DiskPlan) {
        let _ = plan;
    }
    /// Something that a person should know.
    fn note(&self, text: &str) {
        let _ = text;
    }
    /// Something for who wants to know all.
    fn detail(&self, text: &str) {
        let _ = text;
    }
    /// What is to be told if the job is cut off from here on; nothing, if it is over or nothing is worth
    /// telling.
    fn last_words(&self, text: Option<&str>) {
        let _ = text;
    }
    /// Something happened to the lane of a disk.
    fn lane(&self, disk: &DiskName, event: &Event<'_>) {
        let _ = (disk, event);
    }
    /// The counts of all disks so far, in the order of the request.
    fn progress(&self, disks: &[Counts]) {
        let _ = disks;
    }
}

/// Where nobody listens.
pub(crate) struct Unheard;

impl Watch for Unheard {}

/// What becomes of a disk, in words.
#[must_use]
pub fn plan_words(disk: &str, mode: &str, reason: &str) -> String {
    format!("disk {disk}: {mode}, because {reason}")
}

/// What happened to the lane of a disk, in words; nothing for what is told otherwise.
#[must_use]
pub fn lane_words(disk: &DiskName, event: &Event<'_>) -> Option<String> {
    match event {
        Event::Started { payload, reason, .. } => {
            Some(format!("disk {disk}: payload {payload}: {reason}"))
        }
        Event::Note { text, .. } => Some(format!("disk {disk}: {text}")),
        Event::Reconnecting { side, attempt, reason, .. } => Some(format!(
            "disk {disk}: connecting again to the {side}, attempt {attempt}: {reason}"
        )),
        Event::Finished { fault: None, .. } => Some(format!("disk {disk}: copied and flushed")),
        _ => None,
    }
}

/// Tells of what happens to the lanes of disks, which are in this order.
pub(crate) fn lane_teller(
    watch: &Arc<dyn Watch>,
    names: Vec<DiskName>,
) -> impl Fn(&Event<'_>) + Send + Sync + use<> {
    let watch = Arc::clone(watch);
    move |event| {
        if let Event::Started { lane, .. }
        | Event::Note { lane, .. }
        | Event::Reconnecting { lane, .. }
        | Event::Finished { lane, .. } = event
        {
            watch.lane(&names[*lane], event);
        }
    }
}

/// Makes a restore point of all disks of a VM, in a repository without a hub.
///
/// # Errors
/// [`BackupError`]. Nothing is left of the attempt but the job and its reason.
pub fn back_up(
    repository: &Repository,
    request: &BackupRequest,
    settings: &BackupSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<BackupReport, BackupError> {
    request.check()?;
    let (job, work) = repository.begin(request.vm.clone(), request.mode)?;
    watch.job(&job);
    let ground = Ground::alone(repository, settings);
    let origin = None;
    Run { ground: &ground, request, origin, settings, watch, cancellation, job: job.id }
        .to_end(work)
}

/// Makes a restore point of a VM of a hypervisor, which is called `vm` in the repository. There is
/// a snapshot of it meanwhile, and none afterwards, however this ends.
///
/// # Errors
/// [`BackupError`]. Nothing is left of the attempt but the job and its reason.
pub fn back_up_vm(
    repository: &Repository,
    origin: &VmSource,
    vm: &VmName,
    mode: BackupMode,
    settings: &BackupSettings,
    watch: &Arc<dyn Watch>,
    cancellation: &Cancellation,
) -> Result<BackupReport, BackupError> {
    let request = &BackupRequest { vm: vm.clone(), disks: Vec::new(), mode };
    let (job, work) = repository.begin(vm.clone(), mode)?;
    watch.job(&job);
    let ground = Ground::alone(repository, settings);
    let origin = Some(origin as &dyn Origin);
    Run { ground: &ground, request, origin, settings, watch, cancellation, job: job.id }
        .to_end(work)
}

/// A backup of a job that is there, with the folder that it works in.
pub(crate) struct Run<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) request: &'a BackupRequest,
    /// Where the disks come from, if not from the request.
    pub(crate) origin: Option<&'a dyn Origin>,
    pub(crate) settings: &'a BackupSettings,
    pub(crate) watch: &'a Arc<dyn Watch>,
    pub(crate) cancellation: &'a Cancellation,
    pub(crate) job: JobId,
}

impl Run<'_> {
    /// Goes on to the point, or to the reason why there is none; the job ends with it.
    pub(crate) fn to_end(&self, mut work: Work) -> Result<BackupReport, BackupError> {
        let started = Instant::now();
        let ended = self.to_point(&mut work);
        if let Err(error) = &ended {
            work.discard();
            self.note_end(error);
        }
        // Not before: who cleans up takes a job for dead that is not over and has no folder.
        drop(work);
        let (point, disks) = ended?;
        Ok(BackupReport { point, disks, elapsed: started.elapsed() })
    }

    fn to_point(&self, work: &mut Work) -> Result<(Point, Vec<DiskReport>), BackupError> {
        let created = UnixMillis::now();
        // A hub's queue has noted it.
        if self.ground.has_job_in_repository() {
            self.advance(JobState::Planning, "looking at its disks")?;
        }
        self.refuse_namesake(self.origin.and_then(Origin::vm_uuid).as_ref())?;
        let freeze = |origin: &dyn Origin| origin.freeze(self.job, self.watch, self.cancellation);
        let frozen = self.origin.map(freeze).transpose();
        if frozen.is_err() {
            // What was held is let go, or told to be left.
            self.watch.last_words(None);
        }
        let mut holding = Holding::of(frozen?);
        let published = self.copy_and_publish(&mut holding, created, work);
        // To let a VM go can take hours, and needs no port.
        self.ground.give_ports_back(self.job, &**self.watch);
        self.end_holding(holding, published.as_ref().ok().map(|(point, _)| point));
        published
    }

    /// Waits until nothing is held still, which can take long after the point is made.
    fn end_holding(&self, holding: Holding, point: Option<&Point>) {
        let made = point.map(|point| format!("point {} of VM {} is made", point.id, point.vm));
        if let (Some(made), Some(_)) = (&made, self.origin) {
            let left = format!("{made}; its snapshot may be left, for `blockferry node sweep`");
            self.watch.last_words(Some(&left));
        }
        let tell = || {
            self.watch.note(&match &made {
                Some(made) => format!("{made}; its snapshot is being removed, and waited for"),
                None => "the snapshot is being removed, and waited for".into(),
            });
        };
        if holding.end(tell).is_err() {
            self.watch.note("letting the snapshot go broke off; `blockferry node sweep` does it");
        }
        self.watch.last_words(None);
    }

    /// From disks that are held still to a point. No export runs afterwards.
    fn copy_and_publish(
        &self,
        holding: &mut Holding,
        created: UnixMillis,
        work: &mut Work,
    ) -> Result<(Point, Vec<DiskReport>), BackupError> {
        let frozen = holding.frozen();
        self.refuse_namesake(frozen.and_then(|frozen| frozen.vm_uuid.as_ref()))?;
        let disks = frozen.map_or(&*self.request.disks, |frozen| &*frozen.disks);
        self.refuse_others(disks)?;
        let plans = self.plan(disks, work)?;
        // A Ctrl-C that comes while a process is being started may end that one too.
        let mut staged = stage(&plans, work, self.ground, self.settings).map_err(|error| {
            if self.cancellation.is_cancelled() { BackupError::Cancelled } else { error }
        })?;

        self.advance(JobState::Copying, "all exports are ready")?;
        let (carried, alarms) = Copying {
            disks,
            plans: &plans,
            staged: &mut staged,
            work,
            carrier: &*self.ground.carrier,
            watch: self.watch,
            cancellation: self.cancellation,
        }
        .copy()?;

        // Before it is let go, and after the last byte: in between anybody may have removed it.
        if let Some(witness) = frozen.and_then(|frozen| frozen.witness.as_ref()) {
            witness.confirm(self.watch, self.cancellation)?;
        }
        let created = frozen.map_or(created, |frozen| frozen.instant);
        let vm_uuid = frozen.and_then(|frozen| frozen.vm_uuid.clone());
        let mut notes = frozen.map_or_else(Vec::new, |frozen| frozen.notes.clone());
        notes.extend(alarms);
        // What is copied and flushed needs to be held no longer; that takes its time, and is waited
        // for at the end.
        holding.let_go();
        self.publish(staged, plans, carried, work, |id, layers| NewPoint {
            id,
            vm: self.request.vm.clone(),
            vm_uuid,
            created,
            mode: self.request.mode,
            job: self.job,
            notes,
            layers,
        })
    }

    /// Points of two VMs under one name would be taken for those of one.
    fn refuse_namesake(&self, is: Option<&VmUuid>) -> Result<(), BackupError> {
        let vm = &self.request.vm;
        let filter = PointFilter { vm: Some(vm.clone()), newest: Some(1), before: None };
        let newest = self.ground.repository.catalog().points(&filter)?.pop();
        match (newest.and_then(|point| point.vm_uuid), is) {
            (Some(has), Some(is)) if has != *is => {
                Err(BackupError::OtherVm { vm: vm.clone(), has, is: is.clone() })
            }
            _ => Ok(()),
        }
    }

    /// What was asked for is what exports were made for.
    fn refuse_others(&self, disks: &[DiskRequest]) -> Result<(), BackupError> {
        let names = |disks: &[DiskRequest]| -> Vec<DiskName> {
            disks.iter().map(|disk| disk.name.clone()).collect()
        };
        let asked = names(&self.request.disks);
        if asked.is_empty() || asked == names(disks) {
            return Ok(());
        }
        let why = "its disks are others than when the backup was asked for; ask again".into();
        Err(BackupError::Unready { vm: self.request.vm.to_string(), why })
    }

    fn plan(&self, disks: &[DiskRequest], work: &Work) -> Result<Vec<Planned>, BackupError> {
        let sought: Vec<Sought> = disks.iter().map(DiskRequest::sought).collect();
        let looked = self.ground.carrier.look(&sought, self.cancellation)?;
        let planning = Planning {
            request: self.request,
            repository: &self.ground.repository,
            work,
            tool: &self.settings.image_tool,
            watch: &**self.watch,
            cancellation: self.cancellation,
        };
        let mut plans = Vec::with_capacity(looked.len());
        for (disk, looked) in disks.iter().zip(looked) {
            let planned = planning.plan(disk, looked)?;
            self.watch.planned(&planned.plan);
            plans.push(planned);
        }
        Ok(plans)
    }

    /// From disks that are copied and flushed to a point.
    fn publish(
        &self,
        staged: Vec<Staged>,
        plans: Vec<Planned>,
        carried: Vec<Carried>,
        work: &mut Work,
        point: impl FnOnce(PointId, Vec<LayerFacts>) -> NewPoint,
    ) -> Result<(Point, Vec<DiskReport>), BackupError> {
        let images = self.end_exports(staged, &plans)?;
        self.advance(JobState::Publishing, "all disks are copied and flushed")?;
        let disks = self.finish_images(images, plans, carried, work)?;
        if self.cancellation.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let id = PointId::new();
        let point = point(id, disks.iter().map(|done| done.facts(id)).collect());
        let point = work.publish(point)?;
        if !self.ground.has_job_in_repository() {
            self.note_point(&point);
        }
        Ok((point, disks.into_iter().map(|done| done.report).collect()))
    }

    fn advance(&self, state: JobState, reason: &str) -> Result<(), BackupError> {
        if self.cancellation.is_cancelled() {
            return Err(BackupError::Cancelled);
        }
        let job = self.ground.jobs.advance(self.job, state, reason)?;
        self.watch.job(&job);
        Ok(())
    }

    fn note_end(&self, error: &BackupError) {
        let (jobs, words) = (&self.ground.jobs, error.to_string());
        let ended = match error {
            error if error.is_cancelled() => jobs.advance(self.job, JobState::Cancelled, &words),
            _ => jobs.fail(self.job, error.failure(), &words),
        };
        match ended {
            Ok(job) => self.watch.job(&job),
            // The error that is told is the one that led here.
            Err(unnoted) => self.watch.note(&format!("the job's end is not noted: {unnoted}")),
        }
    }

    /// The point stands: a job whose end cannot be noted now is found to be done at the next start.
    fn note_point(&self, point: &Point) {
        let reason = format!("published point {}", point.id);
        match self.ground.jobs.advance(self.job, JobState::Done, &reason) {
            Ok(job) => self.watch.job(&job),
            Err(unnoted) => self.watch.note(&format!("the job's end is not noted: {unnoted}")),
        }
    }

    fn end_exports(
        &self,
        staged: Vec<Staged>,
        plans: &[Planned],
    ) -> Result<Vec<Image>, BackupError> {
        let mut images = Vec::with_capacity(staged.len());
        for (staged, planned) in staged.into_iter().zip(plans) {
            images.push(staged.image.clone());
            match staged.export.end() {
                Ok(()) => {}
                Err(error @ ExportError::Stuck { .. }) => return Err(error.into()),
                // All was flushed: what matters is that the image is whole, and nobody has it.
                Err(error) => {
                    self.watch.note(&format!("disk {}: {error}", planned.plan.name));
                }
            }
        }
        Ok(images)
    }

    /// Checks the images, makes them durable, and notes which manifests go with them.
    fn finish_images(
        &self,
        images: Vec<Image>,
        plans: Vec<Planned>,
        carried: Vec<Carried>,
        work: &Work,
    ) -> Result<Vec<Finished>, BackupError> {
        let ended: Vec<_> = images.into_iter().zip(plans).zip(carried).collect();
        each(&ended, |((image, planned), carried)| {
            let disk = || WhichDisk(planned.plan.name.clone());
            let not_whole = |what| BackupError::NotWhole { disk: disk(), what };
            match image.check()?.verdict {
                // Room that is lost is none that is wrong.
                CheckVerdict::Clean | CheckVerdict::Leaks { .. } => {}
                CheckVerdict::Corrupt { corruptions, .. } => {
                    return Err(not_whole(format!("qemu-img check finds {corruptions} faults")));
                }
                CheckVerdict::Incomplete { errors } => {
                    return Err(not_whole(format!("{errors} parts of it cannot be read")));
                }
            }
            let path = image.path();
            let synced = File::open(path).and_then(|file| {
                file.sync_all()?;
                file.metadata()
            });
            let metadata = synced
                .map_err(|error| RepositoryError::system(path, "writing it to the disk", error))?;
            let manifest = Manifest::open(&work.manifest(planned.plan.layer))?;
            // A point whose digests are of another disk could never be restored.
            if manifest.disk_size() != planned.plan.size_bytes {
                let (has, size) = (manifest.disk_size(), planned.plan.size_bytes);
                return Err(BackupError::Digests { disk: disk(), has, size });
            }
            let manifest = manifest.content_id()?;
            // The unit of st_blocks, whatever the file system's blocks are (stat(2)).
            const BLOCK_BYTES: u64 = 512;
            Ok(Finished {
                disk: planned.disk.id,
                change: planned.change.clone(),
                manifest: manifest.parse().map_err(CatalogError::from)?,
                report: DiskReport {
                    plan: planned.plan.clone(),
                    counts: carried.counts,
                    elapsed: carried.elapsed,
                    stored_bytes: metadata.blocks() * BLOCK_BYTES,
                },
                file_bytes: metadata.len(),
                checked: checked_file(&metadata),
            })
        })
    }
}

/// A disk whose layer is ready to be published.
#[derive(Debug)]
struct Finished {
    disk: DiskId,
    change: Option<ChangeId>,
    manifest: ManifestId,
    file_bytes: u64,
    checked: Option<CheckedFile>,
    report: DiskReport,
}

impl Finished {
    fn facts(&self, point: PointId) -> LayerFacts {
        let DiskReport { plan, counts, stored_bytes, .. } = &self.report;
        LayerFacts {
            id: plan.layer,
            disk: self.disk,
            kind: plan.kind,
            reason: plan.reason.clone(),
            parent: plan.parent.as_ref().map(|parent| parent.layer),
            path: RelativePath::of_layer(point, plan.layer),
            size_bytes: plan.size_bytes,
            stored_bytes: *stored_bytes,
            file_bytes: Some(self.file_bytes),
            checked: self.checked,
            change: self.change.clone(),
            manifest: Some(ManifestFacts {
                algorithm: DIGEST,
                path: RelativePath::of_manifest(point, plan.layer),
                id: Some(self.manifest.clone()),
            }),
            counts: ByteCounts {
                read: counts.read,
                zero: counts.zero,
                sent: counts.sent,
                skipped: counts.skipped,
            },
        }
    }
}
