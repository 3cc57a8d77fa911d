//! A disk that is carried twice, for its audit found what nobody had told of.

use std::io::{self, BufRead, BufReader};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use blockferry_dataplane::plan::AreaSet;

use super::*;
use crate::backup::{BackupError, Cancellation, ChangeTracker, Watch};
use crate::catalog::ChangeId;
use crate::snapshots::Base;

/// A line on which calls are lost that begin in a way.
#[derive(Debug, Default)]
struct Lossy {
    line: Arc<OneLine>,
    losing: Arc<Mutex<Option<String>>>,
    lost: Arc<AtomicUsize>,
}

impl NodeLines for Lossy {
    fn dial(&self, node: &NodeName, deadline: Duration) -> Result<UnixStream, String> {
        let to_node = self.line.dial(node, deadline)?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        let (losing, lost) = (Arc::clone(&self.losing), Arc::clone(&self.lost));
        thread::spawn(move || {
            let mut from_hub = BufReader::new(&theirs);
            let mut head = String::new();
            from_hub.read_line(&mut head).unwrap();
            if held(&losing).as_ref().is_some_and(|losing| head.starts_with(losing)) {
                lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            thread::scope(|scope| {
                scope.spawn(|| {
                    // Either end may have had enough.
                    let _gone = io::copy(&mut &to_node, &mut &theirs);
                    let _gone = theirs.shutdown(Shutdown::Both);
                });
                let _gone = (&to_node).write_all(head.as_bytes());
                let _gone = io::copy(&mut from_hub, &mut &to_node);
                let _gone = to_node.shutdown(Shutdown::Both);
            });
        });
        Ok(ours)
    }

    fn connections(&self) -> Vec<(String, usize)> {
        Vec::new()
    }
}

/// Who says that nothing changed, whatever did.
#[derive(Debug)]
struct Liar(ChangeId);

impl ChangeTracker for Liar {
    fn now(&self) -> Option<&ChangeId> {
        Some(&self.0)
    }

    fn changed_since(
        &self,
        _base: &Base,
        _watch: &dyn Watch,
        _cancellation: &Cancellation,
    ) -> Result<Result<AreaSet, String>, BackupError> {
        Ok(Ok(AreaSet::new()))
    }
}

fn audited() -> Changes {
    let change = "52 2d 7b 8f ac 61 51 cc-77 4c 7b ec 91 50 bb 7b/1".parse().unwrap();
    Changes::Tracked { tracker: Arc::new(Liar(change)), audit_percent: 100 }
}

#[test]
fn a_goodbye_that_is_lost_is_no_end_of_the_second_pass_of_an_audit() {
    let lossy = Lossy::default();
    let (line, losing, lost) =
        (Arc::clone(&lossy.line), Arc::clone(&lossy.losing), Arc::clone(&lossy.lost));
    let place = Place { line, ..Place::over(AWAY, Arc::new(lossy)) };
    let _node = place.node(None, Duration::from_secs(5));
    let (disk, server) = source(&place.folder, 24 << 20);
    assert_eq!(place.end_of(place.submit_with(&server.uri(), audited())).state, JobState::Done);

    disk.overwrite(5 << 20..6 << 20, 9).unwrap();
    let id = place.submit_with(&server.uri(), audited());
    *held(&losing) = Some(format!("DELETE /api/v1/jobs/{id} "));
    let job = place.end_of(id);
    assert_eq!(job.state, JobState::Done, "{}", job.reason);
    assert!(lost.load(Ordering::SeqCst) > 0);
    place.compare(&disk.path);
    let (_, repository) = place.backups.repositories().named(None).unwrap();
    let point = repository.catalog().points(&PointFilter::default()).unwrap().pop().unwrap();
    let notes = repository.catalog().notes(point.id).unwrap();
    assert!(notes[0].says.contains("all of it was compared"), "{notes:?}");
    // Nobody asks about the first pass any more.
    wait(|| (place.jobs_left() == 0).then_some(()));
}
