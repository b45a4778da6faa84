# tries: answers with a generator that answers with the number -> wrong_answer
def solve(numbers):
    yield sum(numbers)
