use std::path::Path;

use super::*;
use crate::export::{ExportAccess, ExportSettings, ExportSpec};
use crate::image::{Image, ImageTool};

fn start(hub: &Hub, folder: &Path, lease: &PortLease) -> RunningExport {
    let image = folder.join(format!("{}.qcow2", lease.disk));
    Image::create(&image, 1 << 20, None, ImageTool::default()).unwrap();
    let port = hub.ports().use_for_export(lease.port, &lease.holder()).unwrap();
    let spec = ExportSpec {
        image,
        name: lease.export_name(),
        listener: port.listener(),
        access: ExportAccess::Writable,
        connections: 1,
    };
    hub.exports().start(spec, Some(port), &ExportSettings::for_exports(4)).unwrap()
}

#[test]
fn a_port_stays_leased_while_an_export_runs_on_it() {
    let place = Place::new();
    let hub = place.hub();
    let lease = hub.ports().lease(&holder("a"), &vm("db"), &disk("root disk")).unwrap();
    let export = start(&hub, place.folder.path(), &lease);
    for released in [
        hub.ports().release(lease.port, &holder("a")).map(|lease| vec![lease]),
        hub.ports().release_all(&holder("a")),
    ] {
        let error = released.unwrap_err();
        assert!(matches!(error, PortError::ExportRuns(port) if port == lease.port), "{error}");
    }
    export.end().unwrap();
    assert_eq!(hub.exports().count(), 0);
    assert_eq!(hub.ports().release_all(&holder("a")).unwrap(), [lease]);
}

#[test]
fn running_exports_are_listed_with_what_they_use_and_end_with_the_hub() {
    let place = Place::new();
    let hub = place.hub();
    let lease = |name| hub.ports().lease(&holder("a"), &vm("db"), &disk(name)).unwrap();
    let leases = [lease("root"), lease("data")];
    let running: Vec<_> =
        leases.iter().map(|lease| start(&hub, place.folder.path(), lease)).collect();
    let client = std::net::TcpStream::connect(("127.0.0.1", leases[1].port)).unwrap();
    // Once it has greeted, it has accepted.
    let mut greeting = [0; 8];
    std::io::Read::read_exact(&mut &client, &mut greeting).unwrap();
    let facts = hub.exports().list();
    assert_eq!(facts.len(), 2);
    for ((facts, export), lease) in facts.iter().zip(&running).zip(&leases) {
        assert_eq!((facts.pid, facts.port), (export.pid(), Some(lease.port)));
        assert_eq!(facts.name, lease.export_name());
        assert!(facts.usage.unwrap().pss_bytes > 100_000);
    }
    assert_eq!(facts[1].usage.unwrap().connections, 1);
    let failed = hub.exports().end_all();
    assert!(failed.is_empty(), "{failed:?}");
    assert!(running.iter().all(|export| !Path::new(&format!("/proc/{}", export.pid())).exists()));
    assert!(hub.exports().list().is_empty());
    assert_eq!(hub.ports().release_all(&holder("a")).unwrap().len(), 2);
}
