//! The same piece of work for each of many, a few at a time.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Programs started at a time. They wait for the disk more than they compute.
const AT_ONCE: usize = 4;

/// Does `work` for each of `items`, some at a time, and gives back the results in their order, or
/// the first error.
pub(crate) fn each<T: Sync, R: Send, E: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(AT_ONCE);
    let next = Mutex::new(0..items.len());
    let done: Mutex<Vec<Option<Result<R, E>>>> = Mutex::new(items.iter().map(|_| None).collect());
    let turn = || {
        while let Some(index) = { next.lock().unwrap_or_else(PoisonError::into_inner).next() } {
            let result = work(&items[index]);
            if result.is_err() {
                // The others need not begin.
                *next.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
            }
            done.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some(result);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads.min(items.len()) {
            scope.spawn(turn);
        }
        turn();
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let taken = "those that did not begin come after one that failed";
    done.into_iter().map(|result| result.expect(taken)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_their_items() {
        let items: Vec<usize> = (0..50).collect();
        let doubled: Result<Vec<usize>, ()> = each(&items, |item| Ok(item * 2));
        assert_eq!(doubled.unwrap(), items.iter().map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn after_an_error_nothing_more_begins() {
        let begun = AtomicUsize::new(0);
        let failed: Result<Vec<()>, usize> = each(&(0..1000).collect::<Vec<usize>>(), |item| {
            begun.fetch_add(1, Ordering::Relaxed);
            if *item == 3 { Err(*item) } else { Ok(()) }
        });
        assert_eq!(failed.unwrap_err(), 3);
        assert!(begun.into_inner() < 1000);
    }
}
