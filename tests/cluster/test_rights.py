"""What security asks of the manifests: rights, secrets, network."""

import re

import pytest

from tests.cluster.kustomize import Manifest
from tests.cluster.manifests import (
    CLUSTER,
    KUBERAY,
    OVERLAYS,
    each_cluster,
    each_manifest,
    environment,
    find,
    pod_templates,
    rendered,
)


@each_manifest
def test_no_container_has_more_rights_than_it_needs(manifest):
    for template in pod_templates(manifest):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in manifest["spec"].get("volumeClaimTemplates", [])}
        assert not any("hostPath" in volume for volume in volumes.values())
        for container in pod["containers"]:
            check_rights(container["securityContext"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes) | claims
            assert "memory" in container["resources"]["limits"]
        if pod["containers"][0]["name"].startswith("ray-"):
            check_writable(pod["containers"][0])
    for context in (options["securityContext"] for options in find(manifest, "autoscalerOptions")):
        check_rights(context)
        assert context["runAsNonRoot"] is True


def check_rights(context: Manifest) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not context.get("privileged")


def check_writable(container: Manifest) -> None:
    """Ray, vLLM and the hub's client find a folder that can be written where they write."""
    mounts = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    env = environment(container)
    assert {"/tmp", env["HOME"], env["HF_HOME"]} <= mounts
    assert env["HF_HOME"] == "/models"


@each_cluster
def test_workers_have_no_token_of_kubernetes(spec):
    for group in spec["workerGroupSpecs"]:
        assert group["template"]["spec"]["automountServiceAccountToken"] is False
    elastic = spec.get("enableInTreeAutoscaling")  # the head's autoscaler starts pods
    assert elastic or spec["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is False


@each_manifest
def test_no_secret_is_written_down(manifest):
    assert manifest["kind"] != "Secret"
    assert "runtimeEnvYAML" not in manifest.get("spec", {})
    for entry in (entry for entries in find(manifest, "env") for entry in entries):
        assert not re.search("TOKEN|KEY|SECRET|PASSWORD", entry["name"]) or "value" not in entry
    guide = (CLUSTER / "README.md").read_text("utf-8")
    named = {s["name"] for key in ("secretRef", "secretKeyRef") for s in find(manifest, key)}
    named |= {volume["secretName"] for volume in find(manifest, "secret")}
    for secret in named:
        assert f"create secret generic {secret} " in guide, f"{secret} is not among the README's commands"


@each_manifest
def test_nothing_is_published_outside(manifest):
    assert manifest["kind"] not in ("Ingress", "Gateway", "HTTPRoute")
    assert set(find(manifest, "type")) & {"LoadBalancer", "NodePort"} == set()
    assert set(find(manifest, "serviceType")) <= {"ClusterIP"}
    assert not list(find(manifest, "externalIPs"))


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda folder: folder.name)
def test_the_network_denies_what_is_not_listed(folder):
    manifests = rendered(folder)
    policies = {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}
    assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", []):
            assert rule["from"], f"{name} lets everybody in"
            ports = {port["port"] for port in rule.get("ports", [])}
            for source in rule["from"]:
                assert "ipBlock" not in source
                if "namespaceSelector" in source:
                    assert ports, f"{name} opens all ports to another namespace"
                    assert 6379 not in ports
                    assert 8265 not in ports or "podSelector" in source, (
                        "only KubeRay's operator reaches the dashboard"
                    )
    assert {"cidr": "169.254.20.10/32"} in find(policies["dns"], "ipBlock"), "NodeLocal DNSCache"
    public = [block for block in find(policies["ray"], "ipBlock") if block["cidr"] == "0.0.0.0/0"]
    assert public, "models come from the internet"
    assert "169.254.0.0/16" in public[0]["except"]
    (namespace,) = [m for m in manifests if m["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {m["metadata"].get("namespace", "safe-r1") for m in manifests} == {"safe-r1"}


def test_onprem_asks_for_no_storage_class():
    manifests = rendered(KUBERAY / "overlays" / "onprem")
    assert set(find(manifests, "storageClassName")) == {""}
    assert not list(find(manifests, "volumeClaimTemplates"))
    (volume,) = [m for m in manifests if m["kind"] == "PersistentVolume"]
    (claim,) = [m for m in manifests if m["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]


@each_manifest
def test_claims_exist(manifest):
    base = {m["metadata"]["name"] for m in rendered(OVERLAYS[0]) if m["kind"] == "PersistentVolumeClaim"}
    assert {claim["claimName"] for claim in find(manifest, "persistentVolumeClaim")} <= base
