//! All patterns as one automaton over the bytes of a path, for the kernel, which judges a cgroup when it is made.
//!
//! ```text
//! Rules ─► expressions, supervisors first ─► regex-automata: DFA ─► states by number, bytes by class
//! ```
//! Invariant: a path that the automaton gives a rule is one of which [`Rules::explain`] says the same. The reverse does not hold: a path
//! with other bytes than ASCII, or below `user.slice`, is left to user space, and so is a level that may be a supervisor's.

use super::rule::Rules;
use regex_automata::{
    Anchored, MatchKind,
    dfa::{Automaton as _, StartKind, dense},
    nfa::thompson,
    util::{primitives::StateID, start, syntax},
};
use std::collections::{BTreeMap, VecDeque};

/// Most classes of bytes.
pub const CLASSES: usize = 64;
/// Most states: a state takes 132 bytes of kernel memory.
const MOST_STATES: usize = 16_384;
/// Most bytes that are used to make it.
const MOST_BYTES: usize = 64 << 20;

/// Paths that are never bound by the kernel: those that [`super::supervisor`] names, with more room, and the sessions of users, of which
/// the kernel does not know who is an administrator.
const LEFT_TO_USER_SPACE: [&str; 5] = [
    r"[^/]*\.slice/[^/]*slurmstepd\.scope(/[^/]*(/[^/]*(/slurm(/.*)?)?)?)?",
    r"(machine\.slice|libpod_parent|kubepods|kubepods\.slice)/(.*/)?(conmon|(libpod-|crio-)?conmon-[^/]*)(/.*)?",
    r"(system|machine)\.slice/(.*/)?[^/]*\.(service|scope)/(runtime|supervisor)",
    r"(.*/user@[^/]*/)?init\.scope",
    r"user\.slice(/.*)?",
];

/// A state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// The next state, by class; 0: nothing matches any more.
    pub next: Vec<u16>,
    /// The rule, by its place in the configuration, of a path that ends here.
    pub rule: Option<usize>,
}

/// The automaton. State 0 is the one from which nothing matches, state 1 the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Automaton {
    /// The class of each byte.
    pub class_of: [u8; 256],
    /// All states.
    pub states: Vec<State>,
}

impl Automaton {
    /// The rule of a path, as the kernel finds it.
    pub fn rule_of(&self, path: &str) -> Option<usize> {
        let step =
            |state: u16, byte: u8| self.states[usize::from(state)].next[usize::from(self.class_of[usize::from(byte)])];
        self.states[usize::from(path.bytes().fold(1, step))].rule
    }
}

impl Rules {
    /// The automaton for paths that begin with `root`, which is empty or a path without a `/` at its ends. The path itself begins
    /// with `/`.
    ///
    /// # Errors
    /// It would be too large.
    pub fn automaton(&self, root: &str) -> Result<Automaton, String> {
        let root = match root {
            "" => String::from("/"),
            root => format!("/{}/", regex::escape(root)),
        };
        let begun = |expression: &str| format!("(?s-u){root}(?:{expression})");
        let owners = self.iter().enumerate().flat_map(|(at, rule)| rule.patterns.iter().map(move |own| (at, own)));
        let owners: Vec<_> = owners.collect();
        let left = LEFT_TO_USER_SPACE.iter().map(|expression| begun(expression));
        let all: Vec<String> = left.chain(owners.iter().map(|(_, pattern)| begun(&pattern.expression()))).collect();
        let dfa = dense::Builder::new()
            .configure(
                dense::Config::new()
                    .match_kind(MatchKind::All)
                    .start_kind(StartKind::Anchored)
                    .dfa_size_limit(Some(MOST_BYTES))
                    .determinize_size_limit(Some(MOST_BYTES)),
            )
            .syntax(syntax::Config::new().unicode(false).utf8(false))
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(MOST_BYTES)))
            .build_many(&all)
            .map_err(|error| format!("the patterns make too large an automaton: {error}"))?;
        // The first one that matches counts.
        let rule = |pattern: usize| Some(owners.get(pattern.checked_sub(LEFT_TO_USER_SPACE.len())?)?.0);
        numbered(&dfa, rule)
    }
}

/// The states that can be reached by ASCII, in the order in which they are found.
fn numbered(dfa: &dense::DFA<Vec<u32>>, rule: impl Fn(usize) -> Option<usize>) -> Result<Automaton, String> {
    let begin = dfa.start_state(&start::Config::new().anchored(Anchored::Yes));
    let begin = begin.map_err(|error| format!("the automaton has no first state: {error}"))?;
    let mut numbers: BTreeMap<StateID, u16> = BTreeMap::from([(begin, 1)]);
    let mut found: Vec<([u16; 128], Option<usize>)> = vec![([0; 128], None)];
    let mut todo = VecDeque::from([begin]);
    while let Some(state) = todo.pop_front() {
        let mut next = [0; 128];
        // A folder has no name with a NUL.
        for byte in 1..128u8 {
            let to = dfa.next_state(state, byte);
            if dfa.is_dead_state(to) || dfa.is_quit_state(to) {
                continue;
            }
            let new = u16::try_from(numbers.len() + 1).unwrap_or(u16::MAX);
            let number = *numbers.entry(to).or_insert_with(|| {
                todo.push_back(to);
                new
            });
            next[usize::from(byte)] = number;
        }
        if numbers.len() >= MOST_STATES {
            return Err(format!("the patterns make an automaton of more than {MOST_STATES} states"));
        }
        let end = dfa.next_eoi_state(state);
        let matches =
            (0..if dfa.is_match_state(end) { dfa.match_len(end) } else { 0 }).map(|n| dfa.match_pattern(end, n));
        found.push((next, matches.map(|pattern| pattern.as_usize()).min().and_then(&rule)));
    }
    classed(&found)
}

/// Puts bytes into one class that lead to the same state from everywhere.
fn classed(found: &[([u16; 128], Option<usize>)]) -> Result<Automaton, String> {
    let mut columns: BTreeMap<Vec<u16>, u8> = BTreeMap::from([(vec![0; found.len()], 0)]);
    let (mut class_of, mut firsts) = ([0; 256], vec![0usize]);
    for byte in 1..128usize {
        let column: Vec<u16> = found.iter().map(|(next, _)| next[byte]).collect();
        let new = u8::try_from(columns.len()).unwrap_or(u8::MAX);
        class_of[byte] = *columns.entry(column).or_insert_with(|| {
            firsts.push(byte);
            new
        });
    }
    if firsts.len() > CLASSES {
        return Err(format!("the patterns tell {} classes of characters apart (limit {CLASSES})", firsts.len()));
    }
    let state = |(next, rule): &([u16; 128], Option<usize>)| State {
        next: firsts.iter().map(|byte| next[*byte]).collect(),
        rule: *rule,
    };
    Ok(Automaton { class_of, states: found.iter().map(state).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Mode,
        discover::{Explained, Labels, Preset, Rule},
    };
    use proptest::prelude::*;

    fn rules(all: &[(&str, &[&str])]) -> Rules {
        let rule = |(name, patterns): &(&str, &[&str])| Rule {
            name: (*name).into(),
            patterns: patterns.iter().map(|text| text.parse().unwrap()).collect(),
            policy: "p".into(),
            shadow: None,
            mode: Mode::Enforce,
            labels: Labels::new(),
        };
        Rules::new(all.iter().map(rule).collect()).unwrap()
    }

    fn all_presets() -> Rules {
        let all: Vec<_> = Preset::ALL.iter().map(|preset| (preset.name(), preset.texts())).collect();
        rules(&all)
    }

    fn explained(rules: &Rules, path: &str) -> Option<usize> {
        match rules.explain(path) {
            Explained::Match(found) => rules.iter().position(|rule| rule.name == found.rule.name),
            Explained::Supervisor { .. } | Explained::None(_) => None,
        }
    }

    /// Presets between patterns that match some of the same paths.
    fn mixed() -> Rules {
        let mut all =
            vec![("systemd", &["system.slice/run-u{unit:number}.service", "system.slice/{a}.service/{b}"][..])];
        all.extend(Preset::ALL.iter().map(|preset| (preset.name(), preset.texts())));
        all.push(("rest", &["system.slice/{a}/{b}", "machine.slice/{a}/{b}", "docker/*", "kubepods/{x}/{y}"]));
        rules(&all)
    }

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "01234567_89ab_cdef_0123_456789abcdef";

    #[test]
    fn paths_of_all_presets_are_found_by_the_automaton_but_for_sessions_of_users() {
        let rules = all_presets();
        let automaton = rules.automaton("").unwrap();
        for (path, bound) in [
            ("system.slice/slurmstepd.scope/job_7/step_0/user".to_owned(), true),
            ("system.slice/n1_slurmstepd.scope/s7K3B0/step_batch/user".to_owned(), true),
            (
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD}.slice/crio-{ID}.scope"),
                true,
            ),
            (format!("kubepods/besteffort/pod{POD}/{ID}"), true),
            (format!("system.slice/docker-{ID}.scope"), true),
            (format!("machine.slice/libpod-{ID}.scope"), true),
            (format!("system.slice/train.service/libpod-payload-{ID}"), true),
            (format!("libpod_parent/libpod-{ID}"), true),
            (format!("libpod_parent/{ID}/libpod-{ID}"), true),
            ("system.slice/run-p812-i4711.scope".to_owned(), true),
            ("system.slice/run-r0123456789abcdef0123456789abcdef.service".to_owned(), true),
            ("user.slice/user-1000.slice".to_owned(), false),
        ] {
            let found = automaton.rule_of(&format!("/{path}"));
            assert_eq!(found.is_some(), bound, "{path}");
            assert!(explained(&rules, &path).is_some(), "{path}");
            assert!(found.is_none() || found == explained(&rules, &path), "{path}");
        }
        assert!(automaton.states.len() < 8_192, "{} states", automaton.states.len());
        assert!(automaton.states.iter().all(|state| state.next.len() <= CLASSES));
    }

    #[test]
    fn supervisors_and_paths_that_user_space_reads_otherwise_are_left_to_it() {
        let rules =
            rules(&[("any", &["system.slice/{a}", "system.slice/{a}/{b}", "system.slice/{a}/{b}/{c}", "x/{a}"])]);
        let automaton = rules.automaton("").unwrap();
        for path in [
            "/system.slice/slurmstepd.scope",
            "/system.slice/n1_slurmstepd.scope/job_7",
            "/system.slice/slurmstepd.scope/job_7/step_0",
            "/system.slice/train.service/runtime",
            "/system.slice/docker.scope/supervisor",
            "/x/ü",
            "/x/a/b",
            "x/a",
            "/y/a",
        ] {
            assert_eq!(automaton.rule_of(path), None, "{path}");
        }
        assert_eq!(automaton.rule_of("/x/a\nb"), Some(0));
        assert_eq!(automaton.rule_of("/system.slice/train.service/runtimes"), Some(0));
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_paths_begin_at_the_root() {
        let rules = rules(&[("digits", &["jobs/job_{n:number}"]), ("all", &["jobs/job_*", "jobs/*.x/*-end"])]);
        let automaton = rules.automaton("a.b/c").unwrap();
        assert_eq!(automaton.rule_of("/a.b/c/jobs/job_7"), Some(0));
        assert_eq!(automaton.rule_of("/a.b/c/jobs/job_x"), Some(1));
        assert_eq!(automaton.rule_of("/a.b/c/jobs/job_"), Some(1));
        assert_eq!(automaton.rule_of("/a.b/c/jobs/q.x/r-end"), Some(1));
        assert_eq!(automaton.rule_of("/jobs/job_7"), None);
        assert_eq!(automaton.rule_of("/aXb/c/jobs/job_7"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn what_the_automaton_finds_is_what_user_space_finds(path in prop_oneof![
            "(system|machine|kubepods|user)\\.slice(/(n1_)?slurmstepd\\.scope)?(/(job_[0-9]{1,2}|step_[a-z0-9]|slurm|user|conmon-?[a]?|runtime)){0,4}",
            "(system|machine)\\.slice/(run-[up][0-9]{1,11}(-i[0-9])?\\.(service|scope)|t\\.service/(runtime|supervisor|x)|init\\.scope)",
            "(system\\.slice|docker|kubepods|libpod_parent)/[ -~é]{0,12}(/[ -~]{0,6})?",
        ]) {
            // The kernel's paths have no empty part.
            prop_assume!(!path.contains("//") && !path.ends_with('/'));
            thread_local!(static MADE: std::cell::OnceCell<(Rules, Automaton)> = const { std::cell::OnceCell::new() });
            let (found, expected) = MADE.with(|made| {
                let (rules, automaton) = made.get_or_init(|| {
                    let rules = mixed();
                    let automaton = rules.automaton("").unwrap();
                    (rules, automaton)
                });
                (automaton.rule_of(&format!("/{path}")), explained(rules, &path))
            });
            prop_assert!(found.is_none() || found == expected, "{path}: {found:?}, {expected:?}");
        }
    }
}
