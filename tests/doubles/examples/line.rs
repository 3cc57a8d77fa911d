//! A line that is slow or long, in front of any TCP server, for measuring by hand.
//!
//! ```text
//! cargo run --release -p blockferry-doubles --example line -- 127.0.0.1:10022 25 1000
//! ```
//!
//! leads there with 25 ms each way and 1,000 Mbit/s in each direction of each connection, prints
//! where it listens, and ends with its standard input.

use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Duration;

use blockferry_doubles::{Address, Proxy};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((server, delay, megabits)) = parsed(&words) else {
        eprintln!("usage: line ADDRESS:PORT MILLISECONDS MEGABITS");
        return ExitCode::from(2);
    };
    let line = Proxy::to(&server).delay(delay).bytes_per_second(megabits * 1_000_000 / 8);
    let started = line.start().and_then(|proxy| {
        println!("{}", proxy.address());
        io::stdin().read_to_end(&mut Vec::new())
    });
    match started {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn parsed(words: &[String]) -> Option<(Address, Duration, u64)> {
    let [server, delay, megabits] = words else { return None };
    let delay = Duration::from_millis(delay.parse().ok()?);
    Some((Address::Tcp(server.parse().ok()?), delay, megabits.parse().ok()?))
}
