//! A sparse disk in memory that can forget what was not flushed.

use std::collections::BTreeMap;

/// Bytes of a page; what holes are told in.
pub(super) const PAGE: usize = 4096;

type Page = Box<[u8; PAGE]>;

/// The disk. A page that is not there reads as zeros.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) size: u64,
    pages: BTreeMap<u64, Page>,
    /// What pages were at the last flush, for those changed since.
    undo: BTreeMap<u64, Option<Page>>,
    /// How often the server has crashed; a session of an earlier life may not touch the disk.
    pub(super) life: u64,
}

/// Cuts a range at pages: page number, offset in the page, and the part of the range.
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let page = PAGE as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        let left = offset + length - at;
        if left == 0 {
            return None;
        }
        let start = at % page;
        let count = left.min(page - start);
        let done = at - offset;
        let piece = (at / page, in_memory(start), in_memory(done)..in_memory(done + count));
        at += count;
        Some(piece)
    })
}

/// A length of something that is held in memory.
pub(super) fn in_memory(length: u64) -> usize {
    usize::try_from(length).expect("what is in memory fits")
}

impl Image {
    pub(super) fn new(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn read(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; in_memory(length)];
        for (number, start, part) in pieces(offset, length) {
            if let Some(page) = self.pages.get(&number) {
                let count = part.len();
                bytes[part].copy_from_slice(&page[start..start + count]);
            }
        }
        bytes
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], stable: bool) {
        for (number, start, part) in pieces(offset, bytes.len() as u64) {
            let bytes = &bytes[part];
            let put = |page: &mut Page| page[start..start + bytes.len()].copy_from_slice(bytes);
            self.remember(number, stable, put);
            put(self.pages.entry(number).or_insert_with(blank));
        }
    }

    /// Punches a hole; pages that are cut only in part are filled with zeros there.
    pub(super) fn zero(&mut self, offset: u64, length: u64, stable: bool) {
        let page = PAGE as u64;
        let touched: Vec<u64> = self
            .pages
            .range(offset / page..(offset + length).div_ceil(page))
            .map(|(&number, _)| number)
            .collect();
        for number in touched {
            let start = offset.saturating_sub(number * page).min(page);
            let end = (offset + length - number * page).min(page);
            let range = in_memory(start)..in_memory(end);
            let put = |page: &mut Page| page[range.clone()].fill(0);
            self.remember(number, stable, put);
            if range.len() == PAGE {
                self.pages.remove(&number);
            } else {
                put(self.pages.get_mut(&number).expect("listed above"));
            }
        }
    }

    /// Makes all that was written last.
    pub(super) fn flush(&mut self) {
        self.undo.clear();
    }

    /// Forgets what was not flushed.
    pub(super) fn lose(&mut self) {
        for (number, before) in std::mem::take(&mut self.undo) {
            match before {
                Some(page) => self.pages.insert(number, page),
                None => self.pages.remove(&number),
            };
        }
    }

    /// Data and holes of a range, in order, alternating.
    pub(super) fn extents(&self, offset: u64, length: u64) -> Vec<(u64, bool)> {
        let mut extents: Vec<(u64, bool)> = Vec::new();
        let mut push = |length: u64, data: bool| match extents.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.1 == data => last.0 += length,
            _ => extents.push((length, data)),
        };
        let (page, end) = (PAGE as u64, offset + length);
        let mut at = offset;
        for (&number, _) in self.pages.range(offset / page..end.div_ceil(page)) {
            let start = (number * page).max(offset);
            push(start - at, false);
            at = (number * page + page).min(end);
            push(at - start, true);
        }
        push(end - at, false);
        extents
    }

    /// Keeps what a page was at the last flush. A stable write (FUA) is put there too.
    fn remember(&mut self, number: u64, stable: bool, put: impl Fn(&mut Page)) {
        match (self.undo.get_mut(&number), stable) {
            (Some(before), true) => put(before.get_or_insert_with(blank)),
            (None, false) => {
                self.undo.insert(number, self.pages.get(&number).cloned());
            }
            _ => {}
        }
    }
}

fn blank() -> Page {
    Box::new([0; PAGE])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_told() {
        let mut image = Image::new(1 << 20);
        image.write(4000, &[7; 200], false);
        assert_eq!(image.read(3999, 202)[..2], [0, 7]);
        assert_eq!(image.read(3999, 202)[200..], [7, 0]);
        assert_eq!(image.extents(0, 16384), [(8192, true), (8192, false)]);
        assert_eq!(image.extents(100, 50), [(50, true)]);
        image.zero(4095, 4097, false);
        assert_eq!(image.extents(0, 16384), [(4096, true), (12288, false)]);
        assert_eq!(image.read(4000, 200).iter().filter(|&&b| b == 7).count(), 95);
    }

    #[test]
    fn a_loss_takes_back_to_the_flush_but_for_fua() {
        let mut image = Image::new(1 << 20);
        image.write(0, &[1; 100], false);
        image.flush();
        image.write(50, &[2; 100], false);
        image.write(60, &[3; 10], true);
        image.write(9000, &[4; 10], true);
        image.write(9000, &[5; 10], false);
        image.lose();
        assert_eq!(image.read(49, 2), [1, 1]);
        assert_eq!(image.read(59, 2), [1, 3]);
        assert_eq!(image.read(100, 2), [0, 0]);
        assert_eq!(image.read(9000, 2), [4, 4]);
    }

    #[test]
    fn a_hole_punched_and_lost_is_data_again() {
        let mut image = Image::new(1 << 20);
        image.write(0, &[1; 8192], false);
        image.flush();
        image.zero(0, 1 << 20, false);
        assert_eq!(image.read(0, 1), [0]);
        image.lose();
        assert_eq!(image.read(8191, 2), [1, 0]);
    }
}
