//! Who is drawn, and what follows from the counts.

use super::*;

fn arms(candidate: [u64; 3], control: [u64; 3]) -> Arms {
    let arm = |[runs, ended, contained]: [u64; 3]| Arm { runs, ended, contained };
    Arms { candidate: arm(candidate), control: arm(control) }
}

fn terms(promote: &[&str], withdraw: &[&str]) -> Terms {
    let parsed = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
    Terms {
        share_ppm: 100_000,
        runs_at_least: 10,
        hold: Span::from_secs(3_600),
        promote_if: parsed(promote),
        withdraw_if: parsed(withdraw),
    }
}

#[test]
fn a_share_of_the_runs_is_drawn_and_the_same_run_is_always_drawn_alike() {
    let drawn = |secret: u8, canary: &str| -> Vec<usize> {
        let side = |n: &usize| draw(&[secret; 32], canary, &["1000", &n.to_string()], 100_000);
        (0..10_000).filter(|n| side(n) == Side::Candidate).collect()
    };
    let one = drawn(1, "a");
    // Ten standard deviations are 300; the hash is fixed, so this holds always or never.
    assert!((700..1_300).contains(&one.len()), "{}", one.len());
    assert_eq!(one, drawn(1, "a"));
    assert_ne!(one, drawn(2, "a"), "another node draws others");
    assert_ne!(one, drawn(1, "b"), "another canary draws others");
    let sides = |who: [&str; 2]| (0..64).map(|n| draw(&[n; 32], "a", &who, 500_000)).collect::<Vec<Side>>();
    assert_ne!(sides(["ab", "c"]), sides(["a", "bc"]), "the parts do not run into one another");
}

#[test]
fn a_label_names_the_canary_and_the_side() {
    for side in [Side::Candidate, Side::Control] {
        assert_eq!(Side::of_label(&side.label("trainer@7")), Some(("trainer@7", side)));
    }
    assert_eq!(Side::of_label("trainer@7 other"), None);
    assert_eq!(Side::of_label("trainer@7"), None);
}

#[test]
fn a_criterion_is_read_as_it_is_shown_and_others_are_refused() {
    for text in ["contained > 0", "excess > 2", "excess <= 0", "share <= 5%", "share > 100%"] {
        assert_eq!(text.parse::<Criterion>().unwrap().to_string(), text);
        assert_eq!(text.replace(' ', "").parse::<Criterion>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "excess",
        "excess > ",
        "excess > x",
        "excess >= 2",
        "excess < 2",
        "excess > -1",
        "excess > +1",
        "excess > 1.5",
        "excess > 2%",
        "share > 5",
        "share > 101%",
        "share > 5%%",
        "freezes > 2",
        "contained > 99999999999",
        "a > b <= 3",
    ] {
        let error = text.parse::<Criterion>().unwrap_err().to_string();
        assert!(error.contains("expected contained, excess or share"), "{text}: {error}");
    }
}

#[test]
fn terms_that_compare_with_nothing_or_never_withdraw_are_refused() {
    let good = terms(&["excess <= 0"], &["excess > 2"]);
    assert_eq!(good.check(), Ok(()));
    let bad = [
        Terms { share_ppm: 0, ..good.clone() },
        Terms { share_ppm: 900_001, ..good.clone() },
        Terms { runs_at_least: 0, ..good.clone() },
        Terms { hold: Span::from_secs(366 * 86_400), ..good.clone() },
        Terms { withdraw_if: Vec::new(), ..good.clone() },
        Terms { withdraw_if: vec!["excess <= 2".parse().unwrap()], ..good.clone() },
        Terms { promote_if: vec!["excess > 2".parse().unwrap()], ..good.clone() },
        Terms { promote_if: vec!["contained <= 2".parse().unwrap(); MOST_CRITERIA + 1], ..good.clone() },
    ];
    for terms in bad {
        assert!(terms.check().is_err(), "{terms:?}");
    }
}

#[test]
fn a_candidate_is_withdrawn_at_once_when_it_contains_more_runs_than_the_control_share() {
    let terms = terms(&["excess <= 0"], &["excess > 2"]);
    let withdrawn = |arms: &Arms| matches!(terms.judge(arms, Span::from_secs(1_000_000)), Finding::Withdraw(_));
    assert!(!withdrawn(&arms([10, 0, 2], [90, 0, 0])));
    assert!(withdrawn(&arms([10, 0, 3], [90, 0, 0])), "before any run has ended");
    assert!(!withdrawn(&arms([10, 0, 3], [90, 0, 9])), "one of ten is what the control has: 2 are beyond");
    assert!(withdrawn(&arms([10, 0, 4], [90, 0, 9])));
    assert!(withdrawn(&arms([10, 0, 3], [0, 0, 0])), "without control runs all are beyond");
    assert!(!withdrawn(&arms([10, 10, 0], [10, 10, 10])), "containing less is no reason");
    let why = terms.judge(&arms([10, 0, 3], [90, 0, 0]), Span(0));
    assert_eq!(why, Finding::Withdraw("excess > 2 (excess = 3.0)".into()));
}

#[test]
fn a_candidate_is_promoted_only_after_enough_runs_and_time_with_all_criteria_met() {
    let terms = terms(&["excess <= 0", "share <= 50%"], &["contained > 5"]);
    let long = Span::from_secs(3_600);
    let finding = |arms: &Arms, held: Span| match terms.judge(arms, held) {
        Finding::Promote(_) => "promote".to_owned(),
        Finding::Wait(why) => why,
        Finding::Withdraw(why) => format!("withdraw {why}"),
    };
    let good = arms([12, 10, 1], [90, 80, 9]);
    assert_eq!(finding(&good, long), "promote");
    assert_eq!(finding(&good, Span::from_secs(3_599)), "the criteria have held for 59 of 60 minutes");
    assert_eq!(finding(&arms([12, 9, 1], [90, 80, 9]), long), "9 of 10 runs with the candidate have ended");
    assert_eq!(finding(&arms([12, 10, 2], [90, 80, 9]), long), "not met: excess <= 0 (excess = 0.8)");
    assert!(finding(&arms([12, 10, 0], [0, 0, 0]), long).contains("without a control run"), "nothing to compare with");
    assert!(finding(&arms([0, 0, 0], [5, 5, 0]), long).contains("no run yet"));
    assert_eq!(finding(&arms([12, 10, 6], [12, 12, 12]), long), "withdraw contained > 5 (contained = 6)");
    assert!(terms.holds(&good) && !terms.holds(&arms([12, 10, 2], [90, 80, 9])));
    let by_command = Terms { promote_if: Vec::new(), ..terms.clone() };
    assert!(matches!(by_command.judge(&good, long), Finding::Wait(_)), "it is promoted by command only");
}

#[test]
fn a_canary_waits_for_a_person_when_its_criteria_decide_nothing() {
    let (hour, day) = (Span::from_secs(3_600), Span::from_secs(86_400));
    let (enough, too_few) = (arms([12, 10, 0], [90, 80, 0]), arms([12, 9, 0], [90, 80, 0]));
    let worse = arms([12, 10, 1], [90, 80, 0]);
    let by_command = terms(&[], &["excess > 2"]);
    assert!(by_command.waits_for_command(&enough, hour), "nothing promotes it");
    assert!(!by_command.waits_for_command(&enough, Span::from_secs(3_599)), "the time is not over");
    assert!(!by_command.waits_for_command(&too_few, day));
    assert!(!by_command.waits_for_command(&arms([12, 10, 5], [90, 80, 0]), day), "it is withdrawn");
    let by_criteria = terms(&["excess <= 0"], &["excess > 2"]);
    assert!(by_criteria.waits_for_command(&worse, Span(0)), "neither promoted nor withdrawn");
    assert!(!by_criteria.waits_for_command(&enough, Span(0)), "the time decides it");
    assert!(!by_criteria.waits_for_command(&enough, hour), "it is promoted");
}
