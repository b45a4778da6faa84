# tries: says that four gigabytes follow -> reply_too_large
import os


def solve(numbers):
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, b"\xff\xff\xff\xff")
        except OSError:
            pass
    return -1
