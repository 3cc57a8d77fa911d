//! What is refused, and in which words.

use blockferry_doubles::process::run;
use std::process::Command;

use super::*;

/// The error must be this refusal, in one line, with these words, and nothing may be left.
fn assert_refused(bench: &Bench, disk: &Disk, refusal: Refusal, words: &[&str]) {
    let error = bench.start(disk).unwrap_err();
    let text = error.to_string();
    let is = matches!(error, SourceError::Refused { refusal: is, .. } if is == refusal);
    assert!(is, "{refusal:?}: {error:?}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\n') && !text.contains(PASSWORD), "{text}");
    assert!(bench.left().is_empty(), "{:?}", bench.left());
}

#[test]
fn what_is_wrong_with_a_disk_is_told_with_what_to_do() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let changed = |change: &dyn Fn(&mut Disk)| {
        let mut disk = disk.clone();
        change(&mut disk);
        disk
    };
    let file = changed(&|disk| disk.file = "[ds one] vm/other.vmdk".into());
    let words = ["[ds one] vm/other.vmdk: A file was not found", "moved or removed"];
    assert_refused(&bench, &file, Refusal::FileMissing, &words);
    let snapshot = changed(&|disk| disk.access = Access::Snapshot { id: "snapshot-1".into() });
    let words = ["snapshot does not exist", "start the job again"];
    assert_refused(&bench, &snapshot, Refusal::Snapshot, &words);
    let vm = changed(&|disk| disk.vm = "vm-1".into());
    assert_refused(&bench, &vm, Refusal::Machine, &["parameters was invalid", "is the VM still"]);
    let running_vm = changed(&|disk| disk.access = Access::Write);
    assert_refused(&bench, &running_vm, Refusal::Locked, &["Failed to lock", "powered off"]);
}

#[test]
fn what_is_wrong_with_the_credentials_is_told_with_what_to_do() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    let right = bench.credentials.clone();
    bench.credentials.password = Password::new("guess".into()).unwrap();
    let words = ["incorrect user name or password", "check the user"];
    assert_refused(&bench, &disk, Refusal::Login, &words);
    bench.credentials = Credentials { user: "root".into(), ..right.clone() };
    assert_refused(&bench, &disk, Refusal::Login, &words);
    bench.credentials = Credentials { thumbprint: "11:22".into(), ..right };
    let words = [&format!("actual thumbprint={THUMBPRINT}"), "expected=11:22", "renewed"];
    assert_refused(&bench, &disk, Refusal::Thumbprint, &words.map(AsRef::as_ref));
}

#[test]
fn what_the_host_has_no_memory_for_is_told_with_what_to_do() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    let words = "[NFC ERROR] NfcFssrvrProcessErrorMsg: received NFC error 5 from server";
    bench.vcenter.fault("refuse_open", words).write().unwrap();
    assert_refused(&bench, &disk, Refusal::TransferMemory, &[words, "fewer disks"]);
    bench.vcenter.fault("refuse_open", "VixDiskLib_Open: The moon is full").write().unwrap();
    assert_refused(&bench, &disk, Refusal::Unknown, &["The moon is full", "nbdkit -v"]);
}

#[test]
fn what_is_not_installed_is_told_with_how_to_install_it() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    let plugin = std::mem::replace(&mut bench.settings.plugin, "no-such-vddk".into());
    let words = ["cannot open plugin", "nbdkit-plugin-vddk", "set the path"];
    assert_refused(&bench, &disk, Refusal::PluginMissing, &words);
    bench.settings.plugin = "/no/such/nbdkit-vddk-plugin.so".into();
    assert_refused(&bench, &disk, Refusal::PluginMissing, &words);
    bench.settings.plugin = plugin;
    bench.settings.libdir = Some("/no/such/libdir".into());
    assert_refused(&bench, &disk, Refusal::LibraryMissing, &["/no/such/libdir", "set libdir"]);
    bench.settings.libdir = Some(bench.folder.path().to_owned());
    assert_refused(&bench, &disk, Refusal::LibraryMissing, &["libvixDiskLib", "set libdir"]);
    bench.settings.libdir = None;
    assert_refused(&bench, &disk, Refusal::LibraryMissing, &["libvixDiskLib", "set libdir"]);
    bench.settings.nbdkit = "no-such-nbdkit".into();
    let error = bench.start(&disk).unwrap_err();
    assert!(matches!(error, SourceError::ProgramMissing { .. }), "{error}");
}

#[test]
fn parameters_that_are_not_the_operators_are_refused() {
    for key in ["password", "PASSWORD", "cookie", "libdir", "file", "snapshot", "single-link"] {
        let error = format!("{key}=hunter2").parse::<ExtraParameter>().unwrap_err().to_string();
        assert!(error.contains(key) && !error.contains("hunter2"), "{error}");
    }
    for text in ["", "=x", "file", "-D vddk.x=1", "a b=c", "1=2", "port=9\u{a}02"] {
        assert!(text.parse::<ExtraParameter>().is_err(), "{text}");
    }
    assert_eq!("config=/etc/a=b".parse::<ExtraParameter>().unwrap().to_string(), "config=/etc/a=b");
}

#[test]
fn values_that_can_be_none_are_refused() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    for text in ["", "two\nlines", "nul\0"] {
        assert!(Password::new(text.into()).is_err(), "{text:?}");
    }
    assert!(Password::new("x".repeat(4096)).is_err());
    bench.credentials.server = " ".into();
    let error = bench.start(&disk).unwrap_err();
    assert!(error.to_string().contains("the server"), "{error}");
    bench.credentials.server = "vc".into();
    let error = bench.start(&Disk { vm: "vm\n57".into(), ..disk }).unwrap_err();
    assert!(error.to_string().contains("control character"), "{error}");
    assert!("lzo".parse::<Compression>().is_err());
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_longer_than_the_deadline() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    bench.vcenter.fault("open_delay_ms", 60_000).write().unwrap();
    bench.settings.start_deadline = Duration::from_millis(500);
    let begun = Instant::now();
    let error = bench.start(&disk).unwrap_err();
    assert!(matches!(error, SourceError::NotReady { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(bench.left().is_empty());
}

#[test]
fn an_nbdkit_that_never_listens_is_not_waited_for_longer_than_the_deadline() {
    let (mut bench, disk, _) = Bench::with_disk(MIB);
    bench.script("[ \"$1\" != --version ] || exec nbdkit --version\nexec sleep 60");
    bench.settings.start_deadline = Duration::from_millis(300);
    let error = bench.start(&disk).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("its socket did not come") && text.contains("said nothing"), "{text}");
    assert!(bench.left().is_empty());
}

#[test]
fn a_plugin_that_cannot_write_is_not_restored_to() {
    let (mut bench, mut disk, _) = Bench::with_disk(MIB);
    bench.vcenter.power(VM, false).write().unwrap();
    disk.access = Access::Write;
    bench.script("[ \"$1\" != --version ] || exec nbdkit --version\nexec nbdkit -r \"$@\"");
    let error = bench.start(&disk).unwrap_err();
    assert!(matches!(error, SourceError::NotWritable { .. }), "{error}");
}

#[test]
fn what_others_are_told_is_only_that_there_is_no_such_file() {
    // Why the cause has to be taken from stderr.
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    let mut vcenter = Vddk::new(bench.vcenter.folder(), THUMBPRINT, "backup", "another");
    vcenter.power(VM, true).write().unwrap();
    let mut nbdinfo = Command::new("nbdinfo");
    nbdinfo.arg("--size").arg(running.uri().to_string());
    let output = run(nbdinfo, PATIENCE).unwrap();
    assert!(output.stderr.contains("No such file or directory"), "{}", output.stderr);
    wait_until_said(&running, "incorrect user name or password");
}
