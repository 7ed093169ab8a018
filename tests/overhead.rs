mod common;
use common::*;
use plimsoll::Budget;
use plimsoll::zoo::{self, Settings};
#[global_allocator]
static ALLOCATOR: plimsoll::alloc::Counting = plimsoll::alloc::Counting;
struct P;
impl zoo::ZooVisitor for P {
    type Output = plimsoll::cost::Problem;
    fn visit<M: zoo::ZooModel>(
        self,
        _n: &'static str,
        model: M,
        batch: impl Fn(u64, &burn::tensor::Device) -> M::Inputs + Send + Sync + 'static,
    ) -> Self::Output {
        let d = burn::module::Module::devices(&model)[0].clone();
        plimsoll::Rematerialize::with_settings(model, settings(Budget::Unlimited))
            .problem(batch(0, &d), |m: &M, i| m.batch_loss(i))
            .unwrap()
    }
}
#[test]
fn overhead() {
    for spec in zoo::models() {
        for s in [Settings::tiny(spec.name).unwrap(), Settings::new()] {
            let d = burn::tensor::Device::flex().autodiff();
            let p = zoo::with_model(spec.name, &s, &d, 7, P).unwrap();
            let (_, m, plan) = planned(spec.name, &s, 2, settings(Budget::Unlimited)).unwrap();
            let live = p.graph.most_live_values();
            let over: Vec<i64> = m
                .iter()
                .map(|m| m.report.measured_peak.unwrap().get() as i64 - m.report.planned_peak.get() as i64)
                .collect();
            println!(
                "{:10} ops {:5} live {live:5} peak {:10} over {over:?} per value {:.0} {:.2}%",
                spec.name,
                p.graph.ops().len(),
                plan.predicted.peak.get(),
                over[1] as f64 / live as f64,
                100.0 * over[1] as f64 / plan.predicted.peak.get() as f64
            );
        }
    }
}
