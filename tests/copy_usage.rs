//! The command line as a person or a script meets it: usage, exit codes, reports.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use blockferry::{code, command, copy, folder, run, stderr};
use blockferry_doubles::{Nbdkit, process};
use serde_json::Value;

#[test]
fn wrong_usage_is_code_2_with_a_line_that_says_what_and_makes_nothing() {
    let folder = folder();
    fs::write(folder.path().join("areas"), "[]").unwrap();
    for (line, says) in [
        ("a", "TARGET is missing"),
        ("--flush", "SOURCE and TARGET are missing"),
        ("a b c", "unexpected argument 'c'"),
        ("a b [ nbdkit ]", "unexpected argument '[ nbdkit ]"),
        ("--bogus a b", "unexpected argument '--bogus'"),
        ("--flush=1 a b", "--flush"),
        ("[ nbdkit memory 1M b", "no closing ']'"),
        ("[ ] b", "no command"),
        ("a a", "same file"),
        ("a ./a", "same file"),
        ("null: b", "null: is a target"),
        ("nbd:// b --engine fast", "auto, uring or poll"),
        ("nbd://host:99999 b", "port"),
        ("nbd+unix:// b", "socket=PATH"),
        ("--request-size 1000 a b", "power of two"),
        ("--sparse 100 a b", "power of two"),
        ("--connections 0 a b", "1 or more"),
        ("--requests x a b", "1 or more"),
        ("--threads x a b", "--threads"),
        ("--queue-size x a b", "is not a size"),
        ("--memory 1 a b", "give 1.00 MiB or more"),
        ("--memory 1M --request-size 16M a b", "give 32.00 MiB or more"),
        ("--queue-size 10MB a b", "write 10M"),
        ("--deadline 30 a b", "no unit"),
        ("--deadline 0s a b", "more than 0"),
        ("--rate-limit 0 a b", "more than 0"),
        ("--digest md5 a b", "crc32c, xxh3, blake3"),
        ("--manifest m a b", "--digest"),
        ("--payload splice --digest xxh3 a b", "--payload splice"),
        ("--payload splice --sparse 4096 a b", "--payload splice"),
        ("--changed areas --bitmap x a b", "cannot be used with"),
        ("--lanes l a b", "--lanes names"),
        ("--lanes nosuch", "nosuch"),
        ("--changed nosuch a b", "nosuch"),
        ("--resume . a b", "folder"),
        ("--resume j a -", "stream"),
        ("--json a -", "standard output"),
        ("--base-manifest m a b", "--digest blake3"),
        ("--base-manifest m --digest xxh3 a b", "--digest blake3"),
        ("--base-manifest m --digest blake3 --payload splice a b", "--payload splice"),
        ("--base-manifest m --digest blake3 --destination-is-zero a b", "take one of them"),
        ("--base-manifest nosuch --digest blake3 a b", "nosuch"),
        ("--base-manifest a --digest blake3 a b", "not a digest manifest"),
        ("--base-manifest m --digest blake3 --lanes l", "cannot be used with"),
        ("--source-size 0 a b", "more than 0"),
        ("--source-size 1000 - b", "a stream ends where it ends"),
        ("--source-size 1000 --lanes l", "cannot be used with"),
        ("--server-stdio a b", "[ COMMAND ... ]"),
        ("--progress=x a b", "file descriptor"),
    ] {
        let output = copy(folder.path(), line);
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_cannot_be_spliced_is_named_as_it_was_written_and_no_target_is_emptied() {
    let folder = folder();
    fs::write(folder.path().join("b"), "precious").unwrap();
    let uri = "nbd+unix:///?socket=nosuch";
    for (line, says) in [
        (format!("- {uri}"), "the source - is a stream"),
        (format!("{uri} -"), "the target - is a stream"),
        (format!("a {uri}"), "the source a is a file or device"),
        (format!("{uri} b"), "the target b is a file or device"),
        ("a b".to_owned(), "the source a is a file or device"),
    ] {
        let args: Vec<&str> =
            ["copy", "--payload", "splice"].into_iter().chain(line.split(' ')).collect();
        // Redirected from a file, which is opened as one otherwise.
        let stdin = fs::File::open(folder.path().join("a")).unwrap();
        let output = command(folder.path(), &args).stdin(stdin).output().unwrap();
        assert_eq!(code(&output), 2, "{line}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
    }
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"precious");
}

#[test]
fn the_lanes_file_is_checked_as_a_whole_before_any_lane_starts() {
    let folder = folder();
    fs::write(folder.path().join("bad-areas"), "[{\"start\": 0}]").unwrap();
    let good = "{\"source\":\"a\",\"target\":\"b\"}\n\n";
    for (line, says) in [
        ("{\"source\":\"a\"}", "line 3: missing field `target`"),
        ("{\"source\":\"a\",\"target\":\"b\"}", "line 3: b is the target of line 1 already"),
        ("{\"source\":\"a\",\"target\":\"-\"}", "line 3: a lane of many"),
        ("{\"source\":\"a\",\"target\":\"a\"}", "line 3: a and a are the same file"),
        ("{\"source\":\"a\",\"target\":\"c\",\"size\":1}", "line 3: unknown field `size`"),
        ("{\"source\":\"a\",\"target\":\"c\",\"changed\":\"x\"}", "line 3: cannot read"),
        (
            "{\"source\":\"a\",\"target\":\"c\",\"changed\":\"bad-areas\"}",
            "line 3: bad-areas: line 1, column",
        ),
    ] {
        fs::write(folder.path().join("lanes"), format!("{good}{line}\n")).unwrap();
        let output = copy(folder.path(), "--lanes lanes");
        assert_eq!(code(&output), 2, "{line}");
        assert!(stderr(&output).contains(says), "{line}: {}", stderr(&output));
    }
    assert!(!folder.path().join("b").exists());
}

#[test]
fn a_lane_is_not_to_overwrite_the_source_of_another() {
    let folder = folder();
    fs::copy(folder.path().join("a"), folder.path().join("b")).unwrap();
    std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
    let lane = |source: &str, target: &str| {
        format!("{{\"source\":\"{source}\",\"target\":\"{target}\"}}\n")
    };
    for (first, second, says) in [
        (lane("a", "c"), lane("b", "link"), "line 2: link is the source of line 1"),
        (lane("b", "link"), lane("a", "c"), "line 2: a is the target of line 1"),
        (
            lane("nbd://h/x", "c"),
            lane("b", "nbds://h:10809/x"),
            "line 2: nbds://h:10809/x is the source of line 1",
        ),
    ] {
        fs::write(folder.path().join("lanes"), first + &second).unwrap();
        let output = copy(folder.path(), "--lanes lanes");
        assert_eq!(code(&output), 2, "{says}");
        assert!(stderr(&output).contains(says), "{says}: {}", stderr(&output));
    }
    assert!(!folder.path().join("c").exists());
    fs::write(folder.path().join("lanes"), lane("a", "c") + &lane("a", "d")).unwrap();
    assert_eq!(code(&copy(folder.path(), "--lanes lanes")), 0);
}

#[test]
fn a_usage_error_is_reported_as_json_too() {
    let output = copy(folder().path(), "--json a a");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "wrong_usage");
    assert_eq!(report["exit_code"], 2);
    assert!(report["error"].as_str().unwrap().contains("same file"));
    assert_eq!(report["lanes"], Value::Array(Vec::new()));
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() {
    let folder = folder();
    for (line, expected) in [("a b", 1), ("nosuch c", 4), ("a a", 2)] {
        let args: Vec<&str> = ["copy", "--json"].into_iter().chain(line.split(' ')).collect();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command(folder.path(), &args).stdout(full).output().unwrap();
        assert_eq!(code(&output), expected, "{}", stderr(&output));
        assert!(stderr(&output).contains("writing the report"), "{}", stderr(&output));
    }
}

#[test]
fn a_command_that_is_not_there_is_one_line_and_the_code_of_its_side() {
    let folder = folder();
    for (line, side) in [("-- [ no-such-server ] b", 4), ("-- a [ no-such-server ]", 5)] {
        let output = copy(folder.path(), line);
        assert_eq!(code(&output), side);
        assert!(stderr(&output).contains("no such command"));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

#[test]
fn nothing_is_printed_when_all_went_well() {
    let output = copy(folder().path(), "a b");
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_progress_bar_leaves_no_control_characters_in_a_file() {
    let output = copy(folder().path(), "-p a b");
    let text = stderr(&output);
    assert!(text.starts_with("blockferry: 100 %"), "{text}");
    assert!(!text.chars().any(|letter| letter.is_control() && letter != '\n'), "{text}");
}

#[test]
fn a_progress_bar_on_a_terminal_ends_with_a_line() {
    let folder = folder();
    for (line, end) in [("a b", "100 %, 1.00 MiB in "), ("nosuch b", "source nosuch: ")] {
        let copy = format!("{} copy -p {line}", env!("CARGO_BIN_EXE_blockferry"));
        let mut script = Command::new("script");
        script.args(["-qec", &copy, "/dev/null"]).current_dir(folder.path());
        let output = script.stdin(Stdio::null()).env("TERM", "xterm").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(end) && text.ends_with('\n'), "{text:?}");
    }
}

#[test]
fn a_failed_lane_of_many_is_partly_done() {
    let folder = folder();
    let lanes = "{\"source\":\"a\",\"target\":\"b\"}\n{\"source\":\"nosuch\",\"target\":\"c\"}\n";
    fs::write(folder.path().join("lanes"), lanes).unwrap();
    let output = copy(folder.path(), "--lanes lanes --json");
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "partly_done");
    assert_eq!(report["lanes"][0]["outcome"], "done");
    assert_eq!(report["lanes"][1]["outcome"], "source_fault");
    assert!(report["lanes"][1]["error"].as_str().unwrap().contains("source nosuch: "));
    assert_eq!(report["error"], report["lanes"][1]["error"]);
    let failures = stderr(&output).matches("lane 1: source nosuch").count();
    assert_eq!(failures, 1, "{}", stderr(&output));
    assert_eq!(
        fs::read(folder.path().join("a")).unwrap(),
        fs::read(folder.path().join("b")).unwrap()
    );
}

#[test]
fn a_lane_that_takes_the_place_of_one_that_is_over_is_not_told_of_its_end() {
    let folder = folder();
    let server = Nbdkit::memory(1 << 20).start().unwrap();
    let lane = format!("{{\"source\":\"{}\",\"target\":\"null:\"}}\n", server.uri());
    fs::write(folder.path().join("lanes"), lane.repeat(12)).unwrap();
    for engine in ["uring", "poll"] {
        let line = format!("--lanes lanes --max-lanes 2 --engine {engine}");
        let output = copy(folder.path(), &line);
        assert_eq!(code(&output), 0, "{engine}: {}", stderr(&output));
    }
}

#[test]
fn a_reader_of_standard_output_that_goes_away_is_a_fault_of_the_target() {
    let folder = folder();
    let mut child = command(folder.path(), &["copy", "a", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert!(stderr(&output).contains("target -: "), "{}", stderr(&output));
}

#[test]
fn a_device_that_never_ends_does_not_fill_the_target() {
    let folder = folder();
    fs::write(folder.path().join("b"), "precious").unwrap();
    for device in ["/dev/zero", "/dev/urandom", "/dev/full"] {
        // One that is read after all is not to fill the disk of this machine.
        let limited = |copy: Command| process::run(copy, Duration::from_secs(10)).unwrap();
        let named = limited(command(folder.path(), &["copy", device, "b"]));
        let stdin = fs::File::open(device).unwrap();
        let mut redirected = command(folder.path(), &["copy", "-", "b"]);
        redirected.stdin(stdin);
        for (output, name) in [(named, device), (limited(redirected), "-")] {
            let text = output.stderr;
            assert_eq!(output.status.code(), Some(4), "{text}");
            let says = format!("source {name}: it is a character device");
            assert!(text.contains(&says), "{text}");
        }
    }
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"precious");
    // That one is empty, for nbdcopy too.
    assert_eq!(code(&copy(folder.path(), "/dev/null b")), 0);
    assert_eq!(fs::read(folder.path().join("b")).unwrap(), b"");
}

#[test]
fn lanes_can_come_from_standard_input() {
    use std::io::Write;
    let folder = folder();
    let mut child =
        command(folder.path(), &["copy", "--lanes", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"source\":\"a\",\"target\":\"b\"}").unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(folder.path().join("b").exists());
}

#[test]
fn too_few_open_files_for_all_lanes_is_said_and_the_lanes_take_turns() {
    let folder = folder();
    let lanes: String =
        (0..40).map(|n| format!("{{\"source\":\"a\",\"target\":\"t{n}\"}}\n")).collect();
    fs::write(folder.path().join("lanes"), lanes).unwrap();
    let limited = |limit: &str| {
        let script = format!("ulimit -n {limit}; exec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_blockferry")]);
        command.args(["copy", "-T", "1", "--lanes", "lanes"]).current_dir(folder.path());
        command.output().unwrap()
    };
    let output = limited("100");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("ulimit -n is"), "{}", stderr(&output));
    assert!(folder.path().join("t39").exists());

    let output = limited("20");
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("raise ulimit -n"), "{}", stderr(&output));
}

#[test]
fn threads_and_connections_beyond_what_is_used_or_allowed_do_not_stop_a_copy() {
    let folder = folder();
    for (limit, options, says) in [
        ("1024", "-T 1000", ""),
        ("1024", "-T 1000000000000", ""),
        ("100", "-C 64", "connections a side"),
    ] {
        let script = format!("ulimit -n {limit}; exec \"$0\" copy {options} a b");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_blockferry")]).current_dir(folder.path());
        let output = command.output().unwrap();
        let text = stderr(&output);
        assert_eq!(code(&output), 0, "{options}: {text}");
        assert!(text.contains(says) && text.lines().count() == usize::from(!says.is_empty()));
    }
}

#[test]
fn help_version_completions_and_manual_pages_are_there() {
    let folder = folder();
    let printed = |args: &[&str]| {
        let output = run(folder.path(), args);
        assert_eq!(code(&output), 0, "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(printed(&["copy", "--help"]).contains("Exit codes:"));
    assert!(printed(&["copy", "-h"]).contains("Examples:"));
    assert!(printed(&["completions", "bash"]).contains("--request-size"));
    assert!(printed(&["man", "copy"]).contains("request\\-size"));
    printed(&["man", "--dir", "pages"]);
    // A page of a command's own command is the one that --dir writes.
    for words in [vec!["hub", "serve"], vec!["points", "delete"]] {
        let page = printed(&[&["man"], &words[..]].concat());
        let file = format!("pages/blockferry-{}.1", words.join("-"));
        assert_eq!(page, fs::read_to_string(folder.path().join(file)).unwrap());
    }
    assert_eq!(code(&run(folder.path(), &["man", "hub", "dance"])), 2);
    assert!(folder.path().join("pages/blockferry-copy.1").exists());
    let long = printed(&["copy", "--long-options"]);
    for option in ["--allocated", "--target-is-zero", "--version", "--lanes"] {
        assert!(long.lines().any(|line| line == option), "{option}");
    }
    assert_eq!(printed(&["copy", "--short-options"]), "-C\n-R\n-S\n-T\n-V\n-h\n-p\n-v\n");
}

#[test]
fn a_subcommand_has_the_version_of_the_program_under_its_name() {
    let folder = folder();
    let version = concat!("blockferry ", env!("CARGO_PKG_VERSION"), "\n");
    for line in ["-V", "--version", "copy -V", "copy --version", "copy -V data", "man -V"] {
        let args: Vec<&str> = line.split(' ').collect();
        let output = run(folder.path(), &args);
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), version, "{line}");
    }
}

#[test]
fn every_option_of_nbdcopy_is_accepted_in_each_of_its_spellings() {
    let folder = folder();
    for line in [
        "--allocated a b",
        "-C 4 a b",
        "-C4 a b",
        "--connections=4 a b",
        "--conn 4 a b",
        "--destination-is-zero a b",
        "--target-is-zero a b",
        "--flush a b",
        "--fl a b",
        "--no-extents a b",
        "-p a b",
        "--progress a b",
        "--progress=1 a b",
        "--queue-size=1000000 a b",
        "--queue-size=0 a b",
        "--request-size=65536 a b",
        "-R 64 a b",
        "--requests=64 a b",
        "-S 0 a b",
        "--sparse=4096 a b",
        "--synchronous a b",
        "-T 0 a b",
        "--threads=1000 a b",
        "-v a b",
        "-pv a b",
        "--verbose --verbose -C 1 -C 2 a b",
        "a b --flush",
        "a -- b",
        "-- a b",
    ] {
        let output = copy(folder.path(), line);
        assert_eq!(code(&output), 0, "{line}: {}", stderr(&output));
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        let content = fs::read(&b).unwrap();
        assert!(content == fs::read(a).unwrap() || line.contains("is-zero"), "{line}");
        fs::remove_file(b).unwrap();
    }
}

#[test]
fn a_limit_on_memory_was_not_said_to_be_one() {
    let folder = folder();
    let mut told = 0;
    for limit in [40_000, 50_000, 70_000, 100_000, 150_000, 200_000] {
        let line = format!("ulimit -v {limit}; exec \"$0\" copy a b");
        let mut shell = Command::new("sh");
        shell.args(["-c", &line, env!("CARGO_BIN_EXE_blockferry")]).current_dir(folder.path());
        let output = shell.output().unwrap();
        let text = stderr(&output);
        // Where not even the program is loaded, it is not we who speak.
        if output.status.code() == Some(0) || !text.starts_with("blockferry: ") {
            continue;
        }
        assert!(text.contains("raise ulimit"), "{limit}: {text}");
        told += 1;
    }
    assert!(told > 0);
}

#[test]
fn a_file_of_shared_keys_was_said_to_mean_nothing_and_then_refused() {
    let folder = folder();
    let keys = folder.path().join("keys");
    fs::write(&keys, "alice:0011223344556677\n").unwrap();
    let server = Nbdkit::memory(1 << 20).arg("--tls=require");
    let server = server.arg(format!("--tls-psk={}", keys.display())).tcp().start().unwrap();
    let uri = format!("{}?tls-psk-file=keys", server.uri().replace("nbd://", "nbds://"));
    let output = copy(folder.path(), &format!("{uri} b"));
    let text = stderr(&output);
    assert!(text.contains("pre-shared keys") && !text.contains("means nothing"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("tls-psk-file")).count(), 1, "{text}");
    // Without TLS it does mean nothing.
    let output = copy(folder.path(), "nbd://127.0.0.1:1/?tls-psk-file=keys b");
    assert!(stderr(&output).contains("tls-psk-file of the URI means nothing"));
}

#[test]
fn a_request_was_longer_than_what_may_be_in_flight() {
    let folder = folder();
    for (options, longest) in [
        ("--queue-size=65536", 65536),
        ("--queue-size=70000", 65536),
        ("--queue-size=1", 4096),
        ("--queue-size=65536 --request-size=128k-1M", 65536),
        ("--queue-size=65536 --request-size=256k", 262_144),
    ] {
        let output = copy(folder.path(), &format!("--json --no-extents {options} a b"));
        assert_eq!(code(&output), 0, "{options}: {}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["lanes"][0]["request_bytes"], longest, "{options}");
    }
}
