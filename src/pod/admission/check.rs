//! Field by field: what is refused, what is warned about.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, Pod, PodSecurityContext, PodSpec, SecurityContext, Volume, VolumeMount,
};

use super::{Identity, Image, image};
use crate::pod::{
    Host, fields,
    mounts::{self, Layout},
    signal,
};

/// Limits that hold here.
const LIMITS: [&str; 5] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "nvidia.com/gpu",
    "amd.com/gpu",
];

/// Whether a container could change what the volume holds.
fn is_writable(volume: &Volume) -> bool {
    volume.empty_dir.is_some()
        || volume.host_path.is_some()
        || volume.persistent_volume_claim.is_some()
}

pub(super) struct Check<'a> {
    identity: Identity,
    /// Whether an engine gives every container the user that it asks for.
    pub(super) any_user: bool,
    pod: &'a Pod,
    /// How mounts are made where the pod says nothing of it.
    layout: Layout,
    pub(super) refused: Vec<String>,
    pub(super) warnings: Vec<String>,
}

fn given<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

impl<'a> Check<'a> {
    pub(super) fn new(host: &Host, pod: &'a Pod) -> Self {
        Self {
            identity: host.identity,
            any_user: false,
            pod,
            layout: host.layout,
            refused: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn refuse(&mut self, asked: bool, field: impl AsRef<str>) {
        if asked {
            self.refused
                .push(format!("{} is not supported by this node", field.as_ref()));
        }
    }

    fn warn(&mut self, asked: bool, field: impl Into<String>) {
        if asked {
            self.warnings.push(field.into());
        }
    }

    pub(super) fn spec(&mut self, spec: &PodSpec) {
        let PodSpec {
            // For the scheduler and admission.
            affinity: _,
            automount_service_account_token: _,
            node_name: _,
            node_selector: _,
            overhead: _,
            preemption_policy: _,
            priority: _,
            priority_class_name: _,
            scheduler_name: _,
            scheduling_gates: _,
            tolerations: _,
            topology_spread_constraints: _,
            service_account: _,
            service_account_name: _,
            image_pull_secrets: _,
            // What plain processes have anyway.
            host_ipc: _,
            host_network: _,
            host_pid: _,
            enable_service_links: _,
            // Handled elsewhere.
            active_deadline_seconds: _,
            readiness_gates: _,
            restart_policy: _,
            termination_grace_period_seconds: _,
            containers,
            init_containers,
            volumes,
            dns_config,
            dns_policy,
            // Each of them is looked at alone.
            ephemeral_containers: _,
            host_aliases,
            host_users,
            hostname,
            hostname_override,
            os,
            resource_claims,
            resources,
            runtime_class_name,
            security_context,
            set_hostname_as_fqdn,
            share_process_namespace,
            subdomain,
        } = spec;
        self.refuse(*host_users == Some(false), "spec.hostUsers=false");
        self.refuse(given(resource_claims), "spec.resourceClaims");
        let limits = resources.as_ref().and_then(|it| it.limits.as_ref());
        self.refuse(
            limits.is_some_and(|it| !it.is_empty()),
            "spec.resources.limits",
        );
        self.refuse(runtime_class_name.is_some(), "spec.runtimeClassName");
        let other_os = os.as_ref().is_some_and(|os| os.name != "linux");
        self.refuse(other_os, "spec.os.name other than \"linux\"");
        self.warn(dns_config.is_some(), "spec.dnsConfig");
        let policy = dns_policy.as_deref().unwrap_or("ClusterFirst");
        self.warn(policy == "None", "spec.dnsPolicy=None");
        self.warn(given(host_aliases), "spec.hostAliases");
        self.warn(hostname.is_some(), "spec.hostname");
        self.warn(hostname_override.is_some(), "spec.hostnameOverride");
        self.warn(
            *set_hostname_as_fqdn == Some(true),
            "spec.setHostnameAsFQDN",
        );
        self.warn(
            *share_process_namespace == Some(true),
            "spec.shareProcessNamespace",
        );
        self.warn(subdomain.is_some(), "spec.subdomain");
        if let Some(context) = security_context {
            self.pod_security(context);
        }
        for (index, volume) in volumes.iter().flatten().enumerate() {
            self.volume(volume, &format!("spec.volumes[{index}]"));
        }
        for (index, container) in init_containers.iter().flatten().enumerate() {
            self.container(container, &format!("spec.initContainers[{index}]"));
        }
        for (index, container) in containers.iter().enumerate() {
            self.container(container, &format!("spec.containers[{index}]"));
        }
    }

    fn pod_security(&mut self, context: &PodSecurityContext) {
        let PodSecurityContext {
            app_armor_profile,
            fs_group,
            fs_group_change_policy: _,
            run_as_group,
            run_as_non_root,
            run_as_user,
            se_linux_change_policy: _,
            se_linux_options,
            seccomp_profile,
            supplemental_groups,
            supplemental_groups_policy: _,
            sysctls,
            windows_options,
        } = context;
        let at = "spec.securityContext";
        self.runs_as(*run_as_user, *run_as_group, *run_as_non_root, at);
        self.refuse(given(sysctls), format!("{at}.sysctls"));
        self.refuse(windows_options.is_some(), format!("{at}.windowsOptions"));
        self.warn(app_armor_profile.is_some(), format!("{at}.appArmorProfile"));
        // An engine that gives any user gives any group.
        self.warn(
            fs_group.is_some() && !self.any_user,
            format!("{at}.fsGroup"),
        );
        self.warn(se_linux_options.is_some(), format!("{at}.seLinuxOptions"));
        let confined = seccomp_profile
            .as_ref()
            .is_some_and(|it| it.type_ != "Unconfined");
        self.warn(confined, format!("{at}.seccompProfile"));
        self.warn(
            given(supplemental_groups) && !self.any_user,
            format!("{at}.supplementalGroups"),
        );
    }

    /// Another user than ours is refused: whose files a process may touch is no detail.
    fn runs_as(&mut self, user: Option<i64>, group: Option<i64>, non_root: Option<bool>, at: &str) {
        // Whom an image names is known once it is there.
        if self.any_user {
            return;
        }
        let Identity { uid, gid } = self.identity;
        if let Some(user) = user.filter(|user| *user != i64::from(uid)) {
            self.refuse(
                true,
                format!("{at}.runAsUser={user} (processes run as {uid} here)"),
            );
        }
        if let Some(group) = group.filter(|group| *group != i64::from(gid)) {
            self.refuse(
                true,
                format!("{at}.runAsGroup={group} (processes run as {gid} here)"),
            );
        }
        let root = non_root == Some(true) && uid == 0;
        self.refuse(
            root,
            format!("{at}.runAsNonRoot=true (processes run as root here)"),
        );
    }

    pub(super) fn container(&mut self, container: &Container, at: &str) {
        let Container {
            // What runs is decided by `command`.
            args: _,
            command: _,
            image: _,
            image_pull_policy: _,
            name,
            // Informational: processes share the node's network.
            ports: _,
            restart_policy: _,
            resize_policy: _,
            env,
            env_from: _,
            lifecycle,
            // Looked at by `extras`.
            liveness_probe: _,
            readiness_probe: _,
            startup_probe: _,
            resources,
            restart_policy_rules,
            security_context,
            // For those who attach.
            stdin: _,
            stdin_once: _,
            termination_message_path,
            termination_message_policy: _,
            tty: _,
            volume_devices,
            volume_mounts,
            working_dir: _,
        } = container;
        let stop = lifecycle.as_ref().and_then(|it| it.stop_signal.as_deref());
        if let Some(stop) = stop.filter(|it| signal::number(it).is_none()) {
            self.refuse(true, format!("{at}.lifecycle.stopSignal={stop}"));
        }
        for rule in restart_policy_rules.iter().flatten() {
            let other = rule.action != "Restart" || rule.exit_codes.is_none();
            self.refuse(other, format!("{at}.restartPolicyRules: {}", rule.action));
        }
        self.refuse(given(volume_devices), format!("{at}.volumeDevices"));
        let in_image = matches!(image(container), Image::Reference);
        if let Some(path) = termination_message_path
            && let Err(problem) = mounts::relative(path)
        {
            self.refuse(true, format!("{at}.terminationMessagePath: {problem}:"));
        }
        for name in resources
            .iter()
            .flat_map(|it| it.limits.iter().flatten())
            .map(|it| it.0)
        {
            let known = LIMITS.contains(&name.as_str());
            self.refuse(!known, format!("{at}.resources.limits.{name}"));
        }
        let claims = resources.as_ref().is_some_and(|it| given(&it.claims));
        self.refuse(claims, format!("{at}.resources.claims"));
        if let Some(context) = security_context {
            self.security(context, in_image, &format!("{at}.securityContext"));
        }
        for (index, variable) in env.iter().flatten().enumerate() {
            self.variable(variable, &format!("{at}.env[{index}]"));
        }
        let annotations = self.pod.metadata.annotations.as_ref();
        let layout = match mounts::wanted(annotations, name, self.layout) {
            Ok(_) if in_image => Layout::Engine,
            Ok(layout) => layout,
            Err(problem) => {
                self.refused.push(problem);
                return;
            }
        };
        for (index, mount) in volume_mounts.iter().flatten().enumerate() {
            self.mount(mount, layout, &format!("{at}.volumeMounts[{index}]"));
        }
        let paths = volume_mounts
            .iter()
            .flatten()
            .map(|mount| mount.mount_path.as_str());
        // In a namespace a mount may lie in another.
        if let Err(conflict) = mounts::layout(paths)
            && !(layout.is_real() && matches!(conflict, mounts::MountError::Nested { .. }))
        {
            self.refused.push(format!("{at}.volumeMounts: {conflict}"));
        }
    }

    fn security(&mut self, context: &SecurityContext, in_image: bool, at: &str) {
        let SecurityContext {
            allow_privilege_escalation,
            app_armor_profile,
            capabilities,
            privileged,
            proc_mount,
            read_only_root_filesystem,
            run_as_group,
            run_as_non_root,
            run_as_user,
            se_linux_options,
            seccomp_profile,
            windows_options,
        } = context;
        self.runs_as(*run_as_user, *run_as_group, *run_as_non_root, at);
        self.refuse(*privileged == Some(true), format!("{at}.privileged"));
        self.refuse(windows_options.is_some(), format!("{at}.windowsOptions"));
        let added = capabilities.as_ref().is_some_and(|it| given(&it.add));
        self.refuse(added, format!("{at}.capabilities.add"));
        let unmasked = proc_mount.as_deref().is_some_and(|it| it != "Default");
        self.warn(unmasked, format!("{at}.procMount"));
        let no_escalation = *allow_privilege_escalation == Some(false);
        self.warn(
            no_escalation,
            format!("{at}.allowPrivilegeEscalation=false"),
        );
        self.warn(app_armor_profile.is_some(), format!("{at}.appArmorProfile"));
        let read_only = *read_only_root_filesystem == Some(true);
        // Engines that could write into an image are told; the images of the others are read-only.
        self.warn(
            read_only && !in_image,
            format!("{at}.readOnlyRootFilesystem"),
        );
        self.warn(se_linux_options.is_some(), format!("{at}.seLinuxOptions"));
        let confined = seccomp_profile
            .as_ref()
            .is_some_and(|it| it.type_ != "Unconfined");
        self.warn(confined, format!("{at}.seccompProfile"));
    }

    fn variable(&mut self, variable: &EnvVar, at: &str) {
        let Some(source) = &variable.value_from else {
            return;
        };
        self.refuse(
            source.file_key_ref.is_some(),
            format!("{at}.valueFrom.fileKeyRef"),
        );
        if let Some(field) = &source.field_ref
            && !fields::known(&field.field_path)
        {
            let path = &field.field_path;
            self.refuse(true, format!("{at}.valueFrom.fieldRef.fieldPath={path}"));
        }
    }

    fn mount(&mut self, mount: &VolumeMount, layout: Layout, at: &str) {
        let VolumeMount {
            mount_path,
            mount_propagation,
            name,
            read_only,
            recursive_read_only,
            // Found when the container starts.
            sub_path: _,
            sub_path_expr: _,
        } = mount;
        let propagation = mount_propagation.as_deref().unwrap_or("None");
        let recursive = recursive_read_only.as_deref().unwrap_or("Disabled");
        if let Err(problem) = mounts::target(mount_path, Path::new("/"), layout) {
            self.refused.push(format!("{at}.mountPath: {problem}"));
        }
        if layout.is_real() {
            let both = propagation == "Bidirectional";
            let any = layout == Layout::Engine && propagation != "None";
            self.refuse(both || any, format!("{at}.mountPropagation={propagation}"));
            self.refuse(
                layout == Layout::Engine && recursive == "Enabled",
                format!("{at}.recursiveReadOnly=Enabled (by the container engine)"),
            );
            return;
        }
        // Plain processes see what the host mounts and the host what they mount: no mode of
        // propagation asks for less than that.
        self.refuse(
            recursive == "Enabled",
            format!("{at}.recursiveReadOnly=Enabled (without a mount namespace)"),
        );
        // What is written into volumes of this node's making is replaced, and a kubelet mounts
        // them read-only whatever is said.
        let own = self.pod.spec.iter();
        let mut own = own.flat_map(|spec| spec.volumes.iter().flatten());
        let writable = own.any(|volume| volume.name == *name && is_writable(volume));
        self.warn(
            *read_only == Some(true) && writable,
            format!(
                "{at}.readOnly (the annotation {}=private makes it hold)",
                mounts::NAMESPACE_ANNOTATION
            ),
        );
        // The injected token directory is absolute in every pod: no news to anybody.
        let injected = mount_path == "/var/run/secrets/kubernetes.io/serviceaccount";
        let absolute = Path::new(mount_path).is_absolute() && !injected;
        self.warn(
            absolute,
            format!("{at}.mountPath={mount_path} (taken relative to the container's directory)"),
        );
    }

    fn volume(&mut self, volume: &Volume, at: &str) {
        let Volume {
            name: _,
            config_map: _,
            secret: _,
            downward_api,
            projected,
            empty_dir,
            aws_elastic_block_store,
            azure_disk,
            azure_file,
            cephfs,
            cinder,
            csi,
            ephemeral,
            fc,
            flex_volume,
            flocker,
            gce_persistent_disk,
            git_repo,
            glusterfs,
            host_path: _,
            image,
            iscsi,
            nfs,
            persistent_volume_claim: _,
            photon_persistent_disk,
            portworx_volume,
            quobyte,
            rbd,
            scale_io,
            storageos,
            vsphere_volume,
        } = volume;
        if let Some(empty) = empty_dir {
            let medium = empty.medium.as_deref().unwrap_or_default();
            let known = matches!(medium, "" | "Memory");
            self.refuse(!known, format!("{at}.emptyDir.medium={medium}"));
        }
        let mut items: Vec<_> = downward_api
            .iter()
            .flat_map(|it| it.items.iter().flatten())
            .collect();
        for source in projected.iter().flat_map(|it| it.sources.iter().flatten()) {
            let bundle = source.cluster_trust_bundle.is_some();
            self.refuse(bundle, format!("{at}.projected.clusterTrustBundle"));
            let certificate = source.pod_certificate.is_some();
            self.refuse(certificate, format!("{at}.projected.podCertificate"));
            items.extend(
                source
                    .downward_api
                    .iter()
                    .flat_map(|it| it.items.iter().flatten()),
            );
        }
        for item in items {
            if let Some(field) = &item.field_ref
                && !fields::known(&field.field_path)
            {
                self.refuse(
                    true,
                    format!("{at}: fieldRef.fieldPath={}", field.field_path),
                );
            }
        }
        let others = [
            ("awsElasticBlockStore", aws_elastic_block_store.is_some()),
            ("azureDisk", azure_disk.is_some()),
            ("azureFile", azure_file.is_some()),
            ("cephfs", cephfs.is_some()),
            ("cinder", cinder.is_some()),
            ("csi", csi.is_some()),
            ("ephemeral", ephemeral.is_some()),
            ("fc", fc.is_some()),
            ("flexVolume", flex_volume.is_some()),
            ("flocker", flocker.is_some()),
            ("gcePersistentDisk", gce_persistent_disk.is_some()),
            ("gitRepo", git_repo.is_some()),
            ("glusterfs", glusterfs.is_some()),
            ("image", image.is_some()),
            ("iscsi", iscsi.is_some()),
            ("nfs", nfs.is_some()),
            ("photonPersistentDisk", photon_persistent_disk.is_some()),
            ("portworxVolume", portworx_volume.is_some()),
            ("quobyte", quobyte.is_some()),
            ("rbd", rbd.is_some()),
            ("scaleIO", scale_io.is_some()),
            ("storageos", storageos.is_some()),
            ("vsphereVolume", vsphere_volume.is_some()),
        ];
        for (kind, asked) in others {
            self.refuse(asked, format!("{at}.{kind}"));
        }
    }
}
