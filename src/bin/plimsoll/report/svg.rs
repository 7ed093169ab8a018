//! The pictures alone, as plain SVG: memory over time and the lanes of each plan, one below the
//! other. Everything is drawn by columns of a pixel or so, whatever the size of the plan.

use std::fmt::Write as _;

use plimsoll::cost::Problem;
use plimsoll::graph::Phase;
use plimsoll::plan::{Lane, Span, Step};
use plimsoll::{Bytes, Nanos};

use super::category::{Categories, Category};
use super::picture::Picture;
use super::text::markup;

/// Geometry, in pixels.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 16.0;
const MEMORY: f64 = 240.0;
const ROW: f64 = 16.0;
/// Columns that pictures are drawn in.
const COLUMNS: usize = 860;

/// One colour a category, told apart by the colour-blind (after Okabe and Ito).
const COLOURS: [&str; Category::COUNT] =
    ["#4d5b69", "#7b8996", "#aab5bf", "#cc79a7", "#009e73", "#0072b2", "#8cc9ee", "#e69f00", "#d55e00"];

/// All pictures in one file.
pub fn draw(problem: &Problem, categories: &Categories, pictures: &[Picture]) -> String {
    let end = pictures.iter().map(Picture::end).max().unwrap_or_default();
    // One scale for all, of time and of bytes, so that heights and lengths can be compared.
    let most = pictures.iter().map(most).max().unwrap_or_default().get().max(1) as f64 * 1.08;
    let (mut body, mut y) = (String::new(), 8.0);
    for picture in pictures {
        y = panel(&mut body, problem, picture, (end, most), y);
    }
    y = legend(&mut body, categories, pictures, y);
    let name = if problem.name.is_empty() { "plan".to_owned() } else { markup(&problem.name) };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" role=\"img\">\n<title>{name}: memory over time</title>\n\
         <defs><pattern id=\"again\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><path d=\"M0 0V5\" stroke=\"#00568a\" stroke-width=\"2\"/></pattern></defs>\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#fff\"/>\n{body}</svg>\n"
    )
}

/// The most bytes a picture shows: the budget, unless it is far above the peak.
fn most(picture: &Picture) -> Bytes {
    let peak = picture.timeline.peak;
    picture.budget().unwrap_or_default().min(peak + peak).max(peak)
}

/// One plan: its title, memory, lanes and axis. Returns where the next may begin.
fn panel(body: &mut String, problem: &Problem, picture: &Picture, (end, most): (Nanos, f64), top: f64) -> f64 {
    let timeline = &picture.timeline;
    let label = markup(&picture.label);
    let budget = picture.budget();
    let against = budget.map_or(String::new(), |budget| format!(" of a budget of {budget}"));
    let title = format!("peak {}{against}, time {}", timeline.peak, timeline.time);
    let _ = writeln!(
        body,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#1b1f24\"><tspan font-weight=\"600\">{label}</tspan> · {title}</text>",
        top + 14.0
    );
    let top = top + 28.0;
    let scale = Scale { bottom: top + MEMORY, top: most };
    memory(body, picture, end, &scale, budget);
    let mut y = top + MEMORY + 10.0;
    let mut lane = |body: &mut String, name: &str, fill: &str, hatched: bool, keep: &dyn Fn(&Span) -> bool| {
        let path = busy(&timeline.spans, end, y, keep);
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#5b6470\">{name}</text>",
            LEFT - 8.0,
            y + 12.0
        );
        filled(body, &path, fill, hatched);
        y += ROW + 3.0;
    };
    let phase = |span: &Span| match &picture.steps[span.step] {
        Step::Compute { op, .. } => Some(problem.graph.ops()[*op].phase),
        _ => None,
    };
    let first = |span: &Span| span.lane == Lane::Compute && !picture.again[span.step];
    lane(body, "forward", "#0072b2", false, &|s| first(s) && matches!(phase(s), Some(Phase::Forward | Phase::Loss)));
    lane(body, "backward", "#e69f00", false, &|s| {
        first(s) && matches!(phase(s), Some(Phase::Backward | Phase::Update))
    });
    lane(body, "again", "#8cc9ee", true, &|s| s.lane == Lane::Compute && picture.again[s.step]);
    for (name, kind) in [("to host", Lane::DeviceToHost), ("to device", Lane::HostToDevice)] {
        if timeline.spans.iter().any(|span| span.lane == kind) {
            lane(body, name, "#6f55a3", false, &|s| s.lane == kind);
        }
    }
    let _ = writeln!(
        body,
        "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#9aa3ab\"/><text x=\"{LEFT}\" y=\"{:.1}\" fill=\"#5b6470\">0</text>\
         <text x=\"{:.1}\" y=\"{1:.1}\" text-anchor=\"end\" fill=\"#5b6470\">{end}</text>",
        WIDTH - RIGHT,
        y + 15.0,
        WIDTH - RIGHT
    );
    y + 32.0
}

/// From bytes to a height.
struct Scale {
    bottom: f64,
    top: f64,
}

impl Scale {
    fn y(&self, bytes: f64) -> f64 {
        self.bottom - bytes / self.top * MEMORY
    }
}

fn x(fraction: f64) -> f64 {
    LEFT + fraction * (WIDTH - LEFT - RIGHT)
}

fn memory(body: &mut String, picture: &Picture, end: Nanos, scale: &Scale, budget: Option<Bytes>) {
    let columns = picture.columns(end, COLUMNS);
    let mut sums = vec![0.0; columns.len()];
    for category in Category::ALL {
        let k = category.index();
        if columns.iter().all(|level| level[k] == 0) {
            continue;
        }
        let low: Vec<f64> = sums.iter().map(|&sum| scale.y(sum)).collect();
        sums.iter_mut().zip(&columns).for_each(|(sum, level)| *sum += level[k] as f64);
        let high: Vec<f64> = sums.iter().map(|&sum| scale.y(sum)).collect();
        filled(body, &band(&low, &high), COLOURS[k], category == Category::Recomputed);
    }
    let (line, what) = match budget.filter(|&budget| budget.get() as f64 <= scale.top) {
        Some(budget) => (budget, "budget"),
        None => (picture.timeline.peak, "peak"),
    };
    let at = scale.y(line.get() as f64);
    for bytes in ticks(scale.top) {
        let y = scale.y(bytes);
        if (y - at).abs() > 14.0 {
            let label = if bytes > 0.0 { Bytes(bytes as u64).to_string() } else { "0".to_owned() };
            let _ = writeln!(body, "<path d=\"M{:.1} {y:.1}H{LEFT:.1}\" stroke=\"#9aa3ab\"/>", LEFT - 4.0);
            axis_label(body, y, &label, "#5b6470");
        }
    }
    let right = WIDTH - RIGHT;
    let (width, dashes) = if what == "budget" { (2, "") } else { (1, " stroke-dasharray=\"4 3\"") };
    let _ = writeln!(
        body,
        "<path d=\"M{LEFT:.1} {at:.1}H{right:.1}\" stroke=\"#1b1f24\" stroke-width=\"{width}\"{dashes}/>\
         <text x=\"{right:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#1b1f24\">{what}</text>",
        at - 5.0
    );
    axis_label(body, at, &line.to_string(), "#1b1f24");
}

fn axis_label(body: &mut String, y: f64, label: &str, fill: &str) {
    let (x, y) = (LEFT - 8.0, y + 4.0);
    let _ = writeln!(body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"{fill}\">{label}</text>");
}

/// Round numbers of bytes from 0 to `top`: at most five steps of 1, 2 or 5 in a unit of powers of 1024.
fn ticks(top: f64) -> Vec<f64> {
    let unit = 1024f64.powi((top.max(1.0).ln() / 1024f64.ln()) as i32);
    let power = unit * 10f64.powf((top / unit / 5.0).max(1e-9).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|step| top / step <= 5.0).unwrap_or(top);
    (0..=5).map(|k| f64::from(k) * step).take_while(|&bytes| bytes <= top).collect()
}

/// A path filled with a colour, and hatched where it stands for what is done again.
fn filled(body: &mut String, path: &str, fill: &str, hatched: bool) {
    let _ = writeln!(body, "<path d=\"{path}\" fill=\"{fill}\"/>");
    if hatched {
        let _ = writeln!(body, "<path d=\"{path}\" fill=\"url(#again)\"/>");
    }
}

/// What lies between two stairs of a height for each column.
fn band(low: &[f64], high: &[f64]) -> String {
    let n = high.len();
    let at = |column: usize| x(column as f64 / n as f64);
    let mut path = format!("M{LEFT:.1} {:.1}", high[0]);
    for c in 1..n {
        if high[c] != high[c - 1] {
            let _ = write!(path, "H{:.1}V{:.1}", at(c), high[c]);
        }
    }
    let _ = write!(path, "H{:.1}V{:.1}", at(n), low[n - 1]);
    for c in (1..n).rev() {
        if low[c - 1] != low[c] {
            let _ = write!(path, "H{:.1}V{:.1}", at(c), low[c - 1]);
        }
    }
    let _ = write!(path, "H{LEFT:.1}Z");
    path
}

/// A lane: each column is filled as far as the lane is busy in it, though never so little that it
/// cannot be seen.
fn busy(spans: &[Span], end: Nanos, y: f64, keep: &dyn Fn(&Span) -> bool) -> String {
    let mut shares = vec![0.0f64; COLUMNS];
    let column = |t: Nanos| t.get() as f64 / end.get().max(1) as f64 * COLUMNS as f64;
    let runs: Vec<(f64, f64)> = spans
        .iter()
        .filter(|span| span.end > span.start && keep(span))
        .map(|span| (column(span.start), column(span.end)))
        .collect();
    for (k, &(from, to)) in runs.iter().enumerate() {
        // An end next to which the lane rests is drawn sharp.
        let rests = |gap: f64| to - from > 3.0 && gap > 1.0;
        let before = k.checked_sub(1).map_or(f64::MIN, |k| runs[k].1);
        let after = runs.get(k + 1).map_or(f64::MAX, |run| run.0);
        let from = if rests(from - before) { from.round() } else { from };
        let to = if rests(after - to) { to.round() } else { to };
        let first = (from as usize).min(COLUMNS - 1);
        let last = (to.ceil() as usize).clamp(first + 1, COLUMNS);
        for (c, share) in (first..last).zip(&mut shares[first..last]) {
            let part = to.min(c as f64 + 1.0) - from.max(c as f64);
            *share = (*share + part).clamp(0.15, 1.0);
        }
    }
    let high: Vec<f64> = shares.iter().map(|&share| y + ROW - ROW * if share > 0.97 { 1.0 } else { share }).collect();
    band(&vec![y + ROW; COLUMNS], &high)
}

fn legend(body: &mut String, categories: &Categories, pictures: &[Picture], top: f64) -> f64 {
    let used = |category: &Category| {
        pictures.iter().any(|picture| picture.levels.iter().any(|level| level[category.index()] > 0))
    };
    let (mut at, mut y) = (LEFT, top);
    for category in Category::ALL.into_iter().filter(used) {
        let name = categories.name(category);
        let wide = 30.0 + name.len() as f64 * 6.6;
        if at + wide > WIDTH {
            (at, y) = (LEFT, y + 20.0);
        }
        let mut swatch = |fill: &str| {
            let _ = write!(body, "<rect x=\"{at:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>");
        };
        swatch(COLOURS[category.index()]);
        if category == Category::Recomputed {
            swatch("url(#again)");
        }
        let _ = writeln!(body, "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#1b1f24\">{name}</text>", at + 17.0, y + 10.5);
        at += wide;
    }
    y + 24.0
}
