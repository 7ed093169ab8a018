//! The verifier, on schedules broken by hand.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use plimsoll::pipeline::{Device, verify};

use super::hand::{BOTH, ByHand, Edit, SPLIT, THREE, TWO, VEE, by_hand, rule};

/// What is wrong, the schedule, its edits, and the rule it breaks at which action of which device.
type Bad = (&'static str, ByHand, &'static [Edit], &'static str, usize, usize);

const BAD: &[Bad] = &[
    ("a forward on the wrong device", TWO, &[(0, "f1.0", "f1.1")], "NotHere", 0, 2),
    ("a backward on the wrong device", TWO, &[(1, "b0.1", "b0.0")], "NotHere", 1, 2),
    ("a chunk on the other route's device", BOTH, &[(0, "f0.0", "f1.0")], "NotHere", 0, 0),
    ("a weight gradient on the wrong device", SPLIT, &[(0, "w0.0", "w0.1")], "NotHere", 0, 6),
    ("a forward twice", TWO, &[(0, "f1.0", "f0.0")], "Twice", 0, 2),
    ("a backward twice", TWO, &[(0, "b1.0", "b0.0")], "Twice", 0, 7),
    ("an input gradient twice", SPLIT, &[(0, "w0.0", "i0.0")], "Twice", 0, 6),
    ("a weight gradient twice", SPLIT, &[(1, "w1.1", "w0.1")], "Twice", 1, 9),
    ("a message sent twice", TWO, &[(0, ">a1.0@1", ">a0.0@1")], "Twice", 0, 3),
    ("a message received twice", TWO, &[(1, "<a1.0@0", "<a0.0@0")], "Twice", 1, 4),
    ("an update twice", TWO, &[(1, "u1", "u1 u1")], "Twice", 1, 9),
    ("fused, and a weight gradient", TWO, &[(0, "b0.0", "b0.0 w0.0")], "FusedAndSplit", 0, 6),
    ("an input gradient, and fused", SPLIT, &[(1, "w0.1", "b0.1")], "FusedAndSplit", 1, 8),
    ("fused, and an input gradient", TWO, &[(1, "b1.1", "b1.1 i1.1")], "FusedAndSplit", 1, 7),
    ("a forward before its input comes", TWO, &[(1, "<a0.0@0 f0.1", "f0.1 <a0.0@0")], "InputMissing", 1, 0),
    ("a forward whose input never comes", TWO, &[(1, "<a1.0@0", "")], "InputMissing", 1, 4),
    ("a forward before that of the chunk before", VEE, &[(1, "f0.1 f0.2", "f0.2 f0.1")], "InputMissing", 1, 1),
    ("a backward before its forward", TWO, &[(1, "f0.1 b0.1", "b0.1 f0.1")], "ForwardMissing", 1, 1),
    ("a backward of another microbatch", TWO, &[(1, "b0.1", "b1.1")], "ForwardMissing", 1, 2),
    ("a backward before its gradient comes", TWO, &[(0, "<g0.1@1 b0.0", "b0.0 <g0.1@1")], "GradientMissing", 0, 4),
    ("a backward with another's gradient", TWO, &[(0, "b0.0", "b1.0")], "GradientMissing", 0, 5),
    ("backwards on a device in forward order", VEE, &[(1, "b0.2 b0.1", "b0.1 b0.2")], "GradientMissing", 1, 5),
    ("an input gradient without its gradient", SPLIT, &[(0, "<g1.1@1", "")], "GradientMissing", 0, 7),
    ("a recompute on the wrong device", TWO, &[(1, "b0.1", "r0.0 b0.1")], "NotHere", 1, 2),
    ("a recompute before its forward", TWO, &[(0, "f1.0", "r1.0 f1.0")], "ForwardMissing", 0, 2),
    ("a recompute twice", TWO, &[(1, "b0.1", "r0.1 r0.1 b0.1")], "Twice", 1, 3),
    ("a recompute after its backward", TWO, &[(0, "b0.0", "b0.0 r0.0")], "BackwardDone", 0, 6),
    ("a recompute after its input gradient", SPLIT, &[(0, "w0.0", "r0.0 w0.0")], "BackwardDone", 0, 6),
    ("a weight gradient first", SPLIT, &[(0, "i0.0 w0.0", "w0.0 i0.0")], "InputGradientMissing", 0, 5),
    ("another microbatch's weight gradient", SPLIT, &[(0, "w0.0", "w1.0")], "InputGradientMissing", 0, 6),
    ("an activation sent before it is made", TWO, &[(0, "f0.0 >a0.0@1", ">a0.0@1 f0.0")], "NotMade", 0, 0),
    ("a gradient sent before it is made", SPLIT, &[(1, "i0.1 >g0.1@0", ">g0.1@0 i0.1")], "NotMade", 1, 2),
    ("what came is sent on", THREE, &[(1, ">a0.1@2", ">a0.0@2")], "NotMade", 1, 2),
    ("the last activation is sent", TWO, &[(1, "f0.1", "f0.1 >a0.1@0")], "NotNeeded", 1, 2),
    ("the first gradient is sent", TWO, &[(0, "b0.0", "b0.0 >g0.0@1")], "NotNeeded", 0, 6),
    ("a message to oneself", VEE, &[(1, "f0.1", "f0.1 >a0.1@1")], "NotNeeded", 1, 2),
    ("a message that belongs to others", THREE, &[(2, "f0.2", "<a0.0@0 f0.2")], "NotNeeded", 2, 1),
    ("an activation to the wrong device", THREE, &[(1, ">a0.1@2", ">a0.1@0")], "WrongDestination", 1, 2),
    ("a gradient to the wrong device", THREE, &[(1, ">g0.1@0", ">g0.1@2")], "WrongDestination", 1, 5),
    ("an activation from the wrong device", THREE, &[(2, "<a0.1@1", "<a0.1@0")], "WrongSource", 2, 0),
    ("a gradient from the wrong device", THREE, &[(1, "<g0.2@2", "<g0.2@0")], "WrongSource", 1, 3),
    ("an update before the last backward", TWO, &[(0, "b1.0 u0", "u0 b1.0")], "UpdateBeforeLastUse", 0, 7),
    ("an update before the last weight gradient", SPLIT, &[(1, "w1.1 u1", "u1 w1.1")], "UpdateBeforeLastUse", 1, 9),
    ("an update between two microbatches", TWO, &[(1, ">g0.1@0", ">g0.1@0 u1")], "UpdateBeforeLastUse", 1, 4),
    ("an update at the start", BOTH, &[(0, "f0.0", "u1 f0.0")], "UpdateBeforeLastUse", 0, 0),
    ("an update of a chunk elsewhere", TWO, &[(0, "u0", "u0 u1")], "NoReplica", 0, 9),
    ("a forward is missing", VEE, &[(1, "f0.2", "")], "NotMade", 1, 2),
    ("forward and backward are missing", TWO, &[(0, "f1.0 >a1.0@1", ""), (0, "<g1.1@1 b1.0", "")], "Missing", 0, 5),
    ("a backward is missing", TWO, &[(0, "b1.0", "")], "Missing", 0, 8),
    ("a weight gradient is missing", SPLIT, &[(0, "w1.0", "")], "Missing", 0, 10),
    ("an update is missing", TWO, &[(0, "u0", "")], "Missing", 0, 8),
    ("a replica's update is missing", BOTH, &[(1, "u0", "")], "Missing", 1, 9),
    ("a message is not sent", TWO, &[(0, ">a1.0@1", "")], "NeverSent", 1, 4),
    ("a gradient is not sent", THREE, &[(2, ">g0.2@1", "")], "NeverSent", 1, 3),
    (
        "microbatches are received in another order",
        TWO,
        &[(0, "f0.0 >a0.0@1 f1.0 >a1.0@1", "f1.0 >a1.0@1 f0.0 >a0.0@1")],
        "OutOfOrder",
        1,
        0,
    ),
    (
        "gradients are received in another order",
        SPLIT,
        &[(0, "<g0.1@1 i0.0 w0.0 <g1.1@1 i1.0 w1.0", "<g1.1@1 i1.0 w1.0 <g0.1@1 i0.0 w0.0")],
        "OutOfOrder",
        0,
        4,
    ),
    (
        "both wait for the other's message",
        TWO,
        &[
            (0, "f1.0 >a1.0@1 <g0.1@1 b0.0", "<g0.1@1 b0.0 f1.0 >a1.0@1"),
            (1, "b0.1 >g0.1@0 <a1.0@0", "<a1.0@0 b0.1 >g0.1@0"),
        ],
        "Deadlock",
        0,
        2,
    ),
    ("replicas meet in another order", BOTH, &[(1, "u0 u1", "u1 u0")], "Deadlock", 0, 8),
    ("three wait in a circle", THREE, &[(1, ">a0.1@2 <g0.2@2", "<g0.2@2 >a0.1@2")], "Deadlock", 1, 2),
];

#[test]
fn schedules_broken_by_hand_are_rejected_by_the_rule_they_break() {
    assert!(BAD.len() >= 30);
    for good in [TWO, SPLIT, VEE, BOTH, THREE] {
        assert_eq!(verify(&by_hand(good, 1, &[])), Ok(()));
    }
    let mut messages = String::new();
    for &(name, base, edits, want, device, index) in BAD {
        let violation = verify(&by_hand(base, 1, edits)).expect_err(name);
        let found = (rule(&violation), violation.device.index(), violation.index);
        assert_eq!(found, (want.to_owned(), device, index), "{name}: {violation}");
        let _ = writeln!(messages, "{name}\n    {violation}");
    }
    insta::assert_snapshot!("violations", messages);
}

#[test]
fn queues_without_places_deadlock_where_both_send_first() {
    // Both devices send before they receive: fine with a place in the queue, a deadlock without.
    assert_eq!(verify(&by_hand(BOTH, 1, &[])), Ok(()));
    let violation = verify(&by_hand(BOTH, 0, &[])).unwrap_err();
    let at = (rule(&violation), violation.device, violation.index);
    assert_eq!(at, ("Deadlock".to_owned(), Device(0), 1));
    assert!(violation.to_string().ends_with("d0 waits for d1 waits for d0"), "{violation}");
    assert_eq!(verify(&by_hand(THREE, 0, &[])), Ok(()));
}

#[test]
fn every_rule_has_a_schedule_that_breaks_it() {
    let broken: BTreeSet<&str> = BAD.iter().map(|bad| bad.3).collect();
    // Read from the source, so that a new rule without a case fails here.
    let source = std::fs::read_to_string("src/pipeline/verify.rs").unwrap();
    let rules = source.split("pub enum Rule {").nth(1).unwrap().split("\n}").next().unwrap();
    let declared: BTreeSet<&str> = rules
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with(char::is_uppercase))
        .map(|line| line.split([' ', ',']).next().unwrap())
        .collect();
    assert!(declared.len() >= 16, "{declared:?}");
    assert_eq!(broken, declared);
}
