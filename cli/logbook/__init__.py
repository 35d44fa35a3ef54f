"""The logs of a data folder, of all parts and in every format that parts write, as one book in the order of time."""
