//! How a wrapped module plans and runs.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cubecl")]
use burn_cubecl::CubeBackend;
use burn_flex::Flex;
use burn_router::CustomOpRegistry;

use super::binding::ModuleState;
use crate::plan::Plan;
use crate::runtime::Target;
use crate::units::{Budget, Bytes};

/// When the closure of a step is traced again although its plan is at hand.
///
/// Tracing records scalars (a loss weight, say) as they are at that moment. A closure that
/// captures nothing records the same every time; one that captures variables may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retrace {
    /// Trace a closure that captures variables at every step and reuse the plan (the default).
    #[default]
    WhenCapturing,
    /// Trace every closure at every step: for those that read globals.
    Always,
    /// Trace once per signature of inputs: for closures known to do the same every time.
    Never,
}

type CustomOps<B> = Arc<dyn Fn(&mut CustomOpRegistry<B>) + Send + Sync>;

/// How a wrapped module plans and runs; see each method for its default.
#[derive(Clone)]
pub struct Settings {
    pub(super) budget: Budget,
    pub(super) optimizer_bytes: f64,
    pub(super) accumulate: bool,
    pub(super) solver: String,
    pub(super) solver_options: crate::solver::Options,
    pub(super) host_memory: Bytes,
    pub(super) seed: u64,
    pub(super) plan_directory: Option<PathBuf>,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) profile_directory: Option<PathBuf>,
    pub(super) retrace: Retrace,
    pub(super) replan_on_oom: bool,
    pub(super) quiet: bool,
    pub(super) fusion: bool,
    pub(super) one_launch: bool,
    pub(super) timed: bool,
    custom_ops: CustomOps<Flex>,
    #[cfg(feature = "cubecl")]
    cube_custom_ops: CustomOps<CubeBackend>,
}

impl Settings {
    /// The defaults, with this budget.
    pub fn new(budget: Budget) -> Self {
        Self {
            budget,
            optimizer_bytes: 8.0,
            accumulate: false,
            solver: "auto".into(),
            // A run does not need to know how good its plan is at best.
            solver_options: crate::solver::Options { prove: false, ..Default::default() },
            host_memory: Bytes::ZERO,
            seed: 0,
            plan_directory: None,
            plan: None,
            profile_directory: default_profile_directory(),
            retrace: Retrace::default(),
            replan_on_oom: false,
            quiet: false,
            fusion: true,
            one_launch: false,
            timed: false,
            custom_ops: Arc::new(|_| {}),
            #[cfg(feature = "cubecl")]
            cube_custom_ops: Arc::new(|_| {}),
        }
    }

    /// Bytes of optimizer state per trained parameter element, held all the time. Default: 8, the
    /// two 32-bit moments of Adam; 4 for SGD with momentum, 0 for plain SGD.
    pub fn optimizer_bytes_per_parameter(mut self, bytes: f64) -> Self {
        self.optimizer_bytes = if bytes.is_finite() { bytes.max(0.0) } else { 0.0 };
        self
    }

    /// Whether gradients are accumulated over several steps, so that a second set of them is held
    /// while a step runs. Default: no.
    pub fn gradient_accumulation(mut self, accumulate: bool) -> Self {
        self.accumulate = accumulate;
        self
    }

    /// The solver, by its name in the registry. Default: `auto`.
    pub fn solver(mut self, name: impl Into<String>) -> Self {
        self.solver = name.into();
        self
    }

    /// The solver's time limit. Default: that of [`solver::Options`](crate::solver::Options).
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.solver_options.time_limit = limit;
        self
    }

    /// Host memory that activations may be moved to while they are not needed, where that is faster
    /// than making them again. Default: none. On the CPU nothing is moved: its memory is the
    /// host's.
    pub fn host_memory(mut self, bytes: Bytes) -> Self {
        self.host_memory = bytes;
        self
    }

    /// The seed of the step's random ops. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// A directory where plans are kept and looked for. Default: none.
    pub fn plan_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.plan_directory = Some(directory.into());
        self
    }

    /// A plan to run as it is, instead of planning: one made for the very step, by
    /// [`Rematerialize::plan`](super::Rematerialize::plan) or of a problem that was exported. Its
    /// own budget holds, and any other step is refused with
    /// [`Error::PlanForAnotherGraph`](crate::Error::PlanForAnotherGraph). Default: none.
    pub fn plan(mut self, plan: Plan) -> Self {
        self.budget = Budget::Bytes(plan.budget);
        self.plan = Some(Arc::new(plan));
        self
    }

    /// The directory where measured costs are kept, `None` to measure anew in every process.
    /// Default: `plimsoll/profiles` in the user's cache directory.
    pub fn profile_directory(mut self, directory: Option<PathBuf>) -> Self {
        self.profile_directory = directory;
        self
    }

    /// Whether, after a step that failed because its device ran out of memory
    /// ([`Error::OutOfMemory`](crate::Error::OutOfMemory)), later steps are planned for less: for what that step had when it
    /// failed, where that is measured, and in any case for a twentieth less than its plan needed; if nothing fits that, for
    /// the smallest budget that a plan is found for. Each failure lowers the budget further, for this module and its clones;
    /// nothing raises it again. In a [pipeline](super::Rematerialize::pipeline) it is the device that failed for which less is planned, by
    /// a twentieth; if nothing fits then, the budget is tried again. No effect on a [plan that is given](Self::plan).
    /// Default: no.
    pub fn replan_on_oom(mut self, replan: bool) -> Self {
        self.replan_on_oom = replan;
        self
    }

    /// When closures are traced again. Default: [`Retrace::WhenCapturing`].
    pub fn retrace(mut self, retrace: Retrace) -> Self {
        self.retrace = retrace;
        self
    }

    /// Whether to keep from drawing a progress bar on a terminal while costs are measured.
    /// Default: no.
    pub fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// Whether operations are fused on devices on which Burn's own are (CubeCL devices, with feature `fusion`). Default: yes, for
    /// speed. In a fused kernel a multiplication and an addition may be one operation with one rounding, and which
    /// operations share a kernel depends on the plan: results may differ from plain Burn's in the last bits then. Without fusion
    /// they are the same whatever the plan. Pipelines run without.
    pub fn fusion(mut self, fuse: bool) -> Self {
        self.fusion = fuse;
        self
    }

    /// Whether a kind of step is recorded by its device when it runs for the second time and replayed from then on, as one launch: where
    /// the backend can (CUDA, HIP and WebGPU devices), and where the recording gives that step's results bit for bit. It
    /// helps where a device waits for launches, as it does in small models. What a step starts from is copied to where the
    /// recording reads it, and results are copied out of it, for which, and for all that it uses in between and keeps to itself, there
    /// must be room in the budget. Steps with random ops, offload or parameters brought from host memory change from one to the next and
    /// run as usual, and so do [observed](super::Rematerialize::step_observed) ones and those of pipelines; [`Rematerialize::one_launch`](super::Rematerialize::one_launch)
    /// says what came of it. Default: no.
    pub fn one_launch(mut self, record: bool) -> Self {
        self.one_launch = record;
        self
    }

    /// Whether the time of every operation and every copy to host memory and back is taken, by the device's clock where it has one:
    /// [`StepReport::lanes`](super::StepReport::lanes). A step then waits for its device at its end, and taking times takes some, so this is for looking
    /// at how a plan runs, not for training. Times are not taken where Burn [fuses](Self::fusion) operations, of steps that are [one
    /// launch](Self::one_launch), and in pipelines; WebGPU's clock sees kernels and no copies. Default: no.
    pub fn timed(mut self, timed: bool) -> Self {
        self.timed = timed;
        self
    }

    /// Handlers for custom operations that the model records (`OperationIr::Custom`), beside those
    /// for Burn's own Fourier transforms, which are always there. Workers have these alone.
    pub fn custom_ops(mut self, register: impl Fn(&mut CustomOpRegistry<Flex>) + Send + Sync + 'static) -> Self {
        self.custom_ops = Arc::new(register);
        self
    }

    /// The same for CubeCL devices.
    #[cfg(feature = "cubecl")]
    pub fn cube_custom_ops(
        mut self,
        register: impl Fn(&mut CustomOpRegistry<CubeBackend>) + Send + Sync + 'static,
    ) -> Self {
        self.cube_custom_ops = Arc::new(register);
        self
    }

    /// The budget.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Whether a closure is taken to do the same as the last time.
    pub(super) fn trusts<F>(&self) -> bool {
        // One that captures nothing cannot do anything else.
        let may_change = std::mem::size_of::<F>() > 0;
        match self.retrace {
            Retrace::Always => false,
            Retrace::Never => true,
            Retrace::WhenCapturing => !may_change,
        }
    }

    pub(super) fn handlers<B: Target>(&self) -> B::Handlers {
        let mut registry = B::custom_ops();
        let any: &mut dyn Any = &mut registry;
        if let Some(flex) = any.downcast_mut::<CustomOpRegistry<Flex>>() {
            (self.custom_ops)(flex);
        }
        #[cfg(feature = "cubecl")]
        if let Some(cube) = any.downcast_mut::<CustomOpRegistry<CubeBackend>>() {
            (self.cube_custom_ops)(cube);
        }
        registry
    }

    /// Bytes held all the time beside the step: optimizer state, accumulated gradients.
    pub(super) fn held_bytes<B: Target>(&self, state: &ModuleState<B>) -> Bytes {
        let (elements, bytes) = state.trained();
        let accumulated = if self.accumulate { bytes } else { 0 };
        Bytes((elements as f64 * self.optimizer_bytes) as u64 + accumulated)
    }
}

impl From<Budget> for Settings {
    fn from(budget: Budget) -> Self {
        Self::new(budget)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("budget", &self.budget)
            .field("optimizer_bytes", &self.optimizer_bytes)
            .field("accumulate", &self.accumulate)
            .field("solver", &self.solver)
            .field("seed", &self.seed)
            .field("retrace", &self.retrace)
            .finish_non_exhaustive()
    }
}

fn default_profile_directory() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    Some(cache.join("plimsoll").join("profiles"))
}
