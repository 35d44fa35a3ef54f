from tests.stack.conftest import stack, valkey  # noqa: F401
