"""StepTelemetry (report §6.4): timers and data statistics of every rank, always on, and one process that keeps them."""
