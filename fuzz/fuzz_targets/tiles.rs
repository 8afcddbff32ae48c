//! Tiles: paths, hashes and entry bundles.
#![no_main]

use failsafe_tlog::tile::{Tile, decode_entries, decode_hashes, encode_entries};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tile) = std::str::from_utf8(bytes).map_err(drop).and_then(|path| Tile::parse(path).map_err(drop)) {
        assert_eq!(tile.path().as_bytes(), bytes);
    }
    if let Ok(hashes) = decode_hashes(bytes) {
        assert_eq!(hashes.concat(), bytes);
    }
    if let Ok(entries) = decode_entries(bytes) {
        assert!(encode_entries(entries).is_ok_and(|again| again == bytes));
    }
});
