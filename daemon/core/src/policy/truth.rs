//! Three-valued logic (Kleene's strong logic) of conditions: what is not known neither trips a rule nor clears it.
//!
//! `all`, `any` and `at_least` are one operation, [`Truth::at_least`]: `all` of k is at least k of them, `any` is at least 1.

use super::Fit;

/// The truth of a condition or a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Truth {
    /// It does not hold.
    False,
    /// It may hold or not: a value is missing, not a number, or not seen.
    #[default]
    Unknown,
    /// It holds.
    True,
}

impl Truth {
    /// The word in messages and documents.
    pub fn name(self) -> &'static str {
        match self {
            Truth::False => "false",
            Truth::Unknown => "unknown",
            Truth::True => "true",
        }
    }

    /// At least `n` of them hold. True if that many are true, false if that many cannot become true, else unknown.
    pub fn at_least(n: usize, of: impl IntoIterator<Item = Truth>) -> Truth {
        let (mut holds, mut may) = (0, 0);
        for truth in of {
            holds += usize::from(truth == Truth::True);
            may += usize::from(truth != Truth::False);
        }
        if holds >= n {
            Truth::True
        } else if may >= n {
            Truth::Unknown
        } else {
            Truth::False
        }
    }
}

impl std::ops::Not for Truth {
    type Output = Truth;

    fn not(self) -> Truth {
        match self {
            Truth::False => Truth::True,
            Truth::Unknown => Truth::Unknown,
            Truth::True => Truth::False,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { Truth::True } else { Truth::False }
    }
}

impl From<Fit> for Truth {
    fn from(fit: Fit) -> Truth {
        match fit {
            Fit::No => Truth::False,
            Fit::Unknown => Truth::Unknown,
            Fit::Yes => Truth::True,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Truth::{False, True, Unknown};
    use proptest::prelude::*;

    const ALL: [Truth; 3] = [False, Unknown, True];

    fn all(of: &[Truth]) -> Truth {
        Truth::at_least(of.len(), of.iter().copied())
    }

    fn any(of: &[Truth]) -> Truth {
        Truth::at_least(1, of.iter().copied())
    }

    #[test]
    fn the_truth_table_of_two_parts_is_that_of_the_documentation() {
        let document = include_str!("../../../../docs/policy-rules.md");
        let mut rows = 0;
        for a in ALL {
            for b in ALL {
                let row = format!(
                    "| {} | {} | {} | {} | {} |",
                    a.name(),
                    b.name(),
                    all(&[a, b]).name(),
                    any(&[a, b]).name(),
                    (!a).name()
                );
                assert!(document.contains(&row), "docs/policy-rules.md has no row `{row}`");
                rows += 1;
            }
        }
        assert_eq!(rows, 9);
    }

    #[test]
    fn all_is_the_least_of_its_parts_and_any_the_greatest() {
        for a in ALL {
            for b in ALL {
                assert_eq!(all(&[a, b]), a.min(b), "{a:?} {b:?}");
                assert_eq!(any(&[a, b]), a.max(b), "{a:?} {b:?}");
            }
        }
        assert_eq!([!False, !Unknown, !True], [True, Unknown, False]);
    }

    #[test]
    fn at_least_two_of_three() {
        for (of, expected) in [
            ([True, True, False], True),
            ([True, True, Unknown], True),
            ([True, Unknown, False], Unknown),
            ([True, Unknown, Unknown], Unknown),
            ([Unknown, Unknown, False], Unknown),
            ([Unknown, Unknown, Unknown], Unknown),
            ([True, False, False], False),
            ([Unknown, False, False], False),
        ] {
            assert_eq!(Truth::at_least(2, of), expected, "{of:?}");
        }
    }

    proptest! {
        /// The definition of Kleene's logic: a result is known exactly if every replacement of the unknown parts gives it.
        #[test]
        fn a_result_is_known_exactly_if_the_unknown_parts_cannot_change_it(
            parts in prop::collection::vec(prop::sample::select(&ALL[..]), 1..7),
            n in 1usize..8,
        ) {
            let unknown = parts.iter().filter(|truth| **truth == Unknown).count();
            let results: std::collections::BTreeSet<Truth> = (0..1u32 << unknown).map(|mask| {
                let mut bit = 0;
                let known = parts.iter().map(|truth| match truth {
                    Unknown => {
                        bit += 1;
                        Truth::from(mask >> (bit - 1) & 1 == 1)
                    }
                    known => *known,
                });
                Truth::at_least(n, known)
            }).collect();
            let expected = if results.len() == 1 { *results.first().unwrap() } else { Unknown };
            prop_assert_eq!(Truth::at_least(n, parts), expected);
        }
    }
}
