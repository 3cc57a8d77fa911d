use super::*;

fn candidate(id: &str, path: &str, uuids: &[&str]) -> Candidate {
    let name = path.rsplit('/').next().unwrap_or(path);
    Candidate {
        id: VmId::new(id),
        name: name.to_owned(),
        path: path.to_owned(),
        uuids: uuids.iter().map(|&uuid| uuid.to_owned()).collect(),
    }
}

fn candidates() -> Vec<Candidate> {
    vec![
        candidate("vm-1", "DC0/web", &["4201-aa", "5201-aa"]),
        candidate("vm-2", "DC0/old/web", &["4201-bb"]),
        candidate("vm-3", "DC0/db-primary", &["4201-cc", "5201-cc"]),
        candidate("vm-4", "DC1/a%2fb", &["4201-CC"]),
        candidate("vm-5", "DC1/vm-3", &[]),
    ]
}

fn one(id: &str) -> Meant {
    Meant::One(VmId::new(id))
}

#[test]
fn a_vm_is_found_by_each_of_its_names() {
    for (sought, id) in [
        ("db-primary", "vm-3"),
        ("DC0/web", "vm-1"),
        ("/DC0/old/web", "vm-2"),
        ("4201-BB", "vm-2"),
        ("5201-cc", "vm-3"),
        ("vm-2", "vm-2"),
        ("a/b", "vm-4"),
        ("a%2fb", "vm-4"),
        ("moref=vm-3", "vm-3"),
        ("name=vm-3", "vm-5"),
        ("path=DC0/web", "vm-1"),
        ("uuid=5201-CC", "vm-3"),
    ] {
        assert_eq!(meant(sought, &candidates()), one(id), "{sought}");
    }
}

#[test]
fn an_ambiguous_name_lists_the_candidates() {
    let several = |names: &[&str]| Meant::Several(names.iter().map(|&it| it.to_owned()).collect());
    let found = candidates();
    assert_eq!(meant("web", &found), several(&["DC0/web (vm-1)", "DC0/old/web (vm-2)"]));
    assert_eq!(meant("4201-cc", &found), several(&["DC0/db-primary (vm-3)", "DC1/a%2fb (vm-4)"]));
    // A name that is another one's id.
    assert_eq!(meant("vm-3", &found), several(&["DC0/db-primary (vm-3)", "DC1/vm-3 (vm-5)"]));
}

#[test]
fn a_name_that_is_not_there_leads_to_those_that_are_near() {
    let near = |sought: &str| match meant(sought, &candidates()) {
        Meant::None(near) => near,
        other => panic!("{sought} is {other:?}"),
    };
    assert_eq!(near("WEB"), ["DC0/old/web", "DC0/web"]);
    assert_eq!(near("db-primry"), ["DC0/db-primary"]);
    assert_eq!(near("DC9/primary"), ["DC0/db-primary"]);
    assert!(near("mail-gateway").is_empty());
    assert!(near("uuid=1234-5678").is_empty());
    assert!(near("").is_empty());
}

#[test]
fn the_distance_of_names_counts_changes() {
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(distance("kitten", "sitting"), 3);
    assert_eq!(distance("same", "same"), 0);
}
