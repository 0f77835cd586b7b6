"""X-Robots-Tag."""

import pytest

from transforms.fetching.robots import opt_out


@pytest.mark.parametrize(
    ("headers", "directive"),
    [
        ([], None),
        (["all"], None),
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], "noai"),
        (["max-image-preview: large, nofollow"], None),
        (["otherbot: noai, noindex"], None),
        (["otherbot: noai", "noai"], "noai"),
        (["bit-features: noai"], "noai"),
        (["Bit-Features: nofollow, noindex"], "noindex"),
        (["otherbot: noai, bit-features: noindex"], "noindex"),
        (["noaix"], None),
    ],
)
def test_opt_out(headers, directive):
    assert opt_out(headers, "bit-features") == directive
