//! Order statistics of a few measurements.

/// The value below which `percent` of the measurements lie, by nearest rank; `None` of nothing.
fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1).min(sorted.len()).checked_sub(1)?).copied()
}

/// The same as a figure: NaN of nothing, which no bound holds.
pub fn at(values: &[f64], percent: f64) -> f64 {
    percentile(values, percent).unwrap_or(f64::NAN)
}

/// The median; of an even number the lower middle one.
pub fn median(values: &[f64]) -> f64 {
    at(values, 50.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(percentile(&values, 100.0), Some(5.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&values, 99.0), Some(5.0));
        assert_eq!(percentile(&[], 50.0), None);
        assert!(median(&[]).is_nan());
    }
}
