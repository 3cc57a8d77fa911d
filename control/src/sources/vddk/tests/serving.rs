//! What is served.

use std::process::Command;

use blockferry_doubles::process::run_ok;

use super::*;

#[test]
fn a_disk_of_a_snapshot_is_what_a_lane_reads() {
    let (bench, disk, content) = Bench::with_disk(8 * MIB + 512);
    let running = bench.start(&disk).unwrap();
    assert_eq!(running.session().size, content.size);
    assert_eq!(running.session().block_size.minimum, 512);
    let flags = running.session().flags;
    assert!(flags.read_only() && !flags.multi_conn());
    let target = bench.folder.path().join("copy");
    let report = copy(running.endpoint(), Endpoint::File(target.clone()), lane_settings());
    report.outcome.unwrap();
    assert_same(&target, &content.path);
    // Its holes were told of, and not read.
    assert!(report.counts.read < content.size, "{:?}", report.counts);
    running.stop().unwrap();
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}

#[test]
fn another_client_reads_the_same() {
    let (bench, disk, content) = Bench::with_disk(8 * MIB);
    let running = bench.start(&disk).unwrap();
    let target = bench.folder.path().join("copy");
    let mut nbdcopy = Command::new("nbdcopy");
    nbdcopy.arg(running.uri().to_string()).arg(&target);
    run_ok(nbdcopy, PATIENCE).unwrap();
    assert_same(&target, &content.path);
    let mut nbdinfo = Command::new("nbdinfo");
    nbdinfo.arg("--size").arg(running.uri().to_string());
    let size = run_ok(nbdinfo, PATIENCE).unwrap().stdout;
    assert_eq!(String::from_utf8(size).unwrap().trim(), content.size.to_string());
}

#[test]
fn the_disk_of_a_vm_that_is_off_is_written() {
    let (mut bench, mut disk, content) = Bench::with_disk(4 * MIB);
    disk.access = Access::Write;
    bench.vcenter.power(VM, false).write().unwrap();
    let restored = TestDisk::random(bench.folder.path(), 4 * MIB, 0.5, 77).unwrap();
    let running = bench.start(&disk).unwrap();
    let report = copy(Endpoint::File(restored.path.clone()), running.endpoint(), lane_settings());
    report.outcome.unwrap();
    running.stop().unwrap();
    assert_same(&restored.path, &content.path);
}

#[test]
fn a_file_may_be_called_anything_that_a_datastore_takes() {
    let (mut bench, mut disk, content) = Bench::with_disk(MIB);
    disk.file = "[Größe = 1] ,-r 'VM' \"x\"/ d=e;$(f).vmdk".into();
    bench.vcenter.snapshot_disk(VM, SNAPSHOT, &disk.file, &content.path).write().unwrap();
    bench.start(&disk).unwrap().stop().unwrap();
}

#[test]
fn slow_extents_cost_time_and_nothing_else() {
    let (mut bench, disk, content) = Bench::with_disk(4 * MIB);
    bench.vcenter.fault("extents_delay_ms", 300).write().unwrap();
    let running = bench.start(&disk).unwrap();
    let target = bench.folder.path().join("copy");
    let begun = Instant::now();
    copy(running.endpoint(), Endpoint::File(target.clone()), lane_settings()).outcome.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "they were not asked for");
    assert_same(&target, &content.path);

    // Whoever does not ask does not wait.
    let unasked = LaneSettings { extents: false, ..lane_settings() };
    let report = copy(running.endpoint(), Endpoint::Null, unasked);
    report.outcome.unwrap();
    assert_eq!(report.counts.read, content.size);
}

#[test]
fn failing_extents_are_no_reason_to_fail() {
    let (mut bench, disk, content) = Bench::with_disk(4 * MIB);
    bench.vcenter.fault("fail_extents", true).write().unwrap();
    let running = bench.start(&disk).unwrap();
    let target = bench.folder.path().join("copy");
    copy(running.endpoint(), Endpoint::File(target.clone()), lane_settings()).outcome.unwrap();
    assert_same(&target, &content.path);
    wait_until_said(&running, "VixDiskLib_QueryAllocatedBlocks");
}

#[test]
fn further_parameters_reach_the_plugin() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    bench.settings.extra =
        ["nfchostport=902", "unbuffered=true"].map(|text| text.parse().unwrap()).to_vec();
    bench.settings.compression = Compression::Fastlz;
    let running = bench.start(&disk).unwrap();
    let line = fs::read(format!("/proc/{}/cmdline", running.pid())).unwrap();
    let words: Vec<_> = line.split(|byte| *byte == 0).collect();
    for word in
        ["nfchostport=902", "unbuffered=true", "compression=fastlz", "transports=nbdssl:nbd"]
    {
        assert!(words.contains(&word.as_bytes()), "{word}");
    }
    running.stop().unwrap();

    bench.settings.extra = vec!["nfchostport=many".parse().unwrap()];
    let error = bench.start(&disk).unwrap_err();
    assert!(error.to_string().contains("nfchostport"), "{error}");
}
