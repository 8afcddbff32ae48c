//! `RunService.List`: the runs that a caller may see, chosen by labels and given in pages.
//!
//! Invariant: runs are in the order of their ids, so that a page goes on behind the last run of the page before, whatever
//! started and ended in between.

use super::{Context, authorize::Principal, convert, peer::Peer, shared_gpus::Holders};
use crate::runs::{FoundRun, Registry, grants::grants};
use failsafe_core::RunId;
use failsafe_proto::{ErrorReason, v1};
use std::{collections::BTreeMap, sync::Arc};
use tonic::{Request, Status};

/// Most requirements of a selector.
const REQUIREMENTS: usize = 32;

/// Texts of one kind of a run in a list.
const TEXTS: usize = 8;

/// Answers a request of `List`.
///
/// # Errors
/// `INVALID_REQUEST`: the selector or the token is none.
pub(super) async fn list(
    context: &Arc<Context>,
    request: Request<v1::ListRequest>,
) -> Result<v1::ListResponse, Status> {
    let who = context.principal(&request)?;
    let share = Peer::of(&request)?.share();
    let v1::ListRequest { all, selector, page_size, page_token } = request.into_inner();
    let selector = Selector::parse(&selector).map_err(|why| ErrorReason::InvalidRequest.status(why))?;
    let behind = match page_token.as_str() {
        "" => None,
        token => Some(token.parse::<RunId>().map_err(|_| {
            ErrorReason::InvalidRequest.status("page_token: expected the `next_page_token` of an answer")
        })?),
    };
    let (context, only_own) = (context.clone(), !who.sees_all());
    // On a thread: how a run stands is asked of the kernel under a lock that a start may hold.
    let work = context.work(share).clone();
    let page = work.read(share, move || {
        let registry = &context.registry;
        let mut found = visible_runs(registry, all, &who);
        found.retain(|found| selector.selects(&found.run().labels));
        let ids = found.iter().map(|found| found.run().id);
        let (place, next) = page(ids, behind, page_size as usize);
        let grants = grants(registry.kernel());
        let holders = Holders::now(registry);
        let shown = |found: &FoundRun| {
            let warnings = holders.warnings(registry, &who, found);
            brief(v1::Run { warnings, ..convert::run(registry, found, &grants) })
        };
        let runs = found[place].iter().map(shown).collect();
        (runs, next.map(|id| id.to_string()).unwrap_or_default())
    });
    let (runs, next_page_token) = page.await?;
    Ok(v1::ListResponse { runs, only_own, next_page_token })
}

/// A run as a list has it: a policy can have thousands of rules, and a few runs of one user must not make the list too large to be
/// read. `Get` has all texts.
fn brief(mut run: v1::Run) -> v1::Run {
    for texts in [
        &mut run.blind_rules,
        &mut run.disarmed_rules,
        &mut run.unknown_rules,
        &mut run.not_enforced,
        &mut run.warnings,
    ] {
        let more = texts.len().saturating_sub(TEXTS);
        if more > 0 {
            texts.truncate(TEXTS);
            texts.push(format!("and {more} more: describe the run"));
        }
    }
    run
}

/// The runs that the caller may see, each once, in the order of their ids.
fn visible_runs(registry: &Registry, all: bool, who: &Principal) -> Vec<FoundRun> {
    found(registry, all).into_values().filter(|found| who.may_see(found.run()).is_some()).collect()
}

/// All runs, ended ones too.
pub(super) fn all_runs(registry: &Registry) -> BTreeMap<RunId, FoundRun> {
    found(registry, true)
}

/// Each run once.
fn found(registry: &Registry, all: bool) -> BTreeMap<RunId, FoundRun> {
    let (live, guarded) = registry.live_and_guarded();
    let (live, guarded) = (live.into_iter().map(FoundRun::Live), guarded.into_iter().map(FoundRun::Guarded));
    let ended = all.then(|| registry.ended().into_iter().map(FoundRun::Ended));
    // One that ends between the two looks is in both: the first one counts.
    let mut found: BTreeMap<RunId, FoundRun> = BTreeMap::new();
    for one in live.chain(guarded).chain(ended.into_iter().flatten()) {
        found.entry(one.run().id).or_insert(one);
    }
    found
}

/// Which of the ids, in their order, are on the page behind `behind`, and the last one of the page where there are more.
fn page(
    ids: impl Iterator<Item = RunId>,
    behind: Option<RunId>,
    size: usize,
) -> (std::ops::Range<usize>, Option<RunId>) {
    let ids: Vec<RunId> = ids.collect();
    let first = behind.map_or(0, |behind| ids.partition_point(|id| *id <= behind));
    let end = if size == 0 { ids.len() } else { ids.len().min(first.saturating_add(size)) };
    let next = ids.get(end.wrapping_sub(1)).copied().filter(|_| end < ids.len());
    (first..end, next)
}

/// What the labels of a run must be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    /// `None`: any value.
    value: Option<String>,
    /// The label must not be so.
    not: bool,
}

impl Selector {
    /// By its text, as in a request.
    ///
    /// # Errors
    /// What is wrong with it, beginning with the name of the field.
    pub(super) fn parse(text: &str) -> Result<Selector, String> {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()).collect();
        if parts.len() > REQUIREMENTS {
            return Err(format!("selector: {} requirements: expected at most {REQUIREMENTS}", parts.len()));
        }
        parts.into_iter().map(Requirement::parse).collect::<Result<_, _>>().map(Selector)
    }

    /// Whether a run with these labels is chosen.
    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|one| one.holds(labels))
    }
}

impl Requirement {
    fn parse(text: &str) -> Result<Requirement, String> {
        let (key, value, not) = match text.split_once('=') {
            Some((key, value)) => {
                let (key, not) = key.strip_suffix('!').map_or((key, false), |key| (key, true));
                // `==` is `=`, as elsewhere.
                (key, Some(value.strip_prefix('=').unwrap_or(value).trim().to_owned()), not)
            }
            None => (text.strip_prefix('!').unwrap_or(text), None, text.starts_with('!')),
        };
        let key = key.trim();
        if key.is_empty() || key.contains(['!', '(', ')', ' ']) {
            return Err(format!(
                "selector: `{text}`: expected KEY=VALUE, KEY!=VALUE, KEY or !KEY, separated by commas"
            ));
        }
        Ok(Requirement { key: key.to_owned(), value, not })
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let is = match (&self.value, labels.get(&self.key)) {
            (None, label) => label.is_some(),
            (Some(wanted), label) => label == Some(wanted),
        };
        is != self.not
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn ids(ids: &[u128]) -> impl Iterator<Item = RunId> {
        ids.iter().map(|n| RunId(Uuid::from_u128(*n))).collect::<Vec<_>>().into_iter()
    }

    fn id(n: u128) -> Option<RunId> {
        Some(RunId(Uuid::from_u128(n)))
    }

    #[test]
    fn a_list_has_a_few_texts_of_each_run_and_says_how_many_more_there_are() {
        let texts = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
        let run = v1::Run { not_enforced: texts(5_000), blind_rules: texts(TEXTS), ..v1::Run::default() };
        let brief = brief(run);
        assert_eq!(brief.blind_rules, texts(TEXTS), "all of them");
        assert_eq!(brief.not_enforced.len(), TEXTS + 1);
        assert_eq!(brief.not_enforced[TEXTS], "and 4992 more: describe the run");
    }

    #[test]
    fn pages_hold_each_run_once_although_runs_start_and_end_in_between() {
        assert_eq!(page(ids(&[1, 3, 5]), None, 0), (0..3, None), "all of them without a size");
        assert_eq!(page(ids(&[1, 3, 5]), None, 2), (0..2, id(3)));
        assert_eq!(page(ids(&[1, 5]), id(3), 2), (1..2, None), "the last one of the first page is gone");
        assert_eq!(page(ids(&[1, 2, 3, 4, 5]), id(3), 1), (3..4, id(4)), "others started");
        assert_eq!(page(ids(&[1, 3, 5]), id(5), 2), (3..3, None));
        assert_eq!(page(ids(&[]), None, 2), (0..0, None));
        assert_eq!(page(ids(&[1, 3]), None, 2), (0..2, None), "nothing follows the last page");
    }

    #[test]
    fn selectors_choose_by_labels() {
        let labels = [("team", "vision"), ("job", "17")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let selects = |text: &str| Selector::parse(text).unwrap().selects(&labels);
        for holds in ["", " ", "team=vision", "team==vision", "team", "!user", "user!=root", "team = vision, job=17"] {
            assert!(selects(holds), "{holds}");
        }
        for fails in ["team=nlp", "!team", "user", "team!=vision", "team=vision,job=18", "team="] {
            assert!(!selects(fails), "{fails}");
        }
    }

    #[test]
    fn wrong_selectors_are_refused() {
        for wrong in ["=x", ",", "team=a,", "team in (a, b)", "!!team", "!team=a!b=c", &"a,".repeat(40)] {
            let selector = Selector::parse(wrong);
            assert!(selector.is_err_and(|why| why.starts_with("selector: ")), "{wrong}");
        }
    }
}
