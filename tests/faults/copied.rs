//! Copies of the repository, which have copies of what is written down of snapshots.

use std::process::Command;

use super::Stage;
use crate::blockferry::{code, stderr};

impl Stage {
    /// Copies the repository, with all that a careful copy keeps.
    fn copy_repository(&self) {
        let at = |name| self.place.kept.path(name);
        let copied = Command::new("cp").arg("-a").args([at("repository"), at("copy")]).status();
        assert!(copied.unwrap().success());
    }

    /// Sweeps by the copy, which succeeds. Returns what it says.
    fn sweeps_copy(&self, extra: &str) -> String {
        let swept = self.place.ask(&format!("node sweep --repository copy {extra}"));
        assert_eq!(code(&swept), 0, "{}", stderr(&swept));
        stderr(&swept)
    }
}

#[test]
fn a_copy_of_the_repository_leaves_the_snapshot_of_a_live_job_alone() {
    let stage = Stage::new();
    stage.place.vsphere.plugin_fault("read_delay_ms", 1000.into());
    let child = stage.start("--mode full");
    stage.wait_for_snapshot();
    stage.wait_for("qemu-nbd");
    stage.copy_repository();
    let said = stage.sweeps_copy("");
    assert!(said.contains("is left alone") && said.contains("--adopt"), "{said}");
    let line =
        stage.place.backup("web", "").replace("--repository repository", "--repository copy");
    let refused = stage.place.kept.run(&line);
    Stage::has_failed(&refused, 4, &["another backup has a snapshot of it"]);
    assert!(stderr(&refused).contains("is left alone"), "{}", stderr(&refused));
    assert_eq!(stage.web.snapshots().unwrap().len(), 1);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    stage.recovers();
}

#[test]
fn what_a_dead_job_has_left_is_removed_by_a_copy_that_adopts_its_records() {
    let stage = Stage::new();
    stage.leaves_a_snapshot();
    stage.copy_repository();
    assert!(stage.sweeps_copy("").contains("is left alone"));
    let said = stage.sweeps_copy("--adopt");
    assert!(said.contains("is removed: its job is dead"), "{said}");
    assert!(stage.place.kept.names("copy/snapshots").is_empty());
    assert_eq!(stage.web.snapshots().unwrap(), []);
    // Where it was made, there is nothing to do any more.
    assert!(stage.sweeps().contains("was gone already"));
    stage.recovers();
}
