//! Drops that need no request of their own.

use std::collections::BTreeSet;

use crate::entity::ValueId;
use crate::graph::Graph;
use crate::plan::Step;

/// A drop that can be part of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Index of the step that is the last to read the tensor.
    pub reader: usize,
    /// Which of its op's inputs that is.
    pub input: usize,
    /// Index of the drop.
    pub drop: usize,
}

/// Which drops of a plan can be part of the op right before them, which is the last to read the tensor and gives it away:
/// in the order of the plan.
///
/// A backend may write into what it is given. So that memory is used as the plan says, no output may be of the tensor's size, but
/// views of it, and where the op may write into it and the result lies as it would anywhere else. What is being copied to host memory is
/// not given away: the op would wait for the copy.
pub fn given_away(graph: &Graph, steps: &[Step]) -> Vec<Given> {
    let mut given = Vec::new();
    let mut copied: BTreeSet<ValueId> = BTreeSet::new();
    let mut before = None;
    let (bytes, storage) = (|v: ValueId| graph.values()[v].bytes, |v: ValueId| graph.values()[v].storage);
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Compute { op, .. } => before = graph.ops().get(*op).map(|op| (index, op)),
            Step::Drop(v) => {
                let Some((reader, op)) = before.filter(|_| !copied.contains(v)) else { continue };
                let mut read = op.inputs.iter().enumerate().filter(|(_, read)| *read == v);
                let (Some((input, _)), None) = (read.next(), read.next()) else { continue };
                let mut outputs = op.outputs.iter().enumerate();
                let suits =
                    |b, out| bytes(out) != bytes(*v) || storage(out) == storage(*v) || op.inplace.contains(&(input, b));
                if outputs.all(|(b, &out)| suits(b, out)) {
                    given.push(Given { reader, input, drop: index });
                }
            }
            Step::Offload(v) => {
                copied.insert(*v);
                before = None;
            }
            Step::Prefetch(v) => {
                copied.remove(v);
                before = None;
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Problem;

    /// Readers, which of their inputs, and drops. `A` reads two tensors, one of them twice, and makes one of another size; `B` may write
    /// where its first input lies, `C` where none does; `V` makes a view.
    fn given(steps: &str) -> Vec<[usize; 3]> {
        let text = r#"{"format":"plimsoll.problem","version":1,
            "values":[{"bytes":10},{"bytes":20},{"bytes":30},{"bytes":30},{"bytes":30},{"bytes":30},{"bytes":10},{"bytes":5},
                      {"bytes":20,"alias_of":1}],
            "ops":[{"kind":"S","time":1,"inputs":[0],"outputs":[1,2]},
                   {"kind":"D","time":1,"inputs":[0],"outputs":[3]},
                   {"kind":"A","time":1,"inputs":[1,2,1],"outputs":[6]},
                   {"kind":"B","time":1,"inputs":[2,3],"outputs":[4],"inplace":[[0,0]]},
                   {"kind":"C","time":1,"inputs":[4,6],"outputs":[5]},
                   {"kind":"E","time":1,"inputs":[5],"outputs":[7]},
                   {"kind":"V","time":1,"inputs":[1],"outputs":[8]}],
            "resident":[0],"outputs":[7],"device":{"host_memory":100,"d2h_bytes_per_s":10,"h2d_bytes_per_s":10}}"#;
        let problem = Problem::from_json(text, "by hand").unwrap();
        let steps: Vec<Step> = serde_json::from_str(steps).unwrap();
        given_away(&problem.graph, &steps).iter().map(|given| [given.reader, given.input, given.drop]).collect()
    }

    #[test]
    fn what_an_op_reads_last_is_given_away_to_it() {
        // Two of one op.
        assert_eq!(given(r#"[{"compute":2},{"drop":2},{"drop":1}]"#), [[0, 1, 1]]);
        assert_eq!(given(r#"[{"compute":4},{"drop":6}]"#), [[0, 1, 1]]);
        assert_eq!(given(r#"[{"compute":5},{"drop":5}]"#), [[0, 0, 1]]);
        assert_eq!(given(r#"[{"compute":6},{"drop":1}]"#), [[0, 0, 1]]);
        // It reads something else.
        assert_eq!(given(r#"[{"compute":5},{"drop":4}]"#), [[0; 3]; 0]);
        // Another op comes between.
        assert_eq!(given(r#"[{"compute":2},{"compute":1},{"drop":2}]"#), [[0; 3]; 0]);
    }

    #[test]
    fn nothing_is_given_away_that_could_be_written_into_against_the_plan() {
        assert_eq!(given(r#"[{"compute":4},{"drop":4}]"#), [[0; 3]; 0]);
        assert_eq!(given(r#"[{"compute":3},{"drop":2},{"drop":3}]"#), [[0, 0, 1]]);
    }

    #[test]
    fn what_is_being_copied_is_not_given_away() {
        assert_eq!(given(r#"[{"offload":2},{"compute":2},{"drop":2}]"#), [[0; 3]; 0]);
        assert_eq!(given(r#"[{"compute":2},{"offload":2},{"drop":2}]"#), [[0; 3]; 0]);
        assert_eq!(given(r#"[{"offload":2},{"drop":2},{"prefetch":2},{"compute":2},{"drop":2}]"#), [[3, 1, 4]]);
    }
}
