//! How an export is tuned to its file system and to the number of others.

use std::fs;

use super::*;

#[test]
fn an_export_goes_past_the_cache_where_the_file_system_takes_it() {
    let bench = Bench::new();
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    let direct = fs::read_dir(format!("/proc/{}/fdinfo", export.pid())).unwrap().any(|entry| {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
        // O_DIRECT and O_RDWR of Linux on x86-64, in octal.
        flags
            .is_some_and(|flags| u32::from_str_radix(flags.trim(), 8).unwrap() & 0o40002 == 0o40002)
    });
    assert_eq!(direct, export.cache() == CacheMode::Direct);
    assert_eq!(
        export.cache() == CacheMode::Direct,
        bench.settings.cache.refusal(export.image()).is_none()
    );
    export.end().unwrap();
}

#[test]
fn a_file_system_that_refuses_direct_access_is_remembered_with_its_words() {
    let mut bench = Bench::new();
    bench.script(
        "echo x >> \"${0%/*}/tries\"\ncase \" $* \" in\n*--cache=none*) \
         echo 'qemu-nbd: file system does not support O_DIRECT' >&2; exit 1;;\nesac\n\
         exec qemu-nbd \"$@\"",
    );
    for name in ["a", "b"] {
        let image = bench.image(name);
        let export = bench.start(&image, ExportAccess::Writable).unwrap();
        assert_eq!(export.cache(), CacheMode::Writeback);
        let why = bench.settings.cache.refusal(&image).unwrap();
        assert!(why.contains("does not support O_DIRECT"), "{why}");
        export.end().unwrap();
    }
    // Two for the first image, one for the second.
    assert_eq!(fs::read_to_string(bench.path("tries")).unwrap().lines().count(), 3);
}

#[test]
fn an_image_that_cannot_be_exported_is_not_held_against_its_file_system() {
    let bench = Bench::new();
    let image = bench.path("junk");
    fs::write(&image, "no image at all").unwrap();
    let error = bench.start(&image, ExportAccess::Writable).unwrap_err();
    assert!(error.to_string().contains("not in qcow2 format"), "{error}");
    assert_eq!(bench.settings.cache.refusal(&image), None);
}

#[test]
fn an_export_has_the_heap_that_its_number_allows() {
    let bench = Bench::new();
    let export = bench.start(&bench.image("a"), ExportAccess::Writable).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", export.pid())).unwrap();
    let heap = heap::Heap::shared(bench.settings.heap_bytes, 4, 1);
    let wanted = format!("MALLOC_MMAP_THRESHOLD_={}", heap.map_threshold);
    assert!(environment.split(|byte| *byte == 0).any(|word| word == wanted.as_bytes()));
    export.end().unwrap();
}
