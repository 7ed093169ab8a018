//! Every command's output for people, its JSON and its errors, as snapshots: a command that is added
//! and not shown here fails the first test.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::command::{by_hand, plimsoll, succeed, text};
use super::without_seconds;

/// A command, and what to run of it in a folder of small files.
struct Shown {
    name: &'static str,
    /// Arguments of a run that succeeds; run again with `--json` where there is that.
    run: &'static str,
    /// Runs that find no plan: exit code 2.
    without_plan: &'static [&'static str],
    /// Runs that fail: exit code 1.
    errors: &'static [&'static str],
    /// Takes out what depends on the machine, of what is meant for people.
    masked: fn(&str) -> String,
    /// Keys of the JSON whose numbers depend on the machine, or on what else it is about.
    clocked: &'static [&'static str],
}

const NOTHING: Shown = Shown { name: "", run: "", without_plan: &[], errors: &[], masked: str::to_owned, clocked: &[] };

const SHOWN: [Shown; 18] = [
    Shown {
        name: "trace",
        run: "lora --roofline 312e12,2e12 -o lora.problem.json",
        errors: &[
            "",
            "gpt",
            "nonesuch -o out.json",
            "gpt --set layers -o out.json",
            "gpt --set =3 -o out.json",
            "gpt --set speed=9 -o out.json",
            "gpt --set layers=many -o out.json",
            "gpt --roofline 312e12 -o out.json",
            "gpt --roofline fast,2e12 -o out.json",
            "gpt --roofline 0,2e12 -o out.json",
            "gpt --roofline 1,-2e12 -o out.json",
            "gpt --roofline 1,1 --device l4 -o out.json",
            "gpt --device h300 -o out.json",
            "gpt --device tiny.problem.json -o out.json",
            "gpt --device l4 --host-memory 10% -o out.json",
            "gpt --host-memory 10GiB -o out.json",
            "gpt --profile none.profile.json -o out.json",
            "gpt --profile tiny.problem.json -o out.json",
            "lora --profile other.profile.json -o out.json",
            "gpt --profile other.profile.json --device l4 -o out.json",
            "gpt --profile other.profile.json --save-profile p.json -o out.json",
            "lora --roofline 1e12,1e12 -o no/such/folder.json",
            "lora --roofline 1e12,1e12 --optimizer-bytes nan -o out.json",
            "lora --roofline 1e12,1e12 --optimizer-bytes -8 -o out.json",
            "lora --roofline 1e12,1e12 --optimizer-bytes 1e300 -o out.json",
            "gpt --list",
            "lora --roofline 1e12,1e12 -o - --json",
        ],
        ..NOTHING
    },
    Shown {
        name: "plan",
        run: "tiny.problem.json --budget 11000 -o out.plan.json",
        without_plan: &[
            "tiny.problem.json --budget 50%",
            "tiny.problem.json --budget 50% --json",
            "tiny.problem.json --budget 75% --solver keep-all",
        ],
        errors: &[
            "",
            "tiny.problem.json",
            "--budget 1GiB",
            "tiny.problem.json --budget much",
            "tiny.problem.json --budget -5%",
            "tiny.problem.json --budget 0",
            "tiny.problem.json --budget 0.000001%",
            "tiny.problem.json -b 1 --solver oracle",
            "tiny.problem.json -b 1 --time-limit -1",
            "tiny.problem.json -b 1 --time-limit nan",
            "tiny.problem.json -b 1 --time-limit soon",
            "tiny.problem.json -b 1 --seed -1",
            "tiny.problem.json -b 1 --node-limit -1",
            "tiny.problem.json -b 1 --node-limit 0",
            "tiny.problem.json -b 1 --time-limit 1e300",
            "tiny.problem.json -b 100% -o tiny.problem.json",
            "tiny.problem.json -b 100% -o ./tiny.problem.json",
            "tiny.problem.json -b 100% -o - --json",
            "tiny.problem.json -b 1 --node-limit 99999999999999999999",
            "none.json -b 1",
            ". -b 1",
            "tight.plan.json -b 1",
            "garbage.json -b 1",
            "newer.problem.json -b 1",
            "wrong.problem.json -b 1",
            "cut-off.problem.json.zst -b 1",
            "tiny.problem.json -b 100% -o .",
            "tiny.problem.json -b 100% -o no/such/folder.json",
        ],
        masked: solver_seconds,
        clocked: &["solve_seconds"],
    },
    Shown {
        name: "sweep",
        run: "tiny.problem.json --points 4 --from 9000 --time-limit 1",
        without_plan: &["tiny.problem.json --points 2 --from 1000 --to 2000"],
        errors: &[
            "",
            "tiny.problem.json --points 1",
            "tiny.problem.json --json --csv",
            "tiny.problem.json --solver oracle",
            "tiny.problem.json --from much",
            "tiny.problem.json --from 90% --to 80%",
            "tiny.problem.json --to unlimited",
            "tiny.problem.json --to 5000",
            "tiny.problem.json --points 2 -o .",
            "tiny.problem.json --points 2 -o tiny.problem.json",
        ],
        masked: last_column,
        clocked: &["solve_seconds"],
    },
    Shown {
        name: "check",
        run: "tiny.problem.json tight.plan.json",
        errors: &[
            "tiny.problem.json",
            "tight.plan.json tiny.problem.json",
            "yard.problem.json tight.plan.json",
            "- -",
            "tiny.problem.json broken.plan.json",
            "tiny.problem.json stale.plan.json",
            "tiny.problem.json none.plan.json",
        ],
        ..NOTHING
    },
    Shown {
        name: "show",
        run: "tight.plan.json tiny.problem.json --steps --width 48",
        errors: &[
            "tight.plan.json",
            "tiny.problem.json tight.plan.json",
            "tight.plan.json tiny.problem.json --width 0",
            "tight.plan.json tiny.problem.json --width 99999999999",
            "broken.plan.json tiny.problem.json",
        ],
        ..NOTHING
    },
    Shown {
        name: "report",
        run: "tiny.problem.json tight.plan.json roomy.plan.json -o out.html --svg out.svg --trace out.trace.json",
        errors: &[
            "",
            "tiny.problem.json -o out.html",
            "tiny.problem.json tight.plan.json",
            "yard.problem.json tight.plan.json -o out.html",
            "tiny.problem.json broken.plan.json -o out.html",
            "tiny.problem.json tight.plan.json -o .",
            "tiny.problem.json tight.plan.json --svg tight.plan.json",
            "tiny.problem.json - - -o out.html",
            "tiny.problem.json tight.plan.json -o out.html --sweep garbage.json",
        ],
        masked: file_sizes,
        clocked: &["bytes"],
        ..NOTHING
    },
    Shown {
        name: "diff",
        run: "tiny.problem.json roomy.plan.json tight.plan.json",
        errors: &[
            "tiny.problem.json tight.plan.json",
            "tiny.problem.json tight.plan.json broken.plan.json",
            "yard.problem.json tight.plan.json roomy.plan.json",
            "tiny.problem.json tight.plan.json - --values many",
            "- - tight.plan.json",
        ],
        ..NOTHING
    },
    Shown {
        name: "estimate",
        run: "tiny.problem.json --budget 11000",
        without_plan: &["tiny.problem.json --budget 5000"],
        errors: &[
            "",
            "nope",
            "tiny.problem.json --set a=1",
            "tiny.problem.json --budget much",
            "tiny.problem.json --solver x",
            "gpt --device h300",
            "gpt --device l4 --budget 4MB",
        ],
        ..NOTHING
    },
    Shown {
        name: "compare",
        run: "shared --set batch=16 --set layers=2 --set width=8 --variant plain --variant unlimited --runs 1 \
            --steps 1 --warmup 1 --time-limit 0.5",
        errors: &[
            "",
            "shared --variant plain",
            "nonesuch --variant plain --variant 50%",
            "shared --variant plian --variant plain",
            "shared --variant 50%@oracle --variant plain",
            "shared --variant plan:none.json --variant plain",
            "shared --device abacus --variant plain --variant 50%",
            "shared --runs 0 --variant plain --variant 50%",
            "shared --threshold 0.5 --variant plain --variant 50%",
        ],
        masked: numbers_below_the_head,
        clocked: &[
            "step_time",
            "ratio",
            "faster",
            "faster_low",
            "faster_high",
            "peak",
            "peak_ratio",
            "planned_peak",
            "plan_seconds",
            "planned_time",
            "asked_per_step",
        ],
        ..NOTHING
    },
    Shown {
        name: "experiment",
        run: "grid.toml --out results",
        errors: &["", "none.toml", "garbage.json", "wrong.toml", "grid.toml --jobs none"],
        ..NOTHING
    },
    Shown {
        name: "pipeline",
        run: "tiny.problem.json --devices 2 --memory 20kB -m 4 --schedule 1f1b --width 80",
        without_plan: &["tiny.problem.json --devices 2 --memory 1kB"],
        errors: &[
            "",
            "tiny.problem.json",
            "tiny.problem.json --devices 2",
            "tiny.problem.json --devices 0 --memory 1GiB",
            "tiny.problem.json --devices 2 --memory much",
            "tiny.problem.json --devices 99 --memory 1GiB",
            "tiny.problem.json --devices 2 --memory 1GiB --microbatches 0",
            "tiny.problem.json --devices 2 --memory 1GiB --method best",
            "tiny.problem.json --devices 2 --memory 1GiB --schedule 2f2b",
            "tiny.problem.json --devices 2 --memory 1GiB --time-limit -1",
            "tiny.problem.json --devices 2 --memory 1GiB --time-limit 1e300",
            "tiny.problem.json --topology none.json",
            "tiny.problem.json --topology garbage.json",
            "tiny.problem.json --topology none.json --devices 2",
            "nope.json --devices 2 --memory 1GiB",
        ],
        masked: method_seconds,
        clocked: &["solve_seconds"],
    },
    Shown {
        name: "simulate",
        run: "1f1b --stages 2 --microbatches 3 --width 80",
        errors: &[
            "",
            "nope",
            "1f1b",
            "1f1b -p 2",
            "1f1b -p 0 -m 1",
            "tiny.problem.json",
            "1f1b -p 2 -m 2 --forward soon",
            "1f1b -p 2 -m 2 --topology none.json",
        ],
        ..NOTHING
    },
    Shown { name: "solvers", errors: &["auto", "--jason"], ..NOTHING },
    Shown { name: "devices", errors: &["l4"], ..NOTHING },
    Shown {
        name: "worker",
        run: "--help",
        errors: &[
            "",
            "--token-file none",
            "--token-env NO_TOKEN_HERE",
            "--token-file tiny.problem.json --token-env NO_TOKEN_HERE",
            "--token-file tiny.problem.json --devices many",
        ],
        ..NOTHING
    },
    Shown { name: "completions", run: "fish", errors: &["", "cmd"], ..NOTHING },
    Shown { name: "man", run: "devices", errors: &["nonesuch", "run-one"], ..NOTHING },
    // The program itself.
    Shown { name: "", run: "--help", errors: &["", "frob", "--frob"], ..NOTHING },
];

/// `solver  auto, 0.12 s`.
pub fn solver_seconds(text: &str) -> String {
    seconds_after("solver", text)
}

/// `method  joint, 4 pipelines tried, 0.12 s`.
fn method_seconds(text: &str) -> String {
    seconds_after("method", text)
}

/// The seconds that end the line of a label taken out.
fn seconds_after(label: &str, text: &str) -> String {
    let line = |line: &str| match line.strip_prefix(label) {
        Some(_) => format!("{} [seconds] s", line.rsplitn(3, ' ').last().unwrap()),
        None => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// `html  out.html (57.99 KiB)`: that the page's code grew is no matter of the table's.
fn file_sizes(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(" (") {
        Some((file, size)) if size.ends_with("B)") => file.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn last_column(text: &str) -> String {
    let Some((head, rows)) = text.split_once("\n\n") else { return text.to_owned() };
    let rows: Vec<&str> = rows.lines().map(without_seconds).collect();
    format!("{head}\n\n{}", rows.join("\n"))
}

/// Numbers and units of all but the first paragraph.
fn numbers_below_the_head(text: &str) -> String {
    let Some((head, rows)) = text.split_once("\n\n") else { return text.to_owned() };
    let numeric = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let unit = |word: &str| ["ns", "us", "ms", "s", "B", "KiB", "MiB"].contains(&word);
    let mut lines: Vec<String> = Vec::new();
    for row in rows.lines() {
        let mut words = row.split_whitespace();
        // The variant stands first.
        let mut kept = vec![words.next().unwrap_or_default()];
        kept.extend(words.filter(|word| !unit(word)).map(|word| if numeric(word) { "#" } else { word }));
        lines.push(kept.join(" "));
    }
    format!("{head}\n\n{}", lines.join("\n"))
}

/// JSON over several lines, with what depends on the machine masked wherever it stands.
fn legible(line: &str, clocked: &[&str]) -> String {
    fn mask(value: &mut Value, clocked: &[&str]) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    match clocked.contains(&key.as_str()) && value.is_number() {
                        true => *value = "[measured]".into(),
                        false => mask(value, clocked),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| mask(value, clocked)),
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    mask(&mut value, clocked);
    serde_json::to_string_pretty(&value).unwrap()
}

/// The files that the arguments above name.
fn fill(dir: &Path) {
    let put = |name: &str, content: &[u8]| std::fs::write(dir.join(name), content).unwrap();
    for name in ["tiny", "yard"] {
        let name = format!("{name}.problem.json");
        put(&name, &std::fs::read(format!("tests/data/{name}")).unwrap());
    }
    let tiny = std::fs::read_to_string("tests/data/tiny.problem.json").unwrap();
    put("newer.problem.json", &std::fs::read("tests/data/versions/v3.problem.json").unwrap());
    put("other.profile.json", &std::fs::read("tests/data/versions/v1.profile.json").unwrap());
    put("wrong.problem.json", tiny.replace("\"inputs\": [0, 8]", "\"inputs\": [0, 88]").as_bytes());
    let packed = zstd::encode_all(tiny.as_bytes(), 3).unwrap();
    put("cut-off.problem.json.zst", &packed[..packed.len() / 2]);
    put("garbage.json", b"{\"budget\": 1}\n[]");

    let plan = std::fs::read_to_string(by_hand(dir)).unwrap();
    put("tight.plan.json", plan.as_bytes());
    put("broken.plan.json", plan.replacen("{\"drop\":2}", "{\"drop\":0}", 1).as_bytes());
    put("stale.plan.json", plan.replacen("10244", "10243", 1).as_bytes());
    let roomy = plimsoll(&["plan", "tiny.problem.json", "-b", "100%", "-s", "keep-all", "-o", "roomy.plan.json"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(roomy.status.success());

    let grid = "kind = \"plan\"\nabout = \"Of a test.\"\nproblems = [\"tiny.problem.json\"]\nsolvers = [\"auto\"]\n\
        budgets = [\"100%\", \"50%\"]\ntime_limit = 5\n";
    put("grid.toml", grid.as_bytes());
    put("wrong.toml", grid.replace("budgets", "budgts").as_bytes());
}

/// Exit code, standard output and standard error of a run in a folder.
fn outcome(dir: &Path, name: &str, args: &str) -> (Option<i32>, String, String) {
    let words: Vec<&str> = name.split_whitespace().chain(args.split_whitespace()).collect();
    let mut command = plimsoll(&words);
    command.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_command_is_shown() {
    let help = succeed(&["--help"]);
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let there_are: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(there_are.len() >= 14, "{there_are:?}");
    for name in there_are.into_iter().filter(|name| *name != "help") {
        let shown = SHOWN.iter().find(|shown| shown.name == name);
        let shown = shown.unwrap_or_else(|| panic!("`{name}` has no snapshots: show it in tests/cli/snapshots.rs"));
        assert!(!shown.errors.is_empty(), "`{name}` shows no error");
        assert!(succeed(&[name, "--help"]).contains("Example:"), "the help of `{name}` gives no example");
    }
}

#[test]
fn every_commands_output_and_errors() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for shown in &SHOWN {
        let mut snapshot = String::new();
        let mut add = |args: &str, code: i32, said: &str| {
            let call = format!("plimsoll {} {args}", shown.name);
            let call = call.split_whitespace().collect::<Vec<_>>().join(" ");
            let code = if code == 0 { String::new() } else { format!("\nexit code {code}") };
            writeln!(snapshot, "$ {call}{code}\n{}\n", said.trim_end()).unwrap();
        };
        let run = |args: &str, want: i32| {
            let (code, out, err) = outcome(dir.path(), shown.name, args);
            let call = format!("{} {args}: {out}{err}", shown.name);
            assert_eq!(code, Some(want), "{call}");
            assert!(!err.contains("panicked"), "{call}");
            // People's output and JSON on one side, errors on the other.
            assert_eq!(
                (out.is_empty(), err.is_empty()),
                if want == 1 { (true, false) } else { (out.is_empty(), !out.is_empty()) },
                "{call}"
            );
            out + &err
        };
        let json = |said: &str| said.lines().map(|line| legible(line, shown.clocked)).collect::<Vec<_>>().join("\n");
        add(shown.run, 0, &(shown.masked)(&run(shown.run, 0)));
        let has_json = !shown.name.is_empty() && succeed(&[shown.name, "--help"]).contains("  --json");
        if has_json {
            let args = format!("{} --json", shown.run);
            add(&args, 0, &json(&run(&args, 0)));
        }
        for args in shown.without_plan {
            let said = run(args, 2);
            add(args, 2, &if args.contains("--json") { json(&said) } else { (shown.masked)(&said) });
        }
        shown.errors.iter().for_each(|args| add(args, 1, &run(args, 1)));
        let name = if shown.name.is_empty() { "plimsoll" } else { shown.name };
        insta::assert_snapshot!(name, snapshot);
    }
}
