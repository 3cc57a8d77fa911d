//! The double of vSphere, driven by VMware's own client: what pyVmomi takes and sends is what the
//! schema says, so the double cannot drift from it.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use blockferry_doubles::vcsim::tools;
use blockferry_doubles::vsphere::{NewDisk, NewMachine, Trouble, VirtualMachine, Vsphere};

/// The version that scripts/setup installs.
const PYVMOMI: &str = "pyvmomi-9.1.1.0";
const MIB: u64 = 1 << 20;

#[test]
fn vmwares_own_client_takes_the_double_for_a_vcenter() {
    drive(false);
}

#[test]
fn vmwares_own_client_takes_any_prefixes_and_orders_of_attributes() {
    drive(true);
}

fn drive(drawn: bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = Vsphere::builder().user("backup", "secret").page_areas(4).page_objects(5);
    if drawn {
        builder = builder.seed(7).drawn_spelling();
    }
    let web = NewMachine::new("web")
        .folder("front")
        .disk(4 * MIB)
        .disk(2 * MIB)
        .with_disk(NewDisk::new(MIB).independent());
    builder = builder.machine(web);
    for number in 1..8 {
        builder = builder.machine(NewMachine::new(&format!("other-{number}")).disk(MIB));
    }
    let vsphere = builder.start(folder.path()).unwrap();
    run(&vsphere);
    assert_eq!(vsphere.sessions(), 0, "a session is left");
    assert_eq!(vsphere.left_open(), 0, "a view or a filter is left");
}

/// Runs the script, and does what it asks for.
fn run(vsphere: &Vsphere) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pyvmomi.py");
    let address = vsphere.address();
    let mut child = Command::new("python3")
        .env("PYTHONPATH", installed())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(script)
        .args([address.ip().to_string(), address.port().to_string()])
        .arg(vsphere.state().join("ca.pem"))
        .args([vsphere.thumbprint(), vsphere.thumbprint_sha256()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    let web = vsphere.machine_named("web").unwrap();
    let mut last = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        last = line.unwrap();
        if last != "done" {
            // A script that has failed does not listen any more; its end tells.
            let _ = writeln!(answers, "ok {}", carry_out(vsphere, &web, &last));
        }
    }
    let status = child.wait().unwrap();
    assert!(status.success() && last == "done", "{status}, after {last:?}");
}

fn carry_out(vsphere: &Vsphere, web: &VirtualMachine, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["write", key, offset, length] => {
            let bytes = vec![0x5a; length.parse().unwrap()];
            web.write(key.parse().unwrap(), offset.parse().unwrap(), &bytes).unwrap();
            String::new()
        }
        ["copies"] => {
            let snapshots = web.snapshots().unwrap();
            let copies = snapshots.last().unwrap().copies.values();
            copies.map(|copy| format!("{:?}", digest(copy))).collect()
        }
        ["stick", "CreateSnapshot_Task"] => {
            let method = "CreateSnapshot_Task";
            vsphere.trouble(Trouble::TaskSticks { method, cancelable: true });
            String::new()
        }
        ["expire"] => {
            vsphere.expire_sessions();
            String::new()
        }
        _ => panic!("the script asks for {line:?}"),
    }
}

/// Enough to tell contents apart.
fn digest(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

/// Where scripts/setup has put it; without it this test fails, since nothing else holds the double
/// to the schema.
fn installed() -> PathBuf {
    let folder = tools().join(PYVMOMI);
    let missing = "run scripts/setup: pyVmomi is not in";
    assert!(folder.join("pyVmomi").is_dir(), "{missing} {}", folder.display());
    folder
}
