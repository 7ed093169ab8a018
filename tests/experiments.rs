//! What may be concluded from runs, `plimsoll compare`, and experiments that are killed and go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use plimsoll::stats::{Draw, Interval, Verdict, median, median_interval, smaller, verdict};
use serde_json::{Value, json};

#[path = "command/mod.rs"]
mod command;

use command::{TINY, failed, succeeded, text};

const THRESHOLD: f64 = 0.75;

// --- statistics

fn unit(draw: &mut Draw) -> f64 {
    (draw.number() >> 11) as f64 / (1u64 << 53) as f64
}

/// From the normal distribution (Box and Muller).
fn normal(draw: &mut Draw) -> f64 {
    let radius = (-2.0 * (1.0 - unit(draw)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(draw)).cos()
}

fn holds(interval: Interval, value: f64) -> bool {
    (interval.low..=interval.high).contains(&value)
}

/// Differences of pairs as pairs.
fn pairs(differences: impl Iterator<Item = f64>) -> Vec<(f64, f64)> {
    differences.map(|d| (10.0 + d, 10.0)).collect()
}

#[test]
fn intervals_are_those_of_the_books() {
    assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0, 3.0, 2.0])), (2.0, 2.5));
    assert!(median(&[]).is_nan());
    // Ten values: the second of either end holds 97.85 %, the third 89.06 %; I = 0.3244, and so
    // lambda = 8 I / (2 + 6 I) = 0.6577 of the way.
    let ten: Vec<f64> = (1..=10).map(f64::from).collect();
    let interval = median_interval(&ten).unwrap();
    assert!((interval.low - 2.6577).abs() < 1e-3 && (interval.high - 8.3423).abs() < 1e-3, "{interval:?}");
    assert!(median_interval(&ten[..6]).is_some() && median_interval(&ten[..5]).is_none());
    // Clopper and Pearson's tables: 8 of 10, all of 10, none of 10.
    let won = |wins: usize, ties: usize, n: usize| {
        smaller((0..n).map(|i| {
            (
                if i < wins {
                    1.0
                } else if i < wins + ties {
                    2.0
                } else {
                    3.0
                },
                2.0,
            )
        }))
    };
    for (wins, low, high) in [(8, 0.4439, 0.9748), (10, 0.6915, 1.0), (0, 0.0, 0.3085)] {
        let Interval { low: l, high: h } = won(wins, 0, 10).interval;
        assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{wins} of 10: {l} to {h}");
    }
    // A tie is half a win, and makes the interval no narrower.
    let (tied, seven, eight) = (won(7, 1, 10), won(7, 0, 10), won(8, 0, 10));
    assert_eq!(tied.share, 0.75);
    assert_eq!((tied.interval.low, tied.interval.high), (seven.interval.low, eight.interval.high));
    assert_eq!((won(0, 10, 10).share, verdict(&won(0, 10, 10), THRESHOLD)), (0.5, Verdict::NotShown));
    // Nothing is known of nothing.
    assert_eq!(smaller([]).interval, Interval { low: 0.0, high: 1.0 });
    // Thousands of pairs underflow nothing.
    let many = won(2600, 0, 5000).interval;
    assert!((many.low - 0.506).abs() < 1e-3 && (many.high - 0.534).abs() < 1e-3, "{many:?}");
}

#[test]
fn the_interval_of_a_median_covers_what_it_says() {
    let mut draw = Draw::new(1);
    // A name, one value of it, and its median.
    type Law = (&'static str, fn(&mut Draw) -> f64, f64);
    let laws: [Law; 4] = [
        ("normal", normal, 0.0),
        ("skewed", |draw| normal(draw).exp(), 1.0),
        ("heavy tails", |draw| normal(draw) / normal(draw).abs().max(1e-9), 0.0),
        ("uniform", unit, 0.5),
    ];
    for (name, law, truth) in laws {
        for n in [10, 13, 20, 30] {
            let held = (0..2000)
                .filter(|_| {
                    let values: Vec<f64> = (0..n).map(|_| law(&mut draw)).collect();
                    holds(median_interval(&values).unwrap(), truth)
                })
                .count();
            assert!((1860..=1940).contains(&held), "{name}, {n} values: {held} of 2000 intervals held the median");
        }
    }
}

#[test]
fn the_interval_of_a_share_covers_at_least_what_it_says() {
    let mut draw = Draw::new(2);
    for truth in [0.5, 0.75, 0.95] {
        for n in [10, 13, 20, 30] {
            let held = (0..2000)
                .filter(|_| {
                    let won = pairs((0..n).map(|_| unit(&mut draw) - truth));
                    holds(smaller(won).interval, truth)
                })
                .count();
            assert!(held >= 1880, "{n} pairs, probability {truth}: {held} of 2000 intervals held it");
        }
    }
}

#[test]
fn equals_are_rarely_declared_different_and_differences_mostly() {
    let mut draw = Draw::new(3);
    let mut declared = |n: usize, shift: f64| {
        let runs = (0..200).map(|_| verdict(&smaller(pairs((0..n).map(|_| normal(&mut draw) + shift))), THRESHOLD));
        runs.fold([0, 0], |[less, more], verdict| match verdict {
            Verdict::Smaller => [less + 1, more],
            Verdict::Larger => [less, more + 1],
            Verdict::NotShown => [less, more],
        })
    };
    for n in [6, 10, 13, 20, 30] {
        let [less, more] = declared(n, 0.0);
        assert!(less + more <= 14, "{n} pairs: {} of 200 comparisons with itself", less + more);
    }
    // One is better in 19 pairs of 20.
    for (shift, at) in [(-1.645, 0), (1.645, 1)] {
        let found = declared(15, shift);
        assert!(found[at] >= 190 && found[1 - at] == 0, "{found:?} of 200");
    }
    // However surely: better in six pairs of ten is not what is called better.
    let barely = smaller((0..5000).map(|i| (if i % 10 < 6 { 1.0 } else { 3.0 }, 2.0)));
    assert!(barely.interval.low > 0.5);
    assert_eq!(verdict(&barely, THRESHOLD), Verdict::NotShown);
    assert_eq!(verdict(&barely, 0.55), Verdict::Smaller);
}

/// Why the intervals are not bootstrapped: what `plimsoll::stats` says of the alternative.
#[test]
fn a_percentile_bootstrap_would_not_do() {
    let mut draw = Draw::new(4);
    let n = 13;
    // How often resampling `wins` of 13 puts the lower end above one half.
    let mut different = |wins: usize| {
        let mut shares: Vec<usize> = (0..4000).map(|_| (0..n).filter(|_| draw.below(n) < wins).count()).collect();
        shares.sort_unstable();
        2 * shares[shares.len() / 40] > n
    };
    let choose = |k: usize| (0..k).fold(1.0, |c, i| c * (n - i) as f64 / (i + 1) as f64);
    let chance: f64 = (0..=n).filter(|&k| different(k)).map(|k| choose(k) / f64::powi(2.0, n as i32)).sum();
    // On either side.
    assert!((0.09..0.1).contains(&(2.0 * chance)), "{}", 2.0 * chance);
}

#[test]
fn orders_are_drawn_and_can_be_drawn_again() {
    let mut seen = BTreeMap::new();
    let mut draw = Draw::new(5);
    for _ in 0..6000 {
        let mut order = [0, 1, 2];
        draw.shuffle(&mut order);
        *seen.entry(order).or_insert(0) += 1;
    }
    assert!(seen.len() == 6 && seen.values().all(|n| (850..1150).contains(n)), "{seen:?}");
    let numbers = |seed| {
        let mut draw = Draw::new(seed);
        [(); 3].map(|()| draw.number())
    };
    assert_eq!(numbers(7), numbers(7));
    assert_ne!(numbers(7), numbers(8));
    assert_eq!(Draw::new(7).below(0), 0);
}

// --- the command line

const MODEL: [&str; 7] = ["shared", "--set", "batch=256", "--set", "layers=4", "--set", "width=16"];

/// Each test has its own cache of measured costs.
fn plimsoll(dir: &Path, args: &[&str]) -> Command {
    let mut command = command::plimsoll(args);
    command.env("XDG_CACHE_HOME", dir.join("cache"));
    command
}

fn run(dir: &Path, args: &[&str], code: i32) -> Output {
    let output = plimsoll(dir, args).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert_eq!(said.is_empty(), code == 0, "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    output
}

fn succeed(dir: &Path, args: &[&str]) -> String {
    succeeded(&mut plimsoll(dir, args))
}

fn fail(dir: &Path, args: &[&str]) -> String {
    failed(&mut plimsoll(dir, args))
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn lines(file: &Path) -> Vec<Value> {
    std::fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// `compare` of [`MODEL`], two steps a run.
fn compare(variants: &[&'static str], more: &[&str]) -> Vec<String> {
    let given = variants.iter().flat_map(|variant| ["--variant", variant]);
    let short = ["--steps", "2", "--warmup", "1", "--time-limit", "0.5"];
    ["compare"]
        .into_iter()
        .chain(MODEL)
        .chain(given)
        .chain(short)
        .chain(more.iter().copied())
        .map(str::to_owned)
        .collect()
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn variants_run_in_pairs_and_compute_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (raw, table) = (dir.join("raw.jsonl"), dir.join("table.md"));
    let files = ["--runs", "3", "--json", "--out", path(&raw), "--markdown", path(&table)];
    let variants = ["plain", "checkpoint", "unlimited", "70%@evict"];
    let printed = succeed(dir, &strs(&compare(&variants, &files)));
    assert_eq!(printed.lines().count(), 1);
    let report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&report["identical"], &report["random"], &report["runs"]), (&json!(true), &json!(false), &json!(3)));
    assert_eq!(report["varied"], json!(["initial values", "data", "process", "order of runs"]));
    let rows = report["variants"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["variant"].as_str().unwrap()).collect::<Vec<_>>(), variants);
    for row in rows {
        assert!(row["step_time"].as_f64().unwrap() > 0.0 && row["peak"].as_u64().unwrap() > 0, "{row}");
        // Three repetitions show nothing.
        assert_eq!((&row["verdict"], &row["ratio_low"]), (&json!("not shown"), &Value::Null));
        assert_eq!(row["planned_peak"].is_u64(), row["variant"].as_str().unwrap().contains(['%', 'u']), "{row}");
    }
    assert_eq!((&rows[0]["ratio"], &rows[0]["faster"]), (&json!(1.0), &json!(0.5)));

    let runs = lines(&raw);
    assert_eq!(runs.len(), 12);
    let mut orders = BTreeSet::new();
    for repetition in 0..3 {
        let of: Vec<&Value> = runs.iter().filter(|run| run["repetition"] == json!(repetition)).collect();
        assert_eq!(of.iter().map(|run| run["place"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let order: Vec<&str> = of.iter().map(|run| run["variant"].as_str().unwrap()).collect();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 4);
        orders.insert(order);
        for run in &of {
            for key in ["init_seed", "data_seed", "losses", "gradients", "parameters"] {
                assert_eq!(run[key], of[0][key], "{key} of repetition {repetition}");
            }
            assert_eq!(run["losses"].as_array().unwrap().len(), 3, "warm-up steps are compared too");
            assert_eq!(run["step_ns"].as_array().unwrap().len(), 2, "and not measured");
        }
    }
    assert!(orders.len() > 1, "{orders:?}");
    let different = |key: &str| runs.iter().map(|run| run[key].to_string()).collect::<BTreeSet<_>>().len();
    assert_eq!(["init_seed", "data_seed", "parameters"].map(different), [3, 3, 3]);

    let table = std::fs::read_to_string(table).unwrap();
    assert!(table.contains("- results: identical bits") && table.contains("|---|"), "{table}");
    for variant in variants {
        assert!(table.lines().any(|line| line.starts_with(&format!("| {variant} |"))), "{table}");
    }
}

#[test]
fn the_table_says_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let table = succeed(dir.path(), &strs(&compare(&["plain", "plain"], &["--runs", "2", "--seed", "5"])));
    let (head, rows) = table.split_once("\n\n").unwrap();
    insta::assert_snapshot!(head, @r"
    model    shared, batch=256 layers=4 width=16, on flex
    runs     2 of each variant, each a process of its own; seed 5
    steps    2 measured in each run, after 1 to warm up
    varied   initial values, data, process, order of runs; the variants of a repetition share the first two
    results  identical bits: losses, gradients and parameters of all variants
    ");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = rows.lines().map(words).collect();
    assert_eq!(rows[0].join(" "), "variant step ratio 95% interval faster in 95% interval verdict peak of the first");
    assert_eq!((rows[1][0].as_str(), rows[1][3].as_str()), ("plain", "-"));
    assert_eq!(rows[2][..2], ["plain", "(2)"]);
    assert!(rows[2].join(" ").contains("not shown"));
}

#[test]
fn a_saved_plan_is_a_variant() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (problem, plan) = (dir.join("shared.problem.json"), dir.join("shared.plan.json"));
    succeed(dir, &[&["trace"], &MODEL[..], &["-o", path(&problem)]].concat());
    succeed(dir, &["plan", path(&problem), "-b", "70%", "--time-limit", "0.5", "-o", path(&plan)]);
    let variant = format!("plan:{}", path(&plan));
    let compare = |model: &[&str]| {
        let args = ["--variant", "plain", "--variant", &variant, "--runs", "1", "--steps", "1", "--json"];
        plimsoll(dir, &[&["compare"], model, &args[..]].concat()).output().unwrap()
    };
    let output = compare(&MODEL);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["identical"], json!(true));
    let budget = lines(&plan)[0]["budget"].as_u64().unwrap();
    let planned = report["variants"][1]["planned_peak"].as_u64().unwrap();
    assert!(planned > budget / 2 && planned < budget + budget / 10, "{planned} planned within {budget}");
    // It is of no use to another model.
    let output = compare(&["lora", "--set", "batch=256", "--set", "layers=4", "--set", "width=16"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the plan was made for graph"), "{}", text(&output.stderr));
}

#[test]
fn other_bits_are_told_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let model = ["dropout", "--set", "batch=64", "--set", "width=8", "--set", "layers=2", "--set", "dropout=0.5"];
    let rest = ["--variant", "plain", "--variant", "unlimited", "--variant", "90%", "--runs", "1", "--steps", "1"];
    let args = [&["compare"], &model[..], &rest[..], &["--warmup", "0", "--time-limit", "0.5"]].concat();
    let table = succeed(dir, &args);
    assert!(
        table.contains("results  DIFFERENT: unlimited from plain in the loss of step 0 of repetition 0\n"),
        "{table}"
    );
    assert!(table.contains("the model draws random numbers (dropout)"), "{table}");
    // Plans draw the same at every budget.
    let args: Vec<&str> = args.into_iter().map(|arg| if arg == "plain" { "unlimited" } else { arg }).collect();
    assert!(succeed(dir, &args).contains("identical bits"));
}

#[test]
fn help_ends_with_an_example() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["compare", "experiment"] {
        let help = succeed(dir.path(), &[command, "--help"]);
        assert!(help.trim_end().lines().rev().nth(1) == Some("Example:"), "{help}");
    }
    assert!(!succeed(dir.path(), &["--help"]).contains("run-one"));
}

#[test]
fn comparisons_that_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let two: &[&str] = &["--variant", "plain", "--variant", "50%"];
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec![], "<MODEL>"),
        (vec!["shared"], "--variant: give at least two"),
        (vec!["shared", "--variant", "plain"], "--variant: give at least two"),
        ([&["nonesuch"], two].concat(), "no model is called `nonesuch`; there are: gpt"),
        ([&["shared", "--set", "speed=9"], two].concat(), "shared has no such setting"),
        ([&["shared", "--set", "batch"], two].concat(), "write a setting as name=value"),
        ([&["shared", "--device", "abacus"], two].concat(), "no device is called `abacus`"),
        ([&["shared", "--runs", "0"], two].concat(), "--runs"),
        ([&["shared", "--steps", "0"], two].concat(), "--steps"),
        ([&["shared", "--threshold", "0.5"], two].concat(), "--threshold"),
        ([&["shared", "--threshold", "nan"], two].concat(), "--threshold"),
        ([&["shared", "--time-limit", "-1"], two].concat(), "--time-limit"),
        ([&["shared", "--variant", "plian"], two].concat(), "--variant plian: write plain, checkpoint"),
        ([&["shared", "--variant", "-5%"], two].concat(), "a budget must be more than zero"),
        ([&["shared", "--variant", "5 parsecs"], two].concat(), "its unit is none of"),
        ([&["shared", "--variant", "50%@oracle"], two].concat(), "no solver is called `oracle`"),
        ([&["shared", "--variant", "plan:none.json"], two].concat(), "cannot read none.json"),
        ([&["shared", "--out", "/no/such/folder/raw"], two].concat(), "cannot write"),
        ([&["shared", "--markdown", "/no/such/folder/md"], two].concat(), "cannot write"),
    ];
    let mut said = String::new();
    for (args, want) in cases {
        let message = fail(dir, &[&["compare"], &args[..]].concat());
        said += &format!("compare {}\n{message}\n", args.join(" "));
        assert!(message.contains(want), "{args:?}: {message}");
    }
    insta::assert_snapshot!("compare_errors", said);
    // A variant without a plan is what it is for `plan`.
    let output = run(dir, &strs(&compare(&["plain", "1%"], &["--runs", "1"])), 2);
    assert!(text(&output.stderr).starts_with("1%: no plan fits the budget"), "{}", text(&output.stderr));
}

// --- experiments

/// Six cells that are planned at once; half of them have no plan.
const GRID: &str = r#"
kind = "plan"
about = "Of a test."
problems = ["tiny.problem.json"]
solvers = ["auto", "sqrt"]
budgets = ["100%", "75%", "50%"]
time_limit = 5
"#;

/// A folder with an experiment file and the problem that it names.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new(declaration: &str) -> Self {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::copy(TINY, lab.at("tiny.problem.json")).unwrap();
        lab.declare(declaration);
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn declare(&self, declaration: &str) {
        std::fs::write(self.at("grid.toml"), declaration).unwrap();
    }

    fn args(&self) -> Vec<String> {
        vec!["experiment".into(), path(&self.at("grid.toml")).into(), "--json".into()]
    }

    fn run(&self) -> Value {
        serde_json::from_str(&succeed(self.dir.path(), &strs(&self.args()))).unwrap()
    }

    fn fail(&self) -> String {
        fail(self.dir.path(), &strs(&self.args()))
    }

    fn results(&self) -> Vec<u8> {
        std::fs::read(self.at("results/grid.jsonl")).unwrap()
    }

    fn records(&self) -> Vec<Value> {
        lines(&self.at("results/grid.jsonl"))
    }

    /// Every cell once.
    fn assert_whole(&self, cells: usize) {
        let records = self.records();
        let keys: BTreeSet<&str> = records.iter().map(|record| record["key"].as_str().unwrap()).collect();
        assert_eq!((records.len(), keys.len()), (cells, cells));
        assert_eq!(*self.results().last().unwrap(), b'\n');
    }
}

/// A table in which seconds are masked.
fn unclocked(table: &str) -> String {
    let line = |line: &str| match line.trim_end_matches(" |").rsplit_once(' ') {
        Some((rest, seconds)) if line.starts_with('|') && seconds.parse::<f64>().is_ok() => format!("{rest} s |"),
        _ => line.to_owned(),
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_grid_is_planned_once() {
    let lab = Lab::new(GRID);
    let summary = lab.run();
    for (key, want) in [("cells", 6), ("done", 6), ("kept", 0), ("planned", 3), ("without_plan", 3), ("failed", 0)] {
        assert_eq!(summary[key], json!(want), "{key}");
    }
    lab.assert_whole(6);
    let table = std::fs::read_to_string(lab.at("results/grid.md")).unwrap();
    insta::assert_snapshot!("experiment_table", unclocked(&table));
    let picture = std::fs::read_to_string(lab.at("results/grid.svg")).unwrap();
    // A panel, a line for the two plans of `auto`, the one of `sqrt`; both in the key.
    assert_eq!((picture.matches("<polyline").count(), picture.matches("r=\"3\"").count()), (1, 5), "{picture}");
    assert!(picture.contains(">tiny</text>") && picture.contains(">sqrt</text>"), "{picture}");
    let csv = std::fs::read_to_string(lab.at("results/grid.csv")).unwrap();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert_eq!(csv.lines().count(), 7);
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(csv.contains("tiny.problem.json,,,auto,0,75%,optimal,8,10755,10244,177000,14340,127000,"), "{csv}");

    let before = lab.results();
    let summary = lab.run();
    assert_eq!((&summary["done"], &summary["kept"]), (&json!(0), &json!(6)));
    assert_eq!(lab.results(), before);
    assert_eq!(std::fs::read_to_string(lab.at("results/grid.md")).unwrap(), table);

    let human = succeed(lab.dir.path(), &["experiment", path(&lab.at("grid.toml"))]);
    assert!(human.contains("experiment  grid, 6 cells\ndone        0 now, 6 before\n"), "{human}");
}

/// With a limit on search steps instead of a clock the same is found beside other work, and with other threads.
#[test]
fn plans_by_search_steps_are_the_same_however_busy_the_machine_is() {
    let grid = |jobs: &str| {
        let lab = Lab::new(
            r#"
            kind = "plan"
            problems = ["unet.problem.json"]
            solvers = ["auto", "rockmate"]
            budgets = ["60%", "50%"]
            time_limit = 600
            node_limit = 300
            "#,
        );
        std::fs::copy("tests/data/unet-3x16-b4.problem.json", lab.at("unet.problem.json")).unwrap();
        succeed(lab.dir.path(), &[&strs(&lab.args())[..], &["--jobs", jobs]].concat());
        let table = std::fs::read_to_string(lab.at("results/grid.md")).unwrap();
        assert!(table.contains("planned in at most 600 s and 300 search steps"), "{table}");
        unclocked(&table)
    };
    assert_eq!(grid("1"), grid("4"));
}

#[test]
fn a_run_cut_off_anywhere_goes_on_where_it_stopped() {
    let lab = Lab::new(GRID);
    lab.run();
    let whole = lab.results();
    let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').map(|at| at + 1).collect();
    // Nothing, a first byte, half a line, all of a line but its end, a whole line; in the first,
    // a middle and the last line.
    let mut cuts = BTreeSet::from([0]);
    for line in [0, 3, 5] {
        let start = if line == 0 { 0 } else { ends[line - 1] };
        cuts.extend([start + 1, (start + ends[line]) / 2, ends[line] - 1, ends[line]]);
    }
    for cut in cuts {
        std::fs::write(lab.at("results/grid.jsonl"), &whole[..cut]).unwrap();
        let kept = ends.iter().filter(|&&end| end <= cut).count();
        let summary = lab.run();
        assert_eq!((&summary["kept"], &summary["done"]), (&json!(kept), &json!(6 - kept)), "cut at {cut}");
        lab.assert_whole(6);
        let start = if kept == 0 { 0 } else { ends[kept - 1] };
        assert_eq!(lab.results()[..start], whole[..start], "cut at {cut}");
    }
}

#[test]
fn a_run_that_is_killed_goes_on() {
    // Cells of an instant, and then a second of others, so that there is time to kill it.
    let seeds: Vec<String> = (0..20).map(|seed: u32| seed.to_string()).collect();
    let lab = Lab::new(&format!(
        r#"
        kind = "plan"
        problems = ["tiny.problem.json", "gpt.problem.json"]
        solvers = ["sqrt"]
        budgets = ["100%", "75%", "60%"]
        seeds = [{}]
        "#,
        seeds.join(",")
    ));
    std::fs::copy("tests/data/gpt-4x256-b8.problem.json", lab.at("gpt.problem.json")).unwrap();
    let args = lab.args();
    let mut child = plimsoll(lab.dir.path(), &strs(&args)).stdout(Stdio::null()).spawn().unwrap();
    let count = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == b'\n').count();
    let written = || std::fs::read(lab.at("results/grid.jsonl")).map_or(0, |bytes| count(&bytes));
    while written() < 5 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = lab.results();
    let kept = count(&killed);
    assert!((5..120).contains(&kept), "{kept}");
    let summary = lab.run();
    assert_eq!((&summary["kept"], &summary["done"]), (&json!(kept), &json!(120 - kept)));
    lab.assert_whole(120);
    let whole = killed.iter().rposition(|&byte| byte == b'\n').unwrap();
    assert_eq!(lab.results()[..=whole], killed[..=whole]);
}

#[test]
fn what_has_changed_is_told_from_what_has_not() {
    let lab = Lab::new(GRID);
    lab.run();
    // The same cells, written otherwise and in another order.
    lab.declare(&GRID.replace(r#""100%", "75%", "50%""#, r#""50 %", "100%", "75.0%", "75%""#));
    assert_eq!((&lab.run()["done"], lab.records().len()), (&json!(0), 6));
    // One budget for another.
    lab.declare(&GRID.replace("50%", "80%"));
    let summary = lab.run();
    let told = ["cells", "done", "kept", "undeclared"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(told, [6, 2, 4, 2]);
    assert!(!std::fs::read_to_string(lab.at("results/grid.csv")).unwrap().contains(",50%,"));
    // Another limit: all cells are others.
    lab.declare(&GRID.replace("time_limit = 5", "time_limit = 4"));
    assert_eq!(lab.run()["done"], json!(6));
    // And so they are where the problem is another.
    lab.declare(GRID);
    assert_eq!(lab.run()["done"], json!(0));
    let problem = std::fs::read_to_string(TINY).unwrap().replace("\"tiny\"", "\"other\"");
    std::fs::write(lab.at("tiny.problem.json"), problem).unwrap();
    assert_eq!(lab.run()["done"], json!(6));
}

#[test]
fn models_are_planned_for_rooflines_and_measured_on_the_device() {
    let lab = Lab::new(
        r#"
        kind = "plan"
        budgets = ["70%"]
        solvers = ["evict", "chain"]
        rooflines = ["1e12,1e11"]
        time_limit = 0.5
        models = [{ name = "shared", set = { batch = 64, layers = [2, 4], width = 16 } }]
        "#,
    );
    assert_eq!((&lab.run()["cells"], &lab.run()["kept"]), (&json!(4), &json!(4)));
    let ops: BTreeSet<u64> = lab.records().iter().map(|r| r["outcome"]["ops"].as_u64().unwrap()).collect();
    assert_eq!(ops.len(), 2, "two sizes");

    lab.declare(
        r#"
        kind = "measure"
        steps = 2
        warmup = 1
        budgets = ["unlimited", "80%", "1%"]
        time_limit = 0.5
        models = [{ name = "frozen", set = { batch = 256, layers = 4, width = 16 } }]
        "#,
    );
    let summary = lab.run();
    let told = ["cells", "planned", "without_plan", "undeclared"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(told, [3, 2, 1, 4], "a budget without a plan is a result");
    for record in &lab.records()[4..] {
        let outcome = &record["outcome"];
        let number = |key: &str| outcome[key].as_u64();
        match record["cell"]["budget"].as_str() {
            Some("1%") => assert!(outcome["why"].as_str().unwrap().contains("no plan fits"), "{outcome}"),
            _ => {
                let (peak, measured) = (number("peak").unwrap(), number("measured_peak").unwrap());
                assert!(measured > peak / 2 && measured < peak + (512 << 10), "{outcome}");
                assert!(number("time").unwrap() > 0 && number("measured_time").unwrap() > 0);
                assert!(number("process_peak").unwrap() >= peak / 2);
            }
        }
    }
    let table = std::fs::read_to_string(lab.at("results/grid.md")).unwrap();
    assert!(table.contains("| budget | status | within | planned peak | measured peak |"), "{table}");
    assert!(table.contains("2 steps measured on flex after 1 to warm up"), "{table}");
}

#[test]
fn what_cannot_be_planned_is_a_result_with_its_reason() {
    let lab = Lab::new(
        r#"
        kind = "plan"
        problems = ["gpt.problem.json", "broken.problem.json"]
        solvers = ["checkmate", "burn-balanced"]
        budgets = ["60%"]
        node_limit = 100
        "#,
    );
    let problem = std::fs::read_to_string("tests/data/gpt-4x256-b8.problem.json").unwrap();
    std::fs::write(lab.at("broken.problem.json"), &problem[..problem.len() / 2]).unwrap();
    std::fs::write(lab.at("gpt.problem.json"), problem).unwrap();
    let summary = lab.run();
    let told = ["cells", "planned", "unsupported", "failed"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(told, [4, 1, 1, 2]);
    let table = std::fs::read_to_string(lab.at("results/grid.md")).unwrap();
    assert!(table.contains("\n- gpt, checkmate, 60%: solver checkmate cannot take this problem: it has "), "{table}");
    assert!(table.contains("\n- broken, burn-balanced, 60%: "), "{table}");
    // The file mended, its cells are others.
    std::fs::copy(TINY, lab.at("broken.problem.json")).unwrap();
    let summary = lab.run();
    let told = ["done", "kept", "failed", "undeclared"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(told, [2, 2, 0, 2]);
}

#[test]
fn experiments_that_cannot_be_run_say_where() {
    let lab = Lab::new(GRID);
    let model = "kind = \"plan\"\nbudgets = [\"50%\"]\n\n[[models]]\n";
    let measure = "kind = \"measure\"\nbudgets = [\"50%\"]\nmodels = [{ name = \"shared\" }]\n";
    let cases = [
        (GRID.replace("budgets", "budgts"), "line 6: unknown field `budgts`, expected one of"),
        (GRID.replace("\"plan\"", "\"plot\""), "line 2: unknown variant `plot`"),
        (GRID.replace("75%", "much"), "line 6: invalid budget `much`"),
        (GRID.replace("sqrt", "oracle"), "line 5: no solver is called `oracle`"),
        (GRID.replace("tiny.", "none."), "line 4: cannot read"),
        (GRID.replace("tiny.problem.json", "/dev/zero"), "line 4: /dev/zero is too large"),
        (GRID.replace("time_limit = 5", "time_limit = -5"), "line 7: a number of seconds is needed"),
        (GRID.replace("time_limit", "node_limit = 0\ntime_limit"), "line 7: invalid input: a search of no step"),
        (GRID.replace("time_limit", "node_limit = -1\ntime_limit"), "line 7: invalid value"),
        (GRID.replace("time_limit", "steps = 3\ntime_limit"), "line 7: device, steps and warmup are of kind"),
        (GRID.replace("problems = ", "models = "), "line 4:"),
        (GRID.replace("\"100%\", \"75%\", \"50%\"", ""), "it declares no cell"),
        (GRID.replace("kind = \"plan\"", ""), "missing field `kind`"),
        (GRID.replace("\"Of a test.\"", "\"Of a test."), "line 3"),
        (format!("{model}name = \"nonesuch\""), "line 5: invalid setting model: no model is called `nonesuch`"),
        (format!("{model}name = \"shared\"\nset = {{ speed = 9 }}"), "line 5: invalid setting speed: shared has no"),
        (format!("{model}name = \"shared\"\nset = {{ batch = [1, {{}}] }}"), "line 6: batch: a setting is a number"),
        (format!("{model}name = \"shared\"\nsett = {{}}"), "line 6: unknown field `sett`"),
        (GRID.replace("time_limit", "rooflines = [\"fast\"]\ntime_limit"), "line 7: invalid setting"),
        (format!("{measure}node_limit = 3"), "line 4: problems, rooflines and node_limit are of kind"),
        (format!("{measure}device = \"abacus\""), "line 4: invalid setting device: no device is called `abacus`"),
        (format!("{measure}steps = 0"), "line 4: invalid input: at least one step"),
    ];
    let mut said = String::new();
    for (declaration, want) in cases {
        lab.declare(&declaration);
        let message = lab.fail();
        said += &format!("{}\n", message.replace(path(lab.dir.path()), "[dir]"));
        assert!(message.contains("grid.toml is not a plimsoll experiment file: "), "{message}");
        assert!(message.contains(want), "{want}:\n{message}");
        assert!(!lab.at("results").exists(), "nothing is left behind");
    }
    insta::assert_snapshot!("experiment_errors", said);
    let dir = lab.dir.path();
    assert!(fail(dir, &["experiment", "none.toml"]).contains("cannot read none.toml"));
    #[cfg(unix)]
    {
        let pipe = dir.join("pipe.toml");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(fail(dir, &["experiment", path(&pipe)]).contains("it is a named pipe: give a file"));
    }
    lab.declare(measure);
    let message = fail(dir, &["experiment", path(&lab.at("grid.toml")), "--jobs", "2"]);
    assert!(message.contains("measurements side by side"), "{message}");
}

#[test]
fn results_that_are_none_and_results_in_use() {
    let lab = Lab::new(GRID);
    lab.run();
    let whole = lab.results();
    let file = lab.at("results/grid.jsonl");
    // Not of a killed run, and so not to be thrown away without asking.
    std::fs::write(&file, [b"{\"key\": 3}\n", &whole[..]].concat()).unwrap();
    assert!(lab.fail().contains("grid.jsonl is not a results file: line 1: "), "{}", lab.fail());
    std::fs::write(&file, &whole).unwrap();
    let open = std::fs::File::open(&file).unwrap();
    open.lock().unwrap();
    assert!(lab.fail().contains("another run of this experiment is at work on it"), "{}", lab.fail());
    assert_eq!(lab.results(), whole);
}

#[test]
fn the_experiments_of_the_documents_are_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for (name, cells) in [("solver-quality", 600), ("plan-vs-measurement", 34), ("scaling", 18)] {
        let file = format!("docs/experiments/{name}.toml");
        let out = dir.path().join("out");
        let list = succeed(dir.path(), &["experiment", &file, "--out", path(&out), "--dry-run"]);
        assert_eq!(list.lines().count(), cells + 1, "{list}");
        assert!(list.lines().skip(1).all(|line| line.ends_with("to do")), "{list}");
        assert!(!out.exists());
    }
    // Every model is measured.
    let measured = std::fs::read_to_string("docs/experiments/plan-vs-measurement.toml").unwrap();
    for model in plimsoll::zoo::models() {
        assert!(measured.contains(&format!("\"{}\"", model.name)), "{}", model.name);
    }
}

/// The tables and pictures that the documents show are those that the results beside them make, and none is missing.
#[test]
fn the_tables_of_the_documents_are_those_of_their_results() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Path::new("docs/experiments/results");
    let shown = std::fs::read_to_string("docs/RESULTS.md").unwrap();
    let declared = std::fs::read_dir("docs/experiments").unwrap().map(|entry| entry.unwrap().path());
    let names = declared.filter(|file| file.extension().is_some_and(|end| end == "toml"));
    let names: Vec<String> = names.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.iter().any(|name| kept.join(format!("{name}.jsonl")).exists()), "there are no results");
    for name in names {
        let is_shown = shown.contains(&format!("experiments/results/{name}.md"));
        assert_eq!(is_shown, kept.join(format!("{name}.jsonl")).exists(), "{name}: results and what shows them");
        if !is_shown {
            continue;
        }
        let results = format!("{name}.jsonl");
        std::fs::copy(kept.join(&results), dir.path().join(&results)).unwrap();
        let file = format!("docs/experiments/{name}.toml");
        let summary = succeed(dir.path(), &["experiment", &file, "--out", path(dir.path()), "--json", "--dry-run"]);
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["cells"], summary["kept"], "{name}: `make experiments` has more to do");
        succeed(dir.path(), &["experiment", &file, "--out", path(dir.path())]);
        for end in ["md", "csv", "svg"] {
            let part = format!("{name}.{end}");
            let read = |folder: &Path| std::fs::read_to_string(folder.join(&part)).unwrap();
            assert_eq!(read(kept), read(dir.path()), "{part}: `make experiments` makes another");
        }
        assert!(shown.contains(&format!("experiments/results/{name}.svg")), "{name}");
    }
}
