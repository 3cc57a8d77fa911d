//! The double of the vddk plugin, as somebody else's client sees it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use blockferry_doubles::process::{Output, run};
use blockferry_doubles::{Vddk, vddk};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);
const FILE: &str = "[ds] vm/vm.vmdk";
const SIZE: u64 = 8 << 20;
/// Both in one chunk of 64 KiB of their own.
const DATA_AT: [u64; 2] = [1_000_000, 7_000_000];

struct Place {
    folder: TempDir,
    state: Vddk,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let raw = folder.path().join("disk.raw");
        let file = fs::File::create(&raw).unwrap();
        file.set_len(SIZE).unwrap();
        for at in DATA_AT {
            file.write_all_at(b"blockferry", at).unwrap();
        }
        let mut state = Vddk::new(folder.path(), "AA:BB", "backup", "two words");
        state.snapshot_disk("vm-57", "snapshot-64", FILE, &raw).current_disk("vm-57", FILE, &raw);
        state.power("vm-57", true);
        state.write().unwrap();
        Self { folder, state }
    }

    fn raw(&self) -> PathBuf {
        self.folder.path().join("disk.raw")
    }

    /// nbdkit with a command that it runs once it serves.
    fn nbdkit(&self, changed: &[&str], command: &str) -> Output {
        let password = self.folder.path().join("password");
        fs::write(&password, "two words\n").unwrap();
        let mut parameters = vec![
            format!("libdir={}", self.folder.path().display()),
            "server=vc".into(),
            "user=backup".into(),
            format!("password=+{}", password.display()),
            "thumbprint=aa:bb".into(),
            "vm=moref=vm-57".into(),
            "snapshot=snapshot-64".into(),
            "transports=nbdssl:nbd".into(),
            "compression=fastlz".into(),
            format!("file={FILE}"),
        ];
        let mut options = vec!["-r"];
        for change in changed {
            match change.split_once('=') {
                None => options.retain(|option| option != change),
                Some((key, value)) => {
                    parameters.retain(|given| !given.starts_with(&format!("{key}=")));
                    if !value.is_empty() {
                        parameters.push((*change).to_owned());
                    }
                }
            }
        }
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(options).args(["-f", "-U", "-"]).arg(vddk::plugin()).args(parameters);
        nbdkit.args(["--run", command]);
        run(nbdkit, DEADLINE).unwrap()
    }
}

fn served(output: &Output) -> String {
    assert!(output.status.success(), "{}", output.stderr);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn it_serves_a_snapshot_as_the_real_one_would() {
    let place = Place::new();
    let told = served(&place.nbdkit(&[], r#"nbdinfo "$uri""#));
    for line in [
        "export-size: 8388608",
        "is_read_only: true",
        "can_multi_conn: false",
        "can_trim: false",
        "can_zero: false",
        "block_size_minimum: 512",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

#[test]
fn another_client_copies_what_is_there() {
    let place = Place::new();
    let copy = place.folder.path().join("copy");
    served(&place.nbdkit(&[], &format!("nbdcopy \"$uri\" {}", copy.display())));
    assert!(fs::read(copy).unwrap() == fs::read(place.raw()).unwrap(), "the content differs");
}

#[test]
fn what_is_allocated_is_told_in_chunks() {
    let place = Place::new();
    let map = served(&place.nbdkit(&[], r#"nbdinfo --map "$uri""#));
    let extents: Vec<Vec<u64>> =
        map.lines().map(|line| line.split_whitespace().flat_map(str::parse).collect()).collect();
    let data: Vec<_> = extents.iter().filter(|extent| extent[2] == 0).collect();
    let chunks = DATA_AT.map(|at| vec![at / 65536 * 65536, 65536, 0]);
    assert_eq!(data, chunks.iter().collect::<Vec<_>>(), "{map}");
}

#[test]
fn it_runs_nbdkit_again_and_keeps_the_password_out_of_sight() {
    let place = Place::new();
    let line = served(&place.nbdkit(&[], r#"tr '\0' ' ' </proc/$PPID/cmdline"#));
    assert!(line.contains("reexeced_="), "{line}");
    assert!(!line.contains("two words") && !line.contains("password=+"), "{line}");
}

#[test]
fn what_is_wrong_is_refused_at_the_connection_and_told_on_stderr() {
    let place = Place::new();
    for (wrong, words) in [
        ("password=wrong", "incorrect user name or password"),
        ("user=root", "incorrect user name or password"),
        ("thumbprint=11:22", "actual thumbprint=AA:BB expected=11:22"),
        ("vm=vm-57", "One of the parameters was invalid"),
        ("vm=moref=vm-58", "One of the parameters was invalid"),
        ("snapshot=snapshot-65", "The specified snapshot does not exist"),
        ("snapshot=", "Failed to lock the file"),
        ("file=[ds] vm/other.vmdk", "[ds] vm/other.vmdk: A file was not found"),
        ("-r", "You do not have access rights to this file"),
    ] {
        let output = place.nbdkit(&[wrong], r#"nbdinfo "$uri""#);
        assert!(!output.status.success(), "{wrong}");
        assert!(output.stderr.contains("No such file or directory"), "{wrong}: {}", output.stderr);
        assert!(output.stderr.contains(words), "{wrong}: {}", output.stderr);
    }
}

#[test]
fn what_cannot_be_a_parameter_is_refused_at_the_start() {
    let place = Place::new();
    for (wrong, words) in [
        ("bogus=1", "unknown parameter 'bogus'"),
        ("server=", "remote connection requested, missing parameter: server"),
        ("password=", "remote connection requested, missing parameter: password"),
        ("compression=lzo", "unknown compression type: lzo"),
        ("libdir=/no/such/folder", "realpath: /no/such/folder: No such file or directory"),
        ("libdir=/usr", "/usr/lib64/libvixDiskLib.so.7: cannot open shared object file"),
        ("file=", "you must supply the file=<FILENAME> parameter"),
    ] {
        let output = place.nbdkit(&[wrong], "echo served");
        assert_eq!(output.stdout, b"", "{wrong}");
        assert!(output.stderr.contains(words), "{wrong}: {}", output.stderr);
    }
}

#[test]
fn the_disk_of_a_machine_that_is_off_can_be_written() {
    let mut place = Place::new();
    place.state.power("vm-57", false).write().unwrap();
    let source = place.folder.path().join("source");
    fs::write(&source, vec![0xb7; usize::try_from(SIZE).unwrap()]).unwrap();
    let command = format!("nbdcopy --flush {} \"$uri\"", source.display());
    served(&place.nbdkit(&["-r", "snapshot="], &command));
    assert!(fs::read(place.raw()).unwrap() == fs::read(source).unwrap(), "the content differs");
}

#[test]
fn faults_come_on_order() {
    let mut place = Place::new();
    let copy = r#"nbdcopy "$uri" null:"#;
    for (name, value, words) in [
        ("fail_reads_at", 1_000_000, "VixDiskLib_Read: Unknown error"),
        ("die_after_bytes", 65536, "nbdcopy"),
    ] {
        place.state.fault(name, value).write().unwrap();
        let output = place.nbdkit(&[], copy);
        assert!(!output.status.success(), "{name}");
        assert!(output.stderr.contains(words), "{name}: {}", output.stderr);
    }
    place.state.fault("refuse_open", "[NFC ERROR] received NFC error 5 from server");
    place.state.write().unwrap();
    let output = place.nbdkit(&[], copy);
    assert!(output.stderr.contains("received NFC error 5"), "{}", output.stderr);
}
