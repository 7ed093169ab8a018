//! A run as a grid of characters, for small cases.

use std::fmt::Write as _;

use plimsoll::pipeline::{Action, Device, Event, Run, Schedule};

/// One line per device, one cell per unit of time: the greatest that divides every start and end. Nothing if that
/// takes more than `width` columns.
pub fn draw(schedule: &Schedule, run: &Run, width: usize) -> Option<String> {
    let computed = |event: &&Event| event.action.peer().is_none() && event.end > event.start;
    let events: Vec<&Event> = run.events.iter().flatten().filter(computed).collect();
    let unit = events.iter().flat_map(|event| [event.start.get(), event.end.get()]).fold(0, gcd);
    if unit == 0 {
        return None;
    }
    let digits = (schedule.microbatches() - 1).to_string().len();
    let cells = usize::try_from(run.makespan.get().div_ceil(unit)).ok()?;
    let name = format!("d{}", run.devices.len() - 1).len() + 2;
    if cells.checked_mul(digits + 2)?.checked_add(name)? > width {
        return None;
    }
    let mut text = String::new();
    for device in (0..run.devices.len()).map(|d| Device(d as u32)) {
        let mut line = vec![format!("{:<1$}", '.', digits + 1); cells];
        for event in events.iter().filter(|event| event.device == device) {
            let (start, end) = ((event.start.get() / unit) as usize, (event.end.get() / unit) as usize);
            line[start..end].fill("-".repeat(digits + 1));
            line[start] = format!("{:<1$}", label(schedule, event), digits + 1);
        }
        let _ = writeln!(text, "{:<name$}{}", device.to_string(), line.join(" ").trim_end());
    }
    let second = if schedule.chunks() > run.devices.len() || schedule.routes().len() > 1 {
        "; lower case: not the device's first chunk"
    } else {
        ""
    };
    let kinds = "F forward, B backward or input gradient, W weight gradient, R recompute, U update";
    let _ = writeln!(text, "{kinds}, with the microbatch{second}");
    Some(text)
}

fn label(schedule: &Schedule, event: &Event) -> String {
    let letter = match event.action {
        Action::Recompute(..) => 'R',
        Action::Forward(..) => 'F',
        Action::Backward(..) | Action::InputGradient(..) => 'B',
        Action::WeightGradient(..) => 'W',
        _ => 'U',
    };
    let chunk = event.action.chunk();
    let held = |c: usize| schedule.routes().iter().any(|route| route[c] == event.device);
    let first = (0..chunk.index()).all(|c| !held(c));
    let letter = if first { letter } else { letter.to_ascii_lowercase() };
    event.action.microbatch().map_or(letter.to_string(), |m| format!("{letter}{}", m.0))
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
