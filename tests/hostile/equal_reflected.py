# tries: answers with a list whose comparison raises nothing and says yes -> wrong_answer
class Equal(list):
    def __eq__(self, other):
        return True

    def __len__(self):
        return 0


def solve(numbers):
    return Equal([1, 2])
