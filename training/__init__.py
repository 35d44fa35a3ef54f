"""Making small models: train, and what comes after it. Needs the worker's packages; the service needs none of this."""
