//! Claims beside each other, in one process and in several.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::claim::{Standing, obstacles};
use super::*;
use crate::backup::Cancellation;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(20);

fn share(pool: Pool, id: &str, amount: u32) -> Share {
    Share { pool, server: "vc".into(), id: id.into(), name: format!("{id}.example"), amount }
}

fn claim(vm: &str, shares: &[Share]) -> Claim {
    Claim { job: format!("job-of-{vm}"), vm: format!("DC/vm/{vm}"), shares: shares.to_vec() }
}

/// A VM with disks on a host and a datastore.
fn on(vm: &str, host: &str, disks: u32, datastore: &str) -> Claim {
    let of_datastore = share(Pool::Datastore, datastore, 1);
    claim(vm, &[share(Pool::Host, host, disks), of_datastore])
}

fn standing(ticket: u64, granted: bool, claim: Claim) -> Standing {
    Standing { claim, ticket, granted }
}

fn told(mine: &Standing, others: &[Standing]) -> Vec<String> {
    let found = obstacles(mine, others, &Limits::default());
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn what_does_not_fit_waits_and_says_for_what_and_who_has_it() {
    let others = [
        standing(0, true, on("a", "esx1", 3, "ds1")),
        standing(1, true, on("b", "esx1", 3, "ds2")),
        standing(2, true, on("c", "esx2", 8, "ds1")),
    ];
    let mine = standing(3, false, on("d", "esx1", 3, "ds1"));
    assert_eq!(
        told(&mine, &others),
        ["disks of host esx1.example: 3, where 6 of 8 are taken by VM DC/vm/a (3), DC/vm/b (3)"]
    );
    assert!(told(&standing(3, false, on("e", "esx1", 2, "ds1")), &others).is_empty());
}

#[test]
fn a_datastore_has_four_snapshots_and_a_server_its_connections() {
    let others: Vec<_> = (0..4)
        .map(|n| standing(n, true, on(&format!("vm{n}"), &format!("esx{n}"), 1, "ds1")))
        .collect();
    let words = told(&standing(4, false, on("e", "esx9", 1, "ds1")), &others);
    assert!(
        words[0].starts_with("snapshots on datastore ds1.example: 1, where 4 of 4 are"),
        "{words:?}"
    );
    let through = |vm, disks| claim(vm, &[share(Pool::Server, "vc", disks)]);
    let others = [standing(0, true, through("a", 50))];
    let words = told(&standing(1, false, through("b", 3)), &others);
    assert!(words[0].starts_with("connections of vc.example: 3, where 50 of 52 are"), "{words:?}");
}

#[test]
fn ids_of_two_servers_are_two_things_and_0_is_no_limit() {
    let mut elsewhere = on("a", "esx1", 8, "ds1");
    elsewhere.shares.iter_mut().for_each(|share| share.server = "other".into());
    let mine = standing(1, false, on("b", "esx1", 8, "ds1"));
    assert!(told(&mine, &[standing(0, true, elsewhere)]).is_empty());
    let none = Limits { disks_per_host: 0, connections_per_server: 0, snapshots_per_datastore: 0 };
    let full = [standing(0, true, on("a", "esx1", 8, "ds1"))];
    assert!(obstacles(&mine, &full, &none).is_empty());
}

#[test]
fn a_vm_with_more_disks_than_its_host_gives_has_it_alone() {
    let mine = standing(1, false, on("big", "esx1", 12, "ds1"));
    assert_eq!(told(&mine, &[standing(0, true, on("a", "esx1", 1, "ds2"))]).len(), 1);
    assert!(told(&mine, &[]).is_empty());
    let others = [standing(0, true, on("big", "esx1", 12, "ds1"))];
    assert_eq!(told(&standing(1, false, on("a", "esx1", 1, "ds2")), &others).len(), 1);
}

#[test]
fn a_vm_with_many_disks_is_not_passed_by_those_behind_it() {
    let others = [
        standing(0, true, on("a", "esx1", 3, "ds1")),
        standing(1, false, on("big", "esx1", 8, "ds2")),
    ];
    let words = told(&standing(2, false, on("b", "esx1", 1, "ds3")), &others);
    assert_eq!(
        words,
        ["disks of host esx1.example: 1, where 3 of 8 are taken by VM DC/vm/a (3) and before \
          it is VM DC/vm/big (8)"]
    );
}

#[test]
fn a_busy_host_stops_nobody_on_another_of_the_same_datastore() {
    let mut others = vec![standing(0, true, on("a", "esx1", 8, "ds1"))];
    others.extend((1..6).map(|n| standing(n, false, on(&format!("w{n}"), "esx1", 3, "ds1"))));
    assert!(told(&standing(6, false, on("b", "esx2", 3, "ds1")), &others).is_empty());
}

proptest! {
    /// Whatever comes in which order, limits hold, and the first in the queue goes when all others
    /// have ended.
    #[test]
    fn limits_hold_and_everybody_has_a_turn(
        wanted in prop::collection::vec((0..3_u8, 1..12_u32, 0..2_u8), 1..20),
        ends in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let limits = Limits::default();
        let mut all: Vec<Standing> = wanted
            .iter()
            .enumerate()
            .map(|(n, (host, disks, store))| {
                let claim = on(&format!("vm{n}"), &format!("h{host}"), *disks, &format!("d{store}"));
                standing(n as u64, false, claim)
            })
            .collect();
        for end in ends {
            for at in 0..all.len() {
                let others = [&all[..at], &all[at + 1..]].concat();
                let granted = all[at].granted || obstacles(&all[at], &others, &limits).is_empty();
                all[at].granted = granted;
            }
            for host in 0..3 {
                let on_it: Vec<u32> = all.iter().filter(|one| one.granted)
                    .flat_map(|one| &one.claim.shares)
                    .filter(|share| share.pool == Pool::Host && share.id == format!("h{host}"))
                    .map(|share| share.amount).collect();
                prop_assert!(on_it.len() <= 1 || on_it.iter().sum::<u32>() <= 8, "{:?}", on_it);
            }
            let running: Vec<usize> = (0..all.len()).filter(|at| all[*at].granted).collect();
            prop_assert!(all.is_empty() || !running.is_empty());
            if !running.is_empty() {
                all.remove(running[end.index(running.len())]);
            }
        }
        prop_assert!(all.is_empty());
    }
}

fn budgets(folder: &TempDir) -> Budgets {
    Budgets::new(&folder.path().join("run/budgets"), Limits::default())
}

fn take(budgets: &Budgets, claim: Claim) -> Granted {
    let unheard = |words: &str| panic!("it waits: {words}");
    budgets.take(claim, &unheard, &Cancellation::default()).unwrap()
}

fn files(folder: &TempDir) -> BTreeSet<String> {
    let files = fs::read_dir(folder.path().join("run/budgets")).unwrap();
    files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
}

/// Takes it in a thread. Returns what is told, and what is granted in the end.
fn take_beside(
    budgets: &Budgets,
    claim: Claim,
    called_off: &Cancellation,
) -> (mpsc::Receiver<String>, thread::JoinHandle<Result<Granted, BudgetError>>) {
    let (words, told) = mpsc::channel();
    let (budgets, called_off) = (budgets.clone(), called_off.clone());
    let thread = thread::spawn(move || {
        budgets.take(claim, &|text| words.send(text.to_owned()).unwrap(), &called_off)
    });
    (told, thread)
}

#[test]
fn who_waits_is_told_once_and_again_when_that_changes_and_goes_on_when_it_fits() {
    let folder = TempDir::new().unwrap();
    let budgets = budgets(&folder);
    let first = take(&budgets, on("a", "esx1", 4, "ds1"));
    let second = take(&budgets, on("b", "esx1", 4, "ds1"));
    let (told, waiting) =
        take_beside(&budgets, on("c", "esx1", 6, "ds1"), &Cancellation::default());
    let words = told.recv_timeout(SOON).unwrap();
    assert_eq!(
        words,
        "VM DC/vm/c waits for disks of host esx1.example: 6, where 8 of 8 are taken by VM \
         DC/vm/a (4), DC/vm/b (4)"
    );
    drop(first);
    let words = told.recv_timeout(SOON).unwrap();
    assert!(words.ends_with("where 4 of 8 are taken by VM DC/vm/b (4)"), "{words}");
    drop(second);
    let granted = waiting.join().unwrap().unwrap();
    assert!(granted.has_waited() && told.try_recv().is_err());
    assert_eq!(files(&folder), BTreeSet::from(["job-of-c.json".to_owned()]));
    drop(granted);
    assert!(files(&folder).is_empty());
}

#[test]
fn disks_are_given_back_before_the_snapshot_is() {
    let folder = TempDir::new().unwrap();
    let budgets = budgets(&folder);
    let mut all: Vec<_> =
        (0..4).map(|n| take(&budgets, on(&format!("vm{n}"), "esx1", 2, "ds1"))).collect();
    for granted in &mut all {
        granted.give_back(&[Pool::Host]).unwrap();
    }
    let other = take(&budgets, on("other", "esx1", 8, "ds2"));
    drop(other);
    let called_off = Cancellation::default();
    let (told, waiting) = take_beside(&budgets, on("same", "esx1", 1, "ds1"), &called_off);
    let words = told.recv_timeout(SOON).unwrap();
    assert!(words.contains("snapshots on datastore ds1.example") && !words.contains("host"));
    called_off.cancel();
    assert!(matches!(waiting.join().unwrap(), Err(BudgetError::CalledOff)));
    // Its place in the queue is free.
    assert_eq!(files(&folder).len(), 4);
}

#[test]
fn what_a_dead_process_left_counts_for_nothing_and_goes() {
    let folder = TempDir::new().unwrap();
    let budgets = budgets(&folder);
    drop(take(&budgets, on("a", "esx1", 1, "ds1")));
    let place = folder.path().join("run/budgets");
    let left = standing(0, true, on("dead", "esx1", 8, "ds1"));
    fs::write(place.join("dead.json"), serde_json::to_vec(&left).unwrap()).unwrap();
    // It was killed as it wrote.
    fs::write(place.join("half.json"), "{\"claim\"").unwrap();
    fs::write(place.join("aside.part"), "{\"claim\"").unwrap();
    fs::write(place.join("notes.txt"), "mine").unwrap();
    let _granted = take(&budgets, on("b", "esx1", 8, "ds1"));
    let left = BTreeSet::from(["job-of-b.json".to_owned(), "notes.txt".to_owned()]);
    assert_eq!(files(&folder), left);
}

#[test]
fn a_claim_that_cannot_be_written_anew_stays_as_it_was() {
    let folder = TempDir::new().unwrap();
    let budgets = budgets(&folder);
    let mut first = take(&budgets, on("a", "esx1", 6, "ds1"));
    // Nothing can be written aside.
    let aside = folder.path().join("run/budgets/job-of-a.part");
    fs::create_dir(&aside).unwrap();
    let refused = first.give_back(&[Pool::Host]).unwrap_err();
    assert!(matches!(refused, BudgetError::System { .. }), "{refused}");
    fs::remove_dir(&aside).unwrap();
    let called_off = Cancellation::default();
    let (told, waiting) = take_beside(&budgets, on("b", "esx1", 6, "ds1"), &called_off);
    let words = told.recv_timeout(SOON).unwrap();
    assert!(words.contains("where 6 of 8 are taken by VM DC/vm/a (6)"), "{words}");
    first.give_back(&[Pool::Host]).unwrap();
    drop(waiting.join().unwrap().unwrap());
}

#[test]
fn a_claim_that_cannot_be_read_and_is_held_is_an_error_that_names_it() {
    let folder = TempDir::new().unwrap();
    let budgets = budgets(&folder);
    drop(take(&budgets, on("a", "esx1", 1, "ds1")));
    let path = folder.path().join("run/budgets/x.json");
    fs::write(&path, "{").unwrap();
    let held = fs::File::open(&path).unwrap();
    flock(&held, FlockOperation::NonBlockingLockExclusive).unwrap();
    let refused =
        budgets.take(on("b", "esx1", 1, "ds1"), &|_| {}, &Cancellation::default()).unwrap_err();
    let is_it = |strange: &Path| strange == path;
    assert!(matches!(&refused, BudgetError::Strange(strange) if is_it(strange)), "{refused}");
}

#[test]
fn a_folder_that_somebody_else_has_put_there_is_not_touched() {
    let folder = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    fs::write(elsewhere.path().join("thesis.json"), "{}").unwrap();
    fs::create_dir(folder.path().join("run")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("run/budgets")).unwrap();
    let refused = budgets(&folder)
        .take(on("a", "esx1", 1, "ds1"), &|_| {}, &Cancellation::default())
        .unwrap_err();
    assert!(matches!(refused, BudgetError::System { .. }), "{refused}");
    assert!(elsewhere.path().join("thesis.json").exists());
}
