//! Minimum cuts: Dinic, "Algorithm for solution of a problem of maximum flow" (1970), on integers.

/// A network with unlimited arcs written as [`Network::UNLIMITED`].
pub(crate) struct Network {
    heads: Vec<u32>,
    next: Vec<u32>,
    to: Vec<u32>,
    left: Vec<i128>,
    level: Vec<u32>,
    arc: Vec<u32>,
}

const NIL: u32 = u32::MAX;

impl Network {
    pub const UNLIMITED: i128 = i128::MAX / 4;

    pub fn new(nodes: usize) -> Self {
        let (level, arc) = (vec![0; nodes], vec![0; nodes]);
        Self { heads: vec![NIL; nodes], next: Vec::new(), to: Vec::new(), left: Vec::new(), level, arc }
    }

    pub fn arc(&mut self, from: usize, to: usize, capacity: i128) {
        for (a, b, capacity) in [(from, to, capacity), (to, from, 0)] {
            self.next.push(self.heads[a]);
            self.heads[a] = (self.to.len()) as u32;
            self.to.push(b as u32);
            self.left.push(capacity);
        }
    }

    /// The value of a minimum cut between two nodes; afterwards [`reached`](Self::reached) tells
    /// the smallest side of the source. `None` when every cut is unlimited.
    pub fn cut(&mut self, source: usize, sink: usize) -> Option<i128> {
        let mut flow = 0i128;
        while self.layer(source, sink) {
            self.arc.clone_from(&self.heads);
            flow = self.block(source, sink, flow)?;
        }
        self.reach(source);
        Some(flow)
    }

    /// Whether a node is on the source's side of the cut found.
    pub fn reached(&self, node: usize) -> bool {
        self.level[node] != NIL
    }

    /// Levels by the distance to the sink: what does not lead there has none and is never entered.
    fn layer(&mut self, source: usize, sink: usize) -> bool {
        self.level.fill(NIL);
        self.level[sink] = 0;
        let mut queue = vec![sink];
        let mut at = 0;
        while let Some(&v) = queue.get(at) {
            at += 1;
            // What is as far as the source is on no shortest path.
            if self.level[v] >= self.level[source] {
                break;
            }
            let mut e = self.heads[v];
            while e != NIL {
                let w = self.to[e as usize] as usize;
                if self.level[w] == NIL && self.left[e as usize ^ 1] > 0 {
                    self.level[w] = self.level[v] + 1;
                    queue.push(w);
                }
                e = self.next[e as usize];
            }
        }
        self.level[source] != NIL
    }

    /// Levels for what can still be reached.
    fn reach(&mut self, source: usize) {
        self.level.fill(NIL);
        self.level[source] = 0;
        let mut stack = vec![source];
        while let Some(v) = stack.pop() {
            let mut e = self.heads[v];
            while e != NIL {
                let w = self.to[e as usize] as usize;
                if self.level[w] == NIL && self.left[e as usize] > 0 {
                    self.level[w] = 0;
                    stack.push(w);
                }
                e = self.next[e as usize];
            }
        }
    }

    /// Push along paths of the layered network until there is none; the flow then. A path may be as long as the graph,
    /// hence no recursion, and what comes before the arc that limits a path is part of the next one.
    fn block(&mut self, source: usize, sink: usize, mut flow: i128) -> Option<i128> {
        let mut path: Vec<u32> = Vec::new();
        let mut v = source;
        loop {
            if v == sink {
                let amount = path.iter().map(|&e| self.left[e as usize]).min().unwrap_or(0);
                flow += amount;
                if flow >= Self::UNLIMITED {
                    return None;
                }
                for &e in &path {
                    self.left[e as usize] -= amount;
                    self.left[e as usize ^ 1] += amount;
                }
                let full = path.iter().position(|&e| self.left[e as usize] == 0).unwrap_or(0);
                v = path.get(full).map_or(source, |&e| self.to[e as usize ^ 1] as usize);
                path.truncate(full);
                continue;
            }
            let e = self.arc[v];
            if e == NIL {
                // A dead end: never enter it again in this phase.
                let Some(back) = path.pop() else { return Some(flow) };
                v = self.to[back as usize ^ 1] as usize;
                self.arc[v] = self.next[self.arc[v] as usize];
                continue;
            }
            let w = self.to[e as usize] as usize;
            if self.left[e as usize] > 0 && self.level[w] != NIL && self.level[w] + 1 == self.level[v] {
                path.push(e);
                v = w;
            } else {
                self.arc[v] = self.next[e as usize];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_the_textbook_network() {
        // Cormen et al., "Introduction to Algorithms", figure 26.6: the flow is 23.
        let mut net = Network::new(6);
        for (a, b, c) in
            [(0, 1, 16), (0, 2, 13), (1, 3, 12), (2, 1, 4), (2, 4, 14), (3, 2, 9), (3, 5, 20), (4, 3, 7), (4, 5, 4)]
        {
            net.arc(a, b, c);
        }
        assert_eq!(net.cut(0, 5), Some(23));
        assert!(net.reached(4) && !net.reached(3) && !net.reached(5));
    }

    #[test]
    fn says_when_nothing_limits() {
        let mut net = Network::new(2);
        net.arc(0, 1, Network::UNLIMITED);
        assert_eq!(net.cut(0, 1), None);
    }
}
