//! The command line as its users see it: output, files, exit codes.

use std::io::Write as _;
use std::process::Stdio;

use plimsoll::cost::Problem;
use plimsoll::plan::Plan;
use serde_json::{Value, json};

#[path = "command/mod.rs"]
mod command;
#[path = "cli/snapshots.rs"]
mod snapshots;

use command::{TINY, YARD, by_hand, fail, plimsoll, run, succeed, text, write};

/// A line whose last column, the seconds, is cut off.
fn without_seconds(line: &str) -> &str {
    line.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end()
}

/// The one object a `--json` run prints, with `solve_seconds` checked and removed.
fn object(output: &str) -> Value {
    assert_eq!(output.lines().count(), 1);
    let mut value: Value = serde_json::from_str(output).unwrap();
    let seconds = value.as_object_mut().unwrap().remove("solve_seconds").unwrap();
    assert!(seconds.as_f64().unwrap() >= 0.0);
    value
}

#[test]
fn plan_prints_a_table_and_saves_a_plan_that_checks() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.plan.json");
    let out = out.to_str().unwrap();
    insta::assert_snapshot!(snapshots::solver_seconds(&succeed(&["plan", TINY, "--budget", "100%", "-o", out])), @r"
problem   tiny, 8 ops
solver    auto, [seconds] s
status    optimal: no plan within the budget is faster
budget    14.00 KiB (14340 bytes)
peak      14.00 KiB (14340 bytes)
baseline  14.00 KiB (14340 bytes) with everything kept
time      127.0 us, 0.0% over 127.0 us
bound     no plan without offload has an overhead below 0.0%: a gap of 0.0%
");
    assert!(succeed(&["check", TINY, out]).starts_with("ok"));
    assert!(succeed(&["show", out, TINY]).contains("optimal"));
    assert_eq!(Plan::load(out).unwrap().budget.get(), 14340);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A plan can be passed on in a pipe, and no file that is read is written over.
#[test]
fn a_plan_goes_to_standard_output_alone() {
    let dir = tempfile::tempdir().unwrap();
    let problem = dir.path().join("tiny.problem.json");
    std::fs::copy(TINY, &problem).unwrap();
    let (before, problem) = (std::fs::read(&problem).unwrap(), problem.to_str().unwrap());
    let plan = succeed(&["plan", problem, "-b", "100%", "-o", "-"]);
    let piped = write(dir.path(), "piped.plan.json", &serde_json::from_str(&plan).unwrap());
    assert!(succeed(&["check", problem, &piped]).starts_with("ok"));
    for args in
        [&["plan", problem, "-b", "100%"][..], &["sweep", problem, "--points", "2"], &["report", problem, &piped]]
    {
        assert!(fail(&[args, &["-o", problem]].concat()).contains("is read, and would be written over"), "{args:?}");
        assert_eq!(std::fs::read(problem).unwrap(), before);
    }
}

#[test]
fn plan_json_is_one_object_of_numbers() {
    let printed = object(&succeed(&["plan", TINY, "--budget", "unlimited", "--json", "--solver", "keep-all"]));
    let want = json!({
        "status": "optimal", "solver": "keep-all", "budget": u64::MAX, "peak": 14340, "time": 127000,
        "baseline_peak": 14340, "baseline_time": 127000, "overhead": 0.0, "lower_bound": 0.0,
        "gap": 0.0
    });
    assert_eq!(printed, want);
}

#[test]
fn a_budget_below_the_baseline_costs_time_and_holds() {
    let dir = tempfile::tempdir().unwrap();
    for (budget, bytes) in [("11000", 11000), ("11KB", 11000), ("75%", 10755), ("10_244", 10244)] {
        let out = dir.path().join("plan.json");
        let args = ["plan", TINY, "-b", budget, "--json", "--time-limit", "0.2", "-o", out.to_str().unwrap()];
        let printed = object(&succeed(&args));
        assert_eq!(
            (&printed["budget"], &printed["peak"], &printed["time"]),
            (&json!(bytes), &json!(10244), &json!(177_000))
        );
        let [bound, overhead, gap] = ["lower_bound", "overhead", "gap"].map(|key| printed[key].as_f64().unwrap());
        assert!(bound <= overhead && gap == overhead - bound);
        // What was printed is what was saved.
        let saved: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
        for key in ["peak", "time", "baseline_peak", "baseline_time", "overhead", "lower_bound", "status"] {
            assert_eq!(saved["predicted"][key], printed[key], "{key}");
        }
    }
}

#[test]
fn plans_without_in_place_reuse_have_none() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("plan.json");
    let out = out.to_str().unwrap();
    succeed(&["plan", TINY, "-b", "unlimited", "--no-inplace", "-o", out]);
    assert!(!std::fs::read_to_string(out).unwrap().contains("inplace"));
    succeed(&["check", TINY, out]);
}

#[test]
fn the_same_seed_gives_the_same_plan_and_stdin_is_as_good_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |name: &str, stdin: bool| {
        let out = dir.path().join(name);
        let problem = if stdin { "-" } else { TINY };
        let mut command = plimsoll(&["plan", problem, "-b", "11000", "--seed", "7", "--time-limit", "0.2", "-o"]);
        command.arg(&out).stdin(std::fs::File::open(TINY).unwrap());
        assert!(command.output().unwrap().status.success());
        std::fs::read_to_string(out).unwrap()
    };
    assert_eq!(plan("a", false), plan("b", true));
}

#[test]
fn infeasible_is_exit_code_2_and_says_what_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("plan.json");
    let args = ["plan", TINY, "--budget", "50%", "--time-limit", "0.2", "-o", out.to_str().unwrap()];
    let human = run(&args);
    assert_eq!((human.status.code(), text(&human.stdout).as_str()), (Some(2), ""));
    let message = text(&human.stderr);
    for part in ["infeasible", "op1 (Tanh)", "7170 bytes", "v2 (h1)", "resident"] {
        assert!(message.contains(part), "{part} is missing:\n{message}");
    }
    let json = run(&[&args[..], &["--json"]].concat());
    assert_eq!((json.status.code(), text(&json.stderr).as_str()), (Some(2), ""));
    let printed = object(&text(&json.stdout));
    let mut keys: Vec<&str> = printed.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["blockers", "budget", "minimum", "solver", "status", "why"]);
    assert_eq!((&printed["status"], &printed["budget"]), (&json!("infeasible"), &json!(7170)));
    assert!(printed["minimum"].is_null() || printed["minimum"].as_u64().unwrap() >= 10244);
    let blockers = printed["blockers"].as_array().unwrap();
    assert!(!blockers.is_empty());
    for blocker in blockers {
        assert!(blocker["value"].is_string() && blocker["bytes"].is_u64() && blocker["why"].is_string());
    }
    assert!(!out.exists(), "an infeasible run writes no plan");
}

#[test]
fn what_is_not_proved_is_unknown() {
    let args = ["plan", TINY, "--budget", "75%", "--solver", "keep-all"];
    let human = run(&args);
    assert_eq!((human.status.code(), text(&human.stdout).as_str()), (Some(2), ""));
    assert!(text(&human.stderr).starts_with("unknown "), "{}", text(&human.stderr));
    let json = run(&[&args[..], &["--json"]].concat());
    assert_eq!((json.status.code(), text(&json.stderr).as_str()), (Some(2), ""));
    let printed = object(&text(&json.stdout));
    assert_eq!((&printed["status"], &printed["minimum"]), (&json!("unknown"), &json!(14340)));
    let blockers = printed["blockers"].as_array().unwrap();
    assert!(blockers.iter().any(|b| b["value"] == "v2 (h1)" && b["bytes"] == 4096), "{blockers:?}");
    assert!(printed["why"].as_str().unwrap().contains("14340 bytes, at op"));
}

#[test]
fn a_bound_says_what_it_holds_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut problem: Value = serde_json::from_str(&std::fs::read_to_string(TINY).unwrap()).unwrap();
    problem["device"] = json!({"name": "linked", "memory": 0, "host_memory": 1_000_000,
        "d2h_bytes_per_s": 1_000_000_000, "h2d_bytes_per_s": 1_000_000_000});
    let linked = write(dir.path(), "linked.problem.json", &problem);
    let bound = |problem: &str| {
        let table = succeed(&["plan", problem, "-b", "75%"]);
        table.lines().last().unwrap().to_owned()
    };
    assert!(bound(TINY).starts_with("bound     no plan without offload has an overhead below "));
    assert!(
        bound(&linked).starts_with("bound     no plan, with offload or without, has an overhead below 0.0%: a gap")
    );
}

/// The points of a sweep's one object, in which seconds are checked and removed.
fn points(output: &str) -> Vec<Value> {
    assert_eq!(output.lines().count(), 1);
    let curve: Value = serde_json::from_str(output).unwrap();
    let mut keys: Vec<&str> = curve.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["baseline_peak", "baseline_time", "ops", "points", "problem", "solver"]);
    curve["points"].as_array().unwrap().iter().map(|point| object(&point.to_string())).collect()
}

#[test]
fn sweep_prints_the_curve() {
    let args = ["sweep", TINY, "--points", "4", "--from", "9000", "--time-limit", "1"];
    let table = succeed(&args);
    let (head, curve) = table.split_once("\n\n").unwrap();
    let curve: Vec<&str> = curve.lines().map(without_seconds).collect();
    insta::assert_snapshot!(format!("{head}\n\n{}", curve.join("\n")), @r"
problem   tiny, 8 ops
baseline  14.00 KiB (14340 bytes), 127.0 us with everything kept

budget  of the peak   peak      time  overhead  at least   gap  status      seconds
  9000        62.8%      -         -         -         -     -  infeasible
 10780        75.2%  10244  177.0 us     39.4%     39.4%  0.0%  optimal
 12560        87.6%  11780  177.0 us     39.4%     39.4%  0.0%  optimal
 14340       100.0%  14340  127.0 us      0.0%      0.0%  0.0%  optimal
");

    let rows = points(&succeed(&[&args[..], &["--json"]].concat()));
    assert_eq!(rows.len(), 4);
    let mut keys: Vec<&str> = rows[0].as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["budget", "gap", "lower_bound", "minimum", "overhead", "peak", "status", "time"]);
    assert_eq!(
        (&rows[0]["status"], &rows[0]["peak"], &rows[0]["gap"]),
        (&json!("infeasible"), &Value::Null, &Value::Null)
    );
    assert_eq!(
        (&rows[3]["status"], &rows[3]["peak"], &rows[3]["time"]),
        (&json!("optimal"), &json!(14340), &json!(127_000))
    );
    assert_eq!(rows.iter().map(|row| row["budget"].as_u64().unwrap()).collect::<Vec<_>>(), [9000, 10780, 12560, 14340]);
    assert!(rows[1..].windows(2).all(|pair| pair[0]["time"].as_u64() >= pair[1]["time"].as_u64()));

    let csv = succeed(&[&args[..], &["--csv"]].concat());
    let mut csv = csv.lines();
    let header: Vec<&str> = csv.next().unwrap().split(',').collect();
    assert_eq!(
        header,
        ["budget", "status", "peak", "time", "overhead", "lower_bound", "gap", "minimum", "solve_seconds"]
    );
    for (row, line) in rows.iter().zip(csv.by_ref()) {
        for (key, cell) in header.iter().zip(line.split(',')).take(header.len() - 1) {
            let cell = match cell {
                "" => Value::Null,
                word => serde_json::from_str(word).unwrap_or(json!(word)),
            };
            let same = cell == row[key] || (cell.is_number() && cell.as_f64() == row[key].as_f64());
            assert!(same, "{key}: {cell} in csv, {} in json", row[key]);
        }
    }
    assert_eq!(csv.next(), None);
}

#[test]
fn sweep_finds_its_own_ends_and_writes_files() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("curve.csv");
    let out = out.to_str().unwrap();
    for solver in ["auto", "keep-all", "checkmate"] {
        let args = ["sweep", TINY, "--points", "3", "--solver", solver, "--no-inplace", "--json"];
        let rows = points(&succeed(&args));
        assert!(rows.iter().all(|row| row["peak"].is_u64()), "{solver}: {rows:?}");
        // Everything kept needs more where nothing is taken over.
        let last = rows.last().unwrap();
        assert_eq!((&last["budget"], &last["peak"], &last["time"]), (&json!(18436), &json!(18436), &json!(127_000)));
        // Nothing else to try: one plan, one budget.
        assert_eq!(rows.len(), if solver == "keep-all" { 1 } else { 3 });
    }
    assert_eq!(succeed(&["sweep", TINY, "--points", "2", "--csv", "-o", out]), "");
    assert_eq!(std::fs::read_to_string(out).unwrap().lines().count(), 3);
    // No plan at all is what it is for `plan`.
    let none = run(&["sweep", TINY, "--points", "2", "--from", "1000", "--to", "2000", "--csv"]);
    assert_eq!((none.status.code(), text(&none.stderr).as_str()), (Some(2), ""));
    assert_eq!(text(&none.stdout).matches("infeasible").count(), 2);
}

#[test]
fn check_says_ok_or_names_the_violation() {
    let dir = tempfile::tempdir().unwrap();
    let plan = by_hand(dir.path());
    insta::assert_snapshot!(succeed(&["check", TINY, &plan]), @r"
ok         13 steps, legal and within the budget
peak       10.00 KiB (10244 bytes)
budget     10.74 KiB (11000 bytes)
host peak  0 bytes
time       177.0 us, 39.4% over 127.0 us
");

    let original: Value = serde_json::from_str(&std::fs::read_to_string(&plan).unwrap()).unwrap();
    let with = |change: fn(&mut Value)| {
        let mut plan = original.clone();
        change(&mut plan);
        fail(&["check", TINY, &write(dir.path(), "changed.json", &plan)])
    };
    insta::assert_snapshot!(with(|p| p["budget"] = json!(10243)), @"error: illegal plan: step 4: 10244 bytes are live, 1 over the budget of 10243");
    insta::assert_snapshot!(with(|p| p["predicted"]["peak"] = json!(10243)), @"error: invalid input: the plan predicts a peak in bytes of 10243, but it is 10244: plan it anew");
    insta::assert_snapshot!(with(|p| p["predicted"]["time"] = json!(127_000)), @"error: invalid input: the plan predicts a time in nanoseconds of 127000, but it is 177000: plan it anew");
    insta::assert_snapshot!(with(|p| p["steps"][8] = json!({"drop": 0})), @"error: illegal plan: step 8: v0 (x) is resident and cannot be dropped");
    insta::assert_snapshot!(with(|p| p["steps"][8] = json!({"drop": 99})), @"error: illegal plan: step 8: there is no value 99: the graph has 10");
    insta::assert_snapshot!(with(|p| p["problem"] = json!("0123")), @"error: the plan was made for graph 0123, but this graph is d910149af6dfa130197c1217d3cd3c3d: plan it anew");
}

#[test]
fn show_draws_what_a_plan_does() {
    let dir = tempfile::tempdir().unwrap();
    let plan = by_hand(dir.path());
    insta::assert_snapshot!("show", succeed(&["show", &plan, TINY, "--steps", "--width", "48"]));
    let brief = succeed(&["show", &plan, TINY, "--values", "2"]);
    assert!(!brief.contains("recompute op0") && brief.contains("v3 (h2)") && !brief.contains("v4 (h3)"));
}

#[test]
fn show_draws_copies_to_and_from_the_host() {
    let cases: Value = serde_json::from_str(&std::fs::read_to_string("tests/data/legal-plans.json").unwrap()).unwrap();
    let case = cases.as_array().unwrap().iter().find(|c| c["name"] == "offload and prefetch").unwrap();
    let problem = plimsoll::cost::Problem::load(YARD).unwrap();
    let plan = json!({
        "format": "plimsoll.plan", "version": 1, "problem": problem.graph.fingerprint().to_string(),
        "budget": 138, "solver": "by hand", "steps": case["steps"],
        "predicted": {"peak": 138, "time": 0, "baseline_peak": 138, "baseline_time": 275, "overhead": 0.0,
            "lower_bound": 0.0, "status": "unknown"}
    });
    let dir = tempfile::tempdir().unwrap();
    let plan = write(dir.path(), "offload.plan.json", &plan);
    insta::assert_snapshot!("show_offload", succeed(&["show", &plan, YARD, "--steps", "--width", "48"]));
}

#[test]
fn solvers_and_models_are_listed() {
    let solvers = succeed(&["solvers"]);
    for name in plimsoll::solver::names() {
        assert!(solvers.lines().any(|line| line.starts_with(name)), "{name}:\n{solvers}");
    }
    let models = succeed(&["trace", "--list"]);
    let parsed: Value = serde_json::from_str(&succeed(&["trace", "--list", "--json"])).unwrap();
    for (model, listed) in plimsoll::zoo::models().iter().zip(parsed["models"].as_array().unwrap()) {
        assert_eq!(
            (&listed["name"], listed["settings"].as_array().unwrap().len()),
            (&json!(model.name), model.settings.len())
        );
        assert!(models.lines().any(|line| line.starts_with(model.name)), "{}:\n{models}", model.name);
    }
}

#[test]
fn a_model_is_traced_for_a_device_not_at_hand() {
    let trace = |rates| succeed(&["trace", "lora", "--roofline", rates, "-o", "-"]);
    let problem = Problem::from_json(&trace("312e12,2e12"), "standard output").unwrap();
    assert_eq!(problem.device.name, "roofline of 3.12e14 flops/s and 2e12 bytes/s");
    // Nothing is measured, so nothing differs from one run to the next.
    assert_eq!(trace("312e12,2e12"), trace("312e12,2e12"));
    assert_ne!(trace("312e12,2e12"), trace("1e9,1e9"));
}

#[test]
fn a_model_is_traced_for_a_device_by_name_or_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let trace = |device: &str, more: &[&str]| {
        let out = path("traced.json");
        succeed(&[&["trace", "frozen", "--device", device, "-o", &out], more].concat());
        Problem::load(out).unwrap()
    };
    let list: Value = serde_json::from_str(&succeed(&["devices", "--json"])).unwrap();
    let names: Vec<&str> = list["devices"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"h100") && names.contains(&"l4"), "{names:?}");
    assert_eq!(succeed(&["devices"]).lines().count(), names.len() + 1);
    let (small, large) = (trace("L4", &[]), trace("h100", &["--host-memory", "64GiB"]));
    assert_eq!((small.device.name.as_str(), small.device.host_memory.get()), ("l4", 0));
    assert_eq!((large.device.memory.get(), large.device.host_memory.get()), (80_000_000_000, 64 << 30));
    let time = |problem: &Problem| plimsoll::solver::baseline(problem).1.time;
    assert!(time(&small) > time(&large));
    let mine = json!({"format": "plimsoll.device", "version": 1, "name": "mine", "memory": 1000, "flops_per_s": 1e9,
        "bytes_per_s": 1e9, "launch": 7});
    let mine = trace(&write(dir.path(), "mine.json", &mine), &[]);
    assert_eq!((mine.device.name.as_str(), mine.device.memory.get()), ("mine", 1000));
    assert!(time(&mine) > time(&small));
    let refused =
        |device: &str, more: &[&str]| fail(&[&["trace", "frozen", "--device", device, "-o", "-"], more].concat());
    assert!(refused("h300", &[]).contains("`h300` is neither a file nor one of: a100-40gb"));
    assert!(refused("h100", &["--host-memory", "10%"]).contains("write it as a size like 64GiB"));
    assert!(refused(TINY, &[]).contains("is not a plimsoll.device file"));
}

/// Costs measured in one place serve in another: the same problem to the byte, and nothing is run.
#[test]
fn measured_costs_are_saved_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fn trace<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["trace", "shared", "--set", "batch=8", "--set", "layers=2", "--set", "width=8"], more].concat()
    }
    let (profile, packed) = (at("cpu.profile.json"), at("cpu.profile.json.zst"));
    let (first, second, third) = (at("first.json"), at("second.problem.json.zst"), at("third.json"));
    succeed(&trace(&["--save-profile", &profile, "-o", &first]));
    std::fs::write(&packed, zstd::encode_all(std::fs::File::open(&profile).unwrap(), 3).unwrap()).unwrap();
    succeed(&trace(&["--profile", &profile, "-o", &second]));
    succeed(&trace(&["--profile", &packed, "-o", &third]));
    let measured = Problem::load(&first).unwrap();
    assert!(measured.device.name.starts_with("flex") && measured.costs.time.values().any(|t| t.get() > 0));
    assert_eq!(Problem::load(&second).unwrap(), measured);
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&third).unwrap());
    // Costs are those of the file.
    let mut other: Value = serde_json::from_str(&std::fs::read_to_string(&profile).unwrap()).unwrap();
    other["device"] = json!("another machine");
    let entries = other["entries"].as_object_mut().unwrap();
    entries.values_mut().for_each(|cost| cost["time"] = json!(7));
    let elsewhere = write(dir.path(), "elsewhere.json", &other);
    succeed(&trace(&["--profile", &elsewhere, "-o", &first]));
    let elsewhere = Problem::load(&first).unwrap();
    assert_eq!(elsewhere.device.name, "another machine");
    assert!(elsewhere.costs.time.values().all(|t| [0, 7].contains(&t.get())));
    assert_eq!(elsewhere.graph.fingerprint(), measured.graph.fingerprint());

    // What is not in it is not made up, and what cannot be is told.
    let refused = |profile: &str| fail(&trace(&["--profile", profile, "-o", "-"]));
    let names: Vec<String> = other["entries"].as_object().unwrap().keys().cloned().collect();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut changed = other.clone();
        names.iter().for_each(|name| change(&mut changed["entries"][name]));
        refused(&write(dir.path(), "changed.json", &changed))
    };
    for (message, want) in [
        (changed(&|cost| cost["views"] = json!([99])), ": there is no such input as an output is a view of; measure"),
        (changed(&|cost| cost["inplace"] = json!([[0, 9]])), ": an in-place pair is out of range; measure it anew"),
        (changed(&|cost| cost["sizes"] = json!([])), ": it has another number of outputs; measure it anew"),
        (changed(&|cost| cost["sizes"] = json!([u64::MAX])), ": an output has more than 2^62 bytes; measure it anew"),
        (changed(&|cost| cost["time"] = json!(u64::MAX)), "the times up to this op add up to more than 2^62 ns"),
    ] {
        assert!(message.contains(want), "{want}: {message}");
    }
    other["entries"].as_object_mut().unwrap().remove(&names[0]);
    let message = refused(&write(dir.path(), "less.json", &other));
    assert!(message.starts_with("error: invalid input: the profile of another machine lacks op"), "{message}");
    assert!(message.trim_end().ends_with("it is of another step; measure this one there"), "{message}");
}

/// Wherever a file is named or piped in, it may be compressed.
#[test]
fn commands_take_compressed_files() {
    let dir = tempfile::tempdir().unwrap();
    let pack = |from: &str, name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, zstd::encode_all(std::fs::File::open(from).unwrap(), 3).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let plan = by_hand(dir.path());
    let (problem, packed) = (pack(TINY, "tiny.problem.json.zst"), pack(&plan, "tight.plan.json.zst"));
    assert_eq!(succeed(&["check", &problem, &packed]), succeed(&["check", TINY, &plan]));
    assert_eq!(succeed(&["show", &packed, &problem]), succeed(&["show", &plan, TINY]));
    assert!(succeed(&["diff", &problem, &packed, &plan]).contains("Both keep, recompute and offload the same values"));
    let piped = plimsoll(&["check", "-", &packed]).stdin(std::fs::File::open(&problem).unwrap()).output().unwrap();
    assert!(piped.status.success(), "{}", text(&piped.stderr));
    let out = dir.path().join("out.plan.json.zst");
    let out = out.to_str().unwrap();
    succeed(&["plan", &problem, "-b", "100%", "-o", out]);
    assert!(std::fs::read(out).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    assert!(succeed(&["check", &problem, out]).starts_with("ok"));
    let device = write(
        dir.path(),
        "mine.json",
        &json!({"format": "plimsoll.device", "version": 1, "name": "mine", "memory": 1000, "flops_per_s": 1e9, "bytes_per_s": 1e9}),
    );
    let device = pack(&device, "mine.json.zst");
    let traced = dir.path().join("traced.problem.json.zst");
    succeed(&["trace", "frozen", "--device", &device, "-o", traced.to_str().unwrap()]);
    assert_eq!(Problem::load(&traced).unwrap().device.name, "mine");
    let page = dir.path().join("page.svg");
    let table = succeed(&["report", &problem, &packed, "--svg", page.to_str().unwrap()]);
    assert!(table.contains("tight.plan.json.zst"), "{table}");
    // Nor is a plan called by how it is packed.
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("tight") && !page.contains("tight.plan"), "{page}");
}

#[test]
fn estimate_says_yes_or_no_first() {
    let first = |output: &str| output.lines().next().unwrap().to_owned();
    let yes = succeed(&["estimate", TINY, "--budget", "100%"]);
    assert_eq!(first(&yes), "yes: it fits the budget with everything kept");
    assert!(yes.contains("everything kept") && !yes.contains("plan that fits"), "{yes}");
    let planned = succeed(&["estimate", TINY, "--budget", "11000"]);
    assert_eq!(first(&planned), "yes, with a plan: it fits the budget, 39.4% slower");
    let no = run(&["estimate", TINY, "--budget", "5000"]);
    assert_eq!((no.status.code(), text(&no.stderr).as_str()), (Some(2), ""));
    assert_eq!(first(&text(&no.stdout)), "no: no plan was found that fits the budget");
    assert!(first(&succeed(&["estimate", TINY])).starts_with("nothing was given to fit"));
    let printed: Value = serde_json::from_str(&succeed(&["estimate", TINY, "--budget", "11000", "--json"])).unwrap();
    assert_eq!((&printed["fits"], &printed["fits_with_everything_kept"]), (&json!(true), &json!(false)));
    // What is live at the peak is what the peak is.
    for row in ["keep_all", "plan", "least", "plain"] {
        let row = printed[row].as_object().unwrap();
        let parts = ["parameters", "state", "inputs", "gradients", "activations", "workspace", "tape"];
        let sum: u64 = parts.iter().map(|part| row[*part].as_u64().unwrap()).sum();
        assert_eq!(row["peak"].as_u64().unwrap(), sum, "{row:?}");
    }
}

#[test]
fn estimate_finds_the_largest_batch() {
    let args = [
        "estimate",
        "gpt",
        "--set",
        "layers=1",
        "--set",
        "width=16",
        "--set",
        "heads=2",
        "--set",
        "sequence=16",
        "--set",
        "vocab=32",
        "--device",
        "l4",
        "--budget",
        "4MB",
        "--time-limit",
        "1",
        "--json",
    ];
    assert!(fail(&args).contains("--budget"));
    let dir = tempfile::tempdir().unwrap();
    let device = json!({"format": "plimsoll.device", "version": 1, "name": "small", "memory": 4_000_000,
        "flops_per_s": 1e12, "bytes_per_s": 1e11});
    let device = write(dir.path(), "small.json", &device);
    let args = [&args[..12], &["--device", &device], &args[16..]].concat();
    let printed: Value = serde_json::from_str(&succeed(&args)).unwrap();
    let batch = &printed["largest_batch"];
    let (kept, planned) = (batch["keep_all"].as_u64().unwrap(), batch["planned"].as_u64().unwrap());
    assert!(planned > kept && kept > 2, "{batch}");
    let fits = |batch: u64| {
        let batch = format!("batch={batch}");
        let args = [&args[..12], &["--set", &batch, "--no-batch"], &args[12..]].concat();
        serde_json::from_str::<Value>(&text(&run(&args).stdout)).unwrap()["fits_with_everything_kept"] == json!(true)
    };
    assert!(fits(kept) && !fits(kept + kept / 32 + 1));
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let help = succeed(&["--help"]);
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.len() > 12 && !names.contains(&"run-one"), "{names:?}");
    let (bash, man) = (succeed(&["completions", "bash"]), succeed(&["man"]));
    for name in names.iter().filter(|name| **name != "help") {
        assert!(bash.contains(name) && man.contains(&name.replace('-', "\\-")), "{name}");
    }
    let page = succeed(&["man", "plan"]);
    assert!(
        page.contains(".TH plimsoll-plan") && page.contains("\\-\\-budget") && page.contains("Bytes (8GiB"),
        "{page}"
    );
    assert!(fail(&["man", "nope"]).contains("no command is called `nope`; there are: trace, plan"));
    assert!(fail(&["man", "run-one"]).contains("no command is called"));
    assert!(fail(&["completions", "cmd"]).contains("bash"));
}

#[test]
fn help_and_version_are_not_errors() {
    assert!(succeed(&["--version"]).starts_with("plimsoll "));
    for args in [&["--help"][..], &["plan", "--help"], &["sweep", "--help"], &["trace", "-h"], &["help", "show"]] {
        assert!(succeed(args).contains("Usage:"));
    }
}

/// The commands of the guide, in its order and in one directory, on a smaller model.
#[test]
fn every_command_of_the_guide_works() {
    let dir = tempfile::tempdir().unwrap();
    let guide = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guide.md")).unwrap();
    let small = "layers=4 --set width=16 --set heads=1 --set sequence=16 --set vocab=16 --set batch=8";
    let mut ran = 0;
    for block in guide.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap().replace("\\\n", " ");
        for line in block.lines() {
            let line = line.split(" #").next().unwrap().replace("layers=2", small).replace("--runs 15", "--runs 1");
            let mut words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words.remove(0), "plimsoll", "{line}");
            if ["plan", "sweep", "estimate"].contains(&words[0]) {
                words.extend(["--time-limit", "1"]);
            }
            let output = plimsoll(&words).current_dir(dir.path()).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{line}: {}", text(&output.stderr));
            ran += 1;
        }
    }
    assert!(ran >= 15, "{ran}");
    for file in ["gpt.html", "gpt.svg", "gpt.trace.json", "raw.jsonl", "table.md"] {
        assert!(dir.path().join(file).exists(), "{file}");
    }
}

#[test]
fn estimate_refuses_what_is_neither_a_model_nor_a_problem() {
    assert!(fail(&["estimate", "nope"]).contains("no model is called `nope`; there are: gpt"));
    assert!(fail(&["estimate", TINY, "--set", "a=1"]).contains("is no model of the zoo, and only those have settings"));
    assert!(fail(&["estimate", TINY, "--budget", "much"]).contains("invalid budget `much`"));
    assert!(fail(&["estimate", TINY, "--solver", "x"]).contains("no solver is called `x`"));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    for args in [&["trace", "--list"][..], &["solvers"], &["--help"], &["plan", TINY, "-b", "100%"]] {
        let mut child = plimsoll(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(0), "{args:?}");
    }
    // Nobody listens to the complaint either.
    let mut child = plimsoll(&["plan", "-", "-b", "1"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    child.stdin.take().unwrap().write_all(b"garbage").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
