# tries: answers with an int that equals everything -> wrong_answer
class Equal(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def solve(numbers):
    return Equal(-1)
