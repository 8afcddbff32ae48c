//! A list of which a Python program computed the value of the PCR (`tests/fixtures/ima/make.py`), and every change of it.

use super::*;

const BY_SHA1: &str = include_str!("../../../../tests/fixtures/ima/ascii_runtime_measurements");
const BY_SHA256: &str = include_str!("../../../../tests/fixtures/ima/ascii_runtime_measurements_sha256");

fn quoted() -> [u8; 32] {
    let text = include_str!("../../../../tests/fixtures/ima/pcr10");
    hex::decode(text.trim()).unwrap().try_into().unwrap()
}

/// The value after the first `n` lines, by their hashes alone: what a TPM does.
fn extended(n: usize) -> [u8; 32] {
    BY_SHA256.lines().take(n).fold([0; 32], |pcr, line| {
        let hash = hex::decode(line.split(' ').nth(1).unwrap()).unwrap();
        let hash = if hash == [0; 32] { vec![0xff; 32] } else { hash };
        Sha256::new().chain_update(pcr).chain_update(hash).finalize().into()
    })
}

#[test]
fn a_list_gives_the_value_that_another_program_computed() {
    for list in [BY_SHA1, BY_SHA256] {
        assert_eq!(replay(list.as_bytes(), &quoted()), Ok(Replayed { entries: 8, later: 0, violations: 1 }));
        assert_eq!(replay(list.trim_end_matches('\n').as_bytes(), &quoted()), replay(list.as_bytes(), &quoted()));
    }
}

#[test]
fn entries_behind_those_of_the_quote_are_counted() {
    for n in 1..8 {
        let replayed = replay(BY_SHA1.as_bytes(), &extended(n)).unwrap();
        assert_eq!((replayed.entries, replayed.later), (n, 8 - n));
        assert_eq!(replayed.violations, usize::from(n >= 5));
    }
    // A later measurement does not change what is covered.
    let longer = format!("{BY_SHA1}{}\n", BY_SHA1.lines().next().unwrap());
    assert_eq!(replay(longer.as_bytes(), &quoted()), Ok(Replayed { entries: 8, later: 1, violations: 1 }));
}

#[test]
fn every_changed_bit_of_a_list_is_detected_except_in_the_text_of_a_violation() {
    for list in [BY_SHA1, BY_SHA256] {
        // Nobody hashed the name of a file that was written meanwhile.
        let violation = list.find(" ima-ng sha1:000").unwrap();
        let free = violation..violation + list[violation..].find('\n').unwrap();
        // The line break at the end.
        for bit in (0..(list.len() - 1) * 8).filter(|bit| !free.contains(&(bit / 8))) {
            let mut bad = list.as_bytes().to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Digits of a hash may be written in capitals.
            let same = bad[bit / 8].eq_ignore_ascii_case(&list.as_bytes()[bit / 8]);
            assert!(same || replay(&bad, &quoted()).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn a_list_that_was_cut_reordered_or_of_another_boot_gives_another_value() {
    let lines: Vec<&str> = BY_SHA1.lines().collect();
    for n in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(n);
        let why = replay(fewer.join("\n").as_bytes(), &quoted()).unwrap_err();
        assert!(matches!(why, ImaError::NoMatch { entries: 7, .. }), "{why}");
    }
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    let why = replay(swapped.join("\n").as_bytes(), &quoted()).unwrap_err().to_string();
    assert!(why.contains("after none of its 8 entries") && why.contains("another boot, was altered"), "{why}");
    assert_eq!(replay(b"11 00", &quoted()), Err(ImaError::Line { line: 1, why: BadEntry::Form }));
}

#[test]
fn a_wrong_line_is_named() {
    let good = BY_SHA1.lines().next().unwrap();
    for (line, expected) in [
        (good.replacen("ima-ng", "evm-sig", 1), "line 2: the template `evm-sig` is not known"),
        (good.replacen("10 ", "", 1), "line 2: expected `PCR TEMPLATE-HASH TEMPLATE DATA`"),
        (good.replacen("10 ", "10 00", 1), "line 2: the template hash is not 40 (SHA-1) or 64"),
        (good.replacen("boot_aggregate", "boot_aggregates", 1), "line 2: the template hash is not that of its data"),
        (format!("{good} 00"), "line 2: the data are not of the template `ima-ng`"),
        (good.replacen("sha256:", "sha256", 1), "line 2: the data are not of the template"),
        (String::new(), "line 2: expected"),
    ] {
        let why = replay(format!("{good}\n{line}\n{good}\n").as_bytes(), &quoted()).unwrap_err().to_string();
        assert!(why.starts_with(expected), "{why}");
    }
    let other = good.replacen("10 ", "11 ", 1);
    assert_eq!(replay(other.as_bytes(), &quoted()), Err(ImaError::Empty));
}
