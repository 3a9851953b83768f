use std::time::Duration;

/// Exponential backoff with full jitter: before attempt n+1 wait a random time between zero and
/// `min(cap, base · 2^(n-1))`. Full jitter spreads a crowd that failed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1.
    pub max_attempts: u16,
    /// The longest wait before the second attempt.
    pub base: Duration,
    /// The longest wait before any attempt.
    pub cap: Duration,
}

impl RetryPolicy {
    /// Five attempts, waits of at most 2 s, 4 s, 8 s and 16 s, capped at 10 minutes.
    pub const DEFAULT: Self = Self {
        max_attempts: 5,
        base: Duration::from_secs(2),
        cap: Duration::from_secs(600),
    };

    /// The longest wait after the given attempt (1 is the first).
    #[must_use]
    pub fn ceiling(&self, attempt: u16) -> Duration {
        let doublings = u32::from(attempt.saturating_sub(1)).min(30);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// The wait after the given attempt; `roll` is uniform in [0, 1).
    #[must_use]
    pub fn delay(&self, attempt: u16, roll: f64) -> Duration {
        self.ceiling(attempt).mul_f64(roll.clamp(0.0, 1.0))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_never_overflows() {
        let policy = RetryPolicy {
            max_attempts: 9,
            base: Duration::from_secs(2),
            cap: Duration::from_secs(60),
        };
        let ceilings: Vec<u64> = (1..=8).map(|n| policy.ceiling(n).as_secs()).collect();
        assert_eq!(ceilings, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(policy.ceiling(u16::MAX), policy.cap);
    }

    #[test]
    fn full_jitter_covers_zero_to_the_ceiling() {
        let policy = RetryPolicy::DEFAULT;
        assert_eq!(policy.delay(3, 0.0), Duration::ZERO);
        assert_eq!(policy.delay(3, 0.5), Duration::from_secs(4));
        assert!(policy.delay(3, 0.999_999) <= policy.ceiling(3));
    }
}
