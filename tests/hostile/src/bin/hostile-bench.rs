//! Series of violations beside each attack, at several sizes of the victim: what `cargo xtask bench hostile` measures. Prints one
//! line of JSON for each attack and size, times in microseconds.

use anyhow::{Context, Result, bail};
use clap::Parser;
use hostile::{Act, Judge, Victim, attacks};
use integration::{Node, on_node};
use nix::sys::signal::Signal;
use serde_json::json;

/// Strikes until the attack is asked again, which may then begin anew: that takes half a minute where hundreds of runs are started.
const BATCH: usize = 40;
/// Runs that end while the victims are struck.
const ENDING: usize = 500;

type Attack = fn(&mut dyn Judge) -> Result<()>;

#[derive(Parser)]
struct Args {
    /// Strikes at each size, alone and under each attack
    #[arg(long, default_value_t = 40)]
    trials: usize,
    /// Busy processes of the victims
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    sizes: Vec<usize>,
    /// Only these attacks
    #[arg(long)]
    attack: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let all: [(&str, Attack); 12] = [
        ("followers", attacks::followers),
        ("idle", attacks::idle),
        ("health", attacks::health),
        ("events", attacks::events),
        ("opens", attacks::opens),
        ("metrics", attacks::metrics),
        ("policies", attacks::policies),
        ("descriptors", attacks::descriptors),
        ("compile", attacks::compile),
        ("full-disk", attacks::full_disk),
        ("disk", attacks::hanging_disk),
        ("ends", |judge| attacks::ends(judge, ENDING)),
    ];
    for (name, attack) in all {
        if args.attack.is_empty() || args.attack.iter().any(|wanted| wanted == name) {
            eprintln!("hostile: {name}");
            let mut series = Series { args: &args, done: false };
            attack(&mut series).with_context(|| format!("the attack {name}"))?;
            if !series.done {
                bail!("the attack {name} is not possible here: see the line `SKIP` above");
            }
        }
    }
    Ok(())
}

/// Strikes many times at victims of each size.
struct Series<'a> {
    args: &'a Args,
    done: bool,
}

/// A victim and its times, microseconds.
struct Sized {
    size: usize,
    victim: Victim,
    floor: Vec<f64>,
    alone: Vec<f64>,
    under: Vec<f64>,
}

impl Judge for Series<'_> {
    fn withstand(&mut self, attack: &str, settings: &str, act: &mut Act<'_>) -> Result<()> {
        let trials = self.args.trials;
        on_node(&format!("bench-{attack}"), settings, |node| {
            let mut all = self.args.sizes.iter().map(|size| Sized::start(node, *size)).collect::<Result<Vec<_>>>()?;
            for sized in &mut all {
                sized.alone(node, trials.div_ceil(2))?;
            }
            act(node, &mut |node| {
                let Some(sized) = all.iter_mut().find(|sized| sized.under.len() < trials) else { return Ok(false) };
                let batch = BATCH.min(trials - sized.under.len());
                let times = sized.strikes(node, batch)?;
                sized.under.extend(times);
                Ok(all.iter().any(|sized| sized.under.len() < trials))
            })?;
            for sized in &mut all {
                sized.alone(node, trials.div_ceil(2))?;
                println!(
                    "{}",
                    json!({ "attack": attack, "size": sized.size, "floor": sized.floor, "alone": sized.alone, "under": sized.under })
                );
            }
            Ok(())
        })?;
        self.done = true;
        Ok(())
    }
}

impl Sized {
    fn start(node: &Node, size: usize) -> Result<Sized> {
        let victim = Victim::start(node, &format!("victim-{size}"), size)?;
        victim.signal(Signal::SIGSTOP)?;
        Ok(Sized { size, victim, floor: Vec::new(), alone: Vec::new(), under: Vec::new() })
    }

    /// Strikes while the other victims are stopped: they would take the processors from this one.
    fn strikes(&mut self, node: &Node, times: usize) -> Result<Vec<f64>> {
        self.victim.signal(Signal::SIGCONT)?;
        let taken = (0..times).map(|_| Ok(self.victim.strike_and_thaw(node)?.as_secs_f64() * 1e6)).collect();
        self.victim.signal(Signal::SIGSTOP)?;
        taken
    }

    fn alone(&mut self, node: &Node, times: usize) -> Result<()> {
        let taken = self.strikes(node, times)?;
        self.alone.extend(taken);
        self.victim.signal(Signal::SIGCONT)?;
        for _ in 0..times {
            self.floor.push(self.victim.floor()?.as_secs_f64() * 1e6);
        }
        self.victim.signal(Signal::SIGSTOP)
    }
}
