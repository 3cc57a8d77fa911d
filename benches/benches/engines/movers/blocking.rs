//! Blocking system calls, a thread for each lane: the shape of the simplest program.

use std::io;
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::pipe::{SpliceFlags, splice};

use super::{Payload, Pipe};
use crate::lane::{ACKS, Acks, Block, Job, Progress, REPLY, broken};

pub(super) fn run(job: &Job, payload: Payload) -> io::Result<()> {
    std::thread::scope(|scope| {
        let lanes: Vec<_> =
            (0..job.lanes).map(|_| scope.spawn(move || lane(job, payload))).collect();
        for lane in lanes {
            lane.join().map_err(|_| broken("a lane panicked"))??;
        }
        Ok(())
    })
}

fn lane(job: &Job, payload: Payload) -> io::Result<()> {
    let (source, target) = job.connect()?;
    let mut progress = Progress::new(job);
    let mut acks = Acks::default();
    let mut ack_bytes = [0; ACKS];
    let mut asking = Vec::new();
    let mut block = Block::new(job.request);
    let pipe = Pipe::new()?;
    while !progress.is_done() {
        progress.ask(&mut asking);
        send_all(&source, &asking, SendFlags::empty())?;
        asking.clear();
        let idle = progress.put == progress.asked;
        if !idle {
            let mut head = [0; REPLY];
            recv_all(&source, &mut head)?;
            progress.check_reply(&head)?;
            progress.taken += 1;
            match payload {
                Payload::Buffers => {
                    recv_all(&source, block.payload_mut())?;
                    block.put_head(progress.write_head());
                    send_all(&target, block.message(), SendFlags::empty())?;
                }
                Payload::Splice => {
                    send_all(&target, &progress.write_head(), SendFlags::MORE)?;
                    convey(&source, &pipe, &target, job.request)?;
                }
            }
            progress.put += 1;
        }
        let wait = if idle { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        match recv(&target, &mut ack_bytes[..], wait) {
            Ok((_, count)) => acks.feed(&ack_bytes[..count], &mut progress)?,
            Err(Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn recv_all(stream: &TcpStream, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let (_, count) = recv(stream, &mut *into, RecvFlags::WAITALL)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = &mut into[count..];
    }
    Ok(())
}

fn send_all(stream: &TcpStream, mut bytes: &[u8], more: SendFlags) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = send(stream, bytes, SendFlags::NOSIGNAL | more)?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn convey(from: &TcpStream, pipe: &Pipe, to: &TcpStream, length: usize) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let most = left.min(pipe.capacity);
        let mut held = splice(from, None, &pipe.writer, None, most, SpliceFlags::MOVE)?;
        if held == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= held;
        let more = if left > 0 { SpliceFlags::MORE } else { SpliceFlags::empty() };
        while held > 0 {
            held -= splice(&pipe.reader, None, to, None, held, SpliceFlags::MOVE | more)?;
        }
    }
    Ok(())
}
