# tries: answers with an object that equals everything -> unsupported_value
class Equal:
    def __eq__(self, other):
        return True


def solve(numbers):
    return Equal()
