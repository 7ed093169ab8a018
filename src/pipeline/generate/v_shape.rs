//! V-Min, V-Half and V-ZB: two chunks per device in a V, split backwards. "Pipeline Parallelism with Controllable
//! Memory", Qi et al., 2024.
//!
//! ```text
//! d0  c0 \    / c7      a microbatch goes down through the first halves and up again through the second; how long a
//! d1   c1 \  / c6       device keeps a chunk's activation differs from device to device, but the sum over its two
//! d2    c2 \/ c5        chunks hardly does: so the devices need the same memory
//! d3    c3 -> c4
//! ```
//!
//! Built as in the paper: one microbatch's passes, placed so that copies six slots apart never collide (a pass takes a
//! slot, a device has six per microbatch); *repeated*; *squeezed*, each pass as early as those before it allow; and
//! *reordered* before and after the steady part, where passes move into free slots as long as the peak stays.
//! The three differ in the slots of the first microbatch alone.
//!
//! `v` = 2, any `p`, `m`. With `p >= 4`, `F = B = W` and `m >= 2p` (V-ZB: `m > 2p`) `M` chunks are in flight at most and
//! `3p-1-3M + max(3p, p-1+2(1+floor((M+1)/2)))` slots are idle, within a device's own span.

use super::super::schedule::{Action, Chunk, Device, Microbatch, Schedule};
use super::link::link;
use super::{Generator, Shape};
use crate::error::Result;

/// One of the family.
pub struct VShape {
    name: &'static str,
    about: &'static str,
    /// Slots of the first microbatch's forwards down and up and input gradients down and up, by `p` and device.
    block: fn(usize, usize) -> [usize; 4],
}

/// The least memory: `M = 2 floor((p+4)/3)`, about a third of 1F1B's.
pub const MIN: VShape = VShape {
    name: "v-min",
    about: "two chunks in a V, a third of 1F1B's memory (Qi et al. 2024)",
    block: |p, i| {
        // Without a wait before the way back passes would collide for p = 0 mod 3. For p = 2 mod 3 they would not, but the
        // memory that M allows would not be used, and four more slots be idle.
        let wait = [2, 0, 4][p % 3];
        [i, 2 * p - 1 - i, 2 * p + wait + i, 4 * p + wait - 1 - i]
    },
};

/// Half of 1F1B's memory: `M = 2 floor((p+2)/2)`.
pub const HALF: VShape = VShape {
    name: "v-half",
    about: "two chunks in a V, half of 1F1B's memory (Qi et al. 2024)",
    block: |p, i| {
        let wait = [3, 0][p % 2];
        [2 * i, 3 * p - 2 - i, 3 * p + wait - 1 + 2 * i, 6 * p + wait - 2 - i]
    },
};

/// No bubble in 1F1B's memory: `M = 2p`.
pub const ZERO_BUBBLE: VShape = VShape {
    name: "v-zb",
    about: "two chunks in a V, no bubble in 1F1B's memory (Qi et al. 2024)",
    block: |p, i| [5 * i, 6 * p - 5 - i, 6 * p - 4 + 5 * i, 12 * p - 9 - i],
};

impl Generator for VShape {
    fn name(&self) -> &'static str {
        self.name
    }
    fn about(&self) -> &'static str {
        self.about
    }
    fn generate(&self, shape: Shape) -> Result<Schedule> {
        let (p, m) = shape.checked_exactly(2, self.name)?;
        let mut lines = Lines::repeated(p, m, self.block);
        lines.put_weights();
        lines.reorder(true);
        lines.squeeze();
        lines.clear_weights();
        lines.reorder(false);
        lines.put_weights();
        lines.squeeze();
        lines.clear_weights();
        lines.put_weights();
        let route = (0..2 * p).map(|c| Device::at(c.min(2 * p - 1 - c))).collect();
        let orders = (0..p).map(|i| lines.order(i)).collect();
        link(self.name, vec![route], vec![0; m], orders)
    }
}

/// Slots per microbatch.
const PERIOD: usize = 6;
/// What a device does with a microbatch, in this order.
const FORWARD_DOWN: usize = 0;
const FORWARD_UP: usize = 1;
const INPUT_DOWN: usize = 2;
const INPUT_UP: usize = 3;
/// The `k`-th weight gradient is that of the device's `k`-th input gradient, so these are not told apart.
const WEIGHT: usize = 4;
const KINDS: usize = 5;

/// A pass: its slot (first, so that passes sort by it), device, kind and number.
type Pass = (usize, usize, usize, usize);

/// The slots of all passes.
struct Lines {
    /// By device, kind and number.
    slots: Vec<[Vec<usize>; KINDS]>,
    /// The kind in each slot, by device.
    grid: Vec<Vec<Option<usize>>>,
}

impl Lines {
    fn repeated(p: usize, m: usize, block: fn(usize, usize) -> [usize; 4]) -> Self {
        let line = |i: usize| {
            let [a, b, c, d] = block(p, i).map(|first| (0..m).map(|j| first + PERIOD * j).collect());
            [a, b, c, d, Vec::new()]
        };
        let mut lines = Self { slots: (0..p).map(line).collect(), grid: vec![Vec::new(); p] };
        lines.draw();
        lines
    }

    /// Draw the grid anew.
    fn draw(&mut self) {
        for (slots, row) in self.slots.iter().zip(&mut self.grid) {
            let end = slots.iter().flatten().max().map_or(0, |last| last + 1);
            *row = vec![None; end];
            for (kind, slots) in slots.iter().enumerate() {
                slots.iter().for_each(|&slot| row[slot] = Some(kind));
            }
        }
    }

    fn clear_weights(&mut self) {
        self.slots.iter_mut().for_each(|slots| slots[WEIGHT].clear());
        self.draw();
    }

    /// A weight gradient in each free slot, as soon as there is one to do.
    fn put_weights(&mut self) {
        for (slots, row) in self.slots.iter_mut().zip(&mut self.grid) {
            let mut waiting = 0;
            for (slot, kind) in row.iter_mut().enumerate() {
                match kind {
                    Some(INPUT_DOWN | INPUT_UP) => waiting += 1,
                    None if waiting > 0 => {
                        *kind = Some(WEIGHT);
                        slots[WEIGHT].push(slot);
                        waiting -= 1;
                    }
                    _ => {}
                }
            }
            slots[WEIGHT].extend(row.len()..row.len() + waiting);
            row.resize(row.len() + waiting, Some(WEIGHT));
        }
    }

    /// All passes in the order of their slots.
    fn passes(&self) -> Vec<Pass> {
        let mut all = Vec::new();
        for (device, slots) in self.slots.iter().enumerate() {
            for (kind, slots) in slots.iter().enumerate() {
                all.extend(slots.iter().enumerate().map(|(number, &slot)| (slot, device, kind, number)));
            }
        }
        all.sort_unstable();
        all
    }

    /// The first slot in which a pass can run, given those before it.
    fn earliest(&self, (_, device, kind, number): Pass) -> usize {
        let mut first = match kind {
            FORWARD_DOWN | INPUT_DOWN if device > 0 => self.slots[device - 1][kind][number] + 1,
            FORWARD_UP | INPUT_UP if device + 1 < self.slots.len() => self.slots[device + 1][kind][number] + 1,
            WEIGHT => {
                let inputs = |kind: &Option<usize>| matches!(kind, Some(INPUT_DOWN | INPUT_UP));
                let row = self.grid[device].iter().enumerate();
                row.filter(|(_, kind)| inputs(kind)).nth(number).map_or(0, |(slot, _)| slot + 1)
            }
            _ => 0,
        };
        if (FORWARD_UP..WEIGHT).contains(&kind) {
            first = first.max(self.slots[device][kind - 1][number] + 1);
        }
        if number > 0 {
            first = first.max(self.slots[device][kind][number - 1] + 1);
        }
        first
    }

    /// The most chunks in flight on a device; weight gradients not drawn yet count as if put into free slots.
    fn peak(&self, device: usize, drawn: bool) -> usize {
        let (mut now, mut most, mut waiting) = (0usize, 0, 0usize);
        for kind in &self.grid[device] {
            match *kind {
                Some(FORWARD_DOWN | FORWARD_UP) => now += 1,
                Some(INPUT_DOWN | INPUT_UP) => waiting += 1,
                None if !drawn && waiting > 0 => (waiting, now) = (waiting - 1, now - 1),
                // A weight gradient before its input gradient, while passes are being moved, counts too.
                Some(_) => now = now.saturating_sub(1),
                None => {}
            }
            most = most.max(now);
        }
        most
    }

    /// Move passes before the steady part (with weight gradients only) and after it into earlier free slots. The
    /// steady part lasts from the first input gradient up on the first device to its last forward down.
    fn reorder(&mut self, drawn: bool) {
        let limit = (0..self.slots.len()).map(|device| self.peak(device, drawn)).max().unwrap_or(0);
        let all = self.passes();
        let place = |kind, number| all.iter().position(|&(_, d, k, n)| (d, k, n) == (0, kind, number));
        let (starts, ends) = (place(INPUT_UP, 0), place(FORWARD_DOWN, self.slots[0][FORWARD_DOWN].len() - 1));
        let (starts, ends) = (starts.unwrap_or(0), ends.unwrap_or(0));
        let stay = if drawn { starts..ends + 1 } else { 0..ends + 1 };
        for (index, &pass) in all.iter().enumerate() {
            if stay.contains(&index) {
                continue;
            }
            let (slot, device, kind, number) = pass;
            for earlier in self.earliest(pass)..slot {
                if self.grid[device][earlier].is_some() {
                    continue;
                }
                self.grid[device].swap(earlier, slot);
                let harmless = drawn && kind > FORWARD_UP;
                if harmless || self.peak(device, drawn) <= limit {
                    self.slots[device][kind][number] = earlier;
                    break;
                }
                self.grid[device].swap(earlier, slot);
            }
        }
    }

    /// Each pass as early as its inputs and the pass before it on its device allow.
    fn squeeze(&mut self) {
        let mut free = vec![0; self.slots.len()];
        for pass in self.passes() {
            let (_, device, kind, number) = pass;
            // In a device's order a weight gradient comes after its input gradient already.
            let inputs = if kind == WEIGHT { 0 } else { self.earliest(pass) };
            let slot = inputs.max(free[device]);
            self.slots[device][kind][number] = slot;
            free[device] = slot + 1;
        }
        self.draw();
    }

    fn order(&self, device: usize) -> Vec<Action> {
        let (down, up) = (Chunk::at(device), Chunk::at(2 * self.slots.len() - 1 - device));
        let mut counts = [0; KINDS];
        let mut inputs = Vec::new();
        let kinds = self.grid[device].iter().flatten();
        kinds
            .map(|&kind| {
                let number = counts[kind];
                counts[kind] += 1;
                let m = Microbatch::at(number);
                match kind {
                    FORWARD_DOWN => Action::Forward(m, down),
                    FORWARD_UP => Action::Forward(m, up),
                    WEIGHT => {
                        let (m, c) = inputs[number];
                        Action::WeightGradient(m, c)
                    }
                    _ => {
                        let c = if kind == INPUT_DOWN { up } else { down };
                        inputs.push((m, c));
                        Action::InputGradient(m, c)
                    }
                }
            })
            .collect()
    }
}
