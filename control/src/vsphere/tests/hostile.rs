//! Answers that are cut, huge, bombs, or late.

use blockferry_doubles::vsphere::Trouble;

use super::*;

const RETRIEVE: &str = "RetrievePropertiesEx";

/// The error of a look at a VM whose answers are all spoiled, and how long it took.
fn spoiled(deadline: Duration, trouble: impl Fn() -> Trouble) -> (HypervisorError, Duration) {
    let stage = Stage::with_web();
    let mut server = stage.server();
    server.deadlines.answer = deadline;
    let client = Vsphere::connect(&server).unwrap();
    for _ in 0..3 {
        stage.double.trouble(trouble());
    }
    let begin = Instant::now();
    let error = client.look(&stage.web_id()).unwrap_err();
    let took = begin.elapsed();
    let line = error.to_string();
    assert!(!line.contains('\n') && line.len() < 400, "{line}");
    stage.double.clear_troubles();
    (error, took)
}

#[test]
fn a_truncated_answer_is_tried_again_and_then_an_error() {
    for bytes in [0, 1, 100, 1000] {
        let (error, _) = spoiled(SOON, || Trouble::Truncated { method: RETRIEVE, bytes });
        assert!(
            matches!(error, HypervisorError::Vsphere(VsphereError::Unreachable { .. })),
            "{error}"
        );
    }
}

#[test]
fn an_answer_that_is_cut_off_is_told_without_the_words_of_a_library() {
    for bytes in [0, 100] {
        let (error, _) = spoiled(SOON, || Trouble::Cut { method: RETRIEVE, bytes });
        let line = error.to_string();
        assert!(line.contains("the server closed the connection"), "{line}");
        assert!(!line.contains("://") && !line.contains("close_notify"), "{line}");
    }
}

#[test]
fn an_answer_that_comes_in_part_is_late() {
    let deadline = Duration::from_millis(500);
    for bytes in [0, 1, 100] {
        let (error, took) = spoiled(deadline, || Trouble::Stalled { method: RETRIEVE, bytes });
        assert!(matches!(error, HypervisorError::Vsphere(VsphereError::Late { .. })), "{error}");
        assert!(
            error.to_string().contains("did not answer RetrievePropertiesEx within"),
            "{error}"
        );
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}

#[test]
fn a_huge_answer_is_an_error_and_not_read_to_its_end() {
    let (error, _) =
        spoiled(Duration::from_secs(60), || Trouble::Huge { method: RETRIEVE, bytes: 1 << 30 });
    assert!(error.to_string().contains("more than"), "{error}");
}

#[test]
fn a_bomb_of_entities_is_an_error() {
    let (error, _) = spoiled(SOON, || Trouble::EntityBomb { method: RETRIEVE });
    assert!(error.to_string().contains("document type"), "{error}");
}

#[test]
fn an_answer_that_does_not_come_is_late() {
    let deadline = Duration::from_millis(300);
    let (error, took) = spoiled(deadline, || Trouble::CallSlow { method: RETRIEVE, by: SOON });
    assert!(matches!(error, HypervisorError::Vsphere(VsphereError::Late { .. })), "{error}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
