use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use super::*;

/// Kills, each on what the one before left. The moments are by count of what was committed, so
/// that they spread over opening, migrating and every kind of write.
const KILLS: u64 = 30;

/// Ends a process whatever becomes of the test.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_writer_that_is_killed_at_any_moment_leaves_a_sound_file_with_all_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(CATALOG_FILE);
    let mut said = Said::default();
    // A fixed seed: what differs from run to run is where in a write the signal meets it.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..KILLS {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let lines_before = usize::try_from(seed % 48).unwrap();
        let facts = kill_after(&file, lines_before);
        facts.iter().for_each(|fact| said.hear(fact));
        said.check(&file);
    }
    assert!(said.points.len() > 50, "{} points", said.points.len());
}

/// What the writers said that they had committed.
#[derive(Default)]
struct Said {
    jobs: Vec<JobId>,
    points: Vec<PointId>,
    /// Leased and not released.
    held: BTreeSet<String>,
}

impl Said {
    fn hear(&mut self, fact: &str) {
        let (kind, id) = fact.split_once(' ').unwrap();
        match kind {
            "job" => self.jobs.push(a(id)),
            "point" => self.points.push(a(id)),
            "leased" => assert!(self.held.insert(id.to_owned()), "lease {id} twice"),
            "released" => assert!(self.held.remove(id), "lease {id} released twice"),
            other => panic!("{other}"),
        }
    }

    fn check(&mut self, file: &Path) {
        let catalog = SqliteCatalog::open_or_create(file).unwrap();
        let plain = rusqlite::Connection::open(file).unwrap();
        let one = |sql: &str| plain.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(one("PRAGMA integrity_check"), "ok");
        assert_eq!(one("SELECT CAST(count(*) AS TEXT) FROM pragma_foreign_key_check"), "0");

        for &job in &self.jobs {
            catalog.job(job).unwrap();
        }
        for &point in &self.points {
            catalog.point(point).unwrap();
        }
        let held = catalog.leases().unwrap().iter().map(|lease| lease.id.to_string()).collect();
        // The last thing that a writer committed may not have been said.
        assert!(self.held.symmetric_difference(&held).count() <= 1, "{:?} {held:?}", self.held);
        self.held = held;
        Self::whole(&catalog);
    }

    /// All or nothing of each point, and a job is done just when its point is there.
    fn whole(catalog: &SqliteCatalog) {
        let points = catalog.points(&PointFilter::default()).unwrap();
        for point in &points {
            assert_eq!(catalog.layers(point.id).unwrap().len(), 2);
            assert_eq!(catalog.job(point.job).unwrap().state, JobState::Done);
        }
        for job in catalog.jobs(&JobFilter::default()).unwrap() {
            assert_eq!(job.state == JobState::Done, catalog.point_of(job.id).unwrap().is_some());
            assert_eq!(catalog.steps(job.id).unwrap().last().unwrap().state, job.state);
        }
        for disk in catalog.disks(&a("db1")).unwrap() {
            let chain = match catalog.newest_layer(disk.id).unwrap() {
                Some(newest) => catalog.chain(newest.facts.id).unwrap().len(),
                None => 0,
            };
            assert_eq!(chain, points.len());
        }
    }
}

/// What a writer said that it had committed, until it was killed.
fn kill_after(file: &Path, lines: usize) -> Vec<String> {
    let mut command = this_test("tests::crash::writes_in_a_process_of_its_own");
    command.env(FILE_VARIABLE, file).stdout(Stdio::piped());
    let mut writer = Writer(command.spawn().unwrap());
    let output = BufReader::new(writer.0.stdout.take().unwrap());
    let (heard, said) = mpsc::channel();
    let listener = thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            // The test harness has its own to say.
            if let Some(fact) = line.strip_prefix("committed ") {
                heard.send(fact.to_owned()).unwrap();
            }
        }
    });
    let mut facts: Vec<String> = said.iter().take(lines).collect();
    assert_eq!(facts.len(), lines, "the writer ended by itself");
    writer.0.kill().unwrap();
    writer.0.wait().unwrap();
    listener.join().unwrap();
    facts.extend(said.iter());
    facts
}

#[test]
#[ignore = "started by the test of killed writers"]
fn writes_in_a_process_of_its_own() {
    let Some(file) = file_of_parent() else { return };
    let say = |fact: String| {
        let mut output = std::io::stdout().lock();
        writeln!(output, "\ncommitted {fact}").unwrap();
        output.flush().unwrap();
    };
    let catalog = SqliteCatalog::open_or_create(&file).unwrap();
    let disks = ["root", "data"].map(|name| catalog.disk(&a("db1"), &a(name), None).unwrap().id);
    loop {
        let job = catalog.add_job(new_job("db1")).unwrap().into_job().id;
        say(format!("job {job}"));
        let lease = catalog.lease_port(job, 1..=u16::MAX).unwrap().id;
        say(format!("leased {lease}"));
        for state in way_to(JobState::Publishing) {
            catalog.advance(job, state, "test").unwrap();
        }
        let layers = disks.map(|disk| match catalog.newest_layer(disk).unwrap() {
            Some(newest) => delta(disk, newest.facts.id),
            None => full(disk),
        });
        let point = NewPoint { job, ..new_point("db1", layers) };
        say(format!("point {}", catalog.publish(point).unwrap().id));
        catalog.release(lease, job).unwrap();
        say(format!("released {lease}"));
    }
}
