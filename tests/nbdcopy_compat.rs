//! `blockferry copy` in the place of nbdcopy(1): the same words on the same files and servers, the
//! same success or failure, the same content, sizes and holes.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use blockferry_doubles::disk::{convert_to_raw, qemu_img_create};
use blockferry_doubles::process::{Child, run_ok};
use blockferry_doubles::{Nbdkit, QemuNbd, Server, TestDisk};

const DEADLINE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// What is run, and for which differences there is a reason.
#[derive(Clone, Copy, Default)]
struct Case {
    /// The words after the command. `{source}` and `{target}` are the URIs of two servers.
    line: &'static str,
    /// A shell's redirections and pipes around it, with `{}` for the command.
    shell: Option<&'static str>,
    /// nbdcopy fails, blockferry does it.
    only_we_can: bool,
    /// nbdcopy calls it success, blockferry refuses; for the reason given.
    we_refuse: Option<&'static str>,
    /// Content differs for a reason: only success is compared.
    any_content: bool,
    /// Holes differ for a reason: only content is compared.
    any_holes: bool,
}

const fn case(line: &'static str) -> Case {
    Case {
        line,
        shell: None,
        only_we_can: false,
        we_refuse: None,
        any_content: false,
        any_holes: false,
    }
}

const fn piped(shell: &'static str, line: &'static str) -> Case {
    Case { shell: Some(shell), ..case(line) }
}

/// The folder that a run gets, made anew: the same for both.
struct Place {
    folder: tempfile::TempDir,
    source: Server,
    target: Server,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let disk = |name: &str, size, share, seed| {
            let disk = TestDisk::random(path, size, share, seed).unwrap();
            fs::rename(&disk.path, path.join(name)).unwrap();
        };
        disk("data", 3 * MIB, 1.0, 1);
        disk("mixed", 4 * MIB, 0.5, 2);
        disk("odd", 1_000_001, 1.0, 3);
        disk("small", MIB, 1.0, 4);
        disk("large", 10 * MIB, 1.0, 5);
        disk("served", 4 * MIB, 0.7, 6);
        fs::write(path.join("zeros"), vec![0; 1 << 20]).unwrap();
        fs::File::create(path.join("hole")).unwrap().set_len(3 * MIB).unwrap();
        fs::File::create(path.join("empty")).unwrap();
        fs::File::create(path.join("image")).unwrap().set_len(4 * MIB).unwrap();
        qemu_img_create(&path.join("image.qcow2"), "qcow2", 4 * MIB, None).unwrap();
        let source = Nbdkit::file(path.join("served")).read_only().start().unwrap();
        let target = QemuNbd::new(path.join("image")).format("raw").shared(8).start().unwrap();
        Self { folder, source, target }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn line(&self, case: &Case) -> Vec<String> {
        let fill = |word: &str| {
            word.replace("{source}", &self.source.uri()).replace("{target}", &self.target.uri())
        };
        case.line.split(' ').filter(|word| !word.is_empty()).map(fill).collect()
    }

    /// Runs `program`; returns whether it succeeded and what it wrote to stderr.
    fn run(&self, program: &[&str], case: &Case) -> (bool, String) {
        let mut command = match case.shell {
            None => Command::new(program[0]),
            Some(shell) => {
                let script = format!("set -o pipefail; {}", shell.replace("{}", "\"$@\""));
                let mut command = Command::new("bash");
                command.args(["-c", &script, "bash", program[0]]);
                command
            }
        };
        command.args(&program[1..]).args(self.line(case)).current_dir(self.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = Child::spawn(command).unwrap().output(DEADLINE).unwrap();
        (output.status.success(), output.stderr)
    }

    /// Ends the servers, and tells the files: content, and the share of it that is allocated.
    fn files(mut self) -> BTreeMap<String, (Vec<u8>, f64)> {
        self.source.child.term_and_wait(DEADLINE).unwrap();
        self.target.child.term_and_wait(DEADLINE).unwrap();
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.path()).unwrap() {
            let entry = entry.unwrap();
            let (name, data) = (entry.file_name(), entry.metadata().unwrap());
            if !data.is_file() {
                continue;
            }
            let mut path = entry.path();
            if name == "image.qcow2" {
                // Two images of one content differ in their order of clusters.
                path = self.path().join("image.qcow2.raw");
                convert_to_raw(&entry.path(), "qcow2", &path).unwrap();
            }
            #[allow(clippy::cast_precision_loss)]
            let share = (data.blocks() * 512) as f64 / data.len().max(1) as f64;
            files.insert(name.into_string().unwrap(), (fs::read(path).unwrap(), share));
        }
        files
    }
}

fn check(cases: &[Case]) {
    let mut probe = Command::new("nbdcopy");
    probe.arg("--version");
    run_ok(probe, DEADLINE)
        .expect("this test needs nbdcopy; on Debian and Ubuntu: apt install libnbd-bin");
    let mut differences = Vec::new();
    for case in cases {
        differences.extend(difference(case));
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

fn difference(case: &Case) -> Option<String> {
    let (theirs, ours) = (Place::new(), Place::new());
    let (they_did, their_words) = theirs.run(&["nbdcopy"], case);
    let (we_did, our_words) = ours.run(&[env!("CARGO_BIN_EXE_blockferry"), "copy"], case);
    let words = format!("nbdcopy: {their_words}\n    blockferry: {our_words}");
    let name = format!("{} {}", case.line, case.shell.unwrap_or_default());
    if case.we_refuse.is_some() {
        return (we_did || !they_did).then(|| format!("{name}: not refused as meant\n    {words}"));
    }
    if case.only_we_can {
        return (!we_did || they_did)
            .then(|| format!("{name}: not better than nbdcopy\n    {words}"));
    }
    if they_did != we_did {
        let how = |did| if did { "succeeds" } else { "fails" };
        return Some(format!("{name}: nbdcopy {}, we differ\n    {words}", how(they_did)));
    }
    if !they_did || case.any_content {
        return None;
    }
    let (their_files, our_files) = (theirs.files(), ours.files());
    if !their_files.keys().eq(our_files.keys()) {
        return Some(format!("{name}: other files\n    {words}"));
    }
    their_files.iter().zip(our_files.values()).find_map(|((file, theirs), ours)| {
        let (their_size, our_size) = (theirs.0.len(), ours.0.len());
        if their_size != our_size {
            Some(format!("{name}: {file} has {our_size} bytes, not {their_size}"))
        } else if theirs.0 != ours.0 {
            Some(format!("{name}: {file} has other content"))
        } else if !case.any_holes && differs_in_holes(case, theirs.1, ours.1) {
            Some(format!("{name}: {file} is allocated to {:.2}, not {:.2}", ours.1, theirs.1))
        } else {
            None
        }
    })
}

/// Whether a file has other holes than nbdcopy leaves. On a server's image ours may have more: what
/// reads as zeros there already is left alone, where nbdcopy has the server allocate it.
fn differs_in_holes(case: &Case, theirs: f64, ours: f64) -> bool {
    let left_alone = case.line.contains("{target}") && !case.line.contains("--allocated");
    if left_alone { ours - theirs > 0.2 } else { (theirs - ours).abs() > 0.2 }
}

#[test]
fn files_become_equal_files_of_the_same_size() {
    check(&[
        case("data out"),
        case("data large"),
        case("large small"),
        case("odd out"),
        case("odd large"),
        case("empty out"),
        case("empty large"),
        case("hole out"),
        case("mixed out"),
        case("mixed large"),
        case("-- data ]"),
        case("data null:"),
        case("empty null:"),
        case("data /dev/null"),
    ]);
}

#[test]
fn zeros_and_holes_follow_the_options() {
    check(&[
        // nbdcopy leaves holes of the source as holes of a new file in spite of --allocated, and
        // fills some of them for -S 0; we take both options by their word.
        Case { any_holes: true, ..case("--allocated hole out") },
        Case { any_holes: true, ..case("-S 0 mixed out") },
        case("--allocated mixed out"),
        case("--allocated --no-extents hole out"),
        case("--no-extents hole out"),
        case("--no-extents -S 0 hole out"),
        case("-S 0 zeros out"),
        case("zeros out"),
        case("--synchronous hole out"),
        case("--request-size=4096 -S 512 mixed out"),
        case("-S 65536 mixed out"),
        case("--target-is-zero mixed out"),
        case("--destination-is-zero hole large"),
        case("{source} out"),
        case("--no-extents {source} out"),
        case("--allocated {source} out"),
    ]);
}

#[test]
fn servers_are_read_and_written() {
    check(&[
        case("{source} out"),
        case("{source} large"),
        case("{source} {target}"),
        case("data {target}"),
        case("odd {target}"),
        case("--flush {source} {target}"),
        case("-C 4 -R 8 -T 2 {source} {target}"),
        case("--synchronous {source} {target}"),
        case("--request-size=32768 {source} {target}"),
        case("--request-size=33554432 {source} {target}"),
        case("--queue-size=0 {source} {target}"),
        case("--queue-size=1 --request-size=65536 {source} {target}"),
        case("{source} null:"),
        case("large {target}"),
        case("{target} out"),
    ]);
}

#[test]
fn servers_are_run_for_the_copy() {
    check(&[
        case("-- [ nbdkit file served ] out"),
        case("[ nbdkit file served ] out"),
        case("-- data [ qemu-nbd -f qcow2 image.qcow2 ]"),
        case("-- [ nbdkit file served ] [ qemu-nbd -f qcow2 image.qcow2 ]"),
        case("--flush -- [ nbdkit file served ] [ qemu-nbd -f qcow2 image.qcow2 ]"),
        case("-- [ qemu-nbd -r -f raw served ] null:"),
        case("-- [ nbdkit memory 1M ] [ nbdkit memory 2M ]"),
        case("-- [ nbdkit memory 2M ] [ nbdkit memory 1M ]"),
        case("-- data [ nbdkit -r memory 3M ]"),
        case("-- [ nbdkit -r memory 3M ] out"),
        case("-- [ nbdkit memory 0 ] out"),
        case("-- [ no-such-server ] out"),
        case("-- data [ no-such-server ]"),
        case("-- [ false ] out"),
        case("-- data [ false ]"),
        case("-- [ nbdkit data 1 ] --flush"),
    ]);
}

#[test]
fn streams_go_in_and_out() {
    check(&[
        piped("{} > out", "data -"),
        piped("{} > out", "hole -"),
        piped("{} > out", "empty -"),
        piped("{} > large", "{source} -"),
        piped("{} | cat > out", "data -"),
        piped("{} | cat > out", "mixed -"),
        piped("{} | cat > out", "{source} -"),
        piped("{} < data", "- out"),
        piped("{} < data", "- null:"),
        piped("cat data | {}", "- null:"),
        piped("cat data | {}", "- {target}"),
        piped("cat odd | {}", "- {target}"),
        piped("cat large | {}", "- {target}"),
        piped("cat data | {}", "-- - [ qemu-nbd -f qcow2 image.qcow2 ]"),
        piped("{} | cat > out", "-- [ nbdkit file served ] -"),
        piped("{} > /dev/full", "data -"),
        piped("{} | head -c 10 > /dev/null", "large -"),
        piped("cat data | {} | cat > out", "- -"),
        piped("mkfifo f; cat f > out & {}; did=$?; wait; exit $did", "data f"),
        Case { only_we_can: true, ..piped("cat data | {}", "- out") },
    ]);
}

#[test]
fn what_cannot_be_copied_fails() {
    check(&[
        case("nosuch out"),
        case("data nosuch/out"),
        case("data ."),
        case(". out"),
        case("data /dev/full"),
        case("null: out"),
        case("nbd://127.0.0.1:1 out"),
        case("data nbd://127.0.0.1:1"),
        case("nbd+unix:///?socket=nosuch out"),
        case("nbd+unix:// out"),
        case("nbd: out"),
        case("http://127.0.0.1/ out"),
        case("-- [ nbdkit --filter=error memory 3M error-pread=EIO error-pread-rate=100% ] out"),
        case("-- data [ nbdkit --filter=error memory 3M error-pwrite=EIO error-pwrite-rate=100% ]"),
        case("-- small [ nbdkit --filter=exitwhen memory 3M exit-when-poll=1 ]"),
    ]);
}

#[test]
fn bad_use_fails() {
    check(&[
        case(""),
        case("data"),
        case("data out more"),
        case("--bogus data out"),
        case("-C 0 data out"),
        case("-C x data out"),
        case("-R 0 data out"),
        case("-T x data out"),
        case("--request-size=0 data out"),
        case("--request-size=512 data out"),
        case("--request-size=4097 data out"),
        case("--request-size=67108864 data out"),
        case("-S 1 data out"),
        case("-S 1000 data out"),
        case("-S x data out"),
        case("--queue-size=x data out"),
        case("--progress=x data out"),
        case("--progress=-1 data out"),
        case("--flush=1 data out"),
        case("-- [ nbdkit memory 1M out"),
        case("-- [ ] out"),
    ]);
}

#[test]
fn good_use_in_any_spelling_succeeds() {
    check(&[
        case("data out --flush"),
        case("data --fl out"),
        case("--conn=3 data out"),
        case("-C3 data out"),
        case("-C 2 -C 3 --flush --flush data out"),
        case("-C 1000000000000 data out"),
        case("-T 0 data out"),
        case("-T 1000 data out"),
        case("-C -1 data out"),
        case("-T -1 data out"),
        piped("{} -C '4 ' -T ' 2'", "data out"),
        case("{source}#part out"),
        case("-pv data out"),
        case("data -- out"),
        case("--progress=99 data out"),
        case("--version"),
        case("-V data"),
        case("--help --bogus"),
        case("--long-options"),
        case("--short-options"),
    ]);
}

#[test]
fn where_nbdcopy_loses_data_we_refuse() {
    check(&[Case {
        we_refuse: Some("nbdcopy empties the file and calls that success"),
        ..case("data data")
    }]);
}

#[test]
fn progress_has_the_format_of_nbdcopy() {
    let ours = env!("CARGO_BIN_EXE_blockferry");
    for line in ["{source} null:", "data out", "empty out", "nosuch out", "large nbd://127.0.0.1:1"]
    {
        let shell = Some("{} 3>progress --progress=3");
        for program in [&["nbdcopy"][..], &[ours, "copy"]] {
            let place = Place::new();
            let (done, words) = place.run(program, &Case { shell, ..case(line) });
            let text = fs::read_to_string(place.path().join("progress")).unwrap();
            let shares: Vec<u32> = text
                .lines()
                .map(|line| line.strip_suffix("/100").unwrap().parse().unwrap())
                .collect();
            assert!(text.is_empty() || text.ends_with('\n'));
            assert!(shares.is_sorted(), "{program:?} {line}: {shares:?}");
            if done {
                assert_eq!(shares.first(), Some(&0), "{program:?} {line}");
            }
            assert_eq!(shares.last() == Some(&100), done, "{program:?} {line}: {shares:?} {words}");
        }
    }
}
