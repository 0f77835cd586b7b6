"""The Kubernetes manifests for Flink, as the overlays make them: against the operator's own definition, Kubernetes' schemas,
the job's flags, the image, and what docs/running.md says of them.
"""

import os
import re
import subprocess
import zipfile
from xml.etree import ElementTree

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from pipeline import options
from tests import engines, helpers

FOLDER = helpers.REPO / "deploy" / "flink"
OPERATOR = "1.10.0"
KUBERNETES = "1.34"
OVERLAYS = ("gke", "eks")
PAGE = (helpers.REPO / "docs" / "running.md").read_text()


def strict(schema):
    """The schema with every object closed where it lists its fields, as the API server prunes what it does not know."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: strict(part) for name, part in schema.items()}
    open_ended = "additionalProperties" in out or out.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(out.get("properties"), dict) and out.get("type") == "object" and not open_ended:
        out["additionalProperties"] = False
    return out


@pytest.fixture(scope="module")
def deployment_schema():
    """The schema of FlinkDeployment, from the operator's published artifact."""
    artifact = f"org.apache.flink:flink-kubernetes-operator-api:{OPERATOR}"
    jar = engines.maven_jar(artifact)
    with zipfile.ZipFile(jar) as archive:
        definition = yaml.safe_load(archive.read("META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"))
    (version,) = definition["spec"]["versions"]
    assert version["name"] == "v1beta1"
    schema = strict(version["schema"]["openAPIV3Schema"])
    # The operator's definition leaves these three to Kubernetes itself.
    schema["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    return schema


class Built:
    """What `kubectl apply -k` sends, by kind."""

    def __init__(self, folder):
        command = [engines.kustomize(), "build", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        documents = list(yaml.safe_load_all(done.stdout))
        self.kinds = {document["kind"]: document for document in documents}
        assert len(self.kinds) == len(documents)
        self.cluster, self.job = self.kinds["FlinkDeployment"], self.kinds["Job"]
        self.settings = self.cluster["spec"]["flinkConfiguration"]
        self.pod = self.cluster["spec"]["taskManager"]["podTemplate"]["spec"]
        self.flink, self.workers = self.pod["containers"]
        (self.submission,) = self.job["spec"]["template"]["spec"]["containers"]
        self.flags = dict(flag.partition("=")[::2] for flag in self.submission["args"])


@pytest.fixture(scope="module", params=[*OVERLAYS, "gke with a volume", "eks with a volume"])
def built(request, tmp_path_factory):
    name, _, volume = request.param.partition(" ")
    folder = FOLDER / "kubernetes" / name
    if volume:
        resources = os.path.relpath(folder, start := tmp_path_factory.mktemp("overlay").resolve())
        text = f"resources: [{resources}]\ncomponents: [{os.path.dirname(resources)}/volume]\n"
        (start / "kustomization.yaml").write_text(text)
        folder = start
    return Built(folder)


@pytest.fixture(scope="module")
def gke():
    return Built(FOLDER / "kubernetes" / "gke")


def test_the_session_cluster_fits_the_operator(built, deployment_schema):
    cluster = built.cluster
    assert cluster["apiVersion"] == "flink.apache.org/v1beta1"
    errors = list(Draft202012Validator(deployment_schema).iter_errors(cluster))
    assert not errors, errors


def test_what_does_not_fit_the_operator_is_noticed(gke, deployment_schema):
    spec = gke.cluster["spec"]
    spec = {**spec, "flinkVersion": "v0_9", "taskManager": {**spec["taskManager"], "podTemplates": {}}}
    assert len(list(Draft202012Validator(deployment_schema).iter_errors({**gke.cluster, "spec": spec}))) == 2


def test_the_rest_fits_kubernetes(built):
    for kind, document in built.kinds.items():
        if kind != "FlinkDeployment":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    wrong = {**built.job, "spec": {**built.job["spec"], "backoffLimits": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_pods_of_the_cluster_fit_kubernetes(built):
    assert built.flink == {"name": "flink-main-container"}  # which the operator completes
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "workers"},
        "spec": {**built.pod, "containers": [built.workers]},
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_submission_and_the_cluster_agree(built):
    config, _ = options.parse(built.submission["args"])
    assert config.model.precision == "bfloat16"
    assert built.flags["--flink_master"] == f"{built.cluster['metadata']['name']}-rest:8081"
    assert built.flags["--environment_config"] == f"localhost:{built.workers['ports'][0]['containerPort']}"
    assert built.cluster["spec"]["flinkVersion"] == f"v{built.flags['--flink_version'].replace('.', '_')}"
    assert built.cluster["spec"]["image"] == f"flink:{built.flags['--flink_version']}-java17"
    slots = int(built.settings["taskmanager.numberOfTaskSlots"])
    assert (slots, built.workers["resources"]["limits"]["nvidia.com/gpu"]) == (1, "1")
    assert built.flags["--parallelism"] == built.settings["slotmanager.number-of-slots.max"]
    rule = built.job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (rule["containerName"], rule["values"]) == (built.submission["name"], [2, 3])
    assert built.submission["image"] == built.workers["image"]
    assert built.workers["image"].endswith("/bit-features:TAG")


def test_the_jar_is_that_of_the_image_and_its_flink_that_of_the_cluster(gke):
    dockerfile = (helpers.REPO / "deploy" / "Dockerfile").read_text()
    assert (
        f"COPY --from=flink /build/target/flink-job-server-1.jar {gke.flags['--flink_job_server_jar']}\n"
        in dockerfile
    )
    assert "COPY deploy/flink/job-server.xml /build/pom.xml\n" in dockerfile
    pom = ElementTree.parse(FOLDER / "job-server.xml")
    at = {"m": "http://maven.apache.org/POM/4.0.0"}
    versions = {
        dependency.findtext("m:artifactId", namespaces=at): dependency.findtext("m:version", namespaces=at)
        for dependency in pom.iterfind(".//m:dependency", at)
    }
    runner = f"beam-runners-flink-{gke.flags['--flink_version']}"
    web = versions["flink-runtime-web"]
    assert web.rpartition(".")[0] == gke.flags["--flink_version"]
    for version in (
        web,
        f"runner {versions[runner]}",
        f"service {versions['beam-runners-java-job-service']}",
    ):
        assert version in PAGE
    assert pom.findtext("m:artifactId", namespaces=at) == "flink-job-server"


def test_the_boot_program_starts_workers_as_the_user_of_the_image():
    dockerfile = (helpers.REPO / "deploy" / "Dockerfile").read_text()
    root, _, user = dockerfile.partition("\nUSER ")
    assert "\nENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1\n" in root
    assert user


def test_workers_get_gpus_and_nothing_else_does(built):
    assert len(built.pod["nodeSelector"]) == 1
    (toleration,) = built.pod["tolerations"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    spec = built.job["spec"]["template"]["spec"]
    assert not {"nodeSelector", "tolerations"} & spec.keys()
    assert "nvidia.com/gpu" not in str(built.submission)


def test_workers_and_submission_have_the_same_access_to_stores(built):
    spec = built.job["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == built.cluster["spec"]["serviceAccount"]
    assert built.submission["envFrom"] == built.workers["envFrom"]
    assert built.submission["volumeMounts"] == built.workers["volumeMounts"]
    assert spec["volumes"] == built.pod["volumes"]
    mounts = {mount["name"]: mount["mountPath"] for mount in built.workers["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in built.pod["volumes"]}
    secrets = [source["secretRef"] for source in built.workers["envFrom"]]
    secrets += [volume["secret"] for volume in built.pod["volumes"] if "secret" in volume]
    assert all(secret["optional"] for secret in secrets)
    for secret in secrets:
        name = secret.get("name") or secret["secretName"]
        assert f"kubectl create secret generic {name} " in PAGE
    assert f"GOOGLE_APPLICATION_CREDENTIALS={mounts['google-key']}/key.json" in PAGE
    assert "--from-file=key.json=" in PAGE
    if "PersistentVolumeClaim" in built.kinds:
        claim = built.kinds["PersistentVolumeClaim"]
        (volume,) = [volume for volume in built.pod["volumes"] if "persistentVolumeClaim" in volume]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        dockerfile = (helpers.REPO / "deploy" / "Dockerfile").read_text()
        for pod in (built.pod, spec):
            assert f"\nUSER {pod['securityContext']['fsGroup']}\n" in dockerfile


def test_failures_are_counted_as_on_the_local_cluster(gke):
    script = (FOLDER / "local_cluster.sh").read_text()
    local = dict(re.findall(r"^(restart-strategy\.[\w.-]+): (.+)$", script, re.MULTILINE))
    ours = {name: value for name, value in gke.settings.items() if name.startswith("restart-strategy.")}
    assert ours["restart-strategy.type"] == "failure-rate"
    delay = "restart-strategy.failure-rate.delay"
    assert ours.pop(delay)
    assert local.pop(delay)
    assert ours == local


def test_flink_may_look_into_the_packages_that_it_may_on_the_local_cluster(gke):
    script = [engines.LOCAL_CLUSTER, "packages"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert gke.settings["env.java.opts.all"].split() == done.stdout.split()
    assert len(done.stdout.split()) > 10


def test_an_overlay_holds_in_a_few_lines_all_that_a_user_replaces():
    for path in (FOLDER / "kubernetes" / "base").iterdir():
        assert not re.search(r"gs://|s3://|BUCKET|REGION|TAG", path.read_text())
    for name in OVERLAYS:
        assert len((FOLDER / "kubernetes" / name / "kustomization.yaml").read_text().splitlines()) < 20


def test_the_page_installs_what_the_manifests_need():
    assert f"flink-kubernetes-operator-{OPERATOR}/" in PAGE
    assert "helm install nvdp nvdp/nvidia-device-plugin" in PAGE
    assert "nodegroup --cluster=CLUSTER --name=l4 " in PAGE
    for name in OVERLAYS:
        selector = Built(FOLDER / "kubernetes" / name).pod["nodeSelector"]
        (value,) = selector.values()
        assert value in PAGE
    for path in re.findall(r"(?:kubectl (?:apply|delete) -k )(\S+)", PAGE):
        assert (helpers.REPO / path / "kustomization.yaml").is_file()
