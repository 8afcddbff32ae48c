//! What several methods count with: the last values in the order in which they came and in the order of their size, and votes of the
//! last values. None allocates after it is made.

/// The last values, oldest first.
#[derive(Debug)]
pub(super) struct Ring {
    values: Vec<f64>,
    /// Where the oldest is, once it is full.
    oldest: usize,
    most: usize,
}

impl Clone for Ring {
    fn clone(&self) -> Ring {
        // The copy of a list has the room for what is in it only.
        let mut copy = Ring { oldest: self.oldest, ..Ring::new(self.most) };
        copy.values.extend(&self.values);
        copy
    }
}

impl Clone for Sorted {
    fn clone(&self) -> Sorted {
        let mut copy = Sorted { ring: self.ring.clone(), ..Sorted::new(self.ring.most) };
        copy.sorted.extend(&self.sorted);
        copy
    }
}

impl Ring {
    pub(super) fn new(most: usize) -> Ring {
        Ring { values: Vec::with_capacity(most), oldest: 0, most }
    }

    /// Adds a value; the one that it pushes out.
    pub(super) fn push(&mut self, value: f64) -> Option<f64> {
        if self.values.len() < self.most {
            self.values.push(value);
            return None;
        }
        let slot = self.values.get_mut(self.oldest)?;
        self.oldest = (self.oldest + 1) % self.most;
        Some(std::mem::replace(slot, value))
    }

    pub(super) fn is_full(&self) -> bool {
        self.values.len() >= self.most
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = f64> + Clone {
        let (newer, older) = self.values.split_at(self.oldest.min(self.values.len()));
        older.iter().chain(newer).copied()
    }
}

/// The last values in the order of their size.
#[derive(Debug)]
pub(super) struct Sorted {
    ring: Ring,
    sorted: Vec<f64>,
}

impl Sorted {
    pub(super) fn new(most: usize) -> Sorted {
        Sorted { ring: Ring::new(most), sorted: Vec::with_capacity(most + 1) }
    }

    /// The memory of one, in bytes.
    pub(super) fn bytes(most: usize) -> usize {
        (2 * most + 1) * size_of::<f64>()
    }

    pub(super) fn is_full(&self) -> bool {
        self.ring.is_full()
    }

    pub(super) fn push(&mut self, value: f64) {
        if let Some(old) = self.ring.push(value) {
            let at = self.sorted.partition_point(|other| *other < old);
            if at < self.sorted.len() {
                self.sorted.remove(at);
            }
        }
        let at = self.sorted.partition_point(|other| *other < value);
        self.sorted.insert(at, value);
    }

    pub(super) fn sorted(&self) -> &[f64] {
        &self.sorted
    }

    pub(super) fn median(&self) -> f64 {
        let n = self.sorted.len();
        let at = |n: usize| self.sorted.get(n).copied().unwrap_or(0.0);
        if n % 2 == 1 { at(n / 2) } else { f64::midpoint(at((n / 2).saturating_sub(1)), at(n / 2)) }
    }

    /// The median of the distances from `centre`: values on either side are merged from it outwards.
    pub(super) fn deviation(&self, centre: f64) -> f64 {
        let n = self.sorted.len();
        let mut right = self.sorted.partition_point(|value| *value < centre);
        let mut left = right;
        let (mut last, mut before) = (0.0, 0.0);
        for _ in 0..=n / 2 {
            let below = left.checked_sub(1).and_then(|at| self.sorted.get(at)).map(|value| centre - value);
            let above = self.sorted.get(right).map(|value| value - centre);
            before = last;
            last = match (below, above) {
                (Some(below), Some(above)) if below <= above => {
                    left -= 1;
                    below
                }
                (_, Some(above)) => {
                    right += 1;
                    above
                }
                (Some(below), None) => {
                    left -= 1;
                    below
                }
                (None, None) => last,
            };
        }
        if n % 2 == 1 { last } else { f64::midpoint(before, last) }
    }
}

/// Which of the last values counted: so many of so many must.
#[derive(Debug, Clone)]
pub(super) struct Votes {
    last: u32,
    trips: u32,
    of: u32,
}

impl Votes {
    pub(super) fn new(trips: usize, of: usize) -> Votes {
        let small = |n: usize| u32::try_from(n).unwrap_or(32).clamp(1, 32);
        Votes { last: 0, trips: small(trips), of: small(of) }
    }

    /// Whether enough of the last values count.
    pub(super) fn take(&mut self, counts: bool) -> bool {
        let mask = u32::MAX >> (32 - self.of);
        self.last = (self.last << 1 | u32::from(counts)) & mask;
        self.last.count_ones() >= self.trips
    }

    /// `trips` may not be more than `of`.
    pub(super) fn check(detect: &super::Detect) -> Result<(), (&'static str, String)> {
        let of = detect.count("of");
        if detect.count("trips") > of {
            return Err(("trips", format!("at most {of}, which is `of`")));
        }
        Ok(())
    }
}
