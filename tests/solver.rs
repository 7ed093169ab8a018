use plimsoll::cost::*;
use plimsoll::entity::*;
use plimsoll::plan::*;
use plimsoll::*;
#[test]
fn probe() {
    for n in ["gpt-4x256-b8", "resnet-8x32-b8", "unet-3x16-b4"] {
        let p = Problem::load(format!("tests/data/{n}.problem.json")).unwrap();
        let id: Vec<OpId> = p.graph.ops().keys().collect();
        let keep = simulate(&p, &lower(&p.graph, &id, Lowering { inplace: false })).unwrap();
        let keepi = simulate(&p, &lower(&p.graph, &id, Lowering { inplace: true })).unwrap();
        println!(
            "{n} P {} inplace {} T {}",
            keep.peak.0,
            keepi.peak.0 as f64 / keep.peak.0 as f64,
            p.trivial_bound().0 as f64 / keep.peak.0 as f64
        );
        let f: Vec<f64> = std::env::var("FR")
            .map(|s| s.split(',').map(|x| x.parse().unwrap()).collect())
            .unwrap_or(vec![0.8, 0.6, 0.5, 0.4, 0.3]);
        for f in f {
            let f = if f < 0.0 {
                let t = p.trivial_bound().0 as f64;
                (t - f * (keep.peak.0 as f64 - t)) / keep.peak.0 as f64
            } else {
                f
            };
            let b = Bytes((keep.peak.0 as f64 * f) as u64);
            let s = std::time::Instant::now();
            let o = solver::Options { inplace: std::env::var("NOIP").is_err(), ..Default::default() };
            let pl = match solver::plan(&p, b, "auto", &o) {
                Ok(p) => p,
                Err(e) => {
                    println!("{e}");
                    continue;
                }
            };
            let t = &pl.predicted;
            let steps = &pl.steps;
            println!(
                "  {f:.3} peak/budget {:.4} overhead {:.3} % bound {:.3} {:.2?} {:?}",
                t.peak.0 as f64 / b.0 as f64,
                100.0 * (t.time.0 as f64 / keep.time.0 as f64 - 1.0),
                100.0 * t.lower_bound,
                s.elapsed(),
                check::check_steps(&p, steps, b).is_ok()
            );
        }
    }
}
