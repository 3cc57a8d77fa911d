//! What is ordered from the double of vSphere to go wrong goes wrong, once, and as ordered.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod soap;

use std::time::{Duration, Instant};

use blockferry_doubles::Vsphere;
use blockferry_doubles::vsphere::{
    CHANGE_BYTES, Failure, NewMachine, Page, Trouble, VirtualMachine,
};
use soap::{Soap, areas_of};

const MIB: u64 = 1 << 20;
const SNAPSHOT: &str = "CreateSnapshot_Task";
const AREAS: &str = "QueryChangedDiskAreas";
const PLAIN: &str = "<name>n</name><memory>false</memory><quiesce>false</quiesce>";
const QUIESCED: &str = "<name>n</name><memory>false</memory><quiesce>true</quiesce>";

struct Place {
    vsphere: Vsphere,
    machine: VirtualMachine,
    soap: Soap,
    _folder: tempfile::TempDir,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let order = NewMachine::new("web").disk(4 * MIB).tracked();
    let builder = Vsphere::builder().user("backup", "secret").page_areas(2).machine(order);
    let vsphere = builder.start(folder.path()).unwrap();
    let machine = vsphere.machine_named("web").unwrap();
    let soap = Soap::login(&vsphere);
    Place { vsphere, machine, soap, _folder: folder }
}

impl Place {
    fn make(&mut self, inside: &str) -> soap::Answer {
        let task = self.soap.task(SNAPSHOT, ("VirtualMachine", self.machine.id()), inside);
        self.soap.wait(&self.vsphere, &task)
    }

    /// A snapshot with areas at blocks 1, 3, 5 and 7 since the change id.
    fn changed(&mut self) -> (String, String) {
        let base = self.soap.snapshot(&self.vsphere, self.machine.id());
        let id = self.soap.change_ids(&base).remove(0).1.unwrap();
        for block in [1, 3, 5, 7] {
            self.machine.write(2000, block * CHANGE_BYTES, &[1]).unwrap();
        }
        (self.soap.snapshot(&self.vsphere, self.machine.id()), id)
    }

    fn page(&mut self, snapshot: &str, id: &str, start: u64) -> (u64, Vec<(u64, u64)>) {
        areas_of(&self.soap.page(self.machine.id(), snapshot, 2000, start, id))
    }

    fn name(&mut self) -> std::io::Result<soap::Answer> {
        self.soap.try_call("Fetch", ("VirtualMachine", self.machine.id()), "<prop>name</prop>")
    }
}

#[test]
fn a_login_can_be_refused_though_its_password_is_right() {
    let Place { vsphere, .. } = place();
    let mut soap = Soap::connect(&vsphere);
    let inside = "<userName>backup</userName><password>secret</password>";
    let this = ("SessionManager", "SessionManager");
    vsphere.trouble(Trouble::LoginRefused);
    assert_eq!(soap.call("Login", this, inside).fault(), Some("InvalidLogin"));
    assert_eq!(soap.call("Login", this, inside).status, 200);
}

#[test]
fn a_session_expires_after_so_many_calls() {
    let mut place = place();
    place.vsphere.trouble(Trouble::SessionExpires { after: 2, quietly: false });
    for _ in 0..2 {
        assert_eq!(place.name().unwrap().inside("returnval"), Some("web"));
    }
    let answer = place.name().unwrap();
    assert_eq!((answer.status, answer.fault()), (500, Some("NotAuthenticated")));
    assert_eq!(place.vsphere.sessions(), 0);
}

#[test]
fn a_session_expires_in_an_answer_that_looks_like_a_good_one() {
    let mut place = place();
    place.vsphere.trouble(Trouble::SessionExpires { after: 0, quietly: true });
    let answer = place.soap.property(("VirtualMachine", place.machine.id()), "name");
    assert_eq!(answer.status, 200);
    let missing = answer.inside("missingSet").unwrap();
    assert!(missing.contains("<path>name</path>"), "{missing}");
    assert!(missing.contains("xsi:type=\"NotAuthenticated\""), "{missing}");
    assert_eq!(place.name().unwrap().fault(), Some("NotAuthenticated"));
}

#[test]
fn a_task_fails_and_has_done_nothing() {
    let mut place = place();
    let failure = Failure::new("HostNotConnected", "the host is away");
    place.vsphere.trouble(Trouble::TaskFails { method: SNAPSHOT, failure });
    let info = place.make(PLAIN);
    assert_eq!(info.inside("state"), Some("error"));
    assert_eq!(info.inside("localizedMessage"), Some("the host is away"));
    assert_eq!(place.machine.snapshots().unwrap(), []);
    assert_eq!(place.make(PLAIN).inside("state"), Some("success"));
}

#[test]
fn a_task_that_sticks_goes_on_when_it_is_let_go() {
    let mut place = place();
    place.vsphere.trouble(Trouble::TaskSticks { method: SNAPSHOT, cancelable: false });
    let task = place.soap.task(SNAPSHOT, ("VirtualMachine", place.machine.id()), PLAIN);
    let info = place.soap.property(("Task", &task), "info");
    assert_eq!(info.inside("state"), Some("running"));
    let answer = place.soap.call("CancelTask", ("Task", &task), "");
    assert_eq!(answer.fault(), Some("NotSupported"));
    place.vsphere.release_task(&task);
    assert_eq!(place.soap.wait(&place.vsphere, &task).inside("state"), Some("success"));
}

#[test]
fn a_server_ends_though_a_task_and_a_call_stick() {
    let mut place = place();
    place.vsphere.trouble(Trouble::TaskSticks { method: SNAPSHOT, cancelable: false });
    let by = Duration::from_secs(3600);
    place.vsphere.trouble(Trouble::CallSlow { method: AREAS, by });
    place.soap.task(SNAPSHOT, ("VirtualMachine", place.machine.id()), PLAIN);
    let Place { vsphere, mut soap, machine, .. } = place;
    let waiting = std::thread::spawn(move || {
        let inside =
            "<deviceKey>2000</deviceKey><startOffset>0</startOffset><changeId>*</changeId>";
        soap.try_call(AREAS, ("VirtualMachine", machine.id()), inside)
    });
    // The call waits as soon as its trouble was taken.
    let taken = |vsphere: &Vsphere| vsphere.troubles().is_empty();
    while !taken(&vsphere) {
        std::thread::yield_now();
    }
    let started = Instant::now();
    drop(vsphere);
    assert!(started.elapsed() < Duration::from_secs(10));
    waiting.join().unwrap().unwrap_err();
}

#[test]
fn a_snapshot_is_there_though_its_task_failed() {
    let mut place = place();
    place.vsphere.trouble(Trouble::SnapshotHalfway);
    assert_eq!(place.make(PLAIN).inside("state"), Some("error"));
    assert_eq!(place.machine.snapshots().unwrap()[0].name, "n");
}

#[test]
fn quiescing_fails_and_a_snapshot_without_it_does_not() {
    let mut place = place();
    place.vsphere.trouble(Trouble::QuiesceFails);
    let info = place.make(QUIESCED);
    assert!(info.body.contains("ApplicationQuiesceFault"), "{info:?}");
    assert_eq!(place.machine.snapshots().unwrap(), []);
    place.machine.set_tools(false).unwrap();
    assert_eq!(place.make(QUIESCED).inside("state"), Some("error"));
    assert_eq!(place.make(PLAIN).inside("state"), Some("success"));
}

#[test]
fn a_removal_can_leave_disks_that_need_consolidation() {
    let mut place = place();
    let snapshot = place.soap.snapshot(&place.vsphere, place.machine.id());
    place.vsphere.trouble(Trouble::NotConsolidated);
    place.soap.remove(&place.vsphere, &snapshot);
    assert!(place.machine.needs_consolidation().unwrap());
    assert_eq!(place.machine.file(2000).unwrap(), "[datastore1] web/web-000001.vmdk");
    let this = ("VirtualMachine", place.machine.id());
    let task = place.soap.task("ConsolidateVMDisks_Task", this, "");
    place.soap.wait(&place.vsphere, &task);
    assert!(!place.machine.needs_consolidation().unwrap());
    assert_eq!(place.machine.file(2000).unwrap(), "[datastore1] web/web.vmdk");
}

#[test]
fn pages_of_changed_areas_go_wrong_in_every_way() {
    let mut place = place();
    let (snapshot, id) = place.changed();
    let area = |block: u64| (block * CHANGE_BYTES, CHANGE_BYTES);
    let second = 4 * CHANGE_BYTES;
    let good = (second, vec![area(1), area(3)]);
    assert_eq!(place.page(&snapshot, &id, 0), good);
    let wrong = [
        (Page::Stalls, (0, vec![])),
        (Page::Repeats, good.clone()),
        (
            Page::Overlaps,
            (4 * MIB - second, vec![(3 * CHANGE_BYTES, 2 * CHANGE_BYTES), area(5), area(7)]),
        ),
        (
            Page::Exceeds,
            (4 * MIB - second + CHANGE_BYTES, vec![area(5), area(7), (4 * MIB, CHANGE_BYTES)]),
        ),
        (Page::EndsEarly, (2 * CHANGE_BYTES, vec![area(5)])),
        (Page::Unordered, (4 * MIB - second, vec![area(7), area(5)])),
    ];
    for (page, expected) in wrong {
        place.vsphere.trouble(Trouble::Areas(page));
        assert_eq!(place.page(&snapshot, &id, second), expected, "{page:?}");
        assert_eq!(place.page(&snapshot, &id, second), (4 * MIB - second, vec![area(5), area(7)]));
    }
}

#[test]
fn areas_in_use_can_be_the_whole_disk_and_a_call_can_fail() {
    let mut place = place();
    let (snapshot, id) = place.changed();
    place.vsphere.trouble(Trouble::AllInUse);
    assert_eq!(place.page(&snapshot, "*", 0), (4 * MIB, vec![(0, 4 * MIB)]));
    assert_eq!(place.page(&snapshot, "*", 0).1.len(), 2);
    let failure = Failure::new("FileFault", "");
    place.vsphere.trouble(Trouble::CallFails { method: AREAS, failure });
    let answer = place.soap.page(place.machine.id(), &snapshot, 2000, 0, &id);
    assert_eq!(answer.fault(), Some("FileFault"));
}

#[test]
fn bodies_are_cut_truncated_blown_up_and_mined() {
    let mut place = place();
    let whole = place.name().unwrap().body;
    place.vsphere.trouble(Trouble::Truncated { method: "Fetch", bytes: 100 });
    assert_eq!(place.name().unwrap().body, whole[..100]);
    place.vsphere.trouble(Trouble::Huge { method: "Fetch", bytes: 9 << 20 });
    assert!(place.name().unwrap().body.len() > 9 << 20);
    place.vsphere.trouble(Trouble::EntityBomb { method: "Fetch" });
    let bomb = place.name().unwrap().body;
    assert!(bomb.contains("<!ENTITY e9") && bomb.contains("&e9;"), "{bomb}");
    assert_eq!(place.name().unwrap().body, whole);
    place.vsphere.trouble(Trouble::Cut { method: "Fetch", bytes: 100 });
    place.name().unwrap_err();
}

#[test]
fn a_host_in_maintenance_makes_no_snapshots_of_what_it_keeps() {
    let mut place = place();
    place.machine.power(false).unwrap();
    place.vsphere.set_maintenance("esx1", true);
    assert!(place.make(PLAIN).body.contains("InvalidState"));
    place.vsphere.set_maintenance("esx1", false);
    place.machine.power(true).unwrap();
    place.vsphere.set_maintenance("esx1", true);
    // It has moved to the other host.
    assert_eq!(place.make(PLAIN).inside("state"), Some("success"));
}

#[test]
fn the_servers_own_time_is_counted_once() {
    let mut place = place();
    let started = Instant::now();
    let by = Duration::from_millis(300);
    place.vsphere.trouble(Trouble::TaskSlow { method: SNAPSHOT, by });
    place.make(PLAIN);
    let between = Instant::now();
    place.vsphere.trouble(Trouble::CallSlow { method: "Fetch", by });
    place.name().unwrap();
    let own = place.vsphere.own_time(started, Instant::now());
    assert!(own >= 2 * by && own <= started.elapsed(), "{own:?}");
    let later = place.vsphere.own_time(between, Instant::now());
    assert!(later >= by && later < own, "{later:?}");
    assert_eq!(place.vsphere.count(SNAPSHOT), 1);
}

#[test]
fn an_esxi_host_has_other_names_for_the_same_objects() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Vsphere::builder().esxi().user("backup", "secret");
    let vsphere = builder.machine(NewMachine::new("web").disk(MIB)).start(folder.path()).unwrap();
    let mut soap = Soap::login(&vsphere);
    let this = ("ServiceInstance", "ServiceInstance");
    let content = soap.call("RetrieveServiceContent", this, "");
    assert_eq!(content.inside("apiType"), Some("HostAgent"));
    assert_eq!(content.inside("rootFolder"), Some("ha-folder-root"));
    let machine = vsphere.machine_named("web").unwrap();
    assert!(machine.id().parse::<u32>().is_ok());
    let snapshot = soap.snapshot(&vsphere, machine.id());
    assert!(snapshot.starts_with(&format!("{}-snapshot-", machine.id())), "{snapshot}");
}

#[test]
fn a_thousand_machines_are_cheap() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut builder = Vsphere::builder().user("backup", "secret");
    for number in 0..1000 {
        let order = NewMachine::new(&format!("vm{number}")).disk(100 << 30).disk(10 << 30);
        builder = builder.machine(order.folder(&format!("f{}", number % 20)));
    }
    let vsphere = builder.start(folder.path()).unwrap();
    let mut soap = Soap::login(&vsphere);
    let view = soap.call(
        "CreateContainerView",
        ("ViewManager", "ViewManager"),
        "<container type=\"Folder\">group-d1</container><type>VirtualMachine</type>\
         <recursive>true</recursive>",
    );
    let view = view.inside("returnval").unwrap();
    let spec = format!(
        "<specSet><propSet><type>VirtualMachine</type><pathSet>name</pathSet>\
         <pathSet>config</pathSet></propSet>\
         <objectSet><obj type=\"ContainerView\">{view}</obj><skip>true</skip>\
         <selectSet xsi:type=\"TraversalSpec\"><name>v</name><type>ContainerView</type>\
         <path>view</path><skip>false</skip></selectSet></objectSet></specSet><options/>"
    );
    let this = ("PropertyCollector", "propertyCollector");
    let answer = soap.call("RetrievePropertiesEx", this, &spec);
    assert_eq!(answer.all("objects").len(), 1000, "{}", &answer.body[..500]);
    // What a client does besides is more than this.
    let own = vsphere.own_time(started, Instant::now());
    assert!(own < Duration::from_secs(2), "{own:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}
