//! A step as a picture: what each device does over time, and what it holds. Plain SVG, in a page of its own or alone.

use std::fmt::Write as _;
use std::path::Path;

use plimsoll::pipeline::{Action, Event, Run, Schedule};
use plimsoll::{Bytes, Error, Nanos, Result};

use crate::report::markup;

/// Geometry, in pixels.
const WIDTH: f64 = 1160.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 92.0;
const ROW: f64 = 22.0;
const MEMORY: f64 = 26.0;
const GAP: f64 = 10.0;
const HEAD: f64 = 34.0;
/// Actions up to which each is a box of its own that says what it is; of more, boxes are columns of a pixel.
const BOXES: usize = 6000;
const COLUMNS: usize = 1012;
/// Pixels a number takes.
const DIGIT: f64 = 7.0;

const KINDS: [(&str, &str); 5] = [
    ("forward", "f"),
    ("backward, or gradient of the input", "b"),
    ("gradient of the weights", "w"),
    ("computed again", "r"),
    ("update", "u"),
];

const STYLE: &str = "\
:root{color-scheme:light dark}\
svg{--paper:light-dark(#fff,#15181b);--ink:light-dark(#1a1f24,#e6e9ec);--muted:light-dark(#56606a,#a3adb6);\
--rule:light-dark(#d8dce0,#343a40);--line:light-dark(#b3261e,#ff8a80)}\
.paper{fill:var(--paper)}text{fill:var(--ink)}.muted{fill:var(--muted)}.axis{stroke:var(--rule);fill:none}\
.f{fill:#0072b2}.b{fill:#e69f00}.w{fill:#009e73}.r{fill:#8cc9ee}.u{fill:#7b8996}.box{stroke:var(--paper);stroke-width:.6}\
.n{fill:#fff;font-size:10px;text-anchor:middle;pointer-events:none}.b+.n,.r+.n{fill:#1a1f24}\
.held{fill:light-dark(#aab5bf,#54616e)}.limit{stroke:var(--line);stroke-dasharray:4 3;fill:none}";

const PAGE: &str = "\
body{margin:0;background:light-dark(#fbfbfa,#15181b);color:light-dark(#1a1f24,#e6e9ec);\
font:15px/1.45 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Helvetica Neue\",Arial,sans-serif}\
main{max-width:1240px;margin:0 auto;padding:14px 24px}h1{font-size:24px;margin:10px 0 2px}\
.wide{overflow-x:auto;margin-top:18px}svg{display:block;min-width:720px;width:100%;height:auto}p{margin:4px 0}";

/// What a picture of a problem's step is called.
pub fn titled(problem: &str) -> &str {
    if problem.is_empty() { "pipeline" } else { problem }
}

/// Write the picture: a page, or the picture alone where the name ends in `.svg`.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, name: &str, schedule: &Schedule, run: &Run, memory: &[Option<Bytes>]) -> Result<()> {
    let text = match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("svg")) {
        true => svg(name, schedule, run, memory),
        false => page(name, schedule, run, memory),
    };
    let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
    std::fs::write(path, text).map_err(failed)
}

fn summary(schedule: &Schedule, run: &Run) -> String {
    let idle: f64 = run.devices.iter().map(|device| device.idle.get() as f64).sum();
    let bubble = 100.0 * idle / (run.makespan.get().max(1) as f64 * run.devices.len().max(1) as f64);
    let (devices, chunks, microbatches) = (run.devices.len(), schedule.chunks(), schedule.microbatches());
    format!(
        "{}: {devices} devices, {chunks} chunks, {microbatches} microbatches; {} a step, bubble {bubble:.1}%",
        schedule.name(),
        run.makespan
    )
}

pub fn page(name: &str, schedule: &Schedule, run: &Run, memory: &[Option<Bytes>]) -> String {
    let picture = svg(name, schedule, run, memory);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{name}: a pipeline</title>\n\
         <style>{PAGE}</style>\n</head>\n<body>\n<main>\n<h1>{name}</h1>\n<p>{}</p>\n\
         <div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"The step over time\">\n{picture}</div>\n</main>\n\
         </body>\n</html>\n",
        markup(&summary(schedule, run)),
        name = markup(name),
    )
}

/// The picture alone.
pub fn svg(name: &str, schedule: &Schedule, run: &Run, memory: &[Option<Bytes>]) -> String {
    let end = run.makespan.get().max(1) as f64;
    let most = run.devices.iter().map(|device| device.peak).max().unwrap_or_default();
    let limit = memory.iter().flatten().copied().filter(|&limit| limit <= most + most).max();
    let most = most.max(limit.unwrap_or_default()).get().max(1) as f64;
    let few = run.events.iter().map(Vec::len).sum::<usize>() <= BOXES;
    let (mut body, mut y) = (String::new(), HEAD);
    for (d, (device, events)) in run.devices.iter().zip(&run.events).enumerate() {
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">d{d}</text><text class=\"muted\" x=\"{}\" y=\"{}\">{}</text>",
            LEFT - 8.0,
            y + 15.0,
            WIDTH - RIGHT + 8.0,
            y + ROW + MEMORY - 8.0,
            device.peak
        );
        let shown = events.iter().filter(|event| event.action.peer().is_none() && event.end > event.start);
        match few {
            true => shown.for_each(|event| boxed(&mut body, event, end, y)),
            false => columns(&mut body, shown, end, y),
        }
        held(&mut body, &device.memory, end, most, y + ROW + 2.0);
        if let Some(limit) = memory.get(d).copied().flatten().filter(|limit| limit.get() as f64 <= most) {
            let at = y + ROW + 2.0 + MEMORY * (1.0 - limit.get() as f64 / most);
            let _ = writeln!(
                body,
                "<path class=\"limit\" d=\"M{LEFT} {at:.1}H{:.1}\"><title>d{d} has {limit}</title></path>",
                WIDTH - RIGHT
            );
        }
        y += ROW + MEMORY + GAP;
    }
    let mut x = LEFT;
    let shown: Vec<_> = KINDS.iter().filter(|(_, class)| body.contains(&format!("class=\"{class}"))).collect();
    for (kind, class) in shown {
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{x}\" y=\"8\" width=\"12\" height=\"12\"/><text x=\"{}\" y=\"18\">{kind}</text>",
            x + 17.0
        );
        x += 32.0 + DIGIT * kind.len() as f64;
    }
    let _ = writeln!(
        body,
        "<text class=\"muted\" x=\"{x}\" y=\"18\">below: bytes held; at the end of the line the peak</text>"
    );
    let _ = writeln!(
        body,
        "<path class=\"axis\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"muted\" x=\"{LEFT}\" y=\"{1:.1}\">0</text>\
         <text class=\"muted\" x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"end\">{2}</text>",
        WIDTH - RIGHT,
        y + 15.0,
        run.makespan
    );
    let height = y + 24.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n<title>{}: {}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n",
        markup(name),
        markup(&summary(schedule, run)),
    )
}

fn class_of(action: Action) -> &'static str {
    match action {
        Action::Forward(..) => "f",
        Action::Recompute(..) => "r",
        Action::WeightGradient(..) => "w",
        Action::Update(_) => "u",
        _ => "b",
    }
}

fn across(time: Nanos, end: f64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * time.get() as f64 / end
}

/// One action, with the number of its microbatch where there is room, and what it is where one points at it.
fn boxed(body: &mut String, event: &Event, end: f64, y: f64) {
    let (from, to) = (across(event.start, end), across(event.end, end));
    let class = class_of(event.action);
    let _ = write!(
        body,
        "<rect class=\"{class} box\" x=\"{from:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"{ROW}\"><title>{}, {} to {}</title></rect>",
        to - from,
        event.action,
        event.start,
        event.end
    );
    let number = event.action.microbatch().map(|m| m.0.to_string()).unwrap_or_default();
    if !number.is_empty() && to - from > DIGIT * number.len() as f64 + 2.0 {
        let _ = write!(body, "<text class=\"n\" x=\"{:.2}\" y=\"{}\">{number}</text>", (from + to) / 2.0, y + 15.0);
    }
    body.push('\n');
}

/// A path for each kind of action, a column where that kind takes most of the time.
fn columns<'a>(body: &mut String, events: impl Iterator<Item = &'a Event>, end: f64, y: f64) {
    let mut shares = vec![[0f64; KINDS.len()]; COLUMNS];
    let wide = end / COLUMNS as f64;
    for event in events {
        let class = class_of(event.action);
        let kind = KINDS.iter().position(|(_, known)| *known == class).unwrap_or(0);
        let (start, stop) = (event.start.get() as f64 / wide, event.end.get() as f64 / wide);
        let last = (stop as usize).min(COLUMNS - 1);
        for (column, share) in shares.iter_mut().enumerate().take(last + 1).skip(start as usize) {
            share[kind] += (stop.min(column as f64 + 1.0) - start.max(column as f64)).max(0.0);
        }
    }
    let step = (WIDTH - LEFT - RIGHT) / COLUMNS as f64;
    for (kind, (_, class)) in KINDS.iter().enumerate() {
        let mut path = String::new();
        let mut column = 0;
        let wins = |share: &[f64; KINDS.len()]| {
            let idle = 1.0 - share.iter().sum::<f64>();
            share[kind] > idle
                && share.iter().enumerate().all(|(other, &it)| it < share[kind] || (other >= kind && it <= share[kind]))
        };
        while column < COLUMNS {
            let run = shares[column..].iter().take_while(|share| wins(share)).count();
            if run > 0 {
                let _ = write!(path, "M{:.1} {y}h{:.1}v{ROW}h-{1:.1}z", LEFT + step * column as f64, step * run as f64);
            }
            column += run.max(1);
        }
        if !path.is_empty() {
            let _ = writeln!(body, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }
}

/// What a device holds, from each instant on: in each column the most.
fn held(body: &mut String, levels: &[(Nanos, Bytes)], end: f64, most: f64, y: f64) {
    let step = (WIDTH - LEFT - RIGHT) / COLUMNS as f64;
    let mut path = format!("M{LEFT} {:.1}", y + MEMORY);
    let (mut next, mut now) = (0, Bytes::ZERO);
    let mut before = None;
    for column in 0..COLUMNS {
        let until = end * (column + 1) as f64 / COLUMNS as f64;
        let mut peak = now;
        while let Some(&(at, bytes)) = levels.get(next).filter(|level| (level.0.get() as f64) < until) {
            // What holds from the column's own begin on is all there is of it.
            if at.get() as f64 <= end * column as f64 / COLUMNS as f64 {
                peak = Bytes::ZERO;
            }
            (now, peak, next) = (bytes, peak.max(bytes), next + 1);
        }
        if before != Some(peak) {
            let _ = write!(
                path,
                "H{:.1}V{:.1}",
                LEFT + step * column as f64,
                y + MEMORY * (1.0 - peak.get() as f64 / most)
            );
            before = Some(peak);
        }
    }
    let _ = writeln!(body, "<path class=\"held\" d=\"{path}H{:.1}V{:.1}z\"/>", WIDTH - RIGHT, y + MEMORY);
}
