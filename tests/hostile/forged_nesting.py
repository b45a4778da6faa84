# tries: writes a reply that is nested a hundred thousand deep -> exception|reply_too_large
import os


def solve(numbers):
    data = b"[" * 100_000
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, len(data).to_bytes(4, "big") + data)
        except OSError:
            pass
    return -1
