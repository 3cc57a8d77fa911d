//! The memory that data passes through.
//!
//! A [`Pool`] is one anonymous mapping, cut into slots of one size when a thread of the mover
//! starts; nothing is allocated per request. A [`Buf`] is a claim on one slot. It moves into the
//! operation that the kernel works on and comes back with its completion, so that nobody can
//! touch memory that the kernel may still write to. Clones share the slot for reading, for a
//! block that leaves in several writes; the slot is free again when its last claim is dropped.
//!
//! A slot is never cleared between uses. Whoever sends a buffer onward has first to prove that
//! every byte of it was received (see `lane::coverage`).
//!
//! Pools belong to one thread: their claims are `!Send`, so their counts need no atomics.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Slots of equal size in one mapping, owned by one thread.
#[derive(Clone)]
pub(crate) struct Pool(Rc<Region>);

struct Region {
    base: NonNull<u8>,
    slot_bytes: usize,
    slots: usize,
    /// Slots nobody claims; the one freed last is handed out first, while it is warm.
    free: RefCell<Vec<u32>>,
    claims: Box<[Cell<u32>]>,
}

/// A claim on one slot of a [`Pool`].
pub(crate) struct Buf {
    region: Rc<Region>,
    slot: u32,
}

impl Pool {
    /// Maps `slots` slots of `slot_bytes` each. Pages become resident when they are first used.
    pub(crate) fn new(slot_bytes: usize, slots: usize) -> io::Result<Self> {
        let count =
            u32::try_from(slots).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let bytes = slot_bytes
            .checked_mul(slots)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self(Rc::new(Region {
            base,
            slot_bytes,
            slots,
            free: RefCell::new((0..count).rev().collect()),
            claims: (0..slots).map(|_| Cell::new(0)).collect(),
        })))
    }

    /// A slot nobody else claims, or `None` when all are in use. Its content is stale.
    pub(crate) fn claim(&self) -> Option<Buf> {
        let slot = self.0.free.borrow_mut().pop()?;
        self.0.claims[slot as usize].set(1);
        Some(Buf { region: Rc::clone(&self.0), slot })
    }

    /// Bytes of one slot.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.0.slot_bytes
    }

    /// How many slots nobody claims.
    pub(crate) fn free_slots(&self) -> usize {
        self.0.free.borrow().len()
    }
}

impl Buf {
    /// Every byte of the slot, for writing.
    ///
    /// # Panics
    /// When the slot is shared: a clone may be in the kernel's hands.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        assert_eq!(self.region.claims[self.slot as usize].get(), 1, "a shared buffer is read only");
        // SAFETY: the slot lies inside the mapping, which lives as long as `region`; this is its
        // only claim, borrowed mutably, so no other reference to these bytes exists.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.region.slot_bytes) }
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: `slot < slots`, so the offset stays inside the mapping.
        unsafe { self.region.base.add(self.slot as usize * self.region.slot_bytes) }
    }
}

impl Deref for Buf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot lies inside the mapping, which lives as long as `region`; it is only
        // written through `bytes_mut`, which needs the one claim mutably.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.region.slot_bytes) }
    }
}

impl Clone for Buf {
    fn clone(&self) -> Self {
        let claims = &self.region.claims[self.slot as usize];
        claims.set(claims.get() + 1);
        Self { region: Rc::clone(&self.region), slot: self.slot }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let claims = &self.region.claims[self.slot as usize];
        claims.set(claims.get() - 1);
        if claims.get() == 0 {
            self.region.free.borrow_mut().push(self.slot);
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf(slot {} of {} bytes)", self.slot, self.region.slot_bytes)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `Pool::new` with this length; every claim holds an
        // `Rc` of the region, so none is left.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.slot_bytes * self.slots) };
        debug_assert!(unmapped.is_ok(), "munmap of the pool's own mapping");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pool_hands_out_each_slot_once() {
        let pool = Pool::new(4096, 3).unwrap();
        let claims: Vec<Buf> = std::iter::from_fn(|| pool.claim()).collect();
        assert_eq!(claims.len(), 3);
        let mut starts: Vec<_> = claims.iter().map(|b| b.as_ptr() as usize).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), 3);
        drop(claims);
        assert_eq!(pool.free_slots(), 3);
    }

    #[test]
    fn a_slot_is_free_only_after_its_last_clone() {
        let pool = Pool::new(4096, 1).unwrap();
        let first = pool.claim().unwrap();
        let second = first.clone();
        drop(first);
        assert!(pool.claim().is_none());
        drop(second);
        assert!(pool.claim().is_some());
    }

    #[test]
    #[should_panic(expected = "a shared buffer is read only")]
    fn a_shared_buffer_cannot_be_written() {
        let pool = Pool::new(4096, 1).unwrap();
        let mut first = pool.claim().unwrap();
        let _second = first.clone();
        first.bytes_mut()[0] = 1;
    }

    proptest! {
        #[test]
        fn claims_and_drops_in_any_order_never_share_or_lose_a_slot(steps in prop::collection::vec(0usize..8, 1..200)) {
            let pool = Pool::new(64, 4).unwrap();
            let mut held: Vec<(Buf, u8)> = Vec::new();
            for (at, step) in steps.into_iter().enumerate() {
                let mark = u8::try_from(at % 251).unwrap();
                if step < 5 {
                    match pool.claim() {
                        Some(mut buf) => { buf.bytes_mut().fill(mark); held.push((buf, mark)); }
                        None => prop_assert_eq!(held.len(), 4),
                    }
                } else if !held.is_empty() {
                    held.swap_remove(step % held.len());
                }
                for (buf, mark) in &held {
                    prop_assert!(buf.iter().all(|b| b == mark));
                }
                prop_assert_eq!(pool.free_slots() + held.len(), 4);
            }
        }
    }
}
