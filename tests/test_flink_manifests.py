"""The Kubernetes manifests for Flink: against the operator's own definition, Kubernetes' schemas, and the job's flags."""

import zipfile

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from pipeline import options
from tests import engines, helpers

DEPLOY = helpers.REPO / "deploy" / "flink"
OPERATOR = "1.10.0"
KUBERNETES = "1.34"


def manifest(name):
    return yaml.safe_load((DEPLOY / name).read_text())


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


def test_the_session_cluster_fits_the_operator(deployment_schema):
    cluster = manifest("session-cluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("flink.apache.org/v1beta1", "FlinkDeployment")
    errors = list(Draft202012Validator(deployment_schema).iter_errors(cluster))
    assert not errors, errors
    cluster["spec"]["taskManager"]["podTemplates"] = {}
    cluster["spec"]["flinkVersion"] = "v0_9"
    assert len(list(Draft202012Validator(deployment_schema).iter_errors(cluster))) == 2


def test_the_submission_fits_kubernetes():
    kubernetes_validate.validate(manifest("submission.yaml"), KUBERNETES, strict=True)
    wrong = manifest("submission.yaml")
    wrong["spec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


def test_the_pods_of_the_cluster_fit_kubernetes():
    template = manifest("session-cluster.yaml")["spec"]["taskManager"]["podTemplate"]
    flink, workers = template["spec"]["containers"]
    assert flink == {"name": "flink-main-container"}  # which the operator completes
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "workers"},
        "spec": {"containers": [workers]},
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_submission_and_the_cluster_agree():
    cluster, job = manifest("session-cluster.yaml"), manifest("submission.yaml")
    (submission,) = job["spec"]["template"]["spec"]["containers"]
    _, workers = cluster["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    flags = dict(flag.partition("=")[::2] for flag in submission["args"])
    config, _ = options.parse(submission["args"])
    assert config.model.precision == "bfloat16"
    assert flags["--flink_master"] == f"{cluster['metadata']['name']}-rest:8081"
    assert flags["--environment_config"] == f"localhost:{workers['ports'][0]['containerPort']}"
    assert cluster["spec"]["flinkVersion"] == f"v{flags['--flink_version'].replace('.', '_')}"
    assert cluster["spec"]["image"] == f"flink:{flags['--flink_version']}"
    slots = int(cluster["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert (slots, workers["resources"]["limits"]["nvidia.com/gpu"]) == (1, "1")
    assert int(flags["--parallelism"]) == slots * cluster["spec"]["taskManager"]["replicas"]
    assert job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == submission["name"]
    assert submission["image"] == workers["image"]
