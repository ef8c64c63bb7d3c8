use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// The upper bounds of a histogram's buckets.
pub trait Buckets: Send + Sync + 'static {
    /// Ascending upper bounds, without the last one of `+Inf`.
    const BOUNDS: &'static [f64];
}

/// 1 ms to 5 s, in milliseconds: the bounds of the rooms API's latency.
pub struct MillisBuckets;

impl Buckets for MillisBuckets {
    const BOUNDS: &'static [f64] = &[1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0];
}

/// 0.5 ms to 60 s, in seconds.
pub struct SecondsBuckets;

impl Buckets for SecondsBuckets {
    const BOUNDS: &'static [f64] =
        &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
}

/// 64 bytes to 16 MiB.
pub struct ByteBuckets;

impl Buckets for ByteBuckets {
    const BOUNDS: &'static [f64] =
        &[64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
}

/// A second to a day, in seconds.
pub struct LifetimeBuckets;

impl Buckets for LifetimeBuckets {
    const BOUNDS: &'static [f64] =
        &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 86_400.0];
}

/// A histogram that is observed without a lock, since every worker observes the same routes.
pub struct Histogram<B> {
    inner: Arc<Inner>,
    bounds: PhantomData<fn() -> B>,
}

struct Inner {
    /// One more than the bounds: the last is `+Inf`. Not cumulative.
    counts: Box<[AtomicU64]>,
    /// The bits of an `f64`.
    sum: AtomicU64,
}

impl<B: Buckets> Histogram<B> {
    /// Counts one value. NaN and negative values (a clock that jumped back) count as zero.
    pub fn observe(&self, value: f64) {
        let value = if value > 0.0 { value } else { 0.0 };
        let index = B::BOUNDS.partition_point(|bound| *bound < value);
        if let Some(count) = self.inner.counts.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // The closure never refuses, so neither outcome needs handling.
        let _ = self
            .inner
            .sum
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| Some((f64::from_bits(bits) + value).to_bits()));
    }

    /// How many values were observed.
    pub fn count(&self) -> u64 {
        self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of the values.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.inner.sum.load(Ordering::Relaxed))
    }
}

impl<B: Buckets> Default for Histogram<B> {
    fn default() -> Self {
        let counts = (0..=B::BOUNDS.len()).map(|_| AtomicU64::new(0)).collect();
        Self { inner: Arc::new(Inner { counts, sum: AtomicU64::new(0) }), bounds: PhantomData }
    }
}

impl<B> Clone for Histogram<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), bounds: PhantomData }
    }
}

impl<B: Buckets> fmt::Debug for Histogram<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram").field("count", &self.count()).field("sum", &self.sum()).finish()
    }
}

impl<B: Buckets> TypedMetric for Histogram<B> {
    const TYPE: MetricType = MetricType::Histogram;
}

impl<B: Buckets> EncodeMetric for Histogram<B> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        // The encoder writes `f64::MAX` as +Inf and sums the buckets up.
        let bounds = B::BOUNDS.iter().copied().chain([f64::MAX]);
        let counts = self.inner.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // Counted from the same reads, so that a value observed meanwhile cannot make `_count` and `+Inf` differ.
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.sum(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_falls_into_that_bucket() {
        let histogram = Histogram::<MillisBuckets>::default();
        for value in [0.0, 1.0, 1.1, 5000.0, 5000.1, f64::NAN, -3.0] {
            histogram.observe(value);
        }
        let counts: Vec<u64> = histogram.inner.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!(counts, [4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(histogram.count(), 7);
        assert!((histogram.sum() - 10002.2).abs() < 1e-9);
    }

    #[test]
    fn clones_count_together_and_threads_lose_nothing() {
        let histogram = Histogram::<SecondsBuckets>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let histogram = histogram.clone();
                scope.spawn(move || (0..1_000).for_each(|_| histogram.observe(0.5)));
            }
        });
        assert_eq!(histogram.count(), 4_000);
        assert!((histogram.sum() - 2_000.0).abs() < 1e-9);
    }
}
