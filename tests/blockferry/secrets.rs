//! A secret that is to be in no word of a process, in no file but its own, and in no core.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What nobody is to see.
#[derive(Clone, Copy)]
pub(crate) struct Secret(pub(crate) &'static str);

/// A process of the program, or of what it has started.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// As the kernel has it.
    pub(crate) name: String,
}

impl Secret {
    pub(crate) fn is_in(self, bytes: &[u8]) -> bool {
        bytes.windows(self.0.len()).any(|window| window == self.0.as_bytes())
    }

    /// The names of the files of a folder that have it in them.
    pub(crate) fn files(self, folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(!self.is_in(name.as_bytes()), "it is a name");
            match path.is_dir() {
                true => found.extend(self.files(&path)),
                // A socket cannot be read, and what is gone meanwhile has nothing.
                false if fs::read(&path).is_ok_and(|content| self.is_in(&content)) => {
                    found.push(name)
                }
                false => {}
            }
        }
        found.sort_unstable();
        found
    }

    /// The processes of this machine that have it in their arguments or their environment.
    pub(crate) fn processes(self) -> Vec<u32> {
        let all = fs::read_dir("/proc").unwrap();
        let all = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
        // One that has ended meanwhile, or is somebody else's, tells nothing.
        let has = |pid: &u32, what| {
            fs::read(format!("/proc/{pid}/{what}")).is_ok_and(|words| self.is_in(&words))
        };
        all.filter(|pid| has(pid, "cmdline") || has(pid, "environ")).collect()
    }
}

/// A process, and all that are below it.
pub(crate) fn processes_below(parent: u32) -> Vec<Process> {
    let (mut found, mut parents) = (Vec::new(), vec![parent]);
    while let Some(pid) = parents.pop() {
        let folder = Path::new("/proc").join(pid.to_string());
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default().trim().to_owned();
        found.push(Process { pid, name });
        // A task of one that ends meanwhile is gone.
        for task in fs::read_dir(folder.join("task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            parents.extend(children.split_whitespace().map(|child| child.parse::<u32>().unwrap()));
        }
    }
    found
}

/// A shell that lets cores be, in a folder.
fn shell_with_cores(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -c unlimited && {script}")]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program in a folder, with these words, where it may leave a core. Nothing where nobody leaves
/// one that a test could find.
pub(crate) fn with_cores<W: AsRef<OsStr>>(
    folder: &Path,
    words: impl IntoIterator<Item = W>,
) -> Option<Command> {
    use std::os::unix::process::ExitStatusExt;
    let elsewhere = tempfile::tempdir().unwrap();
    let control = shell_with_cores(elsewhere.path(), "kill -ABRT $$").output().unwrap();
    if !control.status.core_dumped() || cores(elsewhere.path()).is_empty() {
        eprintln!("skipped: nobody leaves a core here: {}", control.status);
        return None;
    }
    let mut command = shell_with_cores(folder, "exec \"$0\" \"$@\"");
    command.arg(env!("CARGO_BIN_EXE_blockferry")).args(words);
    Some(command)
}

/// The core files of a folder and those below it.
pub(crate) fn cores(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => found.extend(cores(&path)),
            false if name == "core" || name.starts_with("core.") => found.push(name),
            false => {}
        }
    }
    found
}
