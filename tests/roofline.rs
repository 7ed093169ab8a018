//! Costs of a device that is not at hand.

use burn::tensor::Device;
use plimsoll::cost::roofline::{Operand, bytes, flops};
use plimsoll::cost::{Problem, Roofline};
use plimsoll::entity::ValueId;
use plimsoll::zoo::{self, ZooModel, ZooVisitor};
use plimsoll::{Budget, Error, Nanos, Rematerialize, Settings, check, solver};

/// Operands of 32-bit elements.
fn operands<'a>(dims: &[&'a [usize]]) -> Vec<Operand<'a>> {
    dims.iter().map(|&dims| Operand { dims, bytes: 4 * dims.iter().product::<usize>() as u64 }).collect()
}

fn flops_of(kind: &str, inputs: &[&[usize]], output: &[usize]) -> f64 {
    flops(kind, &operands(inputs), &operands(&[output]))
}

#[test]
fn flops_are_those_counted_by_hand() {
    type Case<'a> = (&'a str, &'a [&'a [usize]], &'a [usize], f64);
    let cases: &[Case<'_>] = &[
        // 2 m n k, times a batch of 3.
        ("Float.Matmul", &[&[3, 4, 5], &[3, 5, 6]], &[3, 4, 6], 2.0 * 3.0 * 4.0 * 6.0 * 5.0),
        ("Module.Linear", &[&[8, 5], &[5, 6], &[6]], &[8, 6], 2.0 * 8.0 * 6.0 * 5.0),
        ("Module.LinearXBackward", &[&[5, 6], &[8, 6]], &[8, 5], 2.0 * 8.0 * 6.0 * 5.0),
        ("Module.LinearWeightBackward", &[&[8, 5], &[8, 6]], &[5, 6], 2.0 * 8.0 * 6.0 * 5.0),
        ("Module.LinearBiasBackward", &[&[8, 6]], &[6], 48.0),
        // Output 2 x 16 x 8 x 8, each element of 3 channels x 3 x 3.
        ("Module.Conv2d", &[&[2, 3, 8, 8], &[16, 3, 3, 3], &[16]], &[2, 16, 8, 8], 2.0 * 2.0 * 16.0 * 64.0 * 27.0),
        (
            "Module.Conv2dXBackward",
            &[&[2, 3, 8, 8], &[16, 3, 3, 3], &[2, 16, 8, 8]],
            &[2, 3, 8, 8],
            2.0 * 2.0 * 16.0 * 64.0 * 27.0,
        ),
        (
            "Module.Conv2dWeightBackward",
            &[&[2, 3, 8, 8], &[16, 3, 3, 3], &[2, 16, 8, 8]],
            &[16, 3, 3, 3],
            2.0 * 2.0 * 16.0 * 64.0 * 27.0,
        ),
        ("Module.Conv2dBiasBackward", &[&[2, 3, 8, 8], &[16], &[2, 16, 8, 8]], &[16], 2048.0),
        // Two groups: the weight says so.
        ("Module.Conv1d", &[&[1, 4, 10], &[6, 2, 3]], &[1, 6, 8], 2.0 * 48.0 * 6.0),
        // Input 1 x 4 x 5, each element to 2 channels x 2.
        ("Module.ConvTranspose1d", &[&[1, 4, 5], &[4, 2, 2]], &[1, 2, 10], 2.0 * 20.0 * 4.0),
        // 2 x 3 heads, 4 queries of 7 keys: 168 pairs.
        (
            "Module.Attention",
            &[&[2, 3, 4, 8], &[2, 3, 7, 8], &[2, 3, 7, 9]],
            &[2, 3, 4, 9],
            2.0 * 168.0 * 17.0 + 5.0 * 168.0,
        ),
        ("Custom.signal::rfft", &[&[2, 16, 3]], &[2, 9, 3], 2.5 * 96.0 * 4.0),
        ("NumericFloat.Add", &[&[4, 6], &[4, 6]], &[4, 6], 24.0),
        ("NumericFloat.SumDim", &[&[4, 6]], &[4, 1], 24.0),
        ("Float.Exp", &[&[4, 6]], &[4, 6], 240.0),
        ("Activation.Softmax", &[&[4, 6]], &[4, 6], 120.0),
        ("NumericFloat.Sort", &[&[4, 8]], &[4, 8], 96.0),
        ("BaseFloat.Cat", &[&[4, 6], &[4, 6]], &[8, 6], 0.0),
        ("BaseFloat.EqualElem", &[&[4, 6]], &[4, 6], 24.0),
    ];
    for (kind, inputs, output, expected) in cases {
        let found = flops_of(kind, inputs, output);
        assert!((found - expected).abs() < 1e-6 * expected.max(1.0), "{kind}: {found}, not {expected}");
    }
}

#[test]
fn bytes_are_those_read_and_written() {
    let of = |kind, inputs: &[&[usize]], output: &[usize]| bytes(kind, &operands(inputs), &operands(&[output]));
    assert_eq!(of("NumericFloat.Add", &[&[4, 6], &[4, 6]], &[4, 6]), 3.0 * 96.0);
    // Three rows of a table of a thousand.
    assert_eq!(of("Module.Embedding", &[&[1000, 8], &[3]], &[3, 8]), 96.0 + 12.0 + 96.0);
    // Of the input only the shape counts.
    assert_eq!(
        of("Module.Conv1dXBackward", &[&[1, 4, 10], &[6, 4, 3], &[1, 6, 8]], &[1, 4, 10]),
        288.0 + 192.0 + 160.0
    );
}

#[test]
fn time_is_launch_and_the_longer_of_arithmetic_and_traffic() {
    let roofline = Roofline::new(1e9, 1e9).unwrap().with_launch(Nanos(100));
    let time =
        |kind, inputs: &[&[usize]], output: &[usize]| roofline.time(kind, &operands(inputs), &operands(&[output]));
    // 2 x 64^3 = 524288 flops against 3 x 16384 bytes.
    assert_eq!(time("Float.Matmul", &[&[64, 64], &[64, 64]], &[64, 64]), Nanos(100 + 524_288));
    // 10 flops against 120 bytes.
    assert_eq!(time("NumericFloat.Add", &[&[10], &[10]], &[10]), Nanos(100 + 120));
    assert_eq!(time("BaseFloat.Zeros", &[], &[0]), Nanos(100));
}

#[test]
fn rooflines_are_read_from_text() {
    let roofline: Roofline = "312e12, 2e12".parse().unwrap();
    assert_eq!((roofline.flops_per_s(), roofline.bytes_per_s()), (312e12, 2e12));
    for wrong in ["", "1e12", "1e12,", "0,1e12", "1e12,0", "-1,1", "1,-1", "inf,1", "1,nan", "1,2,3", "a,b"] {
        let error = wrong.parse::<Roofline>().unwrap_err();
        assert!(matches!(&error, Error::InvalidSetting { name, .. } if name == "roofline"), "{wrong}: {error}");
    }
}

/// A model's problem here and on a device that is not at hand.
struct Problems;

impl ZooVisitor for Problems {
    type Output = (Problem, Problem);

    fn visit<M: ZooModel>(
        self,
        _name: &'static str,
        model: M,
        batch: impl Fn(u64, &Device) -> M::Inputs + Send + Sync + 'static,
    ) -> (Problem, Problem) {
        let inputs = batch(0, &Device::flex().autodiff());
        let model = Rematerialize::with_settings(model, Settings::new(Budget::Unlimited).profile_directory(None));
        let step = |m: &M, inputs: M::Inputs| m.batch_loss(inputs);
        let roofline = "312e12,2e12".parse().unwrap();
        (model.problem(inputs.clone(), step).unwrap(), model.problem_on(&roofline, inputs, step).unwrap())
    }
}

#[test]
fn every_model_is_planned_for_a_device_not_at_hand() {
    let kind_is = |kind: &str, names: &[&str]| names.iter().any(|n| kind.ends_with(&format!(".{n}")));
    let (mut views_seen, mut disagree) = (0, Vec::new());
    for spec in zoo::models() {
        let name = spec.name;
        let settings = zoo::Settings::tiny(name).unwrap();
        let (here, there) = zoo::with_model(name, &settings, &Device::flex().autodiff(), 0, Problems).unwrap();
        let there = Problem::from_json(&there.to_json(), name).unwrap();

        assert_eq!(here.graph.ops().len(), there.graph.ops().len(), "{name}");
        for ((op, a), b) in here.graph.ops().iter().zip(there.graph.ops().values()) {
            assert_eq!((&a.kind, a.phase, a.replay), (&b.kind, b.phase, b.replay), "{name}: {op}");
            assert_eq!((&a.inputs, &a.outputs), (&b.inputs, &b.outputs), "{name}: {op}");
            let views = |p: &Problem| -> Vec<Option<ValueId>> {
                a.outputs.iter().map(|&v| p.graph.values()[v].alias_of).collect()
            };
            if views(&here) != views(&there) {
                let line = format!("{name}: {op} {}: {:?} here, {:?} there", a.kind, views(&here), views(&there));
                assert!(!kind_is(&a.kind, &["SwapDims", "Permute", "Expand", "Slice"]), "{line}");
                disagree.push(line);
            }
            let is_view = views(&there).iter().any(Option::is_some);
            views_seen += usize::from(is_view);
            // Handing the inputs over costs nothing either.
            let is_free = is_view || a.kind == "Step.Inputs";
            assert_eq!(there.costs.time[op] == Nanos::ZERO, is_free, "{name}: {op} {}", a.kind);
        }

        let (_, baseline) = solver::baseline(&there);
        for percent in [100.0, 80.0] {
            let budget = Budget::percent(percent).resolve(baseline.peak).unwrap();
            let options = solver::Options { time_limit: std::time::Duration::from_secs(2), ..Default::default() };
            match solver::plan(&there, budget, "auto", &options) {
                Ok(plan) => {
                    check::check(&there, &plan).unwrap_or_else(|e| panic!("{name} at {percent}%: {e}"));
                }
                Err(Error::Infeasible { .. }) if percent < 100.0 => {}
                Err(error) => panic!("{name} at {percent}%: {error}"),
            }
        }
    }
    assert!(views_seen > 100, "only {views_seen} views");
    for line in &disagree {
        println!("{line}");
    }
    assert!(disagree.iter().all(|line| !line.contains(".Reshape")), "{}", disagree.join("\n"));
}
