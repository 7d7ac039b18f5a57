//! Whether memory, disk or process ids run out, by the kubelet's signals.
//!
//! Its threshold of the disk (`nodefs.available<10%`) would be petabytes of a parallel file system,
//! and closes a laptop that works; here the default takes less than a gibibyte, too.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::usage::NodeUsage;
use crate::quantity::Quantity;

/// How long a condition stays after the shortage is over (a kubelet's
/// `evictionPressureTransitionPeriod`).
const TRANSITION: Duration = Duration::from_secs(300);

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Bytes of memory that can be had without swapping, and all of them.
    pub memory: (u64, u64),
    /// Bytes on the file system of pod data, for this user, and all of them.
    pub storage: (u64, u64),
    /// Files that may still be made there, and all; both 0 where the file system does not count.
    pub inodes: (u64, u64),
    /// Process ids that are free on the host, and all.
    pub pids: (u64, u64),
}

/// Which resources are under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Disk.
    pub disk: bool,
    /// Process ids.
    pub pids: bool,
}

/// A kubelet's eviction signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// `memory.available`.
    Memory,
    /// `nodefs.available`.
    Storage,
    /// `nodefs.inodesFree`.
    Inodes,
    /// `pid.available`.
    Pids,
}

impl Signal {
    const ALL: [Self; 4] = [Self::Memory, Self::Storage, Self::Inodes, Self::Pids];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory.available",
            Self::Storage => "nodefs.available",
            Self::Inodes => "nodefs.inodesFree",
            Self::Pids => "pid.available",
        }
    }

    /// The resource that evictions name.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Storage => "ephemeral-storage",
            Self::Inodes => "inodes",
            Self::Pids => "pids",
        }
    }

    fn of(self, left: &Left) -> (u64, u64) {
        match self {
            Self::Memory => left.memory,
            Self::Storage => left.storage,
            Self::Inodes => left.inodes,
            Self::Pids => left.pids,
        }
    }
}

/// Less than this is too little.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Least {
    Amount(u64),
    /// Of all, in hundredths.
    Percent(f64),
    /// The lesser of both.
    Either(u64, f64),
}

impl Least {
    fn amount(self, all: u64) -> u64 {
        let part = |percent: f64| (all as f64 * percent / 100.0) as u64;
        match self {
            Self::Amount(amount) => amount,
            Self::Percent(percent) => part(percent),
            Self::Either(amount, percent) => amount.min(part(percent)),
        }
    }
}

/// When the node is short of something.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(Vec<(Signal, Least)>);

impl Default for Thresholds {
    fn default() -> Self {
        Self(vec![
            (Signal::Memory, Least::Amount(100 << 20)),
            (Signal::Storage, Least::Either(1 << 30, 10.0)),
            (Signal::Inodes, Least::Percent(5.0)),
            (Signal::Pids, Least::Percent(10.0)),
        ])
    }
}

/// A threshold that is crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossed {
    /// Which.
    pub signal: Signal,
    /// The threshold, as an amount.
    pub threshold: u64,
    /// What is left.
    pub available: u64,
}

impl Thresholds {
    /// Reads `SIGNAL<QUANTITY` pairs, as a kubelet's `--eviction-hard`; signals that are not named
    /// have no threshold.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut found: Vec<(Signal, Least)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            let Some((name, value)) = part.split_once('<') else {
                return Err(format!("has {part:?}, which has no '<'"));
            };
            let signal = Signal::ALL.into_iter().find(|it| it.name() == name.trim());
            let Some(signal) = signal else {
                return Err(format!("has {name:?}, which is no signal"));
            };
            if found.iter().any(|(known, _)| *known == signal) {
                return Err(format!("names {name} twice"));
            }
            let value = value.trim();
            let least = match value.strip_suffix('%') {
                Some(percent) => {
                    let percent = percent.parse().ok();
                    let percent = percent.filter(|it: &f64| (0.0..=100.0).contains(it));
                    percent.map(Least::Percent)
                }
                None => Quantity::parse(value)
                    .and_then(Quantity::to_units)
                    .map(Least::Amount),
            };
            let Some(least) = least else {
                return Err(format!("has {value:?}, which is no quantity"));
            };
            found.push((signal, least));
        }
        Ok(Self(found))
    }

    /// Which are crossed, memory first, as a kubelet ranks them.
    pub fn crossed(&self, left: &Left) -> Vec<Crossed> {
        let mut crossed: Vec<Crossed> = self
            .0
            .iter()
            .filter_map(|(signal, least)| {
                let (available, all) = signal.of(left);
                let threshold = least.amount(all);
                // A file system that counts no files has none to run out of.
                let counted = *signal != Signal::Inodes || all > 0;
                (counted && available < threshold).then_some(Crossed {
                    signal: *signal,
                    threshold,
                    available,
                })
            })
            .collect();
        crossed.sort_by_key(|it| it.signal);
        crossed
    }
}

/// The conditions that thresholds stand for.
pub fn pressure(crossed: &[Crossed]) -> Pressure {
    let any = |signals: &[Signal]| crossed.iter().any(|it| signals.contains(&it.signal));
    Pressure {
        memory: any(&[Signal::Memory]),
        disk: any(&[Signal::Storage, Signal::Inodes]),
        pids: any(&[Signal::Pids]),
    }
}

impl Left {
    /// Asks the kernel about the disk; the rest is the node's use. `memory` is all that it has.
    ///
    /// # Errors
    /// Where the file system does not answer.
    pub fn of(usage: &NodeUsage, memory: u64, data: &Path) -> io::Result<Self> {
        let disk = nix::sys::statvfs::statvfs(data)?;
        let unit = disk.fragment_size();
        let (tasks, most) = usage.tasks;
        Ok(Self {
            memory: (usage.available, memory),
            storage: (disk.blocks_available() * unit, disk.blocks() * unit),
            inodes: (disk.files_available(), disk.files()),
            pids: (most.saturating_sub(tasks), most),
        })
    }
}

/// Conditions that come at once and go slowly, so that pods do not come back into a shortage that
/// they have caused.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    seen: [Option<Instant>; 3],
}

impl Held {
    /// Takes what is seen now, returns what is to be reported.
    pub fn report(&mut self, now: Instant, seen: Pressure) -> Pressure {
        let mut hold = |index: usize, seen: bool| {
            let last: &mut Option<Instant> = &mut self.seen[index];
            if seen {
                *last = Some(now);
            }
            last.is_some_and(|at| now.duration_since(at) < TRANSITION)
        };
        Pressure {
            memory: hold(0, seen.memory),
            disk: hold(1, seen.disk),
            pids: hold(2, seen.pids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EASY: Left = Left {
        memory: (1 << 30, 2 << 30),
        storage: (50, 100),
        inodes: (50, 100),
        pids: (900, 1000),
    };

    fn signals(thresholds: &Thresholds, left: Left) -> Vec<Signal> {
        let crossed = thresholds.crossed(&left);
        crossed.iter().map(|it| it.signal).collect()
    }

    #[test]
    fn each_threshold_is_its_own() {
        let all = Thresholds::default();
        assert!(all.crossed(&EASY).is_empty());
        for (left, signal) in [
            (
                Left {
                    memory: ((100 << 20) - 1, 2 << 30),
                    ..EASY
                },
                Signal::Memory,
            ),
            (
                Left {
                    storage: (9, 100),
                    ..EASY
                },
                Signal::Storage,
            ),
            (
                Left {
                    inodes: (4, 100),
                    ..EASY
                },
                Signal::Inodes,
            ),
            (
                Left {
                    pids: (99, 1000),
                    ..EASY
                },
                Signal::Pids,
            ),
        ] {
            assert_eq!(signals(&all, left), [signal]);
        }
        let lustre = Left {
            storage: (5 << 40, 1 << 50),
            ..EASY
        };
        assert!(signals(&all, lustre).is_empty(), "a tenth is not asked for");
        let uncounted = Left {
            inodes: (0, 0),
            ..EASY
        };
        assert!(signals(&all, uncounted).is_empty());
    }

    #[test]
    fn a_kubelets_words_are_read() {
        let text = "nodefs.available<60%, memory.available<2Gi";
        let thresholds = Thresholds::parse(text).expect("good");
        assert_eq!(
            signals(&thresholds, EASY),
            [Signal::Memory, Signal::Storage]
        );
        let crossed = thresholds.crossed(&EASY)[0];
        assert_eq!((crossed.threshold, crossed.available), (2 << 30, 1 << 30));
        for bad in [
            "memory.available",
            "memory<1",
            "memory.available<x",
            "memory.available<101%",
            "memory.available<1,memory.available<2",
        ] {
            assert!(Thresholds::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_condition_stays_a_while() {
        let mut held = Held::default();
        let start = Instant::now();
        let short = Pressure {
            disk: true,
            ..Pressure::default()
        };
        assert!(!held.report(start, Pressure::default()).disk);
        assert!(held.report(start, short).disk);
        let later = start + TRANSITION - Duration::from_secs(1);
        assert!(held.report(later, Pressure::default()).disk);
        let later = start + TRANSITION;
        assert!(!held.report(later, Pressure::default()).disk);
        assert!(!held.report(later, Pressure::default()).memory);
    }
}
