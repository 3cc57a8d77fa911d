//! `blockferry backup`, which is hub and mover in one, and its exports, killed at any moment.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;
mod kills;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blockferry::{code, run, stderr};
use blockferry_control::catalog::JobState;
use blockferry_doubles::disk::Random;
use kills::processes;
use kills::run::{COPYING, PUBLISHING, Run};
use kills::workload::{How, Workload};

/// Kills of a run where nothing else is said.
const KILLS: u64 = 20;
/// How many there are to be; `scripts/test --soak` says 200.
const KILLS_VARIABLE: &str = "BLOCKFERRY_KILLS";
/// Takes the same moments, writes and kinds again, as far as the machine does.
const SEED_VARIABLE: &str = "BLOCKFERRY_SEED";

/// Who is killed, and when.
#[derive(Clone, Copy, Debug)]
enum Kill {
    /// All of blockferry, at this share of the time that such a backup takes.
    Mover(f64),
    /// The same, at this share of the time that copying takes.
    Copying(f64),
    /// The same, at this share of the time that publishing takes.
    Publishing(f64),
    /// An export, at this share of the time until publishing, or as soon as there is one.
    Export(f64),
}

#[test]
fn a_kill_at_any_moment_loses_no_point_and_leaves_nothing_that_the_next_backup_does_not_clean() {
    let kills = variable(KILLS_VARIABLE).unwrap_or(KILLS);
    let seed = variable(SEED_VARIABLE).unwrap_or_else(|| {
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
    });
    println!("{KILLS_VARIABLE}={kills} {SEED_VARIABLE}={seed}");
    let mut random = Random::new(seed);
    let mut workload = Workload::new(seed);
    for how in How::ALL {
        workload.change();
        let took = workload.backup(how).finish();
        workload.note_run(how, took);
    }
    let mut died: BTreeMap<String, u32> = BTreeMap::new();
    let mut done = 0;
    let mut attempts = 0;
    while done < kills {
        attempts += 1;
        assert!(attempts < 20 * kills, "backups end before they are killed: {died:?}");
        // Each kind of kill is spread evenly over its time.
        let share = ((done / 5) as f64 + random.share()) / (kills.div_ceil(5)) as f64;
        let kill = match done % 5 {
            0 => Kill::Mover(share),
            1 => Kill::Copying(share),
            2 => Kill::Publishing(share),
            3 => Kill::Export(share),
            _ => Kill::Mover(1.0 - share),
        };
        workload.change();
        let how = How::ALL[usize::try_from(random.below(3)).unwrap()];
        println!("{kill:?} of a backup {how:?}");
        let Some(phase) = run_with(kill, how, &mut workload) else { continue };
        *died.entry(phase).or_default() += 1;
        done += 1;

        workload.change();
        let how = How::ALL[usize::try_from(random.below(3)).unwrap()];
        let took = workload.backup(how).finish();
        workload.note_run(how, took);
        workload.assert_tidy();
        processes::assert_none_of(workload.repository());
    }
    workload.assert_all_points();
    let verified = run(workload.repository(), &["verify", "--all", "--repository", "."]);
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    println!("{died:?}");
    for phase in ["planning", "copying", "publishing"] {
        assert!(died.contains_key(phase), "none was killed while it was {phase}: {died:?}");
    }
}

/// Runs a backup with a kill. Says what it did to it, or nothing if it came too late.
fn run_with(kill: Kill, how: How, workload: &mut Workload) -> Option<String> {
    let mut run = workload.backup(how);
    let usual = workload.usual(how);
    match kill {
        Kill::Mover(share) => run.wait_until(usual.all.mul_f64(share)),
        Kill::Copying(share) => run.wait_until_in(COPYING, usual.copying.mul_f64(share)),
        Kill::Publishing(share) => run.wait_until_in(PUBLISHING, usual.publishing.mul_f64(share)),
        Kill::Export(share) => {
            run.wait_until((usual.all - usual.publishing).mul_f64(share));
            return killed_export(run, workload);
        }
    }
    let killed = run.kill();
    workload.note_points();
    killed.then(|| workload.newest_job().0.to_string())
}

fn killed_export(mut run: Run, workload: &mut Workload) -> Option<String> {
    let found = loop {
        if let Some(found) = processes::kill_an_export_of(workload.repository()) {
            break Some(found);
        }
        if run.has_ended() {
            break None;
        }
        // There is none yet, or none any more.
        std::thread::sleep(Duration::from_millis(1));
    };
    let ended = run.end();
    workload.note_points();
    let (state, reason) = workload.newest_job();
    match ended.code {
        0 => assert_eq!(state, JobState::Done, "{reason}"),
        _ => {
            assert!(found.is_some(), "nobody killed it: {}", ended.stderr);
            assert_eq!(state, JobState::Failed, "{reason}");
            assert!(ended.stderr.contains(&reason), "{reason} is not in {}", ended.stderr);
        }
    }
    found.map(|_pid| format!("export, then {state}"))
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
