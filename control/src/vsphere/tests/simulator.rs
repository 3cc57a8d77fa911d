//! The client against the simulator that VMware wrote: what it takes from us, and what we take from
//! it, is not of our own making.

use blockferry_doubles::Vcsim;
use blockferry_doubles::vsphere::Flavour;

use super::*;
use crate::snapshots::Quiesced;

fn connect(simulator: &Vcsim) -> Vsphere {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("password");
    write_password(&path, "secret");
    let password = PasswordFile::at(&path).unwrap();
    let trust = Trust::Thumbprint(simulator.thumbprint().parse().unwrap());
    let mut server = VsphereServer::new("127.0.0.1", "backup", password, trust);
    server.port = simulator.address().port();
    Vsphere::connect(&server).unwrap()
}

#[test]
fn vmwares_simulator_is_understood() {
    let flavours =
        [(Flavour::Vcenter, "VMware vCenter Server 6.5"), (Flavour::Esxi, "VMware ESXi 6.5")];
    for (flavour, product) in flavours {
        let Some(simulator) = Vcsim::start(flavour, 2).unwrap() else {
            println!("not tried: scripts/setup has said that there is no simulator of VMware's");
            return;
        };
        let client = connect(&simulator);
        assert!(client.product().starts_with(product), "{}", client.product());
        let vms = client.vms().unwrap();
        assert!(vms.len() >= 2, "{vms:?}");
        for vm in &vms {
            assert_eq!(*vm, client.look(&vm.id).unwrap());
            assert_eq!(client.find(&format!("path={}", vm.path)).unwrap(), *vm);
            assert!(vm.host.is_some() && !vm.disks.is_empty() && vm.identity().is_some());
        }
        // Datacenters stand in a folder there.
        let above = if flavour == Flavour::Vcenter { "F0/DC0/F0/" } else { "ha-datacenter/" };
        assert!(vms.iter().all(|vm| vm.path == format!("{above}{}", vm.name)), "{vms:?}");
        snapshots_come_and_go(&client, &vms[0].id);
    }
}

fn snapshots_come_and_go(client: &Vsphere, vm: &VmId) {
    client.track_changes(vm).unwrap();
    assert!(client.look(vm).unwrap().tracks_changes);
    let job = JobId::new();
    for (policy, quiesced) in
        [(QuiescePolicy::None, Quiesced::NotAsked), (QuiescePolicy::Require, Quiesced::Done)]
    {
        let taken = client.take_snapshot(vm, &request(job, policy), &never()).unwrap();
        assert_eq!(taken.quiesced, quiesced);
        let disks = client.disks_of(&taken.id).unwrap();
        assert_eq!(disks.len(), client.look(vm).unwrap().disks.len());
    }
    let own = client.own_snapshots(vm).unwrap();
    let depths: Vec<usize> = own.iter().map(|(_, facts)| facts.depth).collect();
    assert_eq!(depths, [0, 1]);
    // The lower one alone goes, and the other stays.
    client.remove_snapshot(&own[0].1.id).unwrap();
    client.remove_snapshot(&own[0].1.id).unwrap();
    assert_eq!(client.own_snapshots(vm).unwrap().len(), 1);
    assert_eq!(client.remove_named(vm, &SnapshotName::of(job)).unwrap(), 1);
    assert!(client.own_snapshots(vm).unwrap().is_empty());
}
