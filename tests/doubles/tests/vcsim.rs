//! The double of vSphere answers as VMware's own simulator does, where that has an answer.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod soap;

use std::thread;
use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::{Flavour, NewMachine};
use blockferry_doubles::{Vcsim, Vsphere};
use soap::{Answer, Soap};

const DEADLINE: Duration = Duration::from_secs(30);
const LOGIN: &str = "<userName>backup</userName><password>secret</password>";
const SNAPSHOT: &str = "<name>n</name><description>d</description><memory>false</memory>\
                        <quiesce>false</quiesce>";

/// What a run of calls was answered: the call, the status, and the fault or the type of result.
type Told = Vec<(String, u16, String)>;

struct Script {
    soap: Soap,
    told: Told,
    collector: String,
}

impl Script {
    fn ask(&mut self, method: &str, this: (&str, &str), inside: &str) -> Answer {
        let answer = self.soap.call(method, this, inside);
        let kind = match answer.fault() {
            Some(fault) => fault.to_owned(),
            None => {
                format!("{method}Response: {}", answer.body.contains(&format!("{method}Response")))
            }
        };
        self.told.push((method.to_owned(), answer.status, kind));
        answer
    }

    fn property(&mut self, of: (&str, &str), path: &str) -> Answer {
        let (kind, id) = of;
        let spec = format!(
            "<specSet><propSet><type>{kind}</type><pathSet>{path}</pathSet></propSet>\
             <objectSet><obj type=\"{kind}\">{id}</obj></objectSet></specSet><options/>"
        );
        let collector = self.collector.clone();
        self.ask("RetrievePropertiesEx", ("PropertyCollector", &collector), &spec)
    }

    /// Waits for a task by its own state, and tells that.
    fn wait(&mut self, task: &Answer) -> Answer {
        let id = task.inside("returnval").unwrap();
        let started = Instant::now();
        loop {
            let before = self.told.len();
            let info = self.property(("Task", id), "info");
            let state = info.inside("state").unwrap_or_default().to_owned();
            if state == "success" || state == "error" {
                self.told.push(("state".to_owned(), 0, state));
                return info;
            }
            assert!(started.elapsed() < DEADLINE, "{info:?}");
            // How often one looks is not compared.
            self.told.truncate(before);
            thread::yield_now();
        }
    }
}

fn script(mut soap: Soap) -> Told {
    let instance = ("ServiceInstance", "ServiceInstance");
    let content = soap.call("RetrieveServiceContent", instance, "");
    let name = |what: &str| content.inside(what).unwrap().to_owned();
    let (root, sessions, views) = (name("rootFolder"), name("sessionManager"), name("viewManager"));
    let mut script = Script { soap, told: Vec::new(), collector: name("propertyCollector") };
    script.told.push(("apiType".to_owned(), 0, name("apiType")));
    let wrong = LOGIN.replace("secret", "wrong");
    script.ask("Login", ("SessionManager", &sessions), &wrong);
    script.ask("Login", ("SessionManager", &sessions), LOGIN);
    script.ask("CurrentTime", instance, "");
    let view = script.ask(
        "CreateContainerView",
        ("ViewManager", &views),
        &format!("<container type=\"Folder\">{root}</container><type>VirtualMachine</type><recursive>true</recursive>"),
    );
    let view = view.inside("returnval").unwrap().to_owned();
    let machines = script.property(("ContainerView", &view), "view");
    let machines = machines.all("ManagedObjectReference");
    assert_eq!(machines.len(), 2, "{machines:?}");
    script.ask("DestroyView", ("ContainerView", &view), "");
    with_a_machine(&mut script, machines[0]);
    let nobody = ("VirtualMachine", "vm-999999");
    script.ask("PowerOffVM_Task", nobody, "");
    script.property(nobody, "name");
    script.ask("Logout", ("SessionManager", &sessions), "");
    script.told
}

fn with_a_machine(script: &mut Script, id: &str) {
    let machine = ("VirtualMachine", id);
    for path in ["name", "config.uuid", "runtime.powerState", "snapshot"] {
        script.property(machine, path);
    }
    let devices = script.property(machine, "config.hardware.device");
    let disk = devices.body.contains(":type=\"VirtualDiskFlatVer2BackingInfo\"");
    script.told.push(("has a flat disk".to_owned(), 0, disk.to_string()));
    let task = script.ask("CreateSnapshot_Task", machine, SNAPSHOT);
    let info = script.wait(&task);
    let snapshot = info.inside("result").unwrap().to_owned();
    let tree = script.property(machine, "snapshot");
    let names: Vec<_> = tree.all("name");
    script.told.push(("tree".to_owned(), 0, format!("{:?}", names.contains(&"n"))));
    let current = tree.inside("currentSnapshot").unwrap() == snapshot;
    script.told.push(("current".to_owned(), 0, current.to_string()));
    let this = ("VirtualMachineSnapshot", snapshot.as_str());
    script.property(this, "config.name");
    let task = script.ask("RemoveSnapshot_Task", this, "<removeChildren>false</removeChildren>");
    script.wait(&task);
    script.property(machine, "snapshot");
    for (method, inside) in [
        ("PowerOffVM_Task", ""),
        ("PowerOffVM_Task", ""),
        ("PowerOnVM_Task", ""),
        ("ReconfigVM_Task", "<spec><changeTrackingEnabled>true</changeTrackingEnabled></spec>"),
    ] {
        let task = script.ask(method, machine, inside);
        script.wait(&task);
    }
}

fn compare(flavour: Flavour) {
    // One pool of a host, and two of a vCenter, which has one host outside of its cluster.
    let machines = if flavour == Flavour::Esxi { 2 } else { 1 };
    let Some(theirs) = Vcsim::start(flavour, machines).unwrap() else {
        println!("not compared: scripts/setup has said that there is no simulator of VMware's");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Vsphere::builder().user("backup", "secret");
    if flavour == Flavour::Esxi {
        builder = builder.esxi();
    }
    for name in ["a", "b"] {
        builder = builder.machine(NewMachine::new(name).disk(1 << 20));
    }
    let ours = builder.start(folder.path()).unwrap();
    let theirs = script(Soap::connect_to(theirs.address(), theirs.certificate_pem()));
    let ours = script(Soap::connect(&ours));
    for (index, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "at call {index}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn a_vcenter_answers_as_vmwares_simulator_does() {
    compare(Flavour::Vcenter);
}

#[test]
fn an_esxi_host_answers_as_vmwares_simulator_does() {
    compare(Flavour::Esxi);
}
