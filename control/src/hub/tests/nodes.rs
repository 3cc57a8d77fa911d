use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::tunnel::endpoint::{Gatekeeper, Reached};
use crate::tunnel::{EnrollmentCode, OwnKey, SshKey};

const HOUR: Duration = Duration::from_secs(3600);

fn key(place: &Place, name: &str) -> SshKey {
    OwnKey::load_or_make(&place.folder.path().join(name)).unwrap().public()
}

fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// The name and the secret that a node of this code shows.
fn shown(code: &EnrollmentCode) -> (NodeName, String) {
    let user = code.user();
    let (name, secret) = EnrollmentCode::split_user(&user).unwrap();
    (node(name), secret.to_owned())
}

#[test]
fn a_code_enrolls_once_and_only_a_hash_of_it_is_kept() {
    let place = Place::new();
    let nodes = Nodes::of(place.folder.path());
    let check = NodeCheck::of(place.folder.path());
    let (hub, mine, other) = (key(&place, "hub"), key(&place, "mine"), key(&place, "other"));
    let code = nodes.invite(&node("n1"), HOUR, &hub).unwrap();
    let text = std::fs::read_to_string(place.folder.path().join("nodes.json")).unwrap();
    let (name, secret) = shown(&code);
    assert!(!text.contains(&secret), "{text}");
    assert!(code.is_of(&hub) && !code.is_of(&mine));
    assert_eq!(code.to_string().parse::<EnrollmentCode>().unwrap().user(), code.user());

    assert!(!check.knows(&name, &mine).unwrap());
    assert!(matches!(check.enroll(&name, "wrong", &mine), Err(NodeError::BadCode)));
    assert!(matches!(check.enroll(&node("n2"), &secret, &mine), Err(NodeError::BadCode)));
    check.enroll(&name, &secret, &mine).unwrap();
    assert!(check.knows(&name, &mine).unwrap());
    assert!(!check.knows(&name, &other).unwrap() && !check.knows(&node("n2"), &mine).unwrap());
    assert!(matches!(check.enroll(&name, &secret, &other), Err(NodeError::BadCode)));
    let listed = nodes.list().unwrap();
    assert_eq!(listed.len(), 1);
    let way = NodeWay::Key { fingerprint: mine.fingerprint() };
    assert_eq!((&listed[0].name, &listed[0].way), (&name, &way));
}

#[test]
fn a_code_that_is_too_old_or_was_replaced_or_withdrawn_enrolls_nobody() {
    let place = Place::new();
    let nodes = Nodes::of(place.folder.path());
    let check = NodeCheck::of(place.folder.path());
    let (hub, mine) = (key(&place, "hub"), key(&place, "mine"));
    let refused = |code: &EnrollmentCode| {
        let (name, secret) = shown(code);
        matches!(check.enroll(&name, &secret, &mine), Err(NodeError::BadCode))
    };
    assert!(refused(&nodes.invite(&node("n1"), Duration::ZERO, &hub).unwrap()));
    let first = nodes.invite(&node("n1"), HOUR, &hub).unwrap();
    let second = nodes.invite(&node("n1"), HOUR, &hub).unwrap();
    assert!(refused(&first));
    nodes.withdraw(&node("n1")).unwrap();
    assert!(refused(&second));
}

#[test]
fn a_node_that_enrolls_again_has_its_new_key_alone_and_nobody_takes_the_key_of_another() {
    let place = Place::new();
    let nodes = Nodes::of(place.folder.path());
    let check = NodeCheck::of(place.folder.path());
    let (hub, old, new) = (key(&place, "hub"), key(&place, "old"), key(&place, "new"));
    let enroll = |name: &str, key: &SshKey| {
        let (name, secret) = shown(&nodes.invite(&node(name), HOUR, &hub).unwrap());
        check.enroll(&name, &secret, key)
    };
    enroll("n1", &old).unwrap();
    enroll("n1", &new).unwrap();
    assert!(check.knows(&node("n1"), &new).unwrap() && !check.knows(&node("n1"), &old).unwrap());
    assert!(matches!(enroll("n2", &new), Err(NodeError::KeyTaken(name)) if name == node("n1")));
    nodes.remove(&node("n1")).unwrap();
    assert!(!check.knows(&node("n1"), &new).unwrap());
    assert!(matches!(nodes.remove(&node("n1")), Err(NodeError::NoSuchNode(_))));
}

#[test]
fn a_node_reaches_what_is_leased_for_it_and_the_api_and_nothing_else() {
    let place = Place::new();
    let hub = place.hub();
    let api: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let gate = Gate::new(NodeCheck::of(place.folder.path()), Arc::clone(hub.ports()), api);
    let lease = |disk_name: &str, of: Option<&NodeName>| {
        hub.ports().lease_for(&holder("j"), &vm("v"), &disk(disk_name), of).unwrap().port
    };
    let (n1, n2) = (node("n1"), node("n2"));
    let (mine, other, nobodys) = (lease("a", Some(&n1)), lease("b", Some(&n2)), lease("c", None));
    assert_eq!(gate.reach("n1", "127.0.0.1", mine).unwrap().address.port(), mine);
    assert_eq!(gate.reach("n1", "localhost", mine).unwrap().address.ip().to_string(), "127.0.0.1");
    let reached = Reached { address: api, greets: false };
    assert_eq!(gate.reach("n2", "127.0.0.1", 9).unwrap(), reached);
    assert!(gate.reach("n1", "127.0.0.1", mine).unwrap().greets);
    for port in [other, nobodys, 22, 0, mine + 7] {
        assert!(gate.reach("n1", "127.0.0.1", port).is_err(), "{port}");
    }
    for host in ["10.0.0.1", "example.org", "0.0.0.0", "127.0.0.2", ""] {
        assert!(gate.reach("n1", host, mine).is_err(), "{host}");
        assert!(gate.reach("n1", host, 9).is_err(), "{host}");
    }
    hub.ports().release(mine, &holder("j")).unwrap();
    assert!(gate.reach("n1", "127.0.0.1", mine).is_err());
}

#[test]
fn a_port_keeps_its_node_over_a_restart_and_is_not_given_to_another_one() {
    let place = Place::new();
    let n1 = node("n1");
    let port = {
        let hub = place.hub();
        hub.ports().lease_for(&holder("j"), &vm("v"), &disk("a"), Some(&n1)).unwrap().port
    };
    let (hub, recovery) = place.open();
    assert_eq!(recovery.adopted.len(), 1);
    assert!(hub.ports().is_leased_for(port, &n1));
    assert!(!hub.ports().is_leased_for(port, &node("n2")));
    let again = hub.ports().lease_for(&holder("j"), &vm("v"), &disk("a"), Some(&n1)).unwrap();
    assert_eq!((again.port, again.node), (port, Some(n1)));
    for other in [None, Some(node("n2"))] {
        let refused = hub.ports().lease_for(&holder("j"), &vm("v"), &disk("a"), other.as_ref());
        assert!(matches!(refused, Err(PortError::OtherNode { .. })), "{refused:?}");
    }
}

#[test]
fn nobody_is_a_node_by_a_damaged_file() {
    let place = Place::new();
    let check = NodeCheck::of(place.folder.path());
    let mine = key(&place, "mine");
    assert!(!check.knows(&node("n1"), &mine).unwrap());
    std::fs::write(place.folder.path().join("nodes.json"), "{").unwrap();
    let error = check.knows(&node("n1"), &mine).unwrap_err().to_string();
    assert!(error.contains("nodes.json is damaged"), "{error}");
}
