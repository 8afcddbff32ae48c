//! The judge of the tests: a few strikes alone and a few under the attack, with a generous limit.

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use hostile::{Act, Judge, Victim};
use integration::{on_node, patience};
use std::time::Duration;

/// Violations on each side of the comparison.
const STRIKES: usize = 3;
/// Under attack a freeze may take this many times the worst one alone ...
const FACTOR: u32 = 10;
/// ... or this long, for a machine that is busy with other tests; an emulated one may take longer.
const LEAST: Duration = Duration::from_secs(1);

/// Each victim is struck once.
pub struct Once;

impl Judge for Once {
    fn withstand(&mut self, attack: &str, settings: &str, act: &mut Act<'_>) -> Result<()> {
        on_node(&format!("hostile-{attack}"), settings, |node| {
            let start = |n| Victim::start(node, &format!("victim-{n}"), 1);
            let mut victims: Vec<Victim> = (0..2 * STRIKES).map(start).collect::<Result<_>>()?;
            let (first, second) = victims.split_at_mut(STRIKES);
            let alone = strike(first).context("without the attack")?;
            let mut under = None;
            act(node, &mut |_| {
                under = Some(strike(second).with_context(|| format!("under the attack {attack}"))?);
                Ok(false)
            })?;
            judge(attack, &alone, &under.context("the attack did not strike")?)
        })
    }
}

fn strike(victims: &mut [Victim]) -> Result<Vec<Duration>> {
    victims.iter_mut().map(Victim::strike).collect()
}

fn judge(attack: &str, alone: &[Duration], under: &[Duration]) -> Result<()> {
    let worst = |all: &[Duration]| all.iter().max().copied().unwrap_or_default();
    let (alone, under) = (worst(alone), worst(under));
    let ratio = under.as_secs_f64() / alone.as_secs_f64().max(1e-6);
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(["attack", "alone", "under attack", "ratio"]);
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    table.add_row([attack.to_owned(), ms(alone), ms(under), format!("{ratio:.1}")]);
    println!("{table}");
    let limit = (alone * FACTOR).max(patience(LEAST));
    ensure!(
        under <= limit,
        "{attack}: violation to frozen took {}, limit {} (alone {})",
        ms(under),
        ms(limit),
        ms(alone)
    );
    Ok(())
}
