use super::*;

#[test]
fn names_are_read_as_they_are_shown() {
    for algorithm in DigestAlgorithm::ALL {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        assert_eq!(DigestAlgorithm::parse_choice(algorithm.name()), Ok(Some(algorithm)));
    }
    assert_eq!(DigestAlgorithm::parse_choice("none"), Ok(None));
}

#[test]
fn an_unknown_name_is_refused_with_the_known_ones() {
    let line = DigestAlgorithm::parse_choice("md5").unwrap_err().to_string();
    for part in ["md5", "none", "crc32c", "xxh3", "blake3"] {
        assert!(line.contains(part), "{line}");
    }
}

/// The check value of the CRC catalogue, and the hashes of nothing that XXH3 and BLAKE3 publish.
#[test]
fn digests_are_those_of_the_published_vectors() {
    assert_eq!(DigestAlgorithm::Crc32c.digest_block(b"123456789").to_string(), "e3069283");
    assert_eq!(
        DigestAlgorithm::Xxh3.digest_block(b"").to_string(),
        "99aa06d3014798d86001c324468d497f"
    );
    assert_eq!(
        DigestAlgorithm::Blake3.digest_block(b"").to_string(),
        "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    );
}

#[test]
fn crc32c_of_a_block_is_that_of_the_bitwise_definition() {
    let block: Vec<u8> = (0..DIGEST_BLOCK).map(|i| u8::try_from(i * i % 251).unwrap()).collect();
    for length in [1, 15, 16, 255, 4097, DIGEST_BLOCK] {
        let mut crc = u32::MAX;
        for byte in &block[..length] {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            }
        }
        let digest = DigestAlgorithm::Crc32c.digest_block(&block[..length]);
        assert_eq!(digest.as_bytes(), (!crc).to_be_bytes());
    }
}

#[test]
fn a_digest_has_the_length_that_its_algorithm_promises() {
    for algorithm in DigestAlgorithm::ALL {
        assert_eq!(algorithm.digest_block(b"x").as_bytes().len(), algorithm.digest_bytes());
    }
}

#[test]
fn the_digest_of_zeros_is_that_of_the_zeros() {
    for algorithm in DigestAlgorithm::ALL {
        let whole = algorithm.digest_block(&[0; DIGEST_BLOCK]);
        assert_eq!(algorithm.zero_block_digest(), whole);
        assert_eq!(algorithm.zero_digest(DIGEST_BLOCK), whole);
        assert_eq!(algorithm.zero_digest(512), algorithm.digest_block(&[0; 512]));
        assert_eq!(algorithm.zero_digest(0), algorithm.digest_block(&[]));
    }
}

#[test]
fn a_digest_is_made_of_its_bytes_unless_they_are_too_many() {
    let digest = DigestAlgorithm::Xxh3.digest_block(b"x");
    assert_eq!(Digest::from_bytes(digest.as_bytes()), Some(digest));
    assert_eq!(Digest::from_bytes(&[0; MAX_DIGEST_BYTES + 1]), None);
}
