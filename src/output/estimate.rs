//! How far all lanes are together.

use blockferry_dataplane::Counts;

/// The share that is done. It never goes back, though the sizes of waiting lanes become known only
/// when they start.
#[derive(Debug, Default)]
pub(crate) struct Estimate {
    shown: f64,
}

impl Estimate {
    /// The share from 0 to 1; lanes of unknown size count as average ones.
    pub(crate) fn share(&mut self, lanes: impl IntoIterator<Item = Counts>) -> f64 {
        let (mut planned, mut finished) = (0_u128, 0_u128);
        let (mut known, mut all) = (0_u128, 0_u128);
        for counts in lanes {
            all += 1;
            planned += u128::from(counts.planned);
            finished += u128::from(counts.finished().min(counts.planned));
            known += u128::from(counts.planned > 0);
        }
        if let Some(all) = (planned * all).checked_div(known) {
            self.shown = self.shown.max(ratio(finished, all));
        }
        self.shown
    }
}

/// Good to 15 digits, which no display shows.
#[allow(clippy::cast_precision_loss)]
fn ratio(part: u128, whole: u128) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_have_not_started_count_as_average_ones_and_the_share_never_falls() {
        let counts = |planned, acknowledged| {
            let mut counts = Counts::default();
            (counts.planned, counts.acknowledged) = (planned, acknowledged);
            counts
        };
        let mut estimate = Estimate::default();
        let mut share = |lanes: [Counts; 2]| estimate.share(lanes);
        assert_eq!(share([counts(0, 0), counts(0, 0)]), 0.0);
        assert_eq!(share([counts(100, 50), counts(0, 0)]), 0.25);
        assert_eq!(share([counts(100, 50), counts(900, 0)]), 0.25);
        assert_eq!(share([counts(100, 100), counts(900, 900)]), 1.0);
    }
}
