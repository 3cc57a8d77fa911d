//! nbdkits of other versions.

use std::io::{Read, Write};
use std::process::Command;

use blockferry_doubles::process::run_ok;

use super::*;

/// A real nbdkit that says it is of this version, and shows its arguments.
fn of_version(bench: &mut Bench, version: &str) {
    bench.script(&format!(
        "[ \"$1\" != --version ] || exec echo 'nbdkit {version}'\necho \"$*\" >&2\nexec nbdkit \"$@\""
    ));
}

#[test]
fn one_that_is_too_old_is_refused() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    of_version(&mut bench, "1.22.4");
    let error = bench.start(&disk).unwrap_err().to_string();
    assert!(error.contains("1.22.4") && error.contains("1.24.0"), "{error}");
    of_version(&mut bench, "of my own");
    let error = bench.start(&disk).unwrap_err();
    assert!(matches!(error, SourceError::VersionUnknown { .. }), "{error}");
    assert!(bench.left().is_empty());
}

#[test]
fn one_that_aborts_at_a_hang_up_serves_one_request_at_a_time() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    for (version, alone) in [("1.33.9", true), ("1.34.0", false)] {
        of_version(&mut bench, version);
        let running = bench.start(&disk).unwrap();
        wait_until_said(&running, "--exit-with-parent");
        let arguments = &running.last_words()[0];
        assert_eq!(arguments.contains("--threads=1"), alone, "{arguments}");
        assert_eq!(running.version().one_request_at_a_time().is_some(), alone);
        running.stop().unwrap();
    }
}

#[test]
fn a_client_that_hangs_up_with_requests_under_way_harms_nobody() {
    let (mut bench, disk, content) = Bench::with_disk(8 * MIB);
    bench.vcenter.fault("read_delay_ms", 20).write().unwrap();
    let running = bench.start(&disk).unwrap();
    for _ in 0..10 {
        hang_up_while_reading(&running);
    }
    assert_eq!(running.exit_reason(), None);
    bench.vcenter.fault("read_delay_ms", 0).write().unwrap();
    let target = bench.folder.path().join("copy");
    let mut nbdcopy = Command::new("nbdcopy");
    nbdcopy.arg(running.uri().to_string()).arg(&target);
    run_ok(nbdcopy, PATIENCE).unwrap();
    assert_same(&target, &content.path);
    running.stop().unwrap();
}

/// Asks for 16 blocks by the bare protocol, and is gone with the first reply.
fn hang_up_while_reading(running: &Running) {
    let mut connection = bare_client(running);
    for number in 0..16_u64 {
        let request = [
            &0x2560_9513_u32.to_be_bytes()[..],
            &0_u32.to_be_bytes(),
            &number.to_be_bytes(),
            &(number * 65536).to_be_bytes(),
            &65536_u32.to_be_bytes(),
        ];
        connection.write_all(&request.concat()).unwrap();
    }
    connection.read_exact(&mut [0; 16]).unwrap();
}
