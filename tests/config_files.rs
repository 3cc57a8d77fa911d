//! Files in place of options, for what runs as a service.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use blockferry::{Hub, code, place, run, stderr};
use blockferry_doubles::PortBlock;
use serde_json::Value;

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// What `node serve` says of a file that it cannot work with.
fn refused(folder: &Path, text: &str) -> String {
    let (exit, said) = refusal(folder, "node", text);
    assert_eq!(exit, 2, "{text}: {said}");
    said
}

/// With what `hub serve` or `node serve` ends that cannot work with a file, and what it says of it.
fn refusal(folder: &Path, group: &str, text: &str) -> (i32, String) {
    let name = format!("{group}.toml");
    fs::write(folder.join(&name), text).unwrap();
    let ended = run(folder, &[group, "serve", "--config", &name]);
    let said = stderr(&ended).trim_end().to_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    let said = said.strip_prefix(&format!("blockferry: {name}: ")).unwrap_or(&said);
    (code(&ended), said.to_owned())
}

#[test]
fn what_is_wrong_in_a_file_is_one_line_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    keygen(&folder.join("key"));
    fs::write(folder.join("token"), "t").unwrap();
    fs::set_permissions(folder.join("token"), Permissions::from_mode(0o644)).unwrap();
    fs::write(folder.join("known"), "").unwrap();
    let sshd = "state = 'node'\ntunnel = 'ssh://me@127.0.0.1:1'\napi-port = 10301\n";
    let with = |lines: &str| format!("{sshd}{lines}");

    assert!(refused(folder, "deadlin = '1m'\n").starts_with("line 1: there is no key deadlin;"));
    assert!(refused(folder, "\ndeadline = '1 parsec'\n").starts_with("line 2: invalid value"));
    assert!(
        refused(folder, "local-sources = 'yes'\n").starts_with("line 1: local-sources is true")
    );
    let missing = refused(folder, &with("identity = 'nokey'\ntoken-file = 'token'\n"));
    assert!(missing.starts_with("line 4: ") && missing.contains("nokey"), "{missing}");
    let others =
        refused(folder, &with("identity = 'key'\nknown-hosts = 'known'\ntoken-file = 'token'\n"));
    assert!(others.starts_with("line 6: ") && others.contains("others can read it"), "{others}");
    fs::set_permissions(folder.join("key"), Permissions::from_mode(0o644)).unwrap();
    let open = refused(folder, &with("\nidentity = 'key'\ntoken-file = 'token'\n"));
    assert!(open.starts_with("line 5: ") && open.contains("mode is 644"), "{open}");
    let hosts = refused(folder, &with("known-hosts = 'nohosts'\ntoken-file = 'token'\n"));
    assert!(hosts.starts_with("line 4: ") && hosts.contains("nohosts"), "{hosts}");

    let gone = run(folder, &["node", "serve", "--config=nowhere.toml"]);
    assert_eq!(code(&gone), 2);
    assert!(stderr(&gone).contains("--config nowhere.toml: No such file"), "{}", stderr(&gone));
}

#[test]
fn a_value_of_a_hub_that_turns_out_wrong_at_work_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let ports = PortBlock::take();
    let (first, last) = ports.range().into_inner();
    let hub = format!("state = 'hub'\nports = '{first}-{last}'\nlisten = '127.0.0.1:0'\n");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (text, exit, says) in [
        ("\nstate = '/proc/nope'\n".to_owned(), 1, "line 2: the state folder /proc/nope"),
        (format!("{hub}repository = ['/proc/nope']\n"), 5, "line 4: /proc/nope: "),
        (format!("{hub}repository = ['a', 'b']\n"), 2, "line 4: two repositories"),
        ("state = 'hub'\nlisten = '0.0.0.0:0'\n".to_owned(), 2, "line 2: 0.0.0.0:0 can be"),
        (format!("state = 'hub'\nlisten = '{taken}'\n"), 1, "line 2: cannot listen on"),
        (format!("{hub}\ntunnel = '{taken}'\n"), 1, "line 5: cannot listen on"),
        (format!("{hub}tunnel = '127.0.0.1:{first}'\n"), 2, "line 4: --tunnel 127.0.0.1"),
    ] {
        let (ended, said) = refusal(folder.path(), "hub", &text);
        assert!(said.starts_with(says), "{text}: {said}");
        assert_eq!(ended, exit, "{text}: {said}");
    }
    // What was typed stands in no line.
    let typed = ["hub", "serve", "--config", "hub.toml", "--tunnel", &taken.to_string()];
    let typed = run(folder.path(), &typed);
    assert!(stderr(&typed).starts_with("blockferry: cannot listen on"), "{}", stderr(&typed));
}

#[test]
fn a_value_of_a_node_that_turns_out_wrong_at_work_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let said = refused(folder, "\nstate = 'node'\n");
    assert!(said.starts_with("line 2: there is no node/node.json"), "{said}");
    fs::create_dir(folder.join("node")).unwrap();
    let record = r#"{ "name": "n1", "hub": "ssh://127.0.0.1:1" }"#;
    fs::write(folder.join("node/node.json"), record).unwrap();
    keygen(&folder.join("node/node_key"));
    fs::set_permissions(folder.join("node/node_key"), Permissions::from_mode(0o644)).unwrap();
    let said = refused(folder, "\nstate = 'node'\n");
    assert!(said.starts_with("line 2: the private key node/node_key: its mode is 644"), "{said}");

    let said = refused(folder, "\ntunnel = 'ssh://me@127.0.0.1:1'\n");
    assert!(said.starts_with("line 2: tunnel needs api-port, token-file"), "{said}");
    let said = refused(folder, "state = 'node'\nvcenter = 'vc'\nvcenter-password-file = 'p'\n");
    assert!(said.starts_with("line 2: vcenter needs vcenter-user"), "{said}");
    let vcenter = "vcenter = 'vc'\nvcenter-user = 'u'\nvcenter-password-file = 'p'\n";
    let said = refused(folder, vcenter);
    assert!(said.starts_with("line 1: by what is vc known?"), "{said}");
    let said = refused(folder, &format!("{vcenter}vcenter-ca = 'none'\n"));
    assert!(said.starts_with("line 4: --vcenter-ca none: "), "{said}");
    let said = refused(folder, "deadline = '1m'\nenable-cbt = true\n");
    assert!(said.starts_with("line 2: --quiesce, --enable-cbt"), "{said}");
}

#[test]
fn a_hub_serves_as_its_file_says_and_as_is_typed_over_it() {
    let (folder, token) = place();
    let ports = PortBlock::take();
    // Of what the harness types, this is what the file does not say.
    fs::write(folder.path().join("hub.toml"), "tunnel = '127.0.0.1:0'\nnode-deadline = '7s'\n")
        .unwrap();
    let hub = Hub::start_with(folder.path(), &ports, "--config hub.toml");
    assert!(hub.tunnel.is_some());
    let (status, _) = hub.ask(&token, "GET", "/nodes", &Value::Null);
    assert_eq!(status, 200);
}

#[test]
fn the_files_that_come_with_the_services_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd");
    for (group, name) in [("hub", "hub.toml"), ("node", "node.toml")] {
        let text = fs::read_to_string(shipped.join(name)).unwrap();
        // Options that are commented out are taken, too; the folders are not those of a test.
        let text = text.replace("# local-sources", "local-sources").replace("# ports", "ports");
        let text = text.replace("# hub-api", "hub-api");
        let text = text.replace("/var/lib", "var").replace("\"/backup\"", "\"backup\"");
        fs::write(folder.path().join(name), text).unwrap();
        // All of it is read and checked before the last option is.
        let last = if group == "hub" { "--ports=x" } else { "--forget=x" };
        let ended = run(folder.path(), &[group, "serve", "--config", name, last]);
        assert_eq!(code(&ended), 2);
        let option = last.split('=').next().unwrap();
        assert!(
            stderr(&ended).contains(&format!("invalid value 'x' for '{option}")),
            "{}",
            stderr(&ended)
        );
    }
}
