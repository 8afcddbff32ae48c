//! What comes in, in a test.

use super::Reader;
use crate::{
    events::{self, Given},
    file::{Feed, What},
    names::{CURVE, INPUT, STEPS},
    values::{Shape, Steps, Values},
};
use failsafe_core::{
    event::{EventKind, Field},
    input::Command,
    policy::{
        MODES, OF_EVENTS, PHASES,
        condition::event_source,
        diagnostic::{did_you_mean, nearest, quote},
        fields::{Fields, Known, Literal, found, literal},
        reference::is_manifest_key,
    },
    signal::{Kind, Real, Series, Source},
    subject::{GpuId, Process},
    time::Span,
    unit::{self, Unit},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

const COMMANDS: &[(&str, Command)] = &[("freeze", Command::Freeze), ("thaw", Command::Thaw), ("kill", Command::Kill)];
/// The sensors that can be blind in a test.
const SOURCES: [Source; 5] = [Source::Ebpf, Source::Cgroup, Source::Nvml, Source::App, Source::Amdgpu];
/// What an input can be.
const WHAT: [&str; 10] =
    ["signal", "event", "phase", "manifest", "blind", "lost", "unread", "operator", "mode", "ends"];
/// Values of a list whose input has no `every` come so far apart.
const EVERY: Span = Span::from_secs(1);

impl Reader<'_> {
    pub(super) fn input(
        &mut self,
        table: &DeTable<'_>,
        span: Range<usize>,
        gpus: &BTreeSet<GpuId>,
        length: Option<Span>,
    ) -> Option<Feed> {
        let mut fields = Fields::of_table(self.wrong, table, span.clone(), &Known::new("[[test.input]]", &INPUT));
        let line = self.line(&span);
        let at = fields.duration(self.wrong, "at").map_or(Some(Span(0)), |text| self.duration(&text));
        let every = fields.duration(self.wrong, "every").map(|text| self.some_time(&text));
        let lasts = fields.duration(self.wrong, "for").map(|text| self.some_time(&text));
        let given: Vec<&str> = WHAT.into_iter().filter(|name| fields.has(name)).collect();
        // `mode` is also a word of expectations, and `kind` and `name` are fields of events.
        let [what] = given.as_slice() else {
            let message = format!("expected exactly one of {} in an input", WHAT.join(", "));
            self.wrong.error(span, message, None);
            return None;
        };
        self.only(&fields, what);
        let what = self.what(what, &mut fields, gpus, lasts)?;
        let (at, every) = (at?, every.map_or(Some(None), |every| every.map(Some))?);
        let lasts = lasts.map_or(Some(None), |lasts| lasts.map(Some))?;
        let (every, count) = self.repeats(&what, at, every, lasts, length, span)?;
        Some(Feed { line, at, every, count, what })
    }

    /// Fields that say nothing here.
    fn only(&mut self, fields: &Fields<'_>, what: &str) {
        let fits = |name: &str| match what {
            "signal" => matches!(name, "value" | "gpu" | "rank" | "step"),
            "phase" => name == "rank",
            "event" => name == "gpu" || OF_EVENTS.contains(&name),
            "unread" => name == "gpu",
            _ => false,
        };
        for name in ["value", "gpu", "rank", "step"].into_iter().chain(OF_EVENTS.iter().copied()) {
            if let (Some(span), false) = (fields.span_of(name), fits(name)) {
                self.wrong.error(span, format!("`{name}` has no meaning beside `{what}`"), None);
            }
        }
    }

    fn repeats(
        &mut self,
        what: &What,
        at: Span,
        every: Option<Span>,
        lasts: Option<Span>,
        length: Option<Span>,
        span: Range<usize>,
    ) -> Option<(Span, u64)> {
        if let What::Blind(..) | What::Unread(..) = what {
            if every.is_some() {
                self.wrong.error(span, "`every` has no meaning here: `for` is how long it lasts", None);
                return None;
            }
            return Some((Span(0), 1));
        }
        let listed = if let What::Values { values, .. } = what { values.listed() } else { None };
        match (every, lasts, listed) {
            (every, None, Some(n)) if n > 1 => Some((every.unwrap_or(EVERY), n)),
            (None, None, _) => Some((Span(0), 1)),
            (None, Some(_), _) => {
                let message = "expected `every` beside `for`: the time between two, such as every = \"1s\"";
                self.wrong.error(span, message, None);
                None
            }
            (Some(every), Some(lasts), _) => Some((every, lasts.0.div_ceil(every.0))),
            (Some(every), None, _) => match length {
                Some(length) if length > at => Some((every, (length.0 - at.0).div_ceil(every.0))),
                _ => {
                    let message = "expected `for` beside `every`, or `length` in the test: how long it is repeated";
                    self.wrong.error(span, message, None);
                    None
                }
            },
        }
    }

    fn what(
        &mut self,
        what: &str,
        fields: &mut Fields<'_>,
        gpus: &BTreeSet<GpuId>,
        lasts: Option<Option<Span>>,
    ) -> Option<What> {
        let sources = SOURCES.map(|source| (source.name(), source));
        let forever = lasts.map_or(Some(crate::file::MAX_LENGTH), |lasts| lasts);
        match what {
            "signal" => self.signal(fields, gpus),
            "event" => self.event(fields, gpus),
            "phase" => {
                let phase = fields.choice(self.wrong, "phase", PHASES)?;
                let (kind, series) =
                    (Kind::Metric(failsafe_core::policy::tree::PHASE_METRIC.to_owned()), self.rank(fields)?);
                let values = Values::List(vec![Some(f64::from(phase.number()))]);
                Some(What::Values { kind, gpus: Vec::new(), series, values, steps: Steps::EACH })
            }
            "manifest" => self.manifest(fields),
            "blind" => Some(What::Blind(fields.choice(self.wrong, "blind", &sources)?, forever?)),
            "lost" => Some(What::Lost(fields.choice(self.wrong, "lost", &sources)?)),
            "unread" => {
                let name = fields.text(self.wrong, "unread")?;
                let kind = self.kind(&name)?;
                if !kind.is_read_of_a_gpu() {
                    self.wrong.error(name.span(), "expected a signal that is read of a GPU", None);
                    return None;
                }
                Some(What::Unread(kind, self.of_gpus(fields, gpus)?, forever?))
            }
            "operator" => fields.choice(self.wrong, "operator", COMMANDS).map(What::Operator),
            "mode" => fields.choice(self.wrong, "mode", MODES).map(What::Mode),
            _ => {
                let text = fields.text(self.wrong, "ends")?;
                self.series(&text).map(What::Ends)
            }
        }
    }

    /// Numbers of the run's manifest, by section and name.
    fn manifest(&mut self, fields: &mut Fields<'_>) -> Option<What> {
        let value = fields.value("manifest")?;
        let DeValue::Table(table) = value.get_ref() else {
            let message = "expected a table, such as manifest = { \"hyperparameters.target\" = 2.5 }";
            self.wrong.error(value.span(), message, None);
            return None;
        };
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let number = match literal(value.get_ref()) {
                Some(Literal::Integer(number)) => Some(number as f64),
                Some(Literal::Float(number)) => Some(number).filter(|number| number.is_finite()),
                Some(Literal::Text(_)) | None => None,
            };
            match (is_manifest_key(key.get_ref()), number) {
                (true, Some(number)) => drop(values.insert(key.get_ref().to_string(), Real(number))),
                (false, _) => {
                    let message = "expected a section and a name, such as \"hyperparameters.target\"";
                    self.wrong.error(key.span(), message, None);
                    return None;
                }
                (true, None) => {
                    self.wrong.error(value.span(), "expected a finite number", None);
                    return None;
                }
            }
        }
        if values.is_empty() {
            self.wrong.error(value.span(), "expected at least one number", None);
            return None;
        }
        Some(What::Manifest(values))
    }

    fn rank(&mut self, fields: &mut Fields<'_>) -> Option<Series> {
        match fields.text(self.wrong, "rank") {
            Some(text) => self.series(&text),
            None if fields.has("rank") => None,
            None => Some(Series::Rank("0".to_owned())),
        }
    }

    fn series(&mut self, text: &Spanned<String>) -> Option<Series> {
        let series = Series::rank(text.get_ref());
        if series.is_none() {
            self.wrong.error(text.span(), "expected a rank, such as \"0\"", None);
        }
        series
    }

    /// The GPUs that are meant: the one that is named, or all of the run.
    fn of_gpus(&mut self, fields: &mut Fields<'_>, gpus: &BTreeSet<GpuId>) -> Option<Vec<GpuId>> {
        match fields.text(self.wrong, "gpu") {
            None if fields.has("gpu") => None,
            None if gpus.is_empty() => {
                let message = "expected the GPUs of the run in the test, such as gpus = [\"GPU-0\"]";
                self.wrong.error(fields.span.clone(), message, None);
                None
            }
            None => Some(gpus.iter().cloned().collect()),
            Some(name) if gpus.contains(&GpuId(name.get_ref().clone())) => Some(vec![GpuId(name.into_inner())]),
            Some(name) => {
                let known: Vec<&str> = gpus.iter().map(|gpu| gpu.0.as_str()).collect();
                let message = format!("{} is not among the `gpus` of the test", quote(name.get_ref()));
                self.wrong.error(name.span(), message, did_you_mean(name.get_ref(), known));
                None
            }
        }
    }

    fn kind(&mut self, name: &Spanned<String>) -> Option<Kind> {
        let kind = Kind::parse(name.get_ref());
        if kind.is_none() {
            let names: Vec<String> = Kind::ALL.iter().map(Kind::to_string).collect();
            let help = did_you_mean(name.get_ref(), names.iter().map(String::as_str))
                .unwrap_or_else(|| "docs/policy-index.md lists the signals; a metric is metric.NAME".to_owned());
            self.wrong.error(name.span(), format!("unknown signal {}", quote(name.get_ref())), Some(help));
        }
        kind
    }

    fn signal(&mut self, fields: &mut Fields<'_>, gpus: &BTreeSet<GpuId>) -> Option<What> {
        let name = fields.text(self.wrong, "signal")?;
        let kind = self.kind(&name);
        fields.require(self.wrong, "value", "its value, such as value = 2.3, or a list, or value = { ramp = [2, 80] }");
        let kind = kind?;
        if kind.is_derived() {
            let of: Vec<String> = kind.made_of().iter().map(Kind::to_string).collect();
            let message = format!("{kind} is computed from {}: give these", of.join(", "));
            self.wrong.error(name.span(), message, None);
            return None;
        }
        let of_gpus = if kind.is_of_a_gpu() { self.of_gpus(fields, gpus)? } else { Vec::new() };
        if let (Some(span), false) = (fields.span_of("gpu"), kind.is_of_a_gpu()) {
            self.wrong.error(span, format!("{kind} is not a signal of GPUs"), None);
        }
        if let (Some(span), false) = (fields.span_of("rank"), matches!(kind, Kind::Metric(_))) {
            self.wrong.error(span, format!("{kind} is not a metric of the run, so it has no ranks"), None);
        }
        if let (Some(span), false) = (fields.span_of("step"), matches!(kind, Kind::Metric(_))) {
            self.wrong.error(span, format!("{kind} is not a metric of the run, so it has no steps"), None);
        }
        let series = self.rank(fields)?;
        let value = fields.value("value")?;
        let values = self.values(&kind, value)?;
        let steps = self.steps(fields)?;
        Some(What::Values { kind, gpus: of_gpus, series, values, steps })
    }

    /// The steps of the values: one step of all, the first and the distance of the others, or none.
    fn steps(&mut self, fields: &mut Fields<'_>) -> Option<Steps> {
        let Some(value) = fields.value("step") else { return Some(Steps::EACH) };
        let span = value.span();
        let number = |number: Spanned<i64>| u64::try_from(number.into_inner()).ok();
        let steps = match value.get_ref() {
            DeValue::String(text) if text.as_ref() == "none" => Some(Steps::None),
            DeValue::Integer(_) => {
                fields.whole_number(self.wrong, "step").and_then(number).map(|first| Steps::From { first, by: 0 })
            }
            DeValue::Table(table) => {
                let known = Known::new("the table `step`", STEPS);
                let mut table = Fields::of_table(self.wrong, table, span.clone(), &known);
                table.require(self.wrong, "from", "the step of the first value, such as from = 5000");
                let first = table.whole_number(self.wrong, "from").and_then(number);
                let by = match table.has("by") {
                    true => table.whole_number(self.wrong, "by").and_then(number),
                    false => Some(1),
                };
                first.zip(by).map(|(first, by)| Steps::From { first, by })
            }
            _ => None,
        };
        if steps.is_none() {
            let message = "expected a step from 0, { from = STEP, by = STEPS }, or \"none\"";
            self.wrong.error(span, message, None);
        }
        steps
    }

    fn values(&mut self, kind: &Kind, value: &Spanned<DeValue<'_>>) -> Option<Values> {
        match value.get_ref() {
            DeValue::Array(items) => {
                let list: Vec<Option<Option<f64>>> = items
                    .iter()
                    .map(|item| match item.get_ref() {
                        DeValue::String(text) if text.as_ref() == "missing" => Some(None),
                        other => self.number(kind, other, item.span()).map(Some),
                    })
                    .collect();
                if list.is_empty() {
                    self.wrong.error(value.span(), "the list is empty, expected at least one value", None);
                    return None;
                }
                list.into_iter().collect::<Option<Vec<_>>>().map(Values::List)
            }
            DeValue::Table(table) => self.curve(kind, table, value.span()),
            other => self.number(kind, other, value.span()).map(|number| Values::List(vec![Some(number)])),
        }
    }

    fn curve(&mut self, kind: &Kind, table: &DeTable<'_>, span: Range<usize>) -> Option<Values> {
        let mut fields = Fields::of_table(self.wrong, table, span.clone(), &Known::new("the table `value`", CURVE));
        let given: Vec<&str> =
            ["constant", "ramp", "step", "spike"].into_iter().filter(|name| fields.has(name)).collect();
        let [form] = given.as_slice() else {
            let message = "expected exactly one of `constant`, `ramp`, `step` and `spike` in `value`";
            self.wrong.error(span, message, None);
            return None;
        };
        let noise = match fields.value("noise") {
            None => 0.0,
            Some(value) => {
                let noise = self.number(kind, value.get_ref(), value.span())?;
                if !(noise.is_finite() && noise >= 0.0) {
                    self.wrong.error(value.span(), "expected a standard deviation, 0 or more", None);
                    return None;
                }
                noise
            }
        };
        let after = fields.duration(self.wrong, "after").map(|text| self.duration(&text));
        let width = fields.duration(self.wrong, "width").map(|text| self.some_time(&text));
        for (name, forms) in [("after", &["step", "spike"][..]), ("width", &["spike"][..])] {
            match (fields.span_of(name), forms.contains(form)) {
                (Some(span), false) => self.wrong.error(span, format!("`{name}` has no meaning beside `{form}`"), None),
                (None, true) => {
                    let message = format!("expected `{name}` beside `{form}`, such as {name} = \"60s\"");
                    self.wrong.error(span.clone(), message, None);
                }
                _ => {}
            }
        }
        let shape = match *form {
            "constant" => {
                let value = fields.value("constant")?;
                Shape::Constant(self.number(kind, value.get_ref(), value.span())?)
            }
            "ramp" => {
                let (from, to) = self.pair(kind, fields.value("ramp")?)?;
                Shape::Ramp(from, to)
            }
            "step" => {
                let (before, value) = self.pair(kind, fields.value("step")?)?;
                Shape::Step(before, value, after??)
            }
            _ => {
                let (base, peak) = self.pair(kind, fields.value("spike")?)?;
                Shape::Spike { base, peak, after: after??, width: width?? }
            }
        };
        Some(Values::Curve { shape, noise })
    }

    fn pair(&mut self, kind: &Kind, value: &Spanned<DeValue<'_>>) -> Option<(f64, f64)> {
        if let DeValue::Array(items) = value.get_ref()
            && items.len() == 2
        {
            let both: Vec<Option<f64>> =
                items.iter().map(|item| self.number(kind, item.get_ref(), item.span())).collect();
            return Some((both.first().copied().flatten()?, both.last().copied().flatten()?));
        }
        self.wrong.error(value.span(), "expected two values, such as [2.0, 80.0]", None);
        None
    }

    /// A value in the base unit of the signal.
    fn number(&mut self, kind: &Kind, value: &DeValue<'_>, span: Range<usize>) -> Option<f64> {
        let unit = kind.unit();
        match (literal(value), unit) {
            (Some(Literal::Float(real)), Unit::Real) => Some(Real(real).0),
            (Some(Literal::Integer(n)), Unit::Real | Unit::Count | Unit::Bits) => Some(n as f64),
            (Some(Literal::Text(text)), unit) if unit != Unit::Real => match unit::parse(&text, unit) {
                Ok((value, false)) => Some(value as f64),
                Ok((_, true)) => {
                    let message = format!("expected a value, not a rate: {kind} is a total, and its rate is computed");
                    self.wrong.error(span, message, None);
                    None
                }
                Err(why) => {
                    let message = format!("{} {why}; {kind} expects for example {}", quote(&text), unit.example());
                    self.wrong.error(span, message, None);
                    None
                }
            },
            _ => {
                let message = format!("{}; {kind} expects for example {}", found(value), unit.example());
                self.wrong.error(span, message, None);
                None
            }
        }
    }

    fn event(&mut self, fields: &mut Fields<'_>, gpus: &BTreeSet<GpuId>) -> Option<What> {
        let name = fields.text(self.wrong, "event")?;
        let Some(kind) = EventKind::named(name.get_ref()) else {
            let names: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.name()).collect();
            let message = format!("unknown event {}, expected one of {}", quote(name.get_ref()), names.join(", "));
            let help = nearest(name.get_ref(), names).map(|near| format!("did you mean `{near}`?"));
            self.wrong.error(name.span(), message, help);
            return None;
        };
        let (mut given, mut good) = (events::Fields::new(), true);
        for (name, values) in fields.each(self.wrong, OF_EVENTS) {
            let Some(field) = kind.fields().iter().copied().find(|field| field.name() == name) else {
                let known: Vec<&str> = kind.fields().iter().map(|field| field.name()).collect();
                let message =
                    format!("event {} has no field `{name}`, expected one of {}", kind.name(), known.join(", "));
                self.wrong.error(values.span(), message, None);
                good = false;
                continue;
            };
            match values.get_ref().0.as_slice() {
                [one] => match one.get_ref() {
                    Literal::Text(text) => drop(given.insert(field, Given::Text(text.clone()))),
                    Literal::Integer(n) => drop(given.insert(field, Given::Number(*n))),
                    Literal::Float(_) => {
                        self.wrong.error(one.span(), "expected a text or a whole number", None);
                        good = false;
                    }
                },
                _ => {
                    self.wrong.error(values.span(), "expected one value: an event has one", None);
                    good = false;
                }
            }
        }
        let of_a_gpu = event_source(kind) == Source::Nvml;
        let of_gpus = if of_a_gpu { self.of_gpus(fields, gpus)? } else { Vec::new() };
        if let (Some(span), false) = (fields.span_of("gpu"), of_a_gpu) {
            self.wrong.error(span, format!("event {} is not of a GPU", kind.name()), None);
        }
        if !good {
            return None;
        }
        let comm = match given.get(&Field::Comm) {
            Some(Given::Text(comm)) => comm.clone(),
            _ => "python3".to_owned(),
        };
        let uid = match given.get(&Field::Uid) {
            Some(Given::Number(uid)) => u32::try_from(*uid).ok(),
            _ => None,
        };
        let process = Process { pid: 4_242, ppid: 4_241, uid: uid.unwrap_or(1_000), start_ns: 1, comm };
        let made = events::event(kind, &given, of_gpus.first())
            .and_then(|event| Ok((event, events::verdict(&given)?, events::assurance(&given)?)));
        match made {
            Ok((event, verdict, assurance)) => Some(What::Event { event, verdict, assurance, process, gpus: of_gpus }),
            Err((field, message)) => {
                let name = field.map(Field::name);
                let span = name.and_then(|name| fields.span_of(OF_EVENTS.iter().find(|known| **known == name)?));
                self.wrong.error(span.unwrap_or_else(|| fields.span.clone()), message, None);
                None
            }
        }
    }
}
