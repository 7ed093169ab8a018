//! `plimsoll report` and `plimsoll diff` as their users see them: pages, pictures, traces, tables.

use std::path::PathBuf;

use plimsoll::Bytes;
use plimsoll::cost::Problem;
use plimsoll::entity::OpId;
use plimsoll::graph::Phase;
use plimsoll::plan::{Lane, Lowering, Plan, Predicted, Status, Step, lower, simulate};
use serde_json::{Value, json};

#[path = "report/browser.rs"]
mod browser;
#[path = "command/mod.rs"]
mod command;
#[path = "report/pages.rs"]
mod pages;

const GPT: &str = "tests/data/gpt-4x256-b8.problem.json";

use command::{TINY, YARD, fail, plimsoll, succeed, succeeded, tight_steps};

/// A folder for one test, and names in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.name(name)
    }

    /// What a command prints that runs in the folder, on the tiny problem and files named in short.
    fn succeed(&self, command: &str, args: &[&str]) -> String {
        let tiny = std::fs::canonicalize(TINY).unwrap();
        succeeded(plimsoll(&[command]).current_dir(self.0.path()).arg(tiny).args(args))
    }

    /// Save a plan of these steps, with what they really cost and a budget of their peak.
    fn plan(&self, name: &str, problem: &Problem, steps: Vec<Step>) -> String {
        let timeline = simulate(problem, &steps).unwrap();
        let baseline = plimsoll::solver::baseline(problem).1;
        let predicted = Predicted {
            peak: timeline.peak,
            time: timeline.time,
            baseline_peak: baseline.peak,
            baseline_time: baseline.time,
            overhead: timeline.time.get() as f64 / baseline.time.get() as f64 - 1.0,
            lower_bound: 0.0,
            status: Status::Feasible,
        };
        let plan = Plan::new(&problem.graph, timeline.peak, "by hand", steps, predicted);
        plan.save(self.path(name)).unwrap();
        self.name(name)
    }

    /// A plan of the tiny problem that runs op0 again.
    fn tight(&self) -> String {
        self.plan("tight.plan.json", &Problem::load(TINY).unwrap(), serde_json::from_value(tight_steps()).unwrap())
    }

    /// A plan of the tiny problem that keeps everything.
    fn roomy(&self) -> String {
        let problem = Problem::load(TINY).unwrap();
        self.plan("roomy.plan.json", &problem, plimsoll::solver::baseline(&problem).0)
    }

    /// A plan of the yard that offloads.
    fn offload(&self) -> String {
        let cases: Value =
            serde_json::from_str(&std::fs::read_to_string("tests/data/legal-plans.json").unwrap()).unwrap();
        let case = cases.as_array().unwrap().iter().find(|c| c["name"] == "offload and prefetch").unwrap();
        let steps = serde_json::from_value(case["steps"].clone()).unwrap();
        self.plan("offload.plan.json", &Problem::load(YARD).unwrap(), steps)
    }

    /// A plan that makes each stretch of so many forward ops again when the backward pass reads one of
    /// its values.
    fn forgetful(&self, name: &str, problem: &Problem, stride: usize) -> String {
        self.plan(name, problem, forgetful(problem, stride))
    }
}

fn forgetful(problem: &Problem, stride: usize) -> Vec<Step> {
    let graph = &problem.graph;
    let is_forward = |op: &OpId| graph.ops()[*op].phase == Phase::Forward;
    let forward: Vec<OpId> = graph.ops().keys().filter(is_forward).collect();
    let mut order = forward.clone();
    let mut fresh = std::collections::BTreeSet::new();
    for op in graph.ops().keys().filter(|op| !is_forward(op)) {
        // A stretch of the forward pass is made again when the first of its values is read.
        let read = graph.ops()[op].inputs.iter().filter_map(|&v| graph.values()[v].producer);
        for place in read.filter_map(|made_by| forward.binary_search(&made_by).ok()) {
            if fresh.insert(place / stride) {
                order.extend(&forward[place / stride * stride..=place]);
            }
        }
        order.push(op);
    }
    lower(graph, &order, Lowering::default())
}

/// What a page was given.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_report_says_what_it_wrote() {
    let folder = Folder::new();
    let (tight, roomy) = (folder.tight(), folder.roomy());
    let short =
        ["tight.plan.json", "roomy.plan.json", "-o", "out.html", "--svg", "out.svg", "--trace", "out.trace.json"];
    let table = folder.succeed("report", &short);
    // Sizes of files change with the page itself.
    let (head, files) = table.rsplit_once("\n\n").unwrap();
    let files: Vec<&str> = files.lines().map(|line| line.split_once(" (").unwrap().0).collect();
    let table = format!("{head}\n\n{}", files.join("\n"));
    let [page, svg, trace] = ["out.html", "out.svg", "out.trace.json"].map(|name| folder.name(name));
    let args = ["report", TINY, &tight, &roomy, "-o", &page, "--svg", &svg, "--trace", &trace];
    insta::assert_snapshot!(table, @r"
problem   tiny, 8 ops
baseline  14.00 KiB (14340 bytes), 127.0 us with everything kept

plan                budget       peak      time  overhead
tight.plan.json  10.00 KiB  10.00 KiB  177.0 us     39.4%
roomy.plan.json  14.00 KiB  14.00 KiB  127.0 us      0.0%

svg    out.svg
trace  out.trace.json
html   out.html
");

    let printed: Value = serde_json::from_str(&succeed(&[&args[..], &["--json"]].concat())).unwrap();
    for (entry, (kind, name)) in printed["written"].as_array().unwrap().iter().zip([
        ("svg", "out.svg"),
        ("trace", "out.trace.json"),
        ("html", "out.html"),
    ]) {
        assert_eq!((&entry["kind"], &entry["path"]), (&json!(kind), &json!(folder.name(name))));
        assert_eq!(entry["bytes"], folder.read(name).len());
    }
    let plan = &printed["plans"][0];
    assert_eq!(
        (&plan["file"], &plan["peak"], &plan["time"], &plan["budget"], &plan["solver"]),
        (&json!(tight), &json!(10244), &json!(177_000), &json!(10244), &json!("by hand"))
    );
    assert_eq!((&printed["baseline_peak"], &printed["baseline_time"]), (&json!(14340), &json!(127_000)));
    // The same files again, whatever else was there.
    let before = ["out.html", "out.svg", "out.trace.json"].map(|name| folder.read(name));
    succeed(&args);
    assert_eq!(before, ["out.html", "out.svg", "out.trace.json"].map(|name| folder.read(name)));
}

/// JSON with a line for each list of numbers.
fn outline(data: &Value) -> String {
    let mut lines = String::new();
    for (key, value) in data.as_object().unwrap() {
        if key == "plans" {
            value.as_array().unwrap().iter().for_each(|plan| lines += &format!("plan\n{}", outline(plan)));
        } else {
            lines += &format!("{key}: {value}\n");
        }
    }
    lines
}

#[test]
fn a_page_holds_what_the_plans_do() {
    let folder = Folder::new();
    let page = folder.name("out.html");
    let sweep = folder.name("sweep.json");
    succeed(&["sweep", TINY, "--points", "4", "--from", "9000", "--time-limit", "1", "--json", "-o", &sweep]);
    succeed(&["report", TINY, &folder.tight(), &folder.roomy(), "-o", &page, "--sweep", &sweep]);
    let page = folder.read("out.html");
    let mut data = data(&page);
    data["version"] = json!("[version]");
    insta::assert_snapshot!("page_data", outline(&data));
    // All of it is in the one file.
    for part in ["http:", "https:", "src=", "@import", "url(http"] {
        let allowed = page.matches("http://www.w3.org/2000/svg").count();
        let found = page.matches(part).count() - if part == "http:" { allowed } else { 0 };
        assert_eq!(found, 0, "{part}");
    }
    assert_eq!((page.matches("href=").count(), page.matches("href=\"data:,\"").count()), (1, 1));
    // Without JavaScript there is still a picture.
    let still = page.split_once("<noscript>").unwrap().1.split_once("</noscript>").unwrap().0;
    assert!(still.contains("<svg") && still.contains("<path"));
}

#[test]
fn a_page_tells_offloads_and_roles() {
    let folder = Folder::new();
    let page = folder.name("out.html");
    succeed(&["report", YARD, &folder.offload(), "-o", &page]);
    let yard = data(&folder.read("out.html"));
    let plan = &yard["plans"][0];
    assert_eq!(plan["steps"].as_str().unwrap(), "ccodcddpcdcddcdcdcdd");
    assert_eq!(plan["copies"].as_array().unwrap().len(), 2);
    assert!(!plan["waits"].as_array().unwrap().is_empty() && yard["links"] == true);
    assert_eq!(plan["largest"][0], json!([1, 1, 1, 0]));
    assert!(yard["about"].as_str().unwrap().contains("gives no roles"));
    assert_eq!(yard["categories"][2], "other residents");

    let problem = Problem::load(GPT).unwrap();
    let plan = folder.plan("gpt.plan.json", &problem, plimsoll::solver::baseline(&problem).0);
    succeed(&["report", GPT, &plan, "-o", &page]);
    let gpt = data(&folder.read("out.html"));
    // What lives from the start to the end: the parameters are those of which there are gradients.
    let lives = &gpt["plans"][0]["lives"];
    let categories = lives["category"].as_str().unwrap().bytes().zip(lives["made"].as_str().unwrap().bytes());
    let residents: Vec<u8> = categories.filter(|life| life.1 == b's').map(|life| life.0).collect();
    let count = |category: u8| residents.iter().filter(|&&c| c == category).count();
    assert_eq!((residents.len(), count(b'0'), count(b'2')), (74, 69, 5));
}

/// The page's buffers are followed by other code than the simulator's; they must add up to its totals, whatever the
/// graph: views, in place, several outputs, ops that run again.
#[test]
fn what_lives_on_a_page_adds_up() {
    let folder = Folder::new();
    let (mut again, mut inplace) = (0, 0);
    for seed in 0..24 {
        let problem = plimsoll::fuzz::problem(seed, plimsoll::fuzz::Shape::all(24));
        let graph = &problem.graph;
        let mut order: Vec<OpId> = graph.ops().keys().collect();
        for op in graph.ops().keys().skip(seed as usize % 3).step_by(3) {
            if graph.ops()[op].replay != plimsoll::graph::Replay::Once {
                let place = order.iter().rposition(|&o| o == op).unwrap();
                order.insert((place + 1 + order.len()).div_ceil(2), op);
            }
        }
        let steps = lower(graph, &order, Lowering::default());
        if plimsoll::check::check_steps(&problem, &steps, Bytes(u64::MAX)).is_err() {
            continue;
        }
        problem.save(folder.path("random.problem.json")).unwrap();
        let plan = folder.plan("random.plan.json", &problem, steps.clone());
        succeed(&["report", &folder.name("random.problem.json"), &plan, "-o", &folder.name("out.html")]);
        let page = data(&folder.read("out.html"));
        let (plan, sizes) = (&page["plans"][0], &page["values"]["bytes"]);
        let numbers = |list: &Value| -> Vec<i64> { serde_json::from_value(list.clone()).unwrap() };
        let summed = |list: &Value| -> Vec<i64> {
            numbers(list)
                .iter()
                .scan(0, |sum, d| {
                    *sum += d;
                    Some(*sum)
                })
                .collect()
        };
        let (of, at) = (numbers(&sizes["of"]), numbers(&sizes["at"]));
        let lives = &plan["lives"];
        let (value, from, lasts) = (summed(&lives["value"]), summed(&lives["from"]), numbers(&lives["steps"]));
        let mut bytes: Vec<i64> = value.iter().map(|&v| of[at[v as usize] as usize]).collect();
        for odd in lives["bytes"].as_array().unwrap() {
            bytes[odd[0].as_u64().unwrap() as usize] = odd[1].as_i64().unwrap();
        }
        let timeline = simulate(&problem, &steps).unwrap();
        for (index, step) in steps.iter().enumerate() {
            let live = |k: &usize| from[*k] <= index as i64 && (index as i64) < from[*k] + lasts[*k];
            let mut sum: i64 = (0..value.len()).filter(live).map(|k| bytes[k]).sum();
            if let Step::Compute { op, .. } = step {
                sum += problem.costs.workspace[*op].get() as i64;
            }
            assert_eq!(sum as u64, timeline.live[index].get(), "seed {seed}, step {index}");
        }
        again += plan["steps"].as_str().unwrap().matches('r').count();
        inplace += lives["made"].as_str().unwrap().matches(char::is_uppercase).count();
    }
    assert!(again > 50 && inplace > 50, "{again} {inplace}");
}

#[test]
fn pictures_stand_alone_or_one_below_the_other() {
    let folder = Folder::new();
    let svg = folder.name("out.svg");
    succeed(&["report", TINY, &folder.tight(), "--svg", &svg]);
    let one = folder.read("out.svg");
    insta::assert_snapshot!("picture", one);
    succeed(&["report", TINY, &folder.tight(), &folder.roomy(), "--svg", &svg]);
    let two = folder.read("out.svg");
    assert_eq!((one.matches(">forward</text>").count(), two.matches(">forward</text>").count()), (1, 2));
    assert!(two.contains(">roomy</tspan>") && !two.contains("to host"));
    succeed(&["report", YARD, &folder.offload(), "--svg", &svg]);
    assert!(folder.read("out.svg").contains(">to host</text>"));
}

/// Perfetto and chrome://tracing read this format: "X" events are spans, "C" events counters, times are microseconds.
#[test]
fn traces_hold_every_span_and_all_live_bytes() {
    let folder = Folder::new();
    let out = folder.name("out.json");
    for (file, path) in [(YARD, folder.offload()), (TINY, folder.tight())] {
        let problem = Problem::load(file).unwrap();
        let plan = Plan::load(&path).unwrap();
        let timeline = simulate(&problem, &plan.steps).unwrap();
        succeed(&["report", file, &path, "--trace", &out]);
        let trace: Value = serde_json::from_str(&folder.read("out.json")).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |kind: &'static str| events.iter().filter(move |event| event["ph"] == kind);
        let threads: Vec<&str> =
            of("M").filter(|e| e["name"] == "thread_name").map(|e| e["args"]["name"].as_str().unwrap()).collect();
        assert_eq!(threads, ["compute", "device to host", "host to device"]);

        assert_eq!(of("X").count(), timeline.spans.len());
        for (event, span) in of("X").zip(&timeline.spans) {
            let lane = [Lane::Compute, Lane::DeviceToHost, Lane::HostToDevice].iter().position(|&l| l == span.lane);
            assert_eq!(event["tid"], json!(lane.unwrap() + 1));
            assert_eq!(event["ts"], json!(span.start.get() as f64 / 1e3));
            assert_eq!(event["dur"], json!((span.end.get() - span.start.get()) as f64 / 1e3));
            assert_eq!(event["args"]["live"], json!(timeline.live[span.step]));
            let what = match &plan.steps[span.step] {
                Step::Compute { op, .. } => problem.graph.describe_op(*op),
                Step::Drop(v) | Step::Offload(v) | Step::Prefetch(v) => problem.graph.describe_value(*v),
            };
            assert!(event["name"].as_str().unwrap().ends_with(&what), "{event}");
        }
        // What a counter says when a computation begins is what is live during it.
        let sum = |event: &Value| event["args"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum::<u64>();
        let counters: Vec<(f64, u64)> = of("C").map(|event| (event["ts"].as_f64().unwrap(), sum(event))).collect();
        assert!(counters.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        for span in timeline.spans.iter().filter(|span| span.lane == Lane::Compute && span.end > span.start) {
            let at = span.start.get() as f64 / 1e3;
            let told = counters.iter().rfind(|counter| counter.0 <= at).unwrap();
            assert_eq!(told.1, timeline.live[span.step].get(), "step {}", span.step);
        }
    }
    let again = folder.read("out.json");
    assert!(again.contains("again: op0 (Matmul)") && again.contains("\"recompute\""));
}

#[test]
fn a_diff_says_what_differs_and_what_it_costs() {
    let folder = Folder::new();
    let (tight, roomy) = (folder.tight(), folder.roomy());
    insta::assert_snapshot!(folder.succeed("diff", &["roomy.plan.json", "tight.plan.json"]), @r"
problem  tiny, 8 ops, 10 values

                             first           second  difference
file               roomy.plan.json  tight.plan.json
solver                     by hand          by hand
budget                   14.00 KiB        10.00 KiB   -4.00 KiB
peak                     14.00 KiB        10.00 KiB   -4.00 KiB
time                      127.0 us         177.0 us    +50.0 us
recomputed ops                   0                1          +1
recomputing takes             0 ns          50.0 us    +50.0 us
in place                         3                3        same
overhead                      0.0%            39.4%

value        size  made by       first                    again for  second           again for
v2 (h1)  4.00 KiB  op0 (Matmul)  kept until its last use          -  recomputed once    50.0 us
");
    insta::assert_snapshot!(folder.succeed("diff", &["tight.plan.json", "tight.plan.json"]), @r"
problem  tiny, 8 ops, 10 values

                             first           second  difference
file               tight.plan.json  tight.plan.json
solver                     by hand          by hand
budget                   10.00 KiB        10.00 KiB        same
peak                     10.00 KiB        10.00 KiB        same
time                      177.0 us         177.0 us        same
recomputed ops                   1                1        same
recomputing takes          50.0 us          50.0 us        same
in place                         3                3        same
overhead                     39.4%            39.4%

Both keep, recompute and offload the same values.
");
    let mut printed: Value = serde_json::from_str(&succeed(&["diff", TINY, &roomy, &tight, "--json"])).unwrap();
    for (k, file) in [&roomy, &tight].into_iter().enumerate() {
        assert_eq!(printed["plans"][k]["file"], json!(file));
        printed["plans"][k]["file"] = json!("[file]");
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&printed).unwrap(), @r#"
{
  "plans": [
    {
      "again": 0,
      "again_time": 0,
      "budget": 14340,
      "file": "[file]",
      "host_peak": 0,
      "inplace": 3,
      "offloaded": 0,
      "offloads": 0,
      "overhead": 0.0,
      "peak": 14340,
      "solver": "by hand",
      "time": 127000
    },
    {
      "again": 1,
      "again_time": 50000,
      "budget": 10244,
      "file": "[file]",
      "host_peak": 0,
      "inplace": 3,
      "offloaded": 0,
      "offloads": 0,
      "overhead": 0.3937007874015748,
      "peak": 10244,
      "solver": "by hand",
      "time": 177000
    }
  ],
  "problem": "tiny",
  "same_order": true,
  "values": [
    {
      "bytes": 4096,
      "made_by": "op0 (Matmul)",
      "plans": [
        {
          "again_time": 0,
          "computes": 1,
          "fate": "kept until its last use",
          "offloads": 0
        },
        {
          "again_time": 50000,
          "computes": 2,
          "fate": "recomputed once",
          "offloads": 0
        }
      ],
      "value": "v2 (h1)"
    }
  ],
  "views": 0
}
"#);

    // Offloads, and more values than are listed.
    let problem = Problem::load(YARD).unwrap();
    let keep = folder.plan("keep.plan.json", &problem, plimsoll::solver::baseline(&problem).0);
    let table = succeed(&["diff", YARD, &keep, &folder.offload(), "--values", "1"]);
    for part in
        ["offloads", "most on the host", "v1 (a)", "kept until its last use, offloaded", "more, ", "different orders"]
    {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let printed: Value = serde_json::from_str(&succeed(&["diff", YARD, &keep, &folder.offload(), "--json"])).unwrap();
    let values = printed["values"].as_array().unwrap();
    assert!(values.len() > 1 && values.windows(2).all(|pair| pair[0]["bytes"].as_u64() >= pair[1]["bytes"].as_u64()));
}

#[test]
fn errors_name_the_file_and_write_nothing() {
    let folder = Folder::new();
    let (tight, out) = (folder.tight(), folder.name("out.html"));
    let here = folder.name("");
    let mut broken: Value = serde_json::from_str(&std::fs::read_to_string(&tight).unwrap()).unwrap();
    broken["steps"][2] = json!({"drop": 0});
    let broken = folder.write("broken.plan.json", &broken.to_string());
    let garbage = folder.write("garbage.json", "{\"budget\": 1}\n[]");
    let table = folder.write("table.json", "budget,peak\n");
    let unbudgeted = folder.write("unbudgeted.json", r#"{"baseline_time": 127000, "points": [{"peak": 1}]}"#);
    let empty = folder.write("empty.json", "{\"baseline_time\": 127000, \"points\": [{\"budget\": 1}]}\n\n");
    let foreign = folder.write("foreign.json", r#"{"baseline_time": 127001, "points": []}"#);
    let endless = "/dev/zero";
    let cases: Vec<(Vec<&str>, Vec<&str>)> = vec![
        (vec!["report"], vec!["PROBLEM"]),
        (vec!["report", TINY, "-o", &out], vec!["PLAN"]),
        (vec!["report", TINY, &tight], vec!["--out", "--svg", "--trace"]),
        (vec!["report", TINY, &tight, "--json"], vec!["--out", "--svg", "--trace"]),
        (vec!["report", YARD, &tight, "-o", &out], vec!["tight.plan.json: the plan was made for graph"]),
        (
            vec!["report", TINY, &tight, &broken, "-o", &out],
            vec!["broken.plan.json: illegal plan: step 2: v0 (x) is resident"],
        ),
        (vec!["report", TINY, TINY, "-o", &out], vec!["tiny.problem.json is not a plimsoll.plan file"]),
        (vec!["report", TINY, "/no/such.json", "-o", &out], vec!["cannot read /no/such.json"]),
        (vec!["report", TINY, &tight, "-o", &here], vec!["cannot write"]),
        (vec!["report", TINY, &tight, "--svg", "/no/such/folder/x.svg"], vec!["cannot write /no/such/folder/x.svg"]),
        (vec!["report", TINY, &tight, "--trace", &here], vec!["cannot write"]),
        (vec!["report", TINY, "-", "-", "-o", &out], vec!["only one file can come from standard input"]),
        (vec!["report", TINY, &tight, "--svg", &out, "--sweep", &empty], vec!["--out"]),
        (
            vec!["report", TINY, &tight, "-o", &out, "--sweep", &garbage],
            vec!["garbage.json is not a plimsoll sweep --json file: missing field `baseline_time` at line 1"],
        ),
        (vec!["report", TINY, &tight, "-o", &out, "--sweep", &table], vec!["table.json is not", "line 1"]),
        (vec!["report", TINY, &tight, "-o", &out, "--sweep", &unbudgeted], vec!["missing field `budget` at line 1"]),
        (vec!["report", TINY, &tight, "-o", &out, "--sweep", &empty], vec!["it holds no budget with a plan"]),
        (vec!["report", TINY, &tight, "-o", &out, "--sweep", &foreign], vec!["it is of another problem"]),
        (vec!["report", TINY, &tight, "-o", &out, "--sweep", endless], vec!["/dev/zero is too large"]),
        (vec!["report", TINY, &tight, "-o", &out, "--sweep", "/no/such.json"], vec!["cannot read /no/such.json"]),
        (vec!["diff", TINY, &tight], vec!["SECOND"]),
        (vec!["diff", TINY, &tight, &broken], vec!["broken.plan.json: illegal plan"]),
        (vec!["diff", YARD, &tight, &tight], vec!["tight.plan.json: the plan was made for graph"]),
        (vec!["diff", TINY, &tight, "-", "--values", "many"], vec!["--values"]),
        (vec!["diff", "-", "-", &tight], vec!["only one file can come from standard input"]),
    ];
    let mut said = String::new();
    for (args, parts) in cases {
        let message = fail(&args);
        said += &format!("{}\n{message}\n", args.join(" ")).replace(here.trim_end_matches('/'), "[dir]");
        for part in parts {
            assert!(message.contains(part), "{args:?}: {part} is not in {message}");
        }
        assert!(!folder.path("out.html").exists(), "{args:?}");
    }
    insta::assert_snapshot!("errors", said);
    for command in ["report", "diff"] {
        let help = succeed(&[command, "--help"]);
        assert!(
            help.trim_end().lines().last().unwrap().starts_with(&format!("Example: plimsoll {command} ")),
            "{help}"
        );
    }
}

/// A plan whose prediction is stale is shown as it is, with a remark.
#[test]
fn a_stale_prediction_is_remarked_upon() {
    let folder = Folder::new();
    let mut plan: Value = serde_json::from_str(&std::fs::read_to_string(folder.tight()).unwrap()).unwrap();
    plan["predicted"]["time"] = json!(1000);
    let stale = folder.write("stale.plan.json", &plan.to_string());
    succeed(&["report", TINY, &stale, &folder.tight(), "-o", &folder.name("out.html")]);
    let plans = data(&folder.read("out.html"))["plans"].clone();
    assert_eq!(
        plans[0]["note"],
        "The plan predicts 10.00 KiB and 1.0 us; by this problem's sizes and times it is 10.00 KiB and 177.0 us."
    );
    assert_eq!((&plans[0]["bound"], &plans[0]["time"], &plans[1]["note"]), (&Value::Null, &json!(177_000), &json!("")));
}

/// Names that try to end the script, the string, the line or the direction of the text.
const HOSTILE: [&str; 6] = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror=\"window.pwned = 2\">'\"`${window.pwned = 3}",
    "<!--<script> ]]> &lt; &amp;",
    "two\nlines\r\tand \u{0} \u{1b}[31m \u{7f} \u{85}",
    "\u{202e}backwards \u{2028}\u{2029} \u{fffe}\u{ffff}",
    "größe 層 🚢 \\u003c \\",
];

fn hostile(folder: &Folder) -> (String, String) {
    let mut problem: Value = serde_json::from_str(&std::fs::read_to_string(TINY).unwrap()).unwrap();
    let name = |index: usize| json!(HOSTILE[index % HOSTILE.len()]);
    problem["name"] = json!(HOSTILE.concat());
    problem["device"] =
        json!({"name": HOSTILE[1], "memory": 0, "host_memory": 0, "d2h_bytes_per_s": 0, "h2d_bytes_per_s": 0});
    for key in ["values", "ops"] {
        let field = if key == "values" { "name" } else { "kind" };
        problem[key].as_array_mut().unwrap().iter_mut().enumerate().for_each(|(i, part)| part[field] = name(i));
    }
    let file = folder.write("hostile.problem.json", &problem.to_string());
    let problem = Problem::load(&file).unwrap();
    // The first op runs twice.
    let mut order: Vec<OpId> = problem.graph.ops().keys().collect();
    order.insert(1, order[0]);
    let steps = lower(&problem.graph, &order, Lowering::default());
    // The name of a file may be hostile too.
    let plan = folder.plan("<i>'\"&.plan.json", &problem, steps);
    (file, plan)
}

#[test]
fn hostile_names_stay_names() {
    let folder = Folder::new();
    let (problem, plan) = hostile(&folder);
    let [page, svg, trace] = ["out.html", "out.svg", "out.json"].map(|name| folder.name(name));
    succeed(&["report", &problem, &plan, "-o", &page, "--svg", &svg, "--trace", &trace]);
    let page = folder.read("out.html");
    // Two scripts and what is in them, as on any page.
    assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (2, 2));
    assert!(!page.contains("<!--") && !page.contains("<img") && !page.contains('\0') && !page.contains('\u{202e}'));
    let names = data(&page)["values"]["name"].clone();
    assert_eq!((&names[0], &names[5]), (&json!(HOSTILE[0]), &json!(HOSTILE[5])));
    assert_eq!(names[3], "two\u{fffd}lines\u{fffd}\u{fffd}and \u{fffd} \u{fffd}[31m \u{fffd} \u{fffd}");
    let svg = folder.read("out.svg");
    assert!(!svg.contains("<script") && !svg.contains("<i>") && !svg.contains('\u{fffe}'));
    let trace: Value = serde_json::from_str(&folder.read("out.json")).unwrap();
    assert_eq!(trace["otherData"]["problem"], json!(HOSTILE.concat()));
    let table = succeed(&["diff", &problem, &plan, &plan, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&table).unwrap()["problem"], json!(HOSTILE.concat()));
}

/// A step of more than 20,000 ops, and a plan of more than 50,000 steps.
fn large(folder: &Folder) -> (String, String) {
    let problem = plimsoll::fuzz::layered(0, 1_200, 8);
    assert!(problem.graph.ops().len() > 20_000);
    problem.save(folder.path("large.problem.json")).unwrap();
    let plan = folder.forgetful("large.plan.json", &problem, 16);
    assert!(Plan::load(&plan).unwrap().steps.len() > 50_000);
    (folder.name("large.problem.json"), plan)
}

#[test]
fn large_plans_make_small_pages() {
    let folder = Folder::new();
    let (problem, plan) = large(&folder);
    let start = std::time::Instant::now();
    let [page, svg] = ["out.html", "out.svg"].map(|name| folder.name(name));
    succeed(&["report", &problem, &plan, "-o", &page, "--svg", &svg]);
    let seconds = start.elapsed().as_secs_f64();
    let (page, svg) = (folder.read("out.html"), folder.read("out.svg"));
    println!("{} and {} in {seconds:.2} s", Bytes(page.len() as u64), Bytes(svg.len() as u64));
    assert!(page.len() < 5_000_000 && svg.len() < 500_000, "{} {}", page.len(), svg.len());
    let plan = &data(&page)["plans"][0];
    assert_eq!(plan["steps"].as_str().unwrap().len(), plan["what"].as_array().unwrap().len());
    assert!(plan["steps"].as_str().unwrap().matches('r').count() > 5_000);
}
