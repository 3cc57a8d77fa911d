//! Where the password is not, and what the process is not told.

use super::*;

/// All files below a folder, and their names.
fn content(folder: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.extend(path.as_os_str().as_encoded_bytes());
        match fs::symlink_metadata(&path).unwrap() {
            data if data.is_dir() => all.extend(content(&path)),
            data if data.is_file() => all.extend(fs::read(&path).unwrap()),
            _ => {}
        }
    }
    all
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_password_is_in_no_argument_variable_or_file() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    let process = PathBuf::from(format!("/proc/{}", running.pid()));
    let arguments = fs::read(process.join("cmdline")).unwrap();
    // It was run a second time, and has the password all the same: it is open.
    assert!(has(&arguments, "reexeced_="));
    assert!(has(&arguments, "user=backup"));
    for place in [arguments, fs::read(process.join("environ")).unwrap()] {
        assert!(!has(&place, PASSWORD));
    }
    assert!(!has(&content(&bench.settings.runtime), PASSWORD));
    assert!(!has(running.last_words().join("\n").as_bytes(), PASSWORD));
    let shown = format!("{running:?} {:?} {:?}", bench.credentials, bench.settings);
    assert!(!shown.contains(PASSWORD), "{shown}");
}

#[test]
fn the_process_can_leave_no_core_file() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let bytes: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    assert!(bytes.len() == 2 && bytes.iter().all(|bytes| *bytes <= 1), "{line}");
}

#[test]
fn the_process_gets_little_of_our_environment() {
    // Cargo and nextest set many.
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")));
    let (bench, disk, _) = Bench::with_disk(MIB);
    let running = bench.start(&disk).unwrap();
    let variables = fs::read(format!("/proc/{}/environ", running.pid())).unwrap();
    // PWD and such are the shell's, and LD_LIBRARY_PATH is the plugin's.
    let known = [
        "PATH=", "HOME=", "USER=", "LOGNAME=", "TMPDIR=", "TZ=", "LC_ALL=", "PWD=", "OLDPWD=",
        "SHLVL=", "_=",
    ];
    for variable in variables.split(|byte| *byte == 0).map(String::from_utf8_lossy) {
        let expected = known.iter().any(|name| variable.starts_with(name))
            || variable.starts_with("LD_LIBRARY_PATH=")
            || variable.is_empty();
        assert!(expected, "{variable}");
    }
}

#[test]
fn the_socket_is_for_nobody_else() {
    let (bench, disk, _) = Bench::with_disk(MIB);
    let _running = bench.start(&disk).unwrap();
    let [folder] = &bench.left()[..] else { panic!("one folder") };
    assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn every_password_that_can_be_typed_arrives() {
    for password in ["a", " b ", "+file", "-3", "ünïcödé \t'\"\\$(x)", &"x".repeat(4095)] {
        let (mut bench, disk, content) = Bench::with_disk(MIB);
        bench.vcenter = Vddk::new(bench.vcenter.folder(), THUMBPRINT, "backup", password);
        bench.vcenter.snapshot_disk(VM, SNAPSHOT, &disk.file, &content.path).write().unwrap();
        bench.credentials.password = Password::new(password.into()).unwrap();
        if let Err(error) = bench.start(&disk) {
            panic!("{password}: {error}");
        }
    }
}
