//! Leases and releases ports of a running hub from many clients, and prints how long that took:
//! `hub_load ADDRESS TOKEN [CLIENTS [ROUNDS [PAUSE_MS]]]`.

#![forbid(unsafe_code)]

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use blockferry_doubles::HttpClient;
use serde_json::Value;

/// Time of a lease, and of its release.
type Round = (Duration, Duration);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(Ok(address)), Some(token)) = (args.first().map(|a| a.parse()), args.get(1)) else {
        eprintln!("usage: hub_load ADDRESS TOKEN [CLIENTS [ROUNDS [PAUSE_MS]]]");
        return ExitCode::from(2);
    };
    let number = |at: usize, default| args.get(at).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (clients, rounds, pause) = (number(2, 64), number(3, 100), number(4, 0));
    let start = Barrier::new(clients);
    let started = Instant::now();
    let results: Vec<Result<Vec<Round>, String>> = thread::scope(|scope| {
        let running: Vec<_> = (0..clients)
            .map(|client| {
                let (start, pause) = (&start, Duration::from_millis(pause as u64));
                scope.spawn(move || {
                    start.wait();
                    client_rounds(address, token, client, rounds, pause)
                        .map_err(|error| error.to_string())
                })
            })
            .collect();
        let ended = running.into_iter();
        ended.map(|thread| thread.join().unwrap_or_else(|_| Err("panicked".to_owned()))).collect()
    });
    let elapsed = started.elapsed().as_secs_f64();
    let mut all = Vec::new();
    for result in results {
        match result {
            Ok(rounds) => all.extend(rounds),
            Err(error) => {
                eprintln!("hub_load: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{clients} clients, {rounds} rounds each, pause {pause} ms: {elapsed:.2} s");
    let pairs = all.len() as f64 / elapsed;
    println!("{pairs:.0} leases and releases a second");
    print("lease", all.iter().map(|(lease, _)| *lease));
    print("release", all.iter().map(|(_, release)| *release));
    print("both", all.iter().map(|(lease, release)| *lease + *release));
    ExitCode::SUCCESS
}

fn client_rounds(
    address: SocketAddr,
    token: &str,
    client: usize,
    rounds: usize,
    pause: Duration,
) -> Result<Vec<Round>, Box<dyn Error>> {
    let mut connection = HttpClient::connect(address)?.with_token(token);
    let job = format!("load-{client}");
    let body = format!("{{\"job_id\": \"{job}\", \"vm\": \"load\", \"disk\": \"root\"}}");
    let mut times = Vec::with_capacity(rounds);
    // Not all at the same instant, where they pause.
    thread::sleep(pause * u32::try_from(client % 64)? / 64);
    for _ in 0..rounds {
        let started = Instant::now();
        let answer = connection.ask("POST", "/api/v1/nbd/ports/allocate", Some(&body))?;
        let leased = started.elapsed();
        if answer.status != 200 {
            return Err(answer.body.into());
        }
        let lease: Value = serde_json::from_str(&answer.body)?;
        let path = format!("/api/v1/nbd/ports/{}?job_id={job}", lease["port"]);
        let started = Instant::now();
        let answer = connection.ask("DELETE", &path, None)?;
        times.push((leased, started.elapsed()));
        if answer.status != 200 {
            return Err(answer.body.into());
        }
        thread::sleep(pause);
    }
    Ok(times)
}

fn print(what: &str, times: impl Iterator<Item = Duration>) {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{what:<8} median {:7.2} ms, p90 {:7.2}, p99 {:7.2}, most {:7.2}",
        millis(at(500)),
        millis(at(900)),
        millis(at(990)),
        millis(at(1000))
    );
}
