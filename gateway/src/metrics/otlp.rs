//! From families to OTLP: the same names, labels and values, as `ExportMetricsServiceRequest`. Pure.

use super::families::Families;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prometheus::proto::{Metric as Series, MetricFamily, MetricType};
use prost::Message;

/// What series of failsafed begin with; their counters began when it started.
const OF_DAEMON: &str = "failsafed_";

/// Times of a request, nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When the values were read.
    pub now: u64,
    /// When failsafed started; 0: not known.
    pub daemon: u64,
    /// When the gateway started.
    pub gateway: u64,
}

/// The request.
pub fn request(families: &Families, host: &str, times: Times) -> ExportMetricsServiceRequest {
    let attributes =
        [("service.name", "failsafe"), ("service.version", env!("CARGO_PKG_VERSION")), ("host.name", host)];
    let attributes = attributes.into_iter().map(|(key, value)| attribute(key, value)).collect();
    let scope = InstrumentationScope {
        name: "failsafe-gateway".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let metrics = families.all().iter().map(|family| metric(family, times)).collect();
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        }],
    }
}

/// How many values the collector did not take, and why, by its answer; `None`: the answer is no such message.
pub fn refused(answer: &[u8]) -> Option<(u64, String)> {
    ExportMetricsServiceResponse::decode(answer).ok().map(not_taken)
}

/// The same of a message that was read.
pub fn not_taken(answer: ExportMetricsServiceResponse) -> (u64, String) {
    let partial = answer.partial_success.unwrap_or_default();
    (u64::try_from(partial.rejected_data_points).unwrap_or(0), partial.error_message)
}

fn metric(family: &MetricFamily, times: Times) -> Metric {
    let start = if family.name().starts_with(OF_DAEMON) { times.daemon } else { times.gateway };
    let (all, cumulative) = (family.get_metric(), AggregationTemporality::Cumulative.into());
    let number = |series: &Series, start, value| NumberDataPoint {
        attributes: labels(series),
        start_time_unix_nano: start,
        time_unix_nano: times.now,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: all.iter().map(|it| number(it, start, it.get_counter().get_value())).collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: all.iter().map(|it| histogram(it, start, times.now)).collect(),
            aggregation_temporality: cumulative,
        }),
        _ => {
            Data::Gauge(Gauge { data_points: all.iter().map(|it| number(it, 0, it.get_gauge().get_value())).collect() })
        }
    };
    Metric { name: family.name().into(), description: family.help().into(), data: Some(data), ..Metric::default() }
}

/// The counts of Prometheus are of all values up to a bound, those of OTLP of the values between two.
fn histogram(series: &Series, start: u64, now: u64) -> HistogramDataPoint {
    let histogram = series.get_histogram();
    let buckets = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (bounds, cumulative): (Vec<f64>, Vec<u64>) =
        buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count())).unzip();
    let count = histogram.get_sample_count();
    let ends = cumulative.iter().copied().chain([count]);
    let begins = std::iter::once(0).chain(cumulative.iter().copied());
    HistogramDataPoint {
        attributes: labels(series),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count,
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: ends.zip(begins).map(|(end, begin)| end.saturating_sub(begin)).collect(),
        explicit_bounds: bounds,
        ..HistogramDataPoint::default()
    }
}

fn labels(series: &Series) -> Vec<KeyValue> {
    series.get_label().iter().map(|label| attribute(label.name(), label.value())).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(any_value::Value::StringValue(value.into())) };
    KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use failsafe_intake::otlp::Form;

    #[test]
    fn families_are_the_same_metrics_in_otlp() {
        let mut families = Families::default();
        families.gauge("failsafe_up", "Whether.", 1.0);
        families.counters("failsafed_drills_total", "Drills.").with(&[("result", "proved")], 3.0);
        families.counter("failsafe_gateway_daemon_failures_total", "Failed.", 2.0);
        let buckets = [(0.5, 2), (1.0, 5), (f64::INFINITY, 6)];
        families.histograms("failsafed_duration_seconds", "Took.").histogram(
            &[("action", "freeze")],
            (6, 4.5),
            buckets.into_iter(),
        );
        let bytes = request(&families, "node7", Times { now: 30, daemon: 20, gateway: 10 }).encode_to_vec();
        let read = ExportMetricsServiceRequest::decode(&bytes[..]).unwrap();
        let resource = &read.resource_metrics[0];
        let text = |all: &[KeyValue]| {
            let value = |it: &KeyValue| match it.value.clone().unwrap().value.unwrap() {
                any_value::Value::StringValue(text) => format!("{}={text}", it.key),
                other => panic!("{other:?}"),
            };
            all.iter().map(value).collect::<Vec<_>>().join(" ")
        };
        let attributes = text(&resource.resource.as_ref().unwrap().attributes);
        assert!(attributes.contains("service.name=failsafe") && attributes.contains("host.name=node7"), "{attributes}");
        let metrics = &resource.scope_metrics[0].metrics;
        let Some(Data::Sum(drills)) = &metrics[1].data else { panic!() };
        assert!(drills.is_monotonic && drills.aggregation_temporality == 2);
        assert_eq!((drills.data_points[0].start_time_unix_nano, drills.data_points[0].time_unix_nano), (20, 30));
        let Some(Data::Sum(failed)) = &metrics[2].data else { panic!() };
        assert_eq!(failed.data_points[0].start_time_unix_nano, 10, "it is the gateway's");
        let Some(Data::Histogram(took)) = &metrics[3].data else { panic!() };
        let took = &took.data_points[0];
        assert_eq!((took.bucket_counts.as_slice(), took.explicit_bounds.as_slice()), (&[2, 3, 1][..], &[0.5, 1.0][..]));
        assert_eq!((took.count, took.sum, text(&took.attributes)), (6, Some(4.5), "action=freeze".into()));
        // As the gateway itself reads it from others.
        let lines = Form::Protobuf.read(&bytes, &mut Default::default()).unwrap().lines();
        assert!(lines.contains("failsafe_up 1e0\n") && lines.contains("failsafed_drills_total/result/proved 3e0\n"));
    }

    #[test]
    fn an_answer_has_the_number_of_values_that_were_not_taken() {
        assert_eq!(refused(b""), Some((0, String::new())));
        assert_eq!(refused(&Form::Protobuf.answer(7, "too old")), Some((7, "too old".into())));
        assert_eq!(refused(b"<html>"), None);
    }
}
