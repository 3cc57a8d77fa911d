//! What the benches of blockferry share. `README.md` tells how they are run.

#![forbid(unsafe_code)]

/// Bytes that look random and are the same in each run. None of their 8-byte words is zero.
#[must_use]
pub fn noise(bytes: usize) -> Vec<u8> {
    // xorshift64 never comes to zero from a state that is not.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Memory larger than the caches, handed out block by block, so that each block comes from memory
/// when its turn comes again.
#[derive(Debug)]
pub struct Blocks {
    bytes: Vec<u8>,
    block: usize,
    at: usize,
}

impl Blocks {
    /// Cuts `bytes` into blocks of `block` bytes; what is left over is never handed out.
    ///
    /// # Panics
    /// When there is not even one block.
    #[must_use]
    pub fn new(bytes: Vec<u8>, block: usize) -> Self {
        assert!(block > 0 && bytes.len() >= block, "a block at least");
        // Pages that were never written are all the same page of zeros, which is in the cache.
        let mut bytes = bytes;
        for page in bytes.chunks_mut(4096) {
            page[0] = std::hint::black_box(page[0]);
        }
        Self { bytes, block, at: 0 }
    }

    /// The next block; after the last one, the first.
    pub fn next_block(&mut self) -> &[u8] {
        if self.at + self.block > self.bytes.len() {
            self.at = 0;
        }
        let start = self.at;
        self.at += self.block;
        &self.bytes[start..self.at]
    }
}
