"""Fast paths of geomfast. The only place that knows which backends exist."""

from geomfast.kernels.backends import Backend, BackendError, backend_report, missing_reason

__all__ = ["Backend", "BackendError", "backend_report", "missing_reason"]
