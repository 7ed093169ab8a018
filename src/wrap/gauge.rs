//! What a step takes.

use std::cell::{Cell, RefCell};

use crate::runtime::{Crests, Looks, Overseer, Places, Target, Usage};
use crate::units::Bytes;

/// The most that a step takes beyond what was there before it: by the counting allocator where its
/// tensors lie, or by what the device's pools say.
pub(super) struct Gauge<'a, B: Target> {
    device: &'a B::Device,
    overseer: Option<Box<dyn Overseer>>,
    before: Option<Bytes>,
    looks: RefCell<Looks>,
    most: Cell<Bytes>,
    reserved: Cell<Option<Bytes>>,
}

impl<'a, B: Target> Gauge<'a, B> {
    /// One that looks at pools, of a device that has some, at these places of what is run.
    pub(super) fn new(device: &'a B::Device, places: Places) -> Self {
        let pools = B::usage(device).map(|usage| usage.in_use);
        let before = pools.or_else(|| B::watch(device));
        let (most, overseer) = (Cell::new(pools.unwrap_or_default()), B::oversee(device, places.clone()));
        Self { device, overseer, before, looks: RefCell::new(Looks::at(places)), most, reserved: Cell::new(None) }
    }

    /// Where a step of the plan may have taken more than the one before.
    pub(super) fn sample(&self) {
        if self.overseer.is_none() {
            self.looks.borrow_mut().pass(|| self.take(B::usage(self.device)));
        }
    }

    /// After the last.
    pub(super) fn end(&self) {
        match &self.overseer {
            Some(overseer) => self.take(Some(overseer.most())),
            None => self.take(B::usage(self.device)),
        };
    }

    /// Have it known where most was held.
    pub(super) fn teach(&self, crests: &Crests) {
        let looks = self.overseer.as_ref().map_or_else(|| self.looks.borrow().clone(), |overseer| overseer.looks());
        crests.learn(looks, self.before.unwrap_or_default());
    }

    fn take(&self, usage: Option<Usage>) -> Option<Bytes> {
        let usage = usage?;
        self.most.set(self.most.get().max(usage.in_use));
        self.reserved.set(self.reserved.get().max(Some(usage.reserved)));
        Some(usage.in_use)
    }

    pub(super) fn peak(&self) -> Option<Bytes> {
        let most = if self.most.get() > Bytes::ZERO { Some(self.most.get()) } else { B::watched(self.device) };
        Some(most?.saturating_sub(self.before?))
    }

    /// The most that the pools held from the device.
    pub(super) fn reserved(&self) -> Option<Bytes> {
        self.reserved.get()
    }
}
