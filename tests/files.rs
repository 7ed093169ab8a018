//! The loaders: whatever a file holds, the answer is a problem, a plan, or a typed error that says
//! what is wrong and where; never a panic.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use plimsoll::cost::Problem;
use plimsoll::graph::Replay;
use plimsoll::plan::{Lowering, Plan, Predicted, Status, lower, simulate};
use plimsoll::{Bytes, Error};
use proptest::prelude::*;
use serde_json::{Value, json};

#[path = "files/compressed.rs"]
mod compressed;
#[path = "files/versions.rs"]
mod versions;

/// The tiny problem, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Problem, Error> {
    let mut raw: Value = serde_json::from_str(TINY).unwrap();
    change(&mut raw);
    Problem::from_json(&raw.to_string(), "p.json")
}

const TINY: &str = include_str!("data/tiny.problem.json");
const HEAD: &str = r#""format":"plimsoll.problem","version":1"#;

/// The error's variant and message.
fn fault<T>(result: Result<T, Error>) -> String {
    let error = result.err().expect("it was accepted");
    let kind = format!("{error:?}");
    format!("{}: {error}", kind.split([' ', '(']).next().unwrap())
}

#[test]
fn contradictions_name_the_op_or_value() {
    type Fault = (&'static str, fn(&mut Value));
    let faults: [Fault; 26] = [
        ("reads out of range", |p| p["ops"][1]["inputs"][0] = json!(99)),
        ("reads far out of range", |p| p["ops"][1]["inputs"][0] = json!(u64::MAX)),
        ("writes out of range", |p| p["ops"][1]["outputs"][0] = json!(10)),
        ("resident out of range", |p| p["resident"][0] = json!(10)),
        ("output out of range", |p| p["outputs"][0] = json!(10)),
        ("alias out of range", |p| p["values"][3]["alias_of"] = json!(10)),
        ("alias of itself", |p| p["values"][3]["alias_of"] = json!(3)),
        ("cycle of aliases", |p| {
            p["values"][2]["alias_of"] = json!(3);
            p["values"][3]["alias_of"] = json!(4);
            p["values"][4]["alias_of"] = json!(3);
        }),
        ("alias of a stranger", |p| p["values"][7]["alias_of"] = json!(2)),
        ("resident view of what is not", |p| {
            p["values"][1]["alias_of"] = json!(2);
        }),
        ("in-place input out of range", |p| p["ops"][4]["inplace"] = json!([[1, 0]])),
        ("in-place output out of range", |p| p["ops"][4]["inplace"] = json!([[0, u64::MAX]])),
        ("in-place into a view", |p| p["values"][6]["alias_of"] = json!(4)),
        ("read before it is written", |p| p["ops"][0]["inputs"][0] = json!(4)),
        ("reads what it writes", |p| p["ops"][1]["inputs"][0] = json!(3)),
        ("read, never written", |p| p["resident"] = json!([0])),
        ("written twice", |p| p["ops"][2]["outputs"][0] = json!(3)),
        ("written twice by one op", |p| p["ops"][2]["outputs"] = json!([4, 4])),
        ("writes a resident", |p| p["ops"][7]["outputs"][0] = json!(1)),
        ("writes nothing", |p| p["ops"][7]["outputs"] = json!([])),
        ("output never written", |p| {
            p["ops"].as_array_mut().unwrap().pop();
        }),
        ("resident twice", |p| p["resident"] = json!([0, 1, 0])),
        ("output twice", |p| p["outputs"] = json!([5, 9, 5])),
        ("sizes overflow", |p| {
            p["values"][2]["bytes"] = json!(u64::MAX);
        }),
        ("times overflow", |p| {
            p["ops"][2]["time"] = json!(u64::MAX);
        }),
        ("workspace overflows", |p| {
            p["ops"][2]["workspace"] = json!(u64::MAX);
        }),
    ];
    let mut text = String::new();
    for (name, change) in faults {
        let _ = writeln!(text, "{name}\n    {}", fault(changed(change)));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn malformed_text_is_told_apart_from_contradictions() {
    let with = |body: &str| format!("{{{HEAD},{body}}}");
    let deep = format!("{{{HEAD},\"values\":{}", "[".repeat(200_000));
    let unknown_deep = format!("{{{HEAD},\"x\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let texts = vec![
        ("empty", String::new()),
        ("blank", " \n ".into()),
        ("not JSON", "ops: 3".into()),
        ("another shape", "[1,2]".into()),
        ("null", "null".into()),
        ("truncated", TINY[..TINY.len() / 2].into()),
        ("something after it", format!("{TINY} {{}}")),
        ("no format", r#"{"version":1}"#.into()),
        ("another format", r#"{"format":"plimsoll.plan","version":1}"#.into()),
        ("no version", r#"{"format":"plimsoll.problem"}"#.into()),
        ("version 0", r#"{"format":"plimsoll.problem","version":0}"#.into()),
        ("a newer version", r#"{"format":"plimsoll.problem","version":3,"anything":[{}]}"#.into()),
        ("a fractional version", r#"{"format":"plimsoll.problem","version":1.5}"#.into()),
        ("a version as text", r#"{"format":"plimsoll.problem","version":"1"}"#.into()),
        ("no values", with(r#""ops":[],"resident":[],"outputs":[]"#)),
        ("duplicate key", with(r#""values":[],"values":[],"ops":[],"resident":[],"outputs":[]"#)),
        ("duplicate key in a value", with(r#""values":[{"bytes":1,"bytes":2}],"ops":[],"resident":[],"outputs":[]"#)),
        ("duplicate version", r#"{"format":"plimsoll.problem","version":1,"version":2}"#.into()),
        ("unknown key", with(r#""values":[],"ops":[],"resident":[],"outputs":[],"aliases":[]"#)),
        ("unknown key in an op", TINY.replace("\"workspace\"", "\"work_space\"")),
        ("negative bytes", TINY.replacen("4096", "-4096", 1)),
        ("fractional bytes", TINY.replacen("4096", "4096.5", 1)),
        ("bytes over 64 bits", TINY.replacen("4096", "18446744073709551616", 1)),
        ("bytes as text", TINY.replacen("4096", "\"4096\"", 1)),
        ("no bytes", TINY.replacen("\"bytes\": 4096", "\"dims\": [1024]", 1)),
        ("negative time", TINY.replacen("5000,", "-5000,", 1)),
        ("not a number", TINY.replacen("5000,", "NaN,", 1)),
        ("negative id", TINY.replacen("[2]", "[-2]", 1)),
        ("unknown phase", TINY.replacen("\"forward\"", "\"sideways\"", 1)),
        ("a pair of three", TINY.replacen("[[0, 0]]", "[[0, 0, 0]]", 1)),
        ("deep nesting", deep),
        ("deep nesting under an unknown key", unknown_deep),
    ];
    let mut snapshot = String::new();
    for (name, text) in texts {
        let _ = writeln!(snapshot, "{name}\n    {}", fault(Problem::from_json(&text, "p.json")));
    }
    insta::assert_snapshot!(snapshot);
}

#[test]
fn malformed_plans() {
    let with = |steps: &str| {
        format!(
            r#"{{"format":"plimsoll.plan","version":1,"problem":"0","budget":1,"solver":"s","steps":[{steps}],
            "predicted":{{"peak":1,"time":1,"baseline_peak":1,"baseline_time":1,"overhead":0.0,"lower_bound":0.0,"status":"optimal"}}}}"#
        )
    };
    assert_eq!(Plan::from_json(&with(r#"{"drop":3}"#), "p").unwrap().steps.len(), 1);
    let texts = [
        ("two verbs", with(r#"{"drop":1},{"compute":1,"drop":2}"#)),
        ("the same verb twice", with(r#"{"drop":1,"drop":2}"#)),
        ("no verb", with("{}")),
        ("unknown verb", with(r#"{"swap":1}"#)),
        ("in place without compute", with(r#"{"drop":1,"inplace":[]}"#)),
        ("negative", with(r#"{"compute":-1}"#)),
        ("over 32 bits", with(r#"{"compute":4294967296}"#)),
        ("not a step", with("7")),
        ("no status", with("").replace(r#","status":"optimal""#, "")),
        ("unknown status", with("").replace("optimal", "best")),
        ("overhead null", with("").replace("\"overhead\":0.0", "\"overhead\":null")),
        ("a problem", TINY.to_owned()),
        ("newer", with("").replace("\"version\":1", "\"version\":7")),
    ];
    let mut snapshot = String::new();
    for (name, text) in texts {
        let _ = writeln!(snapshot, "{name}\n    {}", fault(Plan::from_json(&text, "p.json")));
    }
    insta::assert_snapshot!(snapshot);
}

#[test]
fn files_that_cannot_be_read_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let io = |error: Error| matches!(error, Error::Io { .. });
    assert!(io(Problem::load(dir.path().join("missing.json")).unwrap_err()));
    assert!(io(Problem::load(dir.path()).unwrap_err()));
    assert!(io(Plan::load(dir.path()).unwrap_err()));
    let garbage = dir.path().join("garbage");
    std::fs::write(&garbage, [0xff, 0xfe, 0x00, 0x80]).unwrap();
    assert!(matches!(Problem::load(&garbage).unwrap_err(), Error::Format { .. }));
    let problem = Problem::load("tests/data/tiny.problem.json").unwrap();
    assert!(io(problem.save(dir.path()).unwrap_err()));
    assert!(io(problem.save(dir.path().join("no/such/folder.json")).unwrap_err()));
    // A failed write leaves nothing behind.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn saved_and_loaded_problems_are_the_same_to_the_byte() {
    for entry in std::fs::read_dir("tests/data").unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with(".problem.json") {
            continue;
        }
        let problem = Problem::load(&path).unwrap_or_else(|e| panic!("{e}"));
        let text = problem.to_json();
        let again = Problem::from_json(&text, "again").unwrap();
        assert_eq!(problem, again);
        assert_eq!(text, again.to_json());
        assert_eq!(problem.graph.fingerprint(), again.graph.fingerprint());

        let order: Vec<_> = problem.graph.ops().keys().collect();
        let steps = lower(&problem.graph, &order, Lowering::default());
        let timeline = simulate(&problem, &steps).unwrap();
        let predicted = Predicted {
            peak: timeline.peak,
            time: timeline.time,
            baseline_peak: timeline.peak,
            baseline_time: timeline.time,
            overhead: 0.1 + 0.2,
            lower_bound: 1e-300,
            status: Status::Feasible,
        };
        let plan = Plan::new(&problem.graph, timeline.peak, "by hand", steps, predicted);
        let file = tempfile::NamedTempFile::new().unwrap();
        plan.save(file.path()).unwrap();
        let again = Plan::load(file.path()).unwrap();
        assert_eq!(plan, again);
        assert_eq!(plan.to_json(), again.to_json());
        plimsoll::check::check(&problem, &again).unwrap();
    }
}

#[test]
fn what_is_missing_has_a_default() {
    let text = format!(
        r#"{{{HEAD},"values":[{{"bytes":1}},{{"bytes":2}}],
        "ops":[{{"kind":"A","time":3,"inputs":[0],"outputs":[1]}}],"resident":[0],"outputs":[1]}}"#
    );
    let problem = Problem::from_json(&text, "p").unwrap();
    let (id, op) = problem.graph.ops().iter().next().unwrap();
    assert_eq!(problem.costs.workspace[id], Bytes(0));
    assert!(op.inplace.is_empty());
    assert_eq!(op.replay, Replay::Pure);
    assert_eq!(problem.device, Default::default());
    // `null` is as good as missing.
    let nulls = text
        .replace("\"time\":3", "\"time\":3,\"inplace\":null,\"replay\":null")
        .replace("\"resident\"", "\"device\":null,\"resident\"");
    assert_eq!(Problem::from_json(&nulls, "p").unwrap(), problem);
}

#[test]
fn fingerprints_see_the_graph_and_not_names_or_times() {
    let base = changed(|_| ()).unwrap().graph.fingerprint();
    let same: [fn(&mut Value); 3] = [
        |p| p["name"] = json!("other"),
        |p| p["values"][2]["name"] = json!("other"),
        |p| p["ops"][2]["time"] = json!(1),
    ];
    for change in same {
        assert_eq!(changed(change).unwrap().graph.fingerprint(), base);
    }
    let other: [fn(&mut Value); 5] = [
        |p| p["values"][2]["bytes"] = json!(4095),
        |p| p["ops"][2]["kind"] = json!("other"),
        |p| p["ops"][4]["inplace"] = json!([]),
        |p| p["ops"][5]["replay"] = json!("seeded"),
        |p| p["outputs"] = json!([9]),
    ];
    for change in other {
        assert_ne!(changed(change).unwrap().graph.fingerprint(), base);
    }
    // Pinned: a plan saved by one version must belong to its graph in the next.
    insta::assert_snapshot!(base);
}

/// 100,000 ops, one chain of views as long, and one op with very many views: seconds would mean
/// something quadratic.
#[test]
fn large_files_load_in_time() {
    const N: usize = 100_000;
    let mut chain = format!(r#"{{{HEAD},"values":[{{"bytes":64}}"#);
    (0..N).for_each(|i| write!(chain, r#",{{"bytes":64,"alias_of":{i}}}"#).unwrap());
    chain.push_str(r#"],"ops":["#);
    for i in 0..N {
        let comma = if i > 0 { "," } else { "" };
        write!(chain, r#"{comma}{{"kind":"V","time":1,"inputs":[{i}],"outputs":[{}]}}"#, i + 1).unwrap();
    }
    write!(chain, r#"],"resident":[0],"outputs":[{N}]}}"#).unwrap();

    let mut wide = format!(r#"{{{HEAD},"values":[{{"bytes":64}}"#);
    (0..N).for_each(|_| wide.push_str(r#",{"bytes":64,"alias_of":0}"#));
    let all: Vec<String> = (1..=N).map(|i| i.to_string()).collect();
    write!(
        wide,
        r#"],"ops":[{{"kind":"V","time":1,"inputs":[0],"outputs":[{}]}}],"resident":[0],"outputs":[]}}"#,
        all.join(",")
    )
    .unwrap();

    // A chain whose aliases run backwards: the first value is the deepest view.
    let mut cycle = format!(r#"{{{HEAD},"values":["#);
    (0..N).for_each(|i| write!(cycle, r#"{{"bytes":1,"alias_of":{}}},"#, (i + 1) % N).unwrap());
    cycle.push_str(r#"{"bytes":1}],"ops":[],"resident":[],"outputs":[]}"#);

    let start = Instant::now();
    let problem = Problem::from_json(&chain, "chain").unwrap();
    assert_eq!(problem.graph.storages().len(), 1);
    let order: Vec<_> = problem.graph.ops().keys().collect();
    let steps = lower(&problem.graph, &order, Lowering::default());
    assert_eq!(plimsoll::check::check_steps(&problem, &steps, Bytes(64)).unwrap().peak, Bytes(64));
    let wide = Problem::from_json(&wide, "wide").unwrap();
    let steps = lower(&wide.graph, &wide.graph.ops().keys().collect::<Vec<_>>(), Lowering::default());
    plimsoll::check::check_steps(&wide, &steps, Bytes(64)).unwrap();
    assert!(fault(Problem::from_json(&cycle, "cycle")).contains("form a cycle"));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_errors_or_problems_but_never_panics(
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"0123456789[]{},:\"-. \\xyz".as_slice())), 1..4),
        cut: prop::sample::Index,
    ) {
        let mut bytes = TINY.as_bytes().to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(problem) = Problem::from_json(&text, "damaged") {
            let order: Vec<_> = problem.graph.ops().keys().collect();
            let steps = lower(&problem.graph, &order, Lowering::default());
            prop_assert!(plimsoll::check::check_steps(&problem, &steps, Bytes(u64::MAX)).is_ok());
        }
        let _ = Problem::from_json(&text[..cut.index(text.len())], "cut");
        let _ = Plan::from_json(&text, "damaged");
    }

    #[test]
    fn any_bytes_are_an_error(text in ".*") {
        prop_assert!(Problem::from_json(&text, "any").is_err());
        prop_assert!(Plan::from_json(&text, "any").is_err());
    }
}
