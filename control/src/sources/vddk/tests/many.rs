//! All disks of a VM.

use super::*;

#[test]
fn eight_disks_are_served_at_once() {
    let mut bench = Bench::new();
    let (disks, contents): (Vec<_>, Vec<_>) =
        (0..8).map(|number| bench.disk(number, MIB + number * 65536)).unzip();
    // One after another they would take 2.4 seconds.
    bench.vcenter.fault("open_delay_ms", 300).write().unwrap();
    let begun = Instant::now();
    let all = VddkSource::start_all(&bench.settings, &disks, &bench.credentials).unwrap();
    assert!(begun.elapsed() < Duration::from_millis(2400), "{:?}", begun.elapsed());
    let folder = tempfile::tempdir().unwrap();
    let target = |number: usize| folder.path().join(number.to_string());
    let lanes = all.iter().enumerate().map(|(number, running)| {
        let target = Endpoint::File(target(number));
        Lane::new(running.endpoint(), target).with_settings(lane_settings())
    });
    let moving = Mover::new(MoverSettings::default()).start(lanes.collect()).unwrap();
    for lane in moving.wait().lanes {
        lane.outcome.unwrap();
    }
    for (number, content) in contents.iter().enumerate() {
        assert_same(&target(number), &content.path);
    }
    for running in all {
        running.stop().unwrap();
    }
    assert!(bench.left().is_empty());
}

#[test]
fn the_first_that_fails_ends_the_others() {
    let mut bench = Bench::new();
    let mut disks: Vec<_> = (0..4).map(|number| bench.disk(number, MIB).0).collect();
    disks[2].file = "[ds one] vm/gone.vmdk".into();
    // The others hang at the server until they are killed.
    bench.script(
        "[ \"$1\" != --version ] || exec nbdkit --version\n\
         case $* in *gone*) exec nbdkit \"$@\";; esac\nexec sleep 60",
    );
    let begun = Instant::now();
    let error = VddkSource::start_all(&bench.settings, &disks, &bench.credentials).unwrap_err();
    let refused = matches!(error, SourceError::Refused { refusal: Refusal::FileMissing, .. });
    assert!(refused, "{error}");
    assert!(begun.elapsed() < bench.settings.start_deadline / 2, "{:?}", begun.elapsed());
    assert!(bench.left().is_empty());
}

#[test]
fn no_disks_are_no_error() {
    let bench = Bench::new();
    let none = VddkSource::start_all(&bench.settings, &[], &bench.credentials).unwrap();
    assert!(none.is_empty());
}
