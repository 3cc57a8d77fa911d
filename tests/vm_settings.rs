//! What is asked for a VM and cannot be done as it is asked: told before the server is asked for
//! anything, and without what may be a secret.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::process::Stdio;

use blockferry::{VmPlace, code, processes_of, signal, stderr, wait_until};
use blockferry_doubles::vddk::plugin;
use blockferry_doubles::vsphere::{NewMachine, Vsphere};
use rustix::process::Signal;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const SECRET: &str = "hunter2";

fn place() -> VmPlace {
    VmPlace::new(NewMachine::new("web").disk(4 * MIB).tracked())
}

/// Options of VDDK that will not do, and words of their refusals.
fn wrong(place: &VmPlace) -> Vec<(String, &'static str)> {
    let deep = place.kept.path(&"x".repeat(90));
    let plugin = plugin().display().to_string();
    let libdir = "--vddk-libdir vsphere";
    let with = |options: &str| {
        let runtime = if options.contains("--vddk-runtime") { "" } else { "--vddk-runtime run" };
        format!("{options} {runtime}")
    };
    let good = format!("--vddk-plugin {plugin}");
    vec![
        (with(&format!("--nbdkit /there/is/none {good} {libdir}")), "cannot run /there/is/none"),
        (
            with(&format!("--vddk-plugin /no/such.so {libdir}")),
            "cannot load its plugin /no/such.so",
        ),
        (with(&format!("--vddk-plugin memory {libdir}")), "memory is not one for VMware's disks"),
        (with(&format!("{good} --vddk-libdir nowhere")), "VDDK) is not in nowhere"),
        (with(&format!("{good} --vddk-libdir copies")), "VDDK) is not in copies"),
        (with(&good), "set libdir to the folder"),
        (with(&format!("{good} {libdir} --vddk-param bogus=1")), "further parameter bogus"),
        (
            with(&format!("{good} {libdir} --vddk-runtime {}", deep.display())),
            "set a shorter runtime folder",
        ),
    ]
}

/// No VM was touched, and nothing was made here.
fn assert_untouched(place: &VmPlace, words: &str) {
    for method in ["CreateSnapshot_Task", "CreateSnapshotEx_Task", "ReconfigVM_Task"] {
        assert_eq!(place.vsphere.count(method), 0, "{words}: {method}");
    }
    assert!(!place.kept.path("run").exists(), "{words}");
    let deep = |name: &String| name.starts_with('x');
    assert!(!place.kept.names(".").iter().any(deep), "{words}");
}

#[test]
fn settings_that_cannot_serve_a_disk_are_wrong_usage_before_a_snapshot() {
    let place = place();
    for (options, says) in wrong(&place) {
        let server = place.server();
        for line in [
            format!("backup --vm web --repository repository {server} {options}"),
            format!("check web {server} {options}"),
        ] {
            let output = place.kept.run(&line);
            assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
            assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
            assert_untouched(&place, &line);
        }
        assert!(!place.kept.path("repository").exists(), "{options}");
    }
}

#[test]
fn settings_that_cannot_serve_a_disk_leave_the_vm_of_a_restore_and_its_tracking_alone() {
    let place = place();
    let backed = place.back_up("web", "");
    let web = place.machine("web");
    web.power(false).unwrap();
    let before = place.vsphere.count("Login");
    for (options, says) in wrong(&place) {
        for into in ["--vm web", "--new-vm again"] {
            let line = format!(
                "restore {} --repository repository --to vsphere {into} {} {options}",
                backed.id(),
                place.server()
            );
            let output = place.kept.run(&line);
            assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
            assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
        }
    }
    assert_eq!(place.vsphere.count("Login"), before);
    assert_eq!(place.vsphere.count("ReconfigVM_Task"), 0);
}

#[test]
fn settings_of_a_file_that_cannot_serve_a_disk_fail_its_vms_before_a_snapshot() {
    let place = place();
    let vcenter = format!(
        "[[vcenter]]\nserver = \"{}\"\nuser = \"backup\"\npassword-file = \"vc.password\"\n\
         thumbprint = \"{}\"\nvddk-plugin = \"{}\"\nvddk-libdir = \"copies\"\n\
         vddk-runtime = \"run\"\n",
        place.vsphere.address(),
        place.vsphere.thumbprint(),
        plugin().display(),
    );
    let defaults = "[defaults]\nrepository = \"repository\"\n";
    let text = format!("{defaults}{vcenter}[[vm]]\nname = \"web\"\n");
    place.kept.write_text("jobs.toml", &text);
    let (code, report) = place.kept.json("batch jobs.toml --json");
    assert_eq!(code, 2, "{report}");
    assert!(report.to_string().contains("set libdir to the folder"), "{report}");
    assert_untouched(&place, "batch");
}

#[test]
fn a_password_that_was_written_as_a_parameter_is_not_printed() {
    let place = place();
    let lines = [
        format!("check web {} --vddk-param password={SECRET}", place.server()),
        format!("check web {} --vddk-param {SECRET}", place.server()),
        place.backup("web", &format!("--vddk-param password={SECRET}")),
        place.backup("web", &format!("--vddk-param cookie={SECRET}")),
        format!(
            "check web {}",
            place.server().replace("--vcenter ", &format!("--vcenter backup:{SECRET}@"))
        ),
    ];
    for line in lines {
        let output = place.kept.run(&line);
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        for told in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(told).contains(SECRET), "{line}: {}", stderr(&output));
        }
        let says = ["everybody can read it", "write KEY=VALUE", "write HOST"];
        assert!(says.iter().any(|says| stderr(&output).contains(says)), "{}", stderr(&output));
    }
    let text = format!(
        "[defaults]\nrepository = \"repository\"\n[[vcenter]]\nserver = \"vc\"\nuser = \"backup\"\n\
         password-file = \"vc.password\"\nthumbprint = \"{}\"\nvddk-param = [\"password={SECRET}\"]\n\
         [[vm]]\nname = \"web\"\n",
        place.vsphere.thumbprint()
    );
    place.kept.write_text("jobs.toml", &text);
    let output = place.kept.run("batch jobs.toml");
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(said.contains("everybody can read it") && said.contains("jobs.toml: line 8"), "{said}");
    assert!(!said.contains(SECRET), "{said}");
}

#[test]
fn options_that_would_be_ignored_are_refused_with_what_to_do() {
    let place = place();
    let (server, vddk) = (place.server(), place.vddk());
    place.kept.disk("root", 1000, 1);
    let plain = "backup --vm web --disk root=root --repository repository";
    for (line, says) in [
        (place.backup("web", "--changed x=/nope"), "--changed and --bitmap are about disks"),
        (place.backup("web", "--bitmap foo=bar"), "--changed and --bitmap are about disks"),
        (format!("{plain} --vddk-libdir vsphere"), "named with --vcenter"),
        (format!("{plain} --nbdkit nbdkit2"), "named with --vcenter"),
        (format!("{plain} --enable-cbt"), "about a VM of a vCenter"),
        ("node serve --state n1 --enable-cbt".into(), "name it with --vcenter"),
        ("node serve --state n1 --quiesce none".into(), "name it with --vcenter"),
        ("node serve --state n1 --max-disks-per-host 2".into(), "name it with --vcenter"),
        (format!("node serve --state n1 {vddk}"), "name it with --vcenter"),
        (format!("restore 01kat0h4m2f6q8r0s2 --repository r --to out {vddk}"), "--to vsphere"),
    ] {
        let output = place.kept.run(&line);
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
    }
    assert!(!place.kept.path("repository").exists() && !place.kept.path("n1").exists());
    assert_eq!(place.vsphere.count("Login"), 0, "{server}");
}

#[test]
fn a_node_does_not_start_with_settings_that_cannot_serve_a_disk() {
    let place = place();
    for (options, says) in wrong(&place) {
        let output = place.kept.run(&format!("node serve --state n1 {} {options}", place.server()));
        assert_eq!(code(&output), 2, "{options}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{options}: {}", stderr(&output));
    }
    assert!(!place.kept.path("n1").exists());
    assert_untouched(&place, "node serve");
}

#[test]
fn a_file_of_a_ca_without_a_certificate_is_wrong_usage() {
    let place = place();
    place.kept.write_text("none.pem", "no certificate\n");
    let server = format!(
        "--vcenter {} --vcenter-user backup --vcenter-password-file vc.password --vcenter-ca",
        place.vsphere.address()
    );
    for file in ["none.pem", "nowhere.pem"] {
        let output = place.kept.run(&format!("vms {server} {file}"));
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(stderr(&output).contains(file), "{}", stderr(&output));
    }
    assert_eq!(code(&place.kept.run(&format!("vms {server} vsphere/ca.pem"))), 0);
}

#[test]
fn names_that_steer_a_terminal_are_shown_with_escapes() {
    let name = "we\u{9b}31mb\nmoref";
    let place = VmPlace::with(Vsphere::builder().machine(NewMachine::new(name).disk(MIB)));
    let id = place.machine(name).id().to_owned();
    let vddk = place.vddk();
    for line in ["vms".to_owned(), format!("check {id} {vddk}")] {
        let output = place.ask(&line);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let told = String::from_utf8(output.stdout).unwrap();
        assert!(told.contains("we\\u{9b}31mb\\nmoref"), "{told}");
        let steers = |letter: char| letter.is_control() && letter != '\n';
        assert!(!told.contains(steers), "{told:?}");
        assert!(!told.lines().any(|line| line.starts_with("moref")), "{told}");
    }
    let (_, told) = place.ask_json("vms");
    assert_eq!(told["vms"][0]["name"], name);
}

#[test]
fn an_audit_of_a_small_disk_reads_some_of_it() {
    let place = VmPlace::new(NewMachine::new("web").disk(4 * MIB).disk(MIB).tracked());
    place.machine("web").write(2000, 0, &[7; 2 << 20]).unwrap();
    place.back_up("web", "");
    let backed = place.back_up("web", "--cbt-audit 1");
    for disk in ["disk-2000", "disk-2001"] {
        let reason = backed.reason(disk);
        assert!(reason.ends_with("of the rest, 1048576 bytes are compared"), "{reason}");
    }
    place.assert_equal(&backed);
}

#[test]
fn a_sweep_removes_what_a_backup_that_was_killed_left_here_too() {
    let place = place();
    place.machine("web").write(2000, 0, &[7; 2 << 20]).unwrap();
    // Half a minute.
    let mut child = place.backup_command("web", "--rate-limit 64K");
    let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let sockets = || {
        let names = place.kept.names("run").into_iter();
        names.filter(|name| name.starts_with("blockferry-vddk-")).count()
    };
    let folder = place.kept.folder().to_str().unwrap();
    let copies = || !place.kept.names("repository/work").is_empty() && sockets() > 0;
    wait_until("no disk is copied", copies);
    let living = place.ask(&format!("node sweep --repository repository {}", runtime(&place)));
    assert_eq!(code(&living), 0, "{}", stderr(&living));
    assert!(copies(), "what is at work is left alone: {}", stderr(&living));

    signal(&child, Signal::KILL);
    child.wait().unwrap();
    wait_until("a process outlives it", || processes_of(folder).is_empty());
    let line = format!("node sweep --repository repository {}", runtime(&place));
    let (code, told) = place.ask_json(&line);
    assert_eq!(code, 0, "{told}");
    let removed = told["removed"].as_array().unwrap();
    let jobs: Vec<&Value> = removed.iter().map(|record| &record["job"]).collect();
    assert_eq!(told["dead_jobs"], json!(jobs));
    // What it took of the host counts for nothing, and goes when the next one looks.
    let mut left = place.left();
    left.retain(|what| !what.starts_with("run/budgets/"));
    assert!(left.is_empty(), "{left:?}");
    place.assert_equal(&place.back_up("web", ""));
    place.assert_nothing_left();
}

fn runtime(place: &VmPlace) -> String {
    format!(
        "--vddk-runtime {}",
        fs::canonicalize(place.kept.folder()).unwrap().join("run").display()
    )
}
