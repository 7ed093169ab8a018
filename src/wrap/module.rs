//! `Rematerialize` as a Burn module: everything passes through to the wrapped one, under the same
//! paths, so that records of wrapped and unwrapped modules are the same.

use std::fmt;

use burn::module::{
    Content, Devices, DisplaySettings, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

use super::Rematerialize;

impl<M: Module> Rematerialize<M> {
    fn with(&self, module: M) -> Self {
        Self { module, shared: self.shared.clone() }
    }
}

impl<M: Module> Module for Rematerialize<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.module.collect_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        Self { module: self.module.fork(device), shared: self.shared }
    }
    fn to_device(self, device: &Device) -> Self {
        Self { module: self.module.to_device(device), shared: self.shared }
    }
    fn train(self) -> Self {
        Self { module: self.module.train(), shared: self.shared }
    }
    fn valid(&self) -> Self {
        self.with(self.module.valid())
    }
    fn materialize(self) -> Self {
        Self { module: self.module.materialize(), shared: self.shared }
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.module.visit(visitor);
    }
    fn map<V: ModuleMapper>(self, mapper: &mut V) -> Self {
        Self { module: self.module.map(mapper), shared: self.shared }
    }
}

impl<M: fmt::Debug> fmt::Debug for Rematerialize<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rematerialize").field("module", &self.module).field("settings", &self.shared.settings).finish()
    }
}

impl<M: ModuleDisplayDefault> ModuleDisplayDefault for Rematerialize<M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.module.content(content)
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Rematerialize<M> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        self.module.custom_settings()
    }
    fn custom_content(&self, content: Content) -> Option<Content> {
        self.module.custom_content(content)
    }
}

impl<M: ModuleDisplay> fmt::Display for Rematerialize<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.module.format(DisplaySettings::default()))
    }
}
