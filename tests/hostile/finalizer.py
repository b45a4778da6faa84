# tries: hangs when its answer is thrown away -> wrong_answer|cpu_timeout
class Answer(int):
    def __del__(self):
        while True:
            pass


def solve(numbers):
    return Answer(-1)
