//! What an export serves, and to whom.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

#[test]
fn an_export_on_a_unix_socket_serves_its_image_under_its_name() {
    let bench = Bench::new();
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    assert_eq!(export.session().size, 16 * MIB);
    assert!(!export.session().flags.read_only());
    does(&export, &["write -P 7 0 1M", "flush", "read -P 7 0 1M"]);
    export.end().unwrap();
}

#[test]
fn an_export_on_a_port_serves_its_image_on_loopback_only() {
    let bench = Bench::new();
    let mut spec = bench.spec(&bench.image("a"), ExportAccess::Writable);
    spec.listener = Listener::tcp(0).unwrap();
    let port = spec.listener.port().unwrap();
    let export = Export::start(spec, &bench.settings).unwrap();
    assert_eq!(export.uri().to_string(), format!("nbd://127.0.0.1:{port}/disk"));
    does(&export, &["write -P 7 0 1M"]);
    let tables = fs::read_to_string(format!("/proc/{}/net/tcp", export.pid())).unwrap();
    let listening = format!("0100007F:{port:04X} 00000000:0000 0A");
    assert!(tables.contains(&listening), "{tables}");
    export.end().unwrap();
}

#[test]
fn a_listener_on_a_port_is_not_paced() {
    let listener = Listener::tcp(0).unwrap();
    assert_eq!(listener.congestion_control().as_deref(), Some("reno"));
}

#[test]
fn a_socket_is_in_a_private_folder_that_goes_with_its_export() {
    let bench = Bench::new();
    let image = bench.image("a");
    let export = bench.start(&image, ExportAccess::ReadOnly).unwrap();
    let blockferry_dataplane::nbd::Address::Unix { path } = export.uri().address.clone() else {
        panic!("it is on a Unix socket");
    };
    let folder = path.parent().unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    export.end().unwrap();
    assert!(!folder.exists());
}

#[test]
fn an_address_that_is_held_can_be_used_again_by_the_next_export() {
    let bench = Bench::new();
    let image = bench.image("a");
    let kept = Listener::tcp(0).unwrap();
    for _ in 0..2 {
        let mut spec = bench.spec(&image, ExportAccess::Writable);
        spec.listener = kept.clone();
        let export = Export::start(spec, &bench.settings).unwrap();
        assert_eq!(
            export.uri().to_string(),
            format!("nbd://127.0.0.1:{}/disk", kept.port().unwrap())
        );
        export.end().unwrap();
    }
}

#[test]
fn a_probe_takes_no_slot_for_good() {
    let bench = Bench::new();
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    wait_until("the end of the probe", || export.usage().unwrap().connections == 0);
    export.end().unwrap();
}

#[test]
fn a_read_only_export_refuses_writes_and_can_be_had_twice() {
    let bench = Bench::new();
    let image = bench.image("a");
    let one = bench.start(&image, ExportAccess::ReadOnly).unwrap();
    let two = bench.start(&image, ExportAccess::ReadOnly).unwrap();
    assert!(one.session().flags.read_only());
    assert!(!qemu_io(&one.uri().to_string(), &["write 0 64k"]).status.success());
    one.end().unwrap();
    two.end().unwrap();
}

#[test]
fn what_is_written_to_a_throw_away_export_is_gone_with_it() {
    let bench = Bench::new();
    let image = bench.image("a");
    let before = fs::read(&image).unwrap();
    let folder = bench.path("writes");
    fs::create_dir(&folder).unwrap();
    let access = ExportAccess::ThrowAway { folder: folder.clone() };
    let export = bench.start(&image, access).unwrap();
    does(&export, &["write -P 7 0 1M", "flush", "read -P 7 0 1M"]);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "its file has no name");
    export.end().unwrap();
    assert_eq!(fs::read(&image).unwrap(), before);
}

#[test]
fn a_throw_away_export_keeps_its_writes_in_the_folder_that_it_is_given() {
    let bench = Bench::new();
    let folder = bench.path("writes");
    fs::create_dir(&folder).unwrap();
    let access = ExportAccess::ThrowAway { folder: folder.clone() };
    let export = bench.start(&bench.image("a"), access).unwrap();
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", export.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(open.iter().any(|path| path.starts_with(&folder)), "{open:?}");
}

#[test]
fn an_export_lets_in_its_connections_and_two_more() {
    let bench = Bench::new();
    let spec = bench.spec(&bench.image("a"), ExportAccess::Writable);
    let listener = spec.listener.clone();
    let export = Export::start(spec, &bench.settings).unwrap();
    wait_until("the end of the probe", || export.usage().unwrap().connections == 0);
    let greeted = |wait: Duration| {
        let connection = listener.connect(PATIENCE).unwrap();
        let mut stream = std::os::unix::net::UnixStream::from(connection);
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(wait)).unwrap();
        let mut magic = [0; 8];
        stream.read_exact(&mut magic).map(|()| stream)
    };
    let in_use: Vec<_> = (0..3).map(|_| greeted(PATIENCE).unwrap()).collect();
    assert!(greeted(Duration::from_millis(300)).is_err(), "a fourth one is let in");
    assert_eq!(export.usage().unwrap().connections, 3);
    drop(in_use);
    export.end().unwrap();
}

#[test]
fn the_usage_of_an_export_is_told() {
    let bench = Bench::new();
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    let before = export.usage().unwrap();
    assert!((100 << 10..64 << 20).contains(&before.pss_bytes), "{before:?}");
    wait_until("CPU time", || {
        does(&export, &["write -P 7 0 16M", "write -P 8 0 16M"]);
        export.usage().unwrap().cpu > before.cpu
    });
    export.end().unwrap();
}

#[test]
fn twenty_exports_serve_at_once() {
    let bench = Bench::new();
    let exports: Vec<Export> = (0..20u8)
        .map(|number| {
            let image = bench.image(&number.to_string());
            let mut spec = bench.spec(&image, ExportAccess::Writable);
            spec.listener = Listener::tcp(0).unwrap();
            Export::start(spec, &bench.settings).unwrap()
        })
        .collect();
    for (number, export) in exports.iter().enumerate() {
        does(export, &[&format!("write -P {} 0 64k", number + 1), "flush"]);
    }
    for (number, export) in exports.iter().enumerate() {
        does(export, &[&format!("read -P {} 0 64k", number + 1)]);
    }
    for export in exports {
        export.end().unwrap();
    }
}
