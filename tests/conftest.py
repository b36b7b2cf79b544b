"""What tests of whole tasks share."""
import logging

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no reason to fail: what is tested is behaviour, never time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Tiny networks with weights, and the YAML files that use them (`tests.engines.tiny.Tiny`)."""
    from tests.engines.tiny import Tiny  # imports torch, which most tests that do not ask for this can do without

    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def own_logging():
    """Leave the root logger as it was, whatever a run attached to it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
