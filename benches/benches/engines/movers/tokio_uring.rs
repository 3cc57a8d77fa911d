//! tokio-uring: four tasks a lane on its executor, with the operations that it has. It has no
//! splice, and its read takes what is there, where `recv` could wait for all.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_uring::buf::{BoundedBuf, IoBuf, IoBufMut};
use tokio_uring::net::TcpStream;

use super::BLOCKS;
use crate::lane::{ACKS, Acks, Block, Job, Progress, REPLY, broken};

pub(super) fn run(job: &Job) -> io::Result<()> {
    let mut streams = Vec::new();
    for _ in 0..job.lanes {
        streams.push(job.connect()?);
    }
    tokio_uring::start(async {
        let mut tasks = Vec::new();
        for (source, target) in streams {
            let lane = Rc::new(Lane {
                source: TcpStream::from_std(source),
                target: TcpStream::from_std(target),
                progress: RefCell::new(Progress::new(job)),
                window: Notify::new(),
            });
            let (give_free, free) = mpsc::unbounded_channel();
            let (give_full, full) = mpsc::unbounded_channel();
            for _ in 0..BLOCKS {
                give(&give_free, Block::new(job.request))?;
            }
            tasks.push(tokio_uring::spawn(ask(Rc::clone(&lane))));
            tasks.push(tokio_uring::spawn(take(Rc::clone(&lane), free, give_full)));
            tasks.push(tokio_uring::spawn(put(Rc::clone(&lane), full, give_free)));
            tasks.push(tokio_uring::spawn(hear(lane)));
        }
        for task in tasks {
            task.await.map_err(io::Error::other)??;
        }
        Ok(())
    })
}

struct Lane {
    source: TcpStream,
    target: TcpStream,
    progress: RefCell<Progress>,
    /// The window has moved.
    window: Notify,
}

async fn ask(lane: Rc<Lane>) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        lane.progress.borrow_mut().ask(&mut bytes);
        if bytes.is_empty() {
            lane.window.notified().await;
        } else {
            let (result, back) = lane.source.write_all(bytes).await;
            result?;
            bytes = back;
            bytes.clear();
        }
        let progress = *lane.progress.borrow();
        if progress.asked == progress.total {
            return Ok(());
        }
    }
}

async fn take(
    lane: Rc<Lane>,
    mut free: UnboundedReceiver<Block>,
    full: UnboundedSender<Block>,
) -> io::Result<()> {
    let total = lane.progress.borrow().total;
    let mut head = vec![0; REPLY];
    for _ in 0..total {
        head = read_exact(&lane.source, head, 0..REPLY).await?;
        lane.progress.borrow().check_reply(&head)?;
        let block = free.recv().await.ok_or(broken("a task ended early"))?;
        let place = block.payload_at();
        let block = read_exact(&lane.source, block, place).await?;
        lane.progress.borrow_mut().taken += 1;
        give(&full, block)?;
    }
    Ok(())
}

async fn put(
    lane: Rc<Lane>,
    mut full: UnboundedReceiver<Block>,
    free: UnboundedSender<Block>,
) -> io::Result<()> {
    let total = lane.progress.borrow().total;
    for _ in 0..total {
        let mut block = full.recv().await.ok_or(broken("a task ended early"))?;
        block.put_head(lane.progress.borrow().write_head());
        let place = block.message_at();
        let (result, slice) = lane.target.write_all(block.slice(place)).await;
        result?;
        lane.progress.borrow_mut().put += 1;
        // Nobody takes it any more at the end.
        let _ended = free.send(slice.into_inner());
    }
    Ok(())
}

async fn hear(lane: Rc<Lane>) -> io::Result<()> {
    let mut acks = Acks::default();
    let mut bytes = vec![0; ACKS];
    while !lane.progress.borrow().is_done() {
        let (result, back) = lane.target.read(bytes.slice(..)).await;
        let count = result?;
        bytes = back.into_inner();
        acks.feed(&bytes[..count], &mut lane.progress.borrow_mut())?;
        lane.window.notify_one();
    }
    Ok(())
}

fn give(to: &UnboundedSender<Block>, block: Block) -> io::Result<()> {
    to.send(block).map_err(|_| broken("a task ended early"))
}

async fn read_exact<B: IoBufMut>(
    from: &TcpStream,
    mut buf: B,
    place: std::ops::Range<usize>,
) -> io::Result<B> {
    let mut at = place.start;
    while at < place.end {
        let (result, slice) = from.read(buf.slice(at..place.end)).await;
        buf = slice.into_inner();
        match result? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => at += count,
        }
    }
    Ok(buf)
}

// SAFETY: the memory is a vector that is never resized, so it stays where it is while the block
// moves; all of it is initialised.
unsafe impl IoBuf for Block {
    fn stable_ptr(&self) -> *const u8 {
        self.all().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.all().len()
    }

    fn bytes_total(&self) -> usize {
        self.all().len()
    }
}

// SAFETY: as above.
unsafe impl IoBufMut for Block {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.all_mut().as_mut_ptr()
    }

    unsafe fn set_init(&mut self, _at: usize) {
        // All of it always is.
    }
}
