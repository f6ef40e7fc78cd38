"""Our programs and the reference, each against the other."""

import pytest

pytest.register_assert_rewrite("interop.matrix", "interop.sides")
