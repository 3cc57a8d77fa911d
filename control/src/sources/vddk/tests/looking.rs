//! What disks will be served with, looked at before anything is done.

use super::*;

/// What is wrong, in one line with these words; it is the settings, and nothing was made.
fn refusal(bench: &Bench, words: &[&str]) -> SourceError {
    let error = VddkSource::check(&bench.settings).unwrap_err();
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(error.is_wrong_request() && !text.contains('\n'), "{error:?}");
    assert!(!bench.settings.runtime.exists(), "{:?}", bench.left());
    error
}

#[test]
fn a_plugin_with_its_library_and_parameters_that_it_knows_will_do() {
    let mut bench = Bench::new();
    bench.settings.extra = vec!["nfchostport=902".parse().unwrap()];
    VddkSource::check(&bench.settings).unwrap();
    assert!(!bench.settings.runtime.exists());
}

#[test]
fn a_plugin_that_does_not_load_is_told_from_one_that_is_none_for_such_disks() {
    let mut bench = Bench::new();
    let text = bench.folder.path().join("text.so");
    fs::write(&text, "no plugin").unwrap();
    for plugin in ["no-such-vddk", text.to_str().unwrap()] {
        bench.settings.plugin = plugin.into();
        let error = refusal(&bench, &["cannot load its plugin", plugin, "install it"]);
        assert!(matches!(error, SourceError::PluginMissing { .. }), "{error:?}");
    }
    for plugin in ["memory", "file", "null"] {
        bench.settings.plugin = plugin.into();
        let error = refusal(&bench, &[plugin, "not one for VMware's disks", "unknown parameter"]);
        assert!(matches!(error, SourceError::OtherPlugin { .. }), "{error:?}");
    }
}

#[test]
fn a_plugin_that_does_not_come_to_an_end_is_not_waited_for_longer_than_the_deadline() {
    let mut bench = Bench::new();
    bench.script("[ \"$1\" != --version ] || exec nbdkit --version\nexec sleep 60");
    bench.settings.start_deadline = Duration::from_millis(300);
    let begun = Instant::now();
    refusal(&bench, &["cannot load its plugin", "it does not end within 300ms"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn a_further_parameter_that_the_plugin_does_not_take_is_named() {
    let mut bench = Bench::new();
    for (parameter, words) in [
        ("bogus=hunter2", ["further parameter bogus", "unknown parameter 'bogus'"]),
        ("port=first", ["further parameter port", "port: "]),
    ] {
        bench.settings.extra = vec![parameter.parse().unwrap()];
        let error = refusal(&bench, &words);
        assert!(matches!(error, SourceError::ParameterRefused { .. }), "{error:?}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn a_folder_without_the_library_is_found_and_so_is_one_that_is_not_there() {
    let mut bench = Bench::new();
    let empty = bench.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let nowhere = bench.folder.path().join("nowhere");
    let file = bench.vcenter.folder().join("lib64/libvixDiskLib.so.8");
    for (libdir, why) in [
        (Some(empty), "it has no lib64/libvixDiskLib.so"),
        (Some(nowhere), "No such file or directory"),
        (Some(file), "not a directory"),
        (None, "/usr/lib/vmware-vix-disklib: it has no lib64/libvixDiskLib.so"),
    ] {
        let shown = libdir.as_ref().map(|libdir| libdir.display().to_string());
        bench.settings.libdir = libdir;
        let error = refusal(&bench, &[why, "set libdir", &shown.unwrap_or_default()]);
        assert!(matches!(error, SourceError::LibraryMissing { .. }), "{error:?}");
    }
}

#[test]
fn a_library_in_the_folder_itself_will_do_where_the_plugin_does_not_tell_that_it_loaded_it() {
    let bench = Bench::new();
    let lib64 = bench.vcenter.folder().join("lib64");
    fs::remove_dir_all(&lib64).unwrap();
    refusal(&bench, &["it has no lib64/libvixDiskLib.so"]);
    fs::write(bench.vcenter.folder().join("libvixDiskLib.so.7"), "").unwrap();
    VddkSource::check(&bench.settings).unwrap();
}

#[test]
fn a_runtime_folder_that_is_too_deep_is_not_made() {
    let mut bench = Bench::new();
    bench.settings.runtime = bench.folder.path().join("x".repeat(90));
    let error = refusal(&bench, &["107 are possible"]);
    assert!(matches!(error, SourceError::SocketPath { .. }), "{error:?}");
}
