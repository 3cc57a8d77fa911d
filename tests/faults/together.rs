//! Two backups of one VM.

use blockferry_doubles::vsphere::Trouble;

use super::Stage;
use crate::blockferry::{code, stderr};

impl Stage {
    /// The names of the VM's snapshots.
    fn snapshots(&self) -> Vec<String> {
        self.web.snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect()
    }

    /// While a backup is at work, another one, by these changes to its line, is refused with this
    /// code and these words; the first goes on, and has its snapshot to the end.
    fn refuses_a_second(&self, change: impl Fn(String) -> String, exit: i32, words: &[&str]) {
        self.place.vsphere.plugin_fault("read_delay_ms", 300.into());
        let first = self.start("--mode full");
        self.wait_for_snapshot();
        self.wait_for("qemu-nbd");
        let held = self.snapshots();
        let second = self.place.kept.run(&change(self.place.backup("web", "")));
        let said = stderr(&second);
        assert_eq!(code(&second), exit, "{said}");
        for word in words {
            assert!(said.contains(word), "{word} is not in {said}");
        }
        assert_eq!(self.snapshots(), held, "{said}");
        let first = first.wait_with_output().unwrap();
        assert_eq!(code(&first), 0, "{}", stderr(&first));
        self.assert_tidy();
        assert!(self.place.kept.names("elsewhere/snapshots").is_empty());
    }
}

#[test]
fn a_second_backup_of_a_vm_is_refused_and_leaves_the_first_its_snapshot() {
    let stage = Stage::new();
    stage.refuses_a_second(
        |line| line,
        1,
        &["is being backed up by job", "wait until that has ended"],
    );
    stage.refuses_a_second(|line| format!("{line} --as other"), 1, &["is being backed up", "job"]);
    let renamed = |line: String| line.replace("127.0.0.1:", "localhost:") + " --as other";
    stage.refuses_a_second(renamed, 1, &["is being backed up", "job"]);
    let elsewhere = |line: String| line.replace("repository repository", "repository elsewhere");
    let words = ["another backup has a snapshot of it", "not written down in this repository"];
    stage.refuses_a_second(elsewhere, 4, &words);
    stage.recovers();
}

#[test]
fn of_two_backups_that_begin_at_once_in_two_repositories_one_gives_way() {
    let stage = Stage::new();
    for _ in 0..4 {
        // Long enough that both have looked before either has one.
        for _ in 0..2 {
            let by = std::time::Duration::from_millis(200);
            stage.place.vsphere.trouble(Trouble::CallSlow { method: "CreateSnapshot_Task", by });
        }
        let line = stage.place.backup("web", "--mode full");
        let elsewhere = line.replace("repository repository", "repository elsewhere");
        let both = [line, elsewhere].map(|line| {
            let mut command = stage.place.kept.command(&line);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        });
        let ended = both.map(|child| child.wait_with_output().unwrap());
        let mut codes = ended.each_ref().map(code);
        codes.sort_unstable();
        assert_eq!(codes, [0, 4], "{}{}", stderr(&ended[0]), stderr(&ended[1]));
        stage.place.vsphere.clear_troubles();
        stage.assert_tidy();
        assert!(stage.place.kept.names("elsewhere/snapshots").is_empty());
        assert!(stage.place.kept.names("elsewhere/work").is_empty());
    }
    let verified = stage.place.kept.run("verify --all --repository elsewhere");
    assert_eq!(code(&verified), 0, "{}", stderr(&verified));
    stage.recovers();
}
