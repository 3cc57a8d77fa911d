//! Files in place of options, for what runs as a service.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs::{self, Permissions};
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
    fs::write(folder.join("node.toml"), text).unwrap();
    let ended = run(folder, &["node", "serve", "--config", "node.toml"]);
    assert_eq!(code(&ended), 2, "{text}: {}", stderr(&ended));
    let said = stderr(&ended).trim_end().to_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    said.strip_prefix("blockferry: node.toml: ").unwrap_or(&said).to_owned()
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
