//! Requests, as OpenTelemetry's SDK writes them, and what is not as it writes them.

use super::*;
use opentelemetry_proto::tonic::{
    common::v1::InstrumentationScope,
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, exponential_histogram_data_point,
    },
    resource::v1::Resource,
};
use proptest::prelude::*;

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn word(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.into()))
}

fn point(value: f64, attributes: Vec<KeyValue>) -> NumberDataPoint {
    NumberDataPoint { attributes, value: Some(number_data_point::Value::AsDouble(value)), ..NumberDataPoint::default() }
}

fn metric(name: &str, data: Data) -> Metric {
    Metric { name: name.into(), data: Some(data), ..Metric::default() }
}

fn gauge(name: &str, data_points: Vec<NumberDataPoint>) -> Metric {
    metric(name, Data::Gauge(Gauge { data_points }))
}

fn request(resource: Vec<KeyValue>, metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn read(resource: Vec<KeyValue>, metrics: Vec<Metric>) -> Taken {
    protobuf(&request(resource, metrics).encode_to_vec(), &mut Earlier::default()).unwrap()
}

fn from_json(bytes: &[u8]) -> Result<Taken, Bad> {
    json(bytes, &mut Earlier::default())
}

#[test]
fn gauges_and_sums_are_values_and_step_and_rank_are_attributes() {
    let step = attribute("step", any_value::Value::IntValue(7));
    let tokens =
        NumberDataPoint { value: Some(number_data_point::Value::AsInt(-3)), ..point(0.0, vec![word("rank", "1")]) };
    let taken = read(
        vec![word("service.name", "unknown_service"), word("rank", "0")],
        vec![
            gauge("train.loss", vec![point(2.5, vec![step]), point(f64::NAN, vec![word("split", "eval")])]),
            metric("tokens", Data::Sum(Sum { data_points: vec![tokens], ..Sum::default() })),
        ],
    );
    assert_eq!(taken.refused.len(), 0, "{taken:?}");
    assert_eq!(taken.lines(), "train.loss 2.5e0 7 rank=0\ntrain.loss/split/eval NaN rank=0\ntokens -3e0 rank=1\n");
}

#[test]
fn a_value_that_is_exported_again_with_its_step_counts_once() {
    let at = |step, value| point(value, vec![attribute("step", any_value::Value::IntValue(step))]);
    let mut earlier = Earlier::default();
    let mut lines = |points: Vec<NumberDataPoint>| {
        let bytes = request(vec![], vec![gauge("loss", points)]).encode_to_vec();
        protobuf(&bytes, &mut earlier).unwrap().lines()
    };
    assert_eq!(lines(vec![at(1, 2.0), at(2, 80.0)]), "loss 2e0 1\nloss 8e1 2\n");
    assert_eq!(lines(vec![at(1, 2.0), at(2, 80.0), at(3, 2.0)]), "loss 2e0 3\n");
    assert_eq!(lines(vec![at(1, 3.0), at(2, 80.0)]), "loss 3e0 1\n", "the step was made again, with another value");
    assert_eq!(lines(vec![point(5.0, vec![])]), lines(vec![point(5.0, vec![])]), "without a step each one counts");
}

#[test]
fn a_histogram_is_its_count_sum_least_and_greatest() {
    let data =
        HistogramDataPoint { count: 4, sum: Some(10.0), min: None, max: Some(7.5), ..HistogramDataPoint::default() };
    let histogram = Data::Histogram(Histogram { data_points: vec![data], ..Histogram::default() });
    let taken = read(vec![], vec![metric("step.time", histogram)]);
    assert_eq!(taken.lines(), "step.time.count 4e0\nstep.time.sum 1e1\nstep.time.max 7.5e0\n");
}

fn histogram(temporality: AggregationTemporality, bounds: &[f64], counts: &[u64], attributes: Vec<KeyValue>) -> Metric {
    let point = HistogramDataPoint {
        count: counts.iter().sum(),
        explicit_bounds: bounds.to_vec(),
        bucket_counts: counts.to_vec(),
        attributes,
        ..HistogramDataPoint::default()
    };
    let data_points = vec![point];
    metric("t", Data::Histogram(Histogram { data_points, aggregation_temporality: temporality as i32 }))
}

#[test]
fn the_buckets_of_a_histogram_are_quantiles_and_samples_of_the_interval() {
    let counts = |counts: &[u64], temporality| histogram(temporality, &[1.0, 2.0], counts, vec![word("op", "x")]);
    let delta = read(vec![word("rank", "3")], vec![counts(&[0, 2, 0], AggregationTemporality::Delta)]);
    let expected = "t.count/op/x 2e0 rank=3\nt.p50/op/x 1.5e0 rank=3\nt.p90/op/x 1.9e0 rank=3\nt.p99/op/x 1.99e0 rank=3\n\
        t.sample/op/x 1.25e0 rank=3\nt.sample/op/x 1.75e0 rank=3\n";
    assert_eq!(delta.lines(), expected);
    let mut earlier = Earlier::default();
    let mut lines = |of: &[u64]| {
        let bytes = request(vec![], vec![counts(of, AggregationTemporality::Cumulative)]).encode_to_vec();
        protobuf(&bytes, &mut earlier).unwrap().lines()
    };
    assert_eq!(lines(&[5, 0, 0]), "t.count/op/x 5e0\n", "since when is not known");
    let second = lines(&[5, 1, 0]);
    assert!(second.ends_with("\nt.sample/op/x 1.5e0\n") && second.lines().count() == 5, "{second}");
}

#[test]
fn histograms_of_one_name_of_two_resources_or_scopes_are_two() {
    let cumulative = |count, began| {
        let mut metric = histogram(AggregationTemporality::Cumulative, &[1.0, 2.0], &[count, 0, 0], vec![]);
        let Some(Data::Histogram(data)) = &mut metric.data else { panic!("no histogram") };
        for point in &mut data.data_points {
            (point.start_time_unix_nano, point.time_unix_nano) = (began, 100);
        }
        metric
    };
    let of = |service: &str, scope: &str, count, began| {
        let mut one = request(vec![word("service.name", service)], vec![cumulative(count, began)]);
        let scope = InstrumentationScope { name: scope.into(), ..InstrumentationScope::default() };
        one.resource_metrics[0].scope_metrics[0].scope = Some(scope);
        one.resource_metrics.remove(0)
    };
    for began in [7, 8] {
        let mut earlier = Earlier::default();
        let mut samples = |counts: [u64; 3]| {
            let resource_metrics =
                vec![of("a", "x", counts[0], 7), of("b", "x", counts[1], began), of("a", "y", counts[2], began)];
            let bytes = ExportMetricsServiceRequest { resource_metrics }.encode_to_vec();
            let taken = protobuf(&bytes, &mut earlier).unwrap();
            taken.values.iter().filter(|value| value.name == "t.sample").count()
        };
        assert_eq!(samples([10, 20, 30]), 0, "since when is not known");
        assert_eq!(samples([11, 22, 33]), 6);
    }
}

#[test]
fn a_histogram_that_does_not_say_of_which_time_it_is_has_no_distribution() {
    for temporality in [0, 3] {
        let mut metric = histogram(AggregationTemporality::Delta, &[1.0], &[2, 0], vec![]);
        let Some(Data::Histogram(data)) = &mut metric.data else { panic!("no histogram") };
        data.aggregation_temporality = temporality;
        let taken = read(vec![], vec![metric]);
        assert_eq!((taken.lines().as_str(), taken.values.len()), ("!refused 1 kind\nt.count 2e0\n", 1));
    }
}

#[test]
fn a_name_that_is_too_long_for_samples_is_refused_once() {
    let mut metric = histogram(AggregationTemporality::Delta, &[1.0], &[64, 0], vec![]);
    metric.name = "t".repeat(58);
    let taken = read(vec![], vec![metric]);
    assert_eq!((taken.values.len(), taken.refused), (4, [(Why::Labels, 1)].into()), "its count and quantiles fit");
}

#[test]
fn distributions_leave_room_for_all_other_values() {
    let histograms = (0..150).map(|n| {
        let attributes = vec![word("n", &n.to_string())];
        histogram(AggregationTemporality::Delta, &[1.0], &[64, 0], attributes)
    });
    let mut metrics: Vec<Metric> = histograms.collect();
    metrics.push(gauge("loss", vec![point(2.5, vec![])]));
    let taken = read(vec![], metrics);
    assert!(taken.values.iter().any(|value| value.name == "loss") && taken.refused.contains_key(&Why::Many));
}

#[test]
fn an_exponential_histogram_is_quantiles_and_samples_too() {
    let buckets = |offset, bucket_counts| Some(exponential_histogram_data_point::Buckets { offset, bucket_counts });
    let point = ExponentialHistogramDataPoint {
        count: 2,
        scale: 0,
        positive: buckets(1, vec![2]),
        negative: buckets(0, vec![]),
        ..ExponentialHistogramDataPoint::default()
    };
    let of = |point: ExponentialHistogramDataPoint| {
        let data_points = vec![point];
        let aggregation_temporality = AggregationTemporality::Delta as i32;
        metric("t", Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality }))
    };
    let lines = read(vec![], vec![of(point.clone())]).lines();
    assert!(lines.ends_with("\nt.sample 2.5e0\nt.sample 3.5e0\n"), "{lines}");
    let bad = read(vec![], vec![of(ExponentialHistogramDataPoint { scale: 99, ..point })]);
    assert_eq!((bad.values.len(), bad.refused.get(&Why::Buckets)), (1, Some(&1)), "its count is a value all the same");
}

#[test]
fn buckets_that_cannot_be_read_are_refused_once_for_each_point() {
    let many: Vec<f64> = (0..2_000).map(f64::from).collect();
    for (bounds, counts) in [(vec![2.0, 1.0], vec![1; 3]), (vec![1.0], vec![1; 3]), (many.clone(), vec![0; 2_001])] {
        let taken = read(vec![], vec![histogram(AggregationTemporality::Delta, &bounds, &counts, vec![])]);
        assert_eq!((taken.values.len(), taken.refused.get(&Why::Buckets)), (1, Some(&1)), "{bounds:?}");
    }
}

#[test]
fn the_buckets_of_a_histogram_in_json_are_text() {
    let text =
        br#"{"resourceMetrics":[{"scopeMetrics":[{"metrics":[{"name":"t","histogram":{"aggregationTemporality":1,
        "dataPoints":[{"count":"2","bucketCounts":["0","2","0"],"explicitBounds":[1,2]}]}}]}]}]}"#;
    let lines = from_json(text).unwrap().lines();
    assert!(lines.ends_with("\nt.sample 1.25e0\nt.sample 1.75e0\n"), "{lines}");
}

#[test]
fn what_is_not_taken_is_counted_by_its_reason() {
    let without = NumberDataPoint { value: None, ..point(0.0, vec![]) };
    let unrecorded = NumberDataPoint { flags: NO_VALUE, ..point(1.0, vec![]) };
    let list = attribute("a", any_value::Value::ArrayValue(Default::default()));
    for (metric, why) in [
        (gauge("lo$s", vec![point(1.0, vec![])]), Why::Name),
        (gauge("loss", vec![point(1.0, vec![word("a", "b c")])]), Why::Labels),
        (gauge("loss", vec![point(1.0, vec![list])]), Why::Labels),
        (gauge("loss", vec![point(1.0, vec![word("step", "-1")])]), Why::Step),
        (gauge("loss", vec![point(1.0, vec![word("rank", "a/b")])]), Why::Rank),
        (gauge("loss", vec![without]), Why::Value),
        (Metric { name: "loss".into(), ..Metric::default() }, Why::Kind),
    ] {
        let taken = read(vec![], vec![metric.clone()]);
        assert_eq!((taken.values.len(), taken.refused.get(&why)), (0, Some(&1)), "{metric:?}: {taken:?}");
    }
    assert_eq!(read(vec![], vec![gauge("loss", vec![unrecorded])]), Taken::default(), "nothing was recorded");
}

#[test]
fn a_name_or_a_rank_of_any_length_is_refused_for_each_of_its_points() {
    let points = |n: usize| vec![point(1.0, vec![]); n];
    let long = "9".repeat(200_000);
    let taken = read(vec![], vec![gauge(&long, points(5_000))]);
    assert_eq!((taken.values.len(), taken.refused.get(&Why::Name)), (0, Some(&5_000)));
    let taken = read(vec![word("rank", &long)], vec![gauge("loss", points(5_000))]);
    assert_eq!((taken.values.len(), taken.refused.get(&Why::Rank)), (0, Some(&5_000)));
}

#[test]
fn json_is_read_as_the_specification_writes_it() {
    let text = br#"{"resourceMetrics":[{"resource":{"attributes":[{"key":"rank","value":{"intValue":"2"}}]},
        "scopeMetrics":[{"metrics":[{"name":"loss","gauge":{"dataPoints":[
        {"asDouble":2.5,"timeUnixNano":"1544712660300000000","attributes":[{"key":"step","value":{"intValue":"7"}}]},
        {"asInt":"3"}]}}]}]}]}"#;
    assert_eq!(from_json(text).unwrap().lines(), "loss 2.5e0 7 rank=2\nloss 3e0 rank=2\n");
    assert!(matches!(from_json(b"{\"resourceMetrics\":1}"), Err(Bad::Json(_))));
    let deep = "[".repeat(100_000);
    assert!(from_json(deep.as_bytes()).is_err());
}

#[test]
fn json_reports_what_is_no_number_as_text() {
    let read = |value: &str| {
        let point = format!("{{\"asDouble\":{value},\"timeUnixNano\":\"1\"}}");
        let metric = format!("{{\"name\":\"loss\",\"gauge\":{{\"dataPoints\":[{point}]}}}}");
        let text = format!("{{\"resourceMetrics\":[{{\"scopeMetrics\":[{{\"metrics\":[{metric}]}}]}}]}}");
        from_json(text.as_bytes())
    };
    for (value, lines) in [
        ("\"NaN\"", "loss NaN\n"),
        ("\"Infinity\"", "loss inf\n"),
        ("\"-Infinity\"", "loss -inf\n"),
        ("\"51.5\"", "loss 5.15e1\n"),
        ("12", "loss 1.2e1\n"),
    ] {
        assert_eq!(read(value).unwrap().lines(), lines, "{value}");
    }
    assert!(read("NaN").is_err());
    // Whether the whole request is refused or the value alone depends on the features that serde_json is built with.
    assert!(!read("\"twelve\"").is_ok_and(|taken| !taken.values.is_empty()));
}

#[test]
fn of_the_flags_of_a_point_only_the_one_for_no_value_counts() {
    let all = (1..32).map(|bit| 1_u32 << bit);
    for flags in all.chain([u32::MAX - 1]) {
        let sent = |flags| NumberDataPoint { flags, ..point(2.0, vec![]) };
        let sum = |flags| metric("tokens", Data::Sum(Sum { data_points: vec![sent(flags)], ..Sum::default() }));
        assert_eq!(read(vec![], vec![gauge("loss", vec![sent(flags)])]).lines(), "loss 2e0\n", "{flags:x}");
        assert_eq!(read(vec![], vec![sum(flags)]).lines(), "tokens 2e0\n", "{flags:x}");
        assert_eq!(read(vec![], vec![gauge("loss", vec![sent(flags | NO_VALUE)]), sum(flags | NO_VALUE)]).lines(), "");
    }
    let of_json = |fields: &str| {
        let text = format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"name":"loss","gauge":{{"dataPoints":[{{{fields}}}]}}}}]}}]}}]}}"#
        );
        from_json(text.as_bytes()).unwrap().lines()
    };
    let reserved = u32::MAX - 1;
    for (fields, lines) in [
        (format!(r#""asDouble":2,"flags":{reserved}"#), "loss 2e0\n"),
        (format!(r#""asDouble":"NaN","flags":{reserved}"#), "loss NaN\n"),
        (format!(r#""asInt":"2","flags":{reserved}"#), "loss 2e0\n"),
        // As a collector sends what has become stale.
        (r#""asDouble":"NaN","flags":1"#.to_owned(), ""),
        (r#""flags":1,"asDouble":"-Infinity""#.to_owned(), ""),
        (format!(r#""asDouble":2,"flags":{}"#, u32::MAX), ""),
    ] {
        assert_eq!(of_json(&fields), lines, "{fields}");
    }
}

/// A field of protobuf with a length.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn lists_in_lists_without_end_are_refused() {
    let nested = |depth: usize| {
        let list = (0..depth).fold(Vec::new(), |inner, _| field(5, &field(1, &inner)));
        let attribute = [field(1, b"rank"), field(2, &list)].concat();
        protobuf(&field(1, &field(1, &field(1, &attribute))), &mut Earlier::default())
    };
    assert!(nested(10).is_ok());
    assert!(matches!(nested(1_000), Err(Bad::Protobuf(_))));
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let mut earlier = Earlier::default();
        let _protobuf = protobuf(&bytes, &mut earlier);
        let _json = json(&bytes, &mut earlier);
    }

    #[test]
    fn a_value_is_read_back(name in "[a-zA-Z0-9_./-]{1,40}", value: f64, step: u64) {
        let taken = read(vec![], vec![gauge(&name, vec![point(value, vec![word("step", &step.to_string())])])]);
        prop_assert_eq!(taken.values.len(), 1);
        let got = &taken.values[0];
        prop_assert_eq!((got.name.as_str(), got.step), (name.as_str(), Some(step)));
        prop_assert!(got.value.to_bits() == value.to_bits() || (got.value.is_nan() && value.is_nan()));
    }
}
