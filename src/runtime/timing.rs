//! When what a step asks of its device runs, by the device's own clock: what copies hide behind computing is seen, not assumed.

use std::time::{Duration, Instant};

use burn_backend::{Backend, ProfileDuration, ProfileOptions, ProfileToken};

/// What runs at the same time as what is on another lane, and one after the other on the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Operations.
    Compute,
    /// Copies to host memory.
    ToHost,
    /// Copies from there.
    FromHost,
}

/// How long the lanes of a step were busy, by the device's clock where it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lanes {
    /// From the beginning of the first to the end of the last.
    pub span: Duration,
    /// Operations.
    pub compute: Duration,
    /// Copies to host memory.
    pub to_host: Duration,
    /// Copies from there.
    pub from_host: Duration,
    /// Of all copies, while an operation ran.
    pub hidden: Duration,
}

/// A stretch of time on a device's clock, known when it is over, or on the host's.
enum Window {
    Device(ProfileDuration),
    Host(Instant, Instant),
}

/// The windows of a step.
pub struct Windows {
    start: Instant,
    /// The one that is open: since when, and the device's.
    open: Option<(Instant, Option<ProfileToken>)>,
    all: Vec<(Lane, Window)>,
}

impl Windows {
    /// None yet, of a step that begins now.
    pub fn begin() -> Self {
        Self { start: Instant::now(), open: None, all: Vec::new() }
    }

    /// Open one where the current stream is.
    pub fn open<B: Backend>(&mut self, device: &B::Device) {
        let token = B::profile_start(device).ok().flatten();
        self.open = Some((Instant::now(), token));
    }

    /// Close it where the stream that it was opened on, which is the current one again, is now.
    pub fn close<B: Backend>(&mut self, device: &B::Device, lane: Lane) {
        let window = match self.open.take() {
            None => None,
            Some((start, None)) => Some(Window::Host(start, Instant::now())),
            // A window that cannot be closed has measured nothing.
            Some((_, Some(token))) => B::profile_end(device, token, ProfileOptions::default()).ok().map(Window::Device),
        };
        self.all.extend(window.map(|window| (lane, window)));
    }

    /// What was asked within it failed: an open window would cost all that comes after it.
    pub fn abandon<B: Backend>(&mut self, device: &B::Device) {
        let token = self.open.take().and_then(|(_, token)| token);
        token.into_iter().for_each(|token| B::profile_abandon(device, token));
    }

    /// What they come to; waits for the device.
    pub fn lanes(self) -> Lanes {
        // Places on a device's clock are only about right on the host's: what seems to lie before the step does not count as nothing.
        let epoch = self.start.checked_sub(Duration::from_secs(1)).unwrap_or(self.start);
        let stretch = |window| match window {
            Window::Host(from, to) => {
                Some((from.saturating_duration_since(epoch), to.saturating_duration_since(epoch)))
            }
            Window::Device(window) => {
                let ticks = burn_std::reader::try_read_sync(window.resolve()).flatten()?;
                let from = ticks.start_duration_since(epoch);
                Some((from, from + ticks.duration()))
            }
        };
        let stretches = self.all.into_iter().filter_map(|(lane, window)| stretch(window).map(|it| (lane, it)));
        lanes(stretches.collect())
    }
}

/// Times of day on lanes, together.
fn lanes(stretches: Vec<(Lane, (Duration, Duration))>) -> Lanes {
    let on = |lane| stretches.iter().filter(move |it| it.0 == lane).map(|it| it.1);
    let took = |lane| on(lane).map(|(from, to)| to.saturating_sub(from)).sum();
    // Operations run one after the other, but where clocks are read one by one their ends may seem to meet.
    let mut busy: Vec<(Duration, Duration)> = on(Lane::Compute).collect();
    busy.sort_unstable();
    busy.dedup_by(|next, last| {
        let meet = next.0 <= last.1;
        if meet {
            last.1 = last.1.max(next.1);
        }
        meet
    });
    let behind = |(from, to): (Duration, Duration)| {
        let first = busy.partition_point(|it| it.1 <= from);
        let met = busy[first..].iter().take_while(|it| it.0 < to);
        met.map(|it| it.1.min(to).saturating_sub(it.0.max(from))).sum::<Duration>()
    };
    let first = stretches.iter().map(|it| it.1.0).min().unwrap_or_default();
    let last = stretches.iter().map(|it| it.1.1).max().unwrap_or_default();
    Lanes {
        span: last.saturating_sub(first),
        compute: took(Lane::Compute),
        to_host: took(Lane::ToHost),
        from_host: took(Lane::FromHost),
        hidden: on(Lane::ToHost).chain(on(Lane::FromHost)).map(behind).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stretches: &[(Lane, u64, u64)]) -> [u64; 5] {
        let ms = Duration::from_millis;
        let it = lanes(stretches.iter().map(|&(lane, from, to)| (lane, (ms(from), ms(to)))).collect());
        [it.span, it.compute, it.to_host, it.from_host, it.hidden].map(|it| it.as_millis() as u64)
    }

    #[test]
    fn copies_hide_behind_what_runs_meanwhile() {
        use Lane::{Compute, FromHost, ToHost};
        assert_eq!(of(&[]), [0; 5]);
        assert_eq!(of(&[(Compute, 5, 9)]), [4, 4, 0, 0, 0]);
        // Begun before an operation, over after another, with a gap between the two.
        assert_eq!(of(&[(Compute, 10, 20), (ToHost, 5, 40), (Compute, 25, 30)]), [35, 15, 35, 0, 15]);
        // Each copy counts for itself; operations that seem to meet count once.
        assert_eq!(
            of(&[(Compute, 0, 10), (Compute, 8, 20), (ToHost, 5, 15), (FromHost, 12, 25), (FromHost, 30, 31)]),
            [31, 22, 10, 14, 18]
        );
        assert_eq!(of(&[(Compute, 0, 10), (ToHost, 10, 20), (Compute, 20, 30)]), [30, 20, 10, 0, 0]);
    }
}
