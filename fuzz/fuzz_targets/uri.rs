//! Any text: what parses must be the same after it was written and parsed again.
#![no_main]

use blockferry_dataplane::nbd::NbdUri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match text.parse::<NbdUri>() {
        Ok(mut uri) => {
            uri.ignored.clear();
            let written = uri.to_string();
            let again: NbdUri = written.parse().expect("the canonical form parses");
            assert_eq!(again, uri, "{written}");
            assert_eq!(again.to_string(), written);
        }
        Err(error) => assert!(!error.to_string().contains('\n')),
    }
});
