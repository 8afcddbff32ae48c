//! A list of which a Python program computed the value of the PCR (`tests/fixtures/ima/make.py`), and every change of it.

use super::*;
use sha1::Sha1;

const BY_SHA1: &str = include_str!("../../../../tests/fixtures/ima/ascii_runtime_measurements");
const BY_SHA256: &str = include_str!("../../../../tests/fixtures/ima/ascii_runtime_measurements_sha256");

const BINARY: [&[u8]; 2] = [
    include_bytes!("../../../../tests/fixtures/ima/binary_runtime_measurements"),
    include_bytes!("../../../../tests/fixtures/ima/binary_runtime_measurements_sha256"),
];

/// All lists, which have the same entries.
fn lists() -> Vec<&'static [u8]> {
    [BY_SHA1, BY_SHA256].map(str::as_bytes).into_iter().chain(BINARY).collect()
}

/// With no later entries.
fn covered(entries: usize, violations: usize) -> Replayed {
    Replayed { entries, later: 0, violations, others: 0 }
}

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
    for list in lists() {
        assert_eq!(replay(list, &quoted()), Ok(covered(8, 1)));
    }
    assert_eq!(replay(BY_SHA1.trim_end_matches('\n').as_bytes(), &quoted()), Ok(covered(8, 1)));
}

#[test]
fn entries_behind_those_of_the_quote_are_counted() {
    for (n, list) in (1..8).flat_map(|n| lists().into_iter().map(move |list| (n, list))) {
        let expected = Replayed { entries: n, later: 8 - n, violations: usize::from(n >= 5), others: 0 };
        assert_eq!(replay(list, &extended(n)), Ok(expected));
    }
    // A later measurement does not change what is covered.
    let longer = format!("{BY_SHA1}{}\n", BY_SHA1.lines().next().unwrap());
    assert_eq!(replay(longer.as_bytes(), &quoted()), Ok(Replayed { later: 1, ..covered(8, 1) }));
}

#[test]
fn entries_of_other_pcrs_are_counted_wherever_they_are() {
    let good = BY_SHA1.lines().next().unwrap();
    let other = good.replacen("10 ", "11 ", 1);
    let mut lines: Vec<&str> = BY_SHA1.lines().collect();
    lines.insert(3, &other);
    lines.insert(0, &other);
    assert_eq!(replay(lines.join("\n").as_bytes(), &quoted()), Ok(Replayed { others: 2, ..covered(8, 1) }));
    let mut record =
        BINARY[0][..BINARY[0].windows(15).position(|part| part == b"boot_aggregate\0").unwrap() + 15].to_vec();
    record[0] = 11;
    let binary = [&record, BINARY[0]].concat();
    assert_eq!(replay(&binary, &quoted()), Ok(Replayed { others: 1, ..covered(8, 1) }));
    assert_eq!(replay(other.as_bytes(), &quoted()), Err(ImaError::Empty));
    // Nobody may hide a line behind the number of another PCR.
    let wrong = other.replacen("boot", "boat", 1);
    let why = replay(format!("{wrong}\n{BY_SHA1}").as_bytes(), &quoted()).unwrap_err();
    assert!(matches!(why, ImaError::Entry { place: Place::Line(1), why: BadEntry::Altered }), "{why}");
}

#[test]
fn a_violation_has_no_hash_of_a_file() {
    let hash = "sha256:4509beb0ab401d71fa4a5cd94a55c9a74f13332776ae4019c5bfc4c2005157ff";
    let zeros = format!("sha1:{}", "0".repeat(40));
    let claimed = BY_SHA1.replacen(&format!("{zeros} /var/log/messages"), &format!("{hash} /usr/bin/python3"), 1);
    assert_ne!(claimed, BY_SHA1);
    let why = replay(claimed.as_bytes(), &quoted()).unwrap_err();
    assert!(matches!(why, ImaError::Entry { place: Place::Line(5), why: BadEntry::Violation }), "{why}");
    assert!(!why.is_no_list());
    let at = BINARY[0].windows(6).position(|part| part == b"sha1:\0").and_then(|first| {
        let rest = &BINARY[0][first + 6..];
        rest.windows(6).position(|part| part == b"sha1:\0").map(|second| first + 6 + second + 6)
    });
    let mut claimed = BINARY[0].to_vec();
    claimed[at.unwrap()] = 1;
    let why = replay(&claimed, &quoted()).unwrap_err();
    assert!(matches!(why, ImaError::Entry { place: Place::Record(5, _), why: BadEntry::Violation }), "{why}");
}

#[test]
fn a_bank_that_was_extended_with_sha1_hashes_proves_nothing() {
    let padded = BY_SHA1.lines().fold([0; 32], |pcr, line| {
        let hash = hex::decode(line.split(' ').nth(1).unwrap()).unwrap();
        let hash = if hash == [0; 20] { vec![0xff; 20] } else { hash };
        let hash = [hash, vec![0; 12]].concat();
        Sha256::new().chain_update(pcr).chain_update(hash).finalize().into()
    });
    for list in lists() {
        assert_eq!(replay(list, &padded), Err(ImaError::OnlySha1));
    }
    assert!(ImaError::OnlySha1.to_string().contains("kernels before 5.8"));
}

#[test]
fn a_name_with_a_line_break_breaks_the_text_and_not_the_binary_list() {
    let data = |name: &str| {
        let sized = |field: &[u8]| [&(field.len() as u32).to_le_bytes()[..], field].concat();
        [sized(&[b"sha256:\0".as_slice(), &[7; 32]].concat()), sized(format!("{name}\0").as_bytes())].concat()
    };
    let (name, template) = ("/tmp/a\n10 b", b"ima-ng");
    let data = data(name);
    let hash = Sha1::digest(&data);
    let text = format!("{BY_SHA1}10 {} ima-ng sha256:{} {name}\n", hex::encode(hash), "07".repeat(32));
    let mut binary = BINARY[0].to_vec();
    binary.extend([10, 0, 0, 0]);
    binary.extend(hash);
    for field in [template.as_slice(), &data] {
        binary.extend((field.len() as u32).to_le_bytes());
        binary.extend(field);
    }
    let pcr: [u8; 32] = Sha256::new().chain_update(quoted()).chain_update(Sha256::digest(&data)).finalize().into();
    assert_eq!(replay(&binary, &pcr), Ok(covered(9, 1)));
    let why = replay(text.as_bytes(), &pcr).unwrap_err();
    assert!(why.to_string().starts_with("line 9: the template hash is not that of its data"), "{why}");
    assert!(why.to_string().contains("has a line break (the list `binary_runtime_measurements`"), "{why}");
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
fn every_changed_bit_of_a_binary_list_is_detected_except_in_the_name_of_a_violation() {
    for list in BINARY {
        let name = list.windows(18).position(|part| part == b"/var/log/messages\0").unwrap();
        let free = |byte: usize| (name..name + 18).contains(&byte);
        // The algorithm of a violation's hash is text, too.
        let algorithm = list[..name].windows(6).rposition(|part| part == b"sha1:\0").unwrap();
        let free = |byte: usize| free(byte) || (algorithm..algorithm + 4).contains(&byte);
        for bit in (0..list.len() * 8).filter(|bit| !free(bit / 8)) {
            let mut bad = list.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(replay(&bad, &quoted()).is_err(), "bit {bit}");
        }
        for cut in 0..list.len() {
            assert!(replay(&list[..cut], &quoted()).is_err(), "cut at {cut}");
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
    let why = replay(b"11 00", &quoted()).unwrap_err();
    assert_eq!(why, ImaError::Entry { place: Place::Line(1), why: BadEntry::Form });
    assert!(why.is_no_list());
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
}

#[test]
fn an_empty_list_has_no_entry() {
    for empty in ["", "\n"] {
        let why = replay(empty.as_bytes(), &quoted()).unwrap_err();
        assert!(why.is_no_list(), "{why}");
    }
    assert_eq!(replay(b"", &quoted()), Err(ImaError::Empty));
}

#[test]
fn a_wrong_entry_behind_a_good_one_was_altered_and_is_not_another_file() {
    let good = BY_SHA1.lines().next().unwrap();
    for bad in
        [good.replacen("ima-ng", "ima-xx", 1), "x".to_owned(), good.replacen("10 ", "10 00", 1), format!("{good} 0")]
    {
        assert!(replay(bad.as_bytes(), &quoted()).unwrap_err().is_no_list(), "{bad}");
        assert!(!replay(format!("{good}\n{bad}").as_bytes(), &quoted()).unwrap_err().is_no_list(), "{bad}");
    }
    let altered = good.replacen("boot", "boat", 1);
    assert!(!replay(altered.as_bytes(), &quoted()).unwrap_err().is_no_list());
    let cut = replay(&BINARY[0][..BINARY[0].len() - 1], &quoted()).unwrap_err();
    assert!(matches!(cut, ImaError::Entry { place: Place::Record(8, _), why: BadEntry::Cut }), "{cut}");
}
