//! Snapshots: made with and without quiescing, found, removed, whatever goes wrong.

use std::sync::{Arc, Mutex};

use blockferry_doubles::vsphere::{Failure, Trouble};

use super::*;
use crate::snapshots::{Quiesced, SnapshotId, TakenSnapshot};

const CREATE: &str = "CreateSnapshot_Task";
const REMOVE: &str = "RemoveSnapshot_Task";
const LOOK: &str = "RetrievePropertiesEx";

fn take(
    stage: &Stage,
    client: &Vsphere,
    quiesce: QuiescePolicy,
) -> (JobId, Result<TakenSnapshot, HypervisorError>) {
    let job = JobId::new();
    (job, client.take_snapshot(&stage.web_id(), &request(job, quiesce), &never()))
}

#[track_caller]
fn assert_none_left(stage: &Stage) {
    assert_eq!(stage.web().snapshots().unwrap(), []);
}

#[test]
fn a_snapshot_is_made_named_after_its_job_and_removed() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let (job, taken) = take(&stage, &client, QuiescePolicy::Require);
    let taken = taken.unwrap();
    assert_eq!(taken.quiesced, Quiesced::Done);
    let seen = stage.web().snapshots().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].id, taken.id.as_str());
    assert_eq!(seen[0].name, format!("blockferry-{job}"));
    assert_eq!(seen[0].description, "made by a test <of> & for");
    assert!(seen[0].quiesced);
    let own = client.own_snapshots(&stage.web_id()).unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!((own[0].0.job(), &own[0].1.id), (job, &taken.id));
    client.remove_snapshot(&taken.id).unwrap();
    assert_none_left(&stage);
    // Once more is as good as once.
    client.remove_snapshot(&taken.id).unwrap();
}

#[test]
fn what_became_of_quiescing_is_told() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let quiesced = |policy| {
        let taken = take(&stage, &client, policy).1.unwrap();
        let seen = stage.web().snapshots().unwrap();
        client.remove_snapshot(&taken.id).unwrap();
        (taken.quiesced, seen[0].quiesced)
    };
    assert_eq!(quiesced(QuiescePolicy::None), (Quiesced::NotAsked, false));
    assert_eq!(quiesced(QuiescePolicy::Try), (Quiesced::Done, true));
    stage.double.trouble(Trouble::QuiesceFails);
    let (fell_back, is_quiesced) = quiesced(QuiescePolicy::Try);
    assert!(matches!(&fell_back, Quiesced::FellBack(why) if !why.is_empty()), "{fell_back:?}");
    assert!(!is_quiesced);
    stage.web().power(false).unwrap();
    assert_eq!(quiesced(QuiescePolicy::Require), (Quiesced::PoweredOff, false));
}

#[test]
fn a_guest_that_cannot_is_no_snapshot_where_it_is_required() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.double.trouble(Trouble::QuiesceFails);
    let error = take(&stage, &client, QuiescePolicy::Require).1.unwrap_err();
    assert!(matches!(error, HypervisorError::NotQuiesced { .. }), "{error}");
    assert_none_left(&stage);
    stage.web().set_tools(false).unwrap();
    let error = take(&stage, &client, QuiescePolicy::Require).1.unwrap_err();
    assert!(matches!(error, HypervisorError::NotQuiesced { .. }), "{error}");
}

#[test]
fn a_deadline_of_the_guest_is_given_in_minutes() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let mut wanted = request(JobId::new(), QuiescePolicy::Require);
    wanted.quiesce_deadline = Some(Duration::from_secs(61));
    let taken = client.take_snapshot(&stage.web_id(), &wanted, &never()).unwrap();
    assert_eq!(taken.quiesced, Quiesced::Done);
    assert_eq!(stage.double.count("CreateSnapshotEx_Task"), 1);
    client.remove_snapshot(&taken.id).unwrap();
}

#[test]
fn faults_that_are_not_the_guests_are_not_tried_without_it() {
    let stage = Stage::with_web();
    let client = stage.connect();
    for kind in ["FileFault", "TaskInProgress", "HostNotConnected"] {
        let failure = Failure::new(kind, "as ordered");
        stage.double.trouble(Trouble::TaskFails { method: CREATE, failure });
        stage.double.clear_calls();
        let error = take(&stage, &client, QuiescePolicy::Try).1.unwrap_err();
        assert!(error.to_string().contains("CreateSnapshot_Task (task-"), "{error}");
        assert!(!error.to_string().contains('\n'));
        assert_eq!(stage.double.count(CREATE), 1, "{kind}");
    }
}

#[test]
fn a_snapshot_that_fails_half_way_is_removed_by_its_name() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.double.trouble(Trouble::SnapshotHalfway);
    let (job, failed) = take(&stage, &client, QuiescePolicy::None);
    failed.unwrap_err();
    assert_eq!(stage.web().snapshots().unwrap().len(), 1);
    let name = SnapshotName::of(job);
    assert_eq!(client.remove_named(&stage.web_id(), &name).unwrap(), 1);
    assert_none_left(&stage);
    assert_eq!(client.remove_named(&stage.web_id(), &name).unwrap(), 0);
}

#[test]
fn one_that_fails_half_way_while_quiescing_leaves_only_the_second() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.double.trouble(Trouble::SnapshotHalfway);
    let taken = take(&stage, &client, QuiescePolicy::Try).1.unwrap();
    let seen = stage.web().snapshots().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].id, taken.id.as_str());
    assert!(matches!(taken.quiesced, Quiesced::FellBack(_)), "{:?}", taken.quiesced);
}

#[test]
fn one_whose_answer_was_lost_is_removed_by_its_name() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.double.trouble(Trouble::Cut { method: CREATE, bytes: 10 });
    let by = Duration::from_millis(300);
    stage.double.trouble(Trouble::TaskSlow { method: CREATE, by });
    let (job, failed) = take(&stage, &client, QuiescePolicy::None);
    assert!(failed.is_err());
    // It was not begun a second time, and is being made at this moment.
    assert_eq!(stage.double.count(CREATE), 1);
    assert_eq!(client.remove_named(&stage.web_id(), &SnapshotName::of(job)).unwrap(), 1);
    assert_none_left(&stage);
}

#[test]
fn snapshots_of_others_stay() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let (mine, taken) = take(&stage, &client, QuiescePolicy::None);
    taken.unwrap();
    let (_theirs, other) = take(&stage, &client, QuiescePolicy::None);
    let other = other.unwrap();
    let name = SnapshotName::of(mine);
    assert_eq!(client.remove_named(&stage.web_id(), &name).unwrap(), 1);
    let seen = stage.web().snapshots().unwrap();
    assert_eq!(seen.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), [other.id.as_str()]);
}

#[test]
fn a_task_that_sticks_is_cancelled_and_named() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    server.deadlines.change = Duration::from_millis(300);
    server.deadlines.cancel = Duration::from_millis(500);
    let client = Vsphere::connect(&server).unwrap();
    stage.double.trouble(Trouble::TaskSticks { method: CREATE, cancelable: true });
    let error = take(&stage, &client, QuiescePolicy::None).1.unwrap_err();
    let late = matches!(&error, HypervisorError::Vsphere(VsphereError::TaskLate { .. }));
    assert!(late, "{error}");
    stage.double.trouble(Trouble::TaskSticks { method: CREATE, cancelable: false });
    let error = take(&stage, &client, QuiescePolicy::None).1.unwrap_err();
    let HypervisorError::Vsphere(VsphereError::TaskStuck { task, .. }) = &error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains(task.as_str()), "{error}");
    stage.double.release_task(task);
}

#[test]
fn a_guest_that_takes_too_long_is_done_without() {
    let stage = Stage::with_web();
    let mut server = stage.server();
    server.deadlines.change = Duration::from_millis(300);
    let client = Vsphere::connect(&server).unwrap();
    stage.double.trouble(Trouble::TaskSticks { method: CREATE, cancelable: true });
    let taken = take(&stage, &client, QuiescePolicy::Try).1.unwrap();
    assert!(matches!(taken.quiesced, Quiesced::FellBack(_)), "{:?}", taken.quiesced);
}

#[test]
fn what_is_called_off_is_cancelled() {
    let stage = Stage::with_web();
    let client = stage.connect();
    stage.double.trouble(Trouble::TaskSticks { method: CREATE, cancelable: true });
    let called_off = never();
    let wanted = request(JobId::new(), QuiescePolicy::Try);
    let error = std::thread::scope(|scope| {
        let taking = scope.spawn(|| client.take_snapshot(&stage.web_id(), &wanted, &called_off));
        until("the task", || !stage.double.tasks().is_empty());
        called_off.cancel();
        taking.join().unwrap().unwrap_err()
    });
    assert!(matches!(error, HypervisorError::CalledOff), "{error}");
    assert_eq!(stage.double.count(CREATE), 1);
    assert_none_left(&stage);
}

#[test]
fn a_removal_outlasts_what_is_in_its_way() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let taken = take(&stage, &client, QuiescePolicy::None).1.unwrap();
    for kind in ["TaskInProgress", "HostNotConnected"] {
        let failure = Failure::new(kind, "as ordered");
        stage.double.trouble(Trouble::CallFails { method: REMOVE, failure });
    }
    stage.double.trouble(Trouble::Cut { method: REMOVE, bytes: 5 });
    stage.double.trouble(Trouble::SessionExpires { after: 2, quietly: true });
    client.remove_snapshot(&taken.id).unwrap();
    assert_none_left(&stage);
    assert!(stage.double.troubles().is_empty(), "{:?}", stage.double.troubles());
}

/// A client that waits no longer than a second for a server that is away, and a snapshot.
fn impatient(stage: &Stage) -> (Vsphere, TakenSnapshot) {
    let mut server = stage.server();
    server.deadlines.absence = Duration::from_secs(1);
    server.deadlines.removal = Duration::from_secs(30);
    let client = Vsphere::connect(&server).unwrap();
    let taken = take(stage, &client, QuiescePolicy::None).1.unwrap();
    (client, taken)
}

fn away() -> Failure {
    Failure::new("HostNotConnected", "as ordered")
}

#[test]
fn a_server_that_is_away_while_it_removes_a_snapshot_is_waited_for_as_long_as_it_may_be_and_told() {
    let stage = Stage::with_web();
    let (client, taken) = impatient(&stage);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let tell = move |why: &str| hears.lock().unwrap().push(why.to_owned());
    let client = client.telling(Arc::new(tell), &never());
    let by = Duration::from_secs(8);
    stage.double.trouble(Trouble::TaskSlow { method: REMOVE, by });
    for _ in 0..100 {
        stage.double.trouble(Trouble::CallFails { method: LOOK, failure: away() });
    }
    let began = Instant::now();
    let error = client.remove_snapshot(&taken.id).unwrap_err();
    assert!(error.to_string().contains("HostNotConnected"), "{error}");
    assert!(began.elapsed() < by, "{:?}", began.elapsed());
    let heard = heard.lock().unwrap();
    let [words] = &heard[..] else { panic!("{heard:?}") };
    assert!(words.contains("HostNotConnected") && words.contains("for 1 s at most"), "{words}");
}

#[test]
fn a_server_that_answers_now_and_then_is_not_away() {
    let stage = Stage::with_web();
    let (client, taken) = impatient(&stage);
    stage.double.trouble(Trouble::TaskSticks { method: REMOVE, cancelable: false });
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| client.remove_snapshot(&taken.id));
        until("the task", || stage.double.count(REMOVE) == 1);
        let is_over = || removing.is_finished();
        // Each costs half a second.
        for _ in 0..3 {
            stage.double.trouble(Trouble::CallFails { method: LOOK, failure: away() });
            until("a look that fails", || is_over() || stage.double.troubles().is_empty());
            let looks = stage.double.count(LOOK);
            // That one may not be counted yet; the second after it begins when the first is answered.
            until("an answer", || is_over() || stage.double.count(LOOK) > looks + 2);
        }
        let task = stage.double.tasks().into_iter().find(|task| task.ended.is_none()).unwrap();
        stage.double.release_task(&task.id);
        assert!(removing.join().unwrap().unwrap());
    });
    assert_none_left(&stage);
}

#[test]
fn a_vm_that_is_busy_is_waited_for_longer_than_a_server_that_is_away() {
    let stage = Stage::with_web();
    let (client, taken) = impatient(&stage);
    // Asked again after 0.5, 1.5 and 3.5 s.
    for _ in 0..3 {
        let failure = Failure::new("TaskInProgress", "as ordered");
        stage.double.trouble(Trouble::CallFails { method: REMOVE, failure });
    }
    assert!(client.remove_snapshot(&taken.id).unwrap());
    assert_none_left(&stage);
}

#[test]
fn a_server_that_was_at_work_between_two_failures_was_not_away_in_between() {
    let stage = Stage::with_web();
    let (client, taken) = impatient(&stage);
    stage.double.trouble(Trouble::CallFails { method: REMOVE, failure: away() });
    // The second attempt goes on for longer than the server may be away, and fails then.
    let by = Duration::from_secs(2);
    stage.double.trouble(Trouble::TaskSlow { method: REMOVE, by });
    stage.double.trouble(Trouble::TaskFails { method: REMOVE, failure: away() });
    assert!(client.remove_snapshot(&taken.id).unwrap());
    assert_none_left(&stage);
}

#[test]
fn a_removal_that_fails_is_told() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let taken = take(&stage, &client, QuiescePolicy::None).1.unwrap();
    let failure = Failure::new("FileFault", "as ordered");
    stage.double.trouble(Trouble::TaskFails { method: REMOVE, failure });
    let error = client.remove_snapshot(&taken.id).unwrap_err();
    assert!(error.to_string().contains("FileFault"), "{error}");
    client.remove_snapshot(&taken.id).unwrap();
}

#[test]
fn a_session_that_expires_while_a_task_is_waited_for_is_renewed() {
    for after in 0..5 {
        let stage = Stage::with_web();
        let client = stage.connect();
        let by = Duration::from_millis(100);
        stage.double.trouble(Trouble::TaskSlow { method: CREATE, by });
        stage.double.trouble(Trouble::SessionExpires { after, quietly: after % 2 == 0 });
        take(&stage, &client, QuiescePolicy::None).1.unwrap();
        assert_eq!(stage.double.count(CREATE) - usize::from(after == 1), 1, "{after}");
        assert_eq!(stage.web().snapshots().unwrap().len(), 1);
    }
}

#[test]
fn a_vm_that_is_gone_has_no_snapshots() {
    let stage = Stage::with_web();
    let client = stage.connect();
    let name = SnapshotName::of(JobId::new());
    assert_eq!(client.remove_named(&VmId::new("vm-99999"), &name).unwrap(), 0);
    client.remove_snapshot(&SnapshotId::new("snapshot-99999")).unwrap();
    let error = client.own_snapshots(&VmId::new("vm-99999")).unwrap_err();
    assert!(matches!(error, HypervisorError::Gone(_)), "{error}");
}

#[test]
fn tracking_is_turned_on_and_takes_a_snapshot_to_begin() {
    let plain = NewMachine::new("web").disk(1 << 20);
    let stage = Stage::of(Double::builder().machine(plain));
    let client = stage.connect();
    client.track_changes(&stage.web_id()).unwrap();
    assert!(client.find("web").unwrap().tracks_changes);
    let first = take(&stage, &client, QuiescePolicy::None).1.unwrap();
    client.remove_snapshot(&first.id).unwrap();
    let second = take(&stage, &client, QuiescePolicy::None).1.unwrap();
    assert!(client.disks_of(&second.id).unwrap()[0].change.is_some());
}

#[test]
fn a_creation_and_a_removal_are_waited_for_whatever_is_called_off() {
    let stage = Stage::with_web();
    let called_off = never();
    let client = stage.connect().unless(&called_off);
    let wanted = request(JobId::new(), QuiescePolicy::None);
    stage.double.trouble(Trouble::CallHeld { method: CREATE });
    let taken = std::thread::scope(|scope| {
        let taking = scope.spawn(|| client.take_snapshot(&stage.web_id(), &wanted, &never()));
        until("the call", || stage.double.held(CREATE) == 1);
        called_off.cancel();
        stage.double.release_call(CREATE);
        taking.join().unwrap().unwrap()
    });
    assert_eq!(stage.web().snapshots().unwrap().len(), 1);
    assert!(client.remove_snapshot(&taken.id).unwrap());
    assert_none_left(&stage);
    assert!(!client.remove_snapshot(&taken.id).unwrap());
}
