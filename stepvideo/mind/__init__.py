"""StepMind (report §6.5): notices faulty nodes and stuck jobs, decides what to do about them, keeps the accounts."""
