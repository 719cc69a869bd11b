//! Which features set one small group of documents apart: log-odds ratios with an informative prior.
//!
//! After Monroe, Colaresi and Quinn (2008), "Fightin' words", on document frequencies: each side's odds are shrunk
//! towards the background frequency by a few pseudo-documents, and the difference is divided by its standard error.
//! With three documents a feature therefore needs to be in all of them, or to be rare elsewhere, to stand out.

/// How often a feature occurs in the group, in what it is compared with, and in all documents.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Documents of the group with the feature.
    pub inside: f64,
    /// Documents of the group.
    pub n_inside: f64,
    /// Documents outside with the feature.
    pub outside: f64,
    /// Documents outside.
    pub n_outside: f64,
    /// Share of all documents with the feature, 0 to 1, exclusive.
    pub background: f64,
}

/// Difference of the two log-odds and how many standard errors it is away from zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogOdds {
    /// `ln(odds inside) - ln(odds outside)`; positive if the feature is more frequent inside.
    pub difference: f64,
    /// `difference` divided by its standard error.
    pub z: f64,
}

/// Compares; `prior` is the number of pseudo-documents of the background on each side, above 0.
pub fn log_odds(counts: Counts, prior: f64) -> LogOdds {
    let p = counts.background.clamp(1e-6, 1.0 - 1e-6);
    let side = |hits: f64, n: f64| (hits + prior * p, (n - hits).max(0.0) + prior * (1.0 - p));
    let (a, b) = side(counts.inside, counts.n_inside);
    let (c, d) = side(counts.outside, counts.n_outside);
    let difference = (a / b).ln() - (c / d).ln();
    LogOdds { difference, z: difference / (1.0 / a + 1.0 / b + 1.0 / c + 1.0 / d).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn z(inside: f64, n_inside: f64, outside: f64, n_outside: f64) -> f64 {
        let background = (inside + outside + 0.5) / (n_inside + n_outside + 1.0);
        log_odds(Counts { inside, n_inside, outside, n_outside, background }, 4.0).z
    }

    #[test]
    fn more_evidence_and_larger_contrast_rank_higher() {
        assert!(z(9.0, 10.0, 5.0, 100.0) > z(5.0, 10.0, 5.0, 100.0));
        assert!(z(50.0, 100.0, 50.0, 1000.0) > z(5.0, 10.0, 5.0, 100.0));
        assert!(z(0.0, 10.0, 60.0, 100.0) < -2.0);
    }

    #[test]
    fn equal_shares_and_empty_groups_say_nothing() {
        assert!(z(10.0, 100.0, 10.0, 100.0).abs() < 1e-9);
        let nothing =
            log_odds(Counts { inside: 0.0, n_inside: 0.0, outside: 0.0, n_outside: 0.0, background: 0.3 }, 2.0);
        assert!(nothing.z.abs() < 1e-9 && nothing.difference.abs() < 1e-9);
        let everywhere =
            log_odds(Counts { inside: 5.0, n_inside: 5.0, outside: 9.0, n_outside: 9.0, background: 1.0 }, 2.0);
        assert!(everywhere.z.is_finite());
    }
}
