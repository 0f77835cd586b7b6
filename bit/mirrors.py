"""Where the official weights are: three public places, what each has, and every form in which people write their names.

| weights | Google's bucket | Kaggle | Hugging Face |
|---|---|---|---|
| BiT-M R50x1, R50x3, R101x1, R101x3, R152x4, each with the head of ImageNet-21k or fine-tuned on ILSVRC-2012 | yes | yes | yes |
| BiT-M R152x2, the same two | yes | no | yes |
| BiT-S R50x1, R50x3, R101x1, R101x3, R152x4, with the head of ILSVRC-2012 | yes | yes | no |
| BiT-S R152x2; BiT-M fine-tuned on the tasks of VTAB-1k | yes | no | no |

Kaggle has each network once without a head and once per head; the other two have it once, with its head.
Sources: google-research/big_transfer README; Kaggle `google/bit`, which holds what was on TF-Hub; timm `resnetv2.py`.
Standard library only.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote

BUCKET = "https://storage.googleapis.com/bit_models"
KAGGLE = "https://www.kaggle.com"
HUGGING_FACE = "https://huggingface.co"
# Another address for each, such as a mirror inside a company.
ENDPOINTS = {BUCKET: "BIT_BUCKET_ENDPOINT", KAGGLE: "BIT_KAGGLE_ENDPOINT", HUGGING_FACE: "HF_ENDPOINT"}

_ON_KAGGLE = ("r50x1", "r50x3", "r101x1", "r101x3", "r152x4")
CHECKPOINT = re.compile(
    r"BiT-(?P<scope>[MS])-(?P<arch>R\d+x\d)(?:(?P<ilsvrc>-ILSVRC2012)|-run[012]-(?P<vtab>[\w-]+))?\.npz"
)


@dataclass(frozen=True)
class Mirror:
    """One place that has the weights of a model."""

    place: str  # as messages name it
    name: str  # of the weights there
    url: str  # official; `address` is where it is asked for
    module: str = ""  # TF-Hub's handle of a SavedModel, which comes as an archive; '' for one file

    @property
    def address(self) -> str:
        """`url` at the endpoint that the environment names, if it names one."""
        for base, variable in ENDPOINTS.items():
            if self.url.startswith(f"{base}/") and (endpoint := os.environ.get(variable)):
                return endpoint.rstrip("/") + self.url.removeprefix(base)
        return self.url


def mirrors(uri: str, head: bool) -> tuple[Mirror, ...]:
    """The places that have the official checkpoint at `uri` in the bucket, in the order in which they are asked.

    Without `head`, one that has it without its head is enough. () if `uri` is no official checkpoint.
    """
    file = uri.removeprefix(f"{BUCKET}/")
    match = CHECKPOINT.fullmatch(file.removeprefix("vtab/"))
    if file == uri or not match:
        return ()
    out = [Mirror("Google's bucket", f"gs://bit_models/{file}", uri)]
    scope, architecture, tuned = match["scope"].lower(), match["arch"].lower(), bool(match["ilsvrc"])
    if match["vtab"]:
        return tuple(out)
    if architecture in _ON_KAGGLE:
        task = "ilsvrc2012" if tuned or scope == "s" else "imagenet21k"
        suffix = f"/{task}_classification" if head or tuned else ""
        module = f"https://tfhub.dev/google/bit/{scope}-{architecture}{suffix}/1"
        variation = f"{scope}-{architecture}{suffix}".replace("/", "-").replace("_", "-")
        handle = f"google/bit/tensorFlow2/{variation}/1"
        out.append(Mirror("Kaggle", handle, kaggle_url(handle), module))
    if scope == "m":
        name = _timm_name(architecture, tuned)
        url = f"{HUGGING_FACE}/{name}/resolve/main/model.safetensors"
        out.append(Mirror("Hugging Face", name, url))
    return tuple(out)


def _timm_name(architecture: str, tuned: bool) -> str:
    return f"timm/resnetv2_{architecture[1:]}_bit.goog_in21k{'_ft_in1k' if tuned else ''}"


def timm_names() -> list[str]:
    """What timm calls the members of the family on Hugging Face."""
    return [_timm_name(name, tuned) for name in (*_ON_KAGGLE, "r152x2") for tuned in (False, True)]


def kaggle_url(handle: str) -> str:
    """Where Kaggle serves the archive of a public model, OWNER/MODEL/FRAMEWORK/VARIATION/VERSION, without a login."""
    return f"{KAGGLE}/api/v1/models/{handle}/download"


_SCHEME = r"(?:https?://)?"
_WEB = rf"{_SCHEME}(?:www\.)?"
_STORAGE = rf"{_SCHEME}storage\.(?:googleapis|cloud\.google)\.com"


def _bucket(name: str) -> str:
    """The forms of a bucket's address."""
    return rf"(?:gs://{name}|{_STORAGE}/{name}|{_SCHEME}{name}\.storage\.googleapis\.com)"


_MEMBER = r"(?P<scope>[ms])-(?P<arch>r\d+x\d)"
_TASK = r"(?P<task>imagenet21k|ilsvrc2012)"
_HANDLE = rf"{_MEMBER}(?:/{_TASK}_classification)?"
_SHORT = rf"{_HANDLE}(?:/1)?"
_VARIATION = rf"{_MEMBER}(?:-{_TASK}-classification)?"
_TIMM = r"(?:timm/)?resnetv2_(?P<timm>\d+x\d)_bit\.goog_in21k(?P<tuned>_ft_in1k)?"
_TIMM_FILE = r"(?:model\.safetensors|pytorch_model\.bin)"  # of the same weights
_HUB = r"(?:huggingface\.co|hf\.co)"
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"(?:kaggle://)?(?:google/)?bit/{_SHORT}",
        rf"{_WEB}tfhub\.dev/google/bit/{_SHORT}",
        rf"{_bucket('tfhub-modules')}/google/bit/{_HANDLE}(?:/1(?:\.tar\.gz)?)?",
        rf"(?:kaggle://)?google/bit/tensorflow2/{_VARIATION}(?:/1)?",
        rf"{_WEB}kaggle\.com/models/google/bit/(?:frameworks/)?tensorflow2/(?:variations/)?{_VARIATION}(?:/(?:versions/)?1)?",
        rf"{_WEB}kaggle\.com/api/v1/models/google/bit/tensorflow2/{_VARIATION}/1/download",
        rf"(?:hf://|hf-hub:)?{_TIMM}(?:@main)?(?:/{_TIMM_FILE})?",
        rf"{_WEB}{_HUB}/{_TIMM}(?:/(?:tree|blob|resolve)/main(?:/{_TIMM_FILE})?)?",
    )
)
_IN_BUCKET = re.compile(rf"{_bucket('bit_models')}/(.+)")
_KAGGLE_MODEL = re.compile(
    rf"(?:kaggle://|{_WEB}kaggle\.com/models/)([\w-]+/[\w-]+)/(?:frameworks/)?([\w-]+)/(?:variations/)?([\w.-]+)/"
    r"(?:versions/)?(\d+)",
    re.IGNORECASE,
)
# All of these places but files of Hugging Face, archives of Kaggle, and further checkpoints in the bucket: the rest are pages, or
# of another format.
_RESERVED = re.compile(
    "|".join(
        (
            rf"(?:{_WEB}tfhub\.dev/|{_bucket('tfhub-modules')}/|kaggle://)?google/bit/.*",
            rf"{_WEB}kaggle\.com/(?!api/v1/models/(?!google/bit/).+/download$).*",
            r"(?:kaggle|hf|hf-hub):.*",
            rf"{_WEB}{_HUB}/(?!.+/resolve/.+\.(?:npz|safetensors|tar|tar\.gz|tgz)$).*",
            r"(?:timm/)?resnetv2_[^/]*(?<!\.npz)(?<!\.safetensors)",
            rf"{_bucket('bit_models')}(?:/(?!.*\.npz$).*)?",
        )
    ),
    re.IGNORECASE,
)


def official(name: str) -> tuple[str, str, str] | None:
    """(scope, architecture, task) of the network that TF-Hub, Kaggle or timm call `name`; None if they call none so.

    `scope` is 'm' or 's'; `task` is 'imagenet21k' or 'ilsvrc2012' if the name asks for a head, else ''.
    """
    for form in _FORMS:
        if match := form.fullmatch(_bare(name)):
            parts = match.groupdict()
            if timm := parts.get("timm"):
                return "m", f"r{timm}", "ilsvrc2012" if parts["tuned"] else ""
            return parts["scope"].lower(), parts["arch"].lower(), (parts["task"] or "").lower()
    return None


def in_bucket(name: str) -> str:
    """The URL of the official checkpoint in Google's bucket that a URL or `gs://` path means; '' if it means none."""
    match = _IN_BUCKET.fullmatch(_bare(name))
    return f"{BUCKET}/{match[1]}" if match and CHECKPOINT.fullmatch(match[1].removeprefix("vtab/")) else ""


def checkpoint_url(scope: str, architecture: str, task: str) -> str:
    """The URL in Google's bucket of the network that `official` has found."""
    suffix = "-ILSVRC2012" if scope == "m" and task == "ilsvrc2012" else ""
    return f"{BUCKET}/BiT-{scope.upper()}-{architecture.upper().replace('X', 'x')}{suffix}.npz"


def bucket_url(address: str) -> str:
    """The URL in Google's bucket of the checkpoint that an address with '://' means; '' for other texts."""
    if "://" not in address:
        return ""
    return in_bucket(address) or ((found := official(address)) and checkpoint_url(*found)) or ""


def on_kaggle(name: str) -> str:
    """The download URL of any other model by its `kaggle://` handle or the address of its page; '' for other names."""
    match = _KAGGLE_MODEL.fullmatch(_bare(name))
    if not match or match[1].lower() == "google/bit":
        return ""
    owner, framework, variation, version = match.groups()
    return kaggle_url(f"{owner}/{framework[0].lower()}{framework[1:]}/{variation}/{version}")


def is_reserved(name: str) -> bool:
    """Whether `name` has the form of a name of these places, so that it can mean nothing else than a model there."""
    return bool(_RESERVED.fullmatch(_bare(name)))


def file_of_page(name: str) -> str:
    """The address of the file that a page of Hugging Face shows; '' for other names."""
    match = re.fullmatch(rf"({_WEB}{_HUB}/.+)/blob/(.+)", _bare(name))
    address = f"{match[1]}/resolve/{match[2]}" if match else ""
    return "" if is_reserved(address) else address


def _bare(name: str) -> str:
    """Without query, fragment, trailing slash and escapes."""
    return unquote(re.split(r"[?#]", name, maxsplit=1)[0]).rstrip("/")
