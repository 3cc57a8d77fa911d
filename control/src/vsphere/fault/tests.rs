use std::time::{Duration, Instant};

use super::super::xml::XmlReader;
use super::*;

fn tree(text: &str) -> Element {
    let end = Instant::now() + Duration::from_secs(60);
    let mut reader = XmlReader::new(text.as_bytes(), end);
    let root = reader.next_start().unwrap().unwrap();
    Element::read(root, &mut reader).unwrap()
}

fn answered(message: &str, detail: &str) -> Fault {
    Fault::of_answer(&tree(&format!(
        r#"<s:Fault xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
            xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
            <faultcode>ServerFaultCode</faultcode><faultstring>{message}</faultstring>
            <detail>{detail}</detail></s:Fault>"#
    )))
}

#[test]
fn a_fault_is_known_by_its_type_whatever_its_element_and_namespace() {
    for detail in [
        r#"<FileFaultFault xmlns="urn:vim25" i:type="FileFault"><file>/vmfs/a</file></FileFaultFault>"#,
        r#"<FileFaultFault xmlns="urn:internalvim25" i:type="FileFault"><file>/vmfs/a</file></FileFaultFault>"#,
        r#"<Fault xmlns:v="urn:vim25" typename="FileFault" i:type="v:FileFault"><v:file>/vmfs/a</v:file></Fault>"#,
        "<FileFaultFault><file>/vmfs/a</file></FileFaultFault>",
        r#"<x i:type="CannotAccessFile"><file>/vmfs/a</file></x>"#,
    ] {
        let fault = answered("Error caused by file /vmfs/a", detail);
        assert_eq!(fault.kind, FaultKind::FileFault { file: Some("/vmfs/a".into()) }, "{detail}");
    }
}

#[test]
fn what_is_missing_or_unknown_is_another_fault() {
    assert_eq!(answered("boom", "").kind, FaultKind::Other);
    assert_eq!(answered("boom", r#"<x i:type="Brandnew"/>"#).kind, FaultKind::Other);
    let fault = Fault::of_answer(&tree("<Fault/>"));
    assert_eq!(fault.kind, FaultKind::Other);
    assert!(!fault.to_string().is_empty());
}

#[test]
fn a_message_is_one_short_line() {
    let long = format!("first line\n\tsecond line\u{85} {}", "x".repeat(1000));
    let line = answered(&long, r#"<x i:type="SystemError"/>"#).to_string();
    assert!(line.starts_with("SystemError: first line second line x"), "{line}");
    assert!(line.chars().count() < 350 && !line.contains(char::is_control), "{line}");
}

#[test]
fn a_missing_privilege_is_named() {
    let detail = r#"<x i:type="NoPermission"><object type="VirtualMachine">vm-1</object>
        <privilegeId>VirtualMachine.State.CreateSnapshot</privilegeId></x>"#;
    let line = answered("Permission to perform this operation was denied.", detail).to_string();
    assert!(
        line.contains("give the user the privilege VirtualMachine.State.CreateSnapshot"),
        "{line}"
    );
}

#[test]
fn a_tasks_fault_is_that_of_its_method() {
    let error = tree(
        r#"<error xmlns="urn:vim25" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
            <fault i:type="TaskInProgress"><task type="Task">task-1</task></fault>
            <localizedMessage>Another task is already in progress.</localizedMessage></error>"#,
    );
    let fault = Fault::of_method(&error);
    assert_eq!(fault.kind, FaultKind::TaskInProgress);
    assert_eq!(fault.message, "Another task is already in progress.");
}
