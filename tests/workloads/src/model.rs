//! A small real model: one hidden layer of tanh units with a linear output, fitted to synthetic data by full-batch
//! gradient descent on the mean squared error.
//!
//! Everything follows from the seed, so two runs with the same options print the same losses. With a learning rate above
//! what the curvature admits the output weights grow exponentially, past any bound and on to infinity and NaN: a real
//! divergence, nothing is faked.

/// Inputs of a sample.
const INPUTS: usize = 2;
/// Hidden units.
const HIDDEN: usize = 16;
/// Samples in the data set.
const SAMPLES: usize = 128;
/// Weights of one hidden unit: its inputs, its bias, its output weight.
const PER_UNIT: usize = INPUTS + 2;

/// The model, its data, and the gradient of the last step.
#[derive(Clone)]
pub struct Model {
    /// `PER_UNIT` numbers a hidden unit, then the output's bias.
    weights: Vec<f64>,
    gradient: Vec<f64>,
    samples: Vec<([f64; INPUTS], f64)>,
}

impl Model {
    /// Fresh weights and data from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Model {
        let mut random = Random(seed);
        let samples = (0..SAMPLES)
            .map(|_| {
                let x = [random.uniform(), random.uniform()];
                (x, (3.0 * x[0]).sin() + x[0] * x[1] + 0.05 * random.uniform())
            })
            .collect();
        let weights: Vec<f64> = (0..HIDDEN * PER_UNIT + 1).map(|_| 0.5 * random.uniform()).collect();
        Model { gradient: vec![0.0; weights.len()], weights, samples }
    }

    /// One step of gradient descent; returns the loss before the step.
    pub fn step(&mut self, learning_rate: f64) -> f64 {
        let loss = self.backward();
        for (weight, slope) in self.weights.iter_mut().zip(&self.gradient) {
            *weight -= learning_rate * slope;
        }
        loss
    }

    /// The weights as bytes: what a thief would want.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.weights.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// Fills the gradient; returns the loss.
    fn backward(&mut self) -> f64 {
        self.gradient.fill(0.0);
        let bias = HIDDEN * PER_UNIT;
        let mut loss = 0.0;
        for (x, target) in &self.samples {
            let mut active = [0.0; HIDDEN];
            let mut output = self.weights[bias];
            for (unit, a) in self.weights.chunks_exact(PER_UNIT).zip(&mut active) {
                *a = (unit[0] * x[0] + unit[1] * x[1] + unit[2]).tanh();
                output += unit[3] * *a;
            }
            let error = output - target;
            loss += error * error;
            let slope = 2.0 * error / SAMPLES as f64;
            self.gradient[bias] += slope;
            let units = self.weights.chunks_exact(PER_UNIT).zip(self.gradient.chunks_exact_mut(PER_UNIT));
            for ((unit, gradient), a) in units.zip(active) {
                let inner = slope * unit[3] * (1.0 - a * a);
                gradient[0] += inner * x[0];
                gradient[1] += inner * x[1];
                gradient[2] += inner;
                gradient[3] += slope * a;
            }
        }
        loss / SAMPLES as f64
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    /// From -1 to 1.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_is_the_slope_of_the_loss() {
        let mut model = Model::new(3);
        model.backward();
        let gradient = model.gradient.clone();
        let h = 1e-6;
        for (i, expected) in gradient.iter().enumerate() {
            model.weights[i] += h;
            let above = model.backward();
            model.weights[i] -= 2.0 * h;
            let below = model.backward();
            model.weights[i] += h;
            let slope = (above - below) / (2.0 * h);
            assert!((slope - expected).abs() < 1e-6, "weight {i}: {slope} against {expected}");
        }
    }

    #[test]
    fn training_learns_and_follows_the_seed() {
        let (mut a, mut b) = (Model::new(7), Model::new(7));
        let first = a.step(0.1);
        assert_eq!(first, b.step(0.1));
        let last = (0..500).map(|_| a.step(0.1)).last().unwrap();
        assert!(last < first / 5.0, "{first} to {last}");
        assert_ne!(first, Model::new(8).step(0.1));
    }

    #[test]
    fn too_high_a_rate_diverges_past_any_bound() {
        let mut model = Model::new(7);
        let losses: Vec<f64> = (0..400).map(|_| model.step(5.0)).collect();
        assert!(losses.iter().any(|loss| *loss > 1e6), "a huge loss comes first");
        assert!(losses.last().unwrap().is_nan(), "then NaN");
    }
}
