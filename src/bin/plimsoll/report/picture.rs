//! A plan played for pictures: which buffers live when and for what, and when each step happens.

use plimsoll::cost::Problem;
use plimsoll::entity::{EntityMap, ValueId};
use plimsoll::plan::{Lane, Plan, Predicted, Step, Timeline, simulate};
use plimsoll::{Bytes, Nanos, Result};

use super::category::{Categories, Category};
use super::player::{Level, Life, Player};

/// A plan, or the baseline, as pictures need it.
pub struct Picture {
    /// A name for people: the plan's file.
    pub label: String,
    /// The solver, the budget and the prediction; none for the baseline.
    pub plan: Option<(String, Bytes, Predicted)>,
    /// What happens.
    pub steps: Vec<Step>,
    /// The simulator's account of it.
    pub timeline: Timeline,
    /// Every buffer, in the order in which they begin.
    pub lives: Vec<Life>,
    /// What is live during each step; adds up to the timeline's totals.
    pub levels: Vec<Level>,
    /// When each step happens: a compute from start to end, any other step at one instant.
    pub when: Vec<(Nanos, Nanos)>,
    /// Whether each step is a compute of an op that ran before.
    pub again: Vec<bool>,
}

impl Picture {
    /// Play a checked plan.
    pub fn of_plan(label: String, plan: &Plan, problem: &Problem, categories: &Categories) -> Result<Self> {
        let timeline = simulate(problem, &plan.steps)?;
        let about = (plan.solver.clone(), plan.budget, plan.predicted.clone());
        Ok(Self::play(label, Some(about), plan.steps.clone(), timeline, problem, categories))
    }

    /// Play the baseline: everything kept until its last use.
    pub fn of_baseline(problem: &Problem, categories: &Categories) -> Self {
        let (steps, timeline) = plimsoll::solver::baseline(problem);
        Self::play("everything kept".to_owned(), None, steps, timeline, problem, categories)
    }

    fn play(
        label: String,
        plan: Option<(String, Bytes, Predicted)>,
        steps: Vec<Step>,
        timeline: Timeline,
        problem: &Problem,
        categories: &Categories,
    ) -> Self {
        let mut player = Player::new(problem, categories);
        let (mut levels, mut again) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
        for (index, step) in steps.iter().enumerate() {
            again.push(player.step(index, step));
            let mut level = player.level;
            if let Step::Compute { op, .. } = step {
                level[Category::Workspace.index()] = problem.costs.workspace[*op].get();
                player.settle(index, step);
            }
            levels.push(level);
        }
        let mut lives = player.lives;
        lives.iter_mut().for_each(|life| life.to = life.to.min(steps.len()));
        let when = when(&steps, &timeline, problem);
        Self { label, plan, steps, timeline, lives, levels, when, again }
    }

    /// Where what the plan predicts is not what the simulator says of this problem: a remark; and
    /// whether the plan's lower bound, a share of the baseline's time, still means anything.
    pub fn note(&self) -> (String, bool) {
        let Some((_, _, predicted)) = &self.plan else { return (String::new(), true) };
        let (peak, time) = (self.timeline.peak, self.timeline.time);
        if (predicted.peak, predicted.time) == (peak, time) {
            return (String::new(), true);
        }
        let said = format!("{} and {}", predicted.peak, predicted.time);
        let note = format!("The plan predicts {said}; by this problem's sizes and times it is {peak} and {time}.");
        (note, false)
    }

    /// When everything is over, copies included.
    pub fn end(&self) -> Nanos {
        let copies = self.timeline.spans.iter().map(|span| span.end);
        let steps = self.when.last().map(|&(_, end)| end);
        copies.chain(steps).max().unwrap_or_default()
    }

    /// What is live between the end of step `index` and the next step.
    pub fn after(&self, index: usize) -> Level {
        let mut level = self.levels[index];
        level[Category::Workspace.index()] = 0;
        level
    }

    /// The budget in bytes, where there is one.
    pub fn budget(&self) -> Option<Bytes> {
        self.plan.as_ref().map(|plan| plan.1).filter(|budget| budget.get() < u64::MAX)
    }

    /// The most live bytes in each of `width` equal parts of the time up to `end`, by category: those of one
    /// step, so that they add up to what was live at once.
    pub fn columns(&self, end: Nanos, width: usize) -> Vec<Level> {
        let mut columns: Vec<Level> = vec![[0; Category::COUNT]; width];
        let sum = |level: &Level| level.iter().fold(0u64, |sum, &bytes| sum.saturating_add(bytes));
        let total = end.get().max(1) as f64;
        let place = |t: u64| ((t as f64 / total * width as f64) as usize).min(width - 1);
        let mut raise = |start: Nanos, end: Nanos, level: Level| {
            for column in &mut columns[place(start.get())..=place(end.get().saturating_sub(1).max(start.get()))] {
                if sum(&level) > sum(column) {
                    *column = level;
                }
            }
        };
        let own = self.end();
        for (index, &(start, stop)) in self.when.iter().enumerate() {
            raise(start, stop, self.levels[index]);
            let next = self.when.get(index + 1).map_or(own, |next| next.0);
            if next > stop {
                raise(stop, next, self.after(index));
            }
        }
        columns
    }
}

/// When each step happens.
fn when(steps: &[Step], timeline: &Timeline, problem: &Problem) -> Vec<(Nanos, Nanos)> {
    let mut spans = timeline.spans.iter().peekable();
    let mut leaving: EntityMap<ValueId, Option<Nanos>> = EntityMap::filled(None, problem.graph.values().len());
    let mut now = Nanos::ZERO;
    let mut when = Vec::with_capacity(steps.len());
    for (index, step) in steps.iter().enumerate() {
        let span = spans.next_if(|span| span.step == index);
        let start = match (step, span) {
            (Step::Compute { op, inplace }, Some(span)) => {
                // What is made anew, or taken over, waits for no copy any more.
                let op = &problem.graph.ops()[*op];
                let taken = inplace.iter().map(|&(a, _)| op.inputs[a]);
                taken.chain(op.outputs.iter().copied()).for_each(|v| leaving[v] = None);
                // What only brings a tensor goes on beside what comes after it.
                match span.lane {
                    Lane::Compute => {
                        now = span.end;
                        span.start
                    }
                    Lane::DeviceToHost | Lane::HostToDevice => now,
                }
            }
            (Step::Offload(v), Some(span)) => {
                leaving[*v] = Some(span.end);
                now
            }
            (Step::Drop(v), _) => {
                now = now.max(leaving[*v].take().unwrap_or_default());
                now
            }
            _ => now,
        };
        when.push((start, now));
    }
    when
}

/// The lane's name for people.
pub fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Compute => "compute",
        Lane::DeviceToHost => "device to host",
        Lane::HostToDevice => "host to device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every category of every step of legal plans adds up to what the simulator says.
    #[test]
    fn categories_add_up_to_the_simulators_totals() {
        let problem = Problem::load("tests/data/yard.problem.json").unwrap();
        let cases = std::fs::read_to_string("tests/data/legal-plans.json").unwrap();
        let cases: Vec<serde_json::Value> = serde_json::from_str(&cases).unwrap();
        let categories = Categories::of(&problem);
        for case in cases.iter().filter(|case| case["problem"] == "yard") {
            let steps: Vec<Step> = serde_json::from_value(case["steps"].clone()).unwrap();
            let timeline = simulate(&problem, &steps).unwrap();
            add_up(&Picture::play(String::new(), None, steps, timeline, &problem, &categories));
        }
        for name in ["gpt-4x256-b8", "unet-3x16-b4"] {
            let problem = Problem::load(format!("tests/data/{name}.problem.json")).unwrap();
            add_up(&Picture::of_baseline(&problem, &Categories::of(&problem)));
        }
    }

    fn add_up(picture: &Picture) {
        for (index, level) in picture.levels.iter().enumerate() {
            assert_eq!(level.iter().sum::<u64>(), picture.timeline.live[index].get(), "step {index}");
            let lives = picture.lives.iter().filter(|life| life.from <= index && index < life.to);
            let workspace = level[Category::Workspace.index()];
            assert_eq!(lives.map(|life| life.bytes).sum::<u64>() + workspace, picture.timeline.live[index].get());
        }
        assert!(picture.when.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
