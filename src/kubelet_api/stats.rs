//! `/metrics/resource`, `/stats/summary` and `/metrics`: what is used, as a kubelet says it.
//!
//! Consumers have rules of their own, which these answers keep: samples carry the time at which
//! they were taken, in milliseconds; a container that used nothing so far has used one nanosecond
//! and one byte, since 0 means "unknown" and drops the whole pod; `container`, `pod` and
//! `namespace` stand in this order, and no other label ends in one of these names.

use std::collections::BTreeMap;
use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::container::stats::disk::DiskUsage;
use crate::node::Condition;
use crate::node::usage::{NodeMeter, NodeUsage};
use crate::pod::monitor::{ContainerUse, Sample};

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn seconds(nanos: u64) -> f64 {
    nanos.max(1) as f64 / 1e9
}

/// A label's value, escaped as the format wants it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// `/metrics/resource`.
pub(super) fn resource(sample: &Sample, node: Option<&NodeUsage>) -> String {
    let mut text = String::new();
    let at = sample.taken_at.as_millisecond();
    let labels = |it: &ContainerUse| {
        format!(
            "{{container=\"{}\",pod=\"{}\",namespace=\"{}\"}}",
            escaped(&it.container),
            escaped(&it.facts.name),
            escaped(&it.facts.namespace)
        )
    };
    if !sample.containers.is_empty() {
        let name = "container_cpu_usage_seconds_total";
        let help = "Cumulative cpu time consumed by the container in core-seconds";
        family(&mut text, name, "counter", help);
        for it in &sample.containers {
            let _ = writeln!(text, "{name}{} {} {at}", labels(it), seconds(it.cpu));
        }
        let name = "container_memory_working_set_bytes";
        let help = "Current working set of the container in bytes";
        family(&mut text, name, "gauge", help);
        for it in &sample.containers {
            let bytes = it.usage.working_set.max(1);
            let _ = writeln!(text, "{name}{} {bytes} {at}", labels(it));
        }
        let name = "container_start_time_seconds";
        let help = "Start time of the container since unix epoch in seconds";
        family(&mut text, name, "gauge", help);
        for it in &sample.containers {
            let start = it.started_at.as_millisecond() as f64 / 1e3;
            let _ = writeln!(text, "{name}{} {start}", labels(it));
        }
    }
    if let Some(node) = node {
        let at = node.taken_at.as_millisecond();
        let name = "node_cpu_usage_seconds_total";
        let help = "Cumulative cpu time consumed by the node in core-seconds";
        family(&mut text, name, "counter", help);
        let _ = writeln!(text, "{name} {} {at}", node.cpu.as_secs_f64());
        let name = "node_memory_working_set_bytes";
        let help = "Current working set of the node in bytes";
        family(&mut text, name, "gauge", help);
        let _ = writeln!(text, "{name} {} {at}", node.working_set);
    }
    let pods = pods(sample);
    if !pods.is_empty() {
        let of = |it: &ContainerUse| {
            let (namespace, name) = (&it.facts.namespace, &it.facts.name);
            format!(
                "{{namespace=\"{}\",pod=\"{}\"}}",
                escaped(namespace),
                escaped(name)
            )
        };
        let name = "pod_cpu_usage_seconds_total";
        let help = "Cumulative cpu time consumed by the pod in core-seconds";
        family(&mut text, name, "counter", help);
        for pod in &pods {
            let cpu = sample.pods.get(&pod[0].facts.uid).copied().unwrap_or(1);
            let _ = writeln!(text, "{name}{} {} {at}", of(pod[0]), seconds(cpu));
        }
        let name = "pod_memory_working_set_bytes";
        let help = "Current working set of the pod in bytes";
        family(&mut text, name, "gauge", help);
        for pod in &pods {
            let bytes: u64 = pod.iter().map(|it| it.usage.working_set).sum();
            let _ = writeln!(text, "{name}{} {} {at}", of(pod[0]), bytes.max(1));
        }
    }
    let failed = u8::from(node.is_none());
    for name in ["resource_scrape_error", "scrape_error"] {
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        family(&mut text, name, "gauge", help);
        let _ = writeln!(text, "{name} {failed}");
    }
    text
}

/// The containers of each pod; a sample has them together.
fn pods(sample: &Sample) -> Vec<Vec<&ContainerUse>> {
    let mut pods: Vec<Vec<&ContainerUse>> = Vec::new();
    for container in &sample.containers {
        match pods.last_mut() {
            Some(pod) if pod[0].facts.uid == container.facts.uid => pod.push(container),
            _ => pods.push(vec![container]),
        }
    }
    pods
}

fn time(at: Timestamp) -> String {
    format!("{at:.0}")
}

/// `/stats/summary` (`stats/v1alpha1` of the kubelet). `only` leaves out all but CPU and memory.
pub(super) fn summary(
    sample: &Sample,
    node: &NodeUsage,
    meter: &NodeMeter,
    name: &str,
    file_system: Option<&Value>,
    only: bool,
) -> Value {
    let at = time(sample.taken_at);
    let disk = |usage: DiskUsage| {
        let mut fs = file_system.cloned().unwrap_or_else(|| json!({}));
        fs["time"] = at.clone().into();
        fs["usedBytes"] = usage.bytes.into();
        fs["inodesUsed"] = usage.inodes.into();
        fs
    };
    let cpu = |nanos: u64, rate: Option<u64>| {
        let mut cpu = json!({"time": at, "usageCoreNanoSeconds": nanos});
        if let Some(rate) = rate {
            cpu["usageNanoCores"] = rate.into();
        }
        cpu
    };
    let memory = |working_set: u64, rss: u64| {
        let bytes = working_set.max(1);
        json!({"time": at, "usageBytes": bytes, "workingSetBytes": bytes, "rssBytes": rss})
    };
    let pods: Vec<Value> = pods(sample)
        .iter()
        .map(|pod| {
            let facts = &pod[0].facts;
            let files = sample.disks.get(&facts.uid).filter(|_| !only);
            let containers: Vec<Value> = pod
                .iter()
                .map(|it| {
                    let mut container = json!({
                        "name": &*it.container,
                        "startTime": time(it.started_at),
                        "cpu": cpu(it.cpu, it.rate),
                        "memory": memory(it.usage.working_set, it.usage.rss),
                    });
                    if let Some((own, logs)) =
                        files.and_then(|files| files.containers.get(&*it.container))
                    {
                        container["rootfs"] = disk(*own);
                        container["logs"] = disk(*logs);
                    }
                    container
                })
                .collect();
            let sum = |of: fn(&ContainerUse) -> u64| pod.iter().map(|it| of(it)).sum::<u64>();
            let rates = pod.iter().map(|it| it.rate).sum::<Option<u64>>();
            let started = pod.iter().map(|it| it.started_at).min();
            let mut value = json!({
                "podRef": {"name": facts.name, "namespace": facts.namespace, "uid": facts.uid},
                "startTime": time(started.unwrap_or(sample.taken_at)),
                "containers": containers,
                "cpu": cpu(sample.pods.get(&facts.uid).copied().unwrap_or(1), rates),
                "memory": memory(sum(|it| it.usage.working_set), sum(|it| it.usage.rss)),
            });
            if let Some(files) = files {
                value["ephemeral-storage"] = disk(files.total);
                let processes = sum(|it| u64::from(it.usage.processes));
                value["process_stats"] = json!({"process_count": processes});
            }
            value
        })
        .collect();
    let node_at = time(node.taken_at);
    let mut of_node: Map<String, Value> = Map::new();
    of_node.insert("nodeName".to_owned(), name.into());
    of_node.insert("startTime".to_owned(), time(meter.started_at()).into());
    let nanos = u64::try_from(node.cpu.as_nanos()).unwrap_or(u64::MAX);
    of_node.insert(
        "cpu".to_owned(),
        json!({"time": node_at, "usageCoreNanoSeconds": nanos}),
    );
    of_node.insert(
        "memory".to_owned(),
        json!({"time": node_at, "availableBytes": node.available, "usageBytes": node.working_set,
               "workingSetBytes": node.working_set}),
    );
    if !only {
        if let Some(file_system) = file_system {
            let mut fs = file_system.clone();
            fs["time"] = node_at.clone().into();
            of_node.insert("fs".to_owned(), fs);
        }
        let (tasks, most) = node.tasks;
        of_node.insert(
            "rlimit".to_owned(),
            json!({"time": node_at, "maxpid": most, "curproc": tasks}),
        );
    }
    json!({"node": of_node, "pods": pods})
}

/// The file system of pod data: all of it, and what is left.
pub(super) fn file_system(data: &std::path::Path) -> Option<Value> {
    let disk = nix::sys::statvfs::statvfs(data).ok()?;
    let unit = disk.fragment_size();
    let (all, free) = (disk.blocks() * unit, disk.blocks_available() * unit);
    Some(json!({
        "availableBytes": free,
        "capacityBytes": all,
        "usedBytes": all.saturating_sub(disk.blocks_free() * unit),
        "inodes": disk.files(),
        "inodesFree": disk.files_available(),
        "inodesUsed": disk.files().saturating_sub(disk.files_free()),
    }))
}

/// `/metrics`: the agent itself, by the names that every Prometheus client gives a process.
pub(super) fn agent(running_pods: usize, running_containers: usize) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        family(&mut text, name, kind, help);
        let _ = writeln!(text, "{name} {value}");
    };
    let own = procfs::process::Process::myself().and_then(|it| it.stat());
    if let Ok(stat) = own {
        let ticks = procfs::ticks_per_second().max(1) as f64;
        let cpu = (stat.utime + stat.stime) as f64 / ticks;
        let help = "Total user and system CPU time spent in seconds";
        gauge("process_cpu_seconds_total", "counter", help, cpu);
        let resident = (stat.rss * procfs::page_size()) as f64;
        let help = "Resident memory size in bytes";
        gauge("process_resident_memory_bytes", "gauge", help, resident);
        let help = "Virtual memory size in bytes";
        gauge(
            "process_virtual_memory_bytes",
            "gauge",
            help,
            stat.vsize as f64,
        );
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors";
        gauge("process_open_fds", "gauge", help, open.count() as f64);
    }
    let help = "Number of pods that have a running container";
    gauge("kubelet_running_pods", "gauge", help, running_pods as f64);
    let help = "Number of containers currently running";
    gauge(
        "kubelet_running_containers",
        "gauge",
        help,
        running_containers as f64,
    );
    text
}

/// `/metrics`: the ways to and from this node (tunnel, hostpipe), one gauge each with the condition's reason.
pub(super) fn ways(conditions: &BTreeMap<&'static str, Condition>) -> String {
    let mut text = String::new();
    if conditions.is_empty() {
        return text;
    }
    let name = "vk_cmd_way_ready";
    let help = "1 while a way that this node needs (a tunnel, the hostpipe) is open, 0 otherwise";
    family(&mut text, name, "gauge", help);
    for (kind, condition) in conditions {
        let (reason, value) = (&condition.reason, u8::from(condition.status));
        let _ = writeln!(
            text,
            "{name}{{condition=\"{kind}\",reason=\"{reason}\"}} {value}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_are_told_with_their_reasons() {
        assert_eq!(ways(&BTreeMap::new()), "");
        let condition = |status, reason: &str| Condition {
            status,
            reason: reason.to_owned(),
            message: String::new(),
        };
        let text = ways(&BTreeMap::from([
            ("TunnelReady", condition(false, "ConnectionLost")),
            ("HostpipeReady", condition(true, "HostAnswers")),
        ]));
        let wanted = "vk_cmd_way_ready{condition=\"HostpipeReady\",reason=\"HostAnswers\"} 1\n\
                      vk_cmd_way_ready{condition=\"TunnelReady\",reason=\"ConnectionLost\"} 0\n";
        assert!(text.ends_with(wanted), "{text}");
    }

    use crate::container::stats::Usage;
    use crate::pod::resources::Facts;
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    fn sample() -> Sample {
        let facts = |name: &str| {
            Arc::new(Facts {
                uid: format!("u-{name}"),
                namespace: "n".to_owned(),
                name: name.to_owned(),
                ..Facts::default()
            })
        };
        let container = |facts: &Arc<Facts>, name: &str, cpu, working_set| ContainerUse {
            facts: facts.clone(),
            container: Arc::from(name),
            started_at: "2026-01-01T00:00:00.5Z".parse().expect("a time"),
            cpu,
            rate: Some(5),
            usage: Usage {
                cpu: Duration::from_nanos(cpu),
                working_set,
                rss: working_set,
                processes: 2,
            },
        };
        let (first, second) = (facts("p"), facts("q"));
        Sample {
            taken_at: "2026-01-01T00:00:10Z".parse().expect("a time"),
            containers: vec![
                container(&first, "a", 1_500_000_000, 10),
                container(&first, "b", 1, 0),
                container(&second, "a", 2, 7),
            ],
            pods: HashMap::from([("u-p".to_owned(), 2_000_000_000), ("u-q".to_owned(), 2)]),
            disks: HashMap::new(),
        }
    }

    fn node() -> NodeUsage {
        NodeUsage {
            taken_at: "2026-01-01T00:00:10Z".parse().expect("a time"),
            cpu: Duration::from_millis(12_500),
            working_set: 1000,
            available: 5,
            tasks: (3, 100),
        }
    }

    #[test]
    fn names_labels_and_times_are_those_of_a_kubelet() {
        let text = resource(&sample(), Some(&node()));
        for line in [
            "container_cpu_usage_seconds_total{container=\"a\",pod=\"p\",namespace=\"n\"} 1.5 1767225610000",
            "container_memory_working_set_bytes{container=\"b\",pod=\"p\",namespace=\"n\"} 1 1767225610000",
            "container_start_time_seconds{container=\"a\",pod=\"p\",namespace=\"n\"} 1767225600.5",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 2 1767225610000",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 10 1767225610000",
            "node_cpu_usage_seconds_total 12.5 1767225610000",
            "node_memory_working_set_bytes 1000 1767225610000",
            "resource_scrape_error 0",
            "# TYPE container_cpu_usage_seconds_total counter",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line:?} is missing in\n{text}"
            );
        }
        let idle = "container_cpu_usage_seconds_total{container=\"b\",pod=\"p\",namespace=\"n\"} ";
        let value = text.lines().find_map(|it| it.strip_prefix(idle));
        let value = value.and_then(|it| it.split(' ').next()?.parse::<f64>().ok());
        assert!(value.is_some_and(|it| it > 0.0), "0 would drop the pod");
        assert!(resource(&sample(), None).contains("resource_scrape_error 1"));
    }

    #[test]
    fn a_summary_has_every_key_that_is_read_without_a_look() {
        let capacity = crate::node::Capacity::default();
        let meter = NodeMeter::new(&capacity);
        let value = summary(&sample(), &node(), &meter, "node", None, false);
        assert_eq!(value["node"]["nodeName"], "node");
        assert_eq!(value["pods"].as_array().map(Vec::len), Some(2));
        let pod = &value["pods"][0];
        assert_eq!(pod["podRef"]["uid"], "u-p");
        assert_eq!(
            pod["containers"][0]["cpu"]["usageCoreNanoSeconds"],
            1_500_000_000_u64
        );
        assert_eq!(pod["memory"]["workingSetBytes"], 10);
        let empty = Sample {
            containers: Vec::new(),
            ..sample()
        };
        let value = summary(&empty, &node(), &meter, "node", None, true);
        assert_eq!(value["pods"], json!([]));
        assert!(value["node"]["fs"].is_null());
    }

    #[test]
    fn the_agent_tells_of_itself() {
        let text = agent(1, 2);
        assert!(text.contains("process_resident_memory_bytes "));
        assert!(text.contains("kubelet_running_containers 2"));
    }
}
