"""The benchmark harness: parameters, launching, timing, log, telemetry and record.

It imports `common` and `datasets`, never torch.
"""
