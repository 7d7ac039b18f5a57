//! What a cluster gives to its services: cluster addresses, node ports, address families.
//!
//! Which numbers are taken is read from the stored services each time, so nothing can leak. A
//! number that was chosen and is not stored yet is held by a [`Reservation`].

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};

use super::Registry;
use crate::resource::ResourceDef;
use crate::status::FieldError;

/// The range of cluster addresses (`--service-cluster-ip-range`); the network and broadcast
/// addresses are not given.
pub const CLUSTER_RANGE: &str = "10.96.0.0/16";
const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 96, 0, 1]);
const LAST_ADDRESS: u32 = u32::from_be_bytes([10, 96, 255, 254]);
/// The lower addresses are given last, so that those that people choose themselves stay free.
const CHOSEN_ADDRESSES: u32 = 256;
const FIRST_PORT: u16 = 30_000;
const LAST_PORT: u16 = 32_767;
/// As for addresses.
const CHOSEN_PORTS: u16 = 86;

type Fields = Map<String, Value>;

/// What is chosen and not stored yet.
#[derive(Debug, Default)]
struct Held {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

/// The numbers that writes of services hold; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbers(Arc<Mutex<Held>>);

impl Numbers {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Sets of numbers are whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds numbers until the write that took them has ended.
#[derive(Debug, Default)]
pub(super) struct Reservation {
    numbers: Numbers,
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut held = self.numbers.held();
        for address in &self.addresses {
            held.addresses.remove(address);
        }
        for port in &self.ports {
            held.ports.remove(port);
        }
    }
}

fn text<'a>(spec: &'a Fields, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is_empty(spec: &Fields, field: &str) -> bool {
    match spec.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

fn has_address(spec: &Fields) -> bool {
    text(spec, "type") != "ExternalName"
}

fn is_balanced(spec: &Fields) -> bool {
    text(spec, "type") == "LoadBalancer"
}

fn has_node_ports(spec: &Fields) -> bool {
    let unwanted = spec.get("allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    text(spec, "type") == "NodePort" || (is_balanced(spec) && !unwanted)
}

fn has_health_port(spec: &Fields) -> bool {
    is_balanced(spec) && text(spec, "externalTrafficPolicy") == "Local"
}

fn is_reachable_from_outside(spec: &Fields) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer") || !is_empty(spec, "externalIPs")
}

fn port(value: Option<&Value>) -> Option<u16> {
    let number = value.and_then(Value::as_u64)?;
    u16::try_from(number).ok().filter(|&number| number != 0)
}

/// All ports of the node that a service has.
fn node_ports(spec: &Fields) -> impl Iterator<Item = u16> + '_ {
    let ports = spec.get("ports").and_then(Value::as_array);
    ports
        .into_iter()
        .flatten()
        .filter_map(|entry| port(entry.get("nodePort")))
        .chain(port(spec.get("healthCheckNodePort")))
}

fn addresses(spec: &Fields) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let all = spec.get("clusterIPs").and_then(Value::as_array);
    all.into_iter()
        .flatten()
        .filter_map(|address| address.as_str()?.parse().ok())
}

/// Brings a service into the form that is validated: both fields of its address say the same, and
/// what only another type of service has goes with the type, unless the writer changed it too.
pub(super) fn prepare(object: &mut Value, old: Option<&Value>) {
    let before = old.and_then(|old| old.get("spec")?.as_object());
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if !is_empty(spec, "clusterIP") && is_empty(spec, "clusterIPs") {
        let address = spec["clusterIP"].clone();
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
    let Some(before) = before else { return };
    let mut drop = |fields: &[&str], has: fn(&Fields) -> bool| {
        if has(before) && !has(spec) {
            let same = |field: &&str| spec.get(*field) == before.get(*field);
            if fields.iter().all(same) {
                for field in fields {
                    spec.remove(*field);
                }
            }
        }
    };
    drop(&["clusterIP", "clusterIPs"], has_address);
    drop(&["ipFamilies"], has_address);
    drop(&["ipFamilyPolicy"], has_address);
    drop(&["internalTrafficPolicy"], has_address);
    drop(&["healthCheckNodePort"], has_health_port);
    drop(&["allocateLoadBalancerNodePorts"], is_balanced);
    drop(&["loadBalancerClass"], is_balanced);
    drop(&["externalTrafficPolicy"], is_reachable_from_outside);
    let numbers = |spec: &Fields| -> Vec<Option<u16>> {
        let ports = spec.get("ports").and_then(Value::as_array);
        let ports = ports.into_iter().flatten();
        ports.map(|entry| port(entry.get("nodePort"))).collect()
    };
    if has_node_ports(before) && !has_node_ports(spec) && numbers(spec) == numbers(before) {
        for entry in ports_of(spec) {
            entry.remove("nodePort");
        }
    }
    if is_balanced(before)
        && !is_balanced(spec)
        && let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
    {
        status.insert("loadBalancer".to_owned(), json!({}));
    }
}

fn ports_of(spec: &mut Fields) -> impl Iterator<Item = &mut Fields> {
    spec.get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The families of a service on a cluster of one family, IPv4.
fn settle_families(spec: &mut Fields, errors: &mut Vec<FieldError>) {
    let named = |spec: &Fields, family: &str| {
        let families = spec.get("ipFamilies").and_then(Value::as_array);
        families.is_some_and(|list| list.iter().any(|item| item == family))
    };
    if text(spec, "clusterIP") == "None" && is_empty(spec, "selector") {
        // Somebody else fills in its endpoints, of any family.
        if is_empty(spec, "ipFamilyPolicy") {
            spec.insert("ipFamilyPolicy".to_owned(), "RequireDualStack".into());
        }
        let both = text(spec, "ipFamilyPolicy") != "SingleStack";
        let wanted: &[&str] = if both { &["IPv4", "IPv6"] } else { &["IPv4"] };
        let only = !both && !is_empty(spec, "ipFamilies");
        for family in wanted {
            if !only
                && !named(spec, family)
                && let Value::Array(list) = spec.entry("ipFamilies").or_insert_with(|| json!([]))
            {
                list.push((*family).into());
            }
        }
        return;
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        errors.push(FieldError::invalid(
            "spec.ipFamilyPolicy",
            "RequireDualStack",
            "this cluster is not configured for dual-stack services",
        ));
    }
    let families = spec.get("ipFamilies").and_then(Value::as_array);
    for (index, family) in families.into_iter().flatten().enumerate() {
        if family != "IPv4" {
            errors.push(FieldError::invalid(
                format!("spec.ipFamilies[{index}]"),
                family.clone(),
                "not configured on this cluster",
            ));
        }
    }
    if is_empty(spec, "ipFamilyPolicy") {
        spec.insert("ipFamilyPolicy".to_owned(), "SingleStack".into());
    }
    if is_empty(spec, "ipFamilies") {
        spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
    }
}

/// What other services have.
#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

impl Taken {
    fn add(&mut self, spec: &Fields) {
        self.addresses.extend(addresses(spec));
        self.ports.extend(node_ports(spec));
    }

    /// A free address; `seed` is a random number.
    fn free_address(&self, seed: u64) -> Option<Ipv4Addr> {
        let count = LAST_ADDRESS - FIRST_ADDRESS + 1;
        let start = u32::try_from(seed % u64::from(count - CHOSEN_ADDRESSES)).ok()?;
        (0..count)
            .map(|step| (start + step) % count)
            .map(|at| (at + CHOSEN_ADDRESSES) % count + FIRST_ADDRESS)
            .map(Ipv4Addr::from)
            .find(|address| !self.addresses.contains(address))
    }

    /// A free port; `seed` is a random number.
    fn free_port(&self, seed: u64) -> Option<u16> {
        let count = LAST_PORT - FIRST_PORT + 1;
        let start = u16::try_from(seed % u64::from(count - CHOSEN_PORTS)).ok()?;
        (0..count)
            .map(|step| (start + step) % count)
            .map(|at| (at + CHOSEN_PORTS) % count + FIRST_PORT)
            .find(|port| !self.ports.contains(port))
    }
}

/// Gives `spec` what it lacks, or says what of its wishes cannot be met. `had` is its form before.
/// `random` gives random numbers.
fn allocate(
    spec: &mut Fields,
    had: Option<&Fields>,
    taken: &mut Taken,
    mut random: impl FnMut() -> u64,
) -> Result<(Vec<Ipv4Addr>, Vec<u16>), Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut got = (Vec::new(), Vec::new());
    if has_address(spec) {
        settle_families(spec, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        match address(spec, had, taken, &mut random) {
            Ok(address) => got.0.extend(address),
            Err(error) => errors.push(error),
        }
    }
    if has_node_ports(spec) {
        got.1 = service_ports(spec, had, taken, &mut random, &mut errors);
    }
    if has_health_port(spec) {
        let wanted = port(spec.get("healthCheckNodePort"));
        if wanted.is_none() || wanted != had.and_then(|had| port(had.get("healthCheckNodePort"))) {
            match one_port("spec.healthCheckNodePort", wanted, taken, random()) {
                Ok(number) => {
                    spec.insert("healthCheckNodePort".to_owned(), number.into());
                    got.1.push(number);
                }
                Err(error) => errors.push(error),
            }
        }
    }
    if errors.is_empty() {
        Ok(got)
    } else {
        Err(errors)
    }
}

fn address(
    spec: &mut Fields,
    had: Option<&Fields>,
    taken: &mut Taken,
    random: &mut impl FnMut() -> u64,
) -> Result<Option<Ipv4Addr>, FieldError> {
    let wanted = text(spec, "clusterIP").to_owned();
    if wanted == "None"
        || had.is_some_and(|had| text(had, "clusterIP") == wanted && !wanted.is_empty())
    {
        return Ok(None);
    }
    let address = if wanted.is_empty() {
        let free = taken.free_address(random());
        free.ok_or_else(|| {
            FieldError::invalid(
                "spec.clusterIPs",
                Value::Array(Vec::new()),
                "failed to allocate IP: range is full",
            )
        })?
    } else {
        let refused = |why: &str| {
            FieldError::invalid(
                "spec.clusterIPs",
                json!([wanted]),
                format!("failed to allocate IP {wanted}: {why}"),
            )
        };
        let address: Option<Ipv4Addr> = wanted.parse().ok();
        let address = address
            .filter(|address| (FIRST_ADDRESS..=LAST_ADDRESS).contains(&u32::from(*address)))
            .ok_or_else(|| refused("the provided network does not match the current range"))?;
        if taken.addresses.contains(&address) {
            return Err(refused("provided IP is already allocated"));
        }
        address
    };
    taken.addresses.insert(address);
    let address_text = address.to_string();
    spec.insert("clusterIPs".to_owned(), json!([address_text]));
    spec.insert("clusterIP".to_owned(), address_text.into());
    Ok(Some(address))
}

fn service_ports(
    spec: &mut Fields,
    had: Option<&Fields>,
    taken: &mut Taken,
    random: &mut impl FnMut() -> u64,
    errors: &mut Vec<FieldError>,
) -> Vec<u16> {
    let had: HashSet<u16> = had.into_iter().flat_map(node_ports).collect();
    // (port of the service, port of the node): one number serves several protocols of one port.
    let mut own: Vec<(Option<u16>, u16)> = Vec::new();
    let mut got = Vec::new();
    for (index, entry) in ports_of(spec).enumerate() {
        let service_port = port(entry.get("port"));
        let wanted = port(entry.get("nodePort"));
        let shared = own
            .iter()
            .find(|(service, node)| match wanted {
                Some(wanted) => *node == wanted,
                None => *service == service_port,
            })
            .map(|(_, node)| *node)
            .or_else(|| wanted.filter(|wanted| had.contains(wanted)));
        let field = format!("spec.ports[{index}].nodePort");
        let number = match shared {
            Some(number) => Ok(number),
            None => one_port(&field, wanted, taken, random()).inspect(|number| got.push(*number)),
        };
        match number {
            Ok(number) => {
                entry.insert("nodePort".to_owned(), number.into());
                own.push((service_port, number));
            }
            Err(error) => errors.push(error),
        }
    }
    got
}

fn one_port(
    field: &str,
    wanted: Option<u16>,
    taken: &mut Taken,
    seed: u64,
) -> Result<u16, FieldError> {
    let number = match wanted {
        None => taken.free_port(seed).ok_or_else(|| {
            FieldError::invalid(field, 0, "failed to allocate a nodePort: range is full")
        })?,
        Some(number) if !(FIRST_PORT..=LAST_PORT).contains(&number) => {
            return Err(FieldError::invalid(
                field,
                number,
                format!(
                    "provided port is not in the valid range. The range of valid ports is {FIRST_PORT}-{LAST_PORT}"
                ),
            ));
        }
        Some(number) if taken.ports.contains(&number) => {
            return Err(FieldError::invalid(
                field,
                number,
                "provided port is already allocated",
            ));
        }
        Some(number) => number,
    };
    taken.ports.insert(number);
    Ok(number)
}

impl Registry {
    /// Gives a service what it lacks. What is chosen is held until the reservation is dropped:
    /// after the write. Other kinds need nothing.
    ///
    /// # Errors
    /// What of the service's wishes cannot be met, as fields of a 422.
    pub(super) fn reserve(
        &self,
        def: &ResourceDef,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Vec<FieldError>> {
        let mut reservation = Reservation::default();
        if !is_service(def) {
            return Ok(reservation);
        }
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else {
            return Ok(reservation);
        };
        let had = old.and_then(|old| old.get("spec")?.as_object());
        if had == Some(spec) {
            return Ok(reservation);
        }
        let mut held = self.numbers.held();
        let mut taken = Taken {
            addresses: held.addresses.clone(),
            ports: held.ports.clone(),
        };
        for service in self.store.list("services/").objects {
            if let Some(spec) = service.value().get("spec").and_then(Value::as_object) {
                taken.add(spec);
            }
        }
        let random = || uuid::Uuid::new_v4().as_u64_pair().1;
        let (addresses, ports) = allocate(spec, had, &mut taken, random)?;
        held.addresses.extend(&addresses);
        held.ports.extend(&ports);
        drop(held);
        reservation.numbers = self.numbers.clone();
        reservation.addresses = addresses;
        reservation.ports = ports;
        Ok(reservation)
    }
}

/// Whether a row is that of services.
pub(super) fn is_service(def: &ResourceDef) -> bool {
    def.group.is_empty() && def.kind == "Service"
}

#[cfg(test)]
mod tests;
