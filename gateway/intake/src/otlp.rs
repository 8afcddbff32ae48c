//! OTLP: the request `ExportMetricsServiceRequest`, in protobuf or JSON.
//!
//! | Metric | Values |
//! |---|---|
//! | gauge, sum | `NAME` |
//! | histogram, exponential histogram | `NAME.count`, `NAME.sum`, `NAME.min`, `NAME.max`, as far as they are given, and what [`histogram`](crate::histogram) makes of the buckets |
//! | summary | `NAME.count`, `NAME.sum` |
//!
//! A gauge or sum that a client exports again with the same step counts once. Attributes of a data point are labels. Of the resource, only `rank` counts: it names a series of the run. Which run it is, no
//! attribute decides.

use crate::{
    Labels, Taken, Why,
    histogram::{Counts, Earlier, Explicit, Exponential, Report},
    labelled,
};
use failsafe_core::signal::{Series, metric_name};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{AggregationTemporality, Metric, metric::Data, number_data_point},
};
use prost::Message;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Temporalities of a histogram: its counts go on from report to report, or are those since the report before.
const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
const DELTA: i32 = AggregationTemporality::Delta as i32;
/// Bit of the flags of a data point: it has no value (`FLAG_NO_RECORDED_VALUE`).
const NO_VALUE: u32 = 1;

/// A request that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Bad {
    /// It is not protobuf of this message.
    #[error("expected an ExportMetricsServiceRequest in protobuf")]
    Protobuf(#[source] prost::DecodeError),
    /// It is not JSON of this message.
    #[error("expected an ExportMetricsServiceRequest in JSON")]
    Json(#[source] serde_json::Error),
}

/// In which form a request came, and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Protobuf.
    Protobuf,
    /// JSON.
    Json,
}

/// `google.rpc.Status`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl Form {
    /// Reads a request. `earlier`: what the same client sent before.
    ///
    /// # Errors
    /// [`Bad`].
    pub fn read(self, bytes: &[u8], earlier: &mut Earlier) -> Result<Taken, Bad> {
        match self {
            Form::Protobuf => protobuf(bytes, earlier),
            Form::Json => json(bytes, earlier),
        }
    }

    /// The answer to a request of which `refused` values were refused.
    pub fn answer(self, refused: u64, why: &str) -> Vec<u8> {
        let partial_success = (refused > 0).then(|| ExportMetricsPartialSuccess {
            rejected_data_points: i64::try_from(refused).unwrap_or(i64::MAX),
            error_message: why.to_owned(),
        });
        let answer = ExportMetricsServiceResponse { partial_success };
        match self {
            Form::Protobuf => answer.encode_to_vec(),
            Form::Json => serde_json::to_vec(&answer).unwrap_or_default(),
        }
    }

    /// The answer to a request that failed; `code` is one of gRPC.
    pub fn failure(self, code: i32, why: &str) -> Vec<u8> {
        match self {
            Form::Protobuf => Status { code, message: why.to_owned() }.encode_to_vec(),
            Form::Json => serde_json::json!({ "code": code, "message": why }).to_string().into_bytes(),
        }
    }
}

/// Leaves of the flags of the points what OpenTelemetry has defined: a sender may set any bit, and those that are reserved mean
/// something else here.
fn known_flags(request: &mut ExportMetricsServiceRequest) {
    let scopes = request.resource_metrics.iter_mut().flat_map(|resource| &mut resource.scope_metrics);
    for metric in scopes.flat_map(|scope| &mut scope.metrics) {
        match &mut metric.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.iter_mut().for_each(|point| point.flags &= NO_VALUE),
            Some(Data::Sum(sum)) => sum.data_points.iter_mut().for_each(|point| point.flags &= NO_VALUE),
            _ => {}
        }
    }
}

/// Reads protobuf. The caller bounds the size: a message can take 60 times its bytes in memory.
///
/// # Errors
/// [`Bad`].
pub fn protobuf(bytes: &[u8], earlier: &mut Earlier) -> Result<Taken, Bad> {
    let mut request = ExportMetricsServiceRequest::decode(bytes).map_err(Bad::Protobuf)?;
    known_flags(&mut request);
    Ok(taken(request, earlier))
}

/// Reads JSON.
///
/// # Errors
/// [`Bad`].
pub fn json(bytes: &[u8], earlier: &mut Earlier) -> Result<Taken, Bad> {
    let mut request: serde_json::Value = serde_json::from_slice(bytes).map_err(Bad::Json)?;
    numbers(&mut request);
    serde_json::from_value(request).map(|request| taken(request, earlier)).map_err(Bad::Json)
}

/// Bits of the flags of a data point that OpenTelemetry reserves. Here they stand for a value that JSON has no number for.
const NOT_A_NUMBER: u32 = 1 << 29;
const INFINITE: u32 = 1 << 30;
const NEGATIVE_INFINITE: u32 = 1 << 31;

/// A floating-point number may be text, and what is no number always is (the JSON mapping of protobuf): `"12"`, `"NaN"`. serde takes
/// neither, and a loss that is no longer a number must not pass unseen.
fn numbers(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Array(values) => values.iter_mut().for_each(numbers),
        Value::Object(fields) => {
            let text = fields.get("asDouble").and_then(Value::as_str).map(str::to_owned);
            let flag = match text.as_deref() {
                Some("NaN") => NOT_A_NUMBER,
                Some("Infinity") => INFINITE,
                Some("-Infinity") => NEGATIVE_INFINITE,
                _ => 0,
            };
            let is_point = fields.contains_key("asDouble") || fields.contains_key("asInt");
            if is_point && let Some(sent) = fields.get("flags").and_then(flags) {
                // A point without a value often has NaN in its place.
                fields.insert("flags".to_owned(), Value::from(sent & NO_VALUE | flag));
            } else if flag != 0 {
                fields.insert("flags".to_owned(), Value::from(flag));
            }
            if flag != 0 {
                fields.insert("asDouble".to_owned(), Value::from(0.0));
            }
            for (name, field) in fields.iter_mut() {
                let finite =
                    field.as_str().and_then(|text| text.parse::<f64>().ok()).filter(|number| number.is_finite());
                match finite {
                    Some(number) if matches!(name.as_str(), "asDouble" | "sum" | "min" | "max") => {
                        *field = Value::from(number);
                    }
                    _ => numbers(field),
                }
            }
        }
        _ => {}
    }
}

/// The flags of a point: a number, or text of one. `None`: they are not of this form, and the request is refused.
fn flags(value: &serde_json::Value) -> Option<u32> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
    u32::try_from(number).ok()
}

/// The value of a point, of which `number` is what its field has.
fn number_of(number: f64, flags: u32) -> f64 {
    match flags & (NOT_A_NUMBER | INFINITE | NEGATIVE_INFINITE) {
        0 => number,
        INFINITE => f64::INFINITY,
        NEGATIVE_INFINITE => f64::NEG_INFINITY,
        _ => f64::NAN,
    }
}

fn taken(request: ExportMetricsServiceRequest, earlier: &mut Earlier) -> Taken {
    let (mut taken, mut distributions) = (Taken::default(), Taken::default());
    for resource in request.resource_metrics {
        let mut attributes = resource.resource.iter().flat_map(|resource| &resource.attributes);
        // One that is no rank is refused with each value. It is copied for each: it can be as long as the request.
        let rank = attributes.find(|it| it.key == "rank").and_then(text);
        let rank = rank.map(|rank| if Series::rank(&rank).is_some() { rank } else { "?".to_owned() });
        let of_resource = digest(&resource.resource, &resource.schema_url);
        for scope in resource.scope_metrics {
            let source = format!("{of_resource:x} {:x}", digest(&scope.scope, &scope.schema_url));
            for metric in scope.metrics {
                let from = Source { id: &source, rank: rank.as_deref() };
                take(&mut taken, &mut distributions, metric, from, earlier);
            }
        }
    }
    // Last, so that they leave room for all other values.
    taken.append(distributions);
    taken
}

/// Stands for a resource or a scope, which can be as long as the request.
fn digest(of: &Option<impl Message>, schema: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.as_ref().map(Message::encode_to_vec).hash(&mut hasher);
    schema.hash(&mut hasher);
    hasher.finish()
}

/// Of whom a metric is.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// The resource and the scope: two of them can have metrics of one name.
    id: &'a str,
    /// The rank of the resource.
    rank: Option<&'a str>,
}

fn take(taken: &mut Taken, distributions: &mut Taken, metric: Metric, from: Source<'_>, earlier: &mut Earlier) {
    let rank = from.rank;
    // One that is no name is refused with each value. It is copied for each: it can be as long as the request.
    let name = if metric_name(&metric.name) { metric.name } else { "?".to_owned() };
    let value = |taken: &mut Taken, part: &str, value: f64, attributes: &[KeyValue]| {
        let name = if part.is_empty() { name.clone() } else { format!("{name}.{part}") };
        let value = labels(attributes, rank).and_then(|labels| labelled(&name, value, labels));
        taken.take(value);
    };
    let gauge = |taken: &mut Taken, value: f64, attributes: &[KeyValue], earlier: &mut Earlier| {
        let value = labels(attributes, rank).and_then(|labels| labelled(&name, value, labels));
        if !value.as_ref().is_ok_and(|value| earlier.repeats.has(from.id, value)) {
            taken.take(value);
        }
    };
    let points = match metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points,
        Some(Data::Sum(sum)) => sum.data_points,
        Some(Data::Histogram(histogram)) => {
            let adds_up = adds_up(histogram.aggregation_temporality);
            for point in histogram.data_points.into_iter().filter(|point| point.flags & NO_VALUE == 0) {
                let of = &point.attributes;
                parts(taken, &value, of, point.count, [("sum", point.sum), ("min", point.min), ("max", point.max)]);
                // Without buckets only these are known.
                let counts = (!point.bucket_counts.is_empty())
                    .then(|| Explicit::new(point.explicit_bounds, point.bucket_counts).map(Counts::Explicit));
                let Some(counts) = counts else { continue };
                let (began, made) = (point.start_time_unix_nano, point.time_unix_nano);
                distribution(
                    distributions,
                    (&name, of, from),
                    counts,
                    |counts| {
                        let adds_up = adds_up?;
                        Some(Report { began, made, adds_up, least: point.min, greatest: point.max, counts })
                    },
                    earlier,
                );
            }
            return;
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let adds_up = adds_up(histogram.aggregation_temporality);
            for point in histogram.data_points.into_iter().filter(|point| point.flags & NO_VALUE == 0) {
                let of = &point.attributes;
                parts(taken, &value, of, point.count, [("sum", point.sum), ("min", point.min), ("max", point.max)]);
                let (above, below) = (point.positive.unwrap_or_default(), point.negative.unwrap_or_default());
                let (above, below) =
                    ((above.offset, &above.bucket_counts[..]), (below.offset, &below.bucket_counts[..]));
                let counts = Exponential::new(point.scale, point.zero_count, point.zero_threshold, above, below);
                let (began, made) = (point.start_time_unix_nano, point.time_unix_nano);
                distribution(
                    distributions,
                    (&name, of, from),
                    counts.map(Counts::Exponential),
                    |counts| {
                        let adds_up = adds_up?;
                        Some(Report { began, made, adds_up, least: point.min, greatest: point.max, counts })
                    },
                    earlier,
                );
            }
            return;
        }
        Some(Data::Summary(summary)) => {
            for point in summary.data_points.iter().filter(|point| point.flags & NO_VALUE == 0) {
                parts(taken, &value, &point.attributes, point.count, [("sum", Some(point.sum))]);
            }
            return;
        }
        None => return taken.refuse(Why::Kind),
    };
    let mut missing = 0;
    for point in points.iter().filter(|point| point.flags & NO_VALUE == 0) {
        match point.value {
            Some(number_data_point::Value::AsDouble(number)) => {
                gauge(taken, number_of(number, point.flags), &point.attributes, earlier);
            }
            // Beyond 2^53 it is the nearest number of 64 bits.
            Some(number_data_point::Value::AsInt(number)) => gauge(taken, number as f64, &point.attributes, earlier),
            None => missing += 1,
        }
    }
    (0..missing).for_each(|_| taken.refuse(Why::Value));
}

fn parts<const N: usize>(
    taken: &mut Taken,
    value: &impl Fn(&mut Taken, &str, f64, &[KeyValue]),
    attributes: &[KeyValue],
    count: u64,
    parts: [(&str, Option<f64>); N],
) {
    value(taken, "count", count as f64, attributes);
    for (part, number) in parts {
        if let Some(number) = number {
            value(taken, part, number, attributes);
        }
    }
}

/// Whether counts go on from report to report; `None`: that is not said, and then it is not known of which time they are.
fn adds_up(temporality: i32) -> Option<bool> {
    match temporality {
        CUMULATIVE => Some(true),
        DELTA => Some(false),
        _ => None,
    }
}

/// What the buckets of a data point say. One that has no valid buckets, or of no time that is known, is refused once.
fn distribution(
    taken: &mut Taken,
    (name, attributes, Source { id, rank }): (&str, &[KeyValue], Source<'_>),
    counts: Option<Counts>,
    report: impl FnOnce(Counts) -> Option<Report>,
    earlier: &mut Earlier,
) {
    let Some(counts) = counts else { return taken.refuse(Why::Buckets) };
    let Some(report) = report(counts) else { return taken.refuse(Why::Kind) };
    // With another name, or labels that are refused, nothing is remembered. It was counted with the parts.
    let whole = labels(attributes, rank).and_then(|labels| labelled(name, 0.0, labels));
    if let Ok(whole) = whole {
        taken.distribution(name, &whole, id, earlier, report, &|_| true);
    }
}

fn labels(attributes: &[KeyValue], rank: Option<&str>) -> Result<Labels, Why> {
    let mut labels = Labels { rank: rank.map(str::to_owned), ..Labels::default() };
    for attribute in attributes {
        labels.add(&attribute.key, text(attribute).ok_or(Why::Labels)?);
    }
    Ok(labels)
}

/// An attribute's value as text, unless it is of several parts.
fn text(attribute: &KeyValue) -> Option<String> {
    let AnyValue { value } = attribute.value.as_ref()?;
    match value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        any_value::Value::IntValue(number) => Some(number.to_string()),
        any_value::Value::BoolValue(yes) => Some(yes.to_string()),
        any_value::Value::DoubleValue(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
