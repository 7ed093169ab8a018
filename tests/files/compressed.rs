//! Files compressed with Zstandard are as good as plain ones, for everything that reads or writes a
//! file.

use std::path::Path;

use plimsoll::cost::{DeviceSpec, OpCost, Problem, Profile};
use plimsoll::plan::{Lowering, Plan, Predicted, Status, lower, simulate};
use plimsoll::{Bytes, Nanos};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Saved plain and compressed, twice each: the same bytes each time, and the same text.
fn saved(dir: &Path, name: &str, save: impl Fn(&Path)) -> (std::path::PathBuf, std::path::PathBuf) {
    let (plain, packed) = (dir.join(format!("{name}.json")), dir.join(format!("{name}.json.zst")));
    for path in [&plain, &packed] {
        save(path);
        let bytes = std::fs::read(path).unwrap();
        save(path);
        assert_eq!(bytes, std::fs::read(path).unwrap(), "{name}");
    }
    let (text, bytes) = (std::fs::read(&plain).unwrap(), std::fs::read(&packed).unwrap());
    assert!(text.starts_with(b"{") && bytes.starts_with(&MAGIC), "{name}");
    assert_eq!(zstd::decode_all(&*bytes).unwrap(), text, "{name}");
    (plain, packed)
}

#[test]
fn everything_is_written_and_read_compressed_too() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();

    let problem = Problem::load("tests/data/gpt-4x256-b8.problem.json").unwrap();
    let (plain, packed) = saved(dir, "gpt.problem", |path| problem.save(path).unwrap());
    assert_eq!((Problem::load(&plain).unwrap(), Problem::load(&packed).unwrap()), (problem.clone(), problem.clone()));
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert!(length(&packed) * 8 < length(&plain), "{} of {}", length(&packed), length(&plain));
    // Told by what it is, not by what it is called; from a stream too.
    let renamed = dir.join("renamed.json");
    std::fs::copy(&packed, &renamed).unwrap();
    assert_eq!(Problem::load(&renamed).unwrap(), problem);
    for path in [&plain, &packed] {
        let stream = std::fs::File::open(path).unwrap();
        assert_eq!(Problem::from_reader(stream, "<stdin>").unwrap(), problem);
    }

    let steps = lower(&problem.graph, &problem.graph.ops().keys().collect::<Vec<_>>(), Lowering::default());
    let timeline = simulate(&problem, &steps).unwrap();
    let predicted = Predicted {
        peak: timeline.peak,
        time: timeline.time,
        baseline_peak: timeline.peak,
        baseline_time: timeline.time,
        overhead: 0.0,
        lower_bound: 0.0,
        status: Status::Feasible,
    };
    let plan = Plan::new(&problem.graph, timeline.peak, "by hand", steps, predicted);
    let (plain, packed) = saved(dir, "gpt.plan", |path| plan.save(path).unwrap());
    assert_eq!((Plan::load(plain).unwrap(), Plan::load(&packed).unwrap()), (plan.clone(), plan.clone()));
    assert_eq!(Plan::from_reader(std::fs::File::open(packed).unwrap(), "<stdin>").unwrap(), plan);

    let device = DeviceSpec::find("l4").unwrap();
    let (plain, packed) = saved(dir, "l4.device", |path| device.save(path).unwrap());
    assert_eq!((DeviceSpec::load(plain).unwrap(), DeviceSpec::load(packed).unwrap()), (device.clone(), device));

    let mut profile = Profile::new("a device");
    for k in [3, 1, 2] {
        profile.insert(format!("Op:{k}"), OpCost { time: Nanos(k), sizes: vec![Bytes(k)], ..OpCost::default() });
    }
    let (plain, packed) = saved(dir, "a.profile", |path| profile.save(path).unwrap());
    assert_eq!((Profile::load(plain).unwrap(), Profile::load(packed).unwrap()), (profile.clone(), profile));
    // Nothing half written is left.
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 9);
}

/// Keys sorted, as other programs write them, put the version last; frames may follow one another.
#[test]
fn what_other_programs_write_is_read() {
    let problem = Problem::load("tests/data/gpt-4x256-b8.problem.json").unwrap();
    let sorted: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
    let text = sorted.to_string();
    assert!(text.find("\"version\"").unwrap() > 64 << 10);
    let (first, second) = text.as_bytes().split_at(text.len() / 3);
    let frames = [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 19).unwrap()].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sorted.problem.json");
    for bytes in [text.as_bytes(), &frames] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Problem::load(&path).unwrap(), problem);
        assert_eq!(Problem::from_reader(bytes, "<stdin>").unwrap(), problem);
    }
    assert_eq!(Problem::from_json(&text, "sorted").unwrap(), problem);
}
