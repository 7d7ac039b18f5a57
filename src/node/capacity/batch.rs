//! What a batch system says that it has given to this job on this node.

/// What the allocation has; what the batch system does not say is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// CPUs, and the variable that says so.
    pub(super) cpus: Option<(u64, &'static str)>,
    /// Bytes of memory, and the variable that says so.
    pub(super) memory: Option<(u64, &'static str)>,
}

const MEBIBYTE: u64 = 1 << 20;

/// Reads the variables of Slurm (sbatch(1), srun(1): memory in mebibytes, 0 is all that the node
/// has) and of PBS (`NCPUS`), or the machine's advertisement that HTCondor writes for a job.
pub(super) fn given(variable: impl Fn(&str) -> Option<String>, machine_ad: Option<&str>) -> Given {
    let number = |name: &str| -> Option<u64> {
        let value = variable(name)?.trim().parse().ok()?;
        (value > 0).then_some(value)
    };
    if variable("SLURM_JOB_ID").is_some() || variable("SLURM_JOBID").is_some() {
        return slurm(number);
    }
    if let Some(text) = machine_ad {
        return condor(text);
    }
    if variable("PBS_JOBID").is_some() {
        let cpus = number("NCPUS").map(|cpus| (cpus, "NCPUS"));
        return Given { cpus, memory: None };
    }
    Given::default()
}

fn slurm(number: impl Fn(&str) -> Option<u64>) -> Given {
    let cpus = number("SLURM_CPUS_ON_NODE").map(|cpus| (cpus, "SLURM_CPUS_ON_NODE"));
    let per_node = || number("SLURM_MEM_PER_NODE").map(|it| (it, "SLURM_MEM_PER_NODE"));
    let per_cpu = || {
        let each = number("SLURM_MEM_PER_CPU")?;
        Some((each.saturating_mul(cpus?.0), "SLURM_MEM_PER_CPU"))
    };
    let per_gpu = || {
        let each = number("SLURM_MEM_PER_GPU")?;
        let gpus = number("SLURM_GPUS_ON_NODE")?;
        Some((each.saturating_mul(gpus), "SLURM_MEM_PER_GPU"))
    };
    let memory = per_node()
        .or_else(per_cpu)
        .or_else(per_gpu)
        .map(|(mebibytes, origin)| (mebibytes.saturating_mul(MEBIBYTE), origin));
    Given { cpus, memory }
}

/// `Name = value` lines; names know no case.
fn condor(text: &str) -> Given {
    let value = |wanted: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once('=')?;
            let value: u64 = value.trim().parse().ok()?;
            (name.trim().eq_ignore_ascii_case(wanted) && value > 0).then_some(value)
        })
    };
    Given {
        cpus: value("Cpus").map(|cpus| (cpus, "_CONDOR_MACHINE_AD: Cpus")),
        memory: value("Memory").map(|it| {
            let bytes = it.saturating_mul(MEBIBYTE);
            (bytes, "_CONDOR_MACHINE_AD: Memory")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Given {
        let find = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        given(find, None)
    }

    #[test]
    fn memory_comes_by_node_by_cpu_or_by_gpu() {
        let job = ("SLURM_JOB_ID", "7");
        let cpus = ("SLURM_CPUS_ON_NODE", "4");
        let memory = |given: Given| given.memory.map(|(bytes, _)| bytes >> 20);
        assert_eq!(
            memory(of(&[job, ("SLURM_MEM_PER_NODE", "2048")])),
            Some(2048)
        );
        assert_eq!(
            memory(of(&[job, cpus, ("SLURM_MEM_PER_CPU", "512")])),
            Some(2048)
        );
        let gpus = ("SLURM_GPUS_ON_NODE", "2");
        assert_eq!(
            memory(of(&[job, gpus, ("SLURM_MEM_PER_GPU", "100")])),
            Some(200)
        );
        // 0 asks for all memory of the node: no limit of its own.
        assert_eq!(memory(of(&[job, ("SLURM_MEM_PER_NODE", "0")])), None);
        assert_eq!(memory(of(&[job, ("SLURM_MEM_PER_CPU", "512")])), None);
        assert_eq!(of(&[job, cpus]).cpus, Some((4, "SLURM_CPUS_ON_NODE")));
    }

    #[test]
    fn without_a_job_its_variables_mean_nothing() {
        assert_eq!(of(&[("SLURM_CPUS_ON_NODE", "4")]), Given::default());
        assert_eq!(of(&[("NCPUS", "4")]), Given::default());
        let pbs = of(&[("PBS_JOBID", "1.server"), ("NCPUS", "4")]);
        assert_eq!(pbs.cpus, Some((4, "NCPUS")));
    }

    #[test]
    fn a_machine_advertisement_is_read() {
        let text = "Name = \"slot1_1@h\"\nCpus = 2\nMemory = 1024\nDisk = 5\n";
        let given = given(|_| None, Some(text));
        assert_eq!(given.cpus.map(|it| it.0), Some(2));
        assert_eq!(given.memory.map(|it| it.0), Some(1 << 30));
    }

    #[test]
    fn nonsense_is_left_out() {
        for value in ["", "x", "-1", "99999999999999999999999"] {
            let given = of(&[("SLURM_JOB_ID", "7"), ("SLURM_CPUS_ON_NODE", value)]);
            assert_eq!(given, Given::default(), "{value:?}");
        }
    }
}
