//! Times and sizes that are promised.

use blockferry_doubles::queued;
use blockferry_doubles::vsphere::CHANGE_BYTES;

use super::*;

/// The rest of a wait is the server's own.
const INVENTORY: Duration = Duration::from_secs(2);
const AREAS: Duration = Duration::from_secs(1);
/// Other tests run beside this one, and share its caches: the best of so many is looked at.
const ROUNDS: usize = 8;

/// What other tests take from the client, which is this thread and its reactor's.
fn taken() -> Duration {
    queued(|is_own, name| is_own || name == "vsphere")
}

#[test]
fn a_thousand_vms_are_listed_in_time() {
    let builder = (0..1000).fold(Double::builder(), |builder, index| {
        let name = format!("vm{index:04}");
        builder.machine(NewMachine::new(&name).folder("many").disk(1 << 20).disk(1 << 20))
    });
    let stage = Stage::of(builder);
    let client = stage.connect();
    let (queue, begin) = (taken(), Instant::now());
    let vms = client.vms().unwrap();
    let (took, queue) = (begin.elapsed(), taken().saturating_sub(queue));
    let own = stage.double.own_time(begin, begin + took);
    assert_eq!(vms.len(), 1000);
    assert!(vms.iter().all(|vm| vm.disks.len() == 2));
    println!("listed in {took:?}, of which {own:?} the server's and {queue:?} others'");
    assert!(took.saturating_sub(own + queue) <= INVENTORY, "{took:?} less {own:?} and {queue:?}");
}

#[test]
fn a_hundred_thousand_changed_areas_are_planned_in_time() {
    const AREA_COUNT: u64 = 100_000;
    let machine = NewMachine::new("web").disk(2 * AREA_COUNT * CHANGE_BYTES).tracked();
    let stage = Stage::of(Double::builder().page_areas(2000).machine(machine));
    let client = stage.connect();
    let take = || {
        let wanted = request(JobId::new(), QuiescePolicy::None);
        let taken = client.take_snapshot(&stage.web_id(), &wanted, &never()).unwrap();
        let disk = client.disks_of(&taken.id).unwrap().remove(0);
        (taken.id, disk)
    };
    let (first, disk) = take();
    client.remove_snapshot(&first).unwrap();
    let web = stage.web();
    for index in 0..AREA_COUNT {
        web.write(2000, 2 * index * CHANGE_BYTES, b"x").unwrap();
    }
    let (second, now) = take();
    let since = disk.change.unwrap();
    let round = || {
        let (web, most) = (stage.web_id(), usize::MAX);
        let (queue, begin) = (taken(), Instant::now());
        let areas = client.changed_areas(&web, &second, &now, &since, most).unwrap();
        let (took, queue) = (begin.elapsed(), taken().saturating_sub(queue));
        let own = stage.double.own_time(begin, begin + took);
        assert_eq!(areas.len() as u64, AREA_COUNT);
        println!("planned in {took:?}, of which {own:?} the server's and {queue:?} others'");
        took.saturating_sub(own + queue)
    };
    let rounds: Vec<Duration> = (0..ROUNDS).map(|_| round()).collect();
    assert!(rounds.iter().any(|took| *took <= AREAS), "{rounds:?}");
}
