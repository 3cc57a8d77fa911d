//! Whose turn it is: so many VMs at once, in the order of the file, and no more disks than a hub
//! would serve.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Disks at once: each is an export with its memory, and a hub has as many ports.
pub(super) const MAX_DISKS: usize = 101;

/// What a VM is taken to have whose disks only its vCenter knows: as many as a host gives at once.
const UNKNOWN_DISKS: usize = 8;

/// Whose turn it is.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// The next VM.
    next: usize,
    free_disks: usize,
    /// Those that want room for their disks have numbers, in the order in which they came.
    next_number: u64,
    /// How many of them have had theirs.
    served: u64,
}

/// Room for the disks of a VM, until this is dropped.
#[derive(Debug)]
pub(super) struct Room<'a> {
    turns: &'a Turns,
    disks: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        held(&self.turns.state).free_disks += self.disks;
        self.turns.changed.notify_all();
    }
}

impl Turns {
    fn new() -> Self {
        let state = State { next: 0, free_disks: MAX_DISKS, next_number: 0, served: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Room for the disks of a VM, [`MAX_DISKS`] at most, once there is any. Who came first is not
    /// overtaken.
    pub(super) fn room(&self, disks: usize) -> Room<'_> {
        self.wait(held(&self.state), disks)
    }

    /// The next VM, with room for its disks where they are known.
    fn next(&self, disks: &[Option<usize>]) -> Option<(usize, Option<Room<'_>>)> {
        let mut state = held(&self.state);
        let vm = state.next;
        let disks = disks.get(vm)?;
        state.next += 1;
        // Under the same lock: VMs have their turns in the order of the file.
        Some((vm, disks.map(|disks| self.wait(state, disks))))
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, disks: usize) -> Room<'a> {
        let number = state.next_number;
        state.next_number += 1;
        let has_none = |state: &mut State| state.served != number || state.free_disks < disks;
        let waited = self.changed.wait_while(state, has_none);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.served += 1;
        state.free_disks -= disks;
        drop(state);
        self.changed.notify_all();
        Room { turns: self, disks }
    }
}

/// Does `work` for each VM, of which `disks` tells how many disks it has, and gives back the
/// results in the order of the VMs. A VM with many disks is not overtaken by those behind it. Where
/// it is not known how many there are, the work takes [`Turns::room`] for them itself.
pub(super) fn take_turns<R: Send>(
    disks: &[Option<usize>],
    vms_at_once: NonZeroUsize,
    work: impl Fn(usize, &Turns) -> R + Sync,
) -> Vec<R> {
    let turns = Turns::new();
    let results: Mutex<Vec<Option<R>>> = Mutex::new(disks.iter().map(|_| None).collect());
    let worker = || {
        while let Some((vm, _room)) = turns.next(disks) {
            let result = work(vm, &turns);
            held(&results)[vm] = Some(result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..vms_at_once.get().min(disks.len()) {
            scope.spawn(worker);
        }
        worker();
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|result| result.expect("each VM has had its turn")).collect()
}

/// The largest number of disks that are at work together.
pub(super) fn disks_at_once(disks: &[Option<usize>], vms_at_once: NonZeroUsize) -> usize {
    let known = disks.iter().map(|disks| disks.unwrap_or(UNKNOWN_DISKS));
    let mut disks: Vec<usize> = known.collect();
    disks.sort_unstable_by(|a, b| b.cmp(a));
    disks.iter().take(vms_at_once.get()).sum::<usize>().min(MAX_DISKS)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    fn vms(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    #[test]
    fn each_has_its_turn_once_and_no_more_are_at_work_than_may_be() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let both = std::sync::Barrier::new(2);
        let done = take_turns(&[Some(1); 40], vms(2), |vm, _| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Ends only if two are at work.
            both.wait();
            now.fetch_sub(1, Ordering::SeqCst);
            vm
        });
        assert_eq!(done, (0..40).collect::<Vec<_>>());
        assert_eq!(most.into_inner(), 2);
    }

    #[test]
    fn disks_that_find_no_room_wait_and_are_not_overtaken() {
        let (begun, begins) = mpsc::channel();
        let (end, ends) = mpsc::channel::<()>();
        let (begun, ends) = (Mutex::new(begun), Mutex::new(ends));
        thread::scope(|scope| {
            let all = scope.spawn(|| {
                take_turns(&[Some(60), Some(50), Some(1)], vms(3), |vm, _| {
                    held(&begun).send(vm).unwrap();
                    if vm == 0 {
                        held(&ends).recv().unwrap();
                    }
                })
            });
            assert_eq!(begins.recv().unwrap(), 0);
            let nobody = begins.recv_timeout(Duration::from_millis(50));
            assert_eq!(nobody, Err(mpsc::RecvTimeoutError::Timeout));
            end.send(()).unwrap();
            let mut others = [begins.recv().unwrap(), begins.recv().unwrap()];
            others.sort_unstable();
            assert_eq!(others, [1, 2]);
            all.join().unwrap();
        });
    }

    #[test]
    fn who_wants_room_waits_behind_those_that_came_before_even_where_there_is_some() {
        let turns = Turns::new();
        let until_wanted = |by: u64| {
            let due = Instant::now() + Duration::from_secs(60);
            while held(&turns.state).next_number < by {
                assert!(Instant::now() < due);
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let most = turns.room(MAX_DISKS - 1);
            let large = scope.spawn(|| drop(turns.room(2)));
            until_wanted(2);
            let small = scope.spawn(|| turns.next(&[Some(1)]).map(|(vm, _room)| vm));
            until_wanted(3);
            // Under the lock under which the small one took its number it saw that it has to wait.
            assert_eq!(held(&turns.state).served, 1);
            drop(most);
            large.join().unwrap();
            assert_eq!(small.join().unwrap(), Some(0));
        });
        assert_eq!(held(&turns.state).free_disks, MAX_DISKS);
    }

    #[test]
    fn memory_is_for_as_many_disks_as_can_be_at_work() {
        let at_once = |disks: &[usize], at_once| {
            let disks: Vec<_> = disks.iter().copied().map(Some).collect();
            disks_at_once(&disks, vms(at_once))
        };
        assert_eq!(at_once(&[1, 5, 2], 1), 5);
        assert_eq!(at_once(&[1, 5, 2], 2), 7);
        assert_eq!(at_once(&[60, 60], 2), MAX_DISKS);
        assert_eq!(disks_at_once(&[None, Some(1)], vms(2)), UNKNOWN_DISKS + 1);
    }
}
