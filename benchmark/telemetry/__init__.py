"""Telemetry of a run: sampling, time integrals, telemetry.csv."""
