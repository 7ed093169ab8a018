use burn::tensor::Device;
use plimsoll::plan::{Step, simulate};
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Rematerialize, Settings, alloc};
#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;
struct V(Budget);
impl ZooVisitor for V {
    type Output = ();
    fn visit<M: ZooModel>(
        self,
        name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) {
        let device = model.devices()[0].clone();
        let model = Rematerialize::with_settings(model, Settings::new(self.0).profile_directory(None).quiet(true));
        let step = |m: &M, inputs| m.batch_loss(inputs);
        let problem = model.problem(batch(0, &device), step).unwrap();
        let plan = model.plan(batch(0, &device), step).unwrap();
        let t = simulate(&problem, &plan.steps).unwrap();
        for round in 0..4 {
            let inputs = batch(0, &device);
            let mut held = Vec::with_capacity(plan.steps.len());
            let mut after = Vec::with_capacity(plan.steps.len());
            let before = alloc::live().get();
            alloc::reset_peak();
            let r = model
                .step_observed(inputs, step, &mut |_| {
                    held.push(alloc::peak().get());
                    after.push(alloc::live().get());
                    alloc::reset_peak();
                })
                .unwrap()
                .report;
            println!(
                "{name} round {round}: planned {} measured {} ratio {:.4}",
                r.planned_peak.get(),
                r.measured_peak.unwrap().get(),
                r.planned_peak.get() as f64 / r.measured_peak.unwrap().get() as f64
            );
            if round == 0 || round == 3 {
                let base = after[0] as i64 - t.live[0].get() as i64;
                let g = &problem.graph;
                let mut views = 0i64;
                let mut tensors = 0i64;
                let mut rows = Vec::new();
                for (i, s) in plan.steps.iter().enumerate() {
                    match s {
                        Step::Compute { op, inplace } => {
                            for &v in &g.ops()[*op].outputs {
                                if g.values()[v].alias_of.is_some() { views += 1 } else { tensors += 1 }
                            }
                            tensors -= inplace.len() as i64;
                        }
                        Step::Drop(v) => {
                            if g.values()[*v].alias_of.is_some() {
                                views -= 1
                            } else {
                                tensors -= 1
                            }
                        }
                        _ => {}
                    }
                    let what = match s {
                        Step::Compute { op, .. } => {
                            format!("{} ws {}", g.describe_op(*op), problem.costs.workspace[*op].get())
                        }
                        s => format!("{s:?}"),
                    };
                    rows.push((t.live[i].get() as i64, held[i] as i64 - base, i, views, tensors, what));
                }
                if let Ok(at) = std::env::var("AT") {
                    let at: usize = at.parse().unwrap();
                    for j in at - 3..at + 4 {
                        println!("   {j}: peak {} after {} pred {} {}", held[j], after[j], t.live[j].get(), rows[j].5);
                    }
                }
                let mut a = rows.clone();
                a.sort_by_key(|r| -(r.0 + 288 * r.3));
                for r in a.iter().take(4) {
                    println!(" V {} {} {} step {} views {} tensors {} {}", r.0, r.1, r.1 - r.0, r.2, r.3, r.4, r.5);
                }
                let mut a = rows.clone();
                a.sort_by_key(|r| -r.0);
                println!(" highest predicted (predicted, measured peak in step, diff, step, views, tensors)");
                for r in a.iter().take(6) {
                    println!("  {} {} {} step {} views {} tensors {} {}", r.0, r.1, r.1 - r.0, r.2, r.3, r.4, r.5);
                }
                let mut a = rows.clone();
                a.sort_by_key(|r| -r.1);
                println!(" highest measured");
                for r in a.iter().take(6) {
                    println!("  {} {} {} step {} views {} tensors {} {}", r.0, r.1, r.1 - r.0, r.2, r.3, r.4, r.5);
                }
            }
            let _ = before;
        }
    }
}
fn main() {
    let mut args = std::env::args().skip(1);
    let budget: Budget = args.next().unwrap().parse().unwrap();
    let device = Device::flex().autodiff();
    for name in args {
        zoo::with_model(&name, &zoo::Settings::new(), &device, 7, V(budget)).unwrap();
    }
}
