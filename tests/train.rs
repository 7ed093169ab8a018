//! Planned training is plain training, bit for bit, within the budget.

mod common;

use common::{alone, plain, planned, settings};
use plimsoll::Budget;
use plimsoll::zoo::{self, Settings};

#[global_allocator]
static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;

/// Of the measured peak beyond the planned one, what is owed to the allocator's and the test
/// runner's own threads.
const SLACK: u64 = 16 * 1024;

#[test]
fn every_zoo_model_trains_identically_at_every_budget() {
    let _alone = alone();
    for spec in zoo::models() {
        let tiny = Settings::tiny(spec.name).unwrap();
        let (want, _) = plain(spec.name, &tiny, 3);
        for budget in [Budget::Unlimited, Budget::percent(100.0), Budget::percent(70.0), Budget::percent(50.0)] {
            match planned(spec.name, &tiny, 3, settings(budget)) {
                Ok((got, measured, plan)) => {
                    for (step, (want, got)) in want.iter().zip(&got).enumerate() {
                        assert_eq!(want.loss, got.loss, "{} at {budget}: loss of step {step}", spec.name);
                        assert_eq!(want.gradients.len(), got.gradients.len());
                        for (i, (w, g)) in want.gradients.iter().zip(&got.gradients).enumerate() {
                            assert_eq!(w, g, "{} at {budget}: gradient {i} of step {step}", spec.name);
                        }
                        assert_eq!(want.state, got.state, "{} at {budget}: state after step {step}", spec.name);
                    }
                    for m in measured {
                        let (peak, planned) = (m.report.measured_peak.unwrap().get(), m.report.planned_peak.get());
                        assert!(
                            peak <= planned + SLACK,
                            "{} at {budget}: {peak} measured, {planned} planned",
                            spec.name
                        );
                        assert!(m.report.planned_peak <= m.report.budget);
                    }
                    println!(
                        "{:10} {budget:>9} peak {} overhead {:.4}",
                        spec.name, plan.predicted.peak, plan.predicted.overhead
                    );
                }
                Err(error) => println!("{:10} {budget:>9} {error}", spec.name),
            }
        }
    }
}
