# tries: says before it is loaded that the sandbox failed -> exception|no_entry_point|wrong_answer
import json
import os
import struct


def forge(message):
    data = json.dumps(message).encode()
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, struct.pack(">I", len(data)) + data)
        except OSError:
            pass


class Load:
    forge({"sandbox_error": "a failure"})
    forge({"trouble": "a failure"})


def solve(numbers, load=Load):
    return -1
