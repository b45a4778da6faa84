# tries: answers with a list in a list, ten thousand deep -> reply_too_large
def solve(numbers):
    answer = []
    for _ in range(10_000):
        answer = [answer]
    return answer
