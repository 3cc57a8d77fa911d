//! How an export ends, and that it leaves nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::*;

#[test]
fn a_port_of_an_export_is_free_again_when_it_has_ended() {
    let bench = Bench::new();
    let mut spec = bench.spec(&bench.image("a"), ExportAccess::Writable);
    spec.listener = Listener::tcp(0).unwrap();
    let port = spec.listener.port().unwrap();
    let export = Export::start(spec, &bench.settings).unwrap();
    assert!(matches!(Listener::tcp(port), Err(ExportError::PortInUse { .. })));
    export.end().unwrap();
    Listener::tcp(port).unwrap();
}

#[test]
fn flushed_writes_are_there_after_the_end_and_the_image_is_clean() {
    let bench = Bench::new();
    let image = bench.image("a");
    let export = bench.start(&image, ExportAccess::Writable).unwrap();
    does(&export, &["write -P 7 1M 8M", "flush"]);
    export.end().unwrap();
    let output = Command::new("qemu-io")
        .args(["-f", "qcow2", "-r", "-c", "read -P 7 1M 8M"])
        .arg(&image)
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("failed"), "{output:?}");
    assert!(output.status.success(), "{output:?}");
    let check = Image::at(&image, ImageTool::default()).unwrap().check().unwrap();
    assert_eq!(check.verdict, CheckVerdict::Clean);
}

#[test]
fn the_death_of_an_export_is_seen_with_its_last_words() {
    let mut bench = Bench::new();
    bench.script("echo 'up and well' >&2; exec qemu-nbd \"$@\"");
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    assert_eq!(export.try_exited(), None);
    signal(export.pid(), Signal::KILL);
    wait_until("its death", || export.try_exited().is_some());
    let exited = export.try_exited().unwrap();
    assert_eq!(exited.how, "was ended by signal 9");
    assert_eq!(exited.said, ["up and well"]);
    assert!(matches!(export.usage(), Err(ExportError::Exited { .. })));
    let error = export.end().unwrap_err();
    assert!(matches!(error, ExportError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("signal 9: up and well"), "{error}");
}

#[test]
fn an_export_that_was_stopped_ends_in_order() {
    let bench = Bench::new();
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    signal(export.pid(), Signal::STOP);
    wait_until("its stop", || is_stopped(export.pid()));
    let asked = Instant::now();
    export.end().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[test]
fn an_export_that_does_not_take_sigterm_is_killed_in_time_and_that_is_told() {
    let mut bench = Bench::new();
    // A server below a process that ignores the signal, in its group.
    bench.script(
        "trap '' TERM\nsh -c 'export LISTEN_PID=$$; exec qemu-nbd \"$@\"' sh \"$@\" &\n\
         exec 3<&-\nwhile :; do sleep 1; done",
    );
    bench.settings.end_deadline = Duration::from_millis(300);
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    let pid = export.pid();
    let asked = Instant::now();
    let error = export.end().unwrap_err();
    assert!(matches!(error, ExportError::Killed { .. }), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(is_gone(pid));
}

#[test]
fn an_exit_status_that_is_not_zero_is_told() {
    let mut bench = Bench::new();
    bench.script(
        "sh -c 'export LISTEN_PID=$$; exec qemu-nbd \"$@\"' sh \"$@\" &\n\
         trap 'wait; echo disk on fire >&2; exit 5' TERM\nexec 3<&-\nwhile :; do wait; done",
    );
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    let error = export.end().unwrap_err();
    assert!(matches!(error, ExportError::EndedBadly { .. }), "{error}");
    assert!(error.to_string().contains("status 5: disk on fire"), "{error}");
}

#[test]
fn no_process_is_left_after_a_drop() {
    let bench = Bench::new();
    let image = bench.image("a");
    let export = bench.start(&image, ExportAccess::Writable).unwrap();
    let pid = export.pid();
    drop(export);
    assert!(is_gone(pid));
    bench.start(&image, ExportAccess::Writable).unwrap().end().unwrap();
}

#[test]
fn no_process_is_left_after_a_panic() {
    let bench = Bench::new();
    let image = bench.image("a");
    let spec = bench.spec(&image, ExportAccess::Writable);
    let settings = bench.settings.clone();
    let (sender, pid) = mpsc::channel();
    let panicked = thread::spawn(move || {
        let export = Export::start(spec, &settings).unwrap();
        sender.send(export.pid()).unwrap();
        panic!("meant to");
    });
    assert!(panicked.join().is_err());
    assert!(is_gone(pid.recv().unwrap()));
}

#[test]
fn an_export_does_not_end_with_the_thread_that_started_it() {
    let bench = Bench::new();
    let spec = bench.spec(&bench.image("a"), ExportAccess::Writable);
    let settings = bench.settings.clone();
    let export = thread::spawn(move || Export::start(spec, &settings).unwrap()).join().unwrap();
    does(&export, &["write -P 7 0 64k"]);
    assert_eq!(export.try_exited(), None);
    export.end().unwrap();
}

/// The image for the process of the next test, which is killed.
const HELD_IMAGE: &str = "BLOCKFERRY_TEST_HELD_IMAGE";
/// What it takes for qemu-nbd, if that is not the real one.
const HELD_PROGRAM: &str = "BLOCKFERRY_TEST_HELD_PROGRAM";

#[test]
#[ignore = "run by the tests of what is left when we are killed"]
fn an_export_is_held_until_this_process_is_killed() {
    let image = PathBuf::from(std::env::var_os(HELD_IMAGE).expect("its test names an image"));
    let spec = ExportSpec {
        listener: Listener::unix(image.parent().unwrap()).unwrap(),
        image,
        name: "disk".into(),
        access: ExportAccess::Writable,
        connections: 1,
    };
    let mut settings = ExportSettings::for_exports(1);
    if let Some(program) = std::env::var_os(HELD_PROGRAM) {
        settings.program = program;
    }
    let export = Export::start(spec, &settings).unwrap();
    println!("pid {}", export.pid());
    thread::park();
}

/// A process that runs [`an_export_is_held_until_this_process_is_killed`].
fn holder(image: &Path) -> Command {
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("export::tests::ending::an_export_is_held_until_this_process_is_killed")
        .env(HELD_IMAGE, image)
        .stdout(Stdio::piped());
    holder
}

#[test]
fn no_process_is_left_when_we_are_killed() {
    let bench = Bench::new();
    let image = bench.image("a");
    let mut holder = holder(&image).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.stdout.take().unwrap()));
    let line = lines.find_map(|line| line.unwrap().split_once("pid ").map(|at| at.1.to_owned()));
    let pid: u32 = line.expect("it tells of its export").parse().unwrap();
    assert!(!is_gone(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the end of its export", || is_gone(pid));
}

#[test]
fn an_export_that_is_just_starting_when_we_are_killed_does_not_stay() {
    let mut bench = Bench::new();
    // As deaf as qemu-nbd is to a signal that comes before it serves.
    bench.script("trap '' TERM\necho $$ > $0.new && mv $0.new $0.pid\nexec sleep 60");
    let image = bench.image("a");
    let mut holder = holder(&image).env(HELD_PROGRAM, &bench.settings.program).spawn().unwrap();
    let file = bench.path("fake-qemu-nbd.pid");
    wait_until("its start", || file.exists());
    let pid: u32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("the end of its export", || is_gone(pid));
}
