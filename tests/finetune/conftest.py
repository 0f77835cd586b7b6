import pytest

from tests import traced_graphs


@pytest.fixture(autouse=True, scope="package")
def traced_graphs_are_kept():
    with traced_graphs.kept():
        yield
