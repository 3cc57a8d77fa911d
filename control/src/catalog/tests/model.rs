use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Something that is asked of the catalog. Numbers stand for one of what was made so far.
#[derive(Clone, Debug)]
enum Ask {
    AddJob { key: Option<u8> },
    Advance { job: usize, state: usize },
    LeasePort { job: usize },
    Release { lease: usize, job: usize },
    ReleaseAll { job: usize },
    Publish { layers: Vec<(usize, Onto)> },
    Delete { point: usize },
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Onto {
    Nothing,
    Newest,
    /// Any layer that was ever made, also one of a deleted point or of another disk.
    Any(usize),
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let number = 0_usize..1000;
    let onto = prop_oneof![
        2 => Just(Onto::Nothing),
        6 => Just(Onto::Newest),
        1 => number.clone().prop_map(Onto::Any),
    ];
    let layers = proptest::collection::vec((0..DISKS.len(), onto), 1..3);
    let ask = prop_oneof![
        3 => proptest::option::of(0_u8..4).prop_map(|key| Ask::AddJob { key }),
        3 => (number.clone(), 0..JobState::ALL.len())
            .prop_map(|(job, state)| Ask::Advance { job, state }),
        4 => number.clone().prop_map(|job| Ask::LeasePort { job }),
        3 => (number.clone(), number.clone()).prop_map(|(lease, job)| Ask::Release { lease, job }),
        1 => number.clone().prop_map(|job| Ask::ReleaseAll { job }),
        6 => layers.prop_map(|layers| Ask::Publish { layers }),
        3 => number.prop_map(|point| Ask::Delete { point }),
        1 => Just(Ask::Reopen),
    ];
    proptest::collection::vec(ask, 1..60)
}

const DISKS: [(&str, &str); 3] = [("db1", "root"), ("db1", "data"), ("db2", "root")];
const PORTS: std::ops::RangeInclusive<u16> = 10_100..=10_102;

/// The catalog as plain lists.
#[derive(Default)]
struct Model {
    jobs: Vec<(JobId, JobState)>,
    keys: BTreeMap<u8, JobId>,
    /// By port.
    held: BTreeMap<u16, (LeaseId, JobId)>,
    leases: Vec<LeaseId>,
    points: Vec<(PointId, Vec<LayerFacts>)>,
    /// Of deleted points too.
    all_layers: Vec<LayerId>,
    all_points: Vec<PointId>,
    leftovers: usize,
}

impl Model {
    fn newest(&self, disk: DiskId) -> Option<LayerId> {
        let layers = self.points.iter().rev().flat_map(|(_, layers)| layers);
        layers.filter(|layer| layer.disk == disk).map(|layer| layer.id).next()
    }

    fn may_publish(&self, vm: &str, disks: &[DiskId; 3], layers: &[LayerFacts]) -> bool {
        let once = |layer: &LayerFacts| layers.iter().filter(|l| l.disk == layer.disk).count() == 1;
        layers.iter().all(|layer| {
            let place = disks.iter().position(|&disk| disk == layer.disk).unwrap();
            DISKS[place].0 == vm
                && once(layer)
                && (layer.kind == LayerKind::Full || layer.parent == self.newest(layer.disk))
        })
    }
}

fn pick<T: Copy>(list: &[T], number: usize) -> Option<T> {
    (!list.is_empty()).then(|| list[number % list.len()])
}

struct Run {
    place: Place,
    disks: [DiskId; 3],
    model: Model,
}

impl Run {
    fn new() -> Self {
        let place = Place::new();
        let disks = DISKS.map(|(vm, name)| place.disk(vm, name));
        Self { place, disks, model: Model::default() }
    }

    fn job(&self, number: usize) -> Option<(JobId, JobState)> {
        pick(&self.model.jobs, number)
    }

    fn state_of(&mut self, job: JobId) -> &mut JobState {
        &mut self.model.jobs.iter_mut().find(|(id, _)| *id == job).unwrap().1
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::AddJob { key } => self.add_job(key),
            Ask::Advance { job, state } => {
                let Some((job, from)) = self.job(job) else { return };
                let to = JobState::ALL[state];
                let done = self.place.catalog.advance(job, to, "model").is_ok();
                assert_eq!(done, from.may_become(to));
                if done {
                    *self.state_of(job) = to;
                }
            }
            Ask::LeasePort { job } => self.lease_port(job),
            Ask::Release { lease, job } => {
                let Some(lease) = pick(&self.model.leases, lease) else { return };
                let Some((job, _)) = self.job(job) else { return };
                let done = self.place.catalog.release(lease, job).is_ok();
                let before = self.model.held.len();
                self.model.held.retain(|_, held| *held != (lease, job));
                assert_eq!(done, self.model.held.len() < before);
            }
            Ask::ReleaseAll { job } => {
                let Some((job, _)) = self.job(job) else { return };
                let released = self.place.catalog.release_all(job).unwrap().len();
                let before = self.model.held.len();
                self.model.held.retain(|_, (_, owner)| *owner != job);
                assert_eq!(released, before - self.model.held.len());
            }
            Ask::Publish { layers } => self.publish(&layers),
            Ask::Delete { point } => self.delete(point),
            Ask::Reopen => {
                self.place.catalog = SqliteCatalog::open(&self.place.file()).unwrap();
            }
        }
    }

    fn add_job(&mut self, key: Option<u8>) {
        let text = key.map(|key| a(&format!("key-{key}")));
        let admission = self.place.catalog.add_job(NewJob { key: text, ..new_job("db1") }).unwrap();
        match key.and_then(|key| self.model.keys.get(&key)) {
            Some(&known) => {
                assert!(matches!(admission, Admission::Known(job) if job.id == known));
            }
            None => {
                let Admission::New(job) = admission else { panic!("it is new") };
                self.model.jobs.push((job.id, job.state));
                self.model.keys.extend(key.map(|key| (key, job.id)));
            }
        }
    }

    fn lease_port(&mut self, job: usize) {
        let Some((job, state)) = self.job(job) else { return };
        let free = PORTS.into_iter().find(|port| !self.model.held.contains_key(port));
        match self.place.catalog.lease_port(job, PORTS) {
            Ok(lease) => {
                assert!(!state.is_over());
                assert_eq!(lease.claim.port_number(), free);
                self.model.held.insert(free.unwrap(), (lease.id, job));
                self.model.leases.push(lease.id);
            }
            Err(_) => assert!(free.is_none() || state.is_over()),
        }
    }

    fn publish(&mut self, wanted: &[(usize, Onto)]) {
        let vm = DISKS[wanted[0].0].0;
        let layers: Vec<LayerFacts> = wanted
            .iter()
            .map(|&(disk, onto)| {
                let disk = self.disks[disk];
                let parent = match onto {
                    Onto::Nothing => None,
                    Onto::Newest => self.model.newest(disk),
                    Onto::Any(number) => pick(&self.model.all_layers, number),
                };
                parent.map_or_else(|| full(disk), |parent| delta(disk, parent))
            })
            .collect();
        // A job of this catalog, when there is one that is so far.
        let job = self.model.jobs.iter().find(|(_, state)| *state == JobState::Publishing);
        let job = job.map_or_else(JobId::new, |(job, _)| *job);
        let point = NewPoint { job, ..new_point(vm, layers.clone()) };
        let id = point.id;
        let done = self.place.catalog.publish(point).is_ok();
        assert_eq!(done, self.model.may_publish(vm, &self.disks, &layers));
        if done {
            if self.model.jobs.iter().any(|(id, _)| *id == job) {
                *self.state_of(job) = JobState::Done;
            }
            self.model.all_points.push(id);
            self.model.all_layers.extend(layers.iter().map(|layer| layer.id));
            self.model.points.push((id, layers));
        }
    }

    fn delete(&mut self, point: usize) {
        let Some(id) = pick(&self.model.all_points, point) else { return };
        let found = self.model.points.iter().position(|(point, _)| *point == id);
        let may = found.is_some_and(|place| {
            let own: Vec<LayerId> = self.model.points[place].1.iter().map(|l| l.id).collect();
            let all = self.model.points.iter().flat_map(|(_, layers)| layers);
            !all.filter_map(|layer| layer.parent).any(|parent| own.contains(&parent))
        });
        let done = self.place.catalog.delete_point(id);
        assert_eq!(done.is_ok(), may, "{done:?}");
        if let (Ok(paths), Some(place)) = (done, found) {
            let (_, layers) = self.model.points.remove(place);
            assert_eq!(paths.len(), 2 * layers.len());
            self.model.leftovers += paths.len();
        }
    }

    fn compare(&self) {
        let catalog = &self.place.catalog;
        let model = &self.model;
        let jobs = catalog.jobs(&JobFilter::default()).unwrap();
        assert_eq!(jobs.iter().map(|job| (job.id, job.state)).collect::<Vec<_>>(), model.jobs);
        let held: BTreeMap<u16, (LeaseId, JobId)> = catalog
            .leases()
            .unwrap()
            .into_iter()
            .map(|lease| (lease.claim.port_number().unwrap(), (lease.id, lease.owner)))
            .collect();
        assert_eq!(held, model.held);
        let points = catalog.points(&PointFilter::default()).unwrap();
        assert_eq!(
            points.iter().map(|point| point.id).collect::<Vec<_>>(),
            model.points.iter().map(|(id, _)| *id).collect::<Vec<_>>()
        );
        for disk in self.disks {
            let newest = catalog.newest_layer(disk).unwrap();
            assert_eq!(newest.map(|layer| layer.facts.id), model.newest(disk));
        }
        assert_eq!(catalog.leftovers().unwrap().len(), model.leftovers);
    }

    /// Each layer as it was given, and its chain down to a full, by the model's own lists.
    fn compare_layers(&self) {
        let all: BTreeMap<LayerId, &LayerFacts> = self
            .model
            .points
            .iter()
            .flat_map(|(_, layers)| layers)
            .map(|layer| (layer.id, layer))
            .collect();
        for (&id, &layer) in &all {
            let mut expected = vec![layer.clone()];
            while let Some(parent) = expected.last().unwrap().parent {
                expected.push(all[&parent].clone());
            }
            let chain = self.place.catalog.chain(id).unwrap();
            assert_eq!(chain.into_iter().map(|l| l.facts).collect::<Vec<_>>(), expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_the_catalog_does_as_plain_lists_would(asks in asks()) {
        let mut run = Run::new();
        for ask in asks {
            run.ask(ask);
            run.compare();
        }
        run.compare_layers();
    }
}
