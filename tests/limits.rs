//! Files that are large, that claim to be, or that are made to do harm: memory is bounded, and what is
//! refused is refused with an error that says why.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use plimsoll::cost::{Costs, Problem, Profile};
use plimsoll::entity::{Entity as _, ValueId};
use plimsoll::graph::{GraphBuilder, NewValue, Op};
use plimsoll::plan::Plan;
use plimsoll::{Error, MAX_ENTRIES, MAX_FILE_BYTES, alloc};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// Tests that read the counting allocator run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What something gives, the most bytes it held beyond what was there before, and how long it took.
fn measured<T>(what: impl FnOnce() -> T) -> (T, u64, f64) {
    alloc::reset_peak();
    let (before, start) = (alloc::live().get(), Instant::now());
    let it = what();
    (it, alloc::peak().get() - before, start.elapsed().as_secs_f64())
}

const MIB: u64 = 1 << 20;
const HEAD: &str = r#""format":"plimsoll.problem","version":1"#;

/// A text in a frame of its own, as often as it takes to be ten billion bytes long.
fn bomb(begin: &str, text: &[u8]) -> Vec<u8> {
    let pack = |text: &[u8]| zstd::encode_all(text, 3).unwrap();
    let one = pack(&text.iter().copied().cycle().take(8 << 20).collect::<Vec<_>>());
    let mut all = pack(begin.as_bytes());
    (0..10_000_000_000u64 >> 23).for_each(|_| all.extend(&one));
    all
}

/// Files made to do harm, and how many bytes may be held while they are refused.
fn hostile() -> Vec<(&'static str, Vec<u8>, u64)> {
    let million = |text: &str| text.repeat(1_000_000);
    let with = |body: String| format!("{{{HEAD},{body}}}").into_bytes();
    let packed = |text: &[u8]| zstd::encode_all(text, 3).unwrap();
    let tiny = std::fs::read("tests/data/tiny.problem.json").unwrap();
    let whole = packed(&tiny);
    let flipped = || {
        // What `save` writes has a checksum.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.problem.json.zst");
        Problem::load("tests/data/gpt-4x256-b8.problem.json").unwrap().save(&path).unwrap();
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        bytes
    };
    let frame =
        |descriptor: u8, window: u8, rest: &[u8]| [&[0x28, 0xb5, 0x2f, 0xfd, descriptor, window], rest].concat();
    vec![
        ("deep nesting", with(format!("\"values\":{}", million("["))), MIB),
        ("deep nesting of objects", with(format!("\"values\":[{}", million("{\"dims\":"))), MIB),
        ("deep nesting before the format", format!("{{\"x\":{}", million("[")).into_bytes(), 4 * MIB),
        ("a number of a million digits", with(format!("\"values\":[{{\"bytes\":{}}}]", million("9"))), MIB),
        ("a fraction of a million digits", with(format!("\"values\":[{{\"bytes\":0.{}}}]", million("9"))), 4 * MIB),
        ("a huge exponent", with("\"values\":[{\"bytes\":1e999999999}]".into()), MIB),
        ("a huge version", br#"{"format":"plimsoll.problem","version":18446744073709551615}"#.to_vec(), MIB),
        ("a larger version", br#"{"format":"plimsoll.problem","version":18446744073709551616}"#.to_vec(), MIB),
        ("a format of a million letters", format!("{{\"format\":\"{}\"}}", million("x")).into_bytes(), 8 * MIB),
        ("a key of a million letters", with(format!("\"{}\":1", million("k"))), 8 * MIB),
        (
            "a name of a million letters",
            with(format!(
                "\"values\":[{{\"bytes\":1,\"name\":\"{}\",\"alias_of\":0}}],\"ops\":[],\"resident\":[],\"outputs\":[]",
                million("n")
            )),
            8 * MIB,
        ),
        ("the same key twice", with("\"name\":\"a\",\"name\":\"b\"".into()), MIB),
        ("the same key twice in an op", with("\"ops\":[{\"kind\":\"a\",\"kind\":\"b\"}]".into()), MIB),
        (
            "too many values",
            packed(&with(format!("\"values\":[{}]", vec!["{\"bytes\":0}"; MAX_ENTRIES + 1].join(",")))),
            256 * MIB,
        ),
        ("not text", with("\"name\":\"".into()).into_iter().chain([0xff, 0xfe, b'"']).collect(), MIB),
        ("10 GB of spaces", bomb("", b" "), MIB),
        ("10 GB of a name", bomb(&format!("{{{HEAD},\"name\":\""), b"a"), MAX_FILE_BYTES + 4 * MIB),
        ("10 GB claimed", frame(0xc0, 0x58, &10_000_000_000u64.to_le_bytes()), MIB),
        ("a window of 2 GiB", frame(0x00, 21 << 3, &[1, 0, 0]), MIB),
        ("cut off", whole[..whole.len() / 2].to_vec(), MIB),
        ("cut off in the first bytes", whole[..6].to_vec(), MIB),
        ("a wrong checksum", flipped(), MIB),
        ("something after it", [&whole[..], b"more"].concat(), MIB),
        ("compressed twice", packed(&whole), MIB),
        ("nothing, compressed", packed(b""), MIB),
    ]
}

#[test]
fn hostile_files_are_refused_in_bounded_memory() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile");
    let mut text = String::new();
    for (name, bytes, allowed) in hostile() {
        std::fs::write(&path, &bytes).unwrap();
        let size = bytes.len();
        drop(bytes);
        let (result, peak, seconds) = measured(|| Problem::load(&path));
        println!("{name}: {size} bytes, refused in {seconds:.2} s with {:.1} MiB", peak as f64 / MIB as f64);
        let error = result.expect_err(name).to_string();
        assert!(peak <= allowed, "{name}: {peak} bytes");
        assert!(error.len() < 700, "{name}: a message of {} bytes", error.len());
        let _ = writeln!(text, "{name}\n    {}", error.replace(path.to_str().unwrap(), "hostile"));
    }
    insta::assert_snapshot!("hostile", text);
}

/// What a file holds is of no concern where there is too much of it.
#[test]
fn ten_gigabytes_are_refused_unread() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.problem.json");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(10_000_000_000).unwrap();
    let (result, peak, _) = measured(|| Problem::load(&path));
    assert!(matches!(result, Err(Error::TooLarge { limit: MAX_FILE_BYTES, .. })), "{result:?}");
    assert!(peak < MIB);
    // From a stream no more is read than may be there.
    let (result, peak, _) = measured(|| Problem::from_reader(std::fs::File::open(&path).unwrap(), "<stdin>"));
    assert!(matches!(result, Err(Error::Format { .. })), "{result:?}");
    assert!(peak < MIB, "{peak}");
    let spaces = std::io::repeat(b' ');
    let (result, peak, seconds) = measured(|| Plan::from_reader(spaces, "<stdin>"));
    println!("endless spaces: refused in {seconds:.2} s with {} MiB", peak / MIB);
    assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
    assert!(peak < 2 * MAX_FILE_BYTES, "{peak}");
}

#[test]
fn profiles_hold_each_signature_once() {
    let cost = r#"{"time":1,"workspace":0,"views":[],"inplace":[],"sizes":[],"layouts":[]}"#;
    let text = format!(
        r#"{{"format":"plimsoll.profile","version":2,"device":"d","entries":{{"Op:1":{cost},"Op:2":{cost},"Op:1":{cost}}}}}"#
    );
    let error = Profile::from_json(&text, "p.json").unwrap_err().to_string();
    assert!(error.contains("\"Op:1\" stands in it twice"), "{error}");
    assert_eq!(Profile::from_json(&text.replacen("Op:1", "Op:3", 1), "p.json").unwrap().len(), 3);
}

/// A pipe that nobody writes to would be waited for without end.
#[cfg(unix)]
#[test]
fn named_pipes_are_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe.problem.json");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = Problem::load(&path).unwrap_err().to_string();
    assert!(error.ends_with("it is a named pipe: give it as standard input"), "{error}");
}

/// So many steps of a real model beside one another.
fn copies(of: &Problem, count: usize) -> Problem {
    let mut builder = GraphBuilder::new();
    let mut costs = Costs { time: Default::default(), workspace: Default::default() };
    for copy in 0..count {
        let shift = |v: ValueId| ValueId::from_index(v.index() + copy * of.graph.values().len());
        for (v, value) in of.graph.values().iter() {
            let it = builder.value(NewValue {
                name: format!("{}.{copy}", value.name),
                bytes: value.bytes,
                dims: value.dims.clone(),
                alias_of: value.alias_of.map(shift),
                role: value.role,
            });
            assert_eq!(it, shift(v));
            if value.resident {
                builder.resident(it);
            }
        }
        for (id, op) in of.graph.ops().iter() {
            costs.time.push(of.costs.time[id]);
            costs.workspace.push(of.costs.workspace[id]);
            let [inputs, outputs] = [&op.inputs, &op.outputs].map(|list| list.iter().copied().map(shift).collect());
            builder.op(Op { inputs, outputs, ..op.clone() });
        }
        of.graph.outputs().iter().for_each(|&v| builder.output(shift(v)));
    }
    Problem::new("many steps", builder.finish().unwrap(), costs, of.device.clone()).unwrap()
}

#[test]
fn a_hundred_thousand_ops_are_saved_and_loaded_without_a_second_copy() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (plain, packed) = (dir.path().join("many.problem.json"), dir.path().join("many.problem.json.zst"));
    let step = Problem::load("tests/data/gpt-4x256-b8.problem.json").unwrap();
    let before = alloc::live().get();
    let problem = copies(&step, 105);
    let built = alloc::live().get() - before;
    assert!(problem.graph.ops().len() > 100_000);
    let length = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    for path in [&plain, &packed] {
        let (_, save_peak, save) = measured(|| problem.save(path).unwrap());
        let before = alloc::live().get();
        let (again, load_peak, load) = measured(|| Problem::load(path).unwrap());
        let held = alloc::live().get() - before;
        println!(
            "{} ops, {built} bytes built and {held} bytes loaded: a file of {} bytes saved in {save:.2} s with {save_peak} \
            bytes, loaded in {load:.2} s with {load_peak} bytes",
            problem.graph.ops().len(),
            length(path),
        );
        // A buffer or two; the compressor's own memory, a few MiB, is not counted here.
        assert!(save_peak < MIB, "{save_peak}");
        assert!(load_peak < held + held / 4, "{load_peak} for {held}");
        assert_eq!(again, problem);
    }
    assert!(length(&packed) * 8 < length(&plain));
}

/// More text than can be read again is not written, and nothing is left of it.
#[test]
fn what_could_not_be_read_again_is_not_written() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let mut problem = Problem::load("tests/data/tiny.problem.json").unwrap();
    problem.name = "n".repeat(MAX_FILE_BYTES as usize);
    for name in ["large.problem.json", "large.problem.json.zst"] {
        let error = problem.save(dir.path().join(name)).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    // Where writing fails for another reason, that is said.
    if Path::new("/dev/full").exists() {
        problem.name.truncate(1 << 20);
        assert!(matches!(problem.save("/dev/full").unwrap_err(), Error::Io { .. }));
    }
    std::io::stdout().flush().unwrap();
}
