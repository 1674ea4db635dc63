"""What the tests of the metrics share."""

import pytest
from scene import Scene


@pytest.fixture
def scene() -> Scene:
    """Metrics about nothing yet."""
    return Scene()
