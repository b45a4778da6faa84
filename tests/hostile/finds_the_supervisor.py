# tries: finds the code that answers and makes it answer again -> wrong_answer|exception
import sys


def solve(numbers):
    frame = sys._getframe()
    while frame.f_back:
        frame = frame.f_back
        for value in list(frame.f_globals.values()):
            if getattr(value, "__name__", "") == "send_message":
                for descriptor in range(3, 8):
                    try:
                        value(descriptor, {"id": 1, "value": True})
                        value(descriptor, {"verdict": "passed"})
                    except OSError:
                        pass
    return -1
