//! Requests that are compressed.

use flate2::read::MultiGzDecoder;
use std::io::Read;

/// What cannot be decompressed.
#[derive(Debug, thiserror::Error)]
pub enum BadGzip {
    /// It is larger than it may be. How large is not known.
    #[error("the request is larger than {0} bytes when it is decompressed")]
    Large(usize),
    /// It is not gzip, or breaks off.
    #[error("expected a request that is compressed with gzip")]
    Gzip(#[source] std::io::Error),
}

/// Decompresses. Not more than `most` bytes are made, whatever the sender says of its size.
///
/// # Errors
/// [`BadGzip`].
pub fn decompress(bytes: &[u8], most: usize) -> Result<Vec<u8>, BadGzip> {
    let mut out = Vec::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut out).map_err(BadGzip::Gzip)?;
    if out.len() > most { Err(BadGzip::Large(most)) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn compressed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_compressed_is_read_up_to_the_limit() {
        assert_eq!(decompress(&compressed(b"loss"), 4).unwrap(), b"loss");
        assert!(matches!(decompress(&compressed(b"losses"), 4), Err(BadGzip::Large(4))));
        // 64 MiB in 64 KiB.
        let bomb = compressed(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100 << 10, "{}", bomb.len());
        assert!(matches!(decompress(&bomb, 256 << 10), Err(BadGzip::Large(_))));
        let whole = compressed(b"loss");
        for bad in [&b""[..], b"loss", &whole[..whole.len() - 1]] {
            assert!(matches!(decompress(bad, 100), Err(BadGzip::Gzip(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _read = decompress(&bytes, 100);
            let framed = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &bytes].concat();
            let _read = decompress(&framed, 100);
        }
    }
}
