//! The GPUs of the allocation, by the names under which a process may see them.
//!
//! A device counts only where its device node is there. Which of them are ours is what the batch
//! system says, in the order of what a process would obey: the visible-devices variables, then the
//! lists of the step and of the job, then every device node.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// `nvidia.com/gpu`.
pub const NVIDIA: &str = "nvidia.com/gpu";
/// `amd.com/gpu`.
pub const AMD: &str = "amd.com/gpu";

/// Names of devices by resource, in the order in which they are handed out.
pub type Devices = BTreeMap<&'static str, Vec<String>>;

/// What was found, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The devices.
    pub devices: Devices,
    /// A line for the log each: where they come from, or why named ones are not advertised.
    pub origins: Vec<String>,
}

/// Finds the GPUs. `root` is `/`, or a directory with `dev` and `sys` prepared by a test.
pub fn find(root: &Path, variable: impl Fn(&str) -> Option<String>) -> Found {
    let mut found = Found::default();
    let nvidia = numbered(&root.join("dev"), "nvidia");
    let amd = amd_nodes(root);
    let variables: [(&'static str, &[&'static str], Vec<String>); 2] = [
        (NVIDIA, &["CUDA_VISIBLE_DEVICES"], nvidia),
        (AMD, &["ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"], amd),
    ];
    let batch = ["SLURM_STEP_GPUS", "SLURM_JOB_GPUS"];
    for (resource, visible, nodes) in variables {
        let named = visible
            .iter()
            .chain(&batch)
            .find_map(|name| Some((*name, list(&variable(name)?))));
        match named {
            _ if nodes.is_empty() => {
                // Slurm sets the variables of both makers.
                if let Some((name, list)) = named
                    && !list.is_empty()
                    && visible.contains(&name)
                {
                    found.origins.push(format!(
                        "{resource}: {name} names {} devices and there is no device node",
                        list.len()
                    ));
                }
            }
            Some((name, list)) => {
                found
                    .origins
                    .push(format!("{resource}: {} by {name}", list.len()));
                if !list.is_empty() {
                    found.devices.insert(resource, list);
                }
            }
            None => {
                let origin = format!("{resource}: {} by device nodes", nodes.len());
                found.origins.push(origin);
                found.devices.insert(resource, nodes);
            }
        }
    }
    found
}

/// `0,2-3`, or names (`GPU-…`, `MIG-…`). As the drivers read it, the list ends at the first entry
/// that is no device (`-1`, `NoDevFiles`, an empty word).
fn list(text: &str) -> Vec<String> {
    let mut devices = Vec::new();
    for word in text.split(',').map(str::trim) {
        let is_name = word.starts_with("GPU-") || word.starts_with("MIG-");
        if is_name {
            devices.push(word.to_owned());
            continue;
        }
        let range = match word.split_once('-') {
            Some((first, last)) => first.parse::<u16>().ok().zip(last.parse::<u16>().ok()),
            None => word.parse::<u16>().ok().map(|it| (it, it)),
        };
        let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
            break;
        };
        devices.extend((first..=last).map(|it| it.to_string()));
    }
    devices.dedup();
    devices
}

/// The numbers of `PREFIX<number>` in a directory, ascending.
fn numbered(dir: &Path, prefix: &str) -> Vec<String> {
    let mut numbers: Vec<u32> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_prefix(prefix)?.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers.iter().map(u32::to_string).collect()
}

/// AMD's driver lists CPUs and GPUs as nodes of its topology; a GPU has a `gpu_id` that is not 0.
fn amd_nodes(root: &Path) -> Vec<String> {
    if !root.join("dev/kfd").exists() {
        return Vec::new();
    }
    let topology = root.join("sys/class/kfd/kfd/topology/nodes");
    let gpus = numbered(&topology, "").into_iter().filter(|node| {
        let id = fs::read_to_string(topology.join(node).join("gpu_id"));
        id.is_ok_and(|id| !matches!(id.trim(), "" | "0"))
    });
    (0..gpus.count())
        .map(|ordinal| ordinal.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A directory that stands for `/`: there are no GPUs where tests run.
    fn machine(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for file in files {
            let (path, text) = file.split_once('=').unwrap_or((file, ""));
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        }
        dir
    }

    fn on(files: &[&str], variables: &[(&str, &str)]) -> Found {
        find(machine(files).path(), |name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const NODES: [&str; 4] = [
        "dev/nvidia0",
        "dev/nvidia1",
        "dev/nvidiactl",
        "dev/nvidia-uvm",
    ];

    #[test]
    fn without_a_batch_system_every_device_node_counts() {
        let found = on(&NODES, &[]);
        assert_eq!(found.devices[NVIDIA], ["0", "1"]);
        assert!(!found.devices.contains_key(AMD));
        let amd = [
            "dev/kfd",
            "sys/class/kfd/kfd/topology/nodes/0/gpu_id=0\n",
            "sys/class/kfd/kfd/topology/nodes/1/gpu_id=41234\n",
            "sys/class/kfd/kfd/topology/nodes/2/gpu_id=5\n",
        ];
        assert_eq!(on(&amd, &[]).devices[AMD], ["0", "1"]);
    }

    #[test]
    fn what_a_process_would_obey_comes_first() {
        let step = ("SLURM_STEP_GPUS", "4,5");
        let job = ("SLURM_JOB_GPUS", "4-7");
        let cuda = ("CUDA_VISIBLE_DEVICES", "0,1");
        assert_eq!(on(&NODES, &[job]).devices[NVIDIA], ["4", "5", "6", "7"]);
        assert_eq!(on(&NODES, &[job, step]).devices[NVIDIA], ["4", "5"]);
        assert_eq!(on(&NODES, &[job, step, cuda]).devices[NVIDIA], ["0", "1"]);
    }

    #[test]
    fn none_is_none_even_where_device_nodes_are() {
        for none in ["", "-1", "NoDevFiles"] {
            let found = on(&NODES, &[("CUDA_VISIBLE_DEVICES", none)]);
            assert!(found.devices.is_empty(), "{none:?}");
        }
    }

    #[test]
    fn a_variable_without_a_device_node_is_told_and_not_believed() {
        let found = on(&[], &[("CUDA_VISIBLE_DEVICES", "0")]);
        assert!(found.devices.is_empty());
        assert!(found.origins[0].contains("CUDA_VISIBLE_DEVICES"));
    }

    #[test]
    fn names_are_kept_as_they_are() {
        assert_eq!(list("GPU-a1,MIG-b2,3"), ["GPU-a1", "MIG-b2", "3"]);
        assert_eq!(list("1,x,2"), ["1"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,40}") {
            list(&text);
        }
    }
}
