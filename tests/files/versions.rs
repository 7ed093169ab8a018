//! The rules of versions (DESIGN.md) on files of past and of future versions, which lie in
//! `tests/data/versions` as they were written.

use plimsoll::cost::{DeviceSpec, Problem, Profile};
use plimsoll::plan::Plan;
use plimsoll::{Bytes, Error, Nanos};

use super::fault;

const DATA: &str = "tests/data/versions";

/// Read as what its name says it is; what is written of it in turn.
fn read(path: &str) -> Result<String, Error> {
    let name = path.trim_end_matches(".zst");
    match name.trim_end_matches(".json").rsplit('.').next().unwrap() {
        "problem" => Problem::load(path).map(|it| it.to_json()),
        "plan" => Plan::load(path).map(|it| it.to_json()),
        "device" => DeviceSpec::load(path).map(|it| it.to_json()),
        "profile" => Profile::load(path).map(|it| {
            let file = tempfile::NamedTempFile::new().unwrap();
            it.save(file.path()).unwrap();
            std::fs::read_to_string(file.path()).unwrap()
        }),
        other => panic!("{other} is no kind of file"),
    }
}

/// The files of a directory, by whether they should be read.
fn files() -> (Vec<String>, Vec<String>) {
    let names = std::fs::read_dir(DATA).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.into_iter().map(|name| format!("{DATA}/{name}")).partition(|path| path.contains("/v1."))
}

#[test]
fn past_versions_are_read_and_written_as_the_newest() {
    let (past, _) = files();
    assert_eq!(past.len(), 4, "one of each kind: {past:?}");
    for path in past {
        let text = read(&path).unwrap_or_else(|error| panic!("{error}"));
        let newest = match () {
            () if path.contains("profile") => 3,
            () if path.contains("problem") => 2,
            () => 1,
        };
        assert!(text.contains(&format!("\"version\":{newest},")), "{path}: {text}");
        let again = tempfile::tempdir().unwrap();
        let again = again.path().join(path.rsplit('/').next().unwrap());
        std::fs::write(&again, &text).unwrap();
        assert_eq!(read(again.to_str().unwrap()).unwrap(), text, "{path}");
    }
    // What is not in them has its default.
    let problem = Problem::load(format!("{DATA}/v1.problem.json")).unwrap();
    assert!(problem.costs.workspace.values().all(|&w| w == Bytes::ZERO) && problem.device == Default::default());
    assert!(!problem.has_loads());
    plimsoll::check::check(&problem, &Plan::load(format!("{DATA}/v1.plan.json")).unwrap()).unwrap();
    let profile = Profile::load(format!("{DATA}/v1.profile.json")).unwrap();
    let gelu = profile.get("Activation.Gelu:e0c98ecf1c9de43eb2a0157968d62469").unwrap();
    assert_eq!((profile.link, profile.pace, profile.len(), gelu.time), (None, None, 2, Nanos(34_569_127)));
}

#[test]
fn future_versions_are_refused_as_such_whatever_they_hold() {
    let (_, future) = files();
    assert_eq!(future.len(), 4, "one of each kind: {future:?}");
    let mut said: Vec<String> = Vec::new();
    for path in &future {
        let error = read(path).unwrap_err();
        assert!(matches!(error, Error::NewerVersion { .. }), "{error}");
        said.push(error.to_string());
        // Nor does it matter where the version stands, or how the file is packed.
        let text = std::fs::read_to_string(path).unwrap();
        let version = text.lines().find(|line| line.contains("\"version\"")).unwrap();
        let filler = " ".repeat(100_000);
        let last =
            text.replacen(version, &filler, 1).replacen("\n}", &format!(",{}\n}}", version.trim_end_matches(',')), 1);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(path.rsplit('/').next().unwrap());
        let packed = dir.path().join(format!("{}.zst", path.rsplit('/').next().unwrap()));
        std::fs::write(&file, &last).unwrap();
        std::fs::write(&packed, zstd::encode_all(last.as_bytes(), 3).unwrap()).unwrap();
        for path in [file, packed] {
            let error = read(path.to_str().unwrap()).unwrap_err();
            assert!(matches!(error, Error::NewerVersion { .. }), "{error}");
        }
        if path.contains("problem") {
            // A stream is read once.
            let error = Problem::from_reader(last.as_bytes(), "<stdin>").unwrap_err();
            assert!(matches!(error, Error::NewerVersion { .. }), "{error}");
        }
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    tests/data/versions/v2.device.json has version 2 of plimsoll.device; this program reads up to 1: upgrade plimsoll
    tests/data/versions/v2.plan.json has version 2 of plimsoll.plan; this program reads up to 1: upgrade plimsoll
    tests/data/versions/v3.problem.json has version 3 of plimsoll.problem; this program reads up to 2: upgrade plimsoll
    tests/data/versions/v4.profile.json has version 4 of plimsoll.profile; this program reads up to 3: upgrade plimsoll
    ");
}

/// A field that its version does not know is a mistake, not a hint: in files of every kind, at every
/// depth.
#[test]
fn unknown_fields_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (kind, before) in [
        ("problem", "\"resident\""),
        ("problem", "\"kind\": \"Sum\""),
        ("problem", "\"bytes\": 4}"),
        ("plan", "\"budget\""),
        ("plan", "\"status\""),
        ("plan", "\"drop\":1"),
        ("device", "\"memory\""),
        ("profile", "\"entries\""),
        ("profile", "\"time\": 670"),
    ] {
        let name = format!("v1.{kind}.json");
        let whole = std::fs::read_to_string(format!("{DATA}/{name}")).unwrap();
        let changed = whole.replacen(before, &format!("\"colour\": \"red\", {before}"), 1);
        assert_ne!(changed, whole, "{before}");
        let path = dir.path().join(&name);
        std::fs::write(&path, changed).unwrap();
        let said = fault(read(path.to_str().unwrap())).replace(dir.path().to_str().unwrap(), "[dir]");
        assert!(said.contains("colour"), "{said}");
        text += &format!("{kind}, before {before}\n    {said}\n");
    }
    insta::assert_snapshot!("unknown_fields", text);
}
