//! Test disks: content that can be made again from a seed, and comparison byte for byte.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{run, run_ok};

/// Data and holes of a random disk alternate in blocks of this many bytes.
pub const BLOCK: usize = 64 << 10;
/// A comparison or conversion of a test disk that takes longer is stuck.
const TOOL_DEADLINE: Duration = Duration::from_secs(300);
/// How much of two raw files is held at once to compare them.
const COMPARE_BYTES: usize = 1 << 20;

/// A raw disk in a file.
#[derive(Clone, Debug)]
pub struct TestDisk {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes, a multiple of nothing in particular.
    pub size: u64,
}

impl TestDisk {
    /// A disk in `dir` of which `data_share` (0.0 to 1.0) is data and the rest holes. Of the
    /// data every 16th block is zeros that are stored, and every 16th is zeros but for one
    /// byte: what a sampling zero detector loses.
    pub fn random(dir: &Path, size: u64, data_share: f64, seed: u64) -> io::Result<Self> {
        let disk = Self::create(dir, &format!("random-{seed:x}-{size}.raw"), size)?;
        let file = disk.open()?;
        let mut block = vec![0; BLOCK];
        for (index, offset) in (0..size).step_by(BLOCK).enumerate() {
            let mut random = Random::new(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            if random.share() >= data_share {
                continue;
            }
            let length = usize::try_from(size - offset).map_or(BLOCK, |left| left.min(BLOCK));
            match random.below(16) {
                0 => block.fill(0),
                1 => {
                    block.fill(0);
                    let at = usize::try_from(random.below(length as u64)).expect("in the block");
                    block[at] = 1;
                }
                _ => random.fill(&mut block),
            }
            file.write_all_at(&block[..length], offset)?;
        }
        Ok(disk)
    }

    /// A disk in `dir` that is one hole.
    pub fn sized(dir: &Path, size: u64) -> io::Result<Self> {
        Self::create(dir, &format!("sized-{size}.raw"), size)
    }

    /// Writes pseudo-random bytes over `area`.
    pub fn overwrite(&self, area: Range<u64>, seed: u64) -> io::Result<()> {
        let file = self.open()?;
        let mut random = Random::new(seed);
        let mut block = vec![0; BLOCK];
        for offset in area.clone().step_by(BLOCK) {
            random.fill(&mut block);
            let length = usize::try_from(area.end - offset).map_or(BLOCK, |left| left.min(BLOCK));
            file.write_all_at(&block[..length], offset)?;
        }
        Ok(())
    }

    /// All its bytes.
    pub fn content(&self) -> io::Result<Vec<u8>> {
        std::fs::read(&self.path)
    }

    fn create(dir: &Path, stem: &str, size: u64) -> io::Result<Self> {
        // Two disks of one seed and size are two disks.
        let mut path = dir.join(stem);
        let mut copy = 1;
        let file = loop {
            match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    copy += 1;
                    path = dir.join(format!("{copy}-{stem}"));
                }
                created => break created?,
            }
        };
        file.set_len(size)?;
        Ok(Self { path, size })
    }

    fn open(&self) -> io::Result<File> {
        File::options().read(true).write(true).open(&self.path)
    }
}

/// Makes an image; `backing` is the file below it and its format.
pub fn qemu_img_create(
    path: &Path,
    format: &str,
    size: u64,
    backing: Option<(&Path, &str)>,
) -> io::Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", format]);
    if let Some((file, format)) = backing {
        command.arg("-b").arg(file).args(["-F", format]);
    }
    command.arg(path).arg(size.to_string());
    run_ok(command, TOOL_DEADLINE).map(drop)
}

/// Writes the content of `image` to the raw file `target`, whether or not someone has it open.
pub fn convert_to_raw(image: &Path, format: &str, target: &Path) -> io::Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-U", "-f", format, "-O", "raw"]);
    run_ok(
        {
            command.arg(image).arg(target);
            command
        },
        TOOL_DEADLINE,
    )
    .map(drop)
}

/// Fails unless the content of `image` equals that of the file `raw`; the message names the
/// first offset that differs.
pub fn compare(raw: &Path, image: &Path, format: &str) -> io::Result<()> {
    if format == "raw" {
        compare_raw(raw, image)?;
    }
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-U", "-f", "raw", "-F", format]);
    command.arg(raw).arg(image);
    let output = run(command, TOOL_DEADLINE)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    Err(differ(raw, image, &format!("{}{}", said.trim(), output.stderr.trim())))
}

/// As [`compare`] for two raw files; a size that differs is a difference too.
pub fn compare_raw(left: &Path, right: &Path) -> io::Result<()> {
    let (left_file, right_file) = (File::open(left)?, File::open(right)?);
    let size = left_file.metadata()?.len();
    let right_size = right_file.metadata()?.len();
    if size != right_size {
        return Err(differ(left, right, &format!("{size} bytes and {right_size} bytes")));
    }
    let mut buffers = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    for offset in (0..size).step_by(COMPARE_BYTES) {
        let length = usize::try_from(size - offset).map_or(COMPARE_BYTES, |l| l.min(COMPARE_BYTES));
        let (a, b) = (&mut buffers.0[..length], &mut buffers.1[..length]);
        left_file.read_exact_at(a, offset)?;
        right_file.read_exact_at(b, offset)?;
        if let Some(at) = first_difference(a, b) {
            let message = format!(
                "first at offset {}: {:#04x} and {:#04x}",
                offset + at as u64,
                a[at],
                b[at]
            );
            return Err(differ(left, right, &message));
        }
    }
    Ok(())
}

/// Where two slices first differ; a shorter one differs at its end.
pub fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    let at = a.iter().zip(b).position(|(a, b)| a != b);
    Some(at.unwrap_or(a.len().min(b.len())))
}

fn differ(left: &Path, right: &Path, how: &str) -> io::Error {
    io::Error::other(format!("{} and {} differ: {how}", left.display(), right.display()))
}

/// xorshift64*: fast, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        // Zero is the one state that it never leaves; neighbours in the seed must not look alike.
        let mut random = Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x6a09_e667_f3bc_c909);
        random.0 = random.0.max(1);
        random.next();
        random.next();
        random
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)] // it never ends, so an Option would be in the way
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A number from 0.0 up to and without 1.0.
    pub fn share(&mut self) -> f64 {
        f64::from(u32::try_from(self.next() >> 32).expect("32 bits")) / 4_294_967_296.0
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for eight in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            eight.copy_from_slice(&random[..eight.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_disk_again() {
        let dir = tempfile::tempdir().unwrap();
        let size = (8 << 20) + 777;
        let a = TestDisk::random(dir.path(), size, 0.5, 1).unwrap();
        let b = TestDisk::random(dir.path(), size, 0.5, 1).unwrap();
        assert_ne!(a.path, b.path);
        compare(&a.path, &b.path, "raw").unwrap();
        let c = TestDisk::random(dir.path(), size, 0.5, 2).unwrap();
        compare(&a.path, &c.path, "raw").unwrap_err();
        let zeros =
            a.content().unwrap().chunks(BLOCK).filter(|b| b.iter().all(|&b| b == 0)).count();
        assert!((32..=96).contains(&zeros), "{zeros} of 129 blocks are zero");
    }

    #[test]
    fn a_difference_is_named_by_its_offset() {
        let dir = tempfile::tempdir().unwrap();
        let a = TestDisk::sized(dir.path(), 3 << 20).unwrap();
        let b = TestDisk::sized(dir.path(), 3 << 20).unwrap();
        b.open().unwrap().write_all_at(&[5], 2_222_222).unwrap();
        let error = compare(&a.path, &b.path, "raw").unwrap_err().to_string();
        assert!(error.contains("offset 2222222: 0x00 and 0x05"), "{error}");
        let longer = TestDisk::sized(dir.path(), (3 << 20) + 1).unwrap();
        compare(&a.path, &longer.path, "raw").unwrap_err();
    }

    #[test]
    fn a_layer_over_a_disk_compares_and_converts() {
        let dir = tempfile::tempdir().unwrap();
        let disk = TestDisk::random(dir.path(), 4 << 20, 0.7, 3).unwrap();
        let layer = dir.path().join("layer.qcow2");
        qemu_img_create(&layer, "qcow2", disk.size, Some((&disk.path, "raw"))).unwrap();
        compare(&disk.path, &layer, "qcow2").unwrap();
        let raw = dir.path().join("again.raw");
        convert_to_raw(&layer, "qcow2", &raw).unwrap();
        compare(&disk.path, &raw, "raw").unwrap();

        let other = TestDisk::random(dir.path(), 4 << 20, 0.7, 3).unwrap();
        other.overwrite(1_000_000..1_200_000, 9).unwrap();
        let error = compare(&other.path, &layer, "qcow2").unwrap_err().to_string();
        assert!(error.contains("offset 999936") || error.contains("offset 1000000"), "{error}");
    }
}
