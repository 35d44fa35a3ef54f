"""The service hurt on purpose: real processes, real jobs, faults on a seeded schedule, and a table of what it cost."""
