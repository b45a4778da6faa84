"""The sandbox. Inside run supervisor, candidate, kernel, values: standard library and each other only."""
