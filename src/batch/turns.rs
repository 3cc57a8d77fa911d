//! Whose turn it is: so many VMs at once, in the order of the file, and no more disks than a hub
//! would serve.

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Disks at once: each is an export with its memory, and a hub has as many ports.
pub(super) const MAX_DISKS: usize = 101;

/// Who is next, and what is free.
#[derive(Debug)]
struct Turns {
    next: usize,
    free_disks: usize,
}

/// Does `work` for each VM, of which `disks` tells how many disks it has, and gives back the
/// results in the order of the VMs. A VM with many disks is not overtaken by those behind it.
pub(super) fn take_turns<R: Send>(
    disks: &[usize],
    vms_at_once: NonZeroUsize,
    work: impl Fn(usize) -> R + Sync,
) -> Vec<R> {
    let turns = Mutex::new(Turns { next: 0, free_disks: MAX_DISKS });
    let freed = Condvar::new();
    let results: Mutex<Vec<Option<R>>> = Mutex::new(disks.iter().map(|_| None).collect());
    let worker = || {
        while let Some(vm) = next(disks, &turns, &freed) {
            let result = work(vm);
            held(&results)[vm] = Some(result);
            held(&turns).free_disks += disks[vm];
            freed.notify_all();
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

/// The VM whose turn it is, once there is room for its disks.
fn next(disks: &[usize], turns: &Mutex<Turns>, freed: &Condvar) -> Option<usize> {
    let no_room =
        |turns: &mut Turns| disks.get(turns.next).is_some_and(|disks| *disks > turns.free_disks);
    let turns = freed.wait_while(held(turns), no_room);
    let mut turns = turns.unwrap_or_else(PoisonError::into_inner);
    let vm = turns.next;
    turns.free_disks -= disks.get(vm)?;
    turns.next += 1;
    Some(vm)
}

/// The largest number of disks that are at work together.
pub(super) fn disks_at_once(disks: &[usize], vms_at_once: NonZeroUsize) -> usize {
    let mut disks = disks.to_vec();
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
    use std::time::Duration;

    use super::*;

    fn vms(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    #[test]
    fn each_has_its_turn_once_and_no_more_are_at_work_than_may_be() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let both = std::sync::Barrier::new(2);
        let done = take_turns(&[1; 40], vms(2), |vm| {
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
                take_turns(&[60, 50, 1], vms(3), |vm| {
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
    fn memory_is_for_as_many_disks_as_can_be_at_work() {
        assert_eq!(disks_at_once(&[1, 5, 2], vms(1)), 5);
        assert_eq!(disks_at_once(&[1, 5, 2], vms(2)), 7);
        assert_eq!(disks_at_once(&[60, 60], vms(2)), MAX_DISKS);
    }
}
