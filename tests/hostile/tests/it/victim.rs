//! The victims, and the judge: how long from a violation to a cgroup that reads frozen, alone and under an attack.

use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use integration::{Launch, Node, Started, frozen, on_node, program};
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    time::{Duration, Instant},
};

/// Violations on each side of the comparison.
const STRIKES: usize = 3;
/// Under attack a freeze may take this many times the worst one alone ...
const FACTOR: u32 = 10;
/// ... or this long, for a machine that is busy with other tests.
const LEAST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

const POLICY: &str = "[policy]\nname = \"victim\"\nowner = \"tests\"\n[egress]\nallow = [{ cidr = \"127.0.0.1/32\" }]\n\
                      [[rule]]\nid = \"forbidden\"\nrationale = \"it is tried\"\n\
                      when = { event = \"connect\", verdict = \"denied\" }\nactions = [\"freeze\"]\n";
const FORBIDDEN: &str = "tcp 127.0.0.9:4444\n";

/// A run that violates its policy when it is told to, once.
struct Victim {
    run: Started,
    order: File,
}

impl Victim {
    fn start(node: &Node, n: usize) -> Result<Victim> {
        let name = format!("victim-{n}");
        let fifo = node.file(&format!("{name}.fifo"));
        mkfifo(&fifo, Mode::from_bits_truncate(0o600)).context("making a fifo")?;
        let violator = program("violator")?;
        let command = format!("exec {} --ask < {}", violator.display(), fifo.display());
        let run = Launch::new(&name, POLICY).user("root").start(node, ["sh", "-c", &command])?;
        // Opening waits until the victim reads.
        let order = OpenOptions::new().write(true).open(&fifo).context("opening the fifo")?;
        Ok(Victim { run, order })
    }

    /// From the order to violate until the kernel says that the run is frozen.
    fn strike(mut self) -> Result<Duration> {
        let began = Instant::now();
        self.order.write_all(FORBIDDEN.as_bytes()).context("ordering the violation")?;
        while !frozen(self.run.cgroup())? {
            ensure!(began.elapsed() < PATIENCE, "{} was not frozen within {} s", self.run.name(), PATIENCE.as_secs());
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(began.elapsed())
    }
}

/// Strikes without the attack, then lets `attack` starve its resource and call what it is given, which strikes again.
pub fn withstand(
    attack: &str,
    settings: &str,
    act: impl FnOnce(&mut Node, &mut dyn FnMut() -> Result<()>) -> Result<()>,
) -> Result<()> {
    on_node(&format!("hostile-{attack}"), settings, |node| {
        let mut victims: Vec<Victim> = (0..2 * STRIKES).map(|n| Victim::start(node, n)).collect::<Result<_>>()?;
        let mut strike = || victims.drain(..STRIKES).map(Victim::strike).collect::<Result<Vec<Duration>>>();
        let alone = strike().context("without the attack")?;
        let mut under = None;
        act(node, &mut || {
            under = Some(strike().with_context(|| format!("under the attack {attack}"))?);
            Ok(())
        })?;
        judge(attack, &alone, &under.context("the attack did not strike")?)
    })
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
    let limit = (alone * FACTOR).max(LEAST);
    ensure!(
        under <= limit,
        "{attack}: violation to frozen took {}, limit {} (alone {})",
        ms(under),
        ms(limit),
        ms(alone)
    );
    Ok(())
}
