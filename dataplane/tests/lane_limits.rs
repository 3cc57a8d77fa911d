//! Machines that give little: no io_uring, few descriptors, small pipes, little locked memory.
//!
//! Each test starts this program again, for limits hold for a whole process and for good.

// A test fails by unwrapping, in its supporting functions too.
#![allow(clippy::unwrap_used)]

mod lanes;

use std::os::unix::process::CommandExt;
use std::process::Command;

use blockferry_dataplane::{
    EngineChoice, EngineKind, Fault, Lane, LaneSettings, Mover, MoverSettings, PayloadChoice,
};
use blockferry_doubles::process::{Output, run};
use blockferry_doubles::{Hostile, HostileServer};
use lanes::{HANG, Way, assert_same, dense, nbd};

const SIZE: usize = 3 << 20;

fn servers(count: usize) -> Vec<(HostileServer, HostileServer)> {
    let source = || Hostile::builder().content(&dense(SIZE, 71)).start().unwrap();
    let target = || Hostile::builder().size(SIZE as u64).start().unwrap();
    (0..count).map(|_| (source(), target())).collect()
}

/// The same for a client that is not root and cannot enter root's folders.
fn tcp_servers(count: usize) -> Vec<(HostileServer, HostileServer)> {
    let source = || Hostile::builder().content(&dense(SIZE, 71)).tcp();
    let target = || Hostile::builder().size(SIZE as u64).tcp();
    let start = |_| (source().start().unwrap(), target().start().unwrap());
    (0..count).map(start).collect()
}

/// Runs [`moves_in_a_process_of_its_own`] after `limit` has set its limits.
fn limited(
    servers: &[(HostileServer, HostileServer)],
    engine: &str,
    limit: impl Fn() -> std::io::Result<()> + Send + Sync + 'static,
) -> Output {
    let mut command: Command = lanes::this_test("moves_in_a_process_of_its_own");
    let uris: Vec<String> = servers
        .iter()
        .map(|(source, target)| format!("{} {}", source.uri(), target.uri()))
        .collect();
    command.env("MOVE_LANES", uris.join("\n")).env("MOVE_ENGINE", engine);
    let start = move || {
        // What this process was left by others must not count among the few that are allowed.
        // SAFETY: it marks descriptors to be closed, and touches no memory.
        let marked = unsafe {
            libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed())
        };
        if marked != 0 {
            return Err(std::io::Error::last_os_error());
        }
        limit()
    };
    // SAFETY: the limits are set by system calls alone, which are async-signal-safe.
    unsafe { command.pre_exec(start) };
    let output = run(command, HANG).unwrap();
    eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), output.stderr);
    output
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), output.stderr)
}

/// Not a test: the process that is limited. It prints what the engine is and how each lane ended.
#[test]
#[ignore = "run by other tests"]
fn moves_in_a_process_of_its_own() {
    let Ok(uris) = std::env::var("MOVE_LANES") else {
        return;
    };
    let engine: EngineChoice = std::env::var("MOVE_ENGINE").unwrap().parse().unwrap();
    let settings = LaneSettings {
        deadline: lanes::DEADLINE * 4,
        ..lanes::settings(Way { engine, payload: PayloadChoice::Auto })
    };
    let lanes = uris.lines().map(|line| {
        let (source, target) = line.split_once(' ').unwrap();
        Lane::new(nbd(source), nbd(target)).with_settings(settings.clone())
    });
    let mover = MoverSettings { engine, threads: Some(2), ..MoverSettings::default() };
    let running = match Mover::new(mover).start(lanes.collect()) {
        Ok(running) => running,
        Err(fault) => return println!("not started: {fault}"),
    };
    assert!(running.wait_for(HANG));
    let report = running.wait();
    println!("engine {} because {}", report.engine, report.engine_reason);
    for (index, lane) in report.lanes.iter().enumerate() {
        match &lane.outcome {
            Ok(()) => println!("lane {index} done by {:?}", lane.payload),
            Err(fault) => println!(
                "lane {index} failed: {fault} local {}",
                matches!(fault, Fault::Local { .. })
            ),
        }
    }
}

/// Answers EPERM to io_uring_setup, as a container's seccomp profile does.
fn forbid_io_uring() -> std::io::Result<()> {
    let load = |offset: u32| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: offset };
    let give = |value: u32| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value };
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap_or(425);
    let mut program = [
        load(0),
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: number },
        give(libc::SECCOMP_RET_ERRNO | 1),
        give(libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: both calls read their arguments only while they run, and `filter` outlives them.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
    };
    if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn set_limit(resource: libc::__rlimit_resource_t, value: u64) -> std::io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the call reads `limit` only while it runs.
    if unsafe { libc::setrlimit(resource, &raw const limit) } == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Gives up root and with it every privilege over limits.
fn become_nobody() -> std::io::Result<()> {
    // SAFETY: no arguments by reference.
    let refused = unsafe {
        libc::setgroups(0, std::ptr::null()) != 0
            || libc::setgid(65_534) != 0
            || libc::setuid(65_534) != 0
    };
    if refused { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn assert_all_arrived(servers: &[(HostileServer, HostileServer)]) {
    for (_, target) in servers {
        assert_same(&dense(SIZE, 71), &target.content());
    }
}

#[test]
fn without_io_uring_auto_takes_readiness_and_says_why() {
    let servers = servers(2);
    let words = said(&limited(&servers, "auto", forbid_io_uring));
    assert!(
        words.contains(&format!("engine {} because io_uring is forbidden here", EngineKind::Poll)),
        "{words}"
    );
    assert_all_arrived(&servers);
}

#[test]
fn without_io_uring_the_ring_that_was_asked_for_is_an_error_with_advice() {
    let words = said(&limited(&servers(1), "uring", forbid_io_uring));
    assert!(
        words.contains("not started: cannot use the engine: io_uring is forbidden here"),
        "{words}"
    );
    assert!(words.contains("--engine auto or poll"), "{words}");
}

#[test]
fn little_locked_memory_is_enough_or_its_lack_is_told() {
    for kibibytes in [64, 24, 0] {
        let servers = tcp_servers(3);
        let words = said(&limited(&servers, "auto", move || {
            if is_root() {
                // Root may lock what it likes.
                become_nobody()?;
            }
            set_limit(libc::RLIMIT_MEMLOCK, kibibytes << 10)
        }));
        for lane in 0..3 {
            assert!(words.contains(&format!("lane {lane} done")), "{words}");
        }
        if words.contains("engine poll") || words.contains("threads use readiness") {
            assert!(words.contains("ulimit -l"), "{words}");
        }
        assert_all_arrived(&servers);
    }
}

#[test]
fn too_few_descriptors_fail_some_lanes_with_advice_and_no_other() {
    for engine in ["uring", "poll"] {
        let servers = servers(12);
        let words = said(&limited(&servers, engine, || set_limit(libc::RLIMIT_NOFILE, 40)));
        let done: Vec<usize> =
            (0..12).filter(|lane| words.contains(&format!("lane {lane} done"))).collect();
        assert!(!done.is_empty(), "{words}");
        for lane in words.lines().filter(|line| line.contains(" failed: ")) {
            assert!(lane.contains("ulimit -n") && lane.contains("local true"), "{lane}");
        }
        for lane in done {
            assert_same(&dense(SIZE, 71), &servers[lane].1.content());
        }
    }
}

#[test]
fn hardly_any_descriptor_is_an_error_and_no_hang() {
    for engine in ["auto", "uring", "poll"] {
        for limit in [4, 6, 8, 10, 12] {
            let servers = servers(3);
            let words =
                said(&limited(&servers, engine, move || set_limit(libc::RLIMIT_NOFILE, limit)));
            let ends = words.lines().filter(|line| line.starts_with("lane ")).count();
            assert!(ends == 3 || words.contains("not started"), "{limit}: {words}");
        }
    }
}

#[test]
fn small_pipes_carry_the_payload_too() {
    if !is_root() {
        return; // the limit on pipes holds for ordinary users, and only root can become one
    }
    let servers = tcp_servers(2);
    for engine in ["uring", "poll"] {
        let words = said(&limited(&servers, engine, || {
            become_nobody()?;
            // Uses the allowance up: 64 MiB of pipes, which stay open behind the exec.
            for _ in 0..80 {
                let mut ends = [0; 2];
                // SAFETY: `ends` has room for both descriptors; the size is a plain number.
                unsafe {
                    if libc::pipe(ends.as_mut_ptr()) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                    libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 1 << 20);
                }
            }
            Ok(())
        }));
        assert!(
            words.contains("lane 0 done by Some((Splice") && words.contains("lane 1 done"),
            "{words}"
        );
        assert_all_arrived(&servers);
        assert!(servers[0].0.violations().is_empty());
    }
}
