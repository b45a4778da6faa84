# tries: makes JSON say what it likes -> exception|wrong_answer
import json


def solve(numbers):
    json.dumps = lambda *_, **__: '{"id": 1, "value": true}'
    return -1
