//! `DiscoveryService`.

use super::{Context, peer::Peer};
use crate::{
    config::Config,
    runs::{
        Registry,
        delegation::{Delegated, DelegationError},
    },
};
use failsafe_core::{Mode, RunId, discover::Explained};
use failsafe_proto::{ErrorReason, v1};
use std::{path::Path, sync::Arc};
use tonic::{Request, Response, Status};

/// Most bytes of a path.
const MOST_BYTES: usize = 4_096;

/// `DiscoveryService`.
pub struct Discovery(pub Arc<Context>);

#[tonic::async_trait]
impl v1::discovery_service_server::DiscoveryService for Discovery {
    async fn test(
        &self,
        request: Request<v1::DiscoveryTestRequest>,
    ) -> Result<Response<v1::DiscoveryTestResponse>, Status> {
        self.0.principal(&request)?.on_node()?;
        let share = Peer::of(&request)?.share();
        let v1::DiscoveryTestRequest { path } = request.into_inner();
        if path.is_empty() || path.len() > MOST_BYTES {
            return Err(ErrorReason::InvalidRequest
                .status(format!("path: expected the path of a cgroup, 1 to {MOST_BYTES} bytes")));
        }
        let context = self.0.clone();
        Ok(Response::new(self.0.work(share).read(share, move || explained(&context, &path)).await?))
    }

    async fn list(
        &self,
        request: Request<v1::DiscoveryListRequest>,
    ) -> Result<Response<v1::DiscoveryListResponse>, Status> {
        let caller = self.0.principal(&request)?;
        caller.on_node()?;
        let gpus = |run| {
            let live = self.0.registry.get(run).filter(|live| caller.may_see(live.known()).is_some());
            live.map(|live| live.status().gpus.iter().map(ToString::to_string).collect()).unwrap_or_default()
        };
        let view = self.0.discovery.view().clone();
        let limits = &self.0.config.discovery;
        let rules = view.rules.into_iter().map(|rule| v1::DiscoveryRule {
            name: rule.name,
            patterns: rule.patterns,
            policy: rule.policy,
            mode: mode(rule.mode).into(),
            error: rule.error.unwrap_or_default(),
            registered: rule.registered,
            refused: rule.refused,
            early: rule.early,
        });
        let cgroups = view.found.into_iter().map(|found| {
            let overruled = found.overruled;
            let (run_id, gpus, refused) = match found.state {
                Ok(run) => (run.to_string(), gpus(run), String::new()),
                Err(why) => (String::new(), Vec::new(), why),
            };
            v1::DiscoveredCgroup { path: found.path, rule: found.rule, run_id, refused, overruled, gpus }
        });
        Ok(Response::new(v1::DiscoveryListResponse {
            rules: rules.collect(),
            cgroups: cgroups.collect(),
            unlisted: view.unlisted.into_iter().collect(),
            watched: view.watched.0,
            watches: view.watched.1,
            overflows: view.overflows,
            problem: view.problem.unwrap_or_default(),
            runs_per_owner: limits.runs_per_owner,
            runs: limits.runs,
            early_off: view.early.off.unwrap_or_default(),
            early_slots: limits.early_slots,
            early_bound: view.early.bound,
            early_missed: view.early.missed,
        }))
    }
}

/// Why a user may not register this cgroup: a rule of discovery has it, or one around it, or one that may be made below. A run there would
/// keep the policy of the rule away. `path` is one below the mount.
pub(super) fn claimed(config: &Config, registry: &Registry, path: &Path) -> Result<Option<String>, Status> {
    let claims = Claims { config, registry };
    let found = match claims.at(path)? {
        // What is made directly below has a name of root's, if it is root's to make it.
        None => claims.below(path, &path.join("x"))?,
        found => found,
    };
    let refusal = |what| {
        format!(
            "{what}: a run of your own there would keep its policy away; ask root or the administrators' group to register it"
        )
    };
    Ok(found.map(refusal))
}

/// Why a user in cgroup `from` may not start a run below `parent`: a rule of discovery has the cgroup that the process would leave, or
/// the one in which the run would be, or one below that. Both are paths below the mount.
pub(super) fn claimed_start(
    config: &Config,
    registry: &Registry,
    from: &Path,
    parent: &Path,
) -> Result<Option<String>, Status> {
    let claims = Claims { config, registry };
    // As `Place::Below` is named; patterns do not tell one id from another.
    let place = parent.join(format!("run-{}", RunId(uuid::Uuid::nil())));
    let found = match (claims.at(from)?, claims.at(&place)?) {
        (None, None) => claims.below(&place, &place)?,
        (of_caller, of_place) => of_caller.or(of_place),
    };
    let refusal = |what| {
        format!(
            "{what}: a run of your own would keep its policy away; start it from a cgroup that no rule has, or ask root or the \
             administrators' group to start it for you (`failsafectl run --user`)"
        )
    };
    Ok(found.map(refusal))
}

/// The cgroups that rules of discovery have.
struct Claims<'a> {
    config: &'a Config,
    registry: &'a Registry,
}

impl Claims<'_> {
    /// Which rule has this cgroup, or one around it.
    fn at(&self, path: &Path) -> Result<Option<String>, Status> {
        let root = &self.config.discovery.root;
        let Ok(below) = path.strip_prefix("/").unwrap_or(path).strip_prefix(root) else { return Ok(None) };
        for at in below.ancestors().filter(|at| !at.as_os_str().is_empty()) {
            let Some(text) = at.to_str() else { continue };
            if let Explained::Match(found) = self.config.discover.0.explain(text)
                && self.is_of_root(&root.join(at))?
            {
                return Ok(Some(format!("rule {} of discovery has cgroup {}", found.rule.name, at.display())));
            }
        }
        Ok(None)
    }

    /// Which rule may have a cgroup that is made below this one. `made`: one that is made there.
    fn below(&self, path: &Path, made: &Path) -> Result<Option<String>, Status> {
        let (root, path) = (&self.config.discovery.root, path.strip_prefix("/").unwrap_or(path));
        let below = match path.strip_prefix(root) {
            Ok(below) => below,
            Err(_) if root.starts_with(path) => Path::new(""),
            Err(_) => return Ok(None),
        };
        let Some(rule) = below.to_str().and_then(|text| self.config.discover.0.leading_below(text)) else {
            return Ok(None);
        };
        let what = || format!("rule {} of discovery has cgroups below /{}", rule.name, path.display());
        Ok(self.is_of_root(made.strip_prefix("/").unwrap_or(made))?.then(what))
    }

    /// Whether only root names cgroups beside this one: what a user may name is nothing to discovery.
    fn is_of_root(&self, path: &Path) -> Result<bool, Status> {
        let mount = self.registry.root().mount();
        let failed = |why: DelegationError| ErrorReason::CgroupUnusable.status(crate::causes::chain(&why));
        let path = mount.join(path);
        let named = Delegated::named_by_others(&path, mount).map_err(failed)?;
        Ok(named.is_none() && Delegated::around(&path, mount).map_err(failed)?.is_none())
    }
}

fn explained(context: &Context, asked: &str) -> v1::DiscoveryTestResponse {
    let mount = context.registry.root().mount();
    let root = &context.config.discovery.root;
    // An absolute path is one of the file system, a relative one begins where patterns do.
    let path = match Path::new(asked).strip_prefix(mount.join(root)) {
        Ok(below) => below.display().to_string(),
        Err(_) => asked.trim_matches('/').to_owned(),
    };
    let mut out = v1::DiscoveryTestResponse { path: path.clone(), ..Default::default() };
    match context.config.discover.0.explain(&path) {
        Explained::Match(found) => {
            out.rule.clone_from(&found.rule.name);
            out.pattern = found.pattern.to_string();
            out.policy.clone_from(&found.rule.policy);
            out.mode = mode(found.rule.mode).into();
            out.labels = found.labels.into_iter().collect();
        }
        Explained::Supervisor { rule, why } => {
            out.rule = rule.into();
            out.supervisor = why.into();
        }
        Explained::None(misses) => {
            let miss = |miss: &failsafe_core::discover::Miss<'_>| v1::DiscoveryMiss {
                rule: miss.rule.into(),
                pattern: miss.pattern.into(),
                why: miss.stop.to_string(),
            };
            out.misses = misses.iter().map(miss).collect();
        }
    }
    let of_path = root.join(&path).display().to_string();
    if let Some(found) = context.discovery.view().found.iter().find(|found| found.path == of_path) {
        match &found.state {
            Ok(run) => out.run_id = run.to_string(),
            Err(why) => out.refused.clone_from(why),
        }
    }
    out
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
    }
}
