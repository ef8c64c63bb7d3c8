/// Latencies in microseconds, in buckets whose width is about 1.6 % of their value: constant memory, no sorting.
#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u64,
    max: u64,
}

/// Each power of two is divided into 2^6 buckets.
const SUB_BITS: u32 = 6;
/// Values up to 2^36 µs (19 hours); above, the last bucket.
const BUCKETS: usize = ((36 - SUB_BITS as usize) + 1) << SUB_BITS;

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }

    /// Adds one latency in microseconds.
    pub fn record(&mut self, us: u64) {
        if let Some(bucket) = self.buckets.get_mut(index(us).min(BUCKETS - 1)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += us;
        self.max = self.max.max(us);
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The largest recorded, in microseconds.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value below which the share `q` (0 to 1) of the recorded lies, in microseconds.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (self.count as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank {
                return value(at).min(self.max);
            }
        }
        self.max
    }

    /// Forgets everything (end of the warm-up).
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        (self.count, self.sum, self.max) = (0, 0, 0);
    }
}

fn index(us: u64) -> usize {
    let top = 63 - us.max(1).leading_zeros();
    if top < SUB_BITS {
        return us as usize;
    }
    let shift = top - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (us >> shift) as usize
}

/// The upper bound of a bucket.
fn value(index: usize) -> u64 {
    if index < 2 << SUB_BITS {
        return index as u64;
    }
    let shift = (index >> SUB_BITS) - 1;
    let sub = index - (shift << SUB_BITS);
    (((sub as u64) + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_bucket_that_holds_it() {
        for us in (0..5_000).chain([10_000, 65_535, 65_536, 1_000_000, 123_456_789]) {
            let at = index(us);
            assert!(value(at) >= us, "{us} → {at} → {}", value(at));
            assert!(at == 0 || value(at - 1) < us, "{us} → {at}, but the bucket before reaches {}", value(at - 1));
            assert!((value(at) - us) as f64 <= us as f64 * 0.016 + 1.0);
        }
    }

    #[test]
    fn quantiles_of_a_uniform_spread_are_where_they_should_be() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|us| histogram.record(us));
        assert!((4_900..5_200).contains(&histogram.quantile(0.5)));
        assert!((9_800..=10_000).contains(&histogram.quantile(0.99)));
        assert_eq!(histogram.quantile(1.0), 10_000);
        histogram.clear();
        assert_eq!(histogram.quantile(0.5), 0);
    }
}
