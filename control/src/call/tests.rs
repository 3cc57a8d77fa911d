//! Calls over lines that are slow, and that stand still.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use super::*;

/// What a call may stand still here.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of the body; so many in all, more than a socket keeps.
const BODY_BYTES: usize = 8 << 20;
const STEP_BYTES: usize = 256 << 10;

/// Somebody who takes a body a step at a time, each when `paces` has a word for it, and answers then.
#[derive(Debug)]
struct Slow {
    paces: std::sync::Mutex<Option<mpsc::Receiver<()>>>,
}

impl Opens for Slow {
    fn open(&self, _deadline: Duration) -> Result<UnixStream, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        let paces = self.paces.lock().unwrap().take().ok_or("it was called before")?;
        thread::spawn(move || {
            let mut body = BufReader::new(&theirs);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                body.read_line(&mut head).unwrap();
            }
            let mut left = BODY_BYTES;
            for () in paces {
                let mut step = vec![0; STEP_BYTES.min(left)];
                body.read_exact(&mut step).unwrap();
                left -= step.len();
                if left == 0 {
                    break;
                }
            }
            if left == 0 {
                (&theirs).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap();
            }
        });
        Ok(ours)
    }
}

/// A call with a body of a file, which is taken at the pace of what is sent to the second.
fn called() -> (thread::JoinHandle<Result<serde_json::Value, CallError>>, mpsc::Sender<()>) {
    let (pace, paces) = mpsc::channel();
    let slow = Slow { paces: std::sync::Mutex::new(Some(paces)) };
    let callee = Callee {
        way: Way::Opened(Arc::new(slow)),
        authority: "slow".into(),
        prefix: String::new(),
        authorization: None,
        patience: PATIENCE,
    };
    let call = thread::spawn(move || {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; BODY_BYTES]).unwrap();
        callee.ask(&|| false, Method::PUT, "/slow", Sent::File(file.path()))
    });
    (call, pace)
}

#[test]
fn a_body_that_takes_longer_than_an_answer_may_arrives_as_long_as_it_moves() {
    let begun = Instant::now();
    let (call, pace) = called();
    for _ in 0..BODY_BYTES / STEP_BYTES {
        thread::sleep(PATIENCE / 10);
        pace.send(()).unwrap();
    }
    assert_eq!(call.join().unwrap().unwrap(), serde_json::json!({}));
    assert!(begun.elapsed() > PATIENCE * 3);
}

#[test]
fn a_body_that_nobody_takes_is_given_up() {
    let (call, pace) = called();
    pace.send(()).unwrap();
    let error = call.join().unwrap().unwrap_err();
    assert!(matches!(&error, CallError::Unreachable(why) if why == "no answer within 1 s"));
    drop(pace);
}

#[test]
fn an_attempt_that_comes_no_farther_than_the_one_before_gains_nothing() {
    let motion = Motion::new();
    motion.begin();
    motion.pass(10);
    thread::sleep(Duration::from_millis(20));
    motion.begin();
    motion.pass(10);
    let (stands, gains_nothing) = (motion.stands_for(), motion.gains_nothing_for());
    assert!(gains_nothing >= Duration::from_millis(20) && stands < gains_nothing);
    motion.pass(1);
    assert!(motion.gains_nothing_for() < gains_nothing);
}
