//! How long the program takes for its own part.

use std::io::{BufRead, BufReader};
use std::thread;
use std::time::{Duration, Instant};

use super::{PATIENCE, Stage};

/// From the last acknowledged FLUSH to the request that the snapshot be removed.
const REMOVAL: Duration = Duration::from_secs(1);
/// From the start of the process to the first block in the repository, without the server's own
/// time: 300 ms of a program that is built for use.
const FIRST_BLOCK: Duration =
    Duration::from_millis(if cfg!(debug_assertions) { 1500 } else { 300 });

#[test]
fn a_backup_moves_its_first_block_soon_and_asks_for_the_removal_right_after_the_flush() {
    let stage = Stage::new();
    for round in 0..3 {
        stage.place.vsphere.clear_calls();
        let began = Instant::now();
        let mut child = stage.start("--mode full -v");
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let flushed = thread::spawn(move || {
            let flushed = |line: &String| line.ends_with("copied and flushed");
            lines.map_while(Result::ok).filter(flushed).map(|_| Instant::now()).last()
        });
        while !stage.has_data() {
            assert!(began.elapsed() < PATIENCE, "no data comes");
            thread::sleep(Duration::from_micros(500));
        }
        let first = Instant::now();
        assert!(child.wait_with_output().unwrap().status.success());
        let own = stage.place.vsphere.own_time(began, first);
        let first = first - began - own;
        let flushed = flushed.join().unwrap().expect("it says when all is flushed");
        let calls = stage.place.vsphere.calls();
        let removal = calls.iter().find(|call| call.method == "RemoveSnapshot_Task").unwrap();
        // The line may be read after the call.
        println!("line read {:?} after the call", flushed.checked_duration_since(removal.asked));
        let removal = removal.asked.saturating_duration_since(flushed);
        println!(
            "round {round}: first block {first:?} (and the server {own:?}), removal {removal:?}"
        );
        assert!(removal <= REMOVAL, "{removal:?}");
        assert!(first <= FIRST_BLOCK, "{first:?}");
    }
    stage.assert_tidy();
}
