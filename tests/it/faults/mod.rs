//! Random faults, with the invariants checked after each.
//!
//! Agent and control plane are two processes, as on a site. A step creates, ends or deletes a pod, or breaks
//! something: kills the agent, a shim or a container, stops or kills the API server, fills the disk, shifts the
//! clock, starts a second agent on the same root, or boots the machine anew with process numbers used again.
//!
//! `scripts/faults` runs a thousand steps; `VK_CMD_FAULT_STEPS` and `VK_CMD_FAULT_SEED` set how many, and which.

mod check;
mod pods;
mod world;

use std::process::Command;

use testkit::{note, skip};

use world::World;

/// Set for the run that has mounts of its own.
const INSIDE: &str = "VK_CMD_FAULT_INSIDE";

/// A small generator: the runs differ, and a seed that failed can be run again.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        match all.len() {
            0 => None,
            count => all.get(self.below(count)),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a step may do, and how often of a hundred where all may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Create,
    End,
    Delete,
    ForceDelete,
    KillAgent,
    StartAgent,
    TwoAgents,
    SecondAgent,
    KillShim,
    StopShim,
    KillContainer,
    StopContainer,
    StopApi,
    KillApi,
    HealApi,
    FillDisk,
    EmptyDisk,
    ShiftClock,
    Reboot,
}

const ACTS: [(Act, usize); 19] = [
    (Act::Create, 22),
    (Act::End, 8),
    (Act::Delete, 8),
    (Act::ForceDelete, 2),
    (Act::KillAgent, 12),
    (Act::StartAgent, 30),
    (Act::TwoAgents, 4),
    (Act::SecondAgent, 4),
    (Act::KillShim, 6),
    (Act::StopShim, 2),
    (Act::KillContainer, 5),
    (Act::StopContainer, 2),
    (Act::StopApi, 4),
    (Act::KillApi, 4),
    (Act::HealApi, 30),
    (Act::FillDisk, 3),
    (Act::EmptyDisk, 30),
    (Act::ShiftClock, 6),
    (Act::Reboot, 4),
];

fn draw(random: &mut Random, world: &World) -> Act {
    let possible: Vec<(Act, usize)> = ACTS
        .into_iter()
        .filter(|(act, _)| world.can(*act))
        .collect();
    let mut at = random.below(possible.iter().map(|(_, weight)| weight).sum());
    for (act, weight) in possible {
        if at < weight {
            return act;
        }
        at -= weight;
    }
    Act::Create
}

#[test]
fn random_faults_break_no_invariant() {
    if std::env::var_os(INSIDE).is_none() {
        return with_mounts_of_its_own();
    }
    let steps = number("VK_CMD_FAULT_STEPS").unwrap_or(40);
    let seed =
        number("VK_CMD_FAULT_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 0x5eed);
    note(&format!("faults: seed {seed}, {steps} steps"));
    let mut random = Random(seed.max(1));
    let Some(mut world) = World::new(seed) else {
        return skip!("kubectl is missing");
    };
    for step in 0..steps {
        let act = draw(&mut random, &world);
        let said = world.act(act, &mut random);
        world.log(&format!("step {step}: {said}"));
        world.check();
        if step % 100 == 99 {
            note(&format!("faults: {} of {steps} steps", step + 1));
        }
    }
    world.heal();
    world.check();
    world.check_the_end();
    note(&format!(
        "faults: {steps} steps of seed {seed}: {}",
        world.summary()
    ));
}

/// Runs this test again where a small disk and another boot id can be mounted and nobody else sees them.
fn with_mounts_of_its_own() {
    let own = std::env::current_exe().expect("a path");
    let unshare = |words: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(words)
            .args(["--mount", "--propagation", "private"]);
        command
    };
    let ways: [&[&str]; 2] = [&[], &["--user", "--map-root-user"]];
    let able = |words: &&&[&str]| {
        let script =
            "mount -t tmpfs tmpfs /mnt && mount --bind /dev/null /proc/sys/kernel/random/boot_id";
        let mut command = unshare(words);
        command.args(["sh", "-c", script]);
        command.output().is_ok_and(|done| done.status.success())
    };
    let Some(way) = ways.iter().find(able) else {
        return skip!(
            "a small disk and another boot id need the right to mount, or user namespaces"
        );
    };
    let done = unshare(way)
        .arg(own)
        .args([
            "--exact",
            "--nocapture",
            "faults::random_faults_break_no_invariant",
        ])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(
        done.success(),
        "the run with mounts of its own failed: {done}"
    );
}
