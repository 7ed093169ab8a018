//! The checker: every rule broken on purpose, and legal plans that use every liberty there is.
//!
//! `tests/data/yard.problem.json` is the playground: a value with a view, in-place pairs of every
//! shape, an op with two outputs, a side effect, a view of a resident, an op that lists a view
//! before its base, and links to a small host.

use std::collections::BTreeSet;

use plimsoll::check::{Rule, Violation, check, check_steps};
use plimsoll::cost::Problem;
use plimsoll::plan::{Plan, Predicted, Status, Step, simulate};
use plimsoll::{Bytes, Error};
use serde_json::Value;

fn problem(name: &str) -> Problem {
    Problem::load(format!("tests/data/{name}.problem.json")).unwrap()
}

fn cases(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("tests/data/{file}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn steps(case: &Value) -> Vec<Step> {
    serde_json::from_value(case["steps"].clone()).unwrap_or_else(|e| panic!("{}: {e}", case["name"]))
}

fn budget(case: &Value) -> Bytes {
    Bytes(case["budget"].as_u64().unwrap_or(u64::MAX))
}

/// The variant's name.
fn rule_name(rule: &Rule) -> String {
    let text = format!("{rule:?}");
    text.split([' ', '{', '(']).next().unwrap().to_owned()
}

#[test]
fn illegal_plans_are_rejected_by_the_rule_they_break() {
    let cases = cases("illegal-plans");
    assert!(cases.len() >= 25);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let problem = problem(case["problem"].as_str().unwrap());
        match check_steps(&problem, &steps(case), budget(case)) {
            Ok(_) => panic!("{name}: accepted"),
            Err(Violation { step, rule }) => {
                assert_eq!(rule_name(&rule), case["rule"].as_str().unwrap(), "{name}: {rule}");
                assert_eq!(step as u64, case["step"].as_u64().unwrap(), "{name}: {rule}");
            }
        }
    }
}

#[test]
fn every_rule_has_an_illegal_plan() {
    let broken: BTreeSet<String> =
        cases("illegal-plans").iter().map(|case| case["rule"].as_str().unwrap().to_owned()).collect();
    // Read from the source, so that a new rule without a case fails here.
    let source = std::fs::read_to_string("src/check.rs").unwrap();
    let rules = source.split("pub enum Rule {").nth(1).unwrap().split("\n}").next().unwrap();
    let declared: BTreeSet<String> = rules
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();
    assert!(declared.len() >= 16, "{declared:?}");
    assert_eq!(broken, declared);
}

#[test]
fn legal_plans_are_accepted_at_their_exact_peak_and_no_lower() {
    for case in cases("legal-plans") {
        let name = case["name"].as_str().unwrap();
        let problem = problem(case["problem"].as_str().unwrap());
        let (steps, budget) = (steps(&case), budget(&case));
        let checked = check_steps(&problem, &steps, budget).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(checked.peak.get(), case["peak"].as_u64().unwrap(), "{name}");
        assert_eq!(checked.host_peak.get(), case["host_peak"].as_u64().unwrap(), "{name}");
        let timeline = simulate(&problem, &steps).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((timeline.peak, timeline.host_peak), (checked.peak, checked.host_peak), "{name}");
        let violation = check_steps(&problem, &steps, Bytes(checked.peak.get() - 1)).unwrap_err();
        assert!(matches!(violation.rule, Rule::OverBudget { over: 1, .. }), "{name}: {violation}");
    }
}

fn plan_of(problem: &Problem, steps: Vec<Step>, budget: u64) -> Plan {
    let predicted = Predicted {
        peak: Bytes(0),
        time: Default::default(),
        baseline_peak: Bytes(0),
        baseline_time: Default::default(),
        overhead: 0.0,
        lower_bound: 0.0,
        status: Status::Feasible,
    };
    Plan::new(&problem.graph, Bytes(budget), "by hand", steps, predicted)
}

#[test]
fn a_plan_is_checked_against_its_graph_and_its_own_budget() {
    let case = &cases("legal-plans")[0];
    let yard = problem("yard");
    let plan = plan_of(&yard, steps(case), 138);
    assert_eq!(check(&yard, &plan).unwrap().peak, Bytes(138));
    assert!(matches!(check(&problem("tiny"), &plan), Err(Error::PlanForAnotherGraph { .. })));
    let message = check(&yard, &plan_of(&yard, steps(case), 100)).unwrap_err().to_string();
    assert_eq!(message, "illegal plan: step 3: 138 bytes are live, 38 over the budget of 100");
}

#[test]
fn violations_name_op_and_value() {
    let yard = problem("yard");
    let message = |text: &str| {
        let steps: Vec<Step> = serde_json::from_str(text).unwrap();
        check_steps(&yard, &steps, Bytes(u64::MAX)).unwrap_err().to_string()
    };
    insta::assert_snapshot!(message(r#"[{"compute":3}]"#), @"step 0: op3 (Mul) reads v4 (va), which does not live on the device");
    insta::assert_snapshot!(message(r#"[{"drop":0}]"#), @"step 0: v0 (x) is resident and cannot be dropped");
    insta::assert_snapshot!(
        message(r#"[{"compute":0},{"compute":1},{"compute":2,"inplace":[[0,0]]}]"#),
        @"step 2: op2 (Relu) may not take over v1 (a): another live value shares its storage"
    );
}

#[test]
fn sizes_at_the_limit_do_not_overflow() {
    // One storage of 2^62 bytes, alive several times over through its views.
    let text = r#"{"format":"plimsoll.problem","version":1,
        "values":[{"bytes":0},{"bytes":4611686018427387904},{"bytes":0,"alias_of":1},{"bytes":0,"alias_of":1},
                  {"bytes":0,"alias_of":1},{"bytes":0,"alias_of":1}],
        "ops":[{"kind":"Make","time":1,"inputs":[0],"outputs":[1]},
               {"kind":"View","time":1,"inputs":[1],"outputs":[2]},{"kind":"View","time":1,"inputs":[1],"outputs":[3]},
               {"kind":"View","time":1,"inputs":[1],"outputs":[4]},{"kind":"View","time":1,"inputs":[1],"outputs":[5]}],
        "resident":[0],"outputs":[]}"#;
    let problem = Problem::from_json(text, "limit").unwrap();
    let one = |view: usize| format!(r#"{{"compute":0}},{{"compute":{view}}},{{"drop":1}}"#);
    let text = format!(
        "[{},{},{},{},{}]",
        one(1),
        one(2),
        one(3),
        one(4),
        (2..6).map(|v| format!(r#"{{"drop":{v}}}"#)).collect::<Vec<_>>().join(",")
    );
    let steps: Vec<Step> = serde_json::from_str(&text).unwrap();
    assert_eq!(check_steps(&problem, &steps, Bytes(u64::MAX)).unwrap().peak, Bytes(u64::MAX));
    assert_eq!(simulate(&problem, &steps).unwrap().peak, Bytes(u64::MAX));
    assert!(check_steps(&problem, &steps, Bytes(u64::MAX - 1)).is_err());
}
