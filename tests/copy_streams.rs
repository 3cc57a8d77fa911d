//! Standard streams that are closed, or lead the wrong way.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod blockferry;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use blockferry::{code, folder, stderr};

/// Runs a line of a shell in which `$0` is the program.
fn shell(folder: &Path, line: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", line, env!("CARGO_BIN_EXE_blockferry")]).current_dir(folder);
    shell.output().unwrap()
}

#[test]
fn a_closed_standard_input_emptied_the_target_with_code_0() {
    let folder = folder();
    fs::write(folder.path().join("out"), "precious").unwrap();
    for (line, expected, says) in [
        ("\"$0\" copy - out <&-", 2, "SOURCE - reads standard input, which is closed"),
        ("\"$0\" copy --lanes - <&-", 2, "--lanes - reads standard input, which is closed"),
        ("\"$0\" copy - out 0>other", 4, "source -: it is open for writing only"),
    ] {
        let output = shell(folder.path(), line);
        let text = stderr(&output);
        assert_eq!(code(&output), expected, "{line}: {text}");
        assert!(text.contains(says) && text.lines().count() == 1, "{line}: {text}");
        assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"precious", "{line}");
    }
}

#[test]
fn what_went_to_a_closed_standard_output_was_thrown_away_with_code_0() {
    let folder = folder();
    fs::write(folder.path().join("out"), "precious").unwrap();
    for (line, expected, says) in [
        ("\"$0\" copy a - >&-", 2, "TARGET - writes to standard output, which is closed"),
        ("\"$0\" copy --json a out >&-", 2, "--json prints to standard output, which is closed"),
        ("\"$0\" copy a - 1<out", 5, "target -: it is open for reading only"),
    ] {
        let output = shell(folder.path(), line);
        let text = stderr(&output);
        assert_eq!(code(&output), expected, "{line}: {text}");
        assert!(text.contains(says), "{line}: {text}");
        assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"precious", "{line}");
    }
}

#[test]
fn a_copy_that_needs_no_standard_stream_does_without_them() {
    let folder = folder();
    for line in [
        "\"$0\" copy a out <&- >&- 2>&-",
        "\"$0\" copy - out <a >&- 2>&-",
        "\"$0\" copy a - <&- >out 2>&-",
        "\"$0\" copy -v --progress=1 a out <&- >&- 2>&-",
    ] {
        fs::write(folder.path().join("out"), "x").unwrap();
        assert_eq!(code(&shell(folder.path(), line)), 0, "{line}");
        let (source, copy) = (folder.path().join("a"), folder.path().join("out"));
        assert!(fs::read(source).unwrap() == fs::read(copy).unwrap(), "{line}");
    }
    // Nothing is what /dev/null has, whoever opened it in whatever way.
    let output = shell(folder.path(), "\"$0\" copy - out 0<>/dev/null");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"");
}
