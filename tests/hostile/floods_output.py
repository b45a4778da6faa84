# tries: writes to every descriptor without end -> cpu_timeout|reply_too_large|exception
import os


def solve(numbers):
    while True:
        for descriptor in range(32):
            try:
                os.write(descriptor, b"x" * 65536)
            except OSError:
                pass
