//! A run as a grid of characters: exact for small cases, to scale for others.

use std::fmt::Write as _;

use plimsoll::Nanos;
use plimsoll::pipeline::{Action, Device, Event, Run, Schedule};

/// One line per device, at most `width` columns. Nothing if no computation takes time, or there is no room.
pub fn draw(schedule: &Schedule, run: &Run, width: usize) -> Option<String> {
    let computed = |event: &&Event| event.action.peer().is_none() && event.end > event.start;
    let events: Vec<&Event> = run.events.iter().flatten().filter(computed).collect();
    if events.is_empty() {
        return None;
    }
    let (lines, scale) = match exact(schedule, run, &events, width) {
        Some(lines) => (lines, String::new()),
        None => scaled(schedule, run, &events, width)?,
    };
    let name = name_width(run);
    let mut text = String::new();
    for (d, line) in lines.iter().enumerate() {
        let _ = writeln!(text, "{:<name$}{}", format!("d{d}"), line.trim_end());
    }
    let second = if schedule.chunks() > run.devices.len() || schedule.routes().len() > 1 {
        "; lower case: not the device's first chunk"
    } else {
        ""
    };
    let microbatch = if scale.is_empty() { ", with the microbatch" } else { "" };
    let kinds = "F forward, B backward or input gradient, W weight gradient, R recompute, U update";
    let _ = writeln!(text, "{scale}{kinds}{microbatch}{second}");
    Some(text)
}

fn name_width(run: &Run) -> usize {
    format!("d{}", run.devices.len() - 1).len() + 2
}

/// One cell per unit of time: the greatest that divides every start and end.
fn exact(schedule: &Schedule, run: &Run, events: &[&Event], width: usize) -> Option<Vec<String>> {
    let unit = events.iter().flat_map(|event| [event.start.get(), event.end.get()]).fold(0, gcd);
    let digits = (schedule.microbatches() - 1).to_string().len();
    let cells = usize::try_from(run.makespan.get().div_ceil(unit)).ok()?;
    if cells.checked_mul(digits + 2)?.checked_add(name_width(run))? > width {
        return None;
    }
    let line = |device: Device| {
        let mut line = vec![format!("{:<1$}", '.', digits + 1); cells];
        for event in events.iter().filter(|event| event.device == device) {
            let (start, end) = ((event.start.get() / unit) as usize, (event.end.get() / unit) as usize);
            line[start..end].fill("-".repeat(digits + 1));
            let microbatch = event.action.microbatch().map_or(String::new(), |m| m.0.to_string());
            line[start] = format!("{:<1$}", format!("{}{microbatch}", letter(schedule, event)), digits + 1);
        }
        line.join(" ")
    };
    Some((0..run.devices.len()).map(|d| line(Device(d as u32))).collect())
}

/// One character per slice of time, for what takes most of it; and how long a slice is.
fn scaled(schedule: &Schedule, run: &Run, events: &[&Event], width: usize) -> Option<(Vec<String>, String)> {
    let columns = width.checked_sub(name_width(run)).filter(|&columns| columns > 0)?;
    let slice = run.makespan.get().div_ceil(columns as u64).max(1);
    let columns = run.makespan.get().div_ceil(slice);
    let line = |device: Device| {
        let mut here = events.iter().filter(|event| event.device == device).peekable();
        let mut line = String::new();
        for column in 0..columns {
            let (from, to) = (column * slice, (column + 1) * slice);
            let mut idle = slice;
            let mut kinds: Vec<(char, u64)> = Vec::new();
            while let Some(event) = here.peek().filter(|event| event.start.get() < to) {
                let time = event.end.get().min(to) - event.start.get().max(from);
                idle -= time;
                let letter = letter(schedule, event);
                match kinds.iter_mut().find(|kind| kind.0 == letter) {
                    Some(kind) => kind.1 += time,
                    None => kinds.push((letter, time)),
                }
                if event.end.get() > to {
                    break;
                }
                here.next();
            }
            // The first of those that take most.
            let most = kinds.iter().map(|kind| kind.1).max().unwrap_or(0);
            let letter = kinds.iter().find(|kind| kind.1 == most).map_or('.', |kind| kind.0);
            line.push(if most > idle { letter } else { '.' });
        }
        line
    };
    let lines = (0..run.devices.len()).map(|d| line(Device(d as u32))).collect();
    Some((lines, format!("each column is {}; what takes most of it: ", Nanos(slice))))
}

fn letter(schedule: &Schedule, event: &Event) -> char {
    let letter = match event.action {
        Action::Recompute(..) => 'R',
        Action::Forward(..) => 'F',
        Action::Backward(..) | Action::InputGradient(..) => 'B',
        Action::WeightGradient(..) => 'W',
        _ => 'U',
    };
    let held = |c: usize| schedule.routes().iter().any(|route| route[c] == event.device);
    let first = (0..event.action.chunk().index()).all(|c| !held(c));
    if first { letter } else { letter.to_ascii_lowercase() }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
