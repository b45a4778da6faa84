"""The sandbox. Inside run supervisor, candidate, kernel, seccomp, values: standard library and each other only."""
