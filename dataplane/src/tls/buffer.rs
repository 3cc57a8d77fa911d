//! A bounded queue of bytes in one piece of memory.

/// Bytes on their way from one descriptor to the other.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new(capacity: usize) -> Self {
        Self { bytes: vec![0; capacity].into_boxed_slice(), start: 0, end: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What is queued.
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes the first `count` bytes away.
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.end - self.start, "no more can be taken than is queued");
        self.start += count;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Where more can be put; empty only when the queue is full.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.bytes[self.end..]
    }

    /// Queues the first `count` bytes of the room.
    pub(super) fn filled_more(&mut self, count: usize) {
        assert!(count <= self.bytes.len() - self.end, "no more can be put than there is room");
        self.end += count;
    }

    pub(super) fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_the_order_in_which_they_went_in() {
        let mut buffer = Buffer::new(7);
        let (mut put, mut taken) = (0u8, 0u8);
        while taken < 200 {
            for byte in buffer.room() {
                *byte = put;
                put = put.wrapping_add(1);
            }
            let room = buffer.room().len();
            buffer.filled_more(room);
            assert!(buffer.room().is_empty());
            for _ in 0..3 {
                assert_eq!(buffer.filled()[0], taken);
                buffer.consume(1);
                taken += 1;
            }
        }
    }
}
