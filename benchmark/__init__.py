"""The rules and the clock: parameters, launch, log, telemetry and record. Imports `datasets`, never torch."""
