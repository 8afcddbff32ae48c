//! Values over time: `Series` of a unit is interpolated, `Steps` of anything holds
//! its value until the next keyframe. Both are a constant or keyframes
//! `[[seconds, value], ...]` in rising time; outside of them the first and the last
//! value hold. A `Series` may also be a table, with noise or from a recording (`wave`).

use super::units::{Scalar, Unit};
use super::wave::{Wave, WaveTable};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// A quantity over time, linear between its keyframes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series<U> {
    frames: Keyframes<Scalar<U>>,
    wave: Wave,
}

impl<U: Unit> Series<U> {
    /// The value at `t` seconds, in the unit's base.
    pub(crate) fn at(&self, t: f64) -> f64 {
        (self.even(self.wave.within(t)) + self.wave.noise(t)).clamp(0.0, U::MAX)
    }

    /// Without repetition and noise.
    fn even(&self, t: f64) -> f64 {
        let (before, after) = self.frames.around(t);
        let span = after.t - before.t;
        if span <= 0.0 {
            return before.value.0;
        }
        let share = ((t - before.t) / span).clamp(0.0, 1.0);
        before.value.0 + (after.value.0 - before.value.0) * share
    }

    /// The integral from 0 to `t`, in base units times seconds: exact but for noise, whose mean is
    /// 0, since the series is linear between its corners.
    pub(crate) fn integral(&self, t: f64) -> f64 {
        match self.wave.repeat {
            Some(period) if t > period => (t / period).floor() * self.area(period) + self.area(t % period),
            _ => self.area(t),
        }
    }

    fn area(&self, t: f64) -> f64 {
        let mut corners: Vec<f64> = self.frames.0.iter().map(|it| it.t).filter(|at| (0.0..t).contains(at)).collect();
        corners.insert(0, 0.0);
        corners.push(t.max(0.0));
        corners.windows(2).map(|w| (w[1] - w[0]) * f64::midpoint(self.even(w[0]), self.even(w[1]))).sum()
    }
}

/// A value over time that jumps at its keyframes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps<T>(Keyframes<T>);

impl<T> Steps<T> {
    /// The value that holds at `t` seconds.
    pub(crate) fn at(&self, t: f64) -> &T {
        &self.0.around(t).0.value
    }

    /// For how many of the seconds from 0 to `t` the value satisfied `holds`.
    pub(crate) fn seconds_where(&self, t: f64, holds: impl Fn(&T) -> bool) -> f64 {
        let frames = &self.0.0;
        let ends = frames.iter().skip(1).map(|it| it.t).chain([f64::INFINITY]);
        let starts = [0.0].into_iter().chain(frames.iter().skip(1).map(|it| it.t));
        let spans = frames.iter().zip(starts.zip(ends));
        spans.filter(|(frame, _)| holds(&frame.value)).map(|(_, (a, b))| (b.min(t) - a.max(0.0)).max(0.0)).sum()
    }
}

/// At least one keyframe, in strictly rising time.
#[derive(Clone, Debug, PartialEq)]
struct Keyframes<T>(Vec<Keyframe<T>>);

#[derive(Clone, Debug, PartialEq)]
struct Keyframe<T> {
    t: f64,
    value: T,
}

impl<T> Keyframes<T> {
    /// The last keyframe at or before `t` and the first after it; at the ends both are the same one.
    fn around(&self, t: f64) -> (&Keyframe<T>, &Keyframe<T>) {
        let after = self.0.partition_point(|it| it.t <= t);
        let last = self.0.len() - 1;
        let before = after.saturating_sub(1);
        (&self.0[before], &self.0[if after == 0 { 0 } else { after.min(last) }])
    }

    fn constant(value: T) -> Self {
        Self(vec![Keyframe { t: 0.0, value }])
    }
}

impl<'de, U: Unit> Deserialize<'de> for Series<U> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(SeriesVisitor::<Scalar<U>>(PhantomData))? {
            Read::Frames(frames) => Ok(Self { frames, wave: Wave::default() }),
            Read::Table(table) => Self::of_table(table),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Steps<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(SeriesVisitor::<T>(PhantomData))? {
            Read::Frames(frames) => Ok(Self(frames)),
            Read::Table(_) => Err(de::Error::custom("only quantities can be a table with noise or a recording")),
        }
    }
}

impl<U: Unit> Series<U> {
    fn of_table<E: de::Error>(table: WaveTable) -> Result<Self, E> {
        let wave = table.wave().map_err(E::custom)?;
        let points = table.points().map_err(E::custom)?;
        let frames = points.into_iter().map(|(t, value)| Ok(Keyframe { t, value: Scalar::checked(value)? }));
        let frames = rising(frames.collect::<Result<_, E>>()?)?;
        Ok(Self { frames, wave })
    }
}

/// What stood in the file.
enum Read<T> {
    Frames(Keyframes<T>),
    Table(WaveTable),
}

struct SeriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SeriesVisitor<T> {
    type Value = Read<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or keyframes [[seconds, value], ...]")
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        constant(de::value::BoolDeserializer::new(value))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        constant(de::value::I64Deserializer::new(value))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        constant(de::value::F64Deserializer::new(value))
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        constant(de::value::StrDeserializer::new(value))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        WaveTable::deserialize(MapAccessDeserializer::new(map)).map(Read::Table)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        let frames = Vec::<Keyframe<T>>::deserialize(SeqAccessDeserializer::new(seq))?;
        rising(frames).map(Read::Frames)
    }
}

fn constant<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Read<T>, D::Error> {
    T::deserialize(value).map(|value| Read::Frames(Keyframes::constant(value)))
}

fn rising<T, E: de::Error>(frames: Vec<Keyframe<T>>) -> Result<Keyframes<T>, E> {
    if frames.is_empty() {
        return Err(E::custom("keyframes must not be empty"));
    }
    if let Some(pair) = frames.windows(2).find(|pair| pair[1].t <= pair[0].t) {
        let (a, b) = (pair[0].t, pair[1].t);
        return Err(E::custom(format!("keyframe times must rise, but {b} follows {a}")));
    }
    Ok(Keyframes(frames))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Keyframe<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyframeVisitor(PhantomData))
    }
}

struct KeyframeVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for KeyframeVisitor<T> {
    type Value = Keyframe<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a keyframe [seconds, value]")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let t = seq.next_element::<f64>()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
        if !t.is_finite() || t < 0.0 {
            return Err(de::Error::custom(format!("{t} is not a time in seconds from 0 on")));
        }
        let value = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
        if seq.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::invalid_length(3, &self));
        }
        Ok(Keyframe { t, value })
    }
}

#[cfg(test)]
mod tests {
    use super::super::units::{Celsius, Watt};
    use super::*;

    #[derive(Deserialize, Debug)]
    struct One<T> {
        v: T,
    }

    fn read<T: de::DeserializeOwned>(text: &str) -> Result<T, String> {
        toml::from_str::<One<T>>(&format!("v = {text}")).map(|it| it.v).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_constant_holds_for_ever() {
        let series: Series<Celsius> = read("61").unwrap();
        assert_eq!((series.at(0.0), series.at(1e9)), (61.0, 61.0));
    }

    #[test]
    fn linear_between_keyframes_and_flat_outside() {
        let series: Series<Celsius> = read("[[1, 40], [3, \"60C\"], [4, 50]]").unwrap();
        for (t, expected) in [(0.0, 40.0), (1.0, 40.0), (2.0, 50.0), (2.5, 55.0), (3.0, 60.0), (3.5, 55.0), (9.0, 50.0)]
        {
            assert_eq!(series.at(t), expected, "at {t}");
        }
    }

    #[test]
    fn energy_is_the_area_under_power() {
        let series: Series<Watt> = read("[[2, 100], [4, 300]]").unwrap();
        assert_eq!(series.integral(0.0), 0.0);
        assert_eq!(series.integral(2.0), 200.0);
        assert_eq!(series.integral(3.0), 200.0 + 150.0);
        assert_eq!(series.integral(6.0), 200.0 + 400.0 + 600.0);
    }

    #[test]
    fn steps_jump_and_can_be_timed() {
        let steps: Steps<String> = read("[[0, \"a\"], [2, \"b\"], [5, \"a\"]]").unwrap();
        assert_eq!((steps.at(1.9).as_str(), steps.at(2.0).as_str(), steps.at(7.0).as_str()), ("a", "b", "a"));
        assert_eq!(steps.seconds_where(6.0, |it| it == "a"), 3.0);
        assert_eq!(steps.seconds_where(3.5, |it| it == "b"), 1.5);
        let constant: Steps<String> = read("\"b\"").unwrap();
        assert_eq!(constant.seconds_where(4.0, |it| it == "b"), 4.0);
    }

    #[test]
    fn bad_keyframes_are_refused() {
        for (text, reason) in [
            ("[]", "must not be empty"),
            ("[[0, 1], [0, 2]]", "keyframe times must rise, but 0 follows 0"),
            ("[[0, 1, 2]]", "invalid length 3"),
            ("[[0]]", "invalid length 1"),
            ("[[-1, 3]]", "-1 is not a time"),
            ("[3]", "a keyframe [seconds, value]"),
            ("true", "a temperature in C"),
        ] {
            let error = read::<Series<Celsius>>(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
