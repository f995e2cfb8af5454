"""What the machine does while a run goes on: sampling, time integrals, telemetry.csv."""
