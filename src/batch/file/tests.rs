use super::*;

fn wrong(text: &str) -> String {
    let Wrong { at, what } = Jobs::parse(text, Path::new("/etc")).unwrap_err();
    let (line, column) = at.map_or((0, 0), |at| place(text, at.start));
    format!("{line}:{column} {what}")
}

#[test]
fn the_example_is_read_as_it_says() {
    let example = super::super::EXAMPLES.split("\n\n").collect::<Vec<_>>();
    let end = example.iter().position(|part| part.starts_with("A vCenter has")).unwrap();
    let text = example[..end].join("\n\n");
    let (_, text) = text.split_once('\n').unwrap();
    let jobs = Jobs::parse(text, Path::new("/etc")).unwrap();
    assert_eq!(jobs.concurrency, NonZeroUsize::new(2));
    let [Job::Disks(db1), Job::Disks(web1), Job::Vm(app1, vcenter), Job::Vm(app2, same)] =
        jobs.vms.as_slice()
    else {
        panic!("{jobs:?}")
    };
    assert_eq!((db1.vm.as_str(), db1.mode), ("db1", BackupMode::Auto));
    assert_eq!(db1.repository, Path::new("/backup"));
    assert_eq!(db1.mover.rate_limit, Some(100 << 20));
    let [data, root] = db1.disks.as_slice() else { panic!("{db1:?}") };
    assert!(matches!(&data.changes, AskedChanges::Areas(file)
        if *file == Path::new("/etc/db1-data.json")));
    assert!(matches!(&root.changes, AskedChanges::Bitmap(name) if name == "daily"));
    assert_eq!((web1.vm.as_str(), web1.mode), ("web 1", BackupMode::Full));
    assert_eq!(web1.repository, Path::new("/backup/web"));
    assert_eq!(web1.disks[0].name.as_str(), "disk 0");
    let usual = LaneSettings::default();
    assert_eq!(
        (web1.lane.retries, web1.lane.deadline, web1.lane.connections),
        (usual.retries, usual.deadline, usual.connections)
    );
    assert_eq!((app1.vm.as_str(), app1.name.as_ref()), ("app1", None));
    assert_eq!(app1.choice, SnapshotChoice::default());
    assert_eq!(
        (app2.vm.as_str(), app2.name.as_ref().map(VmName::as_str)),
        ("moref=vm-57", Some("app2"))
    );
    let chosen = SnapshotChoice {
        quiesce: Some(QuiescePolicy::Require),
        audit_percent: Some(0),
        enable_tracking: Some(false),
    };
    assert_eq!(app2.choice, chosen);
    assert!(Arc::ptr_eq(vcenter, same));
    let options = &vcenter.options;
    assert_eq!(options.server.name(), "vc.example");
    let all = SnapshotChoice {
        quiesce: Some(QuiescePolicy::Try),
        audit_percent: Some(5),
        enable_tracking: Some(true),
    };
    assert_eq!(options.snapshot.choice(), all);
    assert!(!options.snapshot.is_choice());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let vm = "[defaults]\nrepository = \"r\"\n[[vm]]\nname = \"a\"\n";
    let disk = "disks.d = { source = \"/d\" }\n";
    for (text, says) in [
        (format!("{vm}{disk}retires = 3\n"), "6:1 unknown field `retires`"),
        (format!("{vm}disks.d = {{ sorce = \"/d\" }}\n"), "5:13 unknown field `sorce`"),
        (format!("passwort = \"x\"\n{vm}{disk}"), "1:1 unknown field `passwort`"),
        (format!("{vm}{disk}mode = \"ful\"\n"), "6:8 "),
        (format!("{vm}{disk}deadline = \"0s\"\n"), "6:12 it must be more than 0"),
        (format!("{vm}{disk}connections = 65\n"), "6:15 65 is not in 1..=64"),
        (format!("{vm}disks.d = {{ source = \"null:\" }}\n"), "5:22 a source is"),
        (format!("{vm}disks.d = {{ source = \"nbd://h:x/\" }}\n"), "5:22 nbd://h:x/: "),
        (format!("{vm}{disk}[[vm]]\nname = \"\"\n"), "7:8 "),
        (format!("{vm}{disk}{disk}"), "6:7 duplicate key"),
        (format!("{vm}{disk}é = \n"), "6:1 "),
        (
            format!("{vm}{disk}[[vm]]\nname = \"a\"\n{disk}"),
            "6:1 VM a is in it twice, first in line 3",
        ),
        (vm.into(), "3:1 VM a has no disks, and there is no [[vcenter]] that knows them"),
        (format!("{vm}disks = {{}}\n"), "3:1 VM a has no disk"),
        (
            "[[vm]]\nname = \"a\"\ndisks.d = { source = \"/d\" }\n".into(),
            "1:1 VM a has no repository",
        ),
        (
            format!("{vm}disks.d = {{ source = \"/d\", changed = \"c\", bitmap = \"b\" }}\n"),
            "5:11 disk d: what changed is told twice",
        ),
        ("concurrency = 0\n".into(), "1:15 "),
        (String::new(), "0:0 no VM in it"),
        (format!("{vm}{disk}repository = \"\"\n"), "3:1 VM a has an empty name as its repository"),
        (
            format!("{vm}{disk}[[vm]]\nname = \"a\"\nrepository = \"./x/../r/\"\n{disk}"),
            "6:1 VM a is in it twice, first in line 3",
        ),
    ] {
        let said = wrong(&text);
        assert!(said.starts_with(says), "{said}, and not {says}, for\n{text}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_vm_may_be_in_two_repositories() {
    let text = "[[vm]]\nname = \"a\"\nrepository = \"r\"\ndisks.d = { source = \"/d\" }\n\
                [[vm]]\nname = \"a\"\nrepository = \"s\"\ndisks.d = { source = \"/d\" }\n";
    assert_eq!(Jobs::parse(text, Path::new("")).unwrap().vms.len(), 2);
}

/// A vCenter that has all that it needs, in lines 1 to 5.
const VCENTER: &str = "[[vcenter]]\nserver = \"vc\"\nuser = \"u\"\npassword-file = \"p\"\n\
                       thumbprint = \"00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33\"\n";
/// A VM of it, three lines long.
const VM: &str = "[[vm]]\nname = \"a\"\nrepository = \"r\"\n";

#[test]
fn what_is_wrong_with_a_vcenter_or_its_vms_is_told_with_its_place() {
    let without = |line: &str| {
        let lines = VCENTER.lines().filter(|other| !other.starts_with(line));
        lines.map(|line| format!("{line}\n")).collect::<String>() + VM
    };
    let twice = VCENTER.replace("[[vcenter]]", "[[vcenter]]\nname = \"other\"");
    for (text, says) in [
        (
            format!("{VCENTER}usr = \"x\"\n{VM}"),
            "6:1 unknown field `usr`, expected one of `name`, ",
        ),
        (format!("{VCENTER}vcenter-user = \"x\"\n{VM}"), "6:1 unknown field `vcenter-user`"),
        (format!("{VCENTER}quiesce = \"maybe\"\n{VM}"), "6:11 it is none, try or require"),
        (format!("{VCENTER}cbt-audit = 101\n{VM}"), "6:13 101 is not in 0..=100"),
        (format!("{VCENTER}enable-cbt = 1\n{VM}"), "6:14 enable-cbt is true or false, and not a"),
        (format!("{VCENTER}deadline = \"0s\"\n{VM}"), "6:12 it must be more than 0"),
        (format!("{VCENTER}vddk-param = [\"password=x\"]\n{VM}"), "6:14 "),
        (format!("{VCENTER}ca = \"ca.pem\"\n{VM}"), "a server is known by its `thumbprint` or"),
        (VCENTER.replace("\"vc\"", "\"https://vc\"") + VM, "2:10 https://vc: write HOST"),
        (VCENTER.replace("00:11", "xx:11") + VM, "5:14 "),
        (VCENTER.replace("\"u\"", "7.5") + VM, "3:8 user is a text or a whole number, and not"),
        (without("user"), "1:1 missing field `user`"),
        (without("server"), "1:1 missing field `server`"),
        (without("password-file"), "1:1 missing field `password-file`"),
        (without("thumbprint"), "1:1 by what is vc known? give it a `thumbprint`, or a `ca`"),
        (format!("{VCENTER}{VCENTER}{VM}"), "6:1 vCenter vc is in it twice, first in line 1"),
        (format!("{VCENTER}{twice}{VM}"), "12:1 VM a has no vcenter; name one of vc, other"),
        (format!("{VCENTER}{VM}vcenter = \"x\"\n"), "9:11 there is no vCenter x; the file has vc"),
        (format!("{VM}vcenter = \"x\"\n"), "4:11 there is no vCenter x; the file has none"),
        (format!("{VCENTER}{VM}{VM}"), "9:1 VM a is in it twice, first in line 6"),
        (format!("{VCENTER}{VM}cbt-audit = 101\n"), "9:13 101 is not in 0..=100"),
        (format!("{VCENTER}{VM}quiesce = \"no\"\n"), "9:11 it is none, try or require"),
        (format!("{VCENTER}{VM}as = \"a/b\"\n"), "9:6 "),
        (
            format!("{VCENTER}{VM}disks.d = {{ source = \"/d\" }}\nquiesce = \"none\"\n"),
            "6:1 VM a has disks of its own; vcenter, as, quiesce",
        ),
        (format!("{VCENTER}[[vm]]\nname = \"\"\nrepository = \"r\"\n"), "7:8 which VM?"),
    ] {
        let said = wrong(&text);
        assert!(said.contains(says), "{said}, and not {says}, for\n{text}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn vms_of_two_vcenters_name_theirs() {
    let other = VCENTER.replace("[[vcenter]]", "[[vcenter]]\nname = \"other\"");
    let vm = |word: &str, vcenter: &str| {
        format!("[[vm]]\nname = \"{word}\"\nrepository = \"r\"\nvcenter = \"{vcenter}\"\n")
    };
    // What two servers know by one moref is not one VM.
    let text = [VCENTER.replace("\"vc\"", "\"vc2\""), other, vm("a", "other")].concat()
        + &vm("moref=vm-1", "vc2")
        + &vm("moref=vm-1", "other");
    let jobs = Jobs::parse(&text, Path::new("/etc")).unwrap();
    let servers = jobs.vms.iter().map(|job| match job {
        Job::Vm(_, vcenter) => vcenter.options.server.name(),
        Job::Disks(_) => panic!("{job:?}"),
    });
    assert_eq!(servers.collect::<Vec<_>>(), ["vc", "vc2", "vc"]);
    let again = text + &vm("moref=vm-1", "other");
    assert!(wrong(&again).contains("VM moref=vm-1 is in it twice"));
}
