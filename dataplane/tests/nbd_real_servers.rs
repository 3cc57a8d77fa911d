//! The codec against nbdkit and qemu-nbd.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod servers;

use std::fs;

use blockferry_dataplane::nbd::{
    ClientWishes, Command, CommandFlags, Extent, Handshake, HandshakeError, HandshakeStatus,
    NbdError, Reply, ReplyMode, Tls,
};
use servers::{Client, Folder, Server, shake_hands, wishes};

const MIB: u64 = 1 << 20;

fn without_extended_headers() -> ClientWishes {
    ClientWishes { extended_headers: false, ..wishes("") }
}

fn simple() -> ClientWishes {
    ClientWishes { structured_replies: false, ..without_extended_headers() }
}

fn pattern(length: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .take(length)
        .collect()
}

#[test]
fn qemu_nbd_opens_in_every_mode() {
    let folder = Folder::new();
    let server = Server::qemu_nbd(&folder, &["-f", "raw"], &folder.raw_image(MIB));
    for (wishes, mode) in [
        (wishes(""), ReplyMode::Extended),
        (without_extended_headers(), ReplyMode::Structured),
        (simple(), ReplyMode::Simple),
    ] {
        let client = server.open(wishes).unwrap();
        let session = &client.session;
        assert_eq!((session.mode, session.size), (mode, MIB));
        assert_eq!(session.context("base:allocation").is_some(), mode != ReplyMode::Simple);
        assert_eq!(session.flags.send_df(), mode != ReplyMode::Simple);
        assert!(session.flags.multi_conn() && session.flags.can_write_zeroes());
        assert_eq!((session.block_size.minimum, session.block_size.maximum), (1, 32 << 20));
        client.disconnect();
    }
}

#[test]
fn nbdkit_opens_with_the_best_that_it_has() {
    let folder = Folder::new();
    let server = Server::nbdkit(&folder, &["memory", "1M"]);
    let client = server.open(wishes("")).unwrap();
    assert_ne!(client.session.mode, ReplyMode::Simple);
    client.disconnect();
    let client = server.open(simple()).unwrap();
    assert_eq!(client.session.mode, ReplyMode::Simple);
    client.disconnect();
}

#[test]
fn block_sizes_of_the_server_are_told() {
    let folder = Folder::new();
    let sizes =
        ["blocksize-minimum=4096", "blocksize-preferred=65536", "blocksize-maximum=1048576"];
    let arguments = [&["--filter=blocksize-policy", "memory", "1M"][..], &sizes].concat();
    let client = Server::nbdkit(&folder, &arguments).open(wishes("")).unwrap();
    let sizes = client.session.block_size;
    assert_eq!((sizes.minimum, sizes.preferred, sizes.maximum), (4096, 65536, 1 << 20));
}

fn what_is_written_reads_back(client: &mut Client) {
    let content = pattern(300_000);
    assert_eq!(client.write(CommandFlags::NONE, 5000, &content).error, None);
    assert_eq!(client.write(CommandFlags::FUA, 500_000, b"durable").error, None);
    let flushed = client.request(Command::Flush, CommandFlags::NONE, 0, 0);
    assert_eq!(flushed.error, None);
    let read = client.read(0, MIB);
    assert_eq!(read.error, None);
    assert!(read.content[..5000].iter().all(|&byte| byte == 0));
    assert!(read.content[5000..305_000] == content);
    assert!(read.content[305_000..500_000].iter().all(|&byte| byte == 0));
    assert_eq!(&read.content[500_000..500_007], b"durable");
    assert!(read.content[500_007..].iter().all(|&byte| byte == 0));
}

#[test]
fn what_is_written_reads_back_from_qemu_nbd_in_every_mode() {
    for wishes in [wishes(""), without_extended_headers(), simple()] {
        let folder = Folder::new();
        let server = Server::qemu_nbd(&folder, &["-f", "raw"], &folder.raw_image(MIB));
        let mut client = server.open(wishes).unwrap();
        what_is_written_reads_back(&mut client);
        client.disconnect();
    }
}

#[test]
fn what_is_written_reads_back_from_nbdkit_in_every_mode() {
    for wishes in [wishes(""), without_extended_headers(), simple()] {
        let folder = Folder::new();
        let server = Server::nbdkit(&folder, &["memory", "1M"]);
        let mut client = server.open(wishes).unwrap();
        what_is_written_reads_back(&mut client);
        client.disconnect();
    }
}

#[test]
fn holes_come_as_holes_and_as_data_if_fragments_are_not_wanted() {
    let folder = Folder::new();
    let server = Server::qemu_nbd(&folder, &["-f", "raw"], &folder.raw_image(8 * MIB));
    for wishes in [wishes(""), without_extended_headers()] {
        let mut client = server.open(wishes).unwrap();
        let content = pattern(65536);
        assert_eq!(client.write(CommandFlags::NONE, MIB, &content).error, None);
        let pieces = client.read(0, 3 * MIB);
        assert!(pieces.holes > 0 && pieces.data_chunks > 0);
        let whole = client.request(Command::Read, CommandFlags::DF, 0, 3 * MIB);
        assert_eq!((whole.holes, whole.data_chunks), (0, 1));
        assert!(whole.content == pieces.content);
        assert!(whole.content[1 << 20..][..65536] == content);
        client.disconnect();
    }
}

#[test]
fn zeroes_trims_and_prefetches_are_acknowledged() {
    for wishes in [wishes(""), without_extended_headers(), simple()] {
        let folder = Folder::new();
        let arguments = ["-f", "raw", "--discard=unmap"];
        let server = Server::qemu_nbd(&folder, &arguments, &folder.raw_image(MIB));
        let mut client = server.open(wishes).unwrap();
        client.write(CommandFlags::NONE, 0, &pattern(1 << 20));
        let zeroed = client.request(Command::WriteZeroes, CommandFlags::NO_HOLE, 0, 65536);
        assert_eq!(zeroed.error, None);
        let zeroed = client.request(Command::WriteZeroes, CommandFlags::NONE, 65536, 65536);
        assert_eq!(zeroed.error, None);
        assert_eq!(client.request(Command::Trim, CommandFlags::NONE, 131_072, 65536).error, None);
        assert_eq!(client.request(Command::Cache, CommandFlags::NONE, 0, MIB).error, None);
        let read = client.read(0, MIB).content;
        assert!(read[..131_072].iter().all(|&byte| byte == 0));
        assert!(read[196_608..] == pattern(1 << 20)[196_608..]);
        client.disconnect();
    }
}

/// The flags at each place where they change, up to `length`.
fn runs(extents: &[Extent], length: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0;
    for extent in extents {
        if offset < length && runs.last().is_none_or(|&(_, flags)| flags != extent.flags) {
            runs.push((offset, extent.flags));
        }
        offset += extent.length;
    }
    runs
}

#[test]
fn allocation_is_told_in_both_shapes() {
    let folder = Folder::new();
    let server = Server::qemu_nbd(&folder, &["-f", "raw"], &folder.raw_image(8 * MIB));
    for wishes in [wishes(""), without_extended_headers()] {
        let mut client = server.open(wishes).unwrap();
        client.write(CommandFlags::NONE, MIB, &pattern(65536));
        let status = client.request(Command::BlockStatus, CommandFlags::NONE, 0, 8 * MIB);
        assert_eq!(status.error, None);
        let context = client.session.context("base:allocation").unwrap();
        let expected = [(0, 3), (MIB, 0), (MIB + 65536, 3)];
        assert_eq!(runs(&status.extents[&context], 8 * MIB), expected);
        let first = client.request(Command::BlockStatus, CommandFlags::REQ_ONE, 0, 8 * MIB);
        assert_eq!(first.extents[&context].len(), 1);
        assert!(first.extents[&context][0].is_zero());
        client.disconnect();
    }
}

#[test]
fn dirty_bitmaps_and_allocation_depth_are_told() {
    let folder = Folder::new();
    folder.qemu_img(&["create", "-q", "-f", "qcow2", "disk.qcow2", "8M"]);
    folder.qemu_img(&["bitmap", "--add", "disk.qcow2", "x"]);
    let image = folder.path("disk.qcow2");
    let server = Server::qemu_nbd(&folder, &["-f", "qcow2"], &image);
    let mut client = server.open(wishes("")).unwrap();
    assert_eq!(client.write(CommandFlags::NONE, 2 * MIB, &pattern(65536)).error, None);
    client.request(Command::Flush, CommandFlags::NONE, 0, 0);
    client.disconnect();
    server.stop();
    fs::remove_file(folder.path("qemu-nbd.sock")).unwrap_or_default();

    let server = Server::qemu_nbd(&folder, &["-r", "-f", "qcow2", "-B", "x", "-A"], &image);
    let names = ["base:allocation", "qemu:dirty-bitmap:x", "qemu:allocation-depth"];
    let contexts = names.map(str::to_owned).to_vec();
    for extended_headers in [true, false] {
        let wishes = ClientWishes { extended_headers, contexts: contexts.clone(), ..wishes("") };
        let mut client = server.open(wishes).unwrap();
        assert!(client.session.flags.read_only() && !client.session.flags.can_trim());
        let status = client.request(Command::BlockStatus, CommandFlags::NONE, 0, 8 * MIB);
        let found = names.map(|name| {
            let context = client.session.context(name).unwrap();
            runs(&status.extents[&context], 8 * MIB)
        });
        let expected = [[3, 0, 3], [0, 1, 0], [0, 1, 0]];
        for (runs, flags) in found.iter().zip(expected) {
            let places = [0, 2 * MIB, 2 * MIB + 65536];
            assert_eq!(*runs, places.into_iter().zip(flags).collect::<Vec<_>>());
        }
        client.disconnect();
    }
}

fn names(server: &Server) -> Vec<String> {
    let status = shake_hands(&mut server.connect(), Handshake::list(Tls::Never)).unwrap();
    let HandshakeStatus::Listed(exports) = status else { panic!("{status:?}") };
    exports.into_iter().map(|export| export.name).collect()
}

#[test]
fn exports_are_listed() {
    let folder = Folder::new();
    let arguments = ["-f", "raw", "-x", "disk of vm 1", "-D", "a description"];
    let server = Server::qemu_nbd(&folder, &arguments, &folder.raw_image(MIB));
    let status = shake_hands(&mut server.connect(), Handshake::list(Tls::Never)).unwrap();
    let HandshakeStatus::Listed(exports) = status else { panic!("{status:?}") };
    assert_eq!(exports.len(), 1);
    assert_eq!(exports[0].name, "disk of vm 1");
    assert_eq!(exports[0].description, "a description");
    assert_eq!(names(&Server::nbdkit(&folder, &["memory", "1M"])), [""]);
}

#[test]
fn an_unknown_export_is_told_from_other_refusals() {
    let folder = Folder::new();
    let server = Server::qemu_nbd(&folder, &["-f", "raw", "-x", "a"], &folder.raw_image(MIB));
    let error = server.open(wishes("b")).err().unwrap();
    assert!(matches!(error, HandshakeError::UnknownExport { .. }), "{error}");
    server.open(wishes("a")).unwrap().disconnect();
}

#[test]
fn errors_are_told_and_the_connection_goes_on() {
    let folder = Folder::new();
    let server = Server::qemu_nbd(&folder, &["-r", "-f", "raw"], &folder.raw_image(MIB));
    for wishes in [wishes(""), without_extended_headers(), simple()] {
        let mut client = server.open(wishes).unwrap();
        assert_eq!(client.read(MIB, 4096).error, Some(NbdError::Inval));
        let refused = client.write(CommandFlags::NONE, 0, &pattern(4096));
        // qemu-nbd 10 has no number for a read-only export; its words tell, where words can be sent.
        assert_eq!(refused.error, Some(NbdError::Inval));
        if client.session.mode != ReplyMode::Simple {
            assert_eq!(refused.message, "Export is read-only");
        }
        assert_eq!(client.read(0, 4096).error, None);
        client.disconnect();
    }
}

#[test]
fn errors_of_a_source_are_told() {
    let folder = Folder::new();
    let arguments = ["--filter=error", "memory", "1M", "error-pread=EIO", "error-pread-rate=100%"];
    let server = Server::nbdkit(&folder, &arguments);
    for wishes in [wishes(""), without_extended_headers(), simple()] {
        let mut client = server.open(wishes).unwrap();
        assert_eq!(client.read(0, 65536).error, Some(NbdError::Io));
        client.disconnect();
    }
}

#[test]
fn many_acknowledgements_come_with_few_receives() {
    let folder = Folder::new();
    let server = Server::qemu_nbd(&folder, &["-f", "raw"], &folder.raw_image(MIB));
    for wishes in [wishes(""), without_extended_headers(), simple()] {
        let mut client = server.open(wishes).unwrap();
        client.reader.set_acks_only(true);
        let mut cookies: Vec<u64> = (0..100)
            .map(|number| {
                client.send(Command::Write, CommandFlags::NONE, number * 512, 512, &pattern(512))
            })
            .collect();
        while !cookies.is_empty() {
            let acknowledged = match client.reader.next().unwrap() {
                Some(Reply::Simple { cookie, error: None } | Reply::Done { cookie }) => cookie,
                Some(other) => panic!("{other:?}"),
                None => {
                    use std::io::Read;
                    let Client { stream, reader, .. } = &mut client;
                    let count = stream.read(reader.free()).unwrap();
                    reader.filled(count);
                    continue;
                }
            };
            let place = cookies.iter().position(|&cookie| cookie == acknowledged).unwrap();
            cookies.swap_remove(place);
        }
        client.reader.set_acks_only(false);
        assert!(client.read(0, 512).content == pattern(512));
        client.disconnect();
    }
}

#[test]
fn a_server_without_tls_refuses_it() {
    let folder = Folder::new();
    let qemu = Server::qemu_nbd(&folder, &["-f", "raw"], &folder.raw_image(MIB));
    let nbdkit = Server::nbdkit(&folder, &["memory", "1M"]);
    for server in [qemu, nbdkit] {
        let error = server.open(ClientWishes { tls: Tls::Require, ..wishes("") }).err().unwrap();
        assert!(matches!(error, HandshakeError::TlsRefused { .. }), "{error}");
    }
}

#[test]
fn a_server_that_insists_on_tls_is_recognised_and_acknowledges_it() {
    let folder = Folder::new();
    let keys = folder.path("keys.psk");
    fs::write(&keys, "alice:00112233445566778899aabbccddeeff\n").unwrap();
    let keys = format!("--tls-psk={}", keys.display());
    let server = Server::nbdkit(&folder, &["--tls=require", &keys, "memory", "1M"]);
    let error = server.open(wishes("")).err().unwrap();
    assert!(matches!(error, HandshakeError::TlsRequired { .. }), "{error}");
    let secure = Handshake::open(ClientWishes { tls: Tls::Require, ..wishes("") });
    assert_eq!(shake_hands(&mut server.connect(), secure), Ok(HandshakeStatus::StartTls));
}

#[test]
fn an_oldstyle_server_is_recognised() {
    let folder = Folder::new();
    let server = Server::nbdkit(&folder, &["--oldstyle", "memory", "1M"]);
    assert_eq!(server.open(wishes("")).err(), Some(HandshakeError::OldStyle));
}
