"""The sandbox. Inside it run supervisor, candidate, kernel and values: standard library and each other only."""
