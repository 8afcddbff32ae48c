//! The tree and its proofs: the vectors of the reference implementation of RFC 6962, and a naive tree over random ones.

#![expect(clippy::unwrap_used, reason = "helpers of tests; a failed unwrap is a failed test")]

use failsafe_tlog::collect::NoProof;
use failsafe_tlog::hash::empty_root;
use failsafe_tlog::proof::{Wrong, verify_consistency, verify_inclusion};
use failsafe_tlog::{Collector, Frontier, Hash, leaf_hash, node_hash};
use proptest::prelude::*;

/// Leaves of github.com/google/certificate-transparency, `merkletree/merkle_tree_test.cc`.
const LEAVES: [&str; 8] =
    ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
/// Roots of the trees of their first 1 to 8.
const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn hash(text: &str) -> Hash {
    hex::decode(text).unwrap().try_into().unwrap()
}

fn leaves() -> Vec<Hash> {
    LEAVES.iter().map(|leaf| leaf_hash(&hex::decode(leaf).unwrap())).collect()
}

fn tree(leaves: &[Hash]) -> Frontier {
    let mut frontier = Frontier::new();
    leaves.iter().for_each(|leaf| frontier.push(*leaf));
    frontier
}

/// `MTH` as RFC 6962 section 2.1 defines it.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(half(leaves.len()));
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// `PATH`.
fn naive_path(at: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut path, other) = match at < left.len() {
        true => (naive_path(at, left), naive_root(right)),
        false => (naive_path(at - left.len(), right), naive_root(left)),
    };
    path.push(other);
    path
}

/// `SUBPROOF`.
fn naive_consistency(earlier: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
    if earlier == leaves.len() {
        return if known { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let (left, right) = leaves.split_at(half(leaves.len()));
    let (mut proof, other) = match earlier <= left.len() {
        true => (naive_consistency(earlier, left, known), naive_root(right)),
        false => (naive_consistency(earlier - left.len(), right, false), naive_root(left)),
    };
    proof.push(other);
    proof
}

fn half(len: usize) -> usize {
    len.next_power_of_two() / 2
}

fn collect(mut collector: Collector, leaves: &[Hash]) -> Result<(Vec<Hash>, Hash), NoProof> {
    leaves.iter().for_each(|leaf| collector.push(*leaf));
    collector.finish().map(|(mut proofs, root)| (proofs.remove(0), root))
}

#[test]
fn roots_of_the_reference_trees() {
    let leaves = leaves();
    assert_eq!(hex::encode(Frontier::new().root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (at, root) in ROOTS.iter().enumerate() {
        assert_eq!(hex::encode(tree(&leaves[..=at]).root()), *root, "{} leaves", at + 1);
    }
}

#[test]
fn inclusion_proofs_of_the_reference_trees() {
    let cases: [(u64, u64, &[&str]); 5] = [
        (0, 1, &[]),
        (
            0,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            &[
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, &["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            &[
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    let leaves = leaves();
    for (index, size, expected) in cases {
        let (proof, root) = collect(Collector::inclusion(&Frontier::new(), &[index], size).unwrap(), &leaves).unwrap();
        assert_eq!(proof.iter().map(hex::encode).collect::<Vec<_>>(), expected, "{index} of {size}");
        assert_eq!(hex::encode(root), ROOTS[usize::try_from(size).unwrap() - 1]);
        verify_inclusion(index, size, &leaves[usize::try_from(index).unwrap()], &proof, &root).unwrap();
    }
}

#[test]
fn consistency_proofs_of_the_reference_trees() {
    let cases: [(u64, u64, &[&str]); 4] = [
        (1, 1, &[]),
        (
            1,
            8,
            &[
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            6,
            8,
            &[
                "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (
            2,
            5,
            &[
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ];
    let leaves = leaves();
    for (earlier, later, expected) in cases {
        let collector = Collector::consistency(&Frontier::new(), earlier, later).unwrap();
        let (proof, root) = collect(collector, &leaves).unwrap();
        assert_eq!(proof.iter().map(hex::encode).collect::<Vec<_>>(), expected, "{earlier} in {later}");
        let root_of = |size: u64| hash(ROOTS[usize::try_from(size).unwrap() - 1]);
        assert_eq!(root, root_of(later));
        verify_consistency((earlier, &root_of(earlier)), (later, &root), &proof).unwrap();
    }
}

#[test]
fn each_way_to_be_wrong_has_its_own_message() {
    let all = leaves();
    let root = tree(&all).root();
    let (proof, _) = collect(Collector::inclusion(&Frontier::new(), &[2], 8).unwrap(), &all).unwrap();
    let check = |index, size, leaf: &Hash, proof: &[Hash]| verify_inclusion(index, size, leaf, proof, &root);
    assert_eq!(check(2, 8, &all[2], &proof), Ok(()));
    assert!(matches!(check(8, 8, &all[2], &proof), Err(Wrong::Outside { index: 8, size: 8 })));
    assert!(matches!(check(2, 8, &all[2], &proof[..2]), Err(Wrong::Length { expected: 3, found: 2 })));
    assert!(matches!(check(3, 8, &all[2], &proof), Err(Wrong::Root { .. })));
    assert!(matches!(check(2, 8, &all[3], &proof), Err(Wrong::Root { .. })));
    let (proof, _) = collect(Collector::consistency(&Frontier::new(), 6, 8).unwrap(), &all).unwrap();
    let six = hash(ROOTS[5]);
    assert_eq!(verify_consistency((6, &six), (8, &root), &proof), Ok(()));
    assert!(matches!(verify_consistency((8, &root), (6, &six), &proof), Err(Wrong::Smaller { earlier: 8, later: 6 })));
    assert!(matches!(verify_consistency((6, &hash(ROOTS[4])), (8, &root), &proof), Err(Wrong::Fork { .. })));
    assert!(matches!(verify_consistency((6, &six), (8, &six), &proof), Err(Wrong::Root { .. })));
    assert!(matches!(verify_consistency((6, &six), (6, &root), &[]), Err(Wrong::Fork { .. })));
    assert!(matches!(verify_consistency((0, &root), (8, &root), &[]), Err(Wrong::Fork { .. })));
    assert!(matches!(
        collect(Collector::inclusion(&Frontier::new(), &[2], 8).unwrap(), &all[..7]),
        Err(NoProof::Short { found: 7, size: 8 })
    ));
}

/// The edge at entry 5 stands for the entries before it: everything behind it can be proved, and nothing before.
#[test]
fn what_was_removed_is_not_proved_and_everything_else_is() {
    let leaves = leaves();
    let root = tree(&leaves).root();
    for removed in 0..=8 {
        let base = tree(&leaves[..removed]);
        for index in 0..8 {
            let collector = Collector::inclusion(&base, &[index as u64], 8);
            if index < removed {
                assert!(matches!(collector, Err(NoProof::Removed { .. })), "{index} of {removed}");
                continue;
            }
            let (proof, _) = collect(collector.unwrap(), &leaves[removed..]).unwrap();
            assert_eq!(proof, naive_path(index, &leaves), "{index} behind {removed}");
            verify_inclusion(index as u64, 8, &leaves[index], &proof, &root).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn proofs_are_those_of_a_naive_tree(
        count in 1_usize..70, a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(),
        removed in any::<prop::sample::Index>(), flip in any::<prop::sample::Index>(),
    ) {
        let leaves: Vec<Hash> = (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let root = naive_root(&leaves);
        prop_assert_eq!(tree(&leaves).root(), root);
        let index = a.index(count);
        let base = removed.index(index + 1);
        let edge = tree(&leaves[..base]);
        prop_assert_eq!(&Frontier::restore(base as u64, edge.hashes().to_vec()).unwrap(), &edge);

        let collector = Collector::inclusion(&edge, &[index as u64], count as u64).unwrap();
        let (proof, collected) = collect(collector, &leaves[base..]).unwrap();
        prop_assert_eq!(&proof, &naive_path(index, &leaves));
        prop_assert_eq!(collected, root);
        let check = |proof: &[Hash], leaf: &Hash| verify_inclusion(index as u64, count as u64, leaf, proof, &root);
        prop_assert!(check(&proof, &leaves[index]).is_ok());
        let mut changed = leaves[index];
        changed[flip.index(32)] ^= 1;
        prop_assert!(check(&proof, &changed).is_err());
        for at in 0..proof.len() {
            let mut bad = proof.clone();
            bad[at][flip.index(32)] ^= 0x80;
            prop_assert!(check(&bad, &leaves[index]).is_err());
        }

        let earlier = 1 + b.index(count);
        let base = removed.index(earlier + 1);
        let collector = Collector::consistency(&tree(&leaves[..base]), earlier as u64, count as u64).unwrap();
        let (proof, _) = collect(collector, &leaves[base..]).unwrap();
        prop_assert_eq!(&proof, &naive_consistency(earlier, &leaves, true));
        let old = naive_root(&leaves[..earlier]);
        let check = |old: &Hash, proof: &[Hash]| {
            verify_consistency((earlier as u64, old), (count as u64, &root), proof)
        };
        prop_assert!(check(&old, &proof).is_ok());
        let mut changed = old;
        changed[flip.index(32)] ^= 1;
        prop_assert!(check(&changed, &proof).is_err());
        for at in 0..proof.len() {
            let mut bad = proof.clone();
            bad[at][flip.index(32)] ^= 4;
            prop_assert!(check(&old, &bad).is_err());
        }
    }
}

#[test]
fn proofs_that_are_collected_in_one_pass_are_those_of_each_leaf_alone() {
    let leaves: Vec<Hash> = (0..21_u8).map(|n| leaf_hash(&[n])).collect();
    let wanted = [3_u64, 4, 5, 11, 20, 4];
    for base in 0..=3 {
        let edge = tree(&leaves[..base]);
        let mut together = Collector::inclusion(&edge, &wanted, 21).unwrap();
        leaves[base..].iter().for_each(|leaf| together.push(*leaf));
        let (proofs, root) = together.finish().unwrap();
        assert_eq!((proofs.len(), root), (wanted.len(), tree(&leaves).root()));
        for (index, proof) in wanted.iter().zip(&proofs) {
            let alone = collect(Collector::inclusion(&edge, &[*index], 21).unwrap(), &leaves[base..]).unwrap();
            assert_eq!(*proof, alone.0, "{index} from {base}");
            verify_inclusion(*index, 21, &leaves[usize::try_from(*index).unwrap()], proof, &root).unwrap();
        }
    }
    let base = tree(&leaves[..4]);
    assert!(matches!(Collector::inclusion(&base, &wanted, 21), Err(NoProof::Removed { from: 3, .. })));
}
