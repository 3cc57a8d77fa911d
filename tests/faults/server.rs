//! The server refuses, forgets, or stands still.

use std::time::{Duration, Instant};

use blockferry_doubles::vsphere::{Failure, Trouble};

use super::Stage;
use crate::blockferry::{code, stderr};

#[test]
fn a_login_that_is_refused_is_told_and_nothing_is_begun() {
    let stage = Stage::new();
    stage.place.vsphere.trouble(Trouble::LoginRefused);
    stage.fails(
        "",
        4,
        &["refuses Login", "InvalidLogin", "look at the user and the password file"],
    );
    assert_eq!(stage.place.vsphere.count("CreateSnapshot_Task"), 0);
    assert_eq!(stage.points(), 1);
}

#[test]
fn a_server_of_another_thumbprint_gets_no_password() {
    let stage = Stage::new();
    let right = stage.place.vsphere.thumbprint();
    let (first, rest) = right.split_at(1);
    let wrong = format!("{}{rest}", if first == "0" { "1" } else { "0" });
    let line = stage.place.backup("web", "").replace(&right, &wrong);
    let output = stage.place.kept.run(&line);
    let said = stderr(&output);
    assert_eq!(code(&output), 4, "{said}");
    assert!(said.contains("is not trusted") && said.contains(&right), "{said}");
    assert!(stage.place.vsphere.calls().is_empty());
    stage.assert_tidy();
}

#[test]
fn a_password_that_only_nbdkit_finds_wrong_is_told_with_what_it_said() {
    let stage = Stage::new();
    let words = "Cannot complete login due to an incorrect user name or password";
    stage
        .place
        .vsphere
        .plugin_fault("refuse_open", format!("VixDiskLib_ConnectEx: {words}").into());
    stage.fails("", 4, &[words, "[datastore1] web/web"]);
    assert_eq!(stage.place.vsphere.count("RemoveSnapshot_Task"), 1);
    stage.recovers();
}

#[test]
fn a_session_that_ends_at_any_call_is_renewed() {
    let mut stage = Stage::new();
    for quietly in [false, true] {
        for after in [0, 1, 3, 5, 8, 12] {
            stage.place.vsphere.trouble(Trouble::SessionExpires { after, quietly });
            let backed = stage.place.back_up("web", "");
            stage.place.assert_equal(&backed);
            assert_eq!(backed.mode(super::DISK), "incremental");
            stage.place.assert_nothing_left();
            stage.place.vsphere.clear_troubles();
            stage.write();
        }
    }
    stage.verifies();
}

#[test]
fn a_session_that_ends_while_data_is_copied_is_renewed_for_the_removal() {
    let stage = Stage::new();
    let child = stage.in_the_middle("");
    stage.place.vsphere.expire_sessions();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // The look for the snapshot before it was refused, and made again.
    assert_eq!(stage.place.vsphere.count("Login"), 2);
    assert_eq!(stage.place.vsphere.count("RemoveSnapshot_Task"), 1);
    assert_eq!(stage.points(), 2);
    stage.assert_tidy();
    stage.recovers();
}

#[test]
fn a_server_that_stops_answering_is_not_waited_for_longer_than_the_deadline() {
    let stage = Stage::new();
    for method in ["RetrieveServiceContent", "Login", "RetrievePropertiesEx"] {
        let by = Duration::from_secs(20);
        stage.place.vsphere.trouble(Trouble::CallSlow { method, by });
        let began = Instant::now();
        stage.fails("--vcenter-deadline 1s", 4, &["did not answer", method, "within 1 s"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{method}: {:?}", began.elapsed());
    }
    stage.recovers();
}

#[test]
fn an_answer_that_is_cut_off_costs_no_snapshot() {
    let stage = Stage::new();
    let cut = |method| stage.place.vsphere.trouble(Trouble::Cut { method, bytes: 40 });
    // Nobody knows whether it was made.
    cut("CreateSnapshot_Task");
    stage.fails("", 4, &["cannot be reached", "CreateSnapshot_Task"]);
    for method in ["RemoveSnapshot_Task", "RetrievePropertiesEx", "QueryChangedDiskAreas"] {
        cut(method);
        stage.succeeds("", &[]);
        stage.assert_tidy();
    }
    cut("Login");
    stage.succeeds("", &[]);
    // Its cookie was in what was cut off, so that nobody could end that session.
    assert_eq!(stage.place.vsphere.sessions(), 1);
    stage.place.assert_nothing_left();
}

#[test]
fn a_host_out_of_reach_for_a_moment_is_asked_again() {
    let stage = Stage::new();
    for _ in 0..4 {
        let failure =
            Failure::new("HostNotConnected", "Unable to communicate with the remote host");
        let method = "QueryChangedDiskAreas";
        stage.place.vsphere.trouble(Trouble::CallFails { method, failure });
    }
    let backed = stage.succeeds("", &["it is asked again", "HostNotConnected"]);
    assert_eq!(backed.mode(super::DISK), "incremental");
    stage.assert_tidy();
}

#[test]
fn a_host_that_goes_into_maintenance_is_told_before_and_refuses_the_snapshot() {
    let stage = Stage::new();
    for host in ["esx1", "esx2"] {
        stage.place.vsphere.set_maintenance(host, true);
    }
    let failed = stage.fails("", 4, &["CreateSnapshot_Task", "InvalidState"]);
    assert!(failed.said.contains("is in maintenance"), "{}", failed.said);
    assert!(failed.line.contains("state of the host"), "{}", failed.line);
    for host in ["esx1", "esx2"] {
        stage.place.vsphere.set_maintenance(host, false);
    }
    stage.recovers();
}
