//! Results as a picture: what depends on what, a panel for each thing that is looked at.
//!
//! | declared | across | up | a line for each |
//! |---|---|---|---|
//! | plans within several budgets | budget as a share of the peak with everything kept | overhead | solver |
//! | plans of several sizes within one budget | ops | seconds, overhead | solver |
//! | measurements | model | planned over measured peak, predicted over measured time | budget |

use std::fmt::Write as _;

use super::declare::Experiment;
use super::grid::Kind;
use super::results::Record;
use crate::report::markup;

/// Geometry, in pixels.
const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 44.0;
/// Room for the names of what stands across, which are written at an angle.
const NAMES: f64 = 40.0;
const KEY_ROW: f64 = 18.0;
const KEY_COLUMN: f64 = 160.0;

/// Colours told apart by the colour-blind (after Okabe and Ito), used again with dashes.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d5b69"];
const DASHES: [&str; 3] = ["none", "5 3", "1.5 3"];

/// One picture in the picture.
struct Panel {
    title: String,
    across: Axis,
    up: Axis,
    /// Points of each line, by the line's place in the key.
    lines: Vec<Vec<(f64, f64)>>,
    /// Whether points of a line follow one another.
    joined: bool,
}

/// How numbers are laid out and written.
struct Axis {
    label: &'static str,
    scale: Scale,
}

enum Scale {
    /// From nought, or from below it.
    Even { unit: &'static str },
    /// By factors of ten.
    Tens,
    /// Shares of a whole that are near one another.
    Around { whole: f64 },
    /// Names, each at its place.
    Names(Vec<String>),
}

/// The picture of an experiment; none where no cell has anything to draw.
pub fn draw(name: &str, experiment: &Experiment, rows: &[&Record]) -> Option<String> {
    let (key, panels) = match experiment.kind {
        Kind::Measure => measured(rows),
        Kind::Plan if several(rows, |row| row.cell.budget.clone()) => budgets(rows),
        Kind::Plan => sizes(rows),
    };
    let panels: Vec<&Panel> = panels.iter().filter(|panel| panel.lines.iter().any(|line| !line.is_empty())).collect();
    if panels.is_empty() {
        return None;
    }
    let columns = panels.len().min(2);
    let tall = panels.iter().any(|panel| matches!(panel.across.scale, Scale::Names(_)));
    let height = HEIGHT + if tall { NAMES } else { 0.0 };
    let mut body = String::new();
    for (place, panel) in panels.iter().enumerate() {
        let (x, y) = ((place % columns) as f64 * WIDTH, (place / columns) as f64 * height);
        let _ = writeln!(body, "<g transform=\"translate({x} {y})\">\n{}</g>", panel.draw());
    }
    let width = columns as f64 * WIDTH;
    let per_row = ((width - LEFT) / KEY_COLUMN).max(1.0) as usize;
    let key_top = panels.len().div_ceil(columns) as f64 * height + 8.0;
    for (place, name) in key.iter().enumerate() {
        let (x, y) = (LEFT + (place % per_row) as f64 * KEY_COLUMN, key_top + (place / per_row) as f64 * KEY_ROW);
        let _ = writeln!(
            body,
            "<path d=\"M{x} {0}h22\" {1}/><circle cx=\"{2}\" cy=\"{0}\" r=\"3\" fill=\"{3}\"/>\
             <text x=\"{4}\" y=\"{5}\">{6}</text>",
            y + 6.0,
            stroke(place),
            x + 11.0,
            COLOURS[place % COLOURS.len()],
            x + 28.0,
            y + 10.0,
            markup(name)
        );
    }
    let full = key_top + key.len().div_ceil(per_row) as f64 * KEY_ROW + 8.0;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {full}\" width=\"{width}\" height=\"{full}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#1b1f24\" role=\"img\">\n<title>{}</title>\n\
         <rect width=\"{width}\" height=\"{full}\" fill=\"#fff\"/>\n{body}</svg>\n",
        markup(name)
    ))
}

fn stroke(line: usize) -> String {
    let (colour, dash) = (COLOURS[line % COLOURS.len()], DASHES[line / COLOURS.len() % DASHES.len()]);
    format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-dasharray=\"{dash}\"")
}

/// What `of` says of the rows, each once, in the order of the rows.
fn distinct(rows: &[&Record], of: impl Fn(&Record) -> String) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in rows.iter().map(|row| of(row)) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn several(rows: &[&Record], of: impl Fn(&Record) -> String) -> bool {
    distinct(rows, of).len() > 1
}

/// The problem, with the roofline where there are several.
fn problem(rows: &[&Record], row: &Record) -> String {
    match row.cell.roofline().filter(|_| several(rows, |row| format!("{:?}", row.cell.roofline()))) {
        Some(roofline) => format!("{}, {roofline}", row.cell.case_name()),
        None => row.cell.case_name(),
    }
}

/// A line for each name in `key`, of the points that `point` makes of its rows, from left to right.
fn lines(
    rows: &[&Record],
    key: &[String],
    of: impl Fn(&Record) -> String,
    point: impl Fn(&Record) -> Option<(f64, f64)>,
) -> Vec<Vec<(f64, f64)>> {
    let line = |name: &String| {
        let mut points: Vec<(f64, f64)> =
            rows.iter().filter(|row| of(row) == *name).filter_map(|row| point(row)).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        points
    };
    key.iter().map(line).collect()
}

fn share(x: Option<u64>, of: Option<u64>) -> Option<f64> {
    x.zip(of).filter(|&(_, of)| of > 0).map(|(x, of)| x as f64 / of as f64)
}

fn solver(row: &Record) -> String {
    row.cell.solver.clone()
}

/// Overhead by budget, a panel for each problem.
fn budgets(rows: &[&Record]) -> (Vec<String>, Vec<Panel>) {
    let key = distinct(rows, solver);
    let panel = |name: &String| {
        let of: Vec<&Record> = rows.iter().copied().filter(|row| problem(rows, row) == *name).collect();
        let point = |row: &Record| {
            let budget = share(row.outcome.budget, row.outcome.baseline_peak)?;
            Some((budget * 100.0, row.outcome.overhead? * 100.0))
        };
        Panel {
            title: name.clone(),
            across: Axis { label: "budget, % of the peak with everything kept", scale: Scale::Even { unit: "" } },
            up: Axis { label: "overhead", scale: Scale::Even { unit: "%" } },
            lines: lines(&of, &key, solver, point),
            joined: true,
        }
    };
    let panels = distinct(rows, |row| problem(rows, row)).iter().map(panel).collect();
    (key, panels)
}

/// Seconds and overhead by ops.
fn sizes(rows: &[&Record]) -> (Vec<String>, Vec<Panel>) {
    let key = distinct(rows, solver);
    let ops = || Axis { label: "ops", scale: Scale::Tens };
    let ops_of = |row: &Record| row.outcome.ops.filter(|&ops| ops > 0).map(|ops| ops as f64);
    let seconds = |row: &Record| Some((ops_of(row)?, row.outcome.seconds.filter(|&s| s > 0.0)?));
    let overhead = |row: &Record| Some((ops_of(row)?, row.outcome.overhead? * 100.0));
    let panels = vec![
        Panel {
            title: "seconds to plan".into(),
            across: ops(),
            up: Axis { label: "seconds", scale: Scale::Tens },
            lines: lines(rows, &key, solver, seconds),
            joined: true,
        },
        Panel {
            title: "overhead of the plan".into(),
            across: ops(),
            up: Axis { label: "overhead", scale: Scale::Even { unit: "%" } },
            lines: lines(rows, &key, solver, overhead),
            joined: true,
        },
    ];
    (key, panels)
}

/// What was predicted over what was measured, by model.
fn measured(rows: &[&Record]) -> (Vec<String>, Vec<Panel>) {
    let budget = |row: &Record| row.cell.budget.clone();
    let key = distinct(rows, budget);
    let cases = distinct(rows, |row| problem(rows, row));
    let panel = |title: &str, ratio: &dyn Fn(&Record) -> Option<f64>| {
        let place = |row: &Record| cases.iter().position(|case| *case == problem(rows, row));
        let point = |row: &Record| Some((place(row)? as f64, ratio(row)?));
        Panel {
            title: title.into(),
            across: Axis { label: "", scale: Scale::Names(cases.clone()) },
            up: Axis { label: "", scale: Scale::Around { whole: 1.0 } },
            lines: lines(rows, &key, budget, point),
            joined: false,
        }
    };
    let panels = vec![
        panel("planned peak / measured peak", &|row| share(row.outcome.peak, row.outcome.measured_peak)),
        panel("predicted time / measured time", &|row| share(row.outcome.time, row.outcome.measured_time)),
    ];
    (key, panels)
}

impl Scale {
    /// The ends of the axis, and what is written at which numbers.
    fn ends_and_ticks(&self, numbers: &[f64]) -> ((f64, f64), Vec<(f64, String)>) {
        let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match self {
            Self::Even { unit } => even(least.min(0.0), most.max(0.0), unit),
            Self::Around { whole } => even(least.min(*whole), most.max(*whole), ""),
            Self::Tens => {
                let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
                let ends = (10f64.powi(low), 10f64.powi(high.max(low + 1)));
                (ends, (low..=high.max(low + 1)).map(|n| (10f64.powi(n), written(10f64.powi(n)))).collect())
            }
            Self::Names(names) => {
                let ticks = names.iter().enumerate().map(|(place, name)| (place as f64, name.clone())).collect();
                ((-0.5, names.len() as f64 - 0.5), ticks)
            }
        }
    }

    /// Where a number is between the ends, from 0 to 1.
    fn place(&self, number: f64, (low, high): (f64, f64)) -> f64 {
        match self {
            Self::Tens => (number / low).ln() / (high / low).ln(),
            _ => (number - low) / (high - low),
        }
    }
}

/// Round numbers at even steps that hold both ends.
fn even(least: f64, most: f64, unit: &str) -> ((f64, f64), Vec<(f64, String)>) {
    let rough = ((most - least) / 5.0).max(0.002);
    let ten = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * ten).into_iter().find(|&step| step >= rough * 0.999).unwrap_or(rough);
    let (low, high) = ((least / step + 1e-9).floor() as i64, (most / step - 1e-9).ceil() as i64);
    let high = high.max(low + 1);
    let ticks = (low..=high).map(|n| (n as f64 * step, format!("{}{unit}", written(n as f64 * step)))).collect();
    ((low as f64 * step, high as f64 * step), ticks)
}

/// Without digits that say nothing.
fn written(number: f64) -> String {
    let text = format!("{number:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

impl Panel {
    fn draw(&self) -> String {
        let all = || self.lines.iter().flatten();
        let (ends_x, ticks_x) = self.across.scale.ends_and_ticks(&all().map(|p| p.0).collect::<Vec<_>>());
        let (ends_y, ticks_y) = self.up.scale.ends_and_ticks(&all().map(|p| p.1).collect::<Vec<_>>());
        let x = |number: f64| LEFT + self.across.scale.place(number, ends_x) * (WIDTH - LEFT - RIGHT);
        let y = |number: f64| HEIGHT - BOTTOM - self.up.scale.place(number, ends_y) * (HEIGHT - BOTTOM - TOP);
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let mut text = format!("<text x=\"{LEFT}\" y=\"18\" font-weight=\"600\">{}</text>\n", markup(&self.title));
        for (number, tick) in &ticks_y {
            let _ = writeln!(
                text,
                "<path d=\"M{LEFT} {0:.1}H{right}\" stroke=\"#dde1e5\"/><text x=\"{1}\" y=\"{2:.1}\" \
                 text-anchor=\"end\" fill=\"#5b6470\">{3}</text>",
                y(*number),
                LEFT - 6.0,
                y(*number) + 4.0,
                markup(tick)
            );
        }
        for (number, tick) in &ticks_x {
            let (at, below) = (x(*number), bottom + 16.0);
            let turned = match self.across.scale {
                Scale::Names(_) => format!("text-anchor=\"end\" transform=\"rotate(-45 {at:.1} {below})\""),
                _ => "text-anchor=\"middle\"".to_owned(),
            };
            let tick = markup(tick);
            let _ = writeln!(text, "<text x=\"{at:.1}\" y=\"{below}\" {turned} fill=\"#5b6470\">{tick}</text>");
        }
        let _ = writeln!(
            text,
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#5b6470\"/>\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#5b6470\">{}</text>",
            (LEFT + right) / 2.0,
            bottom + 34.0,
            self.across.label
        );
        if let Scale::Around { whole } = self.up.scale {
            let _ = writeln!(text, "<path d=\"M{LEFT} {:.1}H{right}\" stroke=\"#1b1f24\"/>", y(whole));
        }
        for (line, points) in self.lines.iter().enumerate() {
            if self.joined && points.len() > 1 {
                let path: Vec<String> = points.iter().map(|&(a, b)| format!("{:.1},{:.1}", x(a), y(b))).collect();
                let _ = writeln!(text, "<polyline points=\"{}\" {}/>", path.join(" "), stroke(line));
            }
            for &(a, b) in points {
                let colour = COLOURS[line % COLOURS.len()];
                let _ = writeln!(text, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(a), y(b));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_what_is_on_them_at_round_numbers() {
        for (least, most) in [(0.0, 39.4), (0.0, 0.0), (0.97, 1.0), (0.3, 7.0), (-3.0, 110.0)] {
            let (ends, ticks) = even(least, most, "%");
            assert!(ends.0 <= least && most <= ends.1 && ends.0 < ends.1, "{least} to {most}: {ends:?}");
            assert!((2..=9).contains(&ticks.len()), "{ticks:?}");
            assert!((ticks[0].0, ticks[ticks.len() - 1].0) == ends && ticks.iter().all(|tick| tick.1.ends_with('%')));
        }
        let (ends, ticks) = Scale::Tens.ends_and_ticks(&[0.02, 15.0]);
        assert_eq!((ends, ticks.len()), ((0.01, 100.0), 5));
        assert_eq!(ticks.iter().map(|tick| tick.1.as_str()).collect::<Vec<_>>(), ["0.01", "0.1", "1", "10", "100"]);
        let (ends, _) = Scale::Tens.ends_and_ticks(&[1.0]);
        assert_eq!(ends, (1.0, 10.0));
        let middle = Scale::Tens.place(10.0, (1.0, 100.0));
        assert!((middle - 0.5).abs() < 1e-12 && Scale::Around { whole: 1.0 }.place(1.0, (0.5, 1.5)) == 0.5);
    }

    #[test]
    fn points_stand_where_their_numbers_say() {
        let panel = Panel {
            title: "<b>".into(),
            across: Axis { label: "x", scale: Scale::Even { unit: "" } },
            up: Axis { label: "y", scale: Scale::Even { unit: "%" } },
            lines: vec![vec![(0.0, 0.0), (100.0, 50.0)], vec![]],
            joined: true,
        };
        let drawn = panel.draw();
        let points = format!("{LEFT:.1},{:.1} {:.1},{TOP:.1}", HEIGHT - BOTTOM, WIDTH - RIGHT);
        assert!(drawn.contains(&format!("<polyline points=\"{points}\"")), "{drawn}");
        assert!(drawn.contains("&lt;b&gt;") && drawn.matches("<circle").count() == 2);
    }
}
