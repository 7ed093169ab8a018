//! Schedules written by hand.

use plimsoll::pipeline::{Action, Chunk, Device, Microbatch, Schedule, Violation};

/// `f0.1` forward of microbatch 0, chunk 1; `r` recompute; `b`, `i`, `w` backward, input and weight gradient; `>a0.1@2` and `<a0.1@2` an
/// activation sent to and received from device 2, `>g`, `<g` a gradient; `u1` the update of chunk 1.
fn action(word: &str) -> Action {
    let (kind, rest) = word.split_at(if word.starts_with(['<', '>']) { 2 } else { 1 });
    let (name, peer) = rest.split_once('@').unwrap_or((rest, "0"));
    let (m, c) = name.split_once('.').unwrap_or(("0", name));
    let (m, c, peer) = (Microbatch(m.parse().unwrap()), Chunk(c.parse().unwrap()), Device(peer.parse().unwrap()));
    match kind {
        "f" => Action::Forward(m, c),
        "r" => Action::Recompute(m, c),
        "b" => Action::Backward(m, c),
        "i" => Action::InputGradient(m, c),
        "w" => Action::WeightGradient(m, c),
        ">a" => Action::SendActivation(m, c, peer),
        ">g" => Action::SendGradient(m, c, peer),
        "<a" => Action::ReceiveActivation(m, c, peer),
        "<g" => Action::ReceiveGradient(m, c, peer),
        "u" => Action::Update(c),
        _ => panic!("{word}"),
    }
}

/// Routes, the route of each microbatch, and each device's list.
pub type ByHand = (&'static [&'static [u32]], &'static [u32], &'static [&'static str]);

/// 1F1B on two devices.
pub const TWO: ByHand = (
    &[&[0, 1]],
    &[0, 0],
    &[
        "f0.0 >a0.0@1 f1.0 >a1.0@1 <g0.1@1 b0.0 <g1.1@1 b1.0 u0",
        "<a0.0@0 f0.1 b0.1 >g0.1@0 <a1.0@0 f1.1 b1.1 >g1.1@0 u1",
    ],
);
/// The same with backwards in two parts.
pub const SPLIT: ByHand = (
    &[&[0, 1]],
    &[0, 0],
    &[
        "f0.0 >a0.0@1 f1.0 >a1.0@1 <g0.1@1 i0.0 w0.0 <g1.1@1 i1.0 w1.0 u0",
        "<a0.0@0 f0.1 i0.1 >g0.1@0 <a1.0@0 f1.1 i1.1 >g1.1@0 w0.1 w1.1 u1",
    ],
);
/// Four chunks in a V on two devices.
pub const VEE: ByHand = (
    &[&[0, 1, 1, 0]],
    &[0],
    &[
        "f0.0 >a0.0@1 <a0.2@1 f0.3 b0.3 >g0.3@1 <g0.1@1 b0.0 u0 u3",
        "<a0.0@0 f0.1 f0.2 >a0.2@0 <g0.3@0 b0.2 b0.1 >g0.1@0 u1 u2",
    ],
);
/// Two routes in opposite directions.
pub const BOTH: ByHand = (
    &[&[0, 1], &[1, 0]],
    &[0, 1],
    &[
        "f0.0 >a0.0@1 <a1.0@1 f1.1 b1.1 >g1.1@1 <g0.1@1 b0.0 u0 u1",
        "f1.0 >a1.0@0 <a0.0@0 f0.1 b0.1 >g0.1@0 <g1.1@0 b1.0 u0 u1",
    ],
);
/// Three devices in a row.
pub const THREE: ByHand = (
    &[&[0, 1, 2]],
    &[0],
    &["f0.0 >a0.0@1 <g0.1@1 b0.0 u0", "<a0.0@0 f0.1 >a0.1@2 <g0.2@2 b0.1 >g0.1@0 u1", "<a0.1@1 f0.2 b0.2 >g0.2@1 u2"],
);

/// Replace words in a device's list, once each.
pub type Edit = (usize, &'static str, &'static str);

pub fn by_hand((routes, route_of, lines): ByHand, queue: u32, edits: &[Edit]) -> Schedule {
    let mut lines: Vec<String> = lines.iter().map(|line| format!(" {line} ")).collect();
    for (device, from, to) in edits {
        let (from, to) = (format!(" {from} "), format!(" {to} "));
        assert_eq!(lines[*device].matches(&from).count(), 1, "{from}");
        lines[*device] = lines[*device].replace(&from, &to);
    }
    let routes = routes.iter().map(|route| route.iter().map(|&d| Device(d)).collect()).collect();
    let devices = lines.iter().map(|line| line.split_whitespace().map(action).collect()).collect();
    Schedule::new("by hand", queue, routes, route_of.to_vec(), devices).unwrap()
}

/// The variant's name.
pub fn rule(violation: &Violation) -> String {
    let text = format!("{:?}", violation.rule);
    text.split([' ', '{', '(']).next().unwrap().to_owned()
}
