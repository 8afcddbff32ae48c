//! What only the whole file can get wrong: who the GPUs are, which GPU a fault means,
//! where relative paths lead.

use super::parse::Problem;
use super::tables::{ClockKind, FaultTable, GpuTable, ProcessPid, ScenarioTable};
use super::{ClockSource, GpuSpec, PciAddress, Scenario};
use crate::clock::read_seconds;
use crate::faults::Fault;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;

/// More would be no machine that exists, and a typing error in `count`.
const MOST_GPUS: usize = 64;

pub(super) fn check(table: ScenarioTable, folder: &Path) -> Result<Scenario, Problem> {
    let clock = clock(&table, folder)?;
    let mut gpus = Vec::new();
    let table_duplicates = table.driver.duplicate_uuids;
    for table in table.gpu {
        add_gpus(&mut gpus, table, folder, table_duplicates)?;
    }
    let faults = table.fault.into_iter().map(|fault| check_fault(fault, gpus.len())).collect::<Result<_, _>>()?;
    Ok(Scenario { driver: table.driver, clock, live: table.live.unwrap_or(true), gpus, faults })
}

fn problem(span: Range<usize>, message: String) -> Problem {
    Problem { span, message }
}

fn clock(table: &ScenarioTable, folder: &Path) -> Result<ClockSource, Problem> {
    let kind = table.clock.as_ref().map(|it| (*it.get_ref(), it.span()));
    match (kind, &table.clock_file) {
        (Some((ClockKind::File, _)), Some(file)) => {
            let path = folder.join(file.get_ref());
            read_seconds(&path).map_err(|message| problem(file.span(), message))?;
            Ok(ClockSource::File(path))
        }
        (Some((ClockKind::File, span)), None) => Err(problem(span, "clock = \"file\" needs clock_file".into())),
        (_, Some(file)) => Err(problem(file.span(), "clock_file needs clock = \"file\"".into())),
        (_, None) => Ok(ClockSource::Wall),
    }
}

fn add_gpus(gpus: &mut Vec<GpuSpec>, table: Spanned<GpuTable>, folder: &Path, duplicates: bool) -> Result<(), Problem> {
    let span = table.span();
    let mut table = table.into_inner();
    for process in &mut table.processes {
        if let ProcessPid::File(path) = &mut process.pid {
            *path = folder.join(&*path);
        }
    }
    let most = table.model.mig_devices as usize;
    if table.mig.as_ref().is_some_and(|mig| mig.len() > most) {
        return Err(problem(span, format!("{} has at most {most} MIG devices", table.model.key)));
    }
    let devices = table.mig.as_ref().map_or(0, Vec::len);
    if table.processes.iter().any(|process| process.mig.is_some_and(|mig| mig >= devices)) {
        return Err(problem(span, format!("a process is in a MIG device that is not there: there are {devices}")));
    }
    if table.events.iter().any(|event| event.mig.is_some_and(|mig| mig >= devices)) {
        return Err(problem(span, format!("an event is of a MIG device that is not there: there are {devices}")));
    }
    if let Some(fans) = &table.fans {
        let each = fans.get_ref().speed.len();
        if table.fan.is_some() || each == 0 || fans.get_ref().rpm.as_ref().is_some_and(|rpm| rpm.len() != each) {
            let message = "fans has a speed for each fan, and as many in rpm; fan is not given beside it";
            return Err(problem(fans.span(), message.into()));
        }
    }
    let count = table.count.unwrap_or(1);
    if count == 0 || gpus.len() + count > MOST_GPUS {
        return Err(problem(span, format!("count {count} makes no machine of 1 to {MOST_GPUS} GPUs")));
    }
    if count > 1 && (table.uuid.is_some() || table.pci.is_some() || table.serial.is_some()) {
        return Err(problem(span, "GPUs made by count cannot share one uuid, pci or serial".into()));
    }
    for _ in 0..count {
        add_gpu(gpus, table.clone(), span.clone(), duplicates)?;
    }
    Ok(())
}

fn add_gpu(gpus: &mut Vec<GpuSpec>, table: GpuTable, span: Range<usize>, duplicates: bool) -> Result<(), Problem> {
    let index = gpus.len();
    let (uuid, uuid_span) = match &table.uuid {
        Some(uuid) => (uuid.get_ref().clone(), uuid.span()),
        None => (format!("GPU-5afe0000-0000-4000-8000-{index:012x}"), span.clone()),
    };
    let (pci, pci_span) = match &table.pci {
        Some(pci) => (*pci.get_ref(), pci.span()),
        None => (PciAddress::default_of(index), span),
    };
    if uuid.is_empty() || uuid.len() >= 80 {
        return Err(problem(uuid_span, "a uuid has 1 to 79 bytes".into()));
    }
    if !duplicates && gpus.iter().any(|other| other.uuid == uuid) {
        return Err(problem(uuid_span, format!("the uuid {uuid} is used twice")));
    }
    if gpus.iter().any(|other| other.pci == pci) {
        return Err(problem(pci_span, format!("the PCI address {pci} is used twice")));
    }
    let serial = table.serial.clone().unwrap_or_else(|| format!("16523{index:08}"));
    gpus.push(GpuSpec { uuid, serial, pci, table });
    Ok(())
}

fn check_fault(fault: FaultTable, gpu_count: usize) -> Result<Fault, Problem> {
    if let Some(gpu) = fault.gpu.as_ref().filter(|gpu| *gpu.get_ref() >= gpu_count) {
        let message = format!("there is no GPU {}: the scenario has {gpu_count}", gpu.get_ref());
        return Err(problem(gpu.span(), message));
    }
    let FaultTable { function, gpu, from, until, latency, effect } = fault;
    Ok(Fault { function, gpu: gpu.map(Spanned::into_inner), from, until, latency, effect })
}
