# tries: answers with a str that equals everything -> wrong_answer
class Equal(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


def solve(numbers):
    return Equal("6")
