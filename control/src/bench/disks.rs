//! Disks on servers of this machine: one, or many at once.

use std::path::PathBuf;

use blockferry_dataplane::{Endpoint, Lane, LaneSettings, MoverSettings};

use super::error::BenchError;
use super::folder::Folder;
use super::measure::{Job, Label, Observer, Pace};
use super::run::{Part, Run, Way};
use super::servant::{Servant, SourceData, sink};
use crate::backup::Cancellation;
use crate::child::each;
use crate::export::{Export, ExportAccess, ExportSettings, ExportSpec, Listener};
use crate::image::{Image, ImageTool};

/// Threads of a source for each connection, where there is one disk, and where there are many.
const ALONE_THREADS: u16 = 16;
const AMONG_MANY_THREADS: u16 = 4;

/// What the disks are written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetKind {
    /// A fresh qcow2 image each, behind an export as backups have it.
    #[default]
    Qcow2,
    /// An nbdkit each that forgets what it gets.
    Null,
}

impl TargetKind {
    /// Its name on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Null => "null",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct DiskBench {
    /// Disks at once.
    pub disks: u16,
    /// Bytes of each.
    pub size_bytes: u64,
    /// How often.
    pub rounds: u32,
    /// What is read.
    pub data: SourceData,
    /// What is written to.
    pub target: TargetKind,
    /// Where the images and sockets go, in a folder of their own.
    pub dir: PathBuf,
    /// How each lane works.
    pub lane: LaneSettings,
    /// How all of them do.
    pub mover: MoverSettings,
    /// How finely it is looked at.
    pub pace: Pace,
}

/// Measures, and hands each round to `on_run`. Nothing is left of it afterwards.
///
/// # Errors
/// [`BenchError`]; the rounds before are measured all the same.
pub fn measure_disks(
    bench: &DiskBench,
    cancellation: &Cancellation,
    observer: Observer<'_>,
    mut on_run: impl FnMut(Run),
) -> Result<(), BenchError> {
    let folder = Folder::make(&bench.dir)?;
    let numbers: Vec<u16> = (0..bench.disks).collect();
    let threads = if bench.disks == 1 { ALONE_THREADS } else { AMONG_MANY_THREADS };
    // What is learnt of the file system with one export holds for all.
    let settings = ExportSettings::for_exports(bench.disks);
    let start = |plugin: &[String], listener: Listener| Servant::start(plugin, threads, listener);
    let sources: Vec<Servant> = each(&numbers, |_| {
        start(&bench.data.plugin(bench.size_bytes), Listener::unix(folder.path())?)
    })?;
    for round in 1..=bench.rounds {
        if cancellation.is_cancelled() {
            return Err(BenchError::Interrupted);
        }
        let targets: Vec<Target> = each(&numbers, |number| match bench.target {
            TargetKind::Qcow2 => export(bench, &folder, *number, &settings),
            TargetKind::Null => start(&sink(bench.size_bytes), Listener::tcp(0)?)
                .map(|sink| Target::Sink(Box::new(sink))),
        })?;
        let lanes = sources.iter().zip(&targets).map(|(source, target)| {
            Lane::new(source.endpoint(), target.endpoint()).with_settings(bench.lane.clone())
        });
        let processes = || {
            let sources = sources.iter().map(|source| (Part::Source, source.pid()));
            sources.chain(targets.iter().map(|target| (Part::Target, target.pid()))).collect()
        };
        let done = |share: f64| (f64::from(round - 1) + share) / f64::from(bench.rounds);
        let job = Job {
            label: Label { way: Way::Local, connections: 0, lanes: bench.disks, round },
            lanes: lanes.collect(),
            mover: &bench.mover,
            pace: bench.pace,
            processes: &processes,
            memory: bench.disks > 1,
            connections: &|_| Vec::new(),
            cancellation,
            observer: &|share, bytes| observer(done(share), bytes),
        };
        on_run(job.run()?);
        each(&targets.into_iter().map(Ending::of).collect::<Vec<_>>(), Ending::end)?;
    }
    Ok(())
}

/// What a disk is written to.
#[derive(Debug)]
enum Target {
    Export { export: Box<Export>, image: PathBuf },
    Sink(Box<Servant>),
}

impl Target {
    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Export { export, .. } => export.endpoint(),
            Self::Sink(sink) => sink.endpoint(),
        }
    }

    fn pid(&self) -> u32 {
        match self {
            Self::Export { export, .. } => export.pid(),
            Self::Sink(sink) => sink.pid(),
        }
    }
}

/// A target that is taken away, once.
#[derive(Debug)]
struct Ending(std::sync::Mutex<Option<Target>>);

impl Ending {
    fn of(target: Target) -> Self {
        Self(std::sync::Mutex::new(Some(target)))
    }

    /// Ends the server, and makes room for the next round.
    fn end(&self) -> Result<(), BenchError> {
        match crate::child::held(&self.0).take() {
            Some(Target::Export { export, image }) => {
                export.end()?;
                let what = format!("removing {}", image.display());
                std::fs::remove_file(&image).map_err(BenchError::system(what))
            }
            Some(Target::Sink(sink)) => {
                drop(sink);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn export(
    bench: &DiskBench,
    folder: &Folder,
    number: u16,
    settings: &ExportSettings,
) -> Result<Target, BenchError> {
    let image = folder.file(&format!("{number}.qcow2"));
    Image::create(&image, bench.size_bytes, None, ImageTool::default())?;
    let spec = ExportSpec {
        image: image.clone(),
        name: "disk".into(),
        listener: Listener::tcp(0)?,
        access: ExportAccess::Writable,
        connections: bench.lane.connections,
    };
    let export = Export::start(spec, settings)?;
    Ok(Target::Export { export: Box::new(export), image })
}
