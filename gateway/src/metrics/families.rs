//! Families of series, as the text format of Prometheus wants them: each with one name, one type and one help text.

use failsafe_core::visible::beginning;
use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

/// Longest value of a label, in bytes.
const VALUE: usize = 256;

/// Families, in the order in which they were added.
#[derive(Debug, Default)]
pub struct Families(Vec<MetricFamily>);

/// Labels of a series.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Families {
    /// A gauge with one series and no label.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help).with(&[], value);
    }

    /// A counter with one series and no label.
    pub fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.counters(name, help).with(&[], value);
    }

    /// Gauges.
    pub fn gauges(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::GAUGE)
    }

    /// Counters.
    pub fn counters(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::COUNTER)
    }

    /// Histograms.
    pub fn histograms(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, help, MetricType::HISTOGRAM)
    }

    fn family(&mut self, name: &str, help: &str, of: MetricType) -> Family<'_> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(of);
        Family { all: self, family }
    }

    /// All of them.
    pub fn all(&self) -> &[MetricFamily] {
        &self.0
    }

    /// The text.
    ///
    /// # Errors
    /// A family has no type that can be written.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0, &mut text)?;
        Ok(text)
    }
}

/// A family that is being filled. Without series it is not written.
pub struct Family<'a> {
    all: &'a mut Families,
    family: MetricFamily,
}

impl Family<'_> {
    /// Adds a series.
    pub fn with(&mut self, labels: Labels<'_>, value: f64) {
        let mut metric = Metric::from_label(labels.iter().map(|(name, value)| pair(name, value)).collect());
        if self.family.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    /// Adds a histogram: its sum, and how many were at most as large as each bound.
    pub fn histogram(
        &mut self,
        labels: Labels<'_>,
        (count, sum): (u64, f64),
        buckets: impl Iterator<Item = (f64, u64)>,
    ) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(count);
        histogram.set_sample_sum(sum);
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(buckets.map(bucket).collect());
        let mut metric = Metric::from_label(labels.iter().map(|(name, value)| pair(name, value)).collect());
        metric.set_histogram(histogram);
        self.family.mut_metric().push(metric);
    }
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        if !self.family.get_metric().is_empty() {
            self.all.0.push(std::mem::take(&mut self.family));
        }
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(beginning(value, VALUE).to_owned());
    pair
}

/// The name of a label for a key that somebody chose: `label_` and the key, with `_` for what a name cannot have.
pub fn label_name(key: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("label_{}", key.chars().take(64).map(plain).collect::<String>())
}
