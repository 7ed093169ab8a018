//! What a step does where the types of its module and its closure no longer matter.
//!
//! Generic code is compiled anew in every program that uses it, and what runs steps is a lot of it: Burn's interpreter of
//! all ops, the planner, a pipeline's threads. Behind this trait it is compiled once for each backend, here.

use std::panic::Location;
use std::sync::Arc;

use burn::tensor::Device;
use burn_ir::HandleKind;

use super::binding::{Bound, Inputs, ModuleState};
use super::pipeline::{self, Pipeline};
use super::planner::{self, Entry, Planner, Table, Untyped};
use super::settings::Settings;
use super::{Measured, Shared};
use crate::cost::Problem;
use crate::error::Result;
use crate::graph::Fingerprint;
use crate::graph::trace::Program;
use crate::runtime::Target;

/// A backend with everything compiled for it. See the functions that each calls.
pub(super) trait Engine: Target {
    fn spread(handles: Vec<HandleKind<Self>>) -> Result<Vec<Bound<Self>>>;
    fn bound(handles: Vec<HandleKind<Self>>) -> Result<Vec<(Bound<Self>, Option<usize>)>>;
    fn key(
        place: &Location<'_>,
        closure: &str,
        state: &ModuleState<Self>,
        inputs: &Inputs<Self>,
    ) -> Result<Fingerprint>;
    fn entry(
        planner: &mut Planner,
        settings: &Settings,
        key: Fingerprint,
        traced: Untyped,
        state: &ModuleState<Self>,
        inputs: &Inputs<Self>,
    ) -> Result<Arc<Entry>>;
    fn run(
        entry: &Arc<Entry>,
        shared: &Shared,
        state: &ModuleState<Self>,
        inputs: Inputs<Self>,
        number: u64,
        observe: Option<&mut dyn FnMut(usize)>,
    ) -> Result<(Vec<HandleKind<Self>>, Measured)>;
    fn problem(
        planner: &mut Planner,
        settings: &Settings,
        program: &Program,
        state: &ModuleState<Self>,
        inputs: &Inputs<Self>,
    ) -> Result<Problem>;
    fn problem_with(
        settings: &Settings,
        program: &Program,
        state: &ModuleState<Self>,
        inputs: &Inputs<Self>,
        table: Table<'_>,
    ) -> Result<Problem>;
    fn devices(devices: &[Device]) -> Result<Vec<Self::Device>>;
    fn pipeline_entry(
        shared: &Shared,
        pipeline: &Pipeline,
        key: Fingerprint,
        traced: Untyped,
        state: &ModuleState<Self>,
        inputs: &Inputs<Self>,
    ) -> Result<Arc<pipeline::Entry>>;
    fn pipeline_run(
        shared: &Shared,
        pipeline: &Pipeline,
        entry: &pipeline::Entry,
        state: &ModuleState<Self>,
        inputs: Vec<Inputs<Self>>,
    ) -> Result<pipeline::Ran<Self>>;
}

macro_rules! engine {
    ($backend:ty) => {
        impl Engine for $backend {
            fn spread(handles: Vec<HandleKind<Self>>) -> Result<Vec<Bound<Self>>> {
                Bound::spread(handles)
            }

            fn bound(handles: Vec<HandleKind<Self>>) -> Result<Vec<(Bound<Self>, Option<usize>)>> {
                Bound::all(handles)
            }

            fn key(
                place: &Location<'_>,
                closure: &str,
                state: &ModuleState<Self>,
                inputs: &Inputs<Self>,
            ) -> Result<Fingerprint> {
                planner::key(place, closure, state, inputs)
            }

            fn entry(
                planner: &mut Planner,
                settings: &Settings,
                key: Fingerprint,
                traced: Untyped,
                state: &ModuleState<Self>,
                inputs: &Inputs<Self>,
            ) -> Result<Arc<Entry>> {
                planner.entry(settings, key, traced, state, inputs)
            }

            fn run(
                entry: &Arc<Entry>,
                shared: &Shared,
                state: &ModuleState<Self>,
                inputs: Inputs<Self>,
                number: u64,
                observe: Option<&mut dyn FnMut(usize)>,
            ) -> Result<(Vec<HandleKind<Self>>, Measured)> {
                shared.run(entry, state, inputs, number, observe)
            }

            fn problem(
                planner: &mut Planner,
                settings: &Settings,
                program: &Program,
                state: &ModuleState<Self>,
                inputs: &Inputs<Self>,
            ) -> Result<Problem> {
                planner.problem(settings, program, state, inputs)
            }

            fn problem_with(
                settings: &Settings,
                program: &Program,
                state: &ModuleState<Self>,
                inputs: &Inputs<Self>,
                table: Table<'_>,
            ) -> Result<Problem> {
                planner::problem_with(settings, program, state, inputs, table)
            }

            fn devices(devices: &[Device]) -> Result<Vec<Self::Device>> {
                devices.iter().map(pipeline::device_on::<Self>).collect()
            }

            fn pipeline_entry(
                shared: &Shared,
                pipeline: &Pipeline,
                key: Fingerprint,
                traced: Untyped,
                state: &ModuleState<Self>,
                inputs: &Inputs<Self>,
            ) -> Result<Arc<pipeline::Entry>> {
                pipeline.entry(shared, key, traced, state, inputs)
            }

            fn pipeline_run(
                shared: &Shared,
                pipeline: &Pipeline,
                entry: &pipeline::Entry,
                state: &ModuleState<Self>,
                inputs: Vec<Inputs<Self>>,
            ) -> Result<pipeline::Ran<Self>> {
                pipeline.run(shared, entry, state, inputs)
            }
        }
    };
}

engine!(burn_flex::Flex);
#[cfg(feature = "cubecl")]
engine!(burn_cubecl::CubeBackend);
#[cfg(feature = "fusion")]
engine!(crate::runtime::Fused);
#[cfg(feature = "remote")]
engine!(crate::runtime::remote::Router);
